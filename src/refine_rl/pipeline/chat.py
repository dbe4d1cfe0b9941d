"""Answers to single messages, and what can be changed between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from refine_rl.envs.play import sample
from refine_rl.envs.stage import Stage, stage_of
from refine_rl.errors import UserError
from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.report.dialogue import lines
from refine_rl.settings import Settings
from refine_rl.types import Dialogue, Message, Prompt, Trajectory

HELP = """/help              these lines
/base              the untrained model's answer as well, or no longer
/system TEXT       another system message; without a text, none
/temperature X     0: the most likely answer
/tokens N          an answer is cut after N tokens
/quit              the end, as an empty line
//...              a message that begins with /
Every message stands alone, as in training."""
COLUMN = 19  # of HELP, in which it says what a command does


def stage_of_run(settings: Settings) -> Stage | None:
    """The environment in which a run's answers are given, where there is one. Raises SettingsError where it
    is not there any more."""
    return stage_of(settings.rollout, settings.folder)


@dataclass(kw_only=True)
class Chat:
    """A talk with a policy: how it answers now. `longest`: tokens of the longest text in its training.
    With a `stage` a message sets a world going, and the answer is all that happens in it: the id of one of
    `prompts` takes that prompt with its data, any other text is a prompt without data."""

    policy: Policy
    longest: int
    system: str
    temperature: float
    max_tokens: int
    base: bool
    stage: Stage | None = None
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    turn: int = 0

    def answers(self, text: str) -> list[tuple[str, str]]:
        """Who answers, and what: "tuned", before it "base" where that is wanted.

        Raises UserError where message and answer together are longer than the model reads, or where the
        message cannot be encoded as text.
        """
        self.turn += 1
        said = []
        if self.base:
            with self.policy.reference() as untrained:
                said.append(("base", self._reply(untrained, text)))
        return [*said, ("tuned", self._reply(self.policy, text))]

    def command(self, line: str) -> str:
        """Does what a line that begins with / asks for; what to tell the person. Raises UserError for what
        is no command, or has a value that cannot be."""
        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/help":
            return HELP
        if name == "/base":
            self.base = not self.base
            return f"The untrained model answers as well: {'yes' if self.base else 'no'}"
        if name == "/system":
            self.system = value
            return f"System message: {value or 'none'}"
        if name == "/temperature":
            self.temperature = _number(name, value, 0.0)
            return f"Temperature: {self.temperature:g}"
        if name == "/tokens":
            self.max_tokens = int(_number(name, value, 1.0))
            return f"Tokens of an answer, at most: {self.max_tokens}"
        raise UserError(
            f"{name} is no command. /help lists them; a message that begins with / gets another: //"
        )

    def _reply(self, policy: Policy, text: str) -> str:
        messages: list[Message] = [{"role": "user", "content": text}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        prompt = self.prompts.get(text) or Prompt(id="chat", split="held_out", messages=tuple(messages))
        length = len(policy.encode(prompt.messages))
        if length > policy.prompt_room(self.max_tokens):
            raise UserError(
                f"This message takes {length} tokens and the answer up to {self.max_tokens}, but the model "
                f"reads {policy.context_length} in all: shorten it, or lower the answer's limit: /tokens N"
            )
        if self.stage is None:
            policy.hold_still(max(length + self.max_tokens, self.longest))
        else:
            policy.hold_still(policy.context_length)
        groups = sample(
            policy,
            [prompt],
            members=1,
            sampling=Sampling(max_tokens=self.max_tokens, temperature=self.temperature),
            purpose=Purpose(seed=0, step=self.turn, name="chat"),
            stage=self.stage,
        )
        answer = groups[0][0]
        return answer.completion if self.stage is None else _happened(answer, len(prompt.messages))


def _happened(t: Trajectory, asked: int) -> str:
    """All that was said in a world, and how it ended. `asked` messages are the prompt's."""
    if t.played is None:
        raise ValueError("nothing was played")
    # What the world says at the beginning ends the prompt's last message, or stands behind it.
    first = next((n for n, m in enumerate(t.messages) if m["role"] == "assistant" and n >= asked), None)
    told = t.messages[:first][-1]["content"]
    game = Dialogue(messages=t.messages[first:] if first is not None else (), played=t.played)
    return "\n".join([told, *lines(game)])


def _number(name: str, text: str, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise UserError(f"{name} wants a number of at least {least:g}, not {text!r}.")
    return value
