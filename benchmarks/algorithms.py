"""The family of algorithms on one task, several seeds: a table and a plot.

    python benchmarks/algorithms.py [--seeds 3] [--recipe dots] [--steps N] [--only LOSS ...]
                                    [--page docs/algorithms.md] [--plot docs/images/algorithms.svg]
                                    [--results FILE]

Each cell is one whole `refine train` in a process of its own; all of a table differ in the settings that
are named and in nothing else. The losses are compared with four updates a step, as with one their ratios
are 1 and several of them are the same. Reward and success are those of the tuned model on held-out
prompts, sampled: mean over the seeds, with the smallest and the largest. `--page` puts the table between
the page's marks; `--plot` draws the mean training reward of each step. `--results` keeps what each
row gave, and takes rows that it has from there: an hour of runs can be interrupted, or cut up by `--only`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from whole_run import whole_run

OFF_POLICY = ("grpo.updates_per_step=4", "grpo.learning_rate=1e-3")
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "loss, 4 updates a step": {
        name: (f'grpo.loss="{name}"', *OFF_POLICY)
        for name in (
            "grpo",
            "bnpo",
            "dapo",
            "dr_grpo",
            "gspo",
            "cispo",
            "sapo",
            "luspo",
            "dppo_tv",
            "dppo_kl",
        )
    },
    "advantage": {name: (f'grpo.advantage="{name}"',) for name in ("zscore", "mean", "rloo", "maxrl")},
    "groups without spread": {
        "keep": ('grpo.flat="keep"',),
        "drop": ('grpo.flat="drop"',),
        "sign": ('grpo.flat="sign"', "grpo.solved=1.0"),
        "resample 4": ("grpo.resample=4",),
    },
    "KL": {
        "none": (),
        "0.05": ("grpo.kl=0.05",),
        "0.05, target 0.05": ("grpo.kl=0.05", "grpo.kl_target=0.05"),
        "0.05 in the reward, k1": ("grpo.kl=0.05", 'grpo.kl_in="reward"', 'grpo.kl_estimator="k1"'),
    },
    "a sampler that lags, 4 updates a step": {
        "one ratio": ("rollout.ahead=1", *OFF_POLICY),
        "importance_cap 2": ("rollout.ahead=1", "grpo.importance_cap=2.0", *OFF_POLICY),
    },
}
START, END = "<!-- measured -->", "<!-- /measured -->"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run: of the tuned model on held-out prompts, and the training reward of each step."""

    reward: float
    success: float
    rewards: Sequence[float | None]  # [steps]
    flat: float  # share of groups without spread
    kl: float | None  # at the last step
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", default="dots")
    parser.add_argument("--steps", type=int, help="instead of the recipe's own number")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows or tables of these names alone")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--results", type=Path)
    a = parser.parse_args()
    steps = () if a.steps is None else (f"grpo.steps={a.steps}",)
    tables = {
        title: {name: sets for name, sets in rows.items() if not a.only or {name, title} & set(a.only)}
        for title, rows in TABLES.items()
    }
    lines, curves = [], dict[str, dict[str, list[Result]]]()
    kept = json.loads(a.results.read_text("utf-8")) if a.results and a.results.exists() else {}
    for title, rows in tables.items():
        if not rows:
            continue
        lines += head(title)
        print("\n".join(lines[-3:]), flush=True)
        for name, sets in rows.items():
            key = " ".join([a.recipe, str(a.seeds), *steps, *sets])
            if key not in kept:
                kept[key] = [asdict(train(a.recipe, seed, (*steps, *sets))) for seed in range(a.seeds)]
                if a.results:
                    a.results.write_text(json.dumps(kept), encoding="utf-8")
            results = [Result(**one) for one in kept[key]]
            curves.setdefault(title, {})[name] = results
            lines.append(row(name, results))
            print(lines[-1], flush=True)
    given = [f"--recipe {a.recipe}", f"--seeds {a.seeds}", *([f"--steps {a.steps}"] if a.steps else [])]
    command = f"python benchmarks/algorithms.py {' '.join(given)}"
    if a.page is not None:
        fill(a.page, f"`{command}`\n" + "\n".join(lines))
    if a.plot is not None:
        draw(a.plot, curves)


def train(recipe: str, seed: int, sets: Sequence[str]) -> Result:
    """One run in a folder that is thrown away."""
    began = time.perf_counter()
    with whole_run("--recipe", recipe, sets=(f"grpo.seed={seed}", *sets)) as run:
        comparison, metrics = run.comparison(), run.metrics()
        assert comparison is not None
        return Result(
            reward=comparison.tuned.mean,
            success=comparison.details["success"].tuned.mean,
            rewards=[m["reward_mean"] for m in metrics],
            flat=fmean(m["groups_zero_variance"] / m["groups"] for m in metrics),
            kl=metrics[-1]["kl"],
            seconds=time.perf_counter() - began,
        )


def head(title: str) -> list[str]:
    cells = [title, "reward", "success", "groups without spread", "KL at the end", "seconds a run"]
    return ["", "| " + " | ".join(cells) + " |", "|" + "---|" * len(cells)]


def row(name: str, results: Sequence[Result]) -> str:
    kls = [r.kl for r in results if r.kl is not None]
    cells = [
        f"`{name}`",
        spread([r.reward for r in results]),
        spread([r.success for r in results]),
        f"{fmean(r.flat for r in results):.0%}",
        spread(kls) if kls else "–",
        f"{median(r.seconds for r in results):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def spread(values: Sequence[float]) -> str:
    """Mean [smallest, largest].

    >>> spread([0.5, 1.0])
    '0.75 [0.50, 1.00]'
    """
    return f"{fmean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def fill(page: Path, text: str) -> None:
    """Puts the text between the page's marks."""
    before, rest = page.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    page.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def draw(target: Path, curves: dict[str, dict[str, list[Result]]]) -> None:
    """One panel a table: the mean over the seeds of the training reward, each step's mean with the four
    before it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "refine"
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4 * columns, 3.2 * lines), sharey=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for axis, (title, rows) in zip(axes.flat[: len(curves)], curves.items(), strict=True):
        for name, results in rows.items():
            steps = min(len(r.rewards) for r in results)
            found = [[r.rewards[s] for r in results] for s in range(steps)]
            means = [fmean(x for x in at if x is not None) for at in found]
            smooth = [fmean(means[max(0, s - 4) : s + 1]) for s in range(steps)]
            axis.plot(range(1, steps + 1), smooth, label=name, linewidth=1.3)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize=8, frameon=False)
    for axis in axes[:, 0]:
        axis.set_ylabel("training reward")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
