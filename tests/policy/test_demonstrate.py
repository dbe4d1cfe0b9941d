"""Answers to imitate: token by token what sampling would meet, and log-probs as each row has them alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from refine_rl.errors import UserError
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs, plain_logprobs
from refine_rl.policy.policy import Policy
from refine_rl.policy.tokens import token_batch
from refine_rl.policy.whole_rows import pack_whole
from refine_rl.settings import ModelSettings
from refine_rl.types import Message, Segment, Trajectory

THOUGHTLESS = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ALOUD = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def chat(*texts: str) -> list[Message]:
    return [Message(role="assistant" if n % 2 else "user", content=t) for n, t in enumerate(texts)]


@pytest.fixture(scope="module")
def tiny() -> Policy:
    return load_policy(ModelSettings(name="tiny", dtype="float32", device="cpu"))


def small(folder: Path) -> Policy:
    """With an adapter that does something already."""
    policy = load_policy(ModelSettings(name=str(folder), rank=4, dtype="float32", device="cpu"))
    for number, parameter in enumerate(policy.trainable().values()):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(number))
    return policy


def text_of(policy: Policy, segments: Sequence[Segment]) -> list[str]:
    return [policy.tokenizer.decode(s.token_ids) for s in segments]


def test_an_answer_ends_with_its_end_and_the_prompt_is_that_of_sampling(tiny: Policy) -> None:
    asked = chat("Hi there", "Hello!", "And bye?", "So long.")
    segments = tiny.demonstrate(asked, every=True)

    assert [(s.trainable, s.target, s.logprobs) for s in segments] == [
        (False, False, ()),
        (True, True, ()),
    ] * 2
    assert segments[0].token_ids == tiny.encode(asked[:1])
    assert text_of(tiny, segments)[1:] == [
        "Hello!<|im_end|>",
        "\n<|im_start|>user\nAnd bye?<|im_end|>\n<|im_start|>assistant\n",
        "So long.<|im_end|>",
    ]
    # The second answer's situation is that in which a sampler would write it.
    before = [i for s in segments[:3] for i in s.token_ids]
    assert tuple(before) == tiny.encode(asked[:3])


def test_the_last_answer_alone_has_all_before_it_as_its_prompt(tiny: Policy) -> None:
    asked = chat("Hi there", "Hello!", "And bye?", "So long.")
    given, answer = tiny.demonstrate(asked, every=False)
    assert given.token_ids == tiny.encode(asked[:3])
    assert text_of(tiny, [answer]) == ["So long.<|im_end|>"]
    # What follows the last answer teaches nothing.
    assert tiny.demonstrate([*asked, *chat("Still there?")], every=False) == (given, answer)


def test_what_reads_like_the_end_of_an_answer_stays_text(tiny: Policy) -> None:
    given, answer = tiny.demonstrate(chat("Say <|im_end|>", "It is <|im_end|>, so."), every=True)
    assert given.token_ids == tiny.encode(chat("Say <|im_end|>"))
    (end,) = tiny.stop_ids
    assert [n for n, i in enumerate(answer.token_ids) if i == end] == [len(answer.token_ids) - 1]
    assert text_of(tiny, [answer]) == ["It is <|im_end|>, so.<|im_end|>"]


def test_a_template_that_rewrites_history_allows_the_last_answer_alone(tiny: Policy) -> None:
    tiny.tokenizer.chat_template, own = THOUGHTLESS, tiny.tokenizer.chat_template
    try:
        asked = chat("Hi", "<think>Hm</think>Yes", "Bye", "<think>Well</think>No")
        with pytest.raises(UserError, match=r'sft\.train_on = "last"'):
            tiny.demonstrate(asked, every=True)
        given, answer = tiny.demonstrate(asked, every=False)
    finally:
        tiny.tokenizer.chat_template = own
    assert "Hm" not in text_of(tiny, [given])[0]
    assert text_of(tiny, [answer])[0].startswith("<think>Well</think>No")


def test_a_thought_that_the_template_opens_is_not_written_twice(tiny: Policy) -> None:
    tiny.tokenizer.chat_template, own = ALOUD, tiny.tokenizer.chat_template
    try:
        given, answer = tiny.demonstrate(chat("Hi", "<think>\nHm</think>Yes"), every=True)
        with pytest.raises(UserError, match="begins every answer with '<think>'"):
            tiny.demonstrate(chat("Hi", "Yes"), every=True)
    finally:
        tiny.tokenizer.chat_template = own
    assert text_of(tiny, [given])[0].endswith("<think>\n")
    assert text_of(tiny, [answer]) == ["Hm</think>Yes<|im_end|>"]


def test_a_chat_without_an_answer_shows_nothing(tiny: Policy) -> None:
    with pytest.raises(UserError, match="nothing to imitate"):
        tiny.demonstrate([Message(role="assistant", content="Hello?")], every=True)


# -- log-probs -------------------------------------------------------------------------------------


def demonstration(*lengths: int, seed: int = 0) -> Trajectory:
    """Given, target, given, target ... of so many tokens."""
    generator = torch.Generator().manual_seed(seed + sum(lengths))
    segments = tuple(
        Segment(
            token_ids=tuple(torch.randint(0, 60, (n,), generator=generator).tolist()),
            trainable=bool(place % 2),
            target=bool(place % 2),
        )
        for place, n in enumerate(lengths)
    )
    return Trajectory(prompt_id="p", member=0, messages=(), segments=segments, stop_reason="stop")


ROWS = [
    demonstration(3, 5),
    demonstration(20, 1),
    demonstration(4, 2, 6, 3),
    demonstration(1, 30),
    demonstration(7, 4, 5),  # what follows the last target goes through no layer
    demonstration(3, 5, seed=1),
]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 6}),  # rows are longer than the window
        ("qwen3", {"tie_word_embeddings": True}),
        ("gpt2", {}),
    ],
)
def test_packed_rows_are_what_each_is_alone(make_model: Any, kind: str, changes: dict[str, Any]) -> None:
    policy = small(make_model(kind, **changes))
    assert policy.shares_prompts
    together = token_batch(ROWS)
    weights = torch.randn(together.ids.shape, generator=torch.Generator().manual_seed(9))

    def gradients() -> list[torch.Tensor]:
        found = [p.grad.clone() for p in policy.trainable().values() if p.grad is not None]
        policy.model.zero_grad(set_to_none=True)
        return found

    def check(values: Any, alike: list[torch.Tensor]) -> None:
        torch.testing.assert_close(values.detach(), expected, rtol=1e-4, atol=2e-5)
        for got, want in zip(alike, alone, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=2e-5)

    expected = torch.zeros(together.ids.shape)
    for row, trajectory in enumerate(ROWS):  # the slow, obvious way
        one = token_batch([trajectory])
        found = plain_logprobs(policy, one)
        (found * weights[row, : found.shape[1]]).sum().backward()
        expected[row, : found.shape[1]] = found.detach()
    alone = gradients()
    assert len(alone) == len(policy.trainable())

    for way in (logprobs, plain_logprobs):  # packed, and padded
        found = way(policy, together)
        (found * weights).sum().backward()
        check(found, gradients())


def test_a_row_sees_no_other(make_model: Any) -> None:
    policy = small(make_model())
    with torch.no_grad():
        first = logprobs(policy, token_batch(ROWS))
        others = [ROWS[0], *(demonstration(n, 9, seed=5) for n in (2, 40, 11, 8, 3))]
        second = logprobs(policy, token_batch(others))
    torch.testing.assert_close(first[0, :8], second[0, :8], rtol=1e-5, atol=1e-6)


def test_rows_go_together_with_others_of_their_length() -> None:
    row, starts = pack_whole([[1] * 4, [2] * 10, [3] * 9, [], [5] * 2])
    assert [part.lengths for part in row.packed.parts] == [(10, 9), (4,), (2,)]
    assert starts.tolist() == [19, 0, 10, 25, 23]
    assert row.ids[0, 19:23].tolist() == [1] * 4


def test_a_given_answer_stands_there_and_is_no_target(tiny: Policy) -> None:
    asked = chat("Hi there", "Hello!", "And bye?", "So long.", "Still there?", "Yes.")
    every = tiny.demonstrate(asked, every=True)
    some = tiny.demonstrate(asked, every=True, given={3})
    assert [i for s in some for i in s.token_ids] == [i for s in every for i in s.token_ids]
    assert [s.token_ids for s in some if s.target] == [every[1].token_ids, every[5].token_ids]
    assert tiny.demonstrate(asked, every=False, given={5}) == (
        Segment(token_ids=tiny.encode(asked[:3]), trainable=False),
        every[3],
    )
    with pytest.raises(UserError, match="nothing to imitate"):
        tiny.demonstrate(asked, every=True, given={1, 3, 5})
