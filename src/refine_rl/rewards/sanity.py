"""Good and bad examples that the reward must order rightly before any training."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from refine_rl.errors import UserError
from refine_rl.progress import Pause, never
from refine_rl.rewards.base import Reward
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.settings import SanityCase
from refine_rl.types import Prompt, Score, Trajectory, decimals


def check_sanity(
    reward: Reward,
    cases: Sequence[SanityCase],
    *,
    closing: Callable[[], Awaitable[None]] | None = None,
    pause: Pause = never,
) -> None:
    """Score each case's good and bad completion; raise a UserError that names every case ordered wrongly.

    A case that cannot be scored stops as well, with the traceback. The completions are not
    tokenized here, so a penalty counted in tokens does not act.
    """
    prompts = [_prompt(case, number) for number, case in enumerate(cases, start=1)]
    for prompt in prompts:
        try:
            reward.check_prompt(prompt)
        except UserError as error:
            raise UserError(f"{error} A sanity case takes it in `data`.") from None
    if not cases:
        return
    with ScoringLoop(closing=closing) as loop:
        pairs = loop.score(
            reward,
            [
                (
                    prompt,
                    [_trajectory(prompt, text, member) for member, text in enumerate((case.good, case.bad))],
                )
                for prompt, case in zip(prompts, cases, strict=True)
            ],
            pause,
        )
    problems = [
        problem
        for prompt, case, (good, bad) in zip(prompts, cases, pairs, strict=True)
        if (problem := _problem(prompt, case, good, bad))
    ]
    if problems:
        raise UserError(
            "\n".join(problems) + "\nThe reward would teach the wrong thing: correct it, or the case."
        )


def _prompt(case: SanityCase, number: int) -> Prompt:
    return Prompt(
        id=f"sanity-{number}",
        split="train",
        messages=({"role": "user", "content": case.prompt},),
        data=case.data,
        origin=f"reward.sanity, case {number}",
    )


def _trajectory(prompt: Prompt, completion: str, member: int) -> Trajectory:
    return Trajectory(
        prompt_id=prompt.id,
        member=member,
        messages=(*prompt.messages, {"role": "assistant", "content": completion}),
        segments=(),
        stop_reason="stop",
    )


def _problem(prompt: Prompt, case: SanityCase, good: Score, bad: Score) -> str:
    """What is wrong with a case, or ""."""
    for kind, score in (("good", good), ("bad", bad)):
        if score.status == "missing":
            return f"{prompt.origin}: its {kind} completion cannot be scored:\n{score.explanation}"
    if good.value is None or bad.value is None or bad.value < good.value:
        return ""
    return (
        f"{prompt.origin}: the bad completion scores at least as high as the good one:\n"
        f"  good {_show(good)}  {case.good!r}\n"
        f"  bad  {_show(bad)}  {case.bad!r}"
    )


def _show(score: Score) -> str:
    breakdown = ", ".join(f"{name} {decimals(value)}" for name, value in score.breakdown.items())
    return f"{decimals(score.value or 0.0)} ({breakdown})"
