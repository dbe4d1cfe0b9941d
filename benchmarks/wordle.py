"""The figures of the recipe `wordle`, on answers that its settings were not chosen by, as a table.

    OMP_NUM_THREADS=1 python benchmarks/wordle.py [--folds 2 3 4] [--runs FOLDER] [--set KEY=VALUE ...]

A fold is one whole `refine train`, as `refine demo wordle` does it, in a process of its own and in a copy of
the recipe in which `FOLD` (rules.py) is another one: 80 other answers are held out, and 24 others validate.
No word is held out in two folds. The number of the fold is the seed of all randomness, too: of the untrained
model, the players' games, the order of prompts, and the draws. A run that stands in FOLDER already is read,
or gone on with.

The recipe's settings were chosen on fold 0, whose validation answers are among those that fold 1 holds out:
so neither of the two is taken without being asked for.

Of the untrained model, after SFT, and after GRPO: share of the held-out answers found in six guesses, and
the number of guesses (7 where it was not found), in the most likely game and in four sampled at temperature
1; with 95 % bootstrap intervals over the answers. `+` is GRPO's difference from SFT, paired by answer.
Seconds are the processor's, of everything.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from refine_rl.evaluate.stats import mean_ci, paired
from refine_rl.recipes import recipe_folder
from refine_rl.run import RunFolder
from refine_rl.types import Estimate, Outcome

MODELS = {"base": "untrained", "sft": "after SFT", "tuned": "after GRPO"}
RESAMPLES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, nargs="+", default=[2, 3, 4], choices=range(5))
    parser.add_argument("--runs", type=Path, default=Path("runs/wordle"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    heads = ["fold", "", "found, greedy", "found, sampled", "guesses, greedy", "guesses, sampled"]
    print("| " + " | ".join([*heads, "s, of the processor"]) + " |\n" + "|---" * (len(heads) + 1) + "|")
    every: dict[str, list[Outcome]] = {model: [] for model in MODELS}
    for fold in arguments.folds:
        place = arguments.runs / f"fold-{fold}"
        run, seconds = refine("train", recipe(place, fold), place / "run", [*seeds(fold), *arguments.set])
        outcomes = {model: list(run.outcomes(model) or []) for model in MODELS}
        table(str(fold), outcomes, seconds)
        for model, found in outcomes.items():
            every[model] += found
    if len(arguments.folds) > 1:
        table("all", every, "")


def recipe(place: Path, fold: int) -> Path:
    """A copy of the recipe that holds out the answers of `fold`."""
    folder = place / "recipe"
    if not folder.is_dir():
        shutil.copytree(recipe_folder("wordle"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    rules = folder / "rules.py"
    text = rules.read_text(encoding="utf-8")
    assert text.count("\nFOLD = ") == 1
    head, rest = text.split("\nFOLD = ")
    rules.write_text(f"{head}\nFOLD = {fold}\n{rest.split(chr(10), 1)[1]}", encoding="utf-8")
    return folder


def seeds(seed: int) -> tuple[str, ...]:
    """Settings by which all randomness follows from `seed`."""
    return f"model.name=file:model.py#{seed}", f"sft.seed={seed}", f"grpo.seed={seed}"


def refine(verb: str, task: Path, run: Path, sets: Sequence[str]) -> tuple[RunFolder, str]:
    """The finished run of a task ("train" or "sft") with each of `sets` as a --set, and the processor's
    seconds, "" where some of it was there already; a run that was stopped goes on. Where it fails, the
    program ends with what it said."""
    folder = RunFolder(run)
    if folder.ended:
        return folder, ""
    begun = folder.begun
    what = ["--resume", str(run)] if begun else [str(task), "--run", str(run)]
    changes = () if begun else (word for one in sets for word in ("--set", one))
    used = processor()
    command = [sys.executable, "-m", "refine_rl", verb, *what, *changes]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return folder, "" if begun else f"{processor() - used:.0f}"


def processor() -> float:
    """Seconds that the processes begun here have worked."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def component(outcomes: Sequence[Outcome], name: str, *, greedy: bool) -> list[float]:
    """A number a held-out answer: of its most likely game, or the mean of its sampled ones."""
    if greedy:
        return [o.greedy[1].breakdown[name] for o in outcomes if o.greedy]
    return [fmean(score.breakdown[name] for _, score in o.sampled) for o in outcomes]


def table(fold: str, outcomes: dict[str, list[Outcome]], seconds: str) -> None:
    """A row for each model, and one for what GRPO made of SFT's."""
    asked = [(name, greedy) for name in ("solved", "guesses") for greedy in (True, False)]
    values = {
        model: [component(found, name, greedy=greedy) for name, greedy in asked]
        for model, found in outcomes.items()
    }
    for model, label in MODELS.items():
        cells = [show(mean_ci(v, resamples=RESAMPLES, seed=0)) for v in values[model]]
        row(fold, label, *cells, seconds if model == "tuned" else "")
    gained = [
        paired(before, after, resamples=RESAMPLES, seed=0).difference
        for before, after in zip(values["sft"], values["tuned"], strict=True)
    ]
    row(fold, "+", *(show(g, "+") for g in gained), "")


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def show(estimate: Estimate, sign: str = "") -> str:
    low, high = estimate.ci95
    return f"{estimate.mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


if __name__ == "__main__":
    main()
