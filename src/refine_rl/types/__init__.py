"""The records that cross the wall of a room.

They are frozen and built once, when complete. The way of the data:

    Prompt -> Trajectory -> Score -> Group -> StepMetrics        (training)
    Prompt -> Trajectory -> Score -> Outcome -> Comparison       (evidence)

This module knows nobody: no torch, no files, no other room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from refine_rl.types.metrics import Metrics, SFTMetrics, StepMetrics
from refine_rl.types.values import (
    LARGEST,
    RESIDUE,
    count_of,
    decimals,
    mean_of,
    one_line,
    reaches,
    same_value,
)

__all__ = [
    "LARGEST",
    "RESIDUE",
    "Metrics",
    "SFTMetrics",
    "StepMetrics",
    "count_of",
    "decimals",
    "mean_of",
    "one_line",
    "reaches",
    "same_value",
]

Split = Literal["train", "validation", "held_out"]
Status = Literal["scored", "invalid", "missing"]
StopReason = Literal["stop", "length"]
Verdict = Literal["better", "not better", "worse", "too few to tell", "no signal", "not possible"]

RIGHT_STEPS = "right_steps"
"""In the breakdown of a wrong answer whose steps were graded: the share before its first wrong one."""

LOGGED = "logged/"
"""What the name of a number that a reward function logged begins with, in breakdowns."""

MIN_PROMPTS = 5
"""With fewer, a bootstrap interval means nothing."""


class Message(TypedDict):
    """One message of a chat, as chat templates and endpoints know it."""

    role: str
    content: str


WRITER = "writer:"
"""How the origin of a prompt begins that an LLM wrote; its "ENDPOINT/MODEL" follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One input of the policy.

    `facets` says where the prompt lies in the task's variety (style, topic ...); `data` is what
    rewards may look at (a reference answer, the source text ...); the policy never sees either.

    >>> prompt = Prompt(id="p0001", split="train", messages=({"role": "user", "content": "Say hi."},))
    >>> prompt.text
    'Say hi.'
    """

    id: str
    split: Split
    messages: tuple[Message, ...]
    facets: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def writer(self) -> str:
        """The "ENDPOINT/MODEL" that wrote it ("" where no LLM did)."""
        return self.origin.removeprefix(WRITER) if self.origin.startswith(WRITER) else ""

    @property
    def text(self) -> str:
        """The content of the last user message ("" where there is none)."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """A chat whose answers are to be imitated; `name` says where it stands in its source.

    >>> shown = Demonstration(name="file:pairs.jsonl:1", messages=(
    ...     {"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi!"}))
    >>> shown.asked, shown.answer
    (({'role': 'user', 'content': 'Say hi.'},), 'Hi!')
    """

    name: str
    messages: tuple[Message, ...]
    split: Split = "train"

    @property
    def asked(self) -> tuple[Message, ...]:
        """What stands before the last answer."""
        return self.messages[: self._last]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[self._last]["content"]

    @property
    def _last(self) -> int:
        return max(n for n, m in enumerate(self.messages) if m["role"] == "assistant")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of tokens with one origin.

    `trainable` segments were sampled by the policy and carry one log-prob a token: natural
    logarithm, at the sampling temperature, over the whole vocabulary (before top-k and top-p).
    A `target` is trainable too, but a data set's: an answer to imitate, which nobody sampled.
    It carries no log-probs; nor do other segments (the prompt, an environment's words).

    >>> Segment(token_ids=(5, 9), trainable=True, logprobs=(-0.5, -1.25)).sampled
    True
    >>> Segment(token_ids=(5, 9), trainable=True, target=True).sampled
    False
    """

    token_ids: tuple[int, ...]
    trainable: bool
    logprobs: tuple[float, ...] = ()
    target: bool = False

    def __post_init__(self) -> None:
        if self.sampled and len(self.logprobs) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} sampled tokens but {len(self.logprobs)} log-probs")
        if self.target and (self.logprobs or not self.trainable):
            raise ValueError("a target is trainable, and was not sampled: it has no log-probs")

    @property
    def sampled(self) -> bool:
        """Whether the policy wrote it."""
        return self.trainable and not self.target


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """The full record of one attempt: member `member` of its prompt's group.

    The concatenated segments are exactly the tokens that the model saw and wrote; text is decoded
    from them and never encoded again. The first segment is the prompt.

    >>> t = Trajectory(
    ...     prompt_id="p0001", member=0, stop_reason="stop",
    ...     messages=({"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi!"}),
    ...     segments=(Segment(token_ids=(1, 2, 3), trainable=False),
    ...               Segment(token_ids=(7, 8), trainable=True, logprobs=(-0.1, -0.2))))
    >>> t.completion, t.completion_tokens
    ('Hi!', 2)
    """

    prompt_id: str
    member: int
    messages: tuple[Message, ...]
    segments: tuple[Segment, ...]
    stop_reason: StopReason

    @property
    def completion(self) -> str:
        """What the policy answered last ("" where it has not answered)."""
        last = self.messages[-1] if self.messages else None
        return last["content"] if last is not None and last["role"] == "assistant" else ""

    @property
    def completion_tokens(self) -> int:
        """The number of sampled tokens, the stop token included."""
        return sum(len(s.token_ids) for s in self.segments if s.sampled)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A verdict on one trajectory. `value` is the reward.

    - `scored`: a number.
    - `invalid`: the completion's own fault; `value` is the floor that its scorer gave it.
    - `missing`: our fault (a judge or a tool failed); `value` is None, and the trajectory leaves
      the group's statistics and the loss. A failure is never a reward.

    `breakdown` keeps every component before weights are applied. `agreement` says how far the judges'
    looks at the whole group agreed, from -1 (opposite orders) to 1 (the same); None without two looks.

    >>> Score(value=0.5, breakdown={"words": 1.0, "keeps": 0.0}).status
    'scored'
    >>> Score.missing("the judge did not answer").value is None
    True
    """

    value: float | None
    status: Status = "scored"
    breakdown: Mapping[str, float] = field(default_factory=dict)
    explanation: str = ""
    agreement: float | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.status == "missing"):
            raise ValueError(f"a {self.status} score cannot have the value {self.value!r}")
        if self.value is not None and not (float("-inf") < self.value < float("inf")):
            raise ValueError(f"a score must be a finite number, not {self.value!r}")

    @classmethod
    def missing(cls, why: str, breakdown: Mapping[str, float] | None = None) -> Score:
        """A score that could not be had, with the reason."""
        return cls(value=None, status="missing", breakdown=breakdown or {}, explanation=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The G trajectories of one prompt at one step, scored.

    `advantages` has one entry a trajectory: 0.0 for a member that teaches nothing and None for one that
    leaves the loss, as its score is missing or its group was dropped.
    """

    step: int
    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    scores: tuple[Score, ...]
    advantages: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if not len(self.trajectories) == len(self.scores) == len(self.advantages):
            raise ValueError("a group needs one score and one advantage for each trajectory")

    @property
    def agreement(self) -> float | None:
        """How far the judges' looks at this group agreed; None without two looks."""
        return next((s.agreement for s in self.scores if s.agreement is not None), None)


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
    """The rewards of base and tuned on some of the compared prompts; `prompts` is how many."""

    prompts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Other(Estimate):
    """Another model's reward on the same prompts, and what the tuned one has more (paired by prompt).

    `details` holds the same for other measures, named as those of the comparison: `base` is the other
    model's there.
    """

    tuned_minus: Estimate
    details: Mapping[str, Contrast] = field(default_factory=dict)


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
class Example:
    """One held-out prompt side by side."""

    prompt: str
    base: str
    tuned: str
    base_reward: float | None
    tuned_reward: float | None
    facets: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)  # what further models answered, by name


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
    "base" and "tuned", and of the greedy ones ("base_greedy", "tuned_greedy"). `others` are further models
    on the same prompts: "sft", from which training began.
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
    others: Mapping[str, Other] = field(default_factory=dict)

    @property
    def prompts_asked(self) -> int:
        """The prompts that both models answered, scored or not."""
        return self.prompts + self.prompts_missing

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
