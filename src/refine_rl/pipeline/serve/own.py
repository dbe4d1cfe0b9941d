"""The run's own policy as the server's model: the very tokens that the run would sample.

One thread computes, a request at a time, in the order of their coming; so the same request with the same seed
gets the same answer whatever else is asked.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from refine_rl.errors import RefineError
from refine_rl.pipeline.serve.asked import Asked, Refused
from refine_rl.pipeline.serve.replies import (
    Finish,
    Head,
    Token,
    Written,
    chunk,
    completion,
    event,
    last_chunk,
)
from refine_rl.policy.draw import Sampling
from refine_rl.policy.heard import Heard
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.policy.sample import speak
from refine_rl.types import Prompt

MOST_WAITING = 256
"""Requests that wait for their turn; more are sent away."""
_LOOK = 0.5  # seconds between two looks whether whoever asked is still there
_ENDED = "The server is being ended."
_BROKEN = "\ufffd"  # the end of a text whose last character is not whole yet


@dataclass(frozen=True, slots=True)
class Sent:
    """What goes back: the parts of one JSON object, or (`stream`) events as they come."""

    stream: bool
    parts: Iterator[bytes]
    status: int = 200


class _Gone(Exception):  # noqa: N818 - nobody waits any more
    pass


class _Enough(Exception):  # noqa: N818 - every answer has ended
    pass


@dataclass(kw_only=True)
class _Job:
    """A request, and what is told of it: its Head, pieces of answers, the answers, or why there are none."""

    asked: Asked
    told: queue.SimpleQueue[object] = field(default_factory=queue.SimpleQueue)
    gone: threading.Event = field(default_factory=threading.Event)


class Own:
    """Answers requests with a policy. `longest`: tokens of the longest text in its training. `done` hears of
    each request: the model's name, tokens read, tokens written."""

    def __init__(
        self, policy: Policy, *, longest: int, done: Callable[[str, int, int], None] | None = None
    ) -> None:
        self._policy, self._longest, self._done = policy, longest, done
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MOST_WAITING)
        self._now: _Job | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="serve-policy", daemon=True)
        self._thread.start()

    def chat(self, asked: Asked, still_there: Callable[[], bool]) -> Sent:
        """The reply; begun, so that what is refused is raised here. Raises Refused."""
        job = _Job(asked=asked)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Refused(429, f"{MOST_WAITING} requests are waiting already: ask again later.") from None
        parts = _parts(job, still_there, self._thread.is_alive)
        head = next(parts)
        assert isinstance(head, Head)
        return Sent(asked.stream, _events(asked, head, parts) if asked.stream else _whole(head, parts))

    def close(self) -> None:
        """Ends what is being answered; nothing is answered any more."""
        self._closing.set()
        if (now := self._now) is not None:
            now.gone.set()
        self._jobs.put(None)
        self._thread.join(10)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._now = job
            if self._closing.is_set():
                job.told.put(_Gone())
            elif not job.gone.is_set():
                job.told.put(self._answered(job))
            self._now = None

    def _answered(self, job: _Job) -> object:
        try:
            answers = self._answers(job)
        except (Refused, _Gone) as end:
            return end
        except RefineError as error:
            return Refused(400 if error.exit_code == 2 else 500, str(error))
        except Exception as error:
            if type(error).__name__ == "TemplateError":  # jinja2's: roles in an order that it refuses
                return Refused(400, f"The chat template refuses these messages: {error}", param="messages")
            traceback.print_exc(file=sys.stderr)
            return Refused(500, f"{type(error).__name__}: {error}")
        return answers

    def _answers(self, job: _Job) -> tuple[Written, ...]:
        asked = job.asked
        with self._policy.reference() if asked.base else contextlib.nullcontext(self._policy) as policy:
            ids = policy.encode(asked.messages)
            room = policy.answer_room(len(ids))
            if room < 1:
                raise Refused(
                    400,
                    f"These messages take {len(ids)} tokens, and the model reads {policy.context_length} in "
                    "all: there is no room for an answer.",
                    param="messages",
                    code="context_length_exceeded",
                )
            limit = min(asked.max_tokens, room)
            policy.hold_still(max(len(ids) + limit, self._longest))
            opening = policy.opening(asked.messages)
            members = [_Member(n, asked, limit, policy, opening, job.told.put) for n in range(asked.n)]
            job.told.put(_head(asked, len(ids)))
            _write(policy, ids, members, limit, job)
        if self._done is not None:
            self._done(asked.model, len(ids), sum(m.written.tokens for m in members))
        return tuple(m.written for m in members)


def _head(asked: Asked, read: int) -> Head:
    return Head(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=asked.model,
        prompt_tokens=read,
        logprobs=asked.logprobs,
    )


def _write(policy: Policy, ids: tuple[int, ...], members: Sequence[_Member], limit: int, job: _Job) -> None:
    asked = job.asked

    def hear(rows: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            members[row].hear(token, logprob)
        if all(m.ended for m in members):
            raise _Enough

    def pause() -> None:
        if job.gone.is_set():
            raise _Gone

    prompt = Prompt(id="request", split="held_out", messages=asked.messages)
    sampling = Sampling(max_tokens=limit, temperature=asked.temperature, top_p=asked.top_p, top_k=asked.top_k)
    purpose = Purpose(seed=asked.seed, step=0, name="serve")
    with contextlib.suppress(_Enough):
        group = begun(ids, prompt, len(members))
        for _ in speak(Heard(policy, hear), [group], sampling=sampling, purpose=purpose, pause=pause):
            pass


class _Member:
    """One answer while it is written. `say` hears of each piece of its text."""

    def __init__(
        self,
        number: int,
        asked: Asked,
        limit: int,
        policy: Policy,
        opening: str,
        say: Callable[[object], None],
    ) -> None:
        self._number, self._asked, self._limit = number, asked, limit
        self._policy, self._opening, self._say = policy, opening, say
        self._words: list[int] = []  # without the token that ends an answer
        self._told: list[Token] = []
        self._fresh: list[Token] = []  # those of `_told` that were not sent yet
        self._sent = ""
        self._held = max((len(s) - 1 for s in asked.stop), default=0)
        self.written = Written(text="", tokens=0, finish=None)

    @property
    def ended(self) -> bool:
        return self.written.finish is not None

    def hear(self, token: int, logprob: float) -> None:
        if self.ended:
            return
        count = self.written.tokens + 1
        stopped = token in self._policy.stop_ids
        if not stopped:
            self._words.append(token)
        if self._asked.logprobs:
            one = Token(text=self._policy.tokenizer.decode([token]), logprob=logprob)
            self._told.append(one)
            self._fresh.append(one)
        wanted = self._asked.stream or self._asked.stop or stopped or count == self._limit
        text = self._opening + self._policy.decode(self._words) if wanted else ""
        found = [place for stop in self._asked.stop if (place := text.find(stop)) >= 0]
        if found:
            text, stopped = text[: min(found)], True
        finish: Finish | None = "stop" if stopped else "length" if count == self._limit else None
        self.written = Written(
            text=text, tokens=count, finish=finish, told=tuple(self._told) if finish else ()
        )
        if self._asked.stream:
            self._tell(text)

    def _tell(self, text: str) -> None:
        """Sends what of the text will not change any more: all but what may be the beginning of a stop, and
        a character that is not whole."""
        if not self.ended:
            text = text[: len(text) - self._held]
            if text.endswith(_BROKEN) or not text.startswith(self._sent):
                return
        piece = text[len(self._sent) :]
        if piece or self.ended:
            self._sent = text
            told, self._fresh = tuple(self._fresh), []
            self._say(Piece(member=self._number, text=piece, finish=self.written.finish, told=told))


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A further part of an answer's text; the last one has how it ended."""

    member: int
    text: str
    finish: str | None
    told: tuple[Token, ...]


def _parts(job: _Job, still_there: Callable[[], bool], answering: Callable[[], bool]) -> Iterator[object]:
    """What is told of a request, as long as somebody waits for it and somebody answers. Raises Refused."""
    try:
        while True:
            try:
                told = job.told.get(timeout=_LOOK)
            except queue.Empty:
                if not answering():
                    raise Refused(503, _ENDED) from None
                if not still_there():
                    raise ConnectionAbortedError("whoever asked is gone") from None
                continue
            if isinstance(told, Refused):
                raise told
            if isinstance(told, _Gone):
                raise Refused(503, _ENDED)
            yield told
            if isinstance(told, tuple):
                return
    finally:
        job.gone.set()


def _whole(head: Head, parts: Iterator[object]) -> Iterator[bytes]:
    for told in parts:
        if isinstance(told, tuple):
            yield json.dumps(completion(head, told)).encode()


def _events(asked: Asked, head: Head, parts: Iterator[object]) -> Iterator[bytes]:
    for member in range(asked.n):
        yield event(chunk(head, member, {"role": "assistant", "content": ""}))
    try:
        for told in parts:
            if isinstance(told, Piece):
                if told.text or told.told:
                    yield event(chunk(head, told.member, {"content": told.text}, None, told.told))
                if told.finish:
                    yield event(chunk(head, told.member, {}, told.finish))
            elif isinstance(told, tuple) and asked.usage:
                yield event(last_chunk(head, told))
        yield event(None)
    except Refused as refused:  # the status is sent already
        yield event(refused.body())
