"""The ruler: one LLM compares all answers of a group in one request, and scores each beside the others.

Request and reply keep RULER's published form (OpenPipe's ART), so that judges which were tuned for it
work: the shared messages once as context, then each attempt between tags with its id, and a list of
{trajectory_id, explanation, score} as the reply. Here ids are opaque and the order is shuffled, scores are
matched by id as a complete set, and what an attempt says can close no tag.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from refine_rl.llm.client import CallFailed, Client, Schema
from refine_rl.llm.schemas import listed, strict
from refine_rl.llm.structured import Unusable
from refine_rl.llm.texts import fill, load_text
from refine_rl.randomness import generator
from refine_rl.rewards.judges.fence import fenced_json
from refine_rl.rewards.judges.judging import TEXTS, Judge, explanation_of
from refine_rl.rewards.judges.looks import Case, Verdict
from refine_rl.rewards.judges.rubric import Criterion, parse_criteria, plain_name, without_weights
from refine_rl.rewards.judges.scales import unit_scores
from refine_rl.rewards.judges.views import LETTERS, View, all_different, opaque

_ID_LENGTH = 6
_AROUND_IDS = " \t\r\n\"'`<>[](){}#"


@dataclass(frozen=True, kw_only=True)
class Ruler(Judge):
    """Relative judging of a whole case in one request.

    Order and ids follow from (seed, the answers, the number of the look): not from the order in which
    the answers come, and never from what ran before. With a rubric of weighted criteria (rubric.py) the
    judge scores each of them, and the value is their weighted mean. Where no usable reply can be had, all
    values are None.
    """

    relative = True
    text, key = "ruler.md", "score"
    goals = ("The goal of all of them:", "Their goal is what the context asks for.")

    async def look(self, client: Client, case: Case, *, look: int) -> Verdict:
        bodies = [fenced_json(answer) for answer in case.answers]
        ids, order = _draw(self.seed, fenced_json(case.context), bodies, look)
        criteria = parse_criteria(self.rubric)
        attempts = (f'<trajectory id="{ids[i]}">\n{bodies[i]}\n</trajectory>' for i in order)
        shown = "\n\n".join(("Trajectories:", *attempts))
        schema = _schema([ids[i] for i in order], criteria)
        read = partial(read_reply, ids=ids, criteria=criteria)
        try:
            return await self.ask(client, case, look, shown, read, schema, form=_form(criteria))
        except CallFailed as error:
            return Verdict.of([(None, str(error))] * len(ids))

    def view(self, look: int, context: str) -> View:
        """Another order and other ids make each look another: all see the rubric as it stands."""
        return View(rubric=without_weights(self.rubric))

    def variation(self, look: int) -> str:
        return f"look {look}"  # the seed is in the ids


def _form(criteria: Sequence[Criterion]) -> str:
    """The form of the reply, in words."""
    if not criteria:
        return load_text(TEXTS, "ruler_form.md")
    named = ", ".join(f'"{criterion.name}": A NUMBER FROM 0 TO 1' for criterion in criteria)
    return fill(load_text(TEXTS, "ruler_form_criteria.md"), {"criteria": named})


def _draw(seed: int, context: str, bodies: Sequence[str], look: int) -> tuple[list[str], list[int]]:
    """An opaque id for each answer, and the order in which they are shown: one that no earlier look had,
    until all orders have been seen."""
    sorted_places = sorted(range(len(bodies)), key=lambda place: bodies[place])
    digest = blake2b(digest_size=16)
    for text in (context, *(bodies[place] for place in sorted_places)):
        digest.update(len(text).to_bytes(8, "little") + text.encode())
    ids: dict[int, str] = {}
    order: tuple[int, ...] = ()
    taken: set[tuple[int, ...]] = set()
    for number in range(look + 1):
        draw = generator(seed, "ruler", digest.hexdigest(), number)
        ids = dict(zip(sorted_places, all_different(len(bodies), partial(_name, draw)), strict=True))
        order = _another_order(draw, len(bodies), taken)
    return [ids[place] for place in range(len(bodies))], [sorted_places[i] for i in order]


def _name(draw: np.random.Generator) -> str:
    """A name that says nothing, and begins with a letter."""
    return LETTERS[draw.integers(len(LETTERS))] + opaque(draw, _ID_LENGTH - 1)


def _another_order(draw: np.random.Generator, count: int, taken: set[tuple[int, ...]]) -> tuple[int, ...]:
    """An order of `count` places that is not in `taken`, and then is; once all are, they begin anew."""
    if len(taken) == math.factorial(count):
        taken.clear()
    while (order := tuple(int(i) for i in draw.permutation(count))) in taken:
        pass
    taken.add(order)
    return order


def _schema(ids: Sequence[str], criteria: Sequence[Criterion]) -> Schema:
    """The form of the reply: the explanation before the score."""
    properties: dict[str, Any] = {
        "trajectory_id": {"type": "string", "enum": list(ids)},
        "explanation": {"type": "string"},
    }
    if criteria:
        properties["criteria"] = strict({criterion.name: {"type": "number"} for criterion in criteria})
    else:
        properties["score"] = {"type": "number"}
    return listed("scores", properties)


def read_reply(reply: object, ids: Sequence[str], criteria: Sequence[Criterion] = ()) -> Verdict:
    """The verdict of a parsed reply, in the order of `ids`; raises Unusable with what is wrong.

    Entries are matched by id, as a complete set and in any order; a map of ids to scores is understood
    as well. Scores may be written as `scales.unit_scores` says.

    >>> read_reply({"scores": [{"trajectory_id": "b", "explanation": "so-so", "score": "40%"},
    ...                        {"trajectory_id": "a", "explanation": "good", "score": 0.9}]}, ["a", "b"])
    Verdict(values=(0.9, 0.4), reasons=('good', 'so-so'))
    """
    entries = _by_id(_entries(reply), ids)
    reasons = tuple(explanation_of(entries[i]) for i in ids)
    if not criteria:
        column = unit_scores([{i: _scored(entries[i], i) for i in ids}])[0]
        return Verdict(values=tuple(column[i] for i in ids), reasons=reasons)
    each = {i: _criteria_scores(entries[i], i, criteria) for i in ids}
    columns = unit_scores([{f"{i}, {c.name},": each[i][c.name] for i in ids} for c in criteria])
    rows = list(zip(*(column.values() for column in columns), strict=True))
    return Verdict(
        values=tuple(_weighted(row, criteria) for row in rows),
        reasons=tuple(
            f"{reason} {_shown(row, criteria)}".strip() for reason, row in zip(reasons, rows, strict=True)
        ),
    )


def _entries(reply: object) -> list[tuple[str, Mapping[str, Any]]]:
    """(id, entry) of every entry of the reply."""
    scores = reply.get("scores", reply) if isinstance(reply, Mapping) else reply
    if isinstance(scores, Mapping) and "trajectory_id" in scores:
        scores = [scores]
    if isinstance(scores, Mapping):
        return [
            (str(name), entry if isinstance(entry, Mapping) else {"score": entry})
            for name, entry in scores.items()
        ]
    if not isinstance(scores, list):
        raise Unusable('The reply must be an object with a list "scores".')
    if not all(isinstance(entry, Mapping) for entry in scores):
        raise Unusable(
            'Each entry of "scores" must be an object with "trajectory_id", "explanation", "score".'
        )
    return [(str(entry.get("trajectory_id", entry.get("id", ""))), entry) for entry in scores]


def _by_id(
    entries: Sequence[tuple[str, Mapping[str, Any]]], ids: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    unknown: list[str] = []
    twice: list[str] = []
    for written, entry in entries:
        name = written.strip(_AROUND_IDS).casefold()
        if name not in ids:
            unknown.append(repr(written[:40]))
        elif name in found:
            twice.append(name)
        else:
            found[name] = entry
    missing = [i for i in ids if i not in found]
    problems = [
        f"{what}: {', '.join(dict.fromkeys(names))}."
        for what, names in (
            ("There is no trajectory of this id", unknown),
            ("These have more than one entry", twice),
            ("These have none", missing),
        )
        if names
    ]
    if not entries:
        problems = ["The list of scores is empty."]
    if problems:
        raise Unusable(f"{' '.join(problems)} Give exactly one entry for each of {', '.join(ids)}.")
    return found


def _scored(entry: Mapping[str, Any], name: str) -> object:
    if "score" not in entry:
        raise Unusable(f'The entry of {name} has no "score".')
    return entry["score"]


def _criteria_scores(entry: Mapping[str, Any], name: str, criteria: Sequence[Criterion]) -> dict[str, object]:
    """The scores of one entry by the criteria's names, as they were written."""
    given = entry.get("criteria")
    if isinstance(given, Mapping):
        pairs = [(str(key), value) for key, value in given.items()]
    elif isinstance(given, list) and all(isinstance(item, Mapping) for item in given):
        pairs = [(str(item.get("criterion", item.get("name", ""))), item.get("score")) for item in given]
    else:
        raise Unusable(f'The entry of {name} has no object "criteria" with a score for each criterion.')
    written = [(plain_name(key), value) for key, value in pairs]
    if sorted(key for key, _ in written) != sorted(c.plain for c in criteria):
        names = ", ".join(f'"{c.name}"' for c in criteria)
        raise Unusable(f'"criteria" of {name} must have exactly one score for each of {names}.')
    found = dict(written)
    return {c.name: found[c.plain] for c in criteria}


def _weighted(row: Sequence[float], criteria: Sequence[Criterion]) -> float:
    total = sum(c.weight for c in criteria)
    return sum(c.weight * score for c, score in zip(criteria, row, strict=True)) / total


def _shown(row: Sequence[float], criteria: Sequence[Criterion]) -> str:
    return f"[{', '.join(f'{c.name} {score:.2f}' for c, score in zip(criteria, row, strict=True))}]"
