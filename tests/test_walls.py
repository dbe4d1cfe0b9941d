"""The walls between the rooms, checked on the imports and the texts of the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_rl.settings import Settings

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
    "votes.jsonl",
    "calibrations.jsonl",
    "examples.jsonl",
    "comparison.json",
    "trackers.json",
    "report.html",
    "evaluations/",
    "comparisons/",
    "checkpoints/",
}


CONTRIBUTING = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EVERY = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in sorted(SOURCE.rglob("*.py"))
}


def named(path: Path) -> set[str]:
    """Modules of refine_rl that the file imports, at its top or later, by their whole names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            files = {name for name in inner if module_of(name)}
            found |= files if files == inner else files | {str(node.module)}
    return {name for name in found if name.partition(".")[0] == "refine_rl"}


def module_of(name: str) -> str:
    """The module of that whole name, as a key of EVERY; "" where there is none."""
    inner = name.partition(".")[2]
    return next((key for key in (inner, f"{inner}.__init__".lstrip(".")) if key in EVERY), "")


def rooms_of(path: Path) -> set[str]:
    """The rooms that a file imports."""
    return {module_of(name).partition(".")[0] for name in named(path)}


ROOMS = {key.partition(".")[0] for key in EVERY} - {"__init__", "__main__"}
ARROWS = {
    room: set().union(*(rooms_of(path) for key, path in EVERY.items() if key.partition(".")[0] == room))
    - {room}
    for room in ROOMS
}


def allowed() -> dict[str, set[str]]:
    """CONTRIBUTING's table of who may import whom."""
    table: dict[str, set[str]] = {}
    for line in CONTRIBUTING.splitlines():
        if line.startswith("| `") and len(cells := line.strip("| ").split(" | ")) == 3:
            names = set() if cells[2] == "nothing" else set(cells[2].split(", "))
            table |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), names)
    return table


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


def test_the_table_of_rooms_names_them_all() -> None:
    assert allowed().keys() == ROOMS


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_what_its_row_says(room: str) -> None:
    assert ARROWS[room] == allowed()[room]


def test_the_house_has_few_floors_and_no_circle() -> None:
    """A room stands above all that it imports; a circle of rooms, or of files, would have no floor."""
    assert len(ROOMS) <= 24
    assert max(floors(ARROWS).values()) <= 9
    files = {key: {module_of(name) for name in named(path)} - {key} for key, path in EVERY.items()}
    floors(files)


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    found: dict[str, int] = {}
    while len(found) < len(arrows):
        ready = {one for one, others in arrows.items() if one not in found and others <= found.keys()}
        assert ready, f"a circle among {sorted(arrows.keys() - found.keys())}"
        found |= {one: 1 + max((found[other] for other in arrows[one]), default=0) for one in ready}
    return found


def test_nothing_is_too_long_to_be_read() -> None:
    for key, path in EVERY.items():
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 450, key
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 70, f"{key}: {node.name}"


def test_the_loop_is_a_screen_and_knows_no_setting() -> None:
    text = EVERY["training.grpo.loop"].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    schema = Settings.model_json_schema()
    tables = [table["properties"] for table in schema["$defs"].values()]
    own = {"steps", "step", "start", "metrics"}  # a loop has these
    names = {name for table in tables for name in table} - own
    code = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    code |= {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert code & names == set()
    assert "settings" not in text


def test_settings_are_taken_apart_at_the_door() -> None:
    """Of training, worlds and evaluation one file knows the whole of them."""
    rooms = {"training", "envs", "evaluate"}
    users = {
        key for key, path in EVERY.items() if re.search(r"\bSettings\b", path.read_text(encoding="utf-8"))
    }
    assert {key for key in users if key.partition(".")[0] in rooms} == {"training.grpo.setup"}


def test_nobody_looks_into_a_model_from_outside() -> None:
    for key, path in EVERY.items():
        if key.partition(".")[0] == "policy":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("model", "fast", "frozen"):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else owner
                assert owner not in ("policy", "speaker", "reference"), f"{key}:{node.lineno}"


def test_a_world_is_known_by_its_own_files_alone() -> None:
    """And by the settings, and the words that name one of them in advice."""
    users = {
        key
        for key, path in EVERY.items()
        if re.search(r"early.exit", path.read_text(encoding="utf-8"), re.IGNORECASE)
    }
    own = {"envs.early_exit", "envs.build", "rewards.decayed", "pipeline.ways_on"}
    assert {key for key in users if key.partition(".")[0] != "settings"} == own


def test_the_way_names_files_that_are_there() -> None:
    root = SOURCE.parents[1]
    for name in set(re.findall(r"`((?:\w+/)+\w+\.(?:py|md|toml))`", CONTRIBUTING)):
        assert any((start / name).is_file() for start in (root, SOURCE, SOURCE / "rewards")), name


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
        if name.split(".")[0] == "cli" or name in ("settings.docs", "api.docs"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id
            assert called != "print", f"{name}:{getattr(node, 'lineno', 0)}"


def test_the_libraries_of_models_come_along_when_a_model_does() -> None:
    """Importing them takes seconds, and they say what nobody asked (a notebook's first cell is quiet)."""
    late = re.compile(r"^(?:from|import) (?:transformers|peft|accelerate|datasets|huggingface_hub)\b", re.M)
    rooms = {key: path.read_text(encoding="utf-8") for key, path in EVERY.items()}
    early = {key for key, text in rooms.items() if late.search(text)}
    assert {key for key in early if not key.startswith("assets.")} <= {
        "recipes.codet5.model",
        "recipes.docstrings.model",
        "recipes.guess.model",
        "recipes.programs.model",
        "recipes.wordle.model",
    }
