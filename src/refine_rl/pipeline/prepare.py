"""Before training: what is free of charge is checked first, then those who score are asked once, then the
model is loaded, then LLMs write (a rubric, prompts), then everything is on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_rl.envs.early_exit import room_for_thought
from refine_rl.errors import MachineError, Together, UserError
from refine_rl.llm.background import run_blocking
from refine_rl.llm.connections import EndpointConnections
from refine_rl.policy.control import readable
from refine_rl.policy.fingerprint import fingerprint
from refine_rl.policy.load import load_policy, require_model
from refine_rl.policy.merging import LOSS_WORTH_A_WORD
from refine_rl.policy.origin import find_origin
from refine_rl.policy.policy import Policy
from refine_rl.progress import Observer, Pause
from refine_rl.prompts.coverage import cover
from refine_rl.prompts.fitting import require_enough, room_for_prompt
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes.examples import require_own_reward
from refine_rl.rewards import build_reward, check_sanity
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.judges.first_look import Looked, hopeless, look_at_judges, look_at_quiz
from refine_rl.rewards.judges.panel import Panel
from refine_rl.rewards.judges.rubric import load_rubric, write_rubric
from refine_rl.rewards.quiz.quiz import Quiz, Shelf
from refine_rl.run import RunFolder
from refine_rl.run.endpoints import check_models, connect
from refine_rl.settings import Settings
from refine_rl.types import Message, Prompt, Split

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
    record. Raises UserError for a mistake, MachineError where nobody who scores can be used. No LLM is asked
    before the settings, the keys, the files and the model's name have been found good."""
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
        require_own_reward(settings.reward, task=settings.task, folder=settings.folder)
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
    looks = FirstLooks(
        folder=folder,
        task=settings.task,
        panels=_panels(*rewards),
        quiz=next((c for c in rewards[0].components if isinstance(c, Quiz)), None),
        connections=connections,
        observer=observer,
        pause=pause,
    )
    wanted = costs or settings.reward.asks
    if wanted and folder.outcomes("base") is None:
        require_model(settings.model)
        looks.at_judges([] if read is None else read.prompts)
        looks.at_quiz([] if read is None else read.prompts)
    if costs and given:
        check_sanity(rewards[0], settings.reward.sanity, closing=connections.close, pause=pause)
    observer.stage(f"Loading {settings.model.name}")
    policy = run_policy(folder, keep_reference=settings.grpo.kl > 0, record=True)
    if policy.start is not None and policy.start.lost >= LOSS_WORTH_A_WORD:
        observer.warning(
            f"Merging the adapter of {settings.model.name} into {policy.compute_dtype} weights loses "
            f'{policy.start.lost:.0%} of it to rounding. model.dtype = "float32" keeps all of it.'
        )
    if policy.why_plain:
        observer.note(f"no shared prompts for this model ({policy.why_plain}): the same results, more slowly")
    if settings.rollout.early_exit is not None:
        room_for_thought(policy, settings, settings.rollout.early_exit)
    if not given:
        settings = _settle_rubric(folder, settings, connections, observer, pause)
        rewards = _rewards(settings, functions, connections, load_rubric(settings), shelf)
        if costs:
            check_sanity(rewards[0], settings.reward.sanity, closing=connections.close, pause=pause)
    reward, exam = rewards
    if read is None:
        observer.stage(f"{settings.writer.model} writes prompts")
        read = read_prompts(folder, settings, connections, observer, pause)
        check_prompts(settings, reward, read)
        looks.at_quiz(read.prompts)
    prompts = settle_prompts(folder, settings, policy, read, observer)
    hold_positions(settings, policy, [p for some in prompts.values() for p in some], observer)
    settings = begin(folder, settings, policy, observer)
    return Prepared(
        settings=settings, connections=connections, reward=reward, exam=exam, policy=policy, prompts=prompts
    )


def run_policy(
    folder: RunFolder, *, adapter_from: Path | None = None, keep_reference: bool, record: bool = False
) -> Policy:
    """The run's model, untrained or with the adapter in `adapter_from`. Raises UserError where its files are
    others than when the run began (`record`: that they may be as long as nothing was scored)."""
    settings = folder.settings()
    known = require_same_model(folder, record=record)
    policy = load_policy(
        settings.model,
        seed=settings.grpo.seed,
        adapter_from=adapter_from,
        keep_reference=keep_reference,
        moment=folder.created(),
    )
    if not known:  # now the files have come from the hub
        require_same_model(folder, record=record)
    return policy


def require_same_model(folder: RunFolder, *, record: bool = False) -> bool:
    """Raises UserError where the base model's files are others than when the run began; False where they are
    not on this machine."""
    try:
        origin = find_origin(folder.settings().model.name)
    except UserError:  # loading it says so; and an adapter is exported without it
        return False
    hashes = fingerprint(origin)
    folder.require_same_model(hashes, record=record)
    return bool(hashes)


@dataclass(frozen=True, kw_only=True)
class FirstLooks:
    """Those who score are asked once, before anything dear. `panels` stand by the setting that names them.
    Raises MachineError where of one of them nobody can be used."""

    folder: RunFolder
    task: str
    panels: Mapping[str, Panel]
    quiz: Quiz | None
    connections: EndpointConnections
    observer: Observer
    pause: Pause

    def at_judges(self, prompts: Sequence[Prompt]) -> None:
        """The judges, on the first training prompt; on the task itself where there is none yet."""
        if not self.panels:
            return
        self.observer.stage("The judges are asked, before anything else")
        task: Message = {"role": "user", "content": self.task}
        stands_in = Prompt(id="first-look", split="train", messages=(task,))
        prompt = next((p for p in prompts if p.split == "train"), stands_in)
        self._settle(lambda: look_at_judges(self.panels, prompt))

    def at_quiz(self, prompts: Sequence[Prompt]) -> None:
        """The quiz, on sources whose questions are needed in any case: those of validation, else held-out."""
        chosen = [p for p in prompts if p.split == "validation"] or [
            p for p in prompts if p.split == "held_out"
        ]
        if self.quiz is not None and chosen:
            quiz = self.quiz
            self.observer.stage("The quiz is tried, before anything else")
            self._settle(lambda: look_at_quiz(quiz, chosen))

    def _settle(self, ask: Callable[[], Coroutine[Any, Any, list[Looked]]]) -> None:
        async def look() -> list[Looked]:
            try:
                return await ask()
            finally:
                await self.connections.close()

        looked = run_blocking(look, self.pause)
        kept = f"What was asked and replied: {self.folder.replies}" if self.folder.replies.exists() else ""
        if lost := hopeless(looked):
            said = "\n".join(f"{one.role} ({one.model}): {one.failure}" for one in lost)
            raise MachineError(
                "Those who are to score were asked once, before anything was spent on answers, and no reply "
                f"could be used:\n{said}\n{kept}\nMend the endpoint and go on; with another judge, or "
                "another judge.kind, start a new run."
            )
        for one in looked:
            if one.failure:
                text = f"{one.role}: no reply of {one.model} could be used: {one.failure} {kept}"
                self.folder.event("warning", f"first look {one.model}", text)
                self.observer.warning(text)


def _panels(reward: CombinedReward, exam: CombinedReward) -> dict[str, Panel]:
    """Everybody who judges, by the setting that names them."""
    found = {"reward.judges": reward.panel, "reward.steps.judges": reward.grader}
    if exam is not reward:
        found["evaluate.judge"] = exam.panel
    return {role: panel for role, panel in found.items() if isinstance(panel, Panel)}


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
        prompts, changed = _fitting(prompts, settings, policy)
        try:
            _require_enough(prompts, settings, read.lost)
        except UserError as error:
            aside = [line for line in changed if "set aside" in line]
            raise _too_few(error, aside, settings, policy) from error
        table = cover(prompts).lines() if settings.writes_prompts else []
        for line in (*read.lines, *changed, *table):
            observer.note(line)
        folder.event("curation", "prompts", "\n".join((*read.lines, *changed)))
        folder.save_prompts(prompts)
    splits: dict[Split, list[Prompt]] = {"train": [], "validation": [], "held_out": []}
    for prompt in prompts:
        splits[prompt.split].append(prompt)
    return splits


def hold_positions(settings: Settings, policy: Policy, prompts: Sequence[Prompt], observer: Observer) -> None:
    """Where the model's positions follow the longest text of a batch, they are held at what the longest of
    these prompts needs with an answer; base and tuned, sampler and trainer compute alike."""
    kinds = policy.moving
    if not kinds:
        return
    longest = longest_text(settings, policy, prompts)
    if policy.hold_still(longest):
        observer.note(
            f"the model's positions follow the length of a text ({kinds}): all texts of the run are computed "
            f"as its long ones are, as some may have {longest} tokens"
        )


def longest_text(settings: Settings, policy: Policy, prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest of these prompts with an answer."""
    return max((len(policy.encode(p.messages)) for p in prompts), default=0) + settings.rollout.max_tokens


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
    room = room_for_prompt(settings.rollout.max_tokens, policy.context_length)
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
