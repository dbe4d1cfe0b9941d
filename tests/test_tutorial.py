"""docs/tutorial.md, walked as it is written: its files, its commands, and (slow) what it says comes out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.run import RunFolder

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?ms)^(?:<!-- ([^\n]+) -->\n)?```(\w*)\n(.*?)^```", PAGE)
FEW = ("grpo.steps=1", "grpo.validate_every=0", "evaluate.samples=1")
Refine = Callable[..., Any]


def files(name: str) -> list[str]:
    """The versions of a file of the page, in their order."""
    return [text for named, _, text in BLOCKS if named == name]


def commands() -> list[list[str]]:
    lines = [
        line for named, language, text in BLOCKS if not (named or language) for line in text.splitlines()
    ]
    return [line.partition("#")[0].split()[1:] for line in lines if line.startswith("refine ")]


def said(number: int) -> str:
    """The output that the page shows, of its first or second training."""
    return [text for _, language, text in BLOCKS if language == "text" and "held-out" in text][number]


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder after section 3."""
    monkeypatch.chdir(tmp_path)
    exec(compile(files("make_prompts.py")[0], "make_prompts.py", "exec"), {})  # noqa: S102  it is ours
    write(0)
    for name in ("greet/task.toml", "greet/tries.jsonl"):
        Path(name).write_text(files(name)[0])
    return tmp_path


def write(version: int) -> None:
    Path("greet/rewards.py").write_text(files("greet/rewards.py")[version])


def mend() -> None:
    """What section 7 tells the reader to change."""
    write(1)
    task = Path("greet/task.toml")
    old = re.compile(r"(?ms)^\[reward\]\n.*?(?=^\[)")
    text, replaced = old.subn(files("[reward]")[0] + "\n", task.read_text())
    assert replaced == 1
    task.write_text(text)


def test_every_command_of_the_page_works_in_its_order(refine: Refine, begun: Path) -> None:
    done: list[str] = []
    for command in commands():
        if command[0] == "watch":  # goes on until it is stopped
            continue
        if command[0] == "check" and "check" in done:
            mend()
        few = [flag for setting in FEW for flag in ("--set", setting)] if command[0] == "train" else []
        result = refine(*command, *few)
        assert result.code == 0, (command, result.err)
        if command[0] == "check":
            assert ("'bad 1' gets 1.000 as much as the best good answer" in result.out) == (
                "check" not in done
            )
            assert ("1.900" in result.out) == ("check" in done)
        done.append(command[0])
    assert done == ["prompts", "plan", "train", "check", "check", "train", "export"]
    assert len(RunFolder.open(begun / "runs" / "greet").prompts()) == 108
    assert (begun / "greeter" / "config.json").is_file()


def test_the_first_mistake_cannot_come_back(refine: Refine, begun: Path) -> None:
    mend()
    write(0)
    done = refine("train", "greet")
    assert done.code == 2
    assert "Hello Anna! How are you? How are you?" in done.err


def numbers(text: str) -> dict[str, tuple[float, float]]:
    rows = re.findall(r"(?m)^ *([\w ]+?) +(\d\.\d+) +(\d\.\d+) +[+-]", text)
    return {name: (float(base), float(tuned)) for name, base, tuned in rows}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_trainings_end_as_the_page_says(refine: Refine, begun: Path) -> None:
    """Within what another machine's number format changes."""
    assert refine("train", "greet").code == 0
    first = RunFolder.open(begun / "runs" / "greet")
    comparison = json.loads((first.path / "comparison.json").read_text())
    assert comparison["tuned"]["mean"] == pytest.approx(numbers(said(0))["reward"][1], abs=0.05)
    assert "length_growth" in {e["name"] for e in first.events() if e["kind"] == "warning"}
    again_and_again = [e["tuned"] for e in comparison["examples"] if e["tuned"].count("How are you?") > 3]
    assert again_and_again
    mend()
    assert refine("train", "greet", "--run", "runs/greet-again").code == 0
    second = json.loads((begun / "runs" / "greet-again" / "comparison.json").read_text())
    for name, (base, tuned) in numbers(said(1)).items():
        key = "success" if name == "success" else f"component:{name}"
        found = second if name == "reward" else second["details"][key]
        assert found["base"]["mean"] == pytest.approx(base, abs=0.1), name
        assert found["tuned"]["mean"] == pytest.approx(tuned, abs=0.1), name
