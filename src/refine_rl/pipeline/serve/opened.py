"""A run's tuned model, and the one before training, to be asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from refine_rl.errors import UserError, quoted
from refine_rl.pipeline.model import longest_text
from refine_rl.pipeline.serve.asked import Asked, Names
from refine_rl.pipeline.serve.front import Backend, Door, front
from refine_rl.pipeline.serve.own import Own, Sent
from refine_rl.pipeline.serve.vllm import Vllm, start_vllm, why_not_vllm
from refine_rl.pipeline.weights import Weights, open_model, system_of
from refine_rl.report.loopback import NAMES
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.revision import name_and_revision
from refine_rl.types import Message

TUNED, BASE = "tuned", "base"
KINDS = ("auto", "own", "vllm")
_LONGEST_EXAMPLE = 200  # characters of a prompt that is put into a command


class Closing(Backend, Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A model's greedy answer over HTTP that is not the one that stands in the run's files."""

    model: str
    prompt: str
    served: str
    recorded: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """A server that answers. `address` ends in /v1; `by` says who computes."""

    folder: RunFolder
    address: str
    names: Names
    by: str
    key_env: str
    example: str

    def curl(self) -> str:
        """A command that asks the tuned model."""
        body = {"model": TUNED, "messages": [{"role": "user", "content": self.example}], "temperature": 0}
        key = f' -H "Authorization: Bearer ${self.key_env}"' if self.key_env else ""
        said = quoted(json.dumps(body, ensure_ascii=False))
        return f"curl {self.address}/chat/completions{key} -H 'Content-Type: application/json' -d {said}"

    def python(self) -> str:
        """The same in Python."""
        key = f'os.environ["{self.key_env}"]' if self.key_env else '"none"'
        asked = json.dumps([{"role": "user", "content": self.example}], ensure_ascii=False)
        return (
            f"{'import os; ' if self.key_env else ''}from openai import OpenAI\n"
            f'client = OpenAI(base_url="{self.address}", api_key={key})\n'
            f'print(client.chat.completions.create(model="{TUNED}", temperature=0, messages={asked})'
            ".choices[0].message.content)"
        )

    def check(self, key: str = "") -> tuple[int, list[Difference]]:
        """How many models were asked a held-out prompt whose greedy answer is on record, and where they
        answer otherwise. Raises UserError where the server refuses."""
        asked = 0
        found = []
        for model, prompt, recorded in _recorded(self.folder):
            asked += 1
            served = _ask(self.address, key, model, prompt, self.folder.settings().rollout.max_tokens)
            if served != recorded:
                found.append(
                    Difference(model=model, prompt=prompt[-1]["content"], served=served, recorded=recorded)
                )
        return asked, found


def key_from(name: str | None, environ: Mapping[str, str]) -> str:
    """The key that requests must bring, from the variable `name`. Raises UserError where it has none."""
    if name is None:
        return ""
    if not (key := environ.get(name, "").strip()):
        raise UserError(
            f"--key-env {name}: this variable is not set, or empty. Set it, or leave the option out."
        )
    return key


def is_this_machine(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone.

    >>> [is_this_machine(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.168.1.7")]
    [True, True, True, False, False]
    """
    return host in NAMES or host == "::1" or host.startswith("127.")


def base_names(settings: Settings) -> tuple[str, ...]:
    """What a request may call the model before training: its own name as well, where it is that model, with
    the commit that the run holds and without."""
    named = settings.model.name
    own = (name_and_revision(named)[0], named) if _starts_at_its_base(settings) else ()
    return tuple(dict.fromkeys((BASE, *own)))


@contextlib.contextmanager
def serving(
    folder: RunFolder,
    weights: Weights,
    *,
    host: str,
    port: int,
    kind: str = "auto",
    key_env: str | None = None,
    system: str | None = None,
    note: Callable[[str], None] = lambda text: None,
    done: Callable[[str, int, int], None] | None = None,
) -> Iterator[Serving]:
    """Serves weights of a run inside. `system` goes before messages that have none (None: the run's own).
    `note` is told what takes its time, `done` of each request. Raises UserError where the run, the address or
    `kind` does not allow it."""
    settings = folder.settings()
    key = key_from(key_env, os.environ)
    names = Names(
        tuned=(TUNED,),
        base=base_names(settings),
        system=system_of(folder) if system is None else system,
        max_tokens=settings.rollout.max_tokens,
        tools=bool(settings.rollout.tools),
    )
    door = Door(loopback=is_this_machine(host), key=key)
    late = _Late()
    server = front(host, port, late, names, door, created=int(time.time()))  # a taken port is told at once
    address = f"http://{_reached(host)}:{server.server_address[1]}/v1"
    try:
        with contextlib.closing(_backend(folder, settings, weights, kind, note, done)) as backend:
            late.backend = backend
            thread = threading.Thread(
                target=server.serve_forever, args=(0.1,), name="serve-http", daemon=True
            )
            thread.start()
            try:
                yield Serving(
                    folder=folder,
                    address=address,
                    names=names,
                    by="vLLM" if isinstance(backend, Vllm) else "the run's own sampler",
                    key_env=key_env or "",
                    example=_example(folder),
                )
            finally:
                server.shutdown()
    finally:
        server.server_close()


class _Late:
    """The backend of a port that is bound before the model is loaded."""

    backend: Closing

    def chat(self, asked: Asked, still_there: Callable[[], bool]) -> Sent:
        return self.backend.chat(asked, still_there)


def _backend(
    folder: RunFolder,
    settings: Settings,
    weights: Weights,
    kind: str,
    note: Callable[[str], None],
    done: Callable[[str, int, int], None] | None,
) -> Closing:
    against = why_not_vllm(settings, wanted=kind == "vllm") if kind != "own" else ""
    if kind == "vllm" and against:
        raise UserError(f"--with vllm: {against} --with own serves it with the run's own sampler.")
    if kind != "own" and not against:
        return start_vllm(folder, settings, weights, note)
    note(f"Loading {settings.model.called} ...")
    settings, policy = open_model(folder, weights)
    longest = longest_text(settings.rollout, policy, folder.prompts()) if policy.moving else 0
    return Own(policy, longest=longest, done=done)


def _starts_at_its_base(settings: Settings) -> bool:
    """Whether the model before training is the one that [model] names, and no fine-tuned one."""
    return settings.sft is None and not settings.model.start


def _reached(host: str) -> str:
    """How a listening address is called from here."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{name}]" if ":" in name else name


def _example(folder: RunFolder) -> str:
    """A held-out prompt that is short enough for a command."""
    texts = [p.messages[-1]["content"] for p in folder.prompts() if p.split == "held_out"]
    return next((t for t in texts if len(t) <= _LONGEST_EXAMPLE and t.isprintable()), "Hello!")


def _recorded(folder: RunFolder) -> Iterator[tuple[str, tuple[Message, ...], str]]:
    """A model's name, a held-out prompt, and its greedy answer on record: of the tuned model and the one
    before."""
    if folder.config.kind() == "sft" or folder.settings().rollout.several_turns:
        return
    before = "base" if _starts_at_its_base(folder.settings()) else "sft"
    for model, which in ((TUNED, "tuned"), (BASE, before)):
        outcomes = folder.outcomes(which) or []
        if outcomes:
            greedy = outcomes[0].greedy[0]
            yield model, outcomes[0].prompt.messages, greedy.completion


def _ask(address: str, key: str, model: str, messages: tuple[Message, ...], max_tokens: int) -> str:
    """A model's greedy answer, over HTTP. Raises UserError where there is none."""
    body = {"model": model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
    request = urllib.request.Request(
        f"{address}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=600) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        raise UserError(f"The server does not answer {model!r}: {said}") from error


def greedy_on_record(folder: RunFolder, weights: Weights) -> bool:
    """Whether the run's files have greedy answers of these weights."""
    return weights.tuned and next(iter(_recorded(folder)), None) is not None


def has_world(folder: RunFolder) -> bool:
    """Whether the run was trained in a world of several turns, which a server does not play."""
    return folder.settings().rollout.several_turns
