"""A service that holds the model (engine.kind = "tinker"): the tokens that go through it, stage by stage, as
its bill counts them, and what they cost.

A prompt is read once for all answers that are asked for together; every later turn of a trajectory, and every
answer behind a part of another one's thought, is a request of its own, which reads all that stands, what came
between turns among it. A row that is trained on is read once for its log-probs and once for its gradient, in
each update; a KL term has it read by the base model too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from refine_rl.plan.calls import compared, resampled, validations
from refine_rl.plan.counts import BETWEEN_TURNS, Counts, given_between, said_in_group, tokens, turns_of
from refine_rl.plan.money import SERVICE, Cost
from refine_rl.plan.rollback import repeated
from refine_rl.plan.supervised import Rows, earliest, looks_every
from refine_rl.settings import EnginePrices, EngineSettings, Settings, SFTSettings
from refine_rl.settings.revision import name_and_revision

Range = tuple[int, int]


SHARES = (0.5, 1.0)
"""Of the tokens that an answer may have: in the low figures, and in the high ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passed:
    """Tokens of a stage, low and high: read without a gradient, written, and read with one. `dollars` is None
    where the prices are unknown."""

    stage: str
    prefilled: Range
    sampled: Range
    trained: Range
    dollars: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        return f"the service, {self.stage}"


def at_service(engine: EngineSettings) -> bool:
    """Whether the model is elsewhere, so that nothing of this machine is needed for it."""
    return engine.kind == "tinker"


def words_about(engine: EngineSettings) -> Iterator[str]:
    """What a plan cannot know, as somebody else computes."""
    if at_service(engine):
        yield (
            "The model answers and learns at the service: the time and memory that it takes there are not "
            "known here. Tokens are counted as its bill would; a trial at the start takes a thousand or two "
            "more."
        )
    elif engine.served:
        yield (
            f"The server at {engine.base_url} samples: its time is not known here, and not counted, nor is "
            "its memory."
        )


def passed(
    settings: Settings, counts: Counts | None, rows: Rows | None, *, seeds: int = 1
) -> tuple[Passed, ...]:
    """Of a whole run, or of one for each of so many seeds, in the order in which they come; of runs whose
    model is elsewhere."""
    found: list[_Tokens] = []
    if not at_service(settings.engine):
        return ()
    if settings.sft is not None and rows is not None:
        found += _imitated(settings, settings.sft, rows)
    if counts is not None:
        first, later = _stages(settings, counts), _stages(settings, counts, second=True)
        found += [one.and_more(other, seeds - 1) for one, other in zip(first, later, strict=True)]
    return tuple(one.passed(settings.engine.prices) for one in found if any(one.high))


def with_service(paid: Cost, settings: Settings, service: Sequence[Passed]) -> Cost:
    """What is paid for LLMs, and what goes through a service's model."""
    low = high = 0.0
    unknown = False
    for one in service:
        if one.dollars is None:
            unknown = True
        else:
            low, high = low + one.dollars[0], high + one.dollars[1]
    name = (
        (f"{SERVICE}/{settings.engine.model or name_and_revision(settings.model.name)[0]}",)
        if unknown
        else ()
    )
    return Cost(low=paid.low + low, high=paid.high + high, unknown=(*paid.unknown, *name))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tokens:
    """(prefilled, sampled, trained) of a stage."""

    stage: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def and_more(self, other: _Tokens, times: int) -> _Tokens:
        """With another one so many times."""
        low, high = _sum(self.low, *times * [other.low]), _sum(self.high, *times * [other.high])
        return _Tokens(stage=self.stage, low=low, high=high)

    def passed(self, prices: EnginePrices | None) -> Passed:
        prefilled, sampled, trained = (
            (round(low), round(high)) for low, high in zip(self.low, self.high, strict=True)
        )
        dollars = None
        if prices is not None:
            each = (prices.prefill, prices.sample, prices.train)
            low, high = (
                sum(n * price for n, price in zip(numbers, each, strict=True)) / 1e6
                for numbers in (self.low, self.high)
            )
            dollars = (low, high)
        return Passed(
            stage=self.stage, prefilled=prefilled, sampled=sampled, trained=trained, dollars=dollars
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pace:
    """Tokens where answers have `share` of those that they may have."""

    settings: Settings
    prompt: int
    share: float

    @property
    def passes(self) -> int:
        """Of a step: one, where grpo.kl_stop may end it there."""
        g = self.settings.grpo
        return 1 if g.kl_stop is not None and self.share < 1 else g.updates_per_step

    @property
    def answer(self) -> float:
        return self.share * self.settings.rollout.most_tokens

    def answered(self, groups: int, members: int) -> tuple[float, float, float]:
        turns = turns_of(self.settings.rollout)
        later = sum(self.prompt + turn * (self.answer / turns + BETWEEN_TURNS) for turn in range(1, turns))
        return groups * (self.prompt + members * later), groups * members * self.answer, 0.0

    def rollouts(self, groups: int, members: int) -> tuple[float, float, float]:
        """Whole groups of training. Where answers begin behind a part of another one's thought, each is a
        request of its own, which reads the prompt and half of the thought on average."""
        behind = self.settings.rollout.behind
        if behind is None:
            return self.answered(groups, members)
        others = groups * (members - 1)
        exits = others * (self.prompt + self.answer / 2), others * self.share * behind, 0.0
        return _sum(self.answered(groups, 1), exits)

    def learned(self, groups: int, members: int) -> tuple[float, float, float]:
        """Answers that are trained on, beside what it took to have them."""
        g = self.settings.grpo
        rows = groups * members
        said = groups * said_in_group(self.settings.rollout, members, self.share)
        tokens = rows * (self.prompt + given_between(self.settings.rollout)) + said
        looked = 1 if g.kl > 0 else 0
        started = 1 if g.minibatches > 1 and self.settings.importance_cap is not None else 0
        learned = tokens * (1 + g.replay / 2) * self.passes  # about half are better than their group
        return learned + tokens * (looked + started), float(rows * looked), learned


def _stages(settings: Settings, counts: Counts, *, second: bool = False) -> Iterator[_Tokens]:
    """Of GRPO; a `second` run has the base model's answers of an earlier one."""
    g, samples, judge = settings.grpo, settings.evaluate.samples, settings.judge
    members, times = settings.rollout.group_size, validations(g, counts)
    paces = [_Pace(settings=settings, prompt=counts.tokens, share=share) for share in SHARES]
    more, back = resampled(g, counts), repeated(settings, counts)

    def stage(name: str, groups: int, *sizes: int, again: int = 0) -> _Tokens:
        numbers = groups, groups + again
        low, high = (
            _sum(*(pace.answered(number, size) for size in sizes))
            for pace, number in zip(paces, numbers, strict=True)
        )
        return _Tokens(stage=name, low=low, high=high)

    if settings.prompts.probe:
        yield stage("probe of the pool", counts.train, settings.prompts.probe)
    yield stage("first validation", counts.validation if times else 0, samples)
    low, high = (
        _sum(
            pace.rollouts(steps * (g.candidates(counts.train) + extra), members),
            pace.learned(steps * (g.prompts_per_step + (0 if settings.flat == "drop" else extra)), members),
        )
        for pace, steps, extra in zip(paces, (g.steps, g.steps + back.steps), (0, more), strict=True)
    )
    yield _Tokens(stage="training", low=low, high=high)
    looked = counts.validation * max(0, times - 1)
    yield stage("validation", looked, samples, again=counts.validation * back.looks)
    if settings.reward.judges and judge.anchors:
        shown = min(judge.anchor_prompts, counts.train)
        yield stage("anchors", shown * max(1, times), samples, again=shown * back.looks)
    yield stage("held-out comparison", counts.held_out * (compared(settings) - second), samples, 1)
    if settings.evaluate.probes:
        yield _probed(paces, second=second)


def _probed(paces: Sequence[_Pace], *, second: bool) -> _Tokens:
    """Looks at what is not the task, before training (not in a `second` run) and after it: each instruction
    answered twice, each text read; and after training the sampled answers of before."""
    from refine_rl.evaluate.probes import MOST_TOKENS, instructions, neutral  # late: few plans need it

    texts = sum(tokens(len(text)) for text in neutral())
    asked = [tokens(len(one.messages[0]["content"])) for one in instructions()]
    looks = 2 - second
    low, high = (
        (
            looks * (texts + 2 * sum(asked)) + sum(asked) + pace.share * MOST_TOKENS * len(asked),
            looks * 2 * pace.share * MOST_TOKENS * len(asked),
            0.0,
        )
        for pace in paces
    )
    return _Tokens(stage="probes", low=low, high=high)


def _imitated(settings: Settings, sft: SFTSettings, rows: Rows) -> Iterator[_Tokens]:
    """Of supervised fine-tuning: rows, looks at the validation rows, examples before and after."""
    every, found = looks_every(sft, rows), []
    examples = 2 * min(sft.examples, rows.validation or rows.train)
    for share, steps in zip(SHARES, (earliest(sft, rows), rows.steps), strict=True):
        trained = rows.tokens * rows.epochs * steps / rows.steps
        looks = 1 + (steps // every + (steps == rows.steps and steps % every > 0)) if every else 0
        answered = _Pace(settings=settings, prompt=rows.prompt, share=share).answered(examples, 1)
        found.append(_sum(answered, (trained + looks * rows.looked, 0.0, trained)))
    yield _Tokens(stage="supervised fine-tuning", low=found[0], high=found[1])


def _sum(*parts: tuple[float, float, float]) -> tuple[float, float, float]:
    prefilled, sampled, trained = (sum(column) for column in zip(*parts, strict=True))
    return prefilled, sampled, trained
