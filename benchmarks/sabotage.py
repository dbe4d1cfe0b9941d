"""Sabotages of a small real run of Re:Fine: who notices, and at which step.

    python benchmarks/sabotage.py [--only length,colons] [--steps 24] [--keep FOLDER]

Each sabotage breaks a run of the bundled model on the recipe `style` in one place: its reward (another thing
is paid for than is wanted, and the recipe's reward for content only watched; nothing is patched), or a part
of the program (patched from here). A line has the run's own words: that it was refused, a guard that stopped
it, warnings, notes. The first run is whole; what it says too, such as a trait that the task asks for, is
left out of the others. The table, in Markdown, goes to standard output. Only Re:Fine is tried here.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from refine_rl.errors import GuardStop
from refine_rl.pipeline import grpo
from refine_rl.pipeline.train import run
from refine_rl.policy.protocol import Spoken
from refine_rl.recipes import recipe_folder
from refine_rl.rewards.combine import CombinedReward
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import load_settings, override
from refine_rl.types import Prompt, Score, Trajectory

Breaking = Callable[[], AbstractContextManager[Any]]
CONTENT = '{function = "rules.py:fidelity", weight = 0.0}'
HACKABLE: dict[str, tuple[str, str]] = {
    "style": ("style alone is paid for", '"rules.py:style"'),
    "length": ("length is paid for", '"hacks.py:length"'),
    "colons": ("a reward that loves “:”", '"hacks.py:colons"'),
}
HACKS = """
def length(prompt, completion):
    return min(1.0, len(completion) / 120)


def colons(prompt, completion):
    return min(1.0, completion.count(":") / 5)
"""


def play_with(change: Callable[[Any], AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
    """Sampling for training steps with a speaker that `change` gives for the while."""
    honest = grpo.play_of

    def play_of(settings: Settings, speaker: Any, **more: Any) -> Any:
        def rollouts(prompts: Sequence[Prompt], step: int) -> Iterator[Spoken]:
            with change(speaker) as other:
                said = list(honest(settings, other, **more)(prompts, step))
            yield from said

        return rollouts

    return patch.object(grpo, "play_of", play_of)


@contextlib.contextmanager
def other_weights(speaker: Any) -> Iterator[Any]:
    """What is trained, moved by a hundredth of its size (at least a thousandth)."""
    kept = {name: p.detach().clone() for name, p in speaker.trainable().items()}
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in speaker.trainable().values():
            size = max(1e-3, 1e-2 * float(p.abs().mean()))
            p.add_(size * torch.randn(p.shape, generator=draw).to(p))
    try:
        yield speaker
    finally:
        with torch.no_grad():
            for name, p in speaker.trainable().items():
                p.copy_(kept[name])


def adapter_off(speaker: Any) -> AbstractContextManager[Any]:
    return speaker.reference()  # type: ignore[no-any-return]


def moved(by: int) -> AbstractContextManager[Any]:
    """Each answer gets the score of the one `by` places on in its group."""
    honest = CombinedReward.score_group

    async def score_group(
        self: CombinedReward, prompt: Prompt, trajectories: Sequence[Trajectory]
    ) -> list[Score]:
        scores = await honest(self, prompt, trajectories)
        return [*scores[by:], *scores[:by]]

    return patch.object(CombinedReward, "score_group", score_group)


BROKEN: dict[str, tuple[str, Breaking]] = {
    "weights": ("sampler with other weights", lambda: play_with(other_weights)),
    "adapter": ("adapter off in the sampler", lambda: play_with(adapter_off)),
    "rows": ("reward of another row", lambda: moved(1)),
}


def settings_of(task: Path, steps: int, functions: str = "") -> Settings:
    """Of the recipe, or of it with these reward functions and its reward for content only watched."""
    changes = [f"grpo.steps={steps}", f"grpo.validate_every={max(1, steps // 4)}"]
    if functions:
        changes += [f"reward.functions=[{functions}, {CONTENT}]", "reward.sanity=[]"]
        changes += ['evaluate.on_drift="warn"']
    return override(load_settings(task / "task.toml"), changes)


def told(folder: RunFolder) -> dict[str, str]:
    """Guards, warnings and notes of a run by name, with step and first sentence."""
    kinds = {"guard": "stops", "warning": "warns", "note": "tells"}
    return {
        e["name"]: f"{kinds[e['kind']]} `{e['name']}`{_at(e['step'])}: {e['text'].split('. ')[0]}"
        for e in folder.events()
        if e["kind"] in kinds and e["name"] != "parameters"
    }


def _at(step: int | None) -> str:
    """A guard's text has its own."""
    return "" if step is None else f" (step {step})"


def tried(path: Path, settings: Settings, breaking: Breaking = contextlib.nullcontext) -> dict[str, str]:
    folder = RunFolder.create(path, settings)
    with breaking(), contextlib.suppress(GuardStop):
        run(folder)
    found = told(folder)
    comparison = folder.comparison()
    if comparison is not None:
        found["verdict"] = f"verdict “{comparison.verdict}”"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join([*HACKABLE, *BROKEN]))
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--keep", type=Path, help="a folder for the runs")
    args = parser.parse_args()
    only = args.only.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        task, place = Path(temporary) / "task", args.keep or Path(temporary)
        shutil.copytree(recipe_folder("style"), task)
        (task / "hacks.py").write_text(HACKS, encoding="utf-8")
        whole = tried(place / "whole", settings_of(task, args.steps))
        print("| sabotage | Re:Fine |\n|---|---|")
        print(f"| none | {'; '.join(whole.values())} |", flush=True)
        for name in only:
            title, how = {**HACKABLE, **BROKEN}[name]
            if isinstance(how, str):
                found = tried(place / name, settings_of(task, args.steps, how))
            else:
                found = tried(place / name, settings_of(task, args.steps), how)
            new = [text for key, text in found.items() if key == "verdict" or key not in whole]
            print(f"| {title} | {'; '.join(new)} |", flush=True)


if __name__ == "__main__":
    main()
