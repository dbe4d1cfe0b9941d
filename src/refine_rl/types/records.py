"""The records of the way from a prompt to an update, and the small words that go with numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

Split = Literal["train", "validation", "held_out"]
Status = Literal["scored", "invalid", "missing"]
StopReason = Literal["stop", "length"]

RIGHT_STEPS = "right_steps"
"""In the breakdown of a wrong answer whose steps were graded: the share before its first wrong one."""

LOGGED = "logged/"
"""What the name of a number that a reward function logged begins with, in breakdowns."""

RESIDUE = 1e-12
"""Two rewards that differ by less than this share of themselves (or of 1) were meant to be the same: what
differs is what rounding left of different ways to the same number."""

LARGEST = 1e300
"""Larger rewards cannot be averaged."""


def same_value(values: Iterable[float]) -> bool:
    """Whether all values are the same, apart from what rounding leaves; so is a value alone.

    >>> same_value([0.3, 0.1 + 0.2]), same_value([0.3, 0.3001])
    (True, False)
    """
    found = list(values)
    low, high = min(found), max(found)
    return low == high or high - low <= RESIDUE * max(1.0, abs(low), abs(high))


def reaches(value: float, threshold: float) -> bool:
    """Whether `value` is at least `threshold`, apart from what rounding leaves.

    >>> reaches(0.1 + 0.1 + 0.1, 0.3), reaches(1 - 1e-16, 1.0), reaches(0.9999, 1.0)
    (True, True, False)
    """
    return value >= threshold or same_value([value, threshold])


def decimals(value: float, sign: str = "") -> str:
    """A reward for people: three decimals, a fourth where they would all be 0, or three digits where those
    say nothing. `sign` "+" shows it.

    >>> decimals(0.25), decimals(0.25, "+"), decimals(0.0003, "+"), decimals(-1.25e200)
    ('0.250', '+0.250', '+0.0003', '-1.25e+200')
    """
    if 0.00005 <= abs(value) < 0.0005:
        return format(value, f"{sign}.4f")
    return format(value, f"{sign}.3f" if abs(value) < 1e6 else f"{sign}.3g")


def count_of(number: int, thing: str) -> str:
    """
    >>> count_of(1, "prompt"), count_of(2, "prompt")
    ('1 prompt', '2 prompts')
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def one_line(text: str, most: int) -> str:
    """The text on one line, cut at `most` characters.

    >>> one_line("one\\n two three", 9)
    'one two …'
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def mean_of(values: Sequence[float]) -> float:
    """The mean of at least one value; also where the sum is too large for a number.

    >>> mean_of([1.5e308, 1.5e308])
    1.5e+308
    """
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.fsum(v / len(values) for v in values)


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
class Segment:
    """A run of tokens with one origin.

    `trainable` segments were sampled by the policy and carry one log-prob a token: natural
    logarithm, at the sampling temperature, over the whole vocabulary (before top-k and top-p).
    Other segments (the prompt, an environment's words) carry none.

    >>> Segment(token_ids=(5, 9), trainable=True, logprobs=(-0.5, -1.25)).trainable
    True
    """

    token_ids: tuple[int, ...]
    trainable: bool
    logprobs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.trainable and len(self.logprobs) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} sampled tokens but {len(self.logprobs)} log-probs")


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
        return sum(len(s.token_ids) for s in self.segments if s.trainable)


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
class StepMetrics:
    """One line of metrics.jsonl. Shares are in [0, 1], times in seconds, tokens sampled ones.

    A quantity that could not be computed in this step is None, never 0.
    """

    step: int
    reward_mean: float | None  # over members that have a score
    reward_std: float | None  # mean over groups of the population standard deviation in the group
    components: Mapping[str, float]
    groups: int
    groups_zero_variance: int
    groups_missing: int  # groups that lost at least one member to a missing score
    tokens_mean: float
    clipped_share: float  # completions cut at max_tokens
    loss: float | None
    kl: float | None
    entropy: float | None  # nats a token, estimated from the sampled tokens' own log-probs
    grad_norm: float | None  # before clipping
    learning_rate: float
    seconds: Mapping[str, float]  # sample, score, train, total
    tokens_per_second: float
    cost_usd: float | None
    clip_share: float | None = None  # tokens whose ratio lay outside the clip range
    mismatch_mean: float | None = None  # |log-prob of the trainer - of the sampler|, nats a token
    mismatch_max: float | None = None
    members_missing: int = 0
    kl_coefficient: float | None = None  # in force in this step
    importance_mean: float | None = None  # importance weights before they are cut; None without a cap
    importance_max: float | None = None
    groups_by_steps: int = 0  # of those without variance: told apart by the steps of their answers
    distinct_share: float | None = None  # completions whose text no other prompt of the step got
    openings: Mapping[str, float] = field(default_factory=dict)  # met under several prompts; share of all
    kept_share: float | None = None  # of the prompts' content words that completions keep
    by_length: float | None = None  # how far rewards follow from lengths alone (Content)
