"""What endpoints' words mean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from refine_rl.llm.client import Form
from refine_rl.llm.failures import error_text, failure_in_body, failure_of_status, what_came


@pytest.mark.parametrize(
    ("status", "form", "words", "kind"),
    [
        (
            400,
            "text",
            "This model's maximum context length is 4097 tokens, however you requested 9000",
            "too long",
        ),
        (400, "text", "the request exceeds the available context size", "too long"),
        (500, "text", "the request exceeds the available context size", "too long"),
        (400, "text", "prompt is too long: 300000 tokens > 200000 maximum", "too long"),
        (400, "text", "max_tokens is too large: 32768. This model supports at most 16384", "too long"),
        (413, "text", "Payload Too Large", "too long"),
        (429, "text", "Request too large for the model: Limit 10000, Requested 12000", "too long"),
        (429, "text", "Too many tokens, please wait before trying again.", "retry"),
        (429, "text", "You exceeded your current quota, please check your plan", "refused"),
        (429, "text", "You exceeded your current quota. Please retry in 30 s.", "retry"),
        (404, "schema", "No endpoints found that can support the requested parameters.", "unsupported"),
        (404, "text", "No endpoints found that can support the requested parameters.", "refused"),
        (422, "json", "guided decoding is switched off", "unsupported"),
        (501, "schema", "grammar sampling is not implemented", "unsupported"),
        (400, "schema", "Invalid schema for response_format 'x'", "unsupported"),
        (403, "text", "Your input was flagged by moderation", "failed"),
        (403, "text", "Country not supported", "refused"),
        (400, "text", "Use 'max_completion_tokens' instead of 'max_tokens'", "new max_tokens"),
        (400, "text", "'temperature' does not support 0.0", "no temperature"),
        (400, "text", "messages[0].role is wrong", "failed"),
        (400, "schema", "Server is pinned to 'a/model'; requested 'b'.", "refused"),
        (400, "text", "API key not valid. Please pass a valid API key.", "refused"),
        (400, "text", "b is not a valid model ID", "refused"),
        (400, "text", "The model `b` does not exist", "refused"),
        (422, "text", "model: field required, not an integer", "failed"),
        (500, "schema", "response_format made me crash", "retry"),
    ],
)
def test_words(status: int, form: Form, words: str, kind: str) -> None:
    body = json.dumps({"error": {"message": words}})
    failure = failure_of_status(status, {}, body, form)
    assert failure.kind == kind
    assert words in failure.text
    assert f"HTTP {status}" in failure.text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"error": {"message": "a\\n b", "code": 5}}', "a b"),
        ('{"error": "plain"}', "plain"),
        ('{"detail": [{"loc": ["x"]}]}', '[{"loc": ["x"]}]'),
        ('{"error": {"message": "Provider error", "metadata": {"raw": "inner"}}}', "Provider error inner"),
        ("<html><style>b{}</style><h1>502 Bad</h1>Gateway</html>", "502 Bad Gateway"),
        ("", ""),
        ('\ufeff{"error": {"message": "a"}}', "a"),
        ('{"error": {"code": "overloaded"}}', "overloaded"),
        ('{"error": {"type": "api_error", "message": null}}', "api_error"),
        ('{"ok": false, "reason": "none"}', '{"ok": false, "reason": "none"}'),
        ('{"object": "error", "msg": "down"}', "down"),
        ("[" * 100_000, "[" * 297 + "..."),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<p>a<script>b < c</p></script >d<style>e", "a d"),
        ("<!DOCTYPE html><title>Sign in</title>", "Sign in"),
    ],
)
def test_error_texts(body: str, text: str) -> None:
    assert error_text(body) == text


def test_a_long_error_is_cut() -> None:
    assert len(error_text("x" * 5000)) == 300


@pytest.mark.parametrize(
    ("error", "kind", "outcome"),
    [
        ({"code": "429", "message": "Rate limit reached."}, "retry", "busy"),
        ({"code": "rate_limit_exceeded", "message": "Slow down."}, "retry", "busy"),
        ({"code": None, "type": "rate_limit_error", "message": "Slow down."}, "retry", "busy"),
        ({"code": 8, "status": "RESOURCE_EXHAUSTED", "message": "Slow down."}, "retry", "busy"),
        ({"code": "insufficient_quota", "message": "You exceeded your current quota."}, "refused", "refused"),
        ({"code": "invalid_api_key", "message": "no"}, "refused", "refused"),
        ({"type": "authentication_error", "message": "no"}, "refused", "refused"),
        ({"code": "401"}, "refused", "refused"),
        ({"code": "model_not_found", "message": "no"}, "refused", "refused"),
        ("model `m` not found", "refused", "refused"),
        ({"code": "context_length_exceeded", "message": "no"}, "too long", "too long"),
        ({"code": "Overloaded", "message": "later"}, "retry", "server error"),
        ({"code": "odd", "message": "later"}, "retry", "server error"),
        ({"code": True, "message": "later"}, "retry", "server error"),
        ("later", "retry", "server error"),
        ({"message": "response_format json_schema is not supported"}, "unsupported", "unsupported"),
    ],
)
def test_an_error_in_a_body_is_known_by_its_code_also_as_text(error: Any, kind: str, outcome: str) -> None:
    failure = failure_in_body(error, "schema")
    assert (failure.kind, failure.outcome) == (kind, outcome)
    assert failure.text == error_text(json.dumps({"error": error}))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "an empty body"),
        (" \ufeff\n", "an empty body"),
        ('data: {"id": "x"}\n\ndata: [DONE]\n', r"a stream of events \(SSE\).*data: {"),
        (": ping\n\nevent: x\n", r"a stream of events \(SSE\)"),
        ("<!doctype html><h1>Sign in</h1>", r"a web page \(Sign in\).*mostly ends in /v1"),
        ('<?xml version="1.0"?><e>no</e>', r"a web page \(no\)"),
        ("upstream timed out", "this: upstream timed out"),
    ],
)
def test_what_came_in_the_place_of_json(body: str, words: str) -> None:
    assert re.match(words, what_came(body))


def test_a_page_with_an_error_status_is_called_one() -> None:
    text = failure_of_status(404, {}, "<html><h1>Not Found</h1></html>", "text").text
    assert text == "a web page came back, Not Found (HTTP 404)"


@pytest.mark.parametrize(
    "unit",
    [
        *("<script", "<style>", "<script></script>", "<", "<p>x</p>", "</script", '{"error":', "[", "&lt;"),
        *("model ", "max_tokens ", "message ", "<!--", " ", "<script><", "retry "),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_the_words_of_an_error_are_found_in_linear_time(
    unit: str, status: int, is_linear: Callable[..., bool]
) -> None:
    def work(characters: int) -> None:
        page = "<p>" + unit * (characters // len(unit))
        if status == 200:
            what_came(page)
        else:
            failure_of_status(status, {}, page, "schema")

    assert is_linear(work, 40_000)
