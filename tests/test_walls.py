"""The walls between the rooms, checked on the imports and the texts of the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "refine_rl"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").strip("."): path
    for path in sorted(SOURCE.rglob("*.py"))
    if not {"recipes", "make_tiny"} & set(path.relative_to(SOURCE).parts[:-1])
}
RUN_FILES = {
    "config.toml",
    "prompts.jsonl",
    "given_prompts.jsonl",
    "metrics.jsonl",
    "groups.jsonl",
    "validation.jsonl",
    "events.jsonl",
    "llm_calls.jsonl",
    "llm_replies.jsonl",
    ".calls_under_way.jsonl",
    "quiz.jsonl",
    "pool.jsonl",
    "times.jsonl",
    "comparison.json",
    "report.html",
    "evaluations/",
    "checkpoints/",
}


def imports(path: Path) -> set[str]:
    """Rooms and modules of refine_rl that the file imports, at its top or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {n.removeprefix("refine_rl.").split(".")[0] for n in names if n.startswith("refine_rl.")}
        found |= {"api"} & {"api" for n in names if n == "refine_rl"}
    return found


def texts(path: Path) -> Iterator[str]:
    """String constants of the file, docstrings and texts of help options apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(node.value)
        if isinstance(node, ast.keyword) and node.arg == "help":
            silent |= set(ast.walk(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in silent:
            yield node.value


@pytest.mark.parametrize("name", ["types", "errors"])
def test_records_and_errors_know_nobody(name: str) -> None:
    assert imports(MODULES[name]) == set()


@pytest.mark.parametrize("name", [n for n in MODULES if n.split(".")[0] == "training"])
def test_training_knows_neither_endpoints_nor_files(name: str) -> None:
    assert not imports(MODULES[name]) & {
        "llm",
        "run",
        "prompts",
        "rewards",
        "pipeline",
        "report",
        "cli",
        "api",
    }


@pytest.mark.parametrize("name", [n for n in MODULES if n.split(".")[0] in ("policy", "evaluate", "rewards")])
def test_lower_rooms_do_not_know_the_pipeline(name: str) -> None:
    assert not imports(MODULES[name]) & {"pipeline", "run", "cli", "api"}


def test_the_command_line_is_known_to_nobody_but_the_front_door() -> None:
    users = {name for name, path in MODULES.items() if "cli" in imports(path)}
    assert {name for name in users if not name.startswith("cli")} <= {"api", "__main__"}


@pytest.mark.parametrize("room", ["settings", "llm", "prompts", "rewards", "run", "report", "cli", "api"])
def test_no_torch_when_imported(room: str) -> None:
    names = [f"refine_rl.{n}".rstrip(".") for n in MODULES if n.split(".")[0] == room]
    if not names:
        pytest.skip(f"there is no {room} yet")
    code = (
        f"import sys, importlib as i\nfor n in {names!r}: i.import_module(n)\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_only_the_run_folder_knows_the_names_of_its_files() -> None:
    found = {
        (name, file)
        for name, path in MODULES.items()
        if name.split(".")[0] != "run"
        for text in texts(path)
        for file in RUN_FILES
        if re.search(rf"(?<!\w){re.escape(file)}", text)
    }
    # settings.file names the file in its errors; `prompts.sources` an example of a task's own prompts.
    allowed = {
        ("settings.file", "config.toml"),
        ("prompts.sources", "prompts.jsonl"),
    }
    assert found <= allowed, found - allowed


def test_one_place_only_starts_the_drawing_of_the_terminal() -> None:
    """Progress goes through an Observer: nobody but the command line prints."""
    for name, path in MODULES.items():
        if name.split(".")[0] == "cli" or name == "settings.docs":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id
            assert called != "print", f"{name}:{getattr(node, 'lineno', 0)}"
