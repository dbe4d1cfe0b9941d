"""Asking for JSON: forms, corrections, room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from refine_rl.llm.client import CallFailed, Reply, Request, Schema, TooLong, Unsupported
from refine_rl.llm.scripted import Brain, Said, Scripted
from refine_rl.llm.structured import Unusable, ask

SCHEMA = Schema(
    name="verdict",
    schema={"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"]},
)
REQUEST = Request(
    messages=({"role": "user", "content": "Judge."},),
    purpose="judge",
    schema=SCHEMA,
    form="schema",
    max_tokens=100,
)
LISTS = Schema(name="list", schema={"type": "object", "properties": {"items": {"type": "array"}}})
GOOD = '{"score": 0.5}'


def score(value: Any) -> float:
    if not isinstance(value.get("score"), float):
        raise Unusable("`score` must be a number from 0 to 1.")
    return float(value["score"])


def asked(
    replies: Sequence[Said] | Brain | Scripted,
    *,
    corrections: int = 2,
    request: Request = REQUEST,
    read: Any = score,
) -> tuple[Any, list[Request]]:
    client = replies if isinstance(replies, Scripted) else Scripted(replies)
    answer = asyncio.run(ask(client, request, read, corrections=corrections))
    return answer, client.requests


def failing(replies: Sequence[Said], *, corrections: int = 2) -> tuple[CallFailed, list[Request]]:
    client = Scripted(replies)
    with pytest.raises(CallFailed) as error:
        asyncio.run(ask(client, REQUEST, score, corrections=corrections))
    assert len(client.requests) == len(replies)
    return error.value, client.requests


def test_a_good_reply_at_once() -> None:
    answer, requests = asked([GOOD])
    assert answer == 0.5
    assert requests == [REQUEST]


def test_an_empty_reply_says_what_came_instead() -> None:
    error, _ = failing([Reply(text="", instead="all of it went into a thought")] * 3, corrections=0)
    assert "The reply is empty: all of it went into a thought." in str(error)


def test_a_schema_is_needed() -> None:
    with pytest.raises(ValueError, match="schema"):
        asked([GOOD], request=Request(messages=REQUEST.messages, purpose="x"))


def test_the_correction_says_what_was_wrong_and_shows_the_reply() -> None:
    answer, requests = asked(['{"score": "high"}', GOOD])
    assert (answer, len(requests)) == (0.5, 2)
    assert requests[1].messages[0] == REQUEST.messages[0]
    assert requests[1].messages[1] == {"role": "assistant", "content": '{"score": "high"}'}
    assert requests[1].messages[2]["role"] == "user"
    assert "`score` must be a number from 0 to 1." in requests[1].messages[2]["content"]
    assert len(requests[1].messages) == 3


def test_corrections_are_bounded_and_show_the_last_reply_alone() -> None:
    error, requests = failing(['{"score": 1}', '{"score": 2}', '{"score": 3}'])
    assert "scripted/model" in str(error)
    assert "`score` must be a number" in str(error)
    assert [m["content"] for m in requests[2].messages][1] == '{"score": 2}'
    assert len(requests[2].messages) == 3


def test_every_correction_is_a_request_of_its_own() -> None:
    """Also where the model says the same again: else it, or a cache, would for ever."""
    _, requests = failing(['{"score": 1}'] * 6, corrections=5)
    assert len({request.messages for request in map(_frozen, requests)}) == 6
    assert "attempt 2" in requests[2].messages[-1]["content"]


def test_a_correction_remembers_what_was_wrong_before() -> None:
    _, requests = asked(['{"score": 1}', "no JSON", GOOD])
    said = requests[2].messages[-1]["content"]
    assert "There is no JSON in the reply." in said
    assert "An earlier one could not be used for this: `score` must be a number from 0 to 1." in said


def _frozen(request: Request) -> Any:
    return replace(request, messages=json.dumps(request.messages))  # type: ignore[arg-type]


def test_no_corrections_means_one_call() -> None:
    failing(['{"score": 1}'], corrections=0)


def test_a_long_wrong_reply_is_cut_in_the_correction() -> None:
    _, requests = asked(['{"score": "' + "x" * 50_000 + '"}', GOOD])
    said = requests[1].messages[1]["content"]
    assert len(said) < 5000
    assert said.startswith('{"score": "xxx')
    assert said.endswith('xxx"}')


def test_steps_down_where_a_form_is_not_supported_and_remembers() -> None:
    def brain(request: Request) -> Said:
        return GOOD if request.form == "text" else Unsupported("no")

    client = Scripted(brain)
    _, requests = asked(client)
    assert [r.form for r in requests] == ["schema", "json", "text"]
    _, requests = asked(client)
    assert [r.form for r in requests[3:]] == ["text"]


def test_json_mode_shows_the_schema_in_the_last_message() -> None:
    def brain(request: Request) -> Said:
        return GOOD if request.form == "json" else Unsupported("no")

    _, requests = asked(brain)
    content = requests[1].messages[-1]["content"]
    assert content.startswith("Judge.\n\n")
    assert json.dumps(SCHEMA.schema) in content
    assert "JSON" in content
    assert requests[0].messages[-1]["content"] == "Judge."


def test_unsupported_words_are_a_failure() -> None:
    with pytest.raises(Unsupported):
        asked(lambda request: Unsupported("nothing at all"))


def test_an_empty_reply_steps_down_without_a_correction() -> None:
    answer, requests = asked(["", GOOD], corrections=0)
    assert answer == 0.5
    assert [r.form for r in requests] == ["schema", "json"]


def test_two_replies_without_json_step_down() -> None:
    _, requests = asked(["Very good!", "Very good!", GOOD], corrections=1)
    assert [r.form for r in requests] == ["schema", "schema", "json"]


def test_a_form_that_does_not_help_is_given_up_after_a_while() -> None:
    client = Scripted(lambda request: "" if request.form == "schema" else GOOD)
    forms: list[str] = []
    for _ in range(3):
        before = len(client.requests)
        asked(client)
        forms.append(" ".join(r.form for r in client.requests[before:]))
    assert forms == ["schema json", "schema json", "json"]


def test_a_cut_reply_gets_more_room_up_to_four_times() -> None:
    cut = Reply(text='{"score": 0.', finish="length")
    answer, requests = asked([cut, cut, GOOD], corrections=0)
    assert answer == 0.5
    assert [r.max_tokens for r in requests] == [100, 200, 400]
    _, requests = failing([cut, cut, cut, cut, cut])
    assert [r.max_tokens for r in requests] == [100, 200, 400, 400, 400]
    assert "ends in the middle" in requests[3].messages[-1]["content"]


def test_a_cut_reply_is_used_only_where_its_json_ends_it() -> None:
    """What comes first may be a draft, and the answer that which was cut."""
    for text in (GOOD, f"```json\n{GOOD}\n```", f"Let me think. {GOOD}"):
        answer, _ = asked([Reply(text=text, finish="length")])
        assert answer == 0.5
    draft = Reply(text='Perhaps {"score": 1.0}. But the answer', finish="length")
    answer, requests = asked([draft, draft, draft, GOOD])
    assert answer == 0.5
    assert [r.max_tokens for r in requests] == [100, 200, 400, 400]
    assert "was cut before its end" in requests[3].messages[-1]["content"]


def test_more_room_than_the_context_has_is_taken_back() -> None:
    replies: list[Said] = [Reply(text='{"sc', finish="length"), TooLong("too long"), GOOD]
    _, requests = asked(replies)
    assert [r.max_tokens for r in requests] == [100, 200, 100]
    assert requests[2].messages[-1]["content"].startswith("Judge.\n\nThere is room for 100 tokens")


def test_a_request_that_does_not_fit_is_a_failure() -> None:
    with pytest.raises(TooLong):
        asked([TooLong("too long")])


def test_a_refusal_gets_one_correction() -> None:
    refusal = Reply(text="I cannot.", finish="refusal")
    answer, requests = asked([refusal, GOOD])
    assert answer == 0.5
    assert 'declined to answer ("I cannot.")' in requests[1].messages[-1]["content"]
    error, _ = failing([refusal, refusal], corrections=5)
    assert "declined" in str(error)


def test_a_refusal_that_quotes_an_answer_is_still_one() -> None:
    failing([Reply(text=GOOD, finish="refusal")], corrections=0)


def test_the_value_that_can_be_used_is_found_among_others() -> None:
    answer, _ = asked([f'Format: {{"score": "number"}}.\n[1] {GOOD}'])
    assert answer == 0.5


def test_two_usable_values_that_differ_are_sent_back() -> None:
    _, requests = asked([f'The text claims {{"score": 1.0}}. Mine: {GOOD}', GOOD])
    assert "more than one answer" in requests[1].messages[-1]["content"]


@pytest.mark.parametrize("text", ['[{"score": 0.5}]', "{'score': 0.5}", f"```json\n{GOOD}```"])
def test_wrappings(text: str) -> None:
    assert asked([text])[0] == 0.5


@pytest.mark.parametrize("text", ["[1, 2]", '{"items": [1, 2]}', '[{"items": [1, 2]}]'])
def test_a_bare_list_is_the_only_lists_value(text: str) -> None:
    request = Request(messages=REQUEST.messages, purpose="x", schema=LISTS, form="schema")
    answer, _ = asked([text], request=request, read=lambda value: value["items"])
    assert answer == [1, 2]


def test_a_list_may_come_in_an_object() -> None:
    request = Request(
        messages=REQUEST.messages,
        purpose="x",
        schema=Schema(name="l", schema={"type": "array"}),
        form="schema",
    )
    assert asked(['{"anything": [3]}'], request=request, read=list)[0] == [3]
    answer, requests = asked(['{"a": 1}', "[4]"], request=request, read=list)
    assert answer == [4]
    assert "must be a JSON list" in requests[1].messages[-1]["content"]


def test_a_wrong_kind_is_named() -> None:
    _, requests = asked(["[1, 2]", GOOD])
    assert "must be a JSON object, not a list" in requests[1].messages[-1]["content"]


class Keeping(Scripted):
    """A client that keeps replies, as the real one does with its cache."""

    def __init__(self, replies: Sequence[Said]) -> None:
        super().__init__(replies)
        self.kept: dict[str, str] = {}

    async def complete(self, request: Request) -> Reply:
        if text := self.kept.get(repr(request)):
            return Reply(text=text, cached=True)
        return await super().complete(request)

    def keep(self, request: Request, reply: Reply) -> None:
        self.kept[repr(request)] = reply.text

    def forget(self, request: Request) -> bool:
        return self.kept.pop(repr(request), None) is not None


def test_only_what_can_be_used_is_kept() -> None:
    client = Keeping(['{"score": 1}', "{}"])
    with pytest.raises(CallFailed):
        asyncio.run(ask(client, REQUEST, score, corrections=1))
    assert client.kept == {}


def test_an_answer_after_corrections_is_kept_for_the_first_request() -> None:
    client = Keeping(['{"score": 1}', GOOD])
    for _ in range(2):
        assert asyncio.run(ask(client, REQUEST, score, corrections=1)) == 0.5
    assert len(client.requests) == 2
    assert set(client.kept.values()) == {GOOD}


def test_a_kept_reply_that_cannot_be_used_is_asked_for_again() -> None:
    """It was kept by an older version, which took it for an answer."""
    client = Keeping([GOOD])
    client.kept[repr(REQUEST)] = '{"score": 1}'
    answer = asyncio.run(ask(client, REQUEST, score, corrections=0))
    assert answer == 0.5
    assert client.requests == [REQUEST]
    assert client.kept == {repr(REQUEST): GOOD}


def test_errors_of_the_reader_itself_come_through() -> None:
    with pytest.raises(ZeroDivisionError):
        asked([GOOD], read=lambda value: 1 / 0)
