"""What the temperature of sampling and a KL term do to GRPO in the recipe `wordle`: tables and a picture.

    OMP_NUM_THREADS=1 python benchmarks/wordle_study.py [--folds 2 3] [--runs FOLDER] [--out FOLDER]
                                                        [--set KEY=VALUE ...]

Of each fold (benchmarks/wordle.py says what one is) the players' games are imitated once, unless that
benchmark did so in the same --runs; from there, each setting is one whole `refine train` in a process of its
own, which differs from the recipe in that setting alone. What stands in --runs already is read,
or gone on with. Tables go to --out as study.md, beside study.png.

Temperatures of the sampling in training: 0, 0.7, 1 (the recipe's) and 1.3. `rollout.temperature` has to be
above 0: 0.001 stands for 0, and its runs are kept from being stopped for want of a signal
(`grpo.zero_variance_patience`). KL coefficients: 0 (the recipe's), 0.1 and 0.5; for 0 stands 1e-9, which
moves nothing and has the distance from the start measured. --set is for all of these runs, not for the
imitation.

Columns: the reward of the sampled games in the first and in the last ten steps of training; groups without
spread in their rewards, from which nothing is learnt; entropy in nats a token in the last ten steps, of
sampling at that temperature; the KL divergence from the start at the end, nats a token, where it is measured.
Then held-out answers found, and guesses, by the checkpoint that validation chose, in the most likely game
and in 16 sampled ones, at temperature 1 whatever the temperature of training; with the difference from the
start and its 95 % bootstrap interval over the answers of all folds, paired.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from wordle import RESAMPLES, component, recipe, refine, seeds, show

from refine_rl.evaluate.stats import mean_ci, paired
from refine_rl.run import RunFolder
from refine_rl.settings.toml_write import dump_toml
from refine_rl.types import StepMetrics

TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "temperature": {
        "0": ("rollout.temperature=0.001", "grpo.zero_variance_patience=1000"),
        "0.7": ("rollout.temperature=0.7",),
        "1": (),
        "1.3": ("rollout.temperature=1.3",),
    },
    "KL coefficient": {"0": ("grpo.kl=1e-9",), "0.1": ("grpo.kl=0.1",), "0.5": ("grpo.kl=0.5",)},
}
WINDOW = 10  # steps
SAMPLES = "evaluate.samples=16"
SHOWN = {
    ("solved", "greedy"): "found, greedy",
    ("solved", "sampled"): "found, sampled",
    ("guesses", "sampled"): "guesses, sampled",
}
"""What the tables tell of held-out answers; the picture has greedy games' guesses, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run: its steps; and by model ("base" is the start, "tuned"), component and kind of game, a number
    for each held-out answer."""

    steps: Sequence[StepMetrics]
    held_out: dict[tuple[str, str, str], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, nargs="+", default=[2, 3], choices=range(5))
    parser.add_argument("--runs", type=Path, default=Path("runs/wordle"))
    parser.add_argument("--out", type=Path, default=Path("runs/wordle"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    found: dict[str, dict[str, list[Result]]] = {title: {} for title in TABLES}
    for fold in arguments.folds:
        place = arguments.runs / f"fold-{fold}"
        task = from_games(place, fold)
        for title, settings in TABLES.items():
            for name, sets in settings.items():
                run = place / f"{title} {name}".replace(" ", "-")
                finished, _ = refine(
                    "train", task, run, [f"grpo.seed={fold}", SAMPLES, *sets, *arguments.set]
                )
                found[title].setdefault(name, []).append(result(finished))
                print(f"fold {fold}, {title} {name}: {run}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = [line for title, rows in found.items() for line in table(title, rows)]
    (arguments.out / "study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(arguments.out / "study.png", found)
    print("\n".join(lines))


def from_games(place: Path, fold: int) -> Path:
    """A task file that is the recipe's from its warm-up on: `[model] start` in the place of `[sft]`."""
    folder = recipe(place, fold)
    warmed = place / "run" / "sft"
    if not RunFolder(warmed).ended:
        warmed = place / "sft"
        refine("sft", folder, warmed, seeds(fold))
    settings = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))
    del settings["sft"], settings["model"]["name"]
    settings["model"]["start"] = str(warmed.resolve())
    task = folder / "task-from-games.toml"
    task.write_text(dump_toml(settings), encoding="utf-8")
    return task


def result(run: RunFolder) -> Result:
    held_out = {}
    for model in ("base", "tuned"):
        outcomes = run.outcomes(model) or []
        for name in ("solved", "guesses"):
            for kind in ("greedy", "sampled"):
                held_out[model, name, kind] = component(outcomes, name, greedy=kind == "greedy")
    return Result(steps=run.history(), held_out=held_out)


def pooled(results: Sequence[Result], *what: str) -> list[float]:
    """A number for each held-out answer of all folds."""
    model, name, kind = what
    return [value for r in results for value in r.held_out[model, name, kind]]


def table(title: str, rows: dict[str, list[Result]]) -> list[str]:
    heads = [title, "reward in training, first -> last steps", "groups without spread", "entropy", "KL"]
    heads += [head for label in SHOWN.values() for head in (label, "+")]
    lines = ["", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    start = [pooled(next(iter(rows.values())), "base", *what) for what in SHOWN]
    known = [show(mean_ci(values, resamples=RESAMPLES, seed=0)) for values in start]
    lines.append("| start | | | | | " + " | | ".join(known) + " | |")
    for name, results in rows.items():
        steps = [r.steps for r in results]
        kls = [s[-1].kl for s in steps]
        cells = [
            name,
            " -> ".join(
                f"{fmean(m.reward_mean or 0.0 for s in part for m in s):.2f}" for part in parts(steps)
            ),
            f"{fmean(m.groups_zero_variance / m.groups for s in steps for m in s):.0%}",
            f"{fmean(m.entropy or 0.0 for s in steps for m in s[-WINDOW:]):.2f}",
            f"{fmean(k for k in kls if k is not None):.3f}" if None not in kls else "",
        ]
        for what in SHOWN:
            before, after = pooled(results, "base", *what), pooled(results, "tuned", *what)
            both = paired(before, after, resamples=RESAMPLES, seed=0)
            cells += [f"{both.tuned.mean:.2f}", show(both.difference, "+")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def parts(steps: Sequence[Sequence[StepMetrics]]) -> tuple[list[Sequence[StepMetrics]], ...]:
    """The first steps of all runs, and the last ones."""
    return [s[:WINDOW] for s in steps], [s[-WINDOW:] for s in steps]


def draw(target: Path, found: dict[str, dict[str, list[Result]]]) -> None:
    """A line of panels a table. Curves are means over the folds, each of a step and the nine before it."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update({"font.size": 9, "axes.titlesize": 9})
    from matplotlib import pyplot

    size = (13, 2.9 * len(found))
    figure, axes = pyplot.subplots(len(found), 4, figsize=size, squeeze=False, layout="constrained")
    for line, (title, rows) in zip(axes, found.items(), strict=True):
        line[0].set_title("reward in training")
        curves(line[0], rows, lambda m: m.reward_mean or 0.0)
        line[0].legend(title=title, frameon=False)
        if title == "temperature":
            line[1].set_title("groups without spread")
            curves(line[1], rows, lambda m: m.groups_zero_variance / m.groups)
        else:
            line[1].set_title("KL from the start, nats a token")
            curves(line[1], rows, lambda m: m.kl or 0.0)
        line[1].set_ylim(bottom=0)
        for axis, name, label in ((line[2], "solved", "answers found"), (line[3], "guesses", "guesses")):
            axis.set_title(f"held out: {label} (hollow: start)")
            for place, results in enumerate(rows.values()):
                points(axis, place, results, name)
            axis.set_xticks(range(len(rows)), list(rows))
            axis.set_xlabel(title)
            axis.legend(*(side[:2] for side in axis.get_legend_handles_labels()), frameon=False)
    figure.savefig(target, dpi=85, metadata={"Software": None})


def curves(axis: Any, rows: dict[str, list[Result]], value: Callable[[StepMetrics], float]) -> None:
    for name, results in rows.items():
        means = [fmean(map(value, at)) for at in zip(*(r.steps for r in results), strict=True)]
        smooth = [fmean(means[max(0, s + 1 - WINDOW) : s + 1]) for s in range(len(means))]
        axis.plot(range(1, len(means) + 1), smooth, label=name, linewidth=1.3)
    axis.set_xlabel("step")


def points(axis: Any, place: int, results: Sequence[Result], name: str) -> None:
    """What it was at the start, and after, with its interval: a point for each kind of game."""
    for number, kind in enumerate(("greedy", "sampled")):
        at, colour = place + 0.2 * number - 0.1, f"C{number}"
        after = mean_ci(pooled(results, "tuned", name, kind), resamples=RESAMPLES, seed=0)
        spread = [[after.mean - after.ci95[0]], [after.ci95[1] - after.mean]]
        before = fmean(pooled(results, "base", name, kind))
        axis.plot([at], [before], "o", markerfacecolor="none", color=colour)
        axis.errorbar([at], [after.mean], spread, fmt="o", color=colour, capsize=3, label=kind)


if __name__ == "__main__":
    main()
