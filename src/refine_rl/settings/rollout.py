"""[rollout] and [rollout.early_exit]: how the policy answers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from refine_rl.settings.base import Impossible, Positive, Section


class EarlyExitSettings(Section):
    """[rollout.early_exit]: S-GRPO (arXiv 2505.07686). A group is one answer with its whole thought and
    rollout.group_size - 1 early exits (fewer where the thought is shorter): the same thought cut at random
    places, ended there, and answered. Right answers (reward.success) earn 1, 1/2, 1/4 ... from the earliest
    exit on, others 0. Only in training: validation and comparison let the model think."""

    ends: str
    """The text with which the model itself ends a thought, such as "</think>"."""
    forced: str = ""
    """What is put where a thought is cut: it ends the thought, so `ends` must stand in it. Without it, `ends`
    alone."""
    answer_tokens: Positive = 64
    """The answer behind an early exit is cut here; thought, `forced` and answer together stay within
    rollout.max_tokens."""

    impossible: ClassVar[tuple[Impossible[EarlyExitSettings], ...]] = (
        Impossible(
            when=lambda it: not it.ends.strip(),
            why="needs `ends`, the text with which the model ends a thought",
        ),
        Impossible(
            when=lambda it: bool(it.ends.strip() and it.forced) and it.ends not in it.forced,
            why="has a `forced` that does not end the thought",
            way_out="put {it.ends!r} into it",
        ),
    )


def _of_environments(it: RolloutSettings) -> bool:
    """Whether a setting is there that only an environment reads."""
    usual = RolloutSettings.model_fields
    own = ("turns", "trajectory_tokens", "turn_timeout", "history")
    return any(getattr(it, name) != usual[name].default for name in own)


class RolloutSettings(Section):
    """[rollout]: how the policy answers."""

    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions a prompt; their spread is what GRPO learns from."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of the sampling; higher is more varied."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the likeliest tokens that together reach this probability are sampled; 1: all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only this many of the likeliest tokens are sampled; 0: all."""
    max_tokens: Positive = 256
    """A completion is cut here, with stop reason "length"; with an environment or tools, each turn of it."""
    environment: str = ""
    """A world in which the policy takes several turns: "my_env.py:Guess", a class of the task's own with
    `start` and `step` (or Gymnasium's `reset` and `step`). Without it, a completion is one answer.
    "python:Guess" stands in a run to which the class was given from Python."""
    tools: list[str] = []
    """Functions that the policy may call: ["tools.py:search", "tools.py:add"], with type hints and a
    docstring. What they return comes back as a message, until a reply calls none. `turns`,
    `trajectory_tokens` and `turn_timeout` are theirs too."""
    turns: Positive = 8
    """With an environment or tools: the policy speaks at most so many times."""
    trajectory_tokens: Annotated[int, Field(ge=0)] = 0
    """With an environment or tools: tokens of a whole trajectory behind its prompt, theirs included. A turn
    that might go beyond is not begun. 0: only what the model reads is a limit."""
    turn_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that one call of the environment, or all tools of a reply, may take. What takes longer is
    stopped, and the trajectory's score is missing."""
    ahead: Literal["auto", 0, 1] = "auto"
    """1: the next step's answers are sampled while this step's are being judged, so with weights one update
    older (none across a checkpoint or validation). 0: always with the newest. "auto": 1 where an LLM
    is asked for scores, without grpo.resample or a policy that teaches itself, else 0."""
    history: Literal["refuse", "as_sampled"] = "refuse"
    """Of trajectories of several turns, where the model's template writes an earlier turn anew once the
    conversation goes on (it drops thoughts, for one). "as_sampled": every turn stays in front of the model as
    it was sampled. "refuse": such a template is refused."""
    early_exit: EarlyExitSettings | None = None
    """Thoughts are cut and answered early, so that short ones win; not without this table."""

    impossible: ClassVar[tuple[Impossible[RolloutSettings], ...]] = (
        Impossible(
            when=lambda it: not it.several_turns and _of_environments(it),
            why="takes `turns`, `trajectory_tokens`, `turn_timeout` and `history` with an `environment` or "
            "`tools` only",
        ),
        Impossible(
            when=lambda it: it.several_turns and 0 < it.trajectory_tokens < it.max_tokens,
            why="has `trajectory_tokens` that leave no room for a turn of `max_tokens`",
        ),
        Impossible(
            when=lambda it: bool(it.environment and it.tools),
            why="has an `environment` and `tools`, and plays one of them",
            way_out="leave one out; an environment may call functions itself",
        ),
        Impossible(
            when=lambda it: it.several_turns and it.early_exit is not None,
            why="has an `environment` or `tools`, and `early_exit` cuts the thought of a single answer",
            way_out="leave one of them out",
        ),
    )

    @property
    def several_turns(self) -> bool:
        """Whether the policy takes turns with somebody: an environment, or tools."""
        return bool(self.environment or self.tools)

    @property
    def world(self) -> str:
        """Whom it takes turns with, as the settings name it."""
        return self.environment or f"tools ({', '.join(self.tools)})"

    @property
    def limits(self) -> dict[str, int]:
        """The settings that cut a completion, with their tokens."""
        own = {"rollout.max_tokens": self.max_tokens}
        if self.trajectory_tokens:
            own["rollout.trajectory_tokens"] = self.trajectory_tokens
        if self.early_exit is not None:  # what comes after a cut thought has a limit of its own
            own["rollout.early_exit.answer_tokens"] = self.early_exit.answer_tokens
        return own

    @property
    def most_tokens(self) -> int:
        """The most tokens that the policy may say in a trajectory."""
        if not self.several_turns:
            return self.max_tokens
        every = self.turns * self.max_tokens
        return min(every, self.trajectory_tokens) if self.trajectory_tokens else every

    @property
    def behind(self) -> int | None:
        """The most tokens of a group's other answers, where these begin behind parts of a whole one's
        thought (as many as it is long enough for); None where each answer of a group is whole."""
        return None if self.early_exit is None else self.early_exit.answer_tokens

    @property
    def decays(self) -> bool:
        """Whether a right answer earns less the later it stands in its group; that is a spread of its own."""
        return self.early_exit is not None
