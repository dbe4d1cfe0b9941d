"""Tables: the files of lines that a run has, and what becomes of each."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from refine_rl.llm.client import Call
from refine_rl.run import shapes
from refine_rl.run.checkpoints import Checkpoints
from refine_rl.run.config import Config
from refine_rl.run.files import PUT_BACK, Record, as_bytes, replace, sha256
from refine_rl.run.shapes import Shape
from refine_rl.run.table import TAKE_OUT, Flaw, InOrder, Table
from refine_rl.settings.evaluate import RIVALS
from refine_rl.types import Prompt

R = TypeVar("R")


class UnderWay:
    """What a process that is killed would owe, told beforehand: a line when a call goes out, and one when it
    is in the ledger."""

    def __init__(self, table: Table[Record]) -> None:
        self.table = table

    def sent(self, ticket: int, killed: Call) -> None:
        """A call is about to be sent. Where the process is killed before `done`, `repair` makes `killed` a
        line of the ledger: the call may have to be paid for."""
        self.table.append({"ticket": ticket, "call": dataclasses.asdict(killed)})

    def done(self, ticket: int) -> None:
        """What came of the call is in the ledger."""
        self.table.append({"ticket": ticket, "done": True})

    def calls(self) -> list[Call]:
        """Those that did not come back."""
        calls: dict[int, Call] = {}
        for record in self.table.lines():
            if "call" in record:
                calls[record["ticket"]] = Call(**record["call"])
            else:
                calls.pop(record["ticket"], None)
        return list(calls.values())


class QuizShelf:
    """The quiz's questions: what was made of each source, by a key; the newest line of a key counts. Read
    once, so that it belongs to one writer. Going back in training keeps them: base and tuned get the same."""

    def __init__(self, table: Table[Record]) -> None:
        self.table = table

    def get(self, key: str) -> dict[str, Any] | None:
        return self._made.get(key)

    def put(self, key: str, made: dict[str, Any]) -> None:
        self._made[key] = made
        self.table.append({"key": key, "made": made})

    @cached_property
    def _made(self) -> dict[str, dict[str, Any]]:
        return {record["key"]: record["made"] for record in self.table.lines()}


class Tables(Checkpoints):
    """A run's tables. Lines of `_stepped` ones belong to a step, and going back in training forgets them; the
    others that grow keep each line: what was spent stays spent, and what was told, told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config = Config(path)
        self._prompts = Table(path / "prompts.jsonl", shapes.PROMPTS, grows=False)
        self.groups = self._of_steps("groups.jsonl", shapes.GROUPS, InOrder)
        self.metrics = self._of_steps("metrics.jsonl", shapes.METRICS, InOrder)
        self.validation = self._of_steps("validation.jsonl", shapes.VALIDATION)
        self.pool = self._of_steps("pool.jsonl", shapes.POOL)
        self.examples = Table(path / "examples.jsonl", shapes.EXAMPLES, grows=False)
        self.events = self._log("events.jsonl", shapes.EVENTS)
        self.times = self._log("times.jsonl", shapes.TIMES)
        self.calls = self._log("llm_calls.jsonl", shapes.CALLS)
        self.exchanges = self._log("llm_replies.jsonl", shapes.EXCHANGES)
        self.quiz = QuizShelf(Table(path / "quiz.jsonl", shapes.QUIZ))
        self.votes = self._log("votes.jsonl", shapes.VOTES, at_once=True)
        self.calibrations = self._log("calibrations.jsonl", shapes.CALIBRATIONS)
        self.under_way = UnderWay(self._log(".calls_under_way.jsonl", shapes.UNDER_WAY))
        self._stepped: tuple[Table[Any], ...] = (self.groups, self.metrics, self.validation, self.pool)
        self.tried: dict[str, Table[Record]] = {
            name: self._log(f"rivals/{name}.jsonl", shapes.TRIED) for name in RIVALS
        }
        logs = (self.events, self.calls, self.exchanges, self.quiz.table, self.times, self.under_way.table)
        people = (self.votes, self.calibrations)
        self._growing: tuple[Table[Any], ...] = (*self._stepped, *logs, *people, *self.tried.values())

    def answers(self, which: str) -> Table[Record]:
        """What a model did with prompts of the run: `which` is "base", "tuned", or of an eval."""
        path = self.path / f"evaluations/{which}.jsonl"
        made_again = which in ("base", "tuned", *RIVALS)

        def way_out(line: int | None) -> str:
            again = "Put it back as it was, or remove it: {} makes the same answers again."
            return again.format(self.resume) if made_again else PUT_BACK

        return Table(path, shapes.OUTCOMES, grows=False, way_out=way_out)

    def likelihoods(self, which: str) -> Table[Record]:
        """How likely a model found the references of the held-out prompts; `which` as above."""
        way_out = f"Put it back as it was, or start a new run: {which} is not measured twice."
        path = self.path / f"evaluations/{which}.references.jsonl"
        return Table(path, shapes.LOSSES, grows=False, way_out=lambda line: way_out)

    def _of_steps(self, file: str, shape: Shape[R], sequence: Callable[[], Flaw] | None = None) -> Table[R]:
        table = Table(
            self.path / file, shape, sequence=sequence, way_out=lambda line: self._train_again(table, line)
        )
        return table

    def _log(self, file: str, shape: Shape[R], *, at_once: bool = False) -> Table[R]:
        """No result of training depends on it."""
        return Table(self.path / file, shape, at_once=at_once, way_out=lambda line: TAKE_OUT)

    def _train_again(self, table: Table[R], line: int | None) -> str:
        """What to do about a damaged line of a step."""
        if line is None or self.answers("tuned").exists():
            return PUT_BACK
        last = table.step_before(line)
        if table is self.groups:
            last -= 1  # the line may have been one of that step's
        to = max((step for step in self.checkpoints() if step <= last), default=0)
        return f"Put it back as it was; or train again from before it: {self.config.resume(step=to)}"

    @property
    def resume(self) -> str:
        """The command (or the call) that goes on with the run."""
        return self.config.resume()

    def _replace(self, file: str, text: str) -> Path:
        replace(self._root / file, text)
        return self._root / file

    # -- what everybody reads and writes ------------------------------------------------------

    def prompts(self) -> list[Prompt]:
        """Raises UserError where they are not those that the run began with."""
        if not self._prompts.exists():
            if self.groups.exists() or self.answers("base").exists():
                raise self._prompts.error(" is gone.")
            return []
        prompts = list(self._prompts.read())
        written = self.config.source().get("prompts_sha256")
        if written is not None and written != self._prompts.sha256():
            raise self._prompts.error(" is not as the run wrote it: lines were changed, added or lost.")
        return prompts

    def save_prompts(self, prompts: Sequence[Prompt]) -> None:
        # First what the file will be: killed in between, the run has no prompts yet, and makes the same.
        text = self._prompts.text(prompts)
        self.config.note(prompts_sha256=sha256(as_bytes(text)))
        self._prompts.replace(prompts)

    def event(self, kind: str, name: str, text: str, step: int | None = None, **more: Any) -> None:
        """Something a person should read later: started, warning, guard, resumed, best ..."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.events.append({"time": now, "step": step, "kind": kind, "name": name, "text": text, **more})

    @contextlib.contextmanager
    def timed(self, stage: str, step: int | None = None) -> Iterator[None]:
        """Puts on record what a stage outside of the steps took, however it ends. What is done again after a
        stop takes its time again."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = round(time.perf_counter() - began, 4)
            self.times.append({"stage": stage, "step": step, "seconds": seconds})
