"""What the writer is asked, and which of its replies can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refine_rl.errors import MachineError
from refine_rl.llm.client import CallFailed, Client, Request, Schema
from refine_rl.llm.schemas import listed, strict
from refine_rl.llm.structured import Unusable, ask
from refine_rl.llm.texts import fill, load_text
from refine_rl.prompts.board import Batch, Board
from refine_rl.prompts.candidates import RowError, candidate
from refine_rl.prompts.curate import Dropped, excerpt
from refine_rl.prompts.facets import FORM, Facets, read_facets
from refine_rl.prompts.objections import has_gap, is_refusal, objection
from refine_rl.settings import PromptSettings, WriterSettings
from refine_rl.types import Message

CHECKED = "the writer's own check calls it no input"

_EXISTING_SHOWN = 20  # prompts that a batch is shown, so that it does not repeat them
_EXISTING_LENGTH = 200  # characters of each
_SYSTEM_TEMPERATURE = 0.3
_SYSTEM_LONGEST = 2000  # characters
_SYSTEM_EXAMPLES = 5
_TEXTS = Path(__file__).parent / "texts"


_INTEGER, _TEXT = {"type": "integer"}, {"type": "string"}
_PROMPTS = listed("prompts", {"combination": _INTEGER, "prompt": _TEXT})
_MISTAKES = Schema(name="mistakes", schema=strict({"mistakes": {"type": "array", "items": _INTEGER}}))
_SYSTEM = Schema(name="system", schema=strict({"system": _TEXT}))


class Writer:
    """The LLM, and what it is asked."""

    def __init__(
        self, client: Client, *, task: str, prompts: PromptSettings, writer: WriterSettings, seed: int
    ) -> None:
        self._client = client
        self._task = task.strip()
        self._prompts = prompts
        self._writer = writer
        self._seed = seed
        self._told = bool(prompts.system) or writer.system

    def _request(self, text: str, about: str, schema: Schema, temperature: float) -> Request:
        return Request(
            messages=(Message(role="user", content=text),),
            purpose="writer",
            about=about,
            variation=f"{self._seed}/{about}",
            temperature=temperature,
            max_tokens=self._writer.max_tokens,
            schema=schema,
        )

    async def facets(self) -> Facets:
        """Those of the settings, else the writer's."""
        if self._prompts.facets:
            return self._prompts.facets
        text = fill(load_text(_TEXTS, "facets.md"), {"task": self._task})
        request = self._request(text, "facets", FORM, self._writer.temperature)
        try:
            return await ask(self._client, request, read_facets)
        except CallFailed as error:
            raise MachineError(
                f"The writer named no facets of the task: {error}\nName them in `prompts.facets`, or take "
                "another `writer.model`."
            ) from error

    async def batch(self, slots: tuple[int, ...], board: Board, about: str) -> Batch:
        """Prompts for some slots, without those that are none; a call that fails leaves all slots open."""
        combinations = [board.facets_of(slot) for slot in slots]
        existing = _excerpts(board.examples(slots, _EXISTING_SHOWN, "batch", about))
        text = fill(
            load_text(_TEXTS, "write.md"),
            {
                "task": self._task,
                "system": self._what_the_model_is_told(),
                "combinations": "\n".join(
                    f"{n}. {'; '.join(f'{name}: {value}' for name, value in c.items())}"
                    for n, c in enumerate(combinations, 1)
                ),
                "existing": _section("These exist already; write nothing like them:", existing),
                "mistakes": _section("Earlier ones were refused for these reasons:", board.mistakes()),
                "first": 1,
            },
        )
        last: list[Sifted] = []

        def read(value: Any) -> Sifted:
            last[:] = [sift(value, combinations, self._task, told=self._told)]
            if not last[0].texts:
                raise Unusable(last[0].complaint())
            return last[0]

        w = self._writer
        try:
            request = self._request(text, about, _PROMPTS, w.temperature)
            sifted = await ask(self._client, request, read)
        except CallFailed as error:
            rejected, received = (last[0].rejected, last[0].read) if last else ((), 0)
            return Batch(texts={}, rejected=rejected, read=received, failed=str(error))
        mistakes = await self._check(sifted.texts, about) if w.check else set()
        wrong = sorted(mistakes or ())
        checked = Dropped(origin=f"batch {about}", kind="rejected", why=CHECKED)
        return Batch(
            texts={slots[n]: text for n, text in sorted(sifted.texts.items()) if n not in wrong},
            read=sifted.read,
            rejected=(*sifted.rejected, *(replace(checked, text=sifted.texts[n]) for n in wrong)),
            checked=mistakes is not None,
        )

    async def _check(self, texts: Mapping[int, str], about: str) -> set[int] | None:
        """Which of the texts the writer, when it is asked, calls answers; None where no reply can be had."""
        places = sorted(texts)
        inputs = "\n\n".join(
            f"<input {n}>\n{texts[place]}\n</input {n}>" for n, place in enumerate(places, 1)
        )
        text = fill(load_text(_TEXTS, "check.md"), {"task": self._task, "inputs": inputs})

        def read(value: Any) -> set[int]:
            numbers = value.get("mistakes") if isinstance(value, dict) else None
            if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
                raise Unusable('There is no list "mistakes" of whole numbers in the reply.')
            if wrong := sorted({n for n in numbers if not 1 <= n <= len(places)}):
                raise Unusable(f"There is no input {wrong[0]}; they are numbered 1 to {len(places)}.")
            return {places[n - 1] for n in numbers}

        request = self._request(text, f"{about} check", _MISTAKES, 0.0)
        try:
            return await ask(self._client, request, read)
        except CallFailed:
            return None

    async def system(self, board: Board) -> str:
        """The system message of the settings, else the writer's; "" where none is wanted."""
        if self._prompts.system or not self._writer.system:
            return self._prompts.system
        examples = _excerpts(board.examples((), _SYSTEM_EXAMPLES, "system"))
        values = {"task": self._task, "inputs": "\n".join(f"- {e}" for e in examples)}
        text = fill(load_text(_TEXTS, "system.md"), values)
        request = self._request(text, "system", _SYSTEM, _SYSTEM_TEMPERATURE)
        try:
            return await ask(self._client, request, read_system)
        except CallFailed as error:
            raise MachineError(
                f"The writer wrote no system message: {error}\nGive one in `prompts.system`, or do without: "
                "`writer.system = false`. What it wrote so far is in the cache."
            ) from error

    def _what_the_model_is_told(self) -> str:
        if self._prompts.system:
            return (
                "Before each input the model reads this system message, so inputs need not repeat it:\n"
                f"<system>\n{self._prompts.system}\n</system>"
            )
        if self._told:
            return "The model is told the task in a system message; inputs need not repeat it."
        return (
            "The model reads the input and nothing else, so each input says what is wanted, as users would."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sifted:
    """A reply's prompts by the place of their combination, and what was refused."""

    texts: Mapping[int, str]
    rejected: tuple[Dropped, ...]
    read: int

    def complaint(self) -> str:
        """What is wrong where nothing is left, to the model."""
        reasons = Counter(d.why for d in self.rejected)
        listed = "; ".join(f"{why} ({number}x)" for why, number in reasons.items())
        return f"None of the prompts can be used: {listed or 'there are none'}."


def sift(value: Any, combinations: Sequence[Mapping[str, str]], task: str, *, told: bool) -> Sifted:
    """The usable prompts of a reply, by place (from 0), the first for each combination.

    Raises Unusable where the reply has not the form that was asked for.
    """
    listed = value.get("prompts") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise Unusable('There is no list "prompts" in the reply.')
    texts: dict[int, str] = {}
    rejected: list[Dropped] = []
    for number, entry in enumerate(listed, 1):
        text = entry.get("prompt") if isinstance(entry, dict) else None
        place = entry.get("combination") if isinstance(entry, dict) else None
        if not isinstance(text, str) or type(place) is not int:
            raise Unusable(f'Entry {number} is not {{"combination": a whole number, "prompt": a text}}.')
        if not 1 <= place <= len(combinations):
            why: str | None = "it belongs to no combination"
        elif place - 1 in texts:
            why = "its combination has one already"
        else:
            combination = combinations[place - 1]
            why = objection(text, task, combination, told=told) or _unstorable(text)
        if why is None:
            texts[place - 1] = text.strip()
        else:
            rejected.append(Dropped(origin=f"entry {number}", kind="rejected", why=why, text=text.strip()))
    return Sifted(texts=texts, rejected=tuple(rejected), read=len(listed))


def read_system(value: Any) -> str:
    """The system message of a reply; raises Unusable with what is wrong with it."""
    text = value.get("system") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise Unusable('There is no text "system" in the reply.')
    text = text.strip()
    if len(text) >= _SYSTEM_LONGEST:
        raise Unusable(f"The system message has {len(text)} characters; it must be far shorter.")
    if has_gap(text):
        raise Unusable("The system message has a gap to fill in; it must be complete as it is.")
    if is_refusal(text) or _unstorable(text):
        raise Unusable("That is no system message.")
    return text


def _unstorable(text: str) -> str | None:
    try:
        candidate({"prompt": text}, "")
    except RowError:
        return "it has characters that cannot be stored"
    return None


def _excerpts(texts: Sequence[str]) -> list[str]:
    return [excerpt(text, _EXISTING_LENGTH) for text in texts]


def _section(heading: str, lines: Sequence[str]) -> str:
    return "\n".join(["", heading, *(f"- {line}" for line in lines), ""]) if lines else ""
