"""What people are told to type or to write works as it stands: every command and every piece of TOML in the
pages and in our own messages is parsed."""

from __future__ import annotations

import ast
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from refine_rl.cli import app
from refine_rl.errors import UserError
from refine_rl.rewards.rules.table import rule_reward
from refine_rl.settings import Settings
from refine_rl.settings.file import load_settings, settings_from_dict
from refine_rl.settings.problems import setting_names

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "refine_rl"
_PLACES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "examples/**/*.md",
    "benchmarks/*.md",
    "src/refine_rl/recipes/*/README.md",
    "src/refine_rl/assets/skills/*/SKILL.md",
]
PAGES = sorted(page for place in _PLACES for page in ROOT.glob(place))
TASKS = [*ROOT.glob("examples/*/task.toml"), *SOURCE.glob("recipes/[!_]*/task.toml")]
COMMAND: Any = typer.main.get_command(app)
JUDGED = {"reward": {"judges": ["openrouter/a/b"]}, "writer": {"model": "openrouter/c/d"}}
STEPS = {"grpo": {"flat": "steps", "solved": 1.0}, "judge": {"kind": "absolute"}}
COMPLETIONS: list[dict[str, Any]] = [
    {},
    JUDGED,
    {**JUDGED, "judge": {"repeats": 3}},
    STEPS,
    {**JUDGED, **STEPS},
]
"""What the rest of a task may be, of which a page shows a part."""


def parsed(command: str) -> None:
    """Raises click's error where the command line would refuse the words."""
    words = shlex.split(command, comments=True)
    assert words[0] == "refine"
    with COMMAND.make_context("refine", list(words[1:])) as context:
        _, sub, rest = COMMAND.resolve_command(context, [*context._protected_args, *context.args])
        assert sub is not None
        with sub.make_context(words[1], rest, parent=context) as inner:
            for override in inner.params.get("overrides") or []:
                key = override.partition("=")[0]
                assert "=" in override
                assert key == "KEY" or is_setting(key), override


def is_setting(key: str) -> bool:
    """Whether a dotted key names a setting or a table; names that a person gives stand for any."""
    path = tuple(part for part in key.split(".") if part)
    names = {(*table, name) for table, keys in setting_names().items() for name in keys}
    given = {"endpoints": 1, "prices": 1, "facets": 1, "data": 1, "weights": 1}
    short: list[str] = []
    skip = 0
    for part in path:
        if skip:
            skip -= 1
            continue
        short.append(part)
        skip = given.get(part, 0)
    return tuple(short) in names


def read(text: str) -> Settings:
    """The settings that a piece of a task file makes, with some rest of a task."""
    data = tomllib.loads(text)
    data = {name: value for name, value in data.items() if value != {}}
    problems = []
    for rest in COMPLETIONS:
        whole = {"task": "Be brief.", **rest, **data}
        for name in rest.keys() & data.keys():
            whole[name] = {**rest[name], **data[name]}
        try:
            return settings_from_dict(whole, ROOT)
        except UserError as error:
            problems.append(str(error))
    raise AssertionError(f"{text}\n{problems}")


def blocks(page: Path, *languages: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?ms)^( *)```(\w*)\n(.*?)^\1```", text)
    return [block for _, language, block in found if language in languages]


def spans(page: Path) -> list[str]:
    """Code between single backticks."""
    text = re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


# -- pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_toml_of_the_pages_is_read(page: Path) -> None:
    for block in blocks(page, "toml"):
        settings = read(block)
        for number, rule in enumerate(settings.reward.rules):
            rule_reward(rule, where=f"{page}, rule {number}")
    for span in spans(page):
        if re.match(r"\w+ = await ", span):  # Python
            continue
        if re.match(r"[\w.]+ = \S(?!$)", span):  # one letter alone stands for a number, as in formulas
            assert tomllib.loads(span), span
        elif re.match(r"\[\w+\] \w+ = ", span):
            pytest.fail(f"no TOML on one line: {span}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_pages_are_understood(page: Path) -> None:
    lines = [line.strip() for block in blocks(page, "", "sh", "bash") for line in block.splitlines()]
    indented = re.findall(r"(?m)^ {4,}(refine .*)$", page.read_text(encoding="utf-8"))
    shown = [span for span in spans(page) if re.match(r"refine \w+ \S", span)]
    for command in (*lines, *indented, *shown):
        if command.startswith("refine "):
            parsed(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_the_pages_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(textwrap.dedent(block), str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_json_of_the_pages_is_json(page: Path) -> None:
    """One value, or one a line."""
    for block in blocks(page, "json"):
        try:
            json.loads(block)
        except ValueError:
            for line in block.splitlines():
                json.loads(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_other_commands_of_the_pages_name_what_is_there(page: Path) -> None:
    """Targets of make, our scripts with their flags, and extras of the package."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for block in blocks(page, "", "sh", "bash") for line in block.splitlines()]
    commands = [*lines, *spans(page)]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        words = command.partition("#")[0].split()
        if words[:1] == ["make"]:
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"(?m)^{target}:", makefile) for target in targets), command
        if words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
            assert (script := ROOT / words[1]).is_file(), command
            flags = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
            assert all(flag in script.read_text(encoding="utf-8") for flag in flags), command
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"refine-rl\[([\w-]+)\]", text):
        assert extra in extras["optional-dependencies"], extra


def test_there_is_something_to_read() -> None:
    """The patterns above find what they are for."""
    assert sum(len(blocks(page, "toml")) for page in PAGES) > 15
    assert sum("refine " in span for page in PAGES for span in spans(page)) > 30
    assert sum(len(blocks(page, "python")) for page in PAGES) > 6
    assert sum(len(blocks(page, "json")) for page in PAGES) > 3


def test_toml_in_what_settings_mean_is_read() -> None:
    """Inline tables and assignments in the page of all settings, which stand there without backticks."""
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    tables = re.findall(r"\{(?:[^{}|]|\{[^{}]*\})* = (?:[^{}|]|\{[^{}]*\})*\}", page)
    assert len(tables) >= 4
    for table in tables:
        assert tomllib.loads(f"value = {table}"), table


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.parent.name)
def test_commented_settings_of_our_tasks_are_read(task: Path) -> None:
    check_comments(task.read_text(encoding="utf-8"))


def check_comments(text: str) -> None:
    """Settings and commands in a task file's comments."""
    table = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"#? ?\[([\w.]+)\]\s*(?:#.*)?", line):
            table = header[1]
        elif setting := re.fullmatch(r"# (\w+) = (.*)", line):
            tomllib.loads(f"[{table}]\n{setting[1]} = {setting[2]}")
            assert is_setting(f"{table}.{setting[1]}"), line
        for command in re.findall(r"`(refine [^`]+)`", line):
            parsed(command)
        for key in re.findall(r"--set ([\w.]+)=", line):
            assert is_setting(key), line


# -- our own messages -------------------------------------------------------------------------------


@cache
def messages() -> tuple[tuple[str, str], ...]:
    return tuple(_messages())


def _messages() -> Iterator[tuple[str, str]]:
    """Every text in the source, with 7 in the place of what is filled in; docstrings apart."""
    for path in sorted(SOURCE.rglob("*.py")):
        if {"recipes", "make_tiny"} & set(path.relative_to(SOURCE).parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent: set[ast.AST] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                silent.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                silent |= set(ast.walk(node)) - {node}
        for node in ast.walk(tree):
            if node in silent:
                continue
            where = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield where, node.value
            elif isinstance(node, ast.JoinedStr):
                yield where, "".join(map(filled, node.values))


def filled(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    shown = ast.unparse(part)
    return "refine" if "program()" in shown else "go_on" if "go_on" in shown else "7"


def test_commands_of_our_messages_are_understood() -> None:
    found = 0
    for where, text in messages():
        commands = re.findall(r"`(refine \w+ [^`]+)`", text)
        commands += re.findall(r"(?m): (refine \w+(?: [^\s;,`]+)+)", text)
        commands += re.findall(r"\((refine [a-z]\w*(?: [^\s;,`)]+)+)", text)
        for command in commands:
            try:
                parsed(command.rstrip("."))
            except Exception as error:
                raise AssertionError(f"{where}: {command}: {error}") from error
            found += 1
    assert found > 12


def test_settings_of_our_messages_are_settings() -> None:
    """--set KEY=... and `KEY = VALUE` name settings, and values are TOML; a header and a key never stand on
    one line."""
    found = 0
    for where, text in messages():
        for key in re.findall(r"--set ([a-z_]+\.[\w.]+)=", text):
            assert is_setting(key), (where, key)
            found += 1
        for pair in re.findall(r"`([\w.]+ = [^`]+)`", text):
            value = tomllib.loads(pair)
            key = pair.partition(" = ")[0]
            assert value, (where, pair)
            assert "." not in key or is_setting(key), (where, pair)
            found += 1
        assert not re.search(r"(?m)^(?!rules|functions).*\[\w[\w.]*\] \w+ = \S", text), (where, text)
        for flags in re.findall(r"--set [\w.]+=\.\.\.", text):
            pytest.fail(f"{where}: nobody can type {flags}")
    assert found > 30


@pytest.mark.parametrize(
    ("change", "at_fault"),
    [
        ('[writer]\nmodel = "olama/x"', "there is no endpoint `olama`"),
        ('[writer]\nmodel = "a.b/x"', "there is no endpoint `a.b`"),
        ("[reward]\nrules = []", "nothing says what is good"),
        (
            '[writer]\nmodel = "openrouter/no/w"\n[reward]\njudges = ["openrouter/no/j", "ollama/j"]\n'
            "[budget]\ndollars = 1.0",
            "writer.model, reward.judges, entry 1, reward.judges, entry 2: budget.dollars needs to know",
        ),
    ],
)
def test_toml_of_an_error_is_read(
    refine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, at_fault: str
) -> None:
    """Put behind the file as it is told, what the error says makes it readable, and the error is gone."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "k")
    task = tmp_path / "task.toml"
    prompts = '[prompts]\nsource = "recipe:dots"\n'
    task.write_text(f'task = "Be brief."\n{prompts}[model]\nname = "nothing/here"\n{change}\n')
    done = refine("train", task)
    assert done.code == 2
    assert at_fault in done.err
    advice = re.search(r"(?ms)^\[[a-z.\"]+\]\n.*", done.err)
    assert advice is not None, done.err
    text = task.read_text()
    task.write_text(text.replace("[reward]\nrules = []", "") + advice[0])
    load_settings(task)
    again = refine("train", task)
    assert at_fault not in again.err
    assert "nothing/here" in again.err or "NAME_OF_THE_VARIABLE" in again.err  # the next thing that is wrong


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--recipe", "style"),
        ("--task", "Answer politely and briefly."),
        ("--task", 'Summarise Ann\'s ticket in "one" sentence.'),
        ("--model", "Qwen/Qwen3-0.6B"),
        ("--task", "Summarise it.", "--writer", "openrouter/a/b", "--judge", "mine/c", "--model", "tiny"),
    ],
)
def test_what_init_writes_and_says_can_be_used(
    refine: Callable[..., Any], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    done = refine("init", tmp_path / "my task", *flags)
    assert done.code == 0, done.err
    task = tmp_path / "my task" / "task.toml"
    load_settings(task)
    check_comments(task.read_text())
    commands = re.findall(r"(?m)(?:: |^  )(refine .*)$", done.out)
    assert commands[-1] == f"refine train '{task}'"
    for command in commands:
        parsed(command)
