"""Answers to imitate as tokens: what is cut, what is set aside, and whether anything is left to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.errors import UserError
from refine_rl.policy.control import ControlTextError
from refine_rl.policy.protocol import Speaker
from refine_rl.progress import Pause, never
from refine_rl.settings import SFTSettings
from refine_rl.training.sft.rows import Tokens, tokens_of
from refine_rl.types import Demonstration, count_of

NAMED = 5
"""So many rows are named in a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Rows as tokens, and lines for people about those that were cut or set aside."""

    train: Sequence[Tokens]
    validation: Sequence[Tokens]
    lines: tuple[str, ...]


def fit(
    rows: Sequence[Demonstration],
    speaker: Speaker,
    sft: SFTSettings,
    told: Sequence[str] = (),
    pause: Pause = never,
) -> Fitted:
    """Each row up to `sft.max_tokens`, or what the model reads. `told` are the lines about rows that were
    left out before. Raises UserError where no row is left to train on, and for one that the model's form of a
    chat cannot hold. `pause` is called before each row."""
    found: dict[str, list[Tokens]] = {"train": [], "validation": []}
    cut: dict[str, list[str]] = {}  # by the limit, in words
    unanswered: dict[str, list[str]] = {}
    unreadable: list[str] = []
    for row in rows:
        pause()
        try:
            segments = speaker.demonstrate(row.messages, every=sft.train_on == "all", given=row.given)
        except ControlTextError:
            unreadable.append(row.name)
            continue
        except UserError as error:
            raise UserError(f"{row.name}: {error}") from error
        asked = len(segments[0].token_ids)
        room = asked + max(0, speaker.answer_room(asked))
        tokens, lost = tokens_of(row.name, segments, min(sft.max_tokens, room))
        read = f"{speaker.context_length} tokens (what the model reads)"
        limit = read if room < sft.max_tokens else f"{sft.max_tokens} tokens (sft.max_tokens)"
        if tokens is None:
            unanswered.setdefault(limit, []).append(row.name)
            continue
        if lost:
            cut.setdefault(limit, []).append(row.name)
        found[row.split].append(tokens)
    lines = [
        *(f"{_named(names)} cut at {limit}: the end of the answer is lost" for limit, names in cut.items()),
        *(
            f"{_named(names)} set aside: no answer is left within {limit}"
            for limit, names in unanswered.items()
        ),
    ]
    if unreadable:
        why = "text like a control token that the tokenizer cannot encode as text"
        lines.append(f"{_named(unreadable)} set aside: {why}")
    if not found["train"]:
        raise UserError(
            f"{sft.data}: there is nothing to train on: {'; '.join([*told, *lines])}. Raise sft.max_tokens "
            f"({sft.max_tokens}), shorten the prompts, or take a model that reads longer texts."
        )
    return Fitted(train=found["train"], validation=found["validation"], lines=tuple(lines))


def _named(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > NAMED else ""
    return f"{count_of(len(names), 'row')} ({', '.join(names[:NAMED])}{more})"
