"""refine chat: one or two models, a talk or single messages, a person or a program."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from refine_rl.cli.interrupt import StopNow
from refine_rl.pipeline.chat import Chat, open_chat
from refine_rl.pipeline.weights import choose_weights, system_of
from refine_rl.report.beside import Beside
from refine_rl.run import RunFolder

Refine = Callable[..., Any]
Trained = tuple[Path, Any]


@pytest.fixture(scope="module")
def opened(trained: Trained) -> Chat:
    folder = RunFolder.open(trained[0])
    return open_chat(folder, choose_weights(folder), base=True)


@pytest.fixture
def chat(opened: Chat) -> Chat:
    """As it was opened."""
    opened.said, opened.goes_on, opened.turn, opened.base, opened.system = {}, False, 0, True, ""
    opened.temperature = 0.0
    return opened


def encoded(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The texts of each conversation that a model reads, from here on."""
    read: list[list[str]] = []
    encode = type(chat.policy).encode

    def kept(self: Any, messages: Any) -> Any:
        read.append([m["content"] for m in messages])
        return encode(self, messages)

    monkeypatch.setattr(type(chat.policy), "encode", kept)
    return read


def test_what_is_heard_grows_into_what_was_sampled(chat: Chat) -> None:
    heard: list[tuple[str, str]] = []
    answers = chat.answers("say something about the cat", lambda who, text: heard.append((who, text)))
    assert [who for who, _ in answers] == ["base", "tuned"]
    for who, answer in answers:
        its = [text for name, text in heard if name == who]
        assert its[-1] == answer
        assert len(its) > 2
        assert len(its[0]) <= len(its[-1])
    chat.turn = 0
    assert chat.replies(["say something about the cat"]) == [answers[1][1]]
    chat.turn = 0
    assert chat.replies(["say something about the cat"], base=True) == [answers[0][1]]


def test_in_a_talk_each_model_remembers_its_own_answers(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    read = encoded(chat, monkeypatch)
    chat.command("/system be kind")
    chat.answers("one")
    chat.answers("two")
    assert all(texts[:1] == ["be kind"] and len(texts) == 2 for texts in read)
    chat.command("/talk")
    first = dict(chat.answers("one"))
    read.clear()
    chat.answers("two")
    base, tuned = (["be kind", "one", first[who], "two"] for who in ("base", "tuned"))
    assert [texts for n, texts in enumerate(read) if texts not in read[:n]] == [base, tuned]
    chat.command("/new")
    read.clear()
    chat.answers("three")
    assert {tuple(texts) for texts in read} == {("be kind", "three")}
    assert "begin a new one: /new" in _refused(chat, "cat " * 300)
    chat.command("/talk")
    assert "shorten it" in _refused(chat, "cat " * 300)


def _refused(chat: Chat, text: str) -> str:
    from refine_rl.errors import UserError

    with pytest.raises(UserError) as error:
        chat.answers(text)
    return str(error.value)


def test_an_answer_that_was_stopped_is_not_remembered(chat: Chat) -> None:
    chat.command("/talk")

    def stop(who: str, text: str) -> None:
        if who == "tuned":
            raise StopNow("now")

    with pytest.raises(StopNow):
        chat.answers("one", stop)
    assert chat.said == {}
    with chat.policy.reference() as untrained:  # the adapter was put back
        base = untrained.logprobs
    assert base is not None
    chat.turn = 0
    assert len(chat.answers("one")) == 2


def test_a_program_gets_a_line_for_a_line(refine: Refine, trained: Trained) -> None:
    lines = ["hello there", "", "/base", "/nonsense", "//slash", "hello " * 400, "/quit", "never"]
    done = refine("chat", trained[0], "--json", stdin="\n".join(lines) + "\n")
    assert done.code == 0
    first, second, third = map(json.loads, done.out.splitlines())
    assert set(first) == {"message", "tuned"}
    assert first["message"] == "hello there"
    assert set(second) == {"message", "base", "tuned"}
    assert second["message"] == "/slash"
    assert "the model reads 256 in all" in third["error"]
    assert "/nonsense is no command" in done.err


def drawn(width: int, *names: str) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    with Beside(console, names) as beside:
        for name in names:
            beside.tell(name, f"{name} says \x1b[31m[bold]" + " word" * 12)
    return out.getvalue()


def test_two_answers_stand_in_columns_where_there_is_room() -> None:
    wide = drawn(100, "base", "tuned")
    assert any("base says" in line and "tuned says" in line for line in wide.splitlines())
    narrow = drawn(99, "base", "tuned")
    assert not any("base says" in line and "tuned says" in line for line in narrow.splitlines())
    assert "tuned: tuned says" in narrow
    for text in (wide, narrow):
        assert "[bold]" in text  # no markup
        assert "\x1b[31m" not in text  # nor a colour of the model's own
    assert "tuned: tuned says" in drawn(140, "tuned")


def test_the_system_message_is_the_one_that_all_prompts_have(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    folder = RunFolder.open(trained[0])
    assert system_of(folder) == ""
    system = {"role": "system", "content": "You answer."}
    with_it = [replace(p, messages=(system, *p.messages)) for p in folder.prompts()]  # type: ignore[arg-type]
    monkeypatch.setattr(folder, "prompts", lambda: with_it)
    assert system_of(folder) == "You answer."
    with_it[0] = folder.prompts()[0]
    with_it[0] = replace(with_it[0], messages=with_it[0].messages[1:])
    assert system_of(folder) == ""
