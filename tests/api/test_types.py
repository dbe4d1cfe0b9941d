"""The hints of the Python door, as a type checker sees them from a caller's file."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import refine_rl as refine

FILE = Path(__file__).with_name("typed.py")
SOURCE = Path(refine.__file__).parents[1]


CONFIG = """
[mypy]
strict = True
no_error_summary = True
follow_imports = silent
ignore_missing_imports = True
[mypy-torch.*,numpy.*,transformers.*,openai.*,httpx.*,matplotlib.*,rich.*,typer.*,jinja2.*,IPython.*]
follow_imports = skip
"""  # what no caller sees of us is not read: it would take most of a minute


def expected(mark: str) -> dict[int, str]:
    """By line: what stands behind the mark in the caller's file."""
    lines = enumerate(FILE.read_text().splitlines(), 1)
    return {number: found[1] for number, line in lines if (found := re.search(rf"# {mark}: (.*)$", line))}


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(refine.__file__).with_name("py.typed").is_file()


def test_the_callers_file_uses_the_whole_surface() -> None:
    text = FILE.read_text()
    verbs = {
        "train",
        "resume",
        "sft",
        "resume_sft",
        "resume_seeds",
        "open_run",
        "plan",
        "prompts",
        "evaluate",
        "chat",
        "check",
    }
    verbs |= {"compare_runs", "generate", "export", "score_group"}
    from refine_rl import api

    assert {name for name in api.__all__ if name.islower()} == verbs
    assert [verb for verb in sorted(verbs) if f"refine.{verb}(" not in text] == []
    errors = {n for n in refine.__all__ if isinstance(getattr(refine, n), type)} & set(
        re.findall(r"class (\w+)\(", (Path(refine.__file__).with_name("errors.py")).read_text())
    )
    assert errors == {
        "RefineError", "UserError", "SettingsError", "GuardStop", "MachineError", "DiskError", "Interrupted"
    }  # fmt: skip
    assert [name for name in errors if f"refine.{name}" not in text] == []


def plain(shown: str) -> str:
    """A revealed type without the modules' names."""
    return re.sub(r"\b[\w]+\.(?=[\w.]*\b)", "", shown)


def test_mypy_on_a_callers_file(tmp_path: Path) -> None:
    caller = tmp_path / "caller.py"
    caller.write_text(FILE.read_text())
    (tmp_path / "mypy.ini").write_text(CONFIG)
    cache = Path(__file__).parents[2] / ".mypy_cache" / "caller"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", f"--cache-dir={cache}", str(caller)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={"MYPYPATH": str(SOURCE)},
    )  # fmt: skip
    said = [re.match(r".*caller\.py:(\d+): (\w+): (.*)", line) for line in done.stdout.splitlines()]
    assert said, done.stderr
    revealed: dict[int, str] = {}
    refused: dict[int, set[str]] = {}
    for line in filter(None, said):
        number, kind, text = int(line[1]), line[2], line[3]
        if shown := re.match(r'Revealed type is "(.*)"$', text):
            revealed[number] = plain(shown[1])
        elif kind == "error":
            code = re.search(r"\[([\w-]+)\]$", text)
            refused.setdefault(number, set()).add(code[1] if code else text)
    assert revealed == expected("is")
    assert refused == {number: {code} for number, code in expected("wrong").items()}


@pytest.mark.skipif(find_spec("basedpyright") is None, reason="basedpyright is not installed")
def test_pyright_on_a_callers_file(tmp_path: Path) -> None:
    """Where it is installed (it brings its own node): the same lines are wrong, and no others."""
    import json

    caller = tmp_path / "caller.py"
    caller.write_text(FILE.read_text())
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(SOURCE)], "reportUnusedExpression": False,
                "reportRedeclaration": False}  # fmt: skip
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable,
         "-p", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["generalDiagnostics"]
    wrong = {d["range"]["start"]["line"] + 1 for d in found if d["severity"] == "error"}
    assert wrong == set(expected("wrong"))
