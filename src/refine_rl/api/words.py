"""Advice that names commands and flags, as the rest of the house gives it, in the words of Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from refine_rl.errors import GuardStop
from refine_rl.pipeline.given import resume_call
from refine_rl.pipeline.ways_on import Value, ways
from refine_rl.run import RunFolder
from refine_rl.run.from_python import call_to_resume

_WORD = r"(?:'[^']*'|[^\s`;,()']+)"
_RESUME = re.compile(rf"`?refine (train|sft) --resume ({_WORD})((?: --from-step \d+| --set {_WORD})*)`?")
_VERB = re.compile(rf"`?refine (eval|chat|export|plan|prompts|check) ({_WORD})`?")
_SET = re.compile(rf"--set ({_WORD})")
_FLAG = re.compile(
    r"--(run|resume|judge|metrics|checkpoint|from-step|seed|samples|steps|name|prompts|reference|rubric|"
    r"answers|rivals|base-url|key-env|dtype|outtype|out|gguf|ollama|hub|llama-cpp)\b"
    rf"(?: (?!or\b|and\b|takes\b|goes\b|must\b)({_WORD}))?"
)
_INIT = "`refine init "
_SPARED = re.compile(f"({_INIT}[^`]*`)")  # there is no call for it, so it stays a command
_VERBS = {"eval": "evaluate"}
_ARGUMENTS = {"from-step": "step", "base-url": "base_url", "key-env": "key_env", "resume": "run"}
_TABLE = re.compile(r"a table:\n\[endpoints\.(.+)\]\nbase_url = (\".*\")\nkey_env = (\"\w+\")  # (.*)")
_PLACES = (
    ("rollout.environment: `python:", "environment: `"),
    ("`python:", "`"),
    ('"python:', '"'),
)


def in_python(text: str) -> str:
    """The text with calls and arguments in the place of commands and flags.

    >>> in_python("r is not finished. Go on with it: refine train --resume r --from-step 4 --set grpo.kl=0.1")
    "r is not finished. Go on with it: refine_rl.resume('r', step=4, set={'grpo.kl': 0.1})"
    >>> in_python("--set grpo.seed: this cannot change.")
    'set: grpo.seed: this cannot change.'
    >>> in_python("Export with --merged --dtype float32.")
    "Export with merged=True dtype='float32'."
    >>> in_python("to take one: --checkpoint last or --checkpoint 4.")
    "to take one: checkpoint='last' or checkpoint=4."
    >>> in_python("Compare with `refine eval 'my runs/a'`, or choose another folder with --run.")
    "Compare with refine_rl.evaluate('my runs/a'), or choose another folder with run=."
    >>> in_python("Give another --judge, or begin with `refine init a --judge x/y`")
    'Give another judge=, or begin with `refine init a --judge x/y`'
    >>> in_python("To try again: refine eval r --rivals sft")
    "To try again: refine_rl.evaluate('r') rivals=['sft']"
    """
    return "".join(part if part.startswith(_INIT) else _in_python(part) for part in _SPARED.split(text))


def _in_python(text: str) -> str:
    text = re.sub(r"rollout\.tools, entry (\d+)", lambda m: f"tools[{int(m[1]) - 1}]", text)
    for old, new in _PLACES:
        text = text.replace(old, new)
    text = _TABLE.sub(_endpoint, text)
    text = _RESUME.sub(_resume, text)
    text = _VERB.sub(lambda m: f"refine_rl.{_VERBS.get(m[1], m[1])}({_unquoted(m[2])!r})", text)
    text = _SET.sub(_set, text)
    text = re.sub(r"--(merged|again|private)\b", r"\1=True", text)
    text = re.sub(r"--no-(check)\b", r"\1=False", text)
    return _FLAG.sub(_argument, text)


def ways_on(stop: GuardStop, folder: RunFolder) -> str:
    """The ways on after a guard, a line each."""
    lines = []
    for way in ways(stop, folder):
        step = [] if way.step is None else [f"step={way.step}"]
        lines.append(f"{way.when}: {resume_call(folder, *step, *change(way.change))}")
    return "\n".join(lines)


def change(settings: Mapping[str, Value]) -> list[str]:
    """The argument that changes settings; none where nothing changes.

    >>> change({"grpo.steps": 5, "name": "TEXT"})
    ["set={'grpo.steps': 5, 'name': 'TEXT'}"]
    """
    plain = {key: int(v) if isinstance(v, float) and v == int(v) else v for key, v in settings.items()}
    return [f"set={plain!r}"] if plain else []


def _resume(found: re.Match[str]) -> str:
    folder = RunFolder(Path(_unquoted(found[2])))
    words = shlex.split(found[3])
    flags = list(zip(words[::2], words[1::2], strict=True))
    more = [f"step={value}" for flag, value in flags if flag == "--from-step"]
    pairs = (value.partition("=") for flag, value in flags if flag == "--set")
    more += change({key: _value(raw) for key, _, raw in pairs})
    if folder.begun:
        return resume_call(folder, *more)
    return call_to_resume(found[1], _unquoted(found[2]), *more)


def _endpoint(found: re.Match[str]) -> str:
    """The argument that an endpoint of one's own is."""
    own = {found[1].strip('"'): {"base_url": found[2].strip('"'), "key_env": found[3].strip('"')}}
    return f"endpoints={own!r} ({found[4]})"


def _set(found: re.Match[str]) -> str:
    word = _unquoted(found[1])
    end = ":" if word.endswith(":") else ""
    key, equals, raw = word.removesuffix(":").partition("=")
    if end or not equals:
        return f"set: {key}{equals}{raw}{end}"
    return change({key: _value(raw.rstrip("."))})[0]


def _argument(found: re.Match[str]) -> str:
    name = _ARGUMENTS.get(found[1], found[1].replace("-", "_"))
    if found[2] is None:
        return f"{name}="
    word = found[2]
    bare = word.rstrip(".:")
    if name == "rivals":
        return f"{name}={[_unquoted(bare)]!r}{word[len(bare) :]}"
    return f"{name}={_value(_unquoted(bare))!r}{word[len(bare) :]}"


def _value(raw: str) -> Value:
    for kind in (int, float):
        try:
            return kind(raw)
        except ValueError:
            continue
    return raw


def _unquoted(word: str) -> str:
    try:
        return shlex.split(word)[0]
    except (ValueError, IndexError):
        return word
