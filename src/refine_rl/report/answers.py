"""What each model answered to the held-out prompts, for the page: every prompt where there is room, with the
greedy answer and the sampled ones, their rewards, and why.

Where not all fits, sampled answers are left out first, the last ones of each prompt; then prompts, evenly.
The page says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from refine_rl.report.data import LONGEST_TEXT, cut
from refine_rl.report.standing import Json
from refine_rl.report.tiles import TILES
from refine_rl.run import RunFolder
from refine_rl.types import Comparison, Dialogue, Message, Played, Prompt, mean_of

Sense = Literal["better", "worse", "same", "open"]

SIDES = {
    "base": "Base",
    "prompt": "Better prompt",
    "best_of_n": "Best of n",
    "sft": "After SFT",
    "tuned": "Tuned",
}
_CARD, _ANSWER = 700, 330  # bytes that the page spends on a prompt, on an answer, beside their texts
_TURN, _TILE = 120, 58  # of a turn in a dialogue, of a tile in it
_EQUAL = 1e-9  # rewards that differ by less are the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer with its score. `parts` are its components; `why` what the reward or a judge says of it;
    `note` what else there is to know (cut, missing, invalid). `dialogue` is there where turns were played."""

    text: str
    reward: float | None
    parts: tuple[tuple[str, float | None], ...] = ()
    why: str = ""
    note: str = ""
    dialogue: Dialogue | None = None

    @property
    def size(self) -> int:
        """About the bytes that it takes on the page."""
        talk = sum(_talk(m["content"]) for m in (self.dialogue.messages if self.dialogue else ()))
        return _ANSWER + len(self.text) + len(self.why) + talk + 20 * len(self.parts)


def _talk(text: str) -> int:
    """About the bytes of what is said in a turn, tiles among it."""
    return _TURN + len(text) + _TILE * sum(text.count(sign) for sign in (*TILES, "+", "?", "-"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What one model answered to a prompt; `mean` is over the sampled answers that have a score."""

    name: str
    label: str
    greedy: Answer | None
    sampled: tuple[Answer, ...]
    mean: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A prompt with every side's answers. `anchor` is its id on the page; `sense` says how the tuned model
    did beside base ("open": one of them has no score), by the measure `gain`."""

    anchor: str
    name: str
    prompt: str
    facets: Mapping[str, str]
    sides: tuple[Side, ...]
    sense: Sense
    gain: float | None

    @property
    def words(self) -> str:
        return {"better": "▲ better", "worse": "▼ worse", "same": "= the same", "open": "no comparison"}[
            self.sense
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The cards, how many prompts there are in all, and how many of the sampled answers each card has.
    `senses` and `facets` count the cards by what they can be filtered by; `sides` are (name, label); `size`
    is about the bytes of it all on the page."""

    cards: tuple[Card, ...]
    prompts: int
    samples: int
    samples_all: int
    sides: tuple[tuple[str, str], ...]
    senses: Mapping[Sense, int]
    facets: Mapping[str, Mapping[str, int]]
    size: int


def collect(run: RunFolder, comparison: Comparison | None, limit: int) -> Answers | None:
    """The answers on record, in about `limit` bytes; where a run has none, the examples of its comparison;
    None where there is neither."""
    cards = _on_record(run) or _examples(comparison)
    if not cards:
        return None
    samples = max((len(s.sampled) for c in cards for s in c.sides), default=0)
    kept, some = choose(cards, samples, limit)
    sides = [(s.name, s.label) for s in some[0].sides]
    senses = Counter(card.sense for card in some)
    return Answers(
        cards=tuple(some),
        prompts=len(cards),
        samples=kept,
        samples_all=samples,
        sides=tuple(sides),
        senses={sense: senses[sense] for sense in ("better", "worse", "same", "open") if senses[sense]},
        facets=_facets(some),
        size=sum(map(_size, some)),
    )


def choose(cards: Sequence[Card], samples: int, limit: int) -> tuple[int, list[Card]]:
    """How many sampled answers a side keeps, and the cards that are kept with them."""
    for kept in range(samples, -1, -1):
        some = [_with(card, kept) for card in cards]
        if sum(map(_size, some)) <= limit:
            return kept, some
    stride = next((k for k in range(2, len(some)) if sum(map(_size, some[::k])) <= limit), len(some))
    return 0, some[::stride]


def _with(card: Card, samples: int) -> Card:
    return replace(card, sides=tuple(replace(s, sampled=s.sampled[:samples]) for s in card.sides))


def _size(card: Card) -> int:
    greedy = sum(s.greedy.size for s in card.sides if s.greedy is not None)
    return _CARD + len(card.prompt) + greedy + sum(a.size for s in card.sides for a in s.sampled)


def _on_record(run: RunFolder) -> list[Card]:
    """A card a held-out prompt that some model has answered."""
    held_out = [p for p in run.prompts() if p.split == "held_out"]
    known = {p.id: p for p in held_out}
    found: dict[str, dict[str, Json]] = {}
    for name in SIDES:
        table = run.answers(name)
        if table.exists():
            found[name] = {record["prompt_id"]: record for record in table.lines(known)}
    answered = [p for p in held_out if any(p.id in records for records in found.values())]
    return [
        _card(p, n, {name: r[p.id] for name, r in found.items() if p.id in r}) for n, p in enumerate(answered)
    ]


def _card(prompt: Prompt, number: int, records: Mapping[str, Json]) -> Card:
    before = len(prompt.messages)
    sides = []
    for name, record in records.items():
        rewards = [t["reward"] for t in record["sampled"] if t["reward"] is not None]
        sides.append(
            Side(
                name=name,
                label=SIDES[name],
                greedy=_answer(record["greedy"], before),
                sampled=tuple(_answer(t, before) for t in record["sampled"]),
                mean=mean_of(rewards) if rewards else None,
            )
        )
    return _judged(prompt.id, number, prompt.text, prompt.facets, sides)


def _answer(record: Json, before: int) -> Answer:
    """An answer as it stands on record, `before` of whose messages are the prompt's."""
    messages = [
        Message(role=m["role"], content=cut(m["content"], LONGEST_TEXT)) for m in record["messages"][before:]
    ]
    world = record.get("world")
    played = Played(rewards=tuple(world["rewards"]), end=world["end"], why=world["why"]) if world else None
    said = [m["content"] for m in messages if m["role"] == "assistant"]
    notes = [] if record["status"] == "scored" else [record["status"]]
    if record["stop_reason"] == "length":
        notes.append("cut at the limit")
    return Answer(
        text="" if played else said[-1] if said else "",
        reward=record["reward"],
        parts=tuple(record["breakdown"].items()),
        why=cut(record["explanation"], LONGEST_TEXT),
        note=", ".join(notes),
        dialogue=Dialogue(messages=tuple(messages), played=played) if played else None,
    )


def _examples(comparison: Comparison | None) -> list[Card]:
    """The examples of a comparison whose answers are not on record any more."""
    found = []
    for number, e in enumerate(comparison.examples if comparison is not None else ()):
        texts = {"base": (e.base, e.base_reward), **{n: (t, None) for n, t in e.others.items()}}
        texts["tuned"] = (e.tuned, e.tuned_reward)
        sides = [
            Side(
                name=name,
                label=SIDES.get(name, name),
                greedy=Answer(text=cut(text, LONGEST_TEXT), reward=reward, dialogue=e.dialogues.get(name)),
                sampled=(),
                mean=None,
            )
            for name, (text, reward) in texts.items()
        ]
        found.append(_judged(str(number + 1), number, e.prompt, e.facets, sides))
    return found


def _judged(name: str, number: int, prompt: str, facets: Mapping[str, str], sides: Sequence[Side]) -> Card:
    rewards = {s.name: _measure(s) for s in sides}
    base, tuned = rewards.get("base"), rewards.get("tuned")
    gain = None if base is None or tuned is None else tuned - base
    sense: Sense = "open"
    if gain is not None:
        sense = "same" if abs(gain) < _EQUAL else "better" if gain > 0 else "worse"
    return Card(
        anchor=f"answer-{name}" if re.fullmatch(r"[\w.-]+", name) else f"answer-{number + 1}.",
        name=name,
        prompt=cut(prompt, LONGEST_TEXT),
        facets=facets,
        sides=tuple(sides),
        sense=sense,
        gain=gain,
    )


def _measure(side: Side) -> float | None:
    """The mean of the sampled answers, which is what the verdict rests on; else the greedy one's reward."""
    if side.mean is not None or side.greedy is None:
        return side.mean
    return side.greedy.reward if not side.sampled else None


def _facets(cards: Sequence[Card]) -> dict[str, dict[str, int]]:
    """How many cards have each value of each facet, frequent values first."""
    counted: dict[str, Counter[str]] = {}
    for card in cards:
        for facet, value in card.facets.items():
            counted.setdefault(facet, Counter())[value] += 1
    return {facet: dict(values.most_common()) for facet, values in counted.items()}
