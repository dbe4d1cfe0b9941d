"""Answers to single messages or in a talk that goes on, and what can be changed between them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from refine_rl.envs.play import sample
from refine_rl.envs.stage import Stage, stage_of
from refine_rl.errors import UserError
from refine_rl.pipeline.model import longest_text
from refine_rl.pipeline.weights import Weights, open_model, system_of
from refine_rl.policy.draw import Sampling
from refine_rl.policy.heard import Heard
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.policy.sample import speak
from refine_rl.report.dialogue import lines
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.types import Dialogue, Message, Prompt, Trajectory

HELP = """/help              these lines
/base              the untrained model's answer as well, or no longer
/talk              each model remembers what you and it said, or no longer
/new               a talk that goes on begins anew
/system TEXT       another system message; without a text, none
/temperature X     0: the most likely answer
/tokens N          an answer is cut after N tokens
/quit              the end, as an empty line
//...              a message that begins with /
Without /talk every message stands alone, as in training."""
COLUMN = 19  # of HELP, in which it says what a command does
Hear = Callable[[str, str], None]
"""Hears who answers, and what stands of the answer."""


def unheard(name: str, text: str) -> None: ...


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
    goes_on: bool = False
    said: dict[str, tuple[Message, ...]] = field(default_factory=dict)
    """With `goes_on`: the talk so far with each model."""

    @property
    def names(self) -> tuple[str, ...]:
        """Who answers: "tuned", before it "base" where that is wanted."""
        return ("base", "tuned") if self.base else ("tuned",)

    def answers(self, text: str, hear: Hear = unheard) -> list[tuple[str, str]]:
        """Who answers, and what; both with the same draws. `hear` is told of what stands of an answer as it
        grows; not in a world, whose turns are told when it is over.

        Raises UserError where message and answer together are longer than the model reads, or where the
        message cannot be encoded as text.
        """
        self.turn += 1
        given = Message(role="user", content=text)
        answered = [(name, self._reply(name, given, hear)) for name in self.names]
        if self.goes_on:
            for name, answer in answered:
                own = Message(role="assistant", content=answer)
                self.said[name] = (*self.said.get(name, ()), given, own)
        return answered

    def replies(self, texts: Sequence[str], *, base: bool = False) -> list[str]:
        """The answers to several messages, of the tuned model or of the one before training. Raises what
        `answers` raises."""
        self.turn += 1
        return self._replies(texts, base=base)

    def command(self, line: str) -> str:
        """Does what a line that begins with / asks for; what to tell the person. Raises UserError for what
        is no command, or has a value that cannot be."""
        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/help":
            return HELP
        if name == "/base":
            self.base = not self.base
            self.said.pop("base", None)
            return f"The untrained model answers as well: {'yes' if self.base else 'no'}"
        if name == "/talk":
            self._require_talk()
            self.goes_on, self.said = not self.goes_on, {}
            return f"Each model remembers what was said: {'yes; /new forgets it' if self.goes_on else 'no'}"
        if name == "/new":
            self.said = {}
            return (
                "A new talk." if self.goes_on else "Every message stands alone already; /talk changes that."
            )
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

    def _require_talk(self) -> None:
        if self.stage is not None:
            raise UserError(
                "/talk: in a world each message sets a game going, and what follows is its turns."
            )

    def _reply(self, name: str, given: Message, hear: Hear) -> str:
        if self.stage is not None:
            return self._replies([given["content"]], base=name == "base")[0]
        prompt = self._prompt((*self.said.get(name, ()), given), "chat")
        with self.policy.reference() if name == "base" else contextlib.nullcontext(self.policy) as policy:
            policy.hold_still(max(self._length(policy, prompt) + self.max_tokens, self.longest))
            return self._heard(policy, prompt, lambda text: hear(name, text))

    def _heard(self, policy: Policy, prompt: Prompt, hear: Callable[[str], None]) -> str:
        opening, words = policy.opening(prompt.messages), list[int]()

        def listen(rows: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float]) -> None:
            words.extend(token for token in tokens if token not in policy.stop_ids)
            hear(opening + policy.decode(words))

        ((_, (answer,)),) = speak(
            Heard(policy, listen),
            [begun(policy.encode(prompt.messages), prompt, 1)],
            sampling=self._sampling(),
            purpose=self._purpose(),
        )
        return answer.completion

    def _sampling(self) -> Sampling:
        return Sampling(max_tokens=self.max_tokens, temperature=self.temperature)

    def _purpose(self) -> Purpose:
        return Purpose(seed=0, step=self.turn, name="chat")

    def _replies(self, texts: Sequence[str], *, base: bool) -> list[str]:
        if base:
            with self.policy.reference() as untrained:
                return self._answered(untrained, texts)
        return self._answered(self.policy, texts)

    def _answered(self, policy: Policy, texts: Sequence[str]) -> list[str]:
        prompts = [
            self.prompts.get(text)
            or self._prompt([Message(role="user", content=text)], f"chat {n}" if n else "chat")
            for n, text in enumerate(texts)
        ]
        length = max(self._length(policy, prompt) for prompt in prompts)
        if self.stage is None:
            policy.hold_still(max(length + self.max_tokens, self.longest))
        else:
            policy.hold_still(policy.context_length)
        groups = sample(
            policy,
            prompts,
            members=1,
            sampling=self._sampling(),
            purpose=self._purpose(),
            stage=self.stage,
        )
        return [
            group[0].completion if self.stage is None else _happened(group[0], len(prompt.messages))
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def _prompt(self, said: Sequence[Message], name: str) -> Prompt:
        system = (Message(role="system", content=self.system),) if self.system else ()
        return Prompt(id=name, split="held_out", messages=(*system, *said))

    def _length(self, policy: Policy, prompt: Prompt) -> int:
        """Tokens of a prompt; raises UserError where an answer has no room behind them."""
        length = len(policy.encode(prompt.messages))
        if length > policy.prompt_room(self.max_tokens):
            what, way = (
                ("This talk", "begin a new one: /new") if self.said else ("This message", "shorten it")
            )
            raise UserError(
                f"{what} takes {length} tokens and the answer up to {self.max_tokens}, but the model "
                f"reads {policy.context_length} in all: {way}, or lower the answer's limit: /tokens N"
            )
        return length


def open_chat(
    folder: RunFolder,
    weights: Weights,
    *,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    system: str | None = None,
    base: bool = False,
) -> Chat:
    """A talk with weights of a run, which are loaded; an answer's limit and the system message are the run's
    where none is named."""
    settings, policy = open_model(folder, weights)
    stage = stage_of_run(settings)
    return Chat(
        policy=policy,
        longest=longest_text(settings.rollout, policy, folder.prompts()) if policy.moving else 0,
        system=system_of(folder) if system is None else system,
        temperature=temperature,
        max_tokens=max_tokens or settings.rollout.max_tokens,
        base=base,
        stage=stage,
        prompts={p.id: p for p in folder.prompts()} if stage is not None else {},
    )


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
