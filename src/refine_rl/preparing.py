"""Before training: what is free of charge is checked first, then the model is loaded, then LLMs are
asked (a rubric, prompts), then everything is on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.config import Settings
from refine_rl.connecting import check_models, connect
from refine_rl.errors import Together
from refine_rl.fitting import require_enough, room_for_prompt
from refine_rl.grpo.early_exit import room_for_thought
from refine_rl.llm.background import run_blocking
from refine_rl.llm.connections import EndpointConnections
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.progress import Observer, Pause
from refine_rl.prompts.coverage import cover
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes.examples import require_own_reward
from refine_rl.rewards import build_reward, check_sanity
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.quiz import Shelf
from refine_rl.rewards.rubric import load_rubric, write_rubric
from refine_rl.runs import RunFolder
from refine_rl.types import Prompt, Split

Functions = Sequence[Callable[..., Any]]
_WRITTEN = "write"  # reward.rubric, where the writer is to write it


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training begins with. `exam` scores the final comparison: the reward itself, unless another
    judge is named for it."""

    settings: Settings
    connections: EndpointConnections
    reward: CombinedReward
    exam: CombinedReward
    policy: Policy
    prompts: Mapping[Split, list[Prompt]]


def prepare(folder: RunFolder, functions: Functions, observer: Observer, pause: Pause) -> Prepared:
    """Everything before the base model's first answer; what an earlier process settled is taken from the
    record. Raises UserError for a mistake; no LLM is asked before the settings, the keys, the files and
    the model have been found good."""
    settings = folder.settings()
    connections = connect(settings, folder, observer.warning)
    check_models(settings, connections)
    given = settings.reward.rubric != _WRITTEN
    shelf = folder.quiz_shelf()
    costs = bool(settings.reward.judges) or settings.reward.quiz is not None
    asks_writer = settings.writes_prompts and not folder.prompts()
    together = Together()
    read: Read | None = None
    with together:
        rewards = _rewards(settings, functions, connections, load_rubric(settings) if given else "", shelf)
    with together:
        require_own_reward(settings)
    if not asks_writer:
        with together:
            read = read_prompts(folder, settings, connections, observer, pause)
    together.tell()
    with together:
        if not costs:
            check_sanity(rewards[0], settings.reward.sanity, pause=pause)
    with together:
        if read is not None:
            check_prompts(settings, rewards[0], read)
    together.tell()
    observer.stage(f"Loading {settings.model.name}")
    policy = load_policy(settings.model, seed=settings.grpo.seed, keep_reference=settings.grpo.kl > 0)
    if policy.why_plain:
        observer.note(f"no shared prompts for this model ({policy.why_plain}): the same results, more slowly")
    if settings.rollout.early_exit is not None:
        room_for_thought(policy, settings, settings.rollout.early_exit)
    if not given:
        settings = _settle_rubric(folder, settings, connections, observer, pause)
        rewards = _rewards(settings, functions, connections, load_rubric(settings), shelf)
    reward, exam = rewards
    if costs:
        check_sanity(reward, settings.reward.sanity, closing=connections.close, pause=pause)
    if read is None:
        observer.stage(f"{settings.writer.model} writes prompts")
        read = read_prompts(folder, settings, connections, observer, pause)
        check_prompts(settings, reward, read)
    prompts = settle_prompts(folder, settings, policy, read, observer)
    settings = begin(folder, settings, policy, observer)
    return Prepared(
        settings=settings, connections=connections, reward=reward, exam=exam, policy=policy, prompts=prompts
    )


def _rewards(
    settings: Settings, functions: Functions, connections: EndpointConnections, rubric: str, shelf: Shelf
) -> tuple[CombinedReward, CombinedReward]:
    """The reward of training, and that of the final comparison."""
    reward = build_reward(settings, functions, connections, rubric, shelf)
    return reward, exam_reward(settings, functions, connections, rubric, shelf) or reward


def exam_reward(
    settings: Settings, functions: Functions, connections: EndpointConnections, rubric: str, shelf: Shelf
) -> CombinedReward | None:
    """The reward with the judge of `evaluate.judge` in place of training's; None where none is named."""
    if not settings.evaluate.judge:
        return None
    judges = settings.reward.model_copy(update={"judges": [settings.evaluate.judge]})
    panel = settings.judge.model_copy(update={"larger": "", "adaptive": False})
    other = settings.model_copy(update={"reward": judges, "judge": panel})
    return build_reward(other, functions, connections, rubric, shelf)


def _settle_rubric(
    folder: RunFolder,
    settings: Settings,
    connections: EndpointConnections,
    observer: Observer,
    pause: Pause,
) -> Settings:
    """The settings with the rubric that the writer makes of the task; put on record, so that a resume
    judges by the same."""
    observer.stage(f"{settings.writer.model} writes the rubric")

    async def write() -> str:
        try:
            return await write_rubric(settings.task, connections.client(settings.writer.model))
        finally:
            await connections.close()

    text = run_blocking(write, pause)
    observer.note(f"rubric:\n{text}")
    folder.event("curation", "rubric", text)
    reward = settings.reward.model_copy(update={"rubric": text})
    settings = settings.model_copy(update={"reward": reward})
    folder.save_settings(settings)
    return settings


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
    prompts, report = load_prompts(settings, connections, note=observer.note, pause=pause)
    return Read(prompts=prompts, lines=tuple(report.summary()), lost=report.lost())


def check_prompts(settings: Settings, reward: CombinedReward, read: Read) -> None:
    """Raises UserError where prompts lack what the reward needs, or are too few."""
    if read.settled:
        return
    reward.check_data(read.prompts)
    _require_enough(read.prompts, settings, read.lost)


def settle_prompts(
    folder: RunFolder, settings: Settings, policy: Policy, read: Read, observer: Observer
) -> dict[Split, list[Prompt]]:
    """The prompts by split, once those that are too long for the model are set aside; put on record."""
    prompts = read.prompts
    if not folder.prompts():
        prompts, too_long = _fitting(prompts, settings, policy)
        _require_enough(prompts, settings, "; ".join(filter(None, (read.lost, *too_long))))
        table = cover(prompts).lines() if settings.writes_prompts else []
        for line in (*read.lines, *too_long, *table):
            observer.note(line)
        folder.event("curation", "prompts", "\n".join((*read.lines, *too_long)))
        folder.save_prompts(prompts)
    splits: dict[Split, list[Prompt]] = {"train": [], "validation": [], "held_out": []}
    for prompt in prompts:
        splits[prompt.split].append(prompt)
    return splits


def begin(folder: RunFolder, settings: Settings, policy: Policy, observer: Observer) -> Settings:
    """Puts the start (or the resume) on record, with the number format that was found; the settings in
    force. A resume goes on in the format of the start, and says what else has changed since."""
    resumed = any(e["kind"] == "started" for e in folder.events())
    form = str(policy.compute_dtype).removeprefix("torch.")
    folder.event("resumed" if resumed else "started", "run", f"on {policy.device} in {form}")
    for change in folder.changes() if resumed else []:
        text = f"Since the run began, {change}: it may not go on exactly as it would have."
        folder.event("warning", "changed", text)
        observer.warning(text)
    if settings.model.dtype == form:
        return settings
    model = settings.model.model_copy(update={"dtype": form})
    settings = settings.model_copy(update={"model": model})
    folder.save_settings(settings)
    return settings


def _require_enough(prompts: Sequence[Prompt], settings: Settings, lost: str) -> None:
    found = Counter(p.split for p in prompts)
    require_enough(settings, train=found["train"], held_out=found["held_out"], lost=lost)


def _fitting(prompts: Sequence[Prompt], settings: Settings, policy: Policy) -> tuple[list[Prompt], list[str]]:
    """Prompts that leave room for an answer, and a line about the others."""
    room = room_for_prompt(settings, policy.context_length)
    limit = min(settings.prompts.max_tokens, room)
    kept = [p for p in prompts if len(policy.encode(p.messages)) <= limit]
    if len(kept) == len(prompts):
        return kept, []
    why = "prompts.max_tokens" if limit < room else "the model's context less rollout.max_tokens"
    return kept, [f"{len(prompts) - len(kept)} prompts set aside: longer than {limit} tokens ({why})"]
