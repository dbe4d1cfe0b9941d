"""The records of the way from a prompt to an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

Split = Literal["train", "validation", "held_out"]
Status = Literal["scored", "invalid", "missing"]
StopReason = Literal["stop", "length"]
End = Literal["done", "limit", "failed"]
"""How a trajectory of several turns ended: the world said so; turns or tokens ran out; the world failed."""

RIGHT_STEPS = "right_steps"
"""In the breakdown of a wrong answer whose steps were graded: the share before its first wrong one."""

LOGGED = "logged/"
"""What the name of a number that a reward function logged begins with, in breakdowns."""


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
    """A chat whose answers are to be imitated; `name` says where it stands in its source. `given` are the
    places of answers that stand there, and are not imitated.

    >>> shown = Demonstration(name="file:pairs.jsonl:1", messages=(
    ...     {"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi!"}))
    >>> shown.asked, shown.answer
    (({'role': 'user', 'content': 'Say hi.'},), 'Hi!')
    """

    name: str
    messages: tuple[Message, ...]
    split: Split = "train"
    given: frozenset[int] = frozenset()

    @property
    def asked(self) -> tuple[Message, ...]:
        """What stands before the last answer that is imitated."""
        return self.messages[: self._last]

    @property
    def answer(self) -> str:
        """The last answer that is imitated."""
        return self.messages[self._last]["content"]

    @property
    def _last(self) -> int:
        return max(n for n, m in enumerate(self.messages) if m["role"] == "assistant" and n not in self.given)


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
class Played:
    """What a world of several turns made of a trajectory: a reward for each turn that it saw, how it ended,
    and why where it was not the world that ended it.

    >>> Played(rewards=(0.0, 1.0), end="done").why
    ''
    """

    rewards: tuple[float, ...]
    end: End
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """The full record of one attempt: member `member` of its prompt's group.

    The concatenated segments are exactly the tokens that the model saw and wrote; text is decoded
    from them and never encoded again. The first segment is the prompt. `played` is there where a world of
    several turns was played: then the messages behind the prompt's are the policy's and the world's in turn,
    and what the world said at the very end is a message without tokens, as nobody read it. What it said at
    the very beginning ends the prompt's last message.

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
    played: Played | None = None

    @property
    def completion(self) -> str:
        """What the policy answered last ("" where it has not answered)."""
        if self.played is not None:
            return next(reversed(self.answers), "")
        last = self.messages[-1] if self.messages else None
        return last["content"] if last is not None and last["role"] == "assistant" else ""

    @property
    def said(self) -> str:
        """All that the policy said: its answers, a blank line between them."""
        return "\n\n".join(self.answers)

    @property
    def answers(self) -> tuple[str, ...]:
        """What the policy said, a text a turn: as many of the assistant's last messages as were sampled."""
        if self.played is None:
            return (self.completion,)
        said = [m["content"] for m in self.messages if m["role"] == "assistant"]
        turns = sum(s.sampled for s in self.segments)
        return tuple(said[len(said) - turns :])

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
class Taught:
    """What a teacher makes of a trajectory: its log-prob of each sampled token, in order. `shown` is what it
    was shown beside the prompt, where the policy teaches itself.

    >>> Taught(logprobs=(-0.5, -2.0)).logprobs
    (-0.5, -2.0)
    """

    logprobs: tuple[float, ...]
    shown: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The G trajectories of one prompt at one step, scored.

    `advantages` has one entry a trajectory: 0.0 for a member that teaches nothing and None for one that
    leaves the loss, as its score is missing or its group was dropped. `taught` has one a trajectory where
    there is a teacher, and none else; then a member without an advantage teaches all the same. It is None for
    one that the teacher has nothing to say of.
    """

    step: int
    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    scores: tuple[Score, ...]
    advantages: tuple[float | None, ...]
    taught: tuple[Taught | None, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.trajectories) == len(self.scores) == len(self.advantages):
            raise ValueError("a group needs one score and one advantage for each trajectory")
        for t, its in zip(self.trajectories, self.taught, strict=bool(self.taught)):
            if its is not None and len(its.logprobs) != t.completion_tokens:
                raise ValueError(f"{t.completion_tokens} sampled tokens, {len(its.logprobs)} of the teacher")

    @property
    def each_taught(self) -> tuple[Taught | None, ...]:
        """What a teacher makes of each member; None where there is no teacher."""
        return self.taught or (None,) * len(self.trajectories)

    @property
    def agreement(self) -> float | None:
        """How far the judges' looks at this group agreed; None without two looks."""
        return next((s.agreement for s in self.scores if s.agreement is not None), None)
