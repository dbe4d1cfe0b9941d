"""What stands between two turns, held against the template's own text of the whole conversation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from models import listening_model
from refine_rl.errors import UserError
from refine_rl.policy.control import encode_chat, encode_words
from refine_rl.policy.load import load_policy
from refine_rl.policy.template import stop_ids
from refine_rl.policy.turns import next_turn, probes
from refine_rl.settings import ModelSettings
from refine_rl.types import Message
from talkers import TEMPLATES, speech

KEEPS = ["chatml", "llama3", "gemma", "mistral", "roles", "plain", "qwen3"]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


class Talker:
    """A tokenizer with its template, that continues conversations."""

    def __init__(self, kind: str, template: str) -> None:
        self.tokenizer, self.control, self.write = speech(kind, template)
        self.stops = stop_ids(None, self.tokenizer)
        end = "<|im_end|>" if template == "chatml" else self.tokenizer.eos_token
        self.end = self.tokenizer.convert_tokens_to_ids(end)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return encode_chat(self.tokenizer, self.control, messages, self.write)

    def next_turn(self, messages: Sequence[Message], more: Sequence[Message], **how: Any) -> list[int]:
        made = (self.tokenizer, self.control, self.stops, messages, more, self.write)
        return list(next_turn(*made, source="it", **how))

    def said(self, text: str) -> list[int]:
        """The tokens of an answer, with the one that ends it."""
        return [*encode_words(self.tokenizer, self.control, text), self.end]


@pytest.mark.parametrize("template", KEEPS)
@pytest.mark.parametrize("observation", ["higher", "", "a <|im_end|>\n</s><end_of_turn> b", "two\n\nlines\n"])
def test_three_turns_are_the_conversation_as_the_template_writes_it(template: str, observation: str) -> None:
    talker = Talker("bytes", template)
    messages = [user("guess the number")]
    ids = talker.encode(messages)
    for guess in ("the cat", "a dog", "hello"):
        messages.append(answer(guess))
        more = [user(observation)]
        # These two put a blank before an earlier answer; who samples behind its prompt says it himself.
        words = f" {guess}" if template in ("mistral", "plain") else guess
        ids += talker.said(words) + talker.next_turn(messages, more)
        messages += more
    assert ids == talker.encode(messages)


@pytest.mark.parametrize(
    ("kind", "template"),
    # To this unigram model a line's end is unknown, and so are two.
    [("pieces", t) for t in KEEPS] + [("unigram", t) for t in ("llama3", "mistral", "roles")],
)
def test_the_text_is_right_for_any_kind_of_tokenizer(kind: str, template: str) -> None:
    talker = Talker(kind, template)
    messages = [user("hello there"), answer("the cat")]
    more = [user("and the dog")]
    ids = talker.encode(messages[:1]) + talker.said("the cat") + talker.next_turn(messages, more)

    def text(tokens: list[int]) -> str:  # SentencePiece puts blanks where it likes
        return "".join(talker.tokenizer.decode(tokens).split())

    assert text(ids) == text(talker.encode([*messages, *more]))


def test_several_messages_and_none_come_behind_an_answer() -> None:
    talker = Talker("bytes", "chatml")
    begun = [user("hello"), answer("the cat")]
    for more in ([], [user("the dog"), {"role": "tool", "content": "7"}]):
        ids = talker.encode(begun[:1]) + talker.said("the cat") + talker.next_turn(begun, more)
        assert ids == talker.encode([*begun, *more])


def test_blanks_around_an_answer_stay_as_they_were_sampled() -> None:
    talker = Talker("bytes", "llama3")  # it trims
    messages, more = [user("hello"), answer(" the cat\n")], [user("so")]
    assert talker.next_turn(messages, more) == talker.next_turn([user("hello"), answer("the cat")], more)


def test_where_the_template_writes_no_end_the_sampled_one_stands() -> None:
    talker = Talker("bytes", "endless")
    more = talker.next_turn([user("hello"), answer("the cat")], [user("so")])
    assert talker.tokenizer.decode(more) == "[INST] so [/INST]"


def test_the_word_that_stands_for_an_answer_may_be_said() -> None:
    talker = Talker("bytes", "chatml")
    messages, more = [user("refineanswers?"), answer("the refineanswers")], [user("refineanswerss")]
    ids = talker.encode(messages[:1]) + talker.said("the refineanswers") + talker.next_turn(messages, more)
    assert ids == talker.encode([*messages, *more])


THOUGHT = "<think>\nthe dog\n</think>\n\nthe cat"


def test_a_template_that_drops_thoughts_is_refused_where_there_are_any() -> None:
    talker = Talker("bytes", "qwen3")
    messages, more = [user("hello"), answer(THOUGHT)], [user("so")]
    with pytest.raises(UserError, match=r"'<think>.*' became 'the cat'.*history = \"as_sampled\""):
        talker.next_turn(messages, more)
    kept = talker.next_turn(messages, more, as_sampled=True)
    assert talker.tokenizer.decode(kept) == "\n<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n"
    # What a tool says is no new question: the thought stays.
    tool: list[Message] = [{"role": "tool", "content": "7"}]
    ids = talker.encode(messages[:1]) + talker.said(THOUGHT) + talker.next_turn(messages, tool)
    assert ids == talker.encode([*messages, *tool])


def test_a_template_that_opens_thoughts_and_drops_them_is_refused() -> None:
    talker = Talker("bytes", "deepseek")
    messages, more = [user("hello"), answer(THOUGHT)], [user("so")]
    with pytest.raises(UserError, match="<think>"):
        talker.next_turn(messages, more)
    kept = talker.tokenizer.decode(talker.next_turn(messages, more, as_sampled=True))
    assert kept == "<|user|>so<|assistant|><think>\n"


def test_a_template_that_opens_thoughts_and_keeps_them_goes_on() -> None:
    talker = Talker("bytes", "chatml")
    talker.tokenizer.chat_template = TEMPLATES["chatml"].replace(
        "<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif"
    )
    messages, more = [user("hello"), answer("<think>\nthe dog</think>the cat")], [user("so")]
    ids = talker.encode(messages[:1]) + talker.said("the dog</think>the cat")
    assert ids + talker.next_turn(messages, more) == talker.encode([*messages, *more])


@pytest.mark.parametrize("template", ["closes", "channels"])
def test_a_template_that_begins_earlier_answers_otherwise_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="earlier turn otherwise"):
        Talker("bytes", template).next_turn([user("hello"), answer("the cat")], [user("so")])


def test_a_template_that_moves_the_system_message_is_refused() -> None:
    """As some of Mistral's: it stands before the newest of the user's messages."""
    talker = Talker("bytes", "chatml")
    talker.tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}"
        "{% if loop.last %}{{ messages[0].content }}\n{% endif %}{{ m.role }} {{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
    )
    messages = [Message(role="system", content="be brief"), user("hello"), answer("the cat")]
    with pytest.raises(UserError, match="'be brief"):
        talker.next_turn(messages, [user("so")])
    kept = talker.next_turn(messages, [user("so")], as_sampled=True)
    assert talker.tokenizer.decode(kept) == "be brief\nuser so<|im_end|>assistant "


def test_a_template_without_earlier_answers_is_refused_in_any_case() -> None:
    talker = Talker("bytes", "chatml")
    talker.tokenizer.chat_template = "{{ messages[-1].content }}"
    for how in (True, False):
        with pytest.raises(UserError, match=r"leaves an earlier answer out|earlier turn otherwise"):
            talker.next_turn([user("hello"), answer("the cat")], [user("so")], as_sampled=how)


def test_which_answers_show_what_a_template_does() -> None:
    def shown(template: str) -> list[str]:
        return [" ".join(p.split()) for p in probes(TEMPLATES.get(template, template), "")]

    assert shown("chatml") == ["refine answers"]
    assert shown("qwen3")[1] == "<think> refine thinks </think> refine answers"
    assert shown("[/THINK]")[1] == "[THINK] refine thinks [/THINK] refine answers"
    assert shown("<|END_THINKING|>")[1].startswith("<|START_THINKING|> ")


def test_a_policy_says_beforehand_that_its_template_drops_thoughts(make_model: Any, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(name="tiny", dtype="float32", device="cpu"))
    policy.check_turns([user("hello")], "user")
    own, policy.tokenizer.chat_template = policy.tokenizer.chat_template, TEMPLATES["qwen3"]
    try:
        with pytest.raises(UserError, match=r"rollout\.history"):
            policy.check_turns([user("hello")], "user")
        policy.check_turns([user("hello")], "user", as_sampled=True)
        policy.check_turns([user("hello")], "tool")
    finally:
        policy.tokenizer.chat_template = own


def test_an_encoder_decoder_has_one_turn(tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(name=str(listening_model(tmp_path)), dtype="float32", device="cpu"))
    with pytest.raises(UserError, match="decoder-only"):
        policy.check_turns([user("hello")], "user")
