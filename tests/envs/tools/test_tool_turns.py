"""Tools played: a speaker calls, hears, and ends with a reply that calls nothing; what the model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from make import prompt
from refine_rl.envs.base import How
from refine_rl.envs.play import play
from refine_rl.envs.several_turns import SeveralTurns
from refine_rl.envs.stage import Stage, stage_of
from refine_rl.envs.tools.tool import load_tools
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.protocol import Begun, Purpose
from refine_rl.settings import ModelSettings, RolloutSettings
from refine_rl.types import Message, Segment, Trajectory

TOOLS = '''
import time

def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

def hang() -> str:
    """Never come back."""
    while True:
        time.sleep(0.01)
'''
ADD = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
HANG = '<tool_call>{"name": "hang"}</tool_call>'


class Scripted:
    """A speaker whose member m says the m-th script, a text a turn."""

    def __init__(self, *scripts: Sequence[str]) -> None:
        self.scripts, self.roles = scripts, set[str]()

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (1,)

    def check_turns(self, messages: Any, role: str, *, as_sampled: bool = False) -> None:
        self.roles.add(role)

    def next_turn(self, messages: Any, more: Sequence[Message], *, as_sampled: bool = False) -> Any:
        self.roles |= {m["role"] for m in more}
        return (2,)

    def answer_room(self, prompt: int) -> int:
        return 1000

    def speak(self, groups: Sequence[Sequence[Begun]], **how: Any) -> Iterator[Any]:
        for place, group in enumerate(groups):
            yield place, tuple(self._said(begun) for begun in group)

    def _said(self, begun: Begun) -> Trajectory:
        turn = sum(s.sampled for s in begun.segments)
        text = self.scripts[begun.member][turn]
        own = Segment(token_ids=(5,), trainable=True, logprobs=(-1.0,))
        said: Message = {"role": "assistant", "content": text}
        return Trajectory(
            prompt_id=begun.prompt.id,
            member=begun.member,
            messages=(*begun.asked, said),
            segments=(*begun.segments, own),
            stop_reason="stop",
        )


def stage(folder: Path, **settings: Any) -> Stage:
    (folder / "tools.py").write_text(TOOLS)
    rollout = RolloutSettings(tools=["tools.py:add", "tools.py:hang"], **settings)
    made = stage_of(rollout, folder)
    assert made is not None
    return made


def test_results_are_messages_and_a_reply_without_a_call_is_the_end(tmp_path: Path) -> None:
    speaker: Any = Scripted([ADD, "It is 3."], ["3"], [ADD, ADD], [HANG, "never said"])
    how = How(sampling=Sampling(max_tokens=9), purpose=Purpose(seed=0, step=1, name="rollout"))
    world = SeveralTurns(
        speaker=speaker, members=4, first=how, stage=stage(tmp_path, turns=2, turn_timeout=0.3)
    )
    world.fits()
    ((_, group),) = play(world, [prompt(1, "1 + 2?")])
    called, plain, again, hung = group
    assert [(m["role"], m["content"]) for m in called.messages[1:]] == [
        ("assistant", ADD),
        ("tool", "3"),
        ("assistant", "It is 3."),
    ]
    assert called.completion == "It is 3."
    assert [s.trainable for s in called.segments] == [False, True, False, True]
    assert plain.messages[1:] == ({"role": "assistant", "content": "3"},)
    ends = [t.played and (t.played.rewards, t.played.end) for t in group]
    assert ends == [((0.0, 0.0), "done"), ((0.0,), "done"), ((0.0, 0.0), "limit"), ((), "failed")]
    assert again.messages[-1] == {"role": "tool", "content": "3"}
    assert hung.played is not None
    assert "0.3 s" in hung.played.why
    assert speaker.roles == {"tool"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "tools.py").write_text(TOOLS)
    made: Any = load_policy(ModelSettings(name="tiny"))
    made.tell_tools(tuple(t.schema for t in load_tools(["tools.py:add"], folder).values()))
    return made


def test_the_model_reads_the_schema_and_the_result_as_its_template_writes_them(policy: Any) -> None:
    asked = [Message(role="user", content="1 + 2?")]
    begun = policy.encode(asked)
    assert '"add"' in policy.tokenizer.decode(begun)
    answered = [*asked, Message(role="assistant", content=ADD)]
    heard = [Message(role="tool", content="3")]
    policy.check_turns(asked, "tool")
    behind = policy.next_turn(answered, heard)
    whole = policy.render([*answered, *heard])
    assert whole.startswith(policy.render(asked))
    assert whole.endswith(policy.tokenizer.decode(behind))
    assert "3" in policy.tokenizer.decode(behind)


def test_without_tools_the_model_reads_what_it_always_read(policy: Any) -> None:
    asked = [Message(role="user", content="1 + 2?")]
    bare = load_policy(ModelSettings(name="tiny"))
    told = policy.tools
    policy.tell_tools(())
    try:
        assert policy.encode(asked) == bare.encode(asked)
    finally:
        policy.tell_tools(told)


def test_tools_that_wait_are_played_at_the_same_time(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio\nevents = []\n"
        'async def both(n: int) -> int:\n    """Wait for the other."""\n    events.append(n)\n'
        "    while len(events) < 2:\n        await asyncio.sleep(0)\n    return n\n"
    )
    made = stage_of(RolloutSettings(tools=["slow.py:both"]), tmp_path)
    assert made is not None
    started: Any = made.start({}, 1, 2).result(timeout=60)
    replies = [f'{{"name": "both", "parameters": {{"n": {n}}}}}' for n in (4, 5)]
    games: Any = [(one.environment, reply) for one, reply in zip(started, replies, strict=True)]
    assert made.step(games).result(timeout=60) == [("4", 0.0, False), ("5", 0.0, False)]
