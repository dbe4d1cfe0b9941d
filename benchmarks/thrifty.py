"""What more is learned from each scored group: arms, tasks, seeds; a table and a plot.

    python benchmarks/thrifty.py [--seeds 3] [--tasks dots style ...] [--arms plain thrifty ...]
                                 [--groups 240 480] [--results FILE] [--plot FILE]

Each cell is one whole `refine train` in a process of its own; the cells of a task differ in the arm's
settings and in the number of groups that are scored in training (steps x 8), over which the learning rate
falls linearly to 0. The reward is that of the tuned model's sampled answers to held-out prompts: mean over
the seeds, with the smallest and the largest. In a judged task an LLM that errs scores the training: a server
in this process, which knows the true reward of each answer and adds to it noise of the deviation that the
name says, or pays 0.3 of the score for length alone; in the table stands the true reward. `--results` keeps
each cell as soon as it is there, and takes those that it has from there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from zlib import crc32

import numpy as np
from whole_run import whole_run

from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import load_task
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run import RunFolder
from refine_rl.types import Prompt, Trajectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from llm_brain import judged as usual
from llm_server import LlmServer

PER_STEP = 8
FEW = 2  # groups a step, so that a step is as large as a minibatch of the others
PASSES = ("grpo.updates_per_step=4",)
STOP = ("grpo.kl_stop=0.03",)
CUT = ("grpo.minibatches=4",)
CHOSEN = ("grpo.oversample=2.0",)
SMALL_STEPS = f"grpo.prompts_per_step={FEW}"
ARMS: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "small steps": (SMALL_STEPS,),
    "small steps, two passes, stop": (SMALL_STEPS, "grpo.updates_per_step=2", *STOP),
    "minibatches": CUT,
    "passes": PASSES,
    "passes, stop": (*PASSES, *STOP),
    "minibatches, passes, stop": (*CUT, *PASSES, *STOP),
    "thrifty": ("grpo.thrifty=true",),  # these and replay
    "thrifty, flat groups dropped": ("grpo.thrifty=true", 'grpo.flat="drop"'),
    "oversample": CHOSEN,
    "minibatches, passes, stop, oversample": (*CUT, *PASSES, *STOP, *CHOSEN),
    "thrifty, oversample": ("grpo.thrifty=true", *CHOSEN),
}
SMALL = (
    "grpo.validate_every=0",
    "grpo.prompts_per_step=8",
    "evaluate.bootstrap=200",
    'grpo.schedule="linear"',
    'model.dtype="float32"',  # "auto" may choose another format from one run to the next
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A recipe; with a judge, what it does to the true reward of an answer, given that and the answer."""

    recipe: str
    judge: Callable[[float, str, float], float] | None = None
    sets: tuple[str, ...] = ()


def noisy(value: float, answer: str, chance: float, *, sigma: float) -> float:
    """`chance` is normal, of the request."""
    return value + sigma * chance


def for_length(value: float, answer: str, chance: float) -> float:
    """Pays for words, up to twelve."""
    return 0.7 * value + 0.3 * min(1.0, len(answer.split()) / 12)


JUDGED = (
    "reward.functions=[]",
    "reward.sanity=[]",
    'reward.judges=["scripted/judge"]',
    "judge.anchors=false",
)
TASKS: Mapping[str, Task] = {
    "dots": Task(recipe="dots"),
    "style": Task(recipe="style"),
    "programs": Task(recipe="programs"),
    "noisy 0.1": Task(recipe="dots", judge=partial(noisy, sigma=0.1), sets=JUDGED),
    "noisy 0.4": Task(recipe="dots", judge=partial(noisy, sigma=0.4), sets=JUDGED),
    "biased": Task(recipe="dots", judge=for_length, sets=JUDGED),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run."""

    reward: float  # true, of the tuned model's sampled answers to held-out prompts
    base: float  # of the untrained model's
    groups: int  # scored in training
    sampled: int  # groups
    flat: float  # share of scored groups without spread
    updates: float  # optimizer steps a step
    entropy: float  # nats a token, in the last five steps
    seconds: float  # of a processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--groups", nargs="+", type=int, default=[240, 480])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    kept = json.loads(a.results.read_text("utf-8")) if a.results and a.results.exists() else {}
    found: dict[str, dict[tuple[str, int], list[Cell]]] = {}
    for seed in range(a.seeds):  # a study that is cut off has whole seeds
        for task in a.tasks:
            for groups in a.groups:
                for arm in a.arms:
                    key = f"{task}; {arm}; {groups}; {seed}"
                    if key not in kept:
                        kept[key] = asdict(train(TASKS[task], ARMS[arm], groups, seed))
                        print(key, json.dumps(kept[key]), flush=True)
                        if a.results:
                            a.results.write_text(json.dumps(kept, indent=0), encoding="utf-8")
                    cells = found.setdefault(task, {}).setdefault((arm, groups), [])
                    cells.append(Cell(**kept[key]))
    for task, arms in found.items():
        print("\n".join(table(task, arms)), flush=True)
    if a.plot is not None:
        draw(a.plot, found)


# -- a run ----------------------------------------------------------------------------------------


def train(task: Task, arm: Sequence[str], groups: int, seed: int) -> Cell:
    """One run in a folder that is thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    per_step = FEW if SMALL_STEPS in arm else PER_STEP
    sets = [*SMALL, *task.sets, *arm, f"grpo.steps={groups // per_step}", f"grpo.seed={seed}"]
    true = Truth(task.recipe, seed)
    with serving(task, true) as place, whole_run("--recipe", task.recipe, sets=[*sets, *place]) as run:
        metrics = run.metrics()
        return Cell(
            reward=true.of_run(run, "tuned"),
            base=true.of_run(run, "base"),
            groups=sum(m["groups"] for m in metrics),
            sampled=sum(m.get("groups_sampled", m["groups"]) for m in metrics),
            flat=fmean(m["groups_zero_variance"] / m["groups"] for m in metrics),
            updates=fmean(m.get("updates", 4 if "grpo.updates_per_step=4" in arm else 1) for m in metrics),
            entropy=fmean(m["entropy"] for m in metrics[-5:]),
            seconds=resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before,
        )


class Truth:
    """The reward that a recipe describes."""

    def __init__(self, recipe: str, seed: int) -> None:
        settings = load_task(None, recipe=recipe, overrides=[f"grpo.seed={seed}"])
        self._reward = build_reward(settings)
        asked = load_prompts(settings)[0] if recipe == "dots" else []
        self._prompts = {json.dumps(p.text)[1:-1]: p for p in asked}  # as a request has them: in JSON

    def of(self, pairs: Sequence[tuple[Prompt, Sequence[Trajectory]]]) -> list[list[float]]:
        with ScoringLoop() as loop:
            return [[s.value or 0.0 for s in group] for group in loop.score(self._reward, pairs)]

    def of_run(self, run: RunFolder, which: str) -> float:
        """The mean over the prompts of one side of a run's comparison."""
        outcomes = run.outcomes(which) or []
        return fmean(map(fmean, self.of([(o.prompt, [t for t, _ in o.sampled]) for o in outcomes])))

    def asked(self, text: str, answers: Sequence[str]) -> list[float] | None:
        """Of answers to the prompt that a request shows; None where it is no prompt of the task."""
        known = [shown for shown in self._prompts if shown in text]
        if not known:
            return None
        prompt = self._prompts[max(known, key=len)]
        said = [
            Trajectory(
                prompt_id=prompt.id,
                member=n,
                messages=(*prompt.messages, {"role": "assistant", "content": answer}),
                segments=(),
                stop_reason="stop",
            )
            for n, answer in enumerate(answers)
        ]
        return self.of([(prompt, said)])[0]


@contextlib.contextmanager
def serving(task: Task, true: Truth) -> Iterator[tuple[str, ...]]:
    """The settings that say where the task's judge is; none for a task without."""
    judge = task.judge
    if judge is None:
        yield ()
        return

    def answers(body: dict[str, object]) -> str:
        text = next(m["content"] for m in body["messages"] if m["role"] == "user")  # type: ignore[attr-defined]
        members = re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S)
        said = [json.loads(content)[-1]["content"] for _, content in members]
        values = true.asked(text, said)
        if values is None:
            return usual(text)
        chances = np.random.default_rng(crc32(text.encode())).standard_normal(len(said))
        scores = [
            {"trajectory_id": name, "explanation": "-", "score": round(min(1.0, max(0.0, score)), 4)}
            for (name, _), score in zip(members, map(judge, values, said, chances.tolist()), strict=True)
        ]
        return json.dumps({"scores": scores})

    server = LlmServer(brain=answers)
    try:
        yield (f"endpoints.scripted={{base_url = '{server.base_url}', key_env = '', cache = false}}",)
    finally:
        server.stop()


# -- what came of them ----------------------------------------------------------------------------


def table(task: str, arms: Mapping[tuple[str, int], Sequence[Cell]]) -> list[str]:
    base = fmean(cell.base for cells in arms.values() for cell in cells)
    head = [f"{task}: untrained {base:.2f}", "scored groups", "seeds", "reward", "sampled groups"]
    head += ["flat", "updates a step", "entropy at the end", "processor s"]
    lines = ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (arm, _), cells in arms.items():
        row = [
            arm,
            f"{fmean(c.groups for c in cells):.0f}",
            str(len(cells)),
            spread([c.reward for c in cells]),
            f"{fmean(c.sampled for c in cells):.0f}",
            f"{fmean(c.flat for c in cells):.0%}",
            f"{fmean(c.updates for c in cells):.1f}",
            f"{fmean(c.entropy for c in cells):.2f}",
            f"{fmean(c.seconds for c in cells):.0f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean [smallest, largest].

    >>> spread([0.5, 1.0])
    '0.750 [0.50, 1.00]'
    """
    return f"{fmean(values):.3f} [{min(values):.2f}, {max(values):.2f}]"


SHOWN = {"plain": "#3b6ea8", "minibatches, passes, stop": "#b8860b", "thrifty": "#2e8b57"}
"""The arms in the picture, in their colours."""


def draw(target: Path, found: Mapping[str, Mapping[tuple[str, int], Sequence[Cell]]]) -> None:
    """Reward against scored groups, a panel a task: the mean over the seeds, and a bar from the smallest to
    the largest."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "refine"
    from matplotlib import pyplot

    across = min(3, len(found))
    down = -(-len(found) // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(3.2 * across, 2.5 * down), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(found) :]:
        axis.remove()
    for axis, (task, arms) in zip(axes.flat, found.items(), strict=False):
        for place, (name, colour) in enumerate(SHOWN.items()):
            points = sorted(
                (fmean(c.groups for c in cells) + 7 * (place - 1), [c.reward for c in cells])
                for (arm, _), cells in arms.items()
                if arm == name
            )
            if not points:
                continue
            means = [fmean(rewards) for _, rewards in points]
            below = [m - min(rewards) for m, (_, rewards) in zip(means, points, strict=True)]
            above = [max(rewards) - m for m, (_, rewards) in zip(means, points, strict=True)]
            x, bars = [x for x, _ in points], [below, above]
            axis.errorbar(x, means, yerr=bars, label=name, marker="o", linewidth=1.2, color=colour)
        axis.set_title(task, fontsize=10)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.12)
    figure.supxlabel("scored groups, each a call of a judge", fontsize=9)
    figure.supylabel("held-out reward", fontsize=9)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(SHOWN), fontsize=9, frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
