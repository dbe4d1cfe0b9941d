"""What endpoints' words mean."""

from __future__ import annotations

import json

import pytest

from refine_rl.llm.client import Form
from refine_rl.llm.failures import error_text, failure_of_status


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
    ],
)
def test_error_texts(body: str, text: str) -> None:
    assert error_text(body) == text


def test_a_long_error_is_cut() -> None:
    assert len(error_text("x" * 5000)) == 300
