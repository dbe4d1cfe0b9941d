"""A run's prompts: read or written, checked, fitted to the model, put on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from refine_rl.errors import UserError
from refine_rl.llm.connections import EndpointConnections
from refine_rl.pipeline.metrics import require_data
from refine_rl.policy.control import readable
from refine_rl.policy.policy import Policy
from refine_rl.policy.round_trip import lost_text
from refine_rl.progress import Observer, Pause, count
from refine_rl.prompts.fitting import require_enough, require_room
from refine_rl.prompts.sources import load_prompts
from refine_rl.report.coverage import cover
from refine_rl.rewards.combine import CombinedReward
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings
from refine_rl.types import Prompt, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """The run's prompts, with a few lines about how they came to be; `lost` says what became of other rows.
    `settled`: they are those on record."""

    prompts: list[Prompt]
    lines: tuple[str, ...] = ()
    lost: str = ""
    settled: bool = False


def read_prompts(
    folder: RunFolder,
    settings: Settings,
    connections: EndpointConnections,
    observer: Observer,
    pause: Pause,
) -> Read:
    """The run's prompts: those on record, or loaded (or written) and curated. It needs no model, so that a
    mistake shows at once."""
    prompts = folder.prompts()
    if prompts:
        return Read(prompts=prompts, settled=True)
    counted = partial(count, observer, "prompts written")
    prompts, report = load_prompts(settings, connections, note=observer.note, pause=pause, counted=counted)
    return Read(prompts=prompts, lines=tuple(report.summary()), lost=report.lost())


def check_prompts(settings: Settings, reward: CombinedReward, read: Read) -> None:
    """Raises UserError where prompts lack what the reward or the metrics need, or are too few."""
    require_data(settings, [p for p in read.prompts if p.split == "held_out"])
    if read.settled:
        return
    reward.check_data(read.prompts)
    _require_enough(read.prompts, settings, read.lost)


def settle_prompts(
    folder: RunFolder, settings: Settings, policy: Policy, read: Read, journal: Journal
) -> dict[Split, list[Prompt]]:
    """The prompts by split, once those that are too long for the model are set aside; put on record."""
    prompts = read.prompts
    if not folder.prompts():
        prompts, changed = _fitting(prompts, settings, policy)
        try:
            _require_enough(prompts, settings, read.lost)
        except UserError as error:
            aside = [line for line in changed if "set aside" in line]
            raise _too_few(error, aside, settings, policy) from error
        _round_trip(prompts, settings, policy, journal)
        table = cover(prompts).lines() if settings.writes_prompts else []
        for line in (*read.lines, *changed, *table):
            journal.observer.note(line)
        journal.event("curation", "prompts", "\n".join((*read.lines, *changed)))
        folder.save_prompts(prompts)
    splits: dict[Split, list[Prompt]] = {"train": [], "validation": [], "held_out": []}
    for prompt in prompts:
        splits[prompt.split].append(prompt)
    return splits


def _round_trip(prompts: Sequence[Prompt], settings: Settings, policy: Policy, journal: Journal) -> None:
    """Warns of characters in prompts and references that the model's tokenizer does not know. Raises
    UserError where it could write none of the references that a rule compares with."""
    if lost := lost_text(policy, [m["content"] for p in prompts for m in p.messages]):
        journal.warning("lost_text", f"{lost.text('prompt')}. The model cannot see them.")
    named = {
        value
        for rule in settings.reward.rules
        for value in rule.parameters.values()
        if isinstance(value, str)
    }
    for key in sorted(named & {key for p in prompts for key in p.data}):
        lost = lost_text(policy, [text for p in prompts if isinstance(text := p.data.get(key), str)])
        if lost is None:
            continue
        said = f"`{key}`: {lost.text('reference')}"
        if lost.visible and lost.changed == lost.texts:
            raise UserError(
                f"{said}, such as {lost.example[0][:80]!r}, of which {lost.example[1][:80]!r} came back. The "
                "model can write none of them. Take a model whose tokenizer keeps them, or other references."
            )
        journal.warning("lost_references", f"{said}. The model cannot write them.")


def _require_enough(prompts: Sequence[Prompt], settings: Settings, lost: str) -> None:
    found = Counter(p.split for p in prompts)
    each = settings.grpo.prompts_per_step
    require_enough(prompts_per_step=each, train=found["train"], held_out=found["held_out"], lost=lost)


def _too_few(error: UserError, aside: list[str], settings: Settings, policy: Policy) -> UserError:
    """The refusal of so few prompts, with why they are so few."""
    if not aside:
        return error
    why = "; ".join(aside)
    if "longer than" not in aside[-1]:
        way_out = "Take those words out of the prompts."
    elif "prompts.max_tokens" in aside[-1]:
        way_out = f"Raise prompts.max_tokens ({settings.prompts.max_tokens}), or shorten the prompts."
    else:
        way_out = (
            f"The model reads {policy.context_length} tokens, prompt and answer together: lower "
            f"rollout.max_tokens ({settings.rollout.max_tokens}), shorten the prompts, or take another model."
        )
    return UserError(f"{why}. That leaves too few: {error}\n{way_out}")


def _fitting(prompts: Sequence[Prompt], settings: Settings, policy: Policy) -> tuple[list[Prompt], list[str]]:
    """Prompts that the model can read and that leave room for an answer, and lines about the others."""
    answer = settings.rollout.max_tokens
    room = require_room(policy.prompt_room(answer), answer, policy.context_length)
    limit = min(settings.prompts.max_tokens, room)
    read, lines = readable(prompts, policy.encode, policy.control)
    kept = [p for p in read if len(policy.encode(p.messages)) <= limit]
    if len(kept) == len(read):
        return kept, lines
    why = "prompts.max_tokens" if limit < room else "the model's context less rollout.max_tokens"
    return kept, [
        *lines,
        f"{len(read) - len(kept)} prompts set aside: longer than {limit} tokens ({why})",
    ]
