"""Prompts of a reasoning-gym dataset: made on demand, as many as are asked for, each split with seeds of its
own."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from refine_rl.errors import SettingsError, UserError
from refine_rl.progress import Pause, never
from refine_rl.prompts.candidates import SPLITS, Candidate, RowError, candidate
from refine_rl.prompts.curate import normalised
from refine_rl.rewards.reasoning_gym import data_of, dataset
from refine_rl.types import Split

_APART = 1_000_000  # an entry's seed is its dataset's and its number: this far are the splits of a run apart
_SEEDS = 2**31
_TRIES, _SPARE = 4, 64  # entries looked at: so many for each that is asked for, and some
_TOLD = 50  # entries between two notes


def puzzles(
    name: str,
    parameters: Mapping[str, Any],
    counts: Mapping[Split, int],
    *,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
    pause: Pause = never,
) -> list[Candidate]:
    """Up to `counts` entries a split as candidates, no question twice; fewer where the dataset has no more to
    ask. The same name, parameters, counts and seed give the same. Held-out entries are made first, so that
    a dataset of few questions leaves none out.

    `note` hears how far it is, `pause` may stop it between two entries. Raises SettingsError for what
    `dataset` refuses or more than is made of one seed, UserError where the dataset fails.
    """
    asked: set[str] = set()
    found: dict[Split, list[Candidate]] = {}
    whole, made = sum(counts.values()), 0
    for split in sorted(counts, key=SPLITS.index, reverse=True):
        found[split] = []
        size = _TRIES * counts[split] + _SPARE
        if size > _APART:
            raise SettingsError(
                f"`prompts.{split}`: at most {(_APART - _SPARE) // _TRIES:,} are made of a dataset"
            )
        start = (3 * seed + SPLITS.index(split)) * _APART % _SEEDS
        if not counts[split]:
            continue
        for number, entry in _entries(name, parameters, start, size):
            pause()
            question = normalised(str(entry["question"]))
            if question in asked:
                continue
            asked.add(question)
            found[split].append(_candidate(name, parameters, split, number, entry))
            made += 1
            if made % _TOLD == 0:
                note(f"{made} of {whole} prompts of reasoning-gym's {name}")
            if len(found[split]) == counts[split]:
                break
    return [c for split in SPLITS for c in found.get(split, ())]


def _entries(
    name: str, parameters: Mapping[str, Any], seed: int, size: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entries of a dataset, by number."""
    made = dataset(name, parameters, seed=seed, size=size)
    for number in range(size):
        before = random.getstate()
        random.seed(seed + number)  # some draw from the shared generator
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # some print
                entry = made[number]
        except IndexError:  # some have fewer than they were asked for
            return
        except Exception as error:
            raise UserError(
                f"reasoning-gym's {name} fails at its entry {number} (seed {seed}): "
                f"{type(error).__name__}: {error}. Other parameters, or another `grpo.seed`, may pass it by."
            ) from error
        finally:
            random.setstate(before)
        yield number, entry


def _candidate(
    name: str, parameters: Mapping[str, Any], split: Split, number: int, entry: Mapping[str, Any]
) -> Candidate:
    part = entry["metadata"].get("source_dataset", name)
    row = {
        "prompt": entry["question"],
        "split": split,
        "facets": {"dataset": part} if part != name else {},
        "data": data_of(entry, name, parameters),
    }
    try:
        return candidate(row, f"reasoning-gym:{name}:{split}[{number}]")
    except RowError as error:
        raise UserError(f"reasoning-gym's {name}: its entry {number} {error}") from None
