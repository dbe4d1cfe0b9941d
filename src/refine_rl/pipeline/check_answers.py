"""The answers that a reward is tried on: those of a file, or made up for a few prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from refine_rl.errors import UserError
from refine_rl.evaluate.compare import spread
from refine_rl.prompts.candidates import candidate
from refine_rl.prompts.curate import conversation, normalised
from refine_rl.prompts.json_rows import RowError, first_broken, read_json
from refine_rl.rewards.probes import bad_answers
from refine_rl.settings import Settings
from refine_rl.settings.file import read_text
from refine_rl.types import Message, Prompt

Worth = Literal["good", "bad", ""]
Said = str | tuple[str, ...] | tuple[Message, ...]
"""An answer; or the turns of one in a world; or all messages behind the prompt."""

_KEYS: Mapping[str, Worth] = {"answers": "", "completions": "", "good": "good", "bad": "bad"}
_FORM = '{"prompt": "...", "answers": ["...", "..."]}'


@dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """An answer to be scored, and what is known of its worth."""

    kind: str
    said: Said
    worth: Worth = ""

    @property
    def text(self) -> str:
        """All of it as one text.

        >>> Try(kind="answer 1", said=("left", "right")).text
        'left\\n\\nright'
        """
        if isinstance(self.said, str):
            return self.said
        return "\n\n".join(one if isinstance(one, str) else one["content"] for one in self.said)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A prompt with the answers that make one group."""

    prompt: Prompt
    tries: tuple[Try, ...]
    is_sanity: bool = False  # a pair of [[reward.sanity]]


# -- made up ----------------------------------------------------------------------------------------


def made_up(settings: Settings, prompts: Sequence[Prompt], count: int) -> list[Case]:
    """Bad answers, and the data's own reference where there is one, for `count` training prompts whose facets
    differ; and the pairs of [[reward.sanity]]."""
    train = [p for p in prompts if p.split == "train"]
    chosen = [train[i] for i in spread([p.facets for p in train], count)]
    references = [_reference(settings, p) for p in chosen]
    bad = bad_answers(judged=settings.reward.asks)
    cases = []
    for number, (prompt, reference) in enumerate(zip(chosen, references, strict=True)):
        tries = [Try(kind=kind, said=text(prompt), worth="bad") for kind, text in bad.items()]
        if reference is not None:
            tries.insert(0, Try(kind="reference", said=reference, worth="good"))
            other = references[(number + 1) % len(references)]
            if other is not None and normalised(other) != normalised(reference):
                tries.append(Try(kind="another's reference", said=other, worth="bad"))
        cases.append(Case(prompt=prompt, tries=tuple(tries)))
    return [*cases, *_sanity(settings)]


def _reference(settings: Settings, prompt: Prompt) -> str | None:
    """The answer that the prompt's data holds, in the form that its scorer wants."""
    found = prompt.data.get(settings.evaluate.reference)
    if not isinstance(found, str | int | float) or isinstance(found, bool) or not str(found).strip():
        return None
    return f"<answer>{found}</answer>" if settings.asks_for_tags else str(found)


def _sanity(settings: Settings) -> list[Case]:
    return [
        Case(
            prompt=Prompt(
                id=f"sanity {number}",
                split="train",
                messages=({"role": "user", "content": case.prompt},),
                data=case.data,
                origin=f"reward.sanity, case {number}",
            ),
            tries=(
                Try(kind="good", said=case.good, worth="good"),
                Try(kind="bad", said=case.bad, worth="bad"),
            ),
            is_sanity=True,
        )
        for number, case in enumerate(settings.reward.sanity, start=1)
    ]


# -- of a file --------------------------------------------------------------------------------------


def read_answers(path: Path, prompts: Sequence[Prompt], *, system: str = "") -> list[Case]:
    """The answers of a JSONL file, a line {"prompt", "answers"} a group: `prompt` is the id or the text of
    one of `prompts`, else a prompt of its own (or `messages` are), with its data in further keys. `good` and
    `bad` in place of `answers` say what they are worth. Raises UserError that names every broken line."""
    text = read_text(path, way_out=f"give a file with a line {_FORM} for each prompt")
    lines = [(f"{path}:{n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _cases(((where, lambda line=line: read_json(line)) for where, line in lines), prompts, system)


def given_answers(rows: Sequence[object], prompts: Sequence[Prompt], *, system: str = "") -> list[Case]:
    """The same, of rows that come from Python."""
    return _cases(((f"answers[{n}]", lambda row=row: row) for n, row in enumerate(rows)), prompts, system)


def _cases(rows: Iterable[tuple[str, Any]], prompts: Sequence[Prompt], system: str) -> list[Case]:
    known = {p.id: p for p in prompts}
    by_text = {conversation(p.messages): p for p in reversed(prompts)}
    cases: list[Case] = []
    broken: list[str] = []
    for where, row in rows:
        try:
            cases.append(_case(row(), where, known, by_text, system))
        except RowError as error:
            broken.append(f"{where}: {error}")
    if broken:
        raise UserError(first_broken(broken))
    if not cases:
        raise UserError(f"there are no answers in it; a line is {_FORM}")
    return cases


def _case(
    row: object, where: str, known: Mapping[str, Prompt], by_text: Mapping[str, Prompt], system: str
) -> Case:
    if not isinstance(row, Mapping):
        raise RowError(f"is not an object {_FORM}")
    tries: list[Try] = []
    for key, worth in _KEYS.items():
        if key in row:
            tries += _tries(row[key], key, worth, before=sum(t.worth == worth for t in tries))
    if not tries:
        raise RowError(f"has no `answers` (or `good` and `bad`): write {_FORM}")
    rest = {key: value for key, value in row.items() if key not in _KEYS}
    name = rest.get("prompt")
    if isinstance(name, str) and name in known and not rest.keys() - {"prompt", "id"}:
        return Case(prompt=known[name], tries=tuple(tries))
    found = candidate(rest, where)
    same = by_text.get(conversation(found.messages))
    if same is not None and not found.data:
        return Case(prompt=same, tries=tuple(tries))
    own = Prompt(
        id=found.id or where.rpartition("/")[2],
        split="train",
        messages=_with_system(found.messages, system),
        facets=found.facets,
        data=found.data,
        origin=where,
    )
    return Case(prompt=own if same is None else replace(same, data=found.data), tries=tuple(tries))


def _with_system(messages: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    if not system or messages[0]["role"] == "system":
        return messages
    return ({"role": "system", "content": system}, *messages)


def _tries(value: object, key: str, worth: Worth, *, before: int) -> list[Try]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not items:
        raise RowError(f"has `{key}` that are not a list of answers, or an empty one")
    return [
        Try(kind=f"{worth or 'answer'} {before + number}", said=_said(item, key), worth=worth)
        for number, item in enumerate(items, 1)
    ]


def _said(item: object, key: str) -> Said:
    if isinstance(item, str):
        return item
    if isinstance(item, Sequence) and item:
        if all(isinstance(one, str) for one in item):
            return tuple(item)
        if all(isinstance(one, Mapping) and _is_message(one) for one in item):
            return tuple(Message(role=one["role"], content=one["content"]) for one in item)
    raise RowError(
        f"has in `{key}` what is neither a text, nor a list of texts (the turns in a world), nor a list of "
        f"messages: {item!r:.60}"
    )


def _is_message(one: Mapping[Any, Any]) -> bool:
    return all(isinstance(one.get(key), str) for key in ("role", "content"))
