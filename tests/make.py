"""What tests are made of: a builder for each record, with defaults for what a test does not care about.

from make import attempts, prompt, scored
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refine_rl.errors import Interrupted
from refine_rl.settings.toml_write import dump_toml
from refine_rl.types import (
    Comparison,
    Contrast,
    Estimate,
    Group,
    Message,
    Metric,
    Part,
    Prompt,
    Score,
    Segment,
    Split,
    StepMetrics,
    StopReason,
    Taught,
    Trajectory,
    Verdict,
)


def prompt(
    name: int | str = 1,
    text: str = "Say hi.",
    /,
    *,
    system: str = "",
    split: Split = "train",
    facets: Mapping[str, str] | None = None,
    origin: str = "",
    **data: Any,
) -> Prompt:
    """
    >>> prompt(7, "Add.", answer=9).id, prompt("seven", system="Be brief.").messages[0]["role"]
    ('p7', 'system')
    """
    messages: tuple[Message, ...] = ({"role": "user", "content": text},)
    if system:
        messages = ({"role": "system", "content": system}, *messages)
    name = f"p{name}" if isinstance(name, int) else name
    return Prompt(id=name, split=split, messages=messages, facets=facets or {}, data=data, origin=origin)


def prompts(*texts: str) -> list[Prompt]:
    """Prompts of training, named from p0 on."""
    return [prompt(number, text) for number, text in enumerate(texts)]


def write_pairs(folder: Path, words: Sequence[str]) -> None:
    """prompts.jsonl: a prompt for each pair of words."""
    lines = [{"prompt": f"say something about the {a} and a {b}"} for a in words for b in words if a < b]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def trajectory(
    of: Prompt | str,
    *turns: str,
    member: int = 0,
    tokens: int | Sequence[int] | None = None,
    given: Sequence[int] = (1, 2, 3),
    logprob: float = -1.0,
    segments: Sequence[Segment] = (),
    stop: StopReason = "stop",
) -> Trajectory:
    """An attempt at the prompt `of`, or at one of that name without messages.

    `turns` are the policy's words, the environment's, the policy's ...; without any it said nothing. `tokens`
    are the sampled tokens, or how many, each with `logprob`; those of the prompt, `given`, stand before them.
    Or whole `segments` are given; or nothing is, where nobody looks at tokens.
    """
    if tokens is not None:
        ids = tuple(range(tokens)) if isinstance(tokens, int) else tuple(tokens)
        segments = (
            Segment(token_ids=tuple(given), trainable=False),
            Segment(token_ids=ids, trainable=True, logprobs=(logprob,) * len(ids)),
        )
    said: list[Message] = [
        {"role": "user" if number % 2 else "assistant", "content": text} for number, text in enumerate(turns)
    ]
    return Trajectory(
        prompt_id=of if isinstance(of, str) else of.id,
        member=member,
        messages=(*(() if isinstance(of, str) else of.messages), *said),
        segments=tuple(segments),
        stop_reason=stop,
    )


def attempts(of: Prompt | str, *said: str | int) -> tuple[Trajectory, ...]:
    """The members of a group: each said a text, or so many tokens."""
    return tuple(
        trajectory(of, what, member=m) if isinstance(what, str) else trajectory(of, member=m, tokens=what)
        for m, what in enumerate(said)
    )


def scored(reward: Any, of: Prompt, *texts: str) -> list[Score]:
    """What a reward, or a part of one, gives to a group of these answers."""
    return asyncio.run(reward.score_group(of, attempts(of, *texts)))


def score(value: float | None, /, **breakdown: float) -> Score:
    """None is a missing score."""
    if value is None:
        return Score.missing("the judge did not answer", breakdown)
    return Score(value=value, breakdown=breakdown)


def group(
    of: Prompt,
    *scores: Score | float | None,
    step: int = 1,
    trajectories: Sequence[Trajectory] | None = None,
    advantages: Sequence[float | None] | None = None,
    taught: Sequence[Taught] = (),
) -> Group:
    """A scored group. An advantage is the reward less the group's mean, unless it is given."""
    found = tuple(s if isinstance(s, Score) else score(s) for s in scores)
    if advantages is None:
        values = [s.value for s in found if s.value is not None]
        mean = sum(values) / max(1, len(values))
        advantages = [None if s.value is None else s.value - mean for s in found]
    if trajectories is None:
        trajectories = [trajectory(of, member=member) for member in range(len(found))]
    return Group(
        step=step,
        prompt=of,
        trajectories=tuple(trajectories),
        scores=found,
        advantages=tuple(advantages),
        taught=tuple(taught),
    )


def metrics(step: int = 1, **changes: Any) -> StepMetrics:
    """A step of a healthy run."""
    usual: dict[str, Any] = {
        "reward_mean": 0.5,
        "reward_std": 0.2,
        "components": {},
        "groups": 4,
        "groups_zero_variance": 0,
        "groups_missing": 0,
        "tokens_mean": 30.0,
        "clipped_share": 0.0,
        "loss": 0.0,
        "kl": 0.0,
        "entropy": 1.0,
        "grad_norm": 1.0,
        "learning_rate": 1e-4,
        "seconds": {"total": 1.0},
        "tokens_per_second": 100.0,
        "cost_usd": None,
    }
    return StepMetrics(step=step, **(usual | changes))


def event(kind: str, name: str = "", text: str = "", step: int | None = None) -> dict[str, Any]:
    """A line of a run's events."""
    return {"time": "2026-01-02T03:04:05+00:00", "step": step, "kind": kind, "name": name, "text": text}


def estimate(
    mean: float, low: float | None = None, high: float | None = None, *, by: float = 0.0
) -> Estimate:
    """With the interval from `low` to `high`, or of `by` to each side."""
    ends = (mean - by if low is None else low, mean + by if high is None else high)
    return Estimate(mean=mean, ci95=ends)


def contrast(base: float, tuned: float, by: float = 0.05) -> Contrast:
    """Three estimates, with intervals of `by` to each side."""
    return Contrast(
        base=estimate(base, by=by), tuned=estimate(tuned, by=by), difference=estimate(tuned - base, by=by)
    )


def metric(of: Contrast, prompts: int = 64, **changes: Any) -> Metric:
    """A metric with the estimates of a contrast."""
    return Metric(base=of.base, tuned=of.tuned, difference=of.difference, prompts=prompts, **changes)


def part(prompts: int, difference: float = 0.5) -> Part:
    """From 0.25 on, with intervals of an eighth to each side."""
    found = contrast(0.25, 0.25 + difference, 0.125)
    return Part(prompts=prompts, base=found.base, tuned=found.tuned, difference=found.difference)


def comparison(
    word: Verdict = "better", difference: Estimate | Contrast | None = None, /, **changes: Any
) -> Comparison:
    """Of 64 prompts, each answered 4 times; a contrast for `difference` gives base and tuned as well."""
    usual: dict[str, Any] = {
        "prompts": 64,
        "base": estimate(0.21, 0.17, 0.26),
        "tuned": estimate(0.83, 0.79, 0.86),
        "difference": difference,
        "verdict": word,
        "examples": (),
        "samples": 4,
    }
    if isinstance(difference, Contrast):
        usual |= {name: getattr(difference, name) for name in ("base", "tuned", "difference")}
    return Comparison(**(usual | changes))


def task_toml(model: Path, /, **tables: Mapping[str, Any]) -> str:
    """The text of a task.toml for a run of a second on the prompts.jsonl beside it, with `tables` over the
    usual ones. A key whose value is None is left out."""
    usual: dict[str, dict[str, Any]] = {
        "model": {"name": str(model), "rank": 4, "device": "cpu", "dtype": "float32"},
        "prompts": {"source": "file:prompts.jsonl", "validation": 0, "held_out": 6},
        "rollout": {"group_size": 4, "max_tokens": 10},
        "grpo": {"steps": 3, "prompts_per_step": 3, "learning_rate": 0.02, "all_cut_patience": 99},
        "evaluate": {"samples": 2, "bootstrap": 200},
    }
    names = {**usual, **tables}
    return dump_toml({"task": "Be short.", **{n: {**usual.get(n, {}), **tables.get(n, {})} for n in names}})


class Pause:
    """Interrupts at the n-th call."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted("stop")


class Told:
    """An observer that keeps the notes that it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None: ...

    def step(self, metrics: Any, steps: int) -> None: ...
