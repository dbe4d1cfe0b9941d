"""What rows are like before anybody trains on them: columns, lengths, duplicates, what a limit would cut."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.errors import UserError
from refine_rl.prompts.columns import nearest_column
from refine_rl.prompts.curate import normalised
from refine_rl.prompts.json_rows import RowError
from refine_rl.prompts.near_duplicates import NearDuplicates

Count = Callable[[Sequence[str]], list[int]]

LIMITS = (64, 128, 256, 512, 1024, 2048, 4096)
"""Tokens; what each would cut is told."""
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_PROMPTS = ("prompt", "messages")
_ANSWERS = ("answer", "completion", "response", "output", "summary", "target", "label")
_NEAR = 0.85  # similarity of near-duplicates, as prompts.near_duplicate
_MOST_NEAR = 20_000  # rows that are compared with one another
_SHOWN = 5  # rows that cannot be read, by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Lengths at QUANTILES: least, of 5, 50 and 95 in a hundred, most; and their mean."""

    quantiles: tuple[int, ...]
    mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """`types`: the share of the rows with each kind of value; `missing` the share that has none, or null, or
    an empty text. Lengths are of its texts (of what is said, in a chat), None where it has none."""

    name: str
    types: Mapping[str, float]
    missing: float
    characters: Lengths | None
    tokens: Lengths | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """`prompt` and `answer` name the columns that were taken for these ("" where there is none; one and the
    same in chats that end with an answer). `over`: tokens -> the share of the rows whose prompt, and whose
    prompt and answer together, have more. `broken` are rows that could not be read, with the reason."""

    source: str
    rows: int
    broken: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    prompt: str
    answer: str
    empty_prompts: int
    empty_answers: int
    equal_rows: int
    equal_prompts: int
    near_prompts: int
    near_compared: int
    splits: Mapping[str, int]
    over: Mapping[int, tuple[float, float | None]]


def describe(
    source: str,
    rows: Sequence[tuple[str, object]],
    count: Count,
    *,
    max_tokens: int | None = None,
    prompt: str = "",
    answer: str = "",
) -> Description:
    """Describes rows as `read_rows` gives them; `count` counts the tokens of texts, `max_tokens` is one more
    limit to tell of, `prompt` and `answer` are the columns where they have names of their own.

    Raises UserError where one that is named is not there, or no row can be read.
    """
    good, broken = _parted(rows)
    if not good:
        name, why = broken[0]
        raise UserError(f"{source}:{name} {why} (so it is with all {len(broken)} rows)")
    names = list(dict.fromkeys(name for row in good for name in row))
    prompt = _named(prompt, names, _PROMPTS, source, "--prompt")
    answer = _named(answer, names, _ANSWERS, source, "--answer")
    asked, answered = _asked_and_answered(good, prompt, answer)
    if not answer and any(answered):
        answer = prompt  # a chat with its answer
    prompts = count(asked)
    answers = count(answered) if answer else None
    together = None if answers is None else list(map(sum, zip(prompts, answers, strict=True)))
    limits = sorted({*LIMITS, *([max_tokens] if max_tokens else [])})
    alike = [normalised(text) for text in asked]
    return Description(
        source=source,
        rows=len(rows),
        broken=broken,
        columns=tuple(_column(name, good, count) for name in names),
        prompt=prompt,
        answer=answer,
        empty_prompts=sum(not text.strip() for text in asked) if prompt else 0,
        empty_answers=sum(not text.strip() for text in answered) if answer else 0,
        equal_rows=len(good) - len({json.dumps(row, sort_keys=True, default=str) for row in good}),
        equal_prompts=len(alike) - len(set(alike)) if prompt else 0,
        near_prompts=_near(alike) if prompt else 0,
        near_compared=min(len(set(alike)), _MOST_NEAR) if prompt else 0,
        splits=dict(Counter(str(row["split"]) for row in good if row.get("split")).most_common()),
        over={
            limit: (_over(prompts, limit), None if together is None else _over(together, limit))
            for limit in limits
        }
        if prompt
        else {},
    )


def _parted(
    rows: Sequence[tuple[str, object]],
) -> tuple[list[dict[str, Any]], tuple[tuple[str, str], ...]]:
    """The rows that are objects, and the names of the others with what is wrong."""
    good: list[dict[str, Any]] = []
    broken: list[tuple[str, str]] = []
    for name, row in rows:
        if isinstance(row, dict):
            good.append(row)
        else:
            broken.append((name, str(row) if isinstance(row, RowError) else "is not an object"))
    return good, tuple(broken)


def _named(given: str, names: Sequence[str], usual: Sequence[str], source: str, flag: str) -> str:
    if not given:
        return next((name for name in usual if name in names), "")
    if given not in names:
        near = nearest_column(given, names)
        way_out = f"did you mean `{near}`?" if near else f"there are {', '.join(f'`{n}`' for n in names)}"
        raise UserError(f"{source}: it has no column `{given}` ({flag}); {way_out}")
    return given


def _asked_and_answered(
    rows: Sequence[Mapping[str, Any]], prompt: str, answer: str
) -> tuple[list[str], list[str]]:
    """The texts of prompts and answers; of a chat that ends with the assistant, its last message answers."""
    asked, answered = [], []
    for row in rows:
        value = row.get(prompt) if prompt else None
        last = text_of(row.get(answer)) if answer else ""
        if isinstance(value, list) and not answer and _speaks(value):
            value, last = value[:-1], text_of(value[-1:])
        asked.append(text_of(value))
        answered.append(last)
    return asked, answered


def _speaks(chat: list[Any]) -> bool:
    return bool(chat) and isinstance(chat[-1], Mapping) and chat[-1].get("role") == "assistant"


def text_of(value: object) -> str:
    """What is to be read of a value: a text itself, what is said in a chat, of anything else its JSON.

    >>> text_of([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]), text_of(3)
    ('Hi\\nHo', '3')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(m, Mapping) and "content" in m for m in value):
        return "\n".join(str(message["content"] or "") for message in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _column(name: str, rows: Sequence[Mapping[str, Any]], count: Count) -> Column:
    values = [row.get(name) for row in rows]
    kinds = Counter(kind for value in values if (kind := _kind(value)))
    missing = sum(value is None or value == "" for value in values)
    texts = [text_of(value) for value in values if isinstance(value, str | list) and value]
    return Column(
        name=name,
        types={kind: number / len(rows) for kind, number in kinds.most_common()},
        missing=missing / len(rows),
        characters=_lengths([len(text) for text in texts]) if texts else None,
        tokens=_lengths(count(texts)) if texts else None,
    )


def _kind(value: object) -> str:
    """The kind of a value in words; "" of none."""
    if value is None:
        return ""
    if isinstance(value, list):
        chat = value and all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in value)
        return "chat" if chat else "list"
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "true or false"),
        (int, "whole number"),
        (float, "number"),
        (str, "text"),
        (Mapping, "object"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def _lengths(values: Sequence[int]) -> Lengths:
    """
    >>> _lengths([5, 1, 3, 2, 4])
    Lengths(quantiles=(1, 1, 3, 5, 5), mean=3.0)
    """
    ordered = sorted(values)
    last = len(ordered) - 1
    return Lengths(
        quantiles=tuple(ordered[round(q * last)] for q in QUANTILES), mean=sum(ordered) / len(ordered)
    )


def _over(tokens: Sequence[int], limit: int) -> float:
    return sum(number > limit for number in tokens) / len(tokens)


def _near(texts: Sequence[str]) -> int:
    """How many texts nearly equal, but do not equal, an earlier one; of the first _MOST_NEAR."""
    different = list(dict.fromkeys(texts))[:_MOST_NEAR]
    finder = NearDuplicates(different, _NEAR)
    found = 0
    for number in range(len(different)):
        found += finder.find(number) is not None
        finder.add(number)
    return found
