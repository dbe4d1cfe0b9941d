"""What the page tells to type: every command is understood, in every state of a run."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

from refine_rl.report.next_steps import next_steps
from refine_rl.report.page import render
from refine_rl.run import RunFolder
from test_advice import parsed

MakeRun = Callable[..., RunFolder]


def commands(run: RunFolder) -> list[str]:
    found = [command.text for command in next_steps(run, run.settings())]
    for command in found:
        parsed(command)
    page = render(run)
    assert [html.unescape(c) for c in re.findall(r'<pre class="command">(.*?)</pre>', page)] == found
    return found


def verbs(run: RunFolder) -> list[str]:
    return [command.split()[1] for command in commands(run)]


def test_a_run_without_a_checkpoint_goes_on(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "a run", steps=3, compared=False)
    assert commands(run) == [f"refine train --resume '{tmp_path / 'a run'}'"]


def test_one_with_a_checkpoint_can_be_tried_as_it_is(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=3, compared=False)
    run.write_checkpoint(3, lambda folder: None)
    assert verbs(run) == ["train", "chat", "eval", "export"]
    assert all(" --checkpoint last" in command for command in commands(run)[1:])


def test_a_finished_one_is_talked_to_compared_and_taken_along(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=3)
    run.write_model(lambda folder: (folder / "adapter.safetensors").write_bytes(b""))
    run.end("better", 3)
    assert verbs(run) == ["chat", "eval", "export"]
    assert not any("--checkpoint" in command for command in commands(run))


def test_a_world_can_be_played_in(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=1)
    run.write_model(lambda folder: (folder / "adapter.safetensors").write_bytes(b""))
    settings = run.settings()
    rollout = settings.rollout.model_copy(update={"environment": "world.py:World"})
    found = next_steps(run, settings.model_copy(update={"rollout": rollout}))
    assert [c.text.split()[1] for c in found] == ["chat", "play", "eval", "export"]
    for command in found:
        parsed(command.text)
