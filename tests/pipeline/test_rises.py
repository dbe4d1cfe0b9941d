"""What is paid for is told at the step where it grew, once, in this process or the next one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make
from refine_rl.pipeline.record import FolderRecord
from refine_rl.progress import Quiet
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.settings import Settings
from refine_rl.training.checkpoint import Position

PROMPTS = make.prompts("say something", "say more", "say a lot", "say it")


def steps(folder: RunFolder, numbers: range, settings: Settings) -> None:
    """Steps in which longer answers have more, and all of them grow."""
    learner: Any = None
    record = FolderRecord(folder, learner, settings, Journal(folder, Quiet()), Position())
    for step in numbers:
        words = [step * 5 + n for n in range(4)]
        record.groups(
            [
                make.group(
                    p,
                    *[n / 100 for n in words],
                    step=step,
                    trajectories=[
                        make.trajectory(p, " ".join(f"w{i}" for i in range(n)), member=m, tokens=2)
                        for m, n in enumerate(words)
                    ],
                )
                for p in PROMPTS
            ]
        )
        record.step(make.metrics(step))


def test_once_and_with_answers_to_look_at(tmp_path: Path) -> None:
    settings = Settings.model_validate({"task": "Talk.", "grpo": {"steps": 20}, "reward": {"rules": []}})
    folder = RunFolder.create(tmp_path / "run", settings)
    folder.save_prompts(PROMPTS)
    steps(folder, range(1, 8), settings)
    assert not folder.events()
    steps(folder, range(8, 21), settings)  # another process
    told = [e for e in folder.events() if e["kind"] == "warning"]
    assert [(e["name"], e["step"]) for e in told] == [("rises_with_length", 10)]
    assert "+1.00 among answers to the same prompt in the last 5 steps" in told[0]["text"]
    assert told[0]["text"].endswith(
        "Look at step 10, p0, answer 3, step 10, p1, answer 3, step 10, p2, answer 3."
    )
