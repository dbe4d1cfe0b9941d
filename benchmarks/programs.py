"""Code that is run: how many programs a minute, and the figures of the recipe `programs`.

    python benchmarks/programs.py speed [--programs 600] [--workers 2]
    nice -n 5 python benchmarks/programs.py recipe [--seeds 3] [--runs FOLDER] [--set KEY=VALUE ...]

`speed` scores different right programs and wrong ones, five assertions each, with the workers kept; beside it
the plain way, an interpreter begun for each program (`python -I -S`), in which tests and program meet and
nothing but a time limit is isolated. `recipe` trains once a seed in a process of its own, with another
untrained model, other examples, prompts and draws; a run that stands in FOLDER already is read. `solved`
is the share of held-out requests whose greedy answer passes every assertion, `share` the mean share of
assertions of sampled ones; `+` is a difference from the row above paired by prompt, with its 95 % bootstrap
interval.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from refine_rl.rewards.code.reward import CodeReward
from refine_rl.rewards.code.sandbox import Limits, Sandbox
from refine_rl.run import RunFolder
from refine_rl.types import Outcome, Prompt, Trajectory

TESTS = "\n".join(f"assert f({n}) == {n * n + 1}" for n in range(5))
GROUP = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    fast = kinds.add_parser("speed")
    fast.add_argument("--programs", type=int, default=600)
    fast.add_argument("--workers", type=int, default=2)
    recipe = kinds.add_parser("recipe")
    recipe.add_argument("--seeds", type=int, default=3)
    recipe.add_argument("--runs", type=Path, default=Path("runs/programs"))
    recipe.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.kind == "speed":
        speed(arguments.programs, arguments.workers)
        return
    print("| seed | | solved, greedy | + | share, sampled | + | s, of the processor |")
    print("|---|---|---|---|---|---|---|")
    for seed in range(arguments.seeds):
        run = arguments.runs / f"seed-{seed}"
        seconds = train(run, seed, arguments.set)
        table(seed, RunFolder.open(run), seconds)


# -- speed ----------------------------------------------------------------------------------------


def programs(number: int) -> list[str]:
    """Different programs, every second one right."""
    return [
        f"def f(x):\n    return x * x + 1  # {n}" if n % 2 else f"def f(x):\n    return x + {n}"
        for n in range(number)
    ]


def speed(number: int, workers: int) -> None:
    sandbox = Sandbox(Limits(seconds=4.0, cpu=2, memory=256), workers)
    print(f"isolated: {sandbox.isolation().text}")
    reward = CodeReward(tests="tests", grade="share", sandbox=sandbox)
    prompt = Prompt(
        id="p1", split="train", messages=({"role": "user", "content": "?"},), data={"tests": TESTS}
    )

    async def score(texts: Sequence[str]) -> int:
        groups = [texts[start : start + GROUP] for start in range(0, len(texts), GROUP)]
        found = await asyncio.gather(*(reward.score_group(prompt, [answer(t) for t in g]) for g in groups))
        return sum(score.value == 1.0 for group in found for score in group)

    def answer(text: str) -> Trajectory:
        said = ({"role": "user", "content": "?"}, {"role": "assistant", "content": text})
        return Trajectory(prompt_id="p1", member=0, messages=said, segments=(), stop_reason="stop")

    ours = timed(f"{workers} workers", number, lambda: asyncio.run(score(programs(number))))
    few = max(1, number // 10)
    plain = timed("an interpreter a program, one at a time", few, lambda: sum(map(plainly, programs(few))))
    print(f"{ours / plain:.1f} times as many")


def plainly(code: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"{code}\n{TESTS}"],
            cwd=folder,
            env={},
            stderr=subprocess.DEVNULL,
            timeout=4,
        )
    return done.returncode == 0


def timed(what: str, number: int, work: Callable[[], int]) -> float:
    began = time.perf_counter()
    right = work()
    seconds = time.perf_counter() - began
    print(f"{what}: {number} programs, {right} right, {60 * number / seconds:,.0f} a minute")
    return number / seconds


# -- the recipe -----------------------------------------------------------------------------------


def train(run: Path, seed: int, changes: Sequence[str]) -> str:
    """Trains, unless the run is there; the seconds of it, "" where it was."""
    if (run / "report.html").is_file():
        return ""
    settings = [f"grpo.seed={seed}", f"sft.seed={seed}", f"model.name=recipe:programs#{seed}", *changes]
    command = [sys.executable, "-m", "refine_rl", "train", "--recipe", "programs", "--run", str(run)]
    began, used = time.perf_counter(), _used()
    done = subprocess.run(
        [*command, *(word for change in settings for word in ("--set", change))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"seed {seed}: {done.stderr}")
    return f"{time.perf_counter() - began:.0f}, {_used() - used:.0f}"


def _used() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def table(seed: int, run: RunFolder, seconds: str) -> None:
    """A row for each model."""
    before: tuple[np.ndarray, np.ndarray] | None = None
    for which in ("base", "sft", "tuned"):
        found = measured(run.outcomes(which) or [])
        cells: list[str] = []
        for place, values in enumerate(found):
            cells += [f"{values.mean():.2f}", difference(values, before[place]) if before else ""]
        print(
            f"| {seed} | {which} | " + " | ".join([*cells, seconds if which == "tuned" else ""]) + " |",
            flush=True,
        )
        before = found


def measured(outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """A number a prompt: whether the greedy answer passes all, the sampled answers' mean share."""
    solved = [o.greedy[1].breakdown["code"] == 1.0 for o in outcomes if o.greedy]
    share = [np.mean([score.breakdown["code"] for _, score in o.sampled]) for o in outcomes]
    return np.array(solved, float), np.array(share, float)


def difference(values: np.ndarray, others: np.ndarray) -> str:
    """The mean difference and its interval: 10,000 resamples of the prompts."""
    gained = values - others
    places = np.random.default_rng(0).integers(0, len(gained), (10_000, len(gained)))
    low, high = np.quantile(gained[places].mean(1), (0.025, 0.975))
    return f"{gained.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
