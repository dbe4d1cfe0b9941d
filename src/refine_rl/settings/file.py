"""Settings as TOML: read strictly, with every problem named at once, and written back exactly."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from refine_rl.errors import SettingsError, UserError, path_from, quoted
from refine_rl.settings import Settings
from refine_rl.settings.models import with_models
from refine_rl.settings.problems import Problem, dotted, find_problems, unknown_key
from refine_rl.settings.thrifty import unsaid, with_preset
from refine_rl.settings.toml_lines import KeyPath, key_lines
from refine_rl.settings.toml_write import dump_toml

_BUNDLED = ("tiny", "minilm")  # models that go by a name of ours, whatever folder has it too
_RUN_TABLES = ("versions", "source")  # what a run's config.toml has beside the settings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Places:
    """Where each key comes from: a line of the file, or a --set."""

    file: str = ""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)

    def find(self, problem: Problem) -> tuple[int, str]:
        """(order, label) of the problem's key, or of the nearest table around it that is written somewhere. A
        --set that has a part in the problem comes before every line of a file."""
        for path in (problem.path, *problem.others):
            for end in range(len(path), 0, -1):
                if path[:end] in self.overrides:
                    return sys.maxsize, f"--set {self.overrides[path[:end]]}: "
            for key, override in self.overrides.items():
                if key[: len(path)] == path:  # a table that only a --set names
                    return sys.maxsize, f"--set {override}: "
        around = [problem.path[:end] for end in range(len(problem.path), 0, -1)]
        for key in around:
            if key in self.lines:
                return self.lines[key], f"{self.file}:{self.lines[key]}: "
        return 0, f"{self.file}: " if self.file else ""


def load_settings(path: Path, *, overrides: Sequence[str] = ()) -> Settings:
    """Read a task.toml, or that of a folder, or the config.toml of a run, whose task is done anew.

    `overrides` are "KEY=VALUE" texts that replace single settings ("grpo.steps=50"); the value is
    TOML, or plain text. Raises SettingsError that names every problem with its line, and UserError
    where there is no such file.
    """
    if path.is_dir():
        path = path / "task.toml"
    text = read_text(path, way_out=_way_out(path))
    data = _parse_toml(text, str(path))
    folder = _task_of_run(data, path) if _is_of_run(data) else path.resolve().parent
    places = _Places(file=str(path), lines=key_lines(text), overrides=_put_over(data, overrides))
    return _validate(data, folder, places)


def _is_of_run(data: Mapping[str, Any]) -> bool:
    return all(isinstance(data.get(name), dict) and data[name] for name in _RUN_TABLES)


def _task_of_run(data: dict[str, Any], path: Path) -> Path:
    """The folder of the task of which a run was made, whose config `data` is, and stays without what is not
    its settings. Raises SettingsError where a part of the task is in no file."""
    source = data.pop("source")
    del data["versions"]
    if given := source.get("python_rewards"):
        raise SettingsError(
            f"{path}: this run was started from Python with reward functions ({', '.join(given)}), which are "
            "in no file: start another one from Python"
        )
    return Path(str(source.get("folder", path.resolve().parent)))


def _way_out(path: Path) -> str:
    """What to do where there is no such task."""
    if path.name == "task.toml" and (path.parent / "config.toml").is_file():
        run, config = quoted(path.parent), path.parent / "config.toml"
        command = f"refine {_verb_of(config)}"
        return (
            f"{path.parent} is a run: `{command} --resume {run}` goes on with it, and "
            f"`{command} {quoted(config)}` trains its task anew"
        )
    return "`refine init my-task` makes a task to start from"


def _verb_of(config: Path) -> str:
    """The command that began a run, by its config, which may be damaged."""
    try:
        sft = tomllib.loads(config.read_text(encoding="utf-8"))["source"]["kind"] == "sft"
    except (OSError, ValueError, KeyError, TypeError):
        sft = False
    return "sft" if sft else "train"


def override(settings: Settings, overrides: Sequence[str]) -> Settings:
    """The settings with "KEY=VALUE" texts put over them, checked as a whole again."""
    data = tomllib.loads(dump_settings(settings))
    put = _put_over(data, overrides)
    if not settings.grpo.thrifty and data["grpo"].get("thrifty"):
        data["grpo"] = unsaid(
            data["grpo"], {str(path[1]) for path in put if path[0] == "grpo" and len(path) > 1}
        )
    return _validate(data, settings.folder, _Places(overrides=put))


def settings_from_dict(mapping: Mapping[str, Any], folder: Path) -> Settings:
    """Settings from nested dicts, as strictly as from a file; `folder` is where paths start."""
    return _validate(mapping, folder, _Places())


def settings_from_run(text: str, folder: Path) -> Settings:
    """Settings from the text of a run's config.toml.

    The folder of the task is the one written under [source]; `folder` (the run's) serves where none is.
    """
    data = _parse_toml(text, str(folder / "config.toml"))
    extra = {name: data.pop(name, {}) for name in _RUN_TABLES}
    places = _Places(file=str(folder / "config.toml"), lines=key_lines(text))
    return _validate(data, Path(extra["source"].get("folder", folder)), places)


def run_tables(text: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What a run's config.toml has beside the settings: [source] and [versions], which it ends with. Raises
    UserError where they are not there: what was cut off before them would be read as defaults."""
    file = str(folder / "config.toml")
    data = _parse_toml(text, file)
    for name in _RUN_TABLES:
        if not isinstance(data.get(name), dict) or not data[name]:
            end = text.count("\n") + 1
            raise UserError(f"{file}:{end}: the end is missing, where [{name}] stands; put back what was cut")
    return {name: data[name] for name in _RUN_TABLES}


def dump_settings(settings: Settings) -> str:
    """All settings as TOML text, without those that are None; reading it gives equal settings.

    Raises SettingsError for a value that TOML cannot express (only possible from Python).
    """
    try:
        return dump_toml(settings.model_dump(exclude_none=True))
    except TypeError as error:
        raise SettingsError(f"the settings cannot be written to a file: {error}") from error


def read_text(path: Path, *, way_out: str) -> str:
    """A UTF-8 file's text, without a byte order mark; raises UserError with the way out."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {way_out}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error


def _parse_toml(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(_syntax_problem(str(error), text, file)) from None
    except (ValueError, RecursionError) as error:
        what, line = _too_much(text, error)
        raise SettingsError(f"{file}:{line}: {what}") from None


def _too_much(text: str, error: Exception) -> tuple[str, int]:
    """What of a valid TOML text is more than can be read, and its line."""
    if isinstance(error, RecursionError):
        depths = list(accumulate((sign in "[{") - (sign in "]}") for sign in text))
        deepest = max(range(len(depths)), key=depths.__getitem__)
        return "nested too deeply: too many brackets inside each other", text.count("\n", 0, deepest) + 1
    digits = max(re.finditer(r"[0-9_]+", text), key=lambda found: len(found[0]))
    line = text.count("\n", 0, digits.start()) + 1
    return f"a whole number of {len(digits[0]):,} digits is too long to be read", line


def _syntax_problem(message: str, text: str, file: str) -> str:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message)
    what, line, column = found.groups() if found else (message, None, None)
    place = f"{file}:{line}" if line else f"{file}:{text.count(chr(10)) + 1}"
    where = f" at column {column}" if column else " at the end of the file"
    hint = "; text needs quotes around it" if what == "Invalid value" else ""
    return f"{place}: not valid TOML: {what[:1].lower()}{what[1:]}{where}{hint}"


def _put_over(data: dict[str, Any], overrides: Sequence[str]) -> dict[KeyPath, str]:
    """Put "KEY=VALUE" texts into `data`; returns the text by the key that it set."""
    return {_put(data, text): text for text in overrides}


def _put(data: dict[str, Any], text: str) -> KeyPath:
    name, equals, raw = text.partition("=")
    path = tuple(part.strip() for part in name.split("."))
    if not equals or not all(path):
        raise SettingsError(f"--set {text}: write it as KEY=VALUE, for example --set grpo.steps=50")
    table = data
    for depth, key in enumerate(path[:-1], 1):
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {text}: `{dotted(path[:depth])}` is not a table; set it whole")
        table = inner
    table[path[-1]] = _override_value(path, raw.strip(), text)
    return path


def _override_value(path: tuple[str, ...], raw: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except RecursionError:
        raise SettingsError(f"--set {dotted(path)}: the value is nested too deeply") from None
    except ValueError as error:
        if not isinstance(error, tomllib.TOMLDecodeError):
            raise SettingsError(f"--set {dotted(path)}: the number is too long to be read") from None
        if raw[:1] in ("[", "{", '"', "'"):
            hint = _quotes_lost(dotted(path), raw)
            raise SettingsError(f"--set {text}: the value is not valid TOML: {error}{hint}") from None
        return raw
    if parsed.keys() != {"value"}:  # a line break smuggled in further keys
        return raw
    value = parsed["value"]
    return raw if _takes_only_text(path) and not isinstance(value, str) else value


def _quotes_lost(key: str, raw: str) -> str:
    """What to type where a shell took the quotes around texts away.

    >>> print(_quotes_lost("reward.functions", "[a.py:good, 3]"))
    ; the shell takes quotes away: --set 'reward.functions=["a.py:good", 3]'
    """
    if raw[0] not in "[{" or '"' in raw or "'" in raw:
        return ""
    items = [item.strip() for item in raw[1:-1].split(",")]
    if raw[-1] != "]" or raw[0] == "{" or any(sign in raw[1:-1] for sign in "[]{}\\"):
        return "; text needs quotes, which the shell takes away: put '...' around KEY=VALUE"
    told = ", ".join(item if _is_toml(item) else f'"{item}"' for item in items if item)
    return f"; the shell takes quotes away: --set '{key}=[{told}]'"


def _is_toml(text: str) -> bool:
    try:
        return tomllib.loads(f"value = {text}").keys() == {"value"}
    except (ValueError, RecursionError):
        return False


def _takes_only_text(path: tuple[str, ...]) -> bool:
    """Whether the setting is a string and nothing else, so that `--set name=007` means "007"."""
    model: Any = Settings
    for key in path[:-1]:
        known = getattr(model, "model_fields", {}).get(key)
        model = known.annotation if known else None
    setting = getattr(model, "model_fields", {}).get(path[-1])
    return setting is not None and setting.annotation is str


def _rooted(settings: Settings, folder: Path) -> Settings:
    """With paths of models from the root on, where they start in the task's folder: who loads a model knows
    none. A file that makes a model is there; a folder is looked for here first, then there."""

    def placed(key: str, name: str) -> str:
        kind, _, place = name.partition(":")
        if key == "model.name" and kind == "file":
            return f"file:{path_from(folder.resolve(), place)}"
        return _found(name, folder)

    return with_models(settings, placed)


def _found(name: str, folder: Path) -> str:
    """The path of the folder of that name beside the task, where there is one and none here; else the
    name."""
    if name in _BUNDLED or not name.strip() or Path(name).expanduser().is_dir():
        return name
    there = path_from(folder.resolve(), name)
    return str(there) if there.is_dir() else name


def _validate(data: Mapping[str, Any], folder: Path, places: _Places) -> Settings:
    problems: list[Problem] = []
    if "folder" in data:  # a field of the record, but not a setting
        problems.append(unknown_key(("folder",)))
        data = {key: value for key, value in data.items() if key != "folder"}
    try:
        settings = Settings.model_validate({**data, "folder": folder})
    except ValidationError as error:
        problems += find_problems(error, data)
    else:
        if not problems:
            given = data.get("grpo", {})
            said = given.keys() if isinstance(given, Mapping) else given.model_fields_set
            return _rooted(with_preset(settings, said), folder)
    placed = sorted((*places.find(problem), problem.text) for problem in problems)
    raise SettingsError("\n".join(f"{label}{text}" for _, label, text in placed))
