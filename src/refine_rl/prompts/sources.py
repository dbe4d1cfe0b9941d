"""Where prompts come from: the way from `prompts.source` to the prompts of a run."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from refine_rl.errors import SettingsError, UserError, path_from
from refine_rl.llm.background import run_blocking
from refine_rl.llm.client import Connections
from refine_rl.progress import Counted, Pause, never, uncounted
from refine_rl.prompts.candidates import SPLITS, Candidate
from refine_rl.prompts.columns import Columns
from refine_rl.prompts.curate import (
    CurationReport,
    Dropped,
    drop_duplicates,
    drop_seen,
    said,
)
from refine_rl.prompts.files import read_prompts
from refine_rl.prompts.generate import generate_prompts
from refine_rl.prompts.puzzles import puzzles
from refine_rl.prompts.split import by_hash, split_candidates
from refine_rl.recipes import recipe_folder
from refine_rl.recipes.examples import require_own_prompts
from refine_rl.rewards.reasoning_gym import ASKS_FOR_TAGS
from refine_rl.settings import GYM, PromptSettings, Settings
from refine_rl.settings.file import load_settings
from refine_rl.types import WRITER, Message, Prompt, Split

if TYPE_CHECKING:
    from refine_rl.prompts.write import Written

# Without a number asked for:
_GENERATED: dict[Split, int] = {"train": 256, "validation": 32, "held_out": 64}
WRITTEN: Mapping[Split, int] = {"train": 64, "validation": 12, "held_out": 24}
_FEWEST_WRITTEN = 0.5  # share of the prompts asked for with which a run may begin; a writer may stop early


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """What a source gave: `settings` are those in force (a recipe brings its own)."""

    candidates: list[Candidate]
    asked: Mapping[Split, int | None]
    settings: PromptSettings
    generated: bool
    name: str
    read: int
    dropped: tuple[Dropped, ...] = ()
    remarks: tuple[str, ...] = ()
    fewest: float = 0.0  # the share of what is asked for that must be there, of a generated source


def load_prompts(
    settings: Settings,
    connections: Connections | None = None,
    note: Callable[[str], None] = lambda text: None,
    pause: Pause = never,
    counted: Counted = uncounted,
) -> tuple[list[Prompt], CurationReport]:
    """The prompts of a task: read or written, curated and split.

    Train comes first, then validation, then held_out. From a file the order within a split, the ids and
    the split itself depend on the texts alone, not on the file's order and not on the seed. A writer needs
    `connections`; `note` and `counted` hear how far it is, and `pause` may stop it. Raises UserError
    (SettingsError for the source's name) where there is nothing, something broken, or too little for the
    numbers that the settings ask for; what `write_prompts` raises goes through.
    """
    if settings.prompts.similarity == "meaning":
        from refine_rl.prompts.meaning import require_encoder  # late: numpy

        require_encoder()
    if settings.writes_prompts:
        if connections is None:
            raise UserError("the prompts of a writer need `connections` to its endpoint")
        source = _write(settings, connections, note, pause, counted)
    else:
        own = settings.prompts
        if settings.asks_for_tags and not own.system:
            own = own.model_copy(update={"system": ASKS_FOR_TAGS})
        source = _read(own, settings.folder, settings.grpo.seed, SPLITS, note, pause)
        if source.name.startswith("file:") and not source.generated:
            texts = {c.origin.rpartition(":")[2]: c.messages[-1]["content"] for c in source.candidates}
            path = path_from(settings.folder, source.name.removeprefix("file:"))
            require_own_prompts(path, texts, task=settings.task, folder=settings.folder)
    kept, duplicates = drop_duplicates(source.candidates)
    ordered = kept if source.generated else by_hash(kept)
    own = source.settings
    world = settings.rollout.several_turns
    chosen, others = split_candidates(
        ordered, source.asked, own.near_duplicate, own.similarity, with_data=world
    )
    prompts = _prompts(chosen, own.system)
    report = _report(source, [*source.dropped, *duplicates, *others], prompts, world=world)
    _refuse_too_few(report, source, settings.folder)
    return prompts, report


def load_all_prompts(
    settings: Settings, source: str, *, apart_from: Sequence[Prompt]
) -> tuple[list[Prompt], int]:
    """All prompts of another source, to evaluate on; and how many were left out.

    Left out are those that equal or resemble a train or validation prompt of `apart_from`. From a
    generator come its held_out prompts. Raises UserError as `load_prompts` does.
    """
    if source == "writer":
        raise UserError(
            "to evaluate on prompts of a writer, write them first: `refine prompts task.toml --out "
            'more.jsonl`, then evaluate on "file:more.jsonl"'
        )
    own = settings.prompts.model_copy(update={"source": source})
    if source.startswith(GYM) and settings.asks_for_tags and not own.system:
        own = own.model_copy(update={"system": ASKS_FOR_TAGS})
    found = _read(own, settings.folder, settings.grpo.seed, ("held_out",))
    candidates, _ = drop_duplicates(found.candidates)
    seen = [prompt for prompt in apart_from if prompt.split != "held_out"]
    kept = drop_seen(
        candidates,
        seen,
        found.settings.near_duplicate,
        found.settings.similarity,
        with_data=settings.rollout.several_turns,
    )
    if not kept:
        raise UserError(f"{source}: all {len(candidates)} prompts are too close to the run's own")
    chosen: dict[Split, list[Candidate]] = {"train": [], "validation": [], "held_out": kept}
    return _prompts(chosen, found.settings.system), len(candidates) - len(kept)


def unseen(settings: Settings, prompts: Sequence[Prompt], seen: Sequence[Prompt]) -> list[Prompt]:
    """Those of a task's prompts that neither equal nor resemble one of `seen`, as its own curation tells."""
    own = settings.prompts
    if own.source.startswith("recipe:"):
        own = _of_recipe(own, load_settings(recipe_folder(own.source.removeprefix("recipe:"))).prompts)
    threshold = 1.0 if own.source.startswith(GYM) else own.near_duplicate
    world = settings.rollout.several_turns
    return drop_seen(prompts, seen, threshold, own.similarity, with_data=world)


def _write(
    settings: Settings,
    connections: Connections,
    note: Callable[[str], None],
    pause: Pause,
    counted: Counted,
) -> _Source:
    client = connections.client(settings.writer.model)
    asked = numbers_asked_for(settings.prompts, WRITTEN)

    from refine_rl.prompts.write import write_prompts  # late: numpy

    async def write() -> Written:
        try:
            return await write_prompts(
                client,
                asked,
                task=settings.task,
                prompts=settings.prompts,
                writer=settings.writer,
                seed=settings.grpo.seed,
                note=note,
                counted=counted,
            )
        finally:
            await connections.close()

    written = run_blocking(write, pause)
    return _Source(
        candidates=list(written.candidates),
        asked=asked,
        settings=settings.prompts.model_copy(update={"system": written.system}),
        generated=True,
        name=f"{WRITER}{client.model}",
        read=written.read,
        dropped=written.dropped,
        remarks=written.remarks(),
        fewest=_FEWEST_WRITTEN,
    )


def numbers_asked_for(settings: PromptSettings, default: Mapping[Split, int]) -> dict[Split, int]:
    """How many prompts of each split; the `default` of those that the settings leave open."""
    given = {split: getattr(settings, split) for split in SPLITS}
    return {split: default[split] if count is None else count for split, count in given.items()}


def _read(
    settings: PromptSettings,
    folder: Path,
    seed: int,
    splits: Sequence[Split],
    note: Callable[[str], None] = lambda text: None,
    pause: Pause = never,
) -> _Source:
    kind, _, name = settings.source.partition(":")
    if kind == "reasoning-gym" and name:
        return _read_puzzles(settings, name, seed, splits, note, pause)
    if kind == "recipe" and name:
        return _read_recipe(settings, name, seed, splits)
    if kind not in ("file", "hub") or not name:
        what = f"not {settings.source!r}" if settings.source else "and it is not set"
        raise SettingsError(
            f'`prompts.source` must be "file:PATH", "hub:OWNER/NAME", "recipe:NAME", '
            f'"reasoning-gym:NAME" or "writer", {what}; '
            'for example source = "file:prompts.jsonl", or a `model = "ENDPOINT/MODEL"` in [writer] that '
            "writes them"
        )
    columns = Columns(prompt=settings.column, data=settings.data)
    asked: Mapping[Split, int | None] = {split: getattr(settings, split) for split in SPLITS}
    generated = kind == "file" and Path(name).suffix == ".py"
    if generated:
        asked = counts = numbers_asked_for(settings, _GENERATED)
        path = path_from(folder, name)
        candidates = generate_prompts(path, {split: counts[split] for split in splits}, seed, columns)
    else:
        candidates = read_prompts(settings.source, folder, columns)
        # What was curated before (`--out`) is taken as it was: in its order, and in its numbers.
        generated = all(c.recorded for c in candidates)
    return _Source(
        candidates=candidates,
        asked=asked,
        settings=settings,
        generated=generated,
        name=settings.source,
        read=len(candidates),
    )


def _read_puzzles(
    settings: PromptSettings,
    name: str,
    seed: int,
    splits: Sequence[Split],
    note: Callable[[str], None],
    pause: Pause,
) -> _Source:
    """A dataset of reasoning-gym. Its questions differ in a few signs by nature, so that only what asks the
    same is dropped."""
    asked = numbers_asked_for(settings, _GENERATED)
    counts = {split: asked[split] for split in splits}
    candidates = puzzles(name, settings.parameters, counts, seed=seed, note=note, pause=pause)
    return _Source(
        candidates=candidates,
        asked=asked,
        settings=settings.model_copy(update={"near_duplicate": 1.0}),
        generated=True,
        name=settings.source,
        read=len(candidates),
    )


def _read_recipe(settings: PromptSettings, name: str, seed: int, splits: Sequence[Split]) -> _Source:
    """The recipe's own source; what the task sets in [prompts] goes before the recipe's settings."""
    folder = recipe_folder(name)
    recipe = load_settings(folder).prompts
    source = _read(_of_recipe(settings, recipe), folder, seed, splits)
    own = [replace(c, origin=f"recipe:{name}") for c in source.candidates]
    return replace(source, candidates=own, name=settings.source)


def _of_recipe(settings: PromptSettings, recipe: PromptSettings) -> PromptSettings:
    """A recipe's settings, with what the task sets over them."""
    changed = {
        key: getattr(settings, key)
        for key, field in PromptSettings.model_fields.items()
        if key != "source" and getattr(settings, key) != field.default
    }
    return recipe.model_copy(update=changed)


def _prompts(chosen: Mapping[Split, Sequence[Candidate]], system: str) -> list[Prompt]:
    """Prompts with ids: their own, or p0000, p0001 ... in order."""
    taken = {c.id for split in SPLITS for c in chosen[split]}
    return [
        Prompt(
            id=c.id or _free_id(number, taken),
            split=split,
            messages=_with_system(c.messages, system),
            facets=c.facets,
            data=c.data,
            origin=c.origin,
        )
        for number, (split, c) in enumerate((split, c) for split in SPLITS for c in chosen[split])
    ]


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
    source: _Source, dropped: Sequence[Dropped], prompts: Sequence[Prompt], *, world: bool
) -> CurationReport:
    splits = Counter(prompt.split for prompt in prompts)
    remarks = list(source.remarks)
    alike = len(prompts) - len({said(prompt.messages) for prompt in prompts})
    if alike and not world:
        one = alike == 1
        remarks.append(
            f"{alike} of these ask{'s' if one else ''} what another one asks, with other data: kept, in the "
            f"split of {'the other' if one else 'the others'}"
        )
    return CurationReport(
        source=source.name,
        read=source.read,
        dropped=tuple(dropped),
        splits={split: splits[split] for split in SPLITS},
        asked=source.asked,
        remarks=tuple(remarks),
    )


class TooFewError(UserError):
    """What is left of a source is too little for a run; `report` says what became of the rest."""

    def __init__(self, text: str, report: CurationReport) -> None:
        super().__init__(text)
        self.report = report


def _refuse_too_few(report: CurationReport, source: _Source, folder: Path) -> None:
    """A file must have what is asked for; a generator may run dry, but not be empty, and a writer must have
    half of it."""
    least = {split: int(split != "validation") for split in SPLITS}
    wanted = dict(least)
    for split in SPLITS:
        asked = report.asked[split]
        if asked:
            wanted[split] = max(least[split], ceil(source.fewest * asked)) if source.generated else asked
    short = [
        f"`prompts.{split}` needs {wanted[split]} and got {report.splits[split]}"
        for split in SPLITS
        if report.splits[split] < wanted[split]
    ]
    if not short:
        return
    nearer = ", or drop less with a higher `prompts.near_duplicate`" if report.count("near-duplicate") else ""
    way_out = (
        "say more in the task, fix `prompts.facets`, take another `writer.model`, or ask for fewer"
        if report.source.startswith(WRITER)
        else f"add prompts{',' if nearer else ' or'} ask for fewer{nearer}"
    )
    lost = f": {report.lost()}" if report.lost() else ""
    listed = ""
    if report.dropped and (folder / "task.toml").is_file():
        listed = f"; `refine prompts {shlex.quote(str(folder))} --dropped` lists what was dropped"
    raise TooFewError(
        f"too few prompts: {'; '.join(short)}{lost} ({'; '.join(report.summary())}); {way_out}{listed}",
        report,
    )
