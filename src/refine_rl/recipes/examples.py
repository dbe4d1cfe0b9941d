"""What `refine init` writes to be replaced, and whether it was: a run on the example's prompts, or by its
reward, would teach the example and not the task."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from refine_rl.errors import SettingsError, UserError
from refine_rl.settings import FunctionSettings, RewardSettings

TEMPLATE = Path(__file__).parent / "_template"
"""The example: a task that can be trained as it is."""
OWN = Path(__file__).parent / "_own"
"""The start of a task of one's own: prompts and reward are to be filled in."""
PROMPTS, REWARD = "prompts.jsonl", "rewards.py"
TO_REPLACE = {
    PROMPTS: "what the model is asked, a prompt a line",
    REWARD: "what makes an answer good",
}
"""What of a task of one's own is to be filled in, and with what."""

_WAY_OUT = (
    "put your own in their place, a prompt a line; or have LLMs write them and judge the answers: "
    "`refine init {folder} --task {task} --writer openrouter/moonshotai/kimi-k2 --judge "
    "openrouter/deepseek/deepseek-r1`"
)


@cache
def example_task() -> str:
    """What the example's prompts and its reward are for."""
    return str(tomllib.loads((TEMPLATE / "task.toml").read_text(encoding="utf-8"))["task"])


def same_task(one: str, other: str) -> bool:
    """Whether two tasks differ in nothing but case, white space and the sign at their end.

    >>> same_task("Answer politely", "answer  politely.")
    True
    """
    return _plain(one) == _plain(other)


def require_own_prompts(path: Path, texts: Mapping[str, str], *, task: str, folder: Path) -> None:
    """Raises UserError where prompts of a file are still those that `refine init` wrote: lines to be
    replaced, or all of them the example's while the task is another. `texts` are the prompts by line,
    `folder` is the task's."""
    gaps, examples = _prompts(OWN), _prompts(TEMPLATE)
    left = [line for line, text in texts.items() if text in gaps]
    other = folder.with_name(f"{folder.name}-judged")
    way_out = _WAY_OUT.format(folder=shlex.quote(str(other)), task=shlex.quote(task))
    if left:
        one = len(left) == 1
        lines = f"line {left[0]} of it is" if one else f"lines {', '.join(left)} of it are"
        raise UserError(f"{path}: {lines} still as `refine init` wrote {'it' if one else 'them'}: {way_out}")
    if examples.issuperset(texts.values()) and not same_task(task, example_task()):
        raise UserError(
            f"{path}: these are the prompts of an example ({example_task()!r}), and the task is another one: "
            f"{way_out}"
        )


def require_own_reward(reward: RewardSettings, *, task: str, folder: Path) -> None:
    """Raises SettingsError where a function of the reward is still the one that `refine init` wrote, and is
    not for this task."""
    files: dict[str, Sequence[str]] = {}
    for entry in reward.functions:
        table = FunctionSettings(function=entry) if isinstance(entry, str) else entry
        place, _, name = table.function.rpartition(":")
        files[place] = (*files.get(place, ()), name)
    problems = []
    for place, names in files.items():
        path = folder / place
        if path.suffix != ".py" or not path.is_file():
            continue
        called = " and ".join(f"`{name}`" for name in names)
        if _same_file(path, OWN / "rewards.py"):
            problems.append(
                f"{path}: {called} is still to be written: say there what makes an answer good. Where rules "
                "alone say it, take `functions` out of [reward]."
            )
        elif _same_file(path, TEMPLATE / "rewards.py") and not same_task(task, example_task()):
            problems.append(
                f"{path}: {called} is the reward of an example ({example_task()!r}), and the task is another "
                "one: write your own there, or take `functions` out of [reward]. Where it is polite phrases "
                "that you want, write those of your task into it."
            )
    if problems:
        raise SettingsError("\n".join(problems))


def _plain(task: str) -> str:
    return " ".join(task.casefold().split()).rstrip(".!")


@cache
def _prompts(folder: Path) -> frozenset[str]:
    lines = (folder / PROMPTS).read_text(encoding="utf-8").splitlines()
    return frozenset(json.loads(line)["prompt"] for line in lines)


def _same_file(path: Path, other: Path) -> bool:
    return path.read_bytes().split() == other.read_bytes().split()  # whatever the line ends
