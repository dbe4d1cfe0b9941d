"""A person votes, blind, on pairs of answers of base and tuned, in the browser; each vote is on the disk
before the next pair is shown."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from refine_rl.errors import UserError, quoted
from refine_rl.evaluate.votes import Pair, Side, Tally, chosen, left_of, pairs_of, standing, tally
from refine_rl.report.loopback import Answer, server
from refine_rl.report.page import render
from refine_rl.report.review import review_page, told
from refine_rl.run import RunFolder
from refine_rl.types import Message

VOTES = 20
"""Pairs that a person is asked about, where nobody says another number."""
_VOTES = ("left", "right", "tie")
_LONGEST_NAME = 40  # characters of a reviewer's name
_JSON = "application/json; charset=utf-8"


def pairs_in(folder: RunFolder) -> list[Pair]:
    """The pairs of a run, in the order in which everybody is shown them. Raises UserError where it has
    none."""
    if folder.config.kind() == "sft":
        raise UserError(
            f"{folder.path} is a run of supervised fine-tuning: nothing of it was answered by two models. A "
            "GRPO run that begins with it has such answers."
        )
    base, tuned = folder.outcomes("base"), folder.outcomes("tuned")
    if base is None or tuned is None:
        raise UserError(
            f"{folder.path} has no answers of both models yet: they are there once it has ended. Go on with "
            f"it: {folder.resume}"
        )
    pairs = pairs_of(base, tuned, folder.settings().grpo.seed)
    if not pairs:
        raise UserError(f"In {folder.path} base and tuned say the same to every held-out prompt.")
    return pairs


def tally_of(folder: RunFolder, pairs: Sequence[Pair] | None = None) -> Tally:
    """What people have voted so far."""
    pairs = pairs_in(folder) if pairs is None else pairs
    return tally(standing(folder.votes(), pairs), pairs, folder.settings().grpo.seed)


class Review:
    """One reviewer's way through the first `votes` pairs of a run: what is next, and what was said. Several
    requests at a time are answered one after the other."""

    def __init__(self, folder: RunFolder, reviewer: str, votes: int = VOTES) -> None:
        self.folder, self.reviewer = folder, named(reviewer)
        self._every = pairs_in(folder)
        self.pairs = self._every[:votes]
        self._seed = folder.settings().grpo.seed
        self._lock = threading.Lock()
        self._written = 0  # votes of this process that the report does not have yet
        folder.votes.repair()

    # -- what is asked for --------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Where the reviewer stands: the next pair, without a word on whose answers they are; once there is
        none left, what came of it."""
        own = self._own()
        left = [pair for pair in self.pairs if pair.prompt.id not in own]
        done = len(self.pairs) - len(left)
        return {
            "run": self.folder.name,
            "task": self.folder.settings().task.strip(),
            "reviewer": self.reviewer,
            "done": done,
            "of": len(self.pairs),
            "undo": bool(own),
            "item": self._item(left[0], done + 1) if left else None,
            "result": None if left else self._result(),
        }

    def _own(self) -> dict[str, str]:
        return standing(self.folder.votes(), self.pairs).get(self.reviewer, {})

    def _item(self, pair: Pair, number: int) -> dict[str, Any]:
        left = left_of(pair, self.reviewer, self._seed)
        right: Side = "tuned" if left == "base" else "base"
        return {
            "number": number,
            "mark": pair.mark,
            "prompt": _shown(pair.prompt.messages),
            "left": _shown(pair.said(left)),
            "right": _shown(pair.said(right)),
        }

    def _result(self) -> dict[str, Any]:
        votes = standing(self.folder.votes(), self._every)
        own, every = votes.get(self.reviewer, {}), tally(votes, self._every, self._seed)
        mine = tally({self.reviewer: own}, self._every, self._seed)
        return {
            "lines": told(mine, own_alone=True),
            "others": told(every) if len(votes) > 1 else [],
            "pairs": [self._revealed(pair, own) for pair in self.pairs if pair.prompt.id in own],
            "commands": self._commands(),
        }

    def _revealed(self, pair: Pair, own: Mapping[str, str]) -> dict[str, Any]:
        left = left_of(pair, self.reviewer, self._seed)
        return {
            "prompt": pair.prompt.text,
            "chosen": own[pair.prompt.id],
            "judged": pair.judged,
            "left": left,
            "base": {"said": _shown(pair.said("base")), "reward": pair.base[1].value},
            "tuned": {"said": _shown(pair.said("tuned")), "reward": pair.tuned[1].value},
        }

    def _commands(self) -> list[str]:
        where = quoted(self.folder.path)
        more = len(self.pairs) < len(self._every)
        twice = min(2 * len(self.pairs), len(self._every))
        found = [f"refine review {where} --votes {twice}"] if more else []
        judged = bool(self.folder.settings().reward.judges)
        return [*found, *([f"refine review {where} --calibrate"] if judged else []), f"refine report {where}"]

    # -- what is sent -------------------------------------------------------------------------

    def vote(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Puts a vote on the pair that is shown on record; a vote on another one (sent twice, or from a page
        that is behind) changes nothing. Raises UserError for what is no vote."""
        said = body.get("vote")
        if said not in _VOTES:
            raise UserError(f"vote = {said!r}: a vote is one of {', '.join(_VOTES)}.")
        with self._lock:
            own = self._own()
            pair = next((p for p in self.pairs if p.prompt.id not in own), None)
            if pair is not None and body.get("mark") == pair.mark:
                self._write(pair, said)
            return self.state()

    def undo(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Takes the reviewer's newest vote back, so that its pair is asked about again."""
        with self._lock:
            own = self._own()
            marks = {pair.prompt.id: pair for pair in self.pairs}
            newest = [r for r in self.folder.votes() if r["reviewer"] == self.reviewer]
            for record in reversed(newest):
                name = record["prompt_id"]
                if name in own and record["vote"] != "undone" and own[name] == chosen(record):
                    self._write(marks[name], "undone")
                    break
            return self.state()

    def _write(self, pair: Pair, said: str) -> None:
        self.folder.votes.append(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "reviewer": self.reviewer,
                "prompt_id": pair.prompt.id,
                "kind": pair.kind,
                "member": pair.member,
                "mark": pair.mark,
                "left": left_of(pair, self.reviewer, self._seed),
                "vote": said,
            }
        )
        self._written += 1

    # -- its life -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def at(self, port: int) -> Iterator[str]:
        """Serves inside; gives the address, which nobody guesses. Afterwards a report that is there shows the
        votes. Raises UserError where no port can be had."""
        secret = secrets.token_urlsafe(16)
        page = Answer(body=review_page(self.folder.name).encode())
        nothing = Answer(body=b"", kind="image/x-icon")
        routes: dict[str, Callable[[], Answer]] = {
            f"/{secret}/": lambda: page,
            f"/{secret}/state": lambda: _answer(self.state),
            "/favicon.ico": lambda: nothing,
        }
        posts = {
            f"/{secret}/vote": lambda body: _posted(body, self.vote),
            f"/{secret}/undo": lambda body: _posted(body, self.undo),
        }
        serving = server(port, routes, posts)
        thread = threading.Thread(target=serving.serve_forever, args=(0.1,), name="review-pages", daemon=True)
        thread.start()
        try:
            host, served = serving.server_address[:2]
            yield f"http://{host!s}:{served}/{secret}/"
        finally:
            serving.shutdown()
            serving.server_close()
            if self._written and self.folder.report.is_file():
                self.folder.save_report(render(self.folder))

    @property
    def left(self) -> int:
        """Pairs that the reviewer has not voted on."""
        return len(self.pairs) - len(self._own())


def named(reviewer: str) -> str:
    """A reviewer's name as it stands on record. Raises UserError for none, or one that is no name."""
    name = " ".join(reviewer.split())
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UserError(f"--reviewer {reviewer!r}: a name has 1 to {_LONGEST_NAME} characters.")
    return name


def _shown(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _posted(body: bytes, take: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Answer:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return _answer(lambda: {"error": "that is no JSON object"}, status=400)
    return _answer(lambda: take(value))


def _answer(make: Callable[[], dict[str, Any]], status: int = 200) -> Answer:
    """What comes of a request as JSON; a mistake in words."""
    try:
        value = make()
    except (UserError, OSError) as error:
        value, status = {"error": str(error)}, 400 if isinstance(error, UserError) else 500
    answer = Answer(body=json.dumps(value, ensure_ascii=True).encode(), kind=_JSON)
    return replace(answer, status=status)
