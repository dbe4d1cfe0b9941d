"""The records of the evidence: what models did with the same prompts, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from refine_rl.types.records import Message, Played, Prompt, Score, Trajectory
from refine_rl.types.values import count_of, decimals

Verdict = Literal["better", "not better", "worse", "too few to tell", "no signal", "not possible"]

MIN_PROMPTS = 5
"""With fewer, a bootstrap interval means nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one model did with one prompt in an evaluation: its sampled answers and a greedy one."""

    prompt: Prompt
    sampled: tuple[tuple[Trajectory, Score], ...]
    greedy: tuple[Trajectory, Score]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its 95 % confidence interval.

    >>> Estimate(mean=0.5, ci95=(0.4, 0.6)).mean
    0.5
    """

    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """One measure on the same prompts, base against tuned; `difference` is paired by prompt."""

    base: Estimate
    tuned: Estimate
    difference: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Part(Contrast):
    """The rewards of base and tuned on some of the compared prompts; `prompts` is how many. `chance` is how
    often a difference this large comes where there is none (None: not tested), and `holds` says whether it is
    there, corrected for all parts that were looked at."""

    prompts: int
    chance: float | None = None
    holds: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside(Estimate):
    """Another's value on the same prompts, and what the tuned model has more (paired by prompt)."""

    tuned_minus: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Other(Beside):
    """Another model's reward. `details` holds the same for other measures, named as those of the comparison:
    `base` is the other model's there.

    A rival, which was made to stand beside the tuned model, says `how`; `over_base` is what it has more than
    base (paired by prompt). It took so many scored `answers`, `calls` to LLMs, `cost_usd` (None: unknown) and
    `seconds` to make. `at_use` is what one of its answers costs in words, `draws` how many are drawn for it,
    and `tokens` what is sampled for it on average; `found` is a system prompt, `folder` where its weights lie
    in the run's folder.
    """

    details: Mapping[str, Contrast] = field(default_factory=dict)
    how: str = ""
    over_base: Estimate | None = None
    answers: int = 0
    calls: int = 0
    cost_usd: float | None = None
    seconds: float | None = None
    at_use: str = ""
    tokens: float | None = None
    draws: int = 1
    found: str = ""
    folder: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Took:
    """What training took: scored answers, dollars (None: unknown) and seconds.

    >>> Took(answers=512, cost_usd=0.0, seconds=64.5).answers
    512
    """

    answers: int
    cost_usd: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ship:
    """Which of all models to use: the one that costs least at use among the best. `as_well` are the others
    from which the prompts could not tell the best one; `unsure` those that are neither surely better than
    base nor surely behind the best.

    >>> Ship(name="tuned", as_well=("best_of_n",)).name
    'tuned'
    """

    name: str
    as_well: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric(Contrast):
    """A metric of the greedy answers to so many `prompts`: `how` it was computed, `notes` on what else was
    counted, and `others`, further models by name."""

    prompts: int
    how: str = ""
    notes: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[str, Beside] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """What training changed outside of its task: the `perplexity` of so many neutral `texts`, and of so many
    general `instructions` the share of greedy answers that stayed the `same` and of those that `ended`, their
    `tokens`, and `kl`, that of base to tuned in nats a token of base's sampled answers."""

    texts: int
    instructions: int
    perplexity: Contrast
    kl: Estimate
    same: Estimate
    ended: Contrast
    tokens: Contrast


@dataclass(frozen=True, kw_only=True, slots=True)
class Variety:
    """Whether answers depend on the prompt, read off a set of answers to several prompts.

    `distinct_share` is the share of answers whose text no other prompt got: 1 where every prompt has answers
    of its own, 0 where each answer is given to another prompt as well; None with fewer than two prompts.
    `openings` are the most frequent first words that answers to several prompts begin with, each with the
    share of all answers.
    """

    distinct_share: float | None
    openings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """How much answers say of what their prompts are about.

    `tokens` is their mean length, `kept` the mean share of the prompt's content words that they keep (None
    where no prompt has any), `by_length` how far their rewards follow from their lengths alone: near 1 where
    length decides, about 0 or below where it says nothing, None where too few differ to tell.
    """

    tokens: float
    kept: float | None
    by_length: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """What was said behind a prompt in a world of several turns, by the policy and by the world, and what the
    world made of it."""

    messages: tuple[Message, ...]
    played: Played


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One held-out prompt side by side. Where a world of several turns was played, an answer is the policy's
    last, and `dialogues` has all turns: those of "base", of "tuned", and of further models by name."""

    prompt: str
    base: str
    tuned: str
    base_reward: float | None
    tuned_reward: float | None
    facets: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)  # what further models answered, by name
    dialogues: Mapping[str, Dialogue] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Base against tuned on held-out prompts.

    `verdict` is read off the interval of `difference` (sampled reward): "better" above 0, "worse" below 0,
    else "not better". Three verdicts come before it: "no signal" where training moved no weight, "not
    possible" where no prompt has a score on both sides (then the three estimates are None), "too few to
    tell" where fewer than 5 have.

    `details` holds the same contrast for other measures: "greedy" (reward of the greedy answer), "success"
    and "success_greedy" (share of full successes), "cut" (share of sampled answers that were cut at the
    token limit), and "component:NAME" for each component. `facets` has the rewards by facet and value,
    `combinations` those on "seen" combinations of facets, which some prompt of training has, and on
    "unseen" ones; it is empty where every combination was seen. `variety` is of the sampled answers of
    "base" and "tuned", and of the greedy ones ("base_greedy", "tuned_greedy"); `content` is of the sampled
    answers of "base" and "tuned". `others` are further models on the same prompts: "sft", from which training
    began, and rivals, of which `others_missing` says why one could not be had, and `ship` which of all to
    use; `took` is what training took where there are any. `metrics` are of the greedy answers; `controls`
    has the same of answers that no model gave (and "reward"), by the control's name and the metric's.

    `detectable` is the true difference that these prompts show in 80 of 100 cases (None: not known, or the
    per-prompt differences are all alike), `prompts_needed` how many prompts show the one that was "observed",
    and `matters`, the one that somebody wants to see ("matters"); None where 100,000 are not enough. `curves`
    have the reward of the "best" of 1, 2 ... `samples` answers, and the share of prompts with a full success
    among them ("pass").
    """

    prompts: int
    base: Estimate | None
    tuned: Estimate | None
    difference: Estimate | None
    verdict: Verdict
    examples: tuple[Example, ...]
    details: Mapping[str, Contrast] = field(default_factory=dict)
    samples: int = 1
    prompts_missing: int = 0  # prompts left out because a side has no sampled score
    scores_missing: Mapping[str, int] = field(default_factory=dict)  # of "base" and "tuned", greedy included
    facets: Mapping[str, Mapping[str, Part]] = field(default_factory=dict)
    combinations: Mapping[str, Part] = field(default_factory=dict)
    variety: Mapping[str, Variety] = field(default_factory=dict)
    content: Mapping[str, Content] = field(default_factory=dict)
    others: Mapping[str, Other] = field(default_factory=dict)
    others_missing: Mapping[str, str] = field(default_factory=dict)
    took: Took | None = None
    ship: Ship | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    controls: Mapping[str, Mapping[str, Beside]] = field(default_factory=dict)
    detectable: float | None = None
    matters: float | None = None
    prompts_needed: Mapping[str, int | None] = field(default_factory=dict)
    curves: Mapping[str, tuple[Contrast, ...]] = field(default_factory=dict)
    forgetting: Forgetting | None = None  # where it was looked for

    @property
    def prompts_asked(self) -> int:
        """The prompts that both models answered, scored or not."""
        return self.prompts + self.prompts_missing

    @property
    def rivals(self) -> Mapping[str, Other]:
        """Those of the others that were made to stand beside the tuned model."""
        return {name: other for name, other in self.others.items() if other.how}

    @property
    def stages(self) -> Mapping[str, Other]:
        """The others: models from which training began."""
        return {name: other for name, other in self.others.items() if not other.how}

    @property
    def reward(self) -> Contrast | None:
        """The sampled reward of base and tuned; None where nothing could be compared."""
        if self.base is None or self.tuned is None or self.difference is None:
            return None
        return Contrast(base=self.base, tuned=self.tuned, difference=self.difference)

    def __str__(self) -> str:
        def show(e: Estimate) -> str:
            if self.prompts < MIN_PROMPTS:
                return decimals(e.mean)
            return f"{decimals(e.mean)} [{decimals(e.ci95[0])}, {decimals(e.ci95[1])}]"

        prompts = count_of(self.prompts, "held-out prompt")
        if self.prompts_missing:
            prompts = f"{self.prompts} of {self.prompts_asked} held-out prompts"
        if "cut" in self.details:
            base, tuned = (side.mean for side in (self.details["cut"].base, self.details["cut"].tuned))
            prompts += f", answers cut at the token limit: base {base:.0%}, tuned {tuned:.0%}"
        if self.reward is None:
            return f"{self.verdict}: scores of both models on {prompts}"
        return (
            f"{self.verdict}: base {show(self.reward.base)} -> tuned {show(self.reward.tuned)}, "
            f"difference {show(self.reward.difference)} on {prompts}"
        )
