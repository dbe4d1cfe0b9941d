"""refine runs, as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def refine(*arguments: str, cwd: Path, **environment: str) -> Any:
    return subprocess.run(
        [str(Path(sys.executable).with_name("refine")), "runs", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_runs(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder = trained[0]
    place = folder.parent.parent
    verdict = json.loads((folder / "comparison.json").read_text())["verdict"]
    done = refine(cwd=place, COLUMNS="100")
    head, row, about = done.stdout.splitlines()
    assert head.split()[0] == "run"
    assert row.split()[:2] == ["shorter", "6/6"]
    assert verdict in row
    assert about.endswith(": Be short.")
    assert done.stderr == ""
    (found,) = json.loads(refine("--json", "--match", "be SHORT", cwd=place).stdout)
    assert (found["name"], found["state"], found["verdict"]) == ("shorter", "finished", verdict)
    assert (found["steps"], found["planned"], found["dollars"]) == (6, 6, None)
    assert refine("--json", "--match", "nothing", cwd=place).stdout == "[]\n"
    wrong = refine("--sort", "size", cwd=place)
    assert wrong.returncode == 2
    assert "when, name, difference, cost, time" in wrong.stderr
    nowhere = refine(cwd=tmp_path)
    assert nowhere.returncode == 2
    assert "runs is not there. Runs are made with refine train" in nowhere.stderr


def test_listing_brings_no_model_library_along() -> None:
    code = (
        "import sys, refine_rl.pipeline.runs, refine_rl.report.listing\n"
        "print({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
