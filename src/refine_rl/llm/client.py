"""What a call to an LLM is: the records, the protocol of whoever answers, and how a call can fail.

Request -> Client.complete -> Reply                     (one call, retried inside where that helps)
                              raises CallFailed         this call cannot be had; others may
                              raises EndpointRefused    no call will be had: key, model, account
                              raises EndpointDown       the endpoint does not answer at all
                              raises GuardStop          the budget is spent
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from refine_rl.errors import MachineError
from refine_rl.types import Message

Form = Literal["schema", "json", "text"]
"""How a structured reply is asked for: by JSON schema, in JSON mode, or by words alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """The shape of a structured reply: a JSON schema and its name.

    >>> Schema(name="answer", schema={"type": "object"}).name
    'answer'
    """

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question to an LLM.

    `purpose` (judge, writer, rubric, quiz, anchor ...) and `about` (a prompt's id, for example) stand in
    the ledger. `variation` is part of the cache's key: two requests that are alike get the same reply
    from the cache only where their variations are equal too. `form` says how `schema` is asked for. `fault`
    says what is wrong with a reply, in words, or "" where it can be used: it decides the call's outcome.

    >>> Request(messages=({"role": "user", "content": "Hi."},), purpose="judge").temperature
    0.0
    """

    messages: tuple[Message, ...]
    purpose: str
    about: str = ""
    variation: str = ""
    temperature: float = 0.0
    max_tokens: int = 8192
    schema: Schema | None = None
    form: Form = "text"
    fault: Callable[[Reply], str] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back. `finish` is "length" where the reply was cut at `max_tokens`, "refusal" where the
    model or a filter declined. Numbers are None where the endpoint did not say; a reply from the cache
    cost nothing. `instead` says what came where the text is empty: a thought alone, a call of a tool.

    >>> Reply(text="Hi.").finish
    'stop'
    """

    text: str
    finish: Literal["stop", "length", "refusal"] = "stop"
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    seconds: float = 0.0
    cached: bool = False
    instead: str = ""


class Client(Protocol):
    """One model of one endpoint."""

    @property
    def model(self) -> str:
        """ "ENDPOINT/MODEL", as in the settings."""

    async def complete(self, request: Request) -> Reply:
        """The reply, after retries; raises as the module says."""


class Connections(Protocol):
    """Whoever knows the endpoints."""

    def client(self, model: str) -> Client:
        """The client of "ENDPOINT/MODEL"; one object a model. Raises SettingsError for an unknown
        endpoint, a name without a model, or a key that is not in the environment."""

    async def close(self) -> None:
        """Closes what is open; a client that is asked again opens it again."""


class CallFailed(Exception):  # noqa: N818 - the family's other members are errors of the whole endpoint
    """This call could not be had (after retries); the text says why. What asked for it decides what that
    means: a judge's scores become missing."""


class Unsupported(CallFailed):
    """The endpoint cannot give a reply of the form that was asked for; another form may do."""


class TooLong(CallFailed):
    """The request does not fit into the model's context."""


class EndpointRefused(MachineError):  # noqa: N818 - a state of the endpoint
    """The endpoint will answer no call of this kind: wrong key, unknown model, no money on the account.
    `keyless` is its name where it wants a key and none was sent."""

    def __init__(self, text: str, *, keyless: str = "") -> None:
        super().__init__(text)
        self.keyless = keyless


class EndpointDown(MachineError):  # noqa: N818 - a state of the endpoint
    """The endpoint does not answer, also after retries. `unreached` is its name where no answer of any kind
    came, so that its address may be the mistake."""

    def __init__(self, text: str, *, unreached: str = "") -> None:
        super().__init__(text)
        self.unreached = unreached


def changed_endpoint(error: MachineError) -> tuple[str, str, str] | None:
    """What may be wrong in an endpoint's settings, which a run does not read again from the task file: when
    so, the setting, and a word in the place of its new value. None where that is not known.

    >>> changed_endpoint(EndpointRefused("no", keyless="mine"))
    ('Where it needs a key, with the name of the variable that holds it', 'endpoints.mine.key_env', 'NAME')
    """
    if isinstance(error, EndpointDown) and re.fullmatch(r"[A-Za-z0-9_-]+", error.unreached):
        return "Where it is at another address", f"endpoints.{error.unreached}.base_url", "ADDRESS"
    if isinstance(error, EndpointRefused) and re.fullmatch(r"[A-Za-z0-9_-]+", error.keyless):
        when = "Where it needs a key, with the name of the variable that holds it"
        return when, f"endpoints.{error.keyless}.key_env", "NAME"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A line of the ledger: one attempt, or one reply from the cache. `id` is its number in the run.

    `outcome`: "ok", "unusable" (a reply came and could not be used), "cached", "cut" (by length), "refusal",
    "empty" (no choice or text in it), "busy" (429), "server error" (5xx), "timeout", "no connection",
    "unsupported" (form of the reply), "too long", "rejected" (another 4xx), "refused" (401, 402, 403, 404),
    "cancelled" and "killed" (given up, or the process ended, before an answer came). `cost_usd` is None where
    the price, or what was used, is unknown. `extra` has "error", what went wrong: also of a reply that was
    cut, a refusal or one from the cache, where that could not be used.
    """

    id: int = 0
    purpose: str
    endpoint: str
    model: str
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float | None
    seconds: float
    outcome: str
    about: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What was asked in a call of the ledger, and what was replied (None: no reply came); keys are masked.

    >>> call = Call(purpose="judge", endpoint="e", model="m", tokens_in=9, tokens_out=9, cost_usd=0.125,
    ...             seconds=1.0, outcome="ok")
    >>> Exchange(call=call, messages=({"role": "user", "content": "Hi."},), form="text", reply="Hello.").reply
    'Hello.'
    """

    call: Call
    messages: tuple[Message, ...]
    form: Form
    reply: str | None
