"""Where prompts come from: the way from `prompts.source` to the prompts of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refine_rl.config import PromptSettings, Settings
from refine_rl.config_file import load_settings
from refine_rl.errors import SettingsError, UserError
from refine_rl.prompts.candidates import SPLITS, Candidate
from refine_rl.prompts.curate import CurationReport, Dropped, drop_duplicates, drop_seen
from refine_rl.prompts.files import read_prompt_file
from refine_rl.prompts.generate import generate_prompts
from refine_rl.prompts.split import by_hash, split_candidates
from refine_rl.recipes import recipe_folder
from refine_rl.types import Message, Prompt, Split

_GENERATED: dict[Split, int] = {"train": 256, "validation": 32, "held_out": 64}  # without a number asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """What a source gave: `settings` are those in force (a recipe brings its own)."""

    candidates: list[Candidate]
    asked: Mapping[Split, int | None]
    settings: PromptSettings
    generated: bool


def load_prompts(settings: Settings) -> tuple[list[Prompt], CurationReport]:
    """The prompts of a task: read, curated and split.

    Train comes first, then validation, then held_out. From a file the order within a split, the ids and
    the split itself depend on the texts alone, not on the file's order and not on the seed. Raises
    UserError (SettingsError for the source's name) where there is nothing, something broken, or too
    little for the numbers that the settings ask for.
    """
    source = _read(settings.prompts, settings.folder, settings.grpo.seed, SPLITS)
    kept, duplicates = drop_duplicates(source.candidates)
    ordered = kept if source.generated else by_hash(kept)
    chosen, others = split_candidates(ordered, source.asked, source.settings.near_duplicate)
    prompts = _prompts(chosen, source.settings.system)
    report = _report(settings.prompts.source, source, [*duplicates, *others], prompts)
    _refuse_too_few(report, generated=source.generated)
    return prompts, report


def load_all_prompts(
    settings: Settings, source: str, *, apart_from: Sequence[Prompt]
) -> tuple[list[Prompt], int]:
    """All prompts of another source, to evaluate on; and how many were left out.

    Left out are those that equal or resemble a train or validation prompt of `apart_from`. From a
    generator come its held_out prompts. Raises UserError as `load_prompts` does.
    """
    own = settings.prompts.model_copy(update={"source": source})
    found = _read(own, settings.folder, settings.grpo.seed, ("held_out",))
    candidates, _ = drop_duplicates(found.candidates)
    seen = [prompt for prompt in apart_from if prompt.split != "held_out"]
    kept = drop_seen(candidates, seen, found.settings.near_duplicate)
    if not kept:
        raise UserError(f"{source}: all {len(candidates)} prompts are too close to the run's own")
    chosen: dict[Split, list[Candidate]] = {"train": [], "validation": [], "held_out": kept}
    return _prompts(chosen, found.settings.system), len(candidates) - len(kept)


def _read(settings: PromptSettings, folder: Path, seed: int, splits: Sequence[Split]) -> _Source:
    kind, _, name = settings.source.partition(":")
    if kind == "recipe" and name:
        return _read_recipe(settings, name, seed, splits)
    if kind != "file" or not name:
        what = f"not {settings.source!r}" if settings.source else "and it is not set"
        raise SettingsError(
            f'`prompts.source` must be "file:PATH" or "recipe:NAME", {what}; for example '
            'source = "file:prompts.jsonl"'
        )
    path = folder / Path(name).expanduser()
    asked: dict[Split, int | None] = {
        "train": settings.train,
        "validation": settings.validation,
        "held_out": settings.held_out,
    }
    if path.suffix != ".py":
        candidates = read_prompt_file(path)
        return _Source(candidates=candidates, asked=asked, settings=settings, generated=False)
    counts = {split: _GENERATED[split] if count is None else count for split, count in asked.items()}
    candidates = generate_prompts(path, {split: counts[split] for split in splits}, seed)
    return _Source(candidates=candidates, asked=counts, settings=settings, generated=True)


def _read_recipe(settings: PromptSettings, name: str, seed: int, splits: Sequence[Split]) -> _Source:
    """The recipe's own source; what the task sets in [prompts] goes before the recipe's settings."""
    recipe = load_settings(None, recipe=name).prompts
    changed = {
        key: getattr(settings, key)
        for key, field in PromptSettings.model_fields.items()
        if key != "source" and getattr(settings, key) != field.default
    }
    source = _read(recipe.model_copy(update=changed), recipe_folder(name), seed, splits)
    return replace(source, candidates=[replace(c, origin=f"recipe:{name}") for c in source.candidates])


def _prompts(chosen: Mapping[Split, Sequence[Candidate]], system: str) -> list[Prompt]:
    """Prompts with ids: their own, or p0000, p0001 ... in order."""
    taken = {c.id for split in SPLITS for c in chosen[split]}
    prompts: list[Prompt] = []
    for split in SPLITS:
        for c in chosen[split]:
            prompts.append(
                Prompt(
                    id=c.id or _free_id(len(prompts), taken),
                    split=split,
                    messages=_with_system(c.messages, system),
                    facets=c.facets,
                    data=c.data,
                    origin=c.origin,
                )
            )
    return prompts


def _free_id(number: int, taken: set[str | None]) -> str:
    new = f"p{number:04d}"
    while new in taken:
        new += "-2"
    return new


def _with_system(messages: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    if not system or messages[0]["role"] == "system":
        return messages
    return (Message(role="system", content=system), *messages)


def _report(
    name: str, source: _Source, dropped: Sequence[Dropped], prompts: Sequence[Prompt]
) -> CurationReport:
    facets: dict[str, dict[str, Counter[Split]]] = {}
    for prompt in prompts:
        for facet, value in prompt.facets.items():
            facets.setdefault(facet, {}).setdefault(value, Counter())[prompt.split] += 1
    splits = Counter(prompt.split for prompt in prompts)
    return CurationReport(
        source=name,
        read=len(source.candidates),
        dropped=tuple(dropped),
        splits={split: splits[split] for split in SPLITS},
        asked=source.asked,
        facets=facets,
    )


def _refuse_too_few(report: CurationReport, *, generated: bool) -> None:
    """A file must have what is asked for; a generator may run dry, but not be empty."""
    least = {split: int(split != "validation") for split in SPLITS}
    wanted = least if generated else {split: report.asked[split] or least[split] for split in SPLITS}
    short = [
        f"`prompts.{split}` needs {wanted[split]} and got {report.splits[split]}"
        for split in SPLITS
        if report.splits[split] < wanted[split]
    ]
    if short:
        raise UserError(
            f"too few prompts: {'; '.join(short)} ({'; '.join(report.lines())}); "
            "add prompts, ask for fewer, or drop less with a higher `prompts.near_duplicate`"
        )
