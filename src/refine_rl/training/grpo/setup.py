"""The door: settings are taken apart here, and nowhere else in this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from refine_rl.envs.base import How, World
from refine_rl.envs.build import world_of
from refine_rl.envs.play import play
from refine_rl.envs.stage import Stage
from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, Speaker, Spoken
from refine_rl.policy.size import Size, model_size
from refine_rl.progress import Pause, never
from refine_rl.settings import Settings
from refine_rl.settings.base import ON_A_PROCESSOR
from refine_rl.training.check import Check
from refine_rl.training.grpo.advantages import Advantages
from refine_rl.training.grpo.choice import Choice, Schedule
from refine_rl.training.grpo.collect import Collector, Play, Start
from refine_rl.training.grpo.curriculum import Curriculum
from refine_rl.training.grpo.itself import Itself
from refine_rl.training.grpo.kl import Distance
from refine_rl.training.grpo.learn import Learn, Loss
from refine_rl.training.grpo.record import Record
from refine_rl.training.grpo.replay import Recorded, Replay
from refine_rl.training.grpo.teacher import Lessons, Teach, Teacher
from refine_rl.training.guards import Guards
from refine_rl.training.learner import Learner, LearnerConfig
from refine_rl.training.local import LocalLearner, local_learner
from refine_rl.training.memory import Place, free_memory, on_one_card, tokens_that_fit
from refine_rl.training.passes import Passes
from refine_rl.training.rate import Rate
from refine_rl.training.reference import References
from refine_rl.types import Prompt, StepMetrics


def sampling_of(settings: Settings) -> Sampling:
    """How training's answers are drawn."""
    r = settings.rollout
    return Sampling(max_tokens=r.max_tokens, temperature=r.temperature, top_p=r.top_p, top_k=r.top_k)


def play_of(
    settings: Settings, speaker: Speaker, *, stage: Stage | None = None, pause: Pause = never
) -> Play:
    """Makes the groups of a training step. `stage` is the environment that the settings name."""

    def rollouts(prompts: Sequence[Prompt], step: int) -> Iterator[Spoken]:
        return play(world_at(settings, speaker, step, stage), prompts, pause)

    return rollouts


def world_at(settings: Settings, speaker: Speaker, step: int, stage: Stage | None = None) -> World:
    """Where the trajectories of a training step take place."""
    purpose = Purpose(seed=settings.grpo.seed, step=step, name="rollout")
    return world_of(settings.rollout, speaker, How(sampling=sampling_of(settings), purpose=purpose), stage)


def schedule_of(settings: Settings) -> Schedule:
    g = settings.grpo
    return Schedule(
        ahead=settings.ahead, checkpoint_every=g.checkpoint_every, validate_every=g.validate_every
    )


def learner_config(settings: Settings) -> LearnerConfig:
    """How the update moves weights."""
    g = settings.grpo
    return LearnerConfig(
        weight_decay=g.weight_decay,
        max_grad_norm=g.max_grad_norm,
        tokens=g.at_once,
        dropout=settings.model.dropout,
        seed=g.seed,
        temperature=settings.rollout.temperature,
        allowed=g.mismatch_tolerance,
    )


def learner_of(settings: Settings, policy: Policy) -> LocalLearner:
    """The learner of a model in this process."""
    return local_learner(policy, learner_config(settings))


def loss_of(settings: Settings) -> Loss:
    g = settings.grpo
    return Loss(
        name=g.loss,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        max_tokens=settings.rollout.most_tokens,
        kl_estimator=g.kl_estimator,
        importance_cap=settings.importance_cap,
        teacher_share=1.0 if settings.teacher is None else settings.teacher.share,
    )


def rate_of(settings: Settings) -> Rate:
    g = settings.grpo
    return Rate(peak=settings.learning_rate, steps=g.steps, schedule=g.schedule, warmup_steps=g.warmup_steps)


def distance_of(
    settings: Settings, speaker: Speaker, history: Callable[[], Sequence[StepMetrics]]
) -> Distance:
    g = settings.grpo
    references = References(speaker=speaker, temperature=settings.rollout.temperature, tokens=g.at_once)
    return Distance(
        references=references,
        history=history,
        first=g.kl,
        target=g.kl_target,
        estimator=g.kl_estimator,
        in_reward=g.kl_in == "reward",
    )


def passes_of(settings: Settings) -> Passes:
    """How the answers of a step become optimizer steps."""
    g = settings.grpo
    return Passes(
        updates=g.updates_per_step,
        minibatches=g.minibatches,
        kl_stop=g.kl_stop,
        seed=g.seed,
        weigh=loss_of(settings).weighed,
    )


def learn_of(
    settings: Settings,
    learner: Learner,
    distance: Distance,
    *,
    recorded: Recorded = lambda step: None,
    pause: Pause = never,
) -> Learn:
    """`recorded` are the groups of the steps that an earlier process made."""
    steps = settings.grpo.replay
    return Learn(
        learner=learner,
        loss=loss_of(settings),
        distance=distance,
        rate=rate_of(settings),
        passes=passes_of(settings),
        replay=Replay(steps=steps, recorded=recorded) if steps else None,
        pause=pause,
    )


def advantages_of(settings: Settings, weights: Mapping[str, float]) -> Advantages:
    """`weights` are those of the reward's components."""
    g, steps = settings.grpo, settings.reward.steps
    return Advantages(
        kind=g.advantage,
        deviation=g.deviation,
        epsilon=g.epsilon,
        flat=settings.flat,
        solved=g.solved,
        steps_weight=None if steps is None else steps.weight,
        shrink=settings.judge.shrink,
        weights=weights,
    )


def choice_of(settings: Settings, prompts: Sequence[Prompt], top: float | None) -> Choice:
    """`top` is the highest reward there is; None where none means "solved"."""
    g, pool, curriculum = settings.grpo, settings.prompts.pool, None
    per_step = g.candidates(len(prompts))
    if pool == "curriculum":
        curriculum = Curriculum(
            prompts=prompts,
            per_step=per_step,
            size=settings.rollout.group_size,
            seed=g.seed,
            top=top,
        )
    return Choice(
        prompts=prompts,
        per_step=per_step,
        seed=g.seed,
        schedule=schedule_of(settings),
        informative=pool == "informative",
        top=top,
        curriculum=curriculum,
    )


def collector_of(
    settings: Settings,
    prompts: Sequence[Prompt],
    record: Record,
    learn: Learn,
    *,
    play: Play,
    score: Start,
    check: Check,
    weights: Mapping[str, float],
    top: float | None = None,
    teacher: Teacher | None = None,
    tell: Callable[[str], None] = lambda text: None,
    pause: Pause = never,
) -> Collector:
    """`top` is the highest reward there is; None where none means "solved". `tell` is told of what is left
    out of a step."""
    g = settings.grpo
    return Collector(
        steps=g.steps,
        choice=choice_of(settings, prompts, top),
        record=record,
        play=play,
        score=score,
        compare=check.compare,
        advantages=advantages_of(settings, weights),
        penalties=learn.distance.penalties,
        teach=teach_of(settings, learn.distance.references.speaker, teacher, tell, pause),
        resample=g.resample,
        scored=g.prompts_per_step if g.oversample > 1 else None,
        max_missing=settings.reward.max_missing,
        pause=pause,
    )


def teach_of(
    settings: Settings, speaker: Speaker, teacher: Teacher | None, tell: Callable[[str], None], pause: Pause
) -> Teach:
    """What a step asks of a teacher, or of the policy itself."""
    if settings.teacher is not None and settings.teacher.itself:
        shown = settings.teacher.shown
        return Itself(speaker=speaker, shown=shown, tokens=settings.grpo.at_once, tell=tell)
    return (lambda scored: None) if teacher is None else Lessons(teacher=teacher, pause=pause)


def guards_of(settings: Settings) -> Guards:
    g = settings.grpo
    return Guards(
        all_cut_patience=g.all_cut_patience,
        zero_variance_patience=g.zero_variance_patience,
        limits=settings.rollout.limits,
        flat=settings.flat,
        resample=g.resample,
    )


def settled(
    settings: Settings, size: Size, *, device: str, dtype: str, free: float, packed: bool = True
) -> Settings:
    """The settings with a number for every "auto". `free`: bytes of the device that are free as long as
    nothing of the run is there. On a processor the number is fixed, and so it is for a model whose rows are
    not `packed`: what its attention keeps is not known."""
    if device != "cuda" or not packed or size.listens:
        return _with_at_once(settings, ON_A_PROCESSOR, ON_A_PROCESSOR)
    place, model = Place(device=device, dtype=dtype), settings.model
    reference = size.parameters * 4 if settings.grpo.kl > 0 and not model.adapted else 0
    return _with_at_once(
        settings,
        tokens_that_fit(model, size, place, free - reference),
        tokens_that_fit(settings.sft_model, size, place, free),
    )


def settled_for(settings: Settings, policy: Policy, *, beside: float = 0.0) -> Settings:
    """`settled` on the device where the policy is, with the memory that is free there now, less the bytes of
    what is still to come `beside` it."""
    device = policy.device
    if device.type != "cuda":
        return _with_at_once(settings, ON_A_PROCESSOR, ON_A_PROCESSOR)
    return settled(
        settings,
        model_size(settings.model),
        device=device.type,
        dtype=policy.form,
        free=free_memory(str(device)) / on_one_card(settings.engine.processes) - beside,
        packed=policy.shares_prompts,
    )


def _with_at_once(settings: Settings, grpo: int, sft: int) -> Settings:
    """With these numbers of tokens at once where the settings say "auto"."""
    changed: dict[str, object] = {}
    for name, section, found in (("grpo", settings.grpo, grpo), ("sft", settings.sft, sft)):
        if section is not None and section.tokens_per_micro_batch == "auto":
            changed[name] = section.model_copy(update={"tokens_per_micro_batch": found})
    return settings.model_copy(update=changed) if changed else settings
