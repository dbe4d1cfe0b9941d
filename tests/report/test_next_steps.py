"""What the page tells to type: every command is understood, in every state of a run."""

from __future__ import annotations

import ast
import html
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import make
import refine_rl
from refine_rl.errors import SettingsError
from refine_rl.foreign.given import PYTHON
from refine_rl.report.next_steps import after_verdict, next_steps
from refine_rl.report.page import render
from refine_rl.run import RunFolder
from refine_rl.run.from_python import PLACE
from refine_rl.settings import Settings
from refine_rl.settings.file import load_settings
from refine_rl.types import Verdict
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


def test_behind_a_guard_the_checkpoint_that_validation_chose_is_taken(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run = make_run(tmp_path / "run", steps=3, compared=False)
    for step in (1, 3):
        run.write_checkpoint(step, lambda folder: None)
    run.event("best", "validation", "validation reward 0.9", 3)
    run.event("guard", "all_cut", "Nothing was finished.", 3)
    assert all(" --checkpoint best" in command for command in commands(run)[1:])
    what = [c.what for c in next_steps(run, run.settings())]
    assert "Talk to the model of the best checkpoint, the untrained one’s answers beside its own." in what
    assert "Compare base and tuned on the held-out prompts." in what
    run.rewind(1)  # the chosen one is gone on
    run.event("guard", "all_cut", "Nothing was finished.", 2)
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


RESULTS: dict[Verdict, tuple[int, list[str]]] = {
    "better": (64, []),
    "not better": (
        64,
        ["refine eval {run} --samples 16", "refine train {run}/config.toml --set grpo.steps=6"],
    ),
    "worse": (64, ["refine train {run}/config.toml --set grpo.learning_rate=0.0005"]),
    "no signal": (
        64,
        ["refine check {run}/config.toml", "refine train {run}/config.toml --set rollout.group_size=16"],
    ),
    "too few to tell": (4, ["refine eval {run} --prompts FILE"]),
    "not possible": (0, ["refine eval {run}"]),
}


@pytest.mark.parametrize("verdict", list(RESULTS))
def test_each_verdict_but_better_leads_on(tmp_path: Path, make_run: MakeRun, verdict: Verdict) -> None:
    run = make_run(tmp_path / "run", steps=3)
    prompts, wanted = RESULTS[verdict]
    compared = make.comparison(verdict, make.contrast(0.2, 0.3), prompts=prompts, samples=4)
    settings = run.settings()
    settings = settings.model_copy(update={"grpo": settings.grpo.model_copy(update={"steps": 3})})
    found = [command.text for command in after_verdict(run, settings, compared)]
    assert found == [text.format(run=run.path) for text in wanted]
    for text in found:
        parsed(text)
        if "config.toml" in text:
            words = shlex.split(text)
            load_settings(Path(words[2]), overrides=words[4:])


def test_few_prompts_want_more_of_them_whatever_the_verdict(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=1)
    few = make.comparison("better", make.contrast(0.2, 0.9), prompts=19)
    assert [c.text.split()[3] for c in after_verdict(run, run.settings(), few)] == ["--prompts"]


def test_code_from_python_is_given_again_in_calls(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "a run", steps=3)
    run.config.note(python_rewards=["brevity"])
    path, settings = str(run.path), run.settings()
    begun = "refine_rl.train(..., rewards=[brevity], "
    wanted = {
        "not better": [
            f"refine_rl.evaluate({path!r}, rewards=[brevity], samples=16)",
            f"{begun}grpo={{'steps': {2 * settings.grpo.steps}}})",
        ],
        "worse": [f"{begun}grpo={{'learning_rate': 0.0005}})"],
        "no signal": ["refine_rl.check(..., rewards=[brevity])", f"{begun}rollout={{'group_size': 16}})"],
        "not possible": [f"refine_rl.evaluate({path!r}, rewards=[brevity])"],
    }
    verdict: Verdict
    for verdict in ("not better", "worse", "no signal", "not possible"):
        compared = make.comparison(verdict, make.contrast(0.2, 0.3), prompts=64, samples=4)
        assert [c.text for c in after_verdict(run, settings, compared)] == wanted[verdict]
    few = make.comparison("better", make.contrast(0.2, 0.9), prompts=19)
    (more,) = after_verdict(run, settings, few)
    assert more.text == f"refine_rl.evaluate({path!r}, rewards=[brevity], prompts='FILE')"
    for text in [*(text for texts in wanted.values() for text in texts), more.text]:
        is_call(text)
    with pytest.raises(SettingsError, match=r"started from Python with reward functions \(brevity\)"):
        load_settings(run.config.path)  # so that no command trains it anew


def is_call(text: str) -> None:
    """Of a function of ours that takes these arguments."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    takes = inspect.signature(getattr(refine_rl, call.func.attr)).parameters
    sections = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    for argument in call.keywords:
        assert argument.arg in takes or (sections and argument.arg in Settings.model_fields), text


@pytest.mark.parametrize("given", ["rewards", "environment", "tools"])
def test_what_was_given_from_python_goes_on_in_python(tmp_path: Path, make_run: MakeRun, given: str) -> None:
    run = make_run(tmp_path / "run", steps=3, compared=False)
    run.write_checkpoint(3, lambda folder: None)
    settings = run.settings()
    code = {"rewards": "rewards=[f]", "environment": "environment=f", "tools": "tools=[f]"}[given]
    if given == "rewards":
        run.config.note(python_rewards=["f"])
    else:
        value: object = "python:f" if given == "environment" else ["python:f"]
        rollout = settings.rollout.model_copy(update={given: value})
        run.config.save(settings.model_copy(update={"rollout": rollout}))
    path = repr(str(run.path))
    resume, talk, compare, export = [c.text for c in next_steps(run, run.settings())]
    assert resume == f"refine_rl.resume({path}, {code})" == run.resume
    assert compare == f"refine_rl.evaluate({path}, {code}, checkpoint='last')"
    for text in (resume, compare):
        is_call(text)
    if given == "rewards":
        parsed(talk)  # no reward is needed for that
    else:
        assert talk == f"refine_rl.chat({path}, {code}, checkpoint='last')"
        is_call(talk)
    parsed(export)
    assert run.config.resume(step=2) == f"refine_rl.resume({path}, {code}, step=2)"
    assert f"{PYTHON}:" == PLACE


def test_the_commands_stand_in_head_and_list_of_the_page(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=3)
    run.save_comparison(make.comparison("worse", make.contrast(0.3, 0.2)))
    page = html.unescape(render(run))
    command = f"refine train {run.path}/config.toml --set grpo.learning_rate="
    assert page.count(command) == 2
    assert f'<p class="note">Train anew at half the learning rate: {command}' in page
