"""A run's folder with games of several turns in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import make
from refine_rl.evaluate.compare import compare
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.types import End, Outcome, Played, Prompt, Score, Segment, Trajectory

SOLVED = ("25", "higher", "33", "lower", "29", "right")
LOST = ("12", "higher", "14", "higher", "38", "lower", "20", "higher", "21", "it was 29")


def game(
    prompt: Prompt,
    said: Sequence[str],
    rewards: Sequence[float],
    end: End = "done",
    why: str = "",
    member: int = 0,
) -> Trajectory:
    """What policy and world said in turn, two tokens a message."""
    turn = Segment(token_ids=(5, 6), trainable=True, logprobs=(-0.5, -0.5))
    heard = Segment(token_ids=(7, 8), trainable=False)
    behind = [heard if place % 2 else turn for place in range(len(said))]
    segments = (Segment(token_ids=(1, 2, 3), trainable=False), *behind)
    if len(said) % 2 == 0:
        segments = segments[:-1]  # what is said at the very end nobody reads
    made = make.trajectory(prompt, *said, member=member, segments=segments)
    return replace(made, played=Played(rewards=tuple(rewards), end=end, why=why))


def games_run(folder: Path, hostile: str) -> RunFolder:
    """Two groups: one with every end, one long, with tiles and a hostile world; and a comparison."""
    settings = Settings.model_validate(
        {
            "task": "Find the number in five guesses.",
            "model": {"name": "tiny"},
            "rollout": {"environment": "world.py:Guess", "turns": 12},
        }
    )
    run = RunFolder.create(folder, settings)
    prompts = [
        make.prompt(n, f"I think of a number from {10 + n} to {36 + n}.", split="held_out") for n in range(6)
    ]
    train = [make.prompt(10 + n, f"A number from {10 + n} to 38.") for n in range(2)]
    run.save_prompts([*train, *prompts])
    attempts = [
        game(train[0], SOLVED, (0, 0, 1), member=0),
        game(train[0], LOST, (0, 0, 0, 0, 0), member=1),
        game(train[0], ("25", "higher", "thirty and so on"), (0,), "limit", "a turn was cut", member=2),
        game(train[0], ("25",), (), "failed", "step raised ValueError: no such number", member=3),
    ]
    long = [turn for k in range(12) for turn in (f"CRANE {k}", "C🟩R🟨A⬛N⬛E⬜ 🟩🟥🟦")]
    hacks = [
        hostile,
        hostile + "\nand a second line, which goes on for a good while and then some more",
        "a",
        "",
    ]
    others = [
        game(train[1], long, [0.1] * 11 + [-0.2], member=0),
        game(train[1], hacks, (0, 0.5), member=1),
    ]
    run.append_groups(
        [
            make.group(train[0], 1.0, 0.0, 0.0, Score.missing("the world failed"), trajectories=attempts),
            make.group(train[1], 0.9, 0.5, trajectories=others),
        ]
    )
    ends = {"done": 0.75, "limit": 0.25}
    run.metrics.append(make.metrics(1, turns_mean=3.5, ends=ends))
    run.metrics.append(make.metrics(2, turns_mean=2.5, ends=ends))
    base, tuned = (
        [_outcome(p, said, value) for p in prompts] for said, value in ((LOST, 0.0), (SOLVED, 1.0))
    )
    first = game(prompts[0], [*long[:-1], hostile], [0.0] * 12)
    base[0] = replace(base[0], greedy=(first, make.score(0.0)))
    run.save_outcomes("base", base)
    run.save_outcomes("tuned", tuned)
    run.save_comparison(compare(base, tuned, success=lambda s: s.value == 1, resamples=100, seed=0))
    return run


def _outcome(prompt: Prompt, said: Sequence[str], value: float) -> Outcome:
    played = game(prompt, said, [0.0] * (len(said) // 2 - 1) + [value])
    score = make.score(value, world=value)
    return Outcome(prompt=prompt, sampled=((played, score),) * 2, greedy=(played, score))
