"""An answer's program, run against the assertions of its prompt, as a reward."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from refine_rl.errors import MachineError, SettingsError, UserError
from refine_rl.rewards.code.jail.exam import BadTests, Exam, read_exam
from refine_rl.rewards.code.sandbox import Failed, Limits, Sandbox
from refine_rl.rewards.rules.content import data_value, named
from refine_rl.settings import CodeSettings
from refine_rl.types import Prompt, Score, Trajectory, count_of

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\n`]*)\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_PYTHON = {"", "python", "py", "python3"}
_SHOWN = 3  # assertions that an explanation names


def code_of(completion: str) -> str:
    """The program in an answer: its fenced blocks of Python in their order, else all of it. What stands
    before `</think>` is no part of it.

    >>> code_of("So:\\n```python\\ndef f(x):\\n    return x\\n```\\nDone.")
    'def f(x):\\n    return x\\n'
    >>> code_of("def f(x): return x")
    'def f(x): return x'
    """
    answer = completion.rpartition("</think>")[2]
    blocks = [
        body for _, kind, body in _FENCE.findall(answer) if kind.strip().partition(" ")[0].lower() in _PYTHON
    ]
    return "\n".join(blocks) if blocks else answer.strip("\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeReward:
    """The share of the assertions under `tests` of the prompt's data that hold for the answer's program, or 1
    where all of them do, else 0 (`grade`).

    What is the program's own fault (it does not parse, raises, ends, takes too long or too much memory) is a
    score of 0 for the assertions that it hits; a sandbox that fails makes the score missing.
    """

    name: str = "code"
    tests: str
    grade: Literal["share", "all"]
    isolation: Literal["best", "full"] = "best"
    sandbox: Sandbox = field(repr=False)

    def check_prompt(self, prompt: Prompt) -> None:
        text = self._text(prompt)
        try:
            read_exam(text)
        except BadTests as error:
            raise UserError(f"{named(prompt)}: its tests (data `{self.tests}`): {error}") from None

    def isolated(self) -> str:
        """What a person is to be told before programs run on this machine; "" where all is isolated.
        SettingsError where the settings ask for more than there is, MachineError where no program runs."""
        try:
            found = self.sandbox.isolation()
        except Failed as error:
            raise MachineError(f"reward.code: {error}") from None
        if not found.lacks:
            return ""
        able = "; ".join(found.lacks)
        why = f" (the kernel refuses: {found.why})" if found.why else ""
        if self.isolation == "full":
            raise SettingsError(
                f'reward.code.isolation is "full", and on this machine{why} a program of the model could '
                f'{able}. Run it where namespaces and seccomp are allowed, or set `isolation = "best"`.'
            )
        return (
            f"reward.code runs programs that the model wrote. Isolated: {found.text}. NOT isolated{why}: "
            f"they could {able}."
        )

    async def score_group(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> list[Score]:
        text = self._text(prompt)
        exam = read_exam(text)
        codes = [code_of(trajectory.completion) for trajectory in trajectories]
        different = list(dict.fromkeys(codes))
        scores = await asyncio.gather(*(self._score(code, text, exam) for code in different))
        by_code = dict(zip(different, scores, strict=True))
        return [by_code[code] for code in codes]

    async def _score(self, code: str, text: str, exam: Exam) -> Score:
        if not code.strip():
            return Score(value=0.0, explanation="no program")
        if not _is_text(code):
            return Score(
                value=0.0, explanation="the program is no text: it has half of a surrogate pair in it"
            )
        try:
            found = await self.sandbox.judge(code, text)
        except Failed as error:
            return Score.missing(f"the program could not be run: {error}")
        except ValueError as error:
            return Score.missing(f"the tests fail by themselves: {error}")
        held = sum(one.held for one in found)
        total = exam.assertions
        value = held / total if self.grade == "share" else float(held == total)
        reasons = list(dict.fromkeys(one.why for one in found if not one.held))
        if len(found) < total:
            reasons.append(f"{count_of(total - len(found), 'assertion')} did not come to an end in time")
        more = [f"and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
        return Score(
            value=value, explanation="; ".join([f"{held} of {total} hold", *reasons[:_SHOWN], *more])
        )

    def _text(self, prompt: Prompt) -> str:
        """The tests as one text; a list of texts is one below the other."""
        found = data_value(prompt, self.tests)
        lines = [found] if isinstance(found, str) else found
        if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
            raise UserError(f"{named(prompt)}: its data `{self.tests}` must be a text or a list of texts")
        return "\n".join(lines)


def code_reward(settings: CodeSettings) -> CodeReward:
    """The reward that [reward.code] describes, without its weight. No process is begun yet."""
    limits = Limits(seconds=settings.timeout, cpu=settings.cpu, memory=settings.memory)
    return CodeReward(
        tests=settings.tests,
        grade=settings.grade,
        isolation=settings.isolation,
        sandbox=Sandbox(limits, settings.workers),
    )


def _is_text(code: str) -> bool:
    try:
        code.encode()
    except UnicodeEncodeError:
        return False
    return True
