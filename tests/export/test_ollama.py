"""A chat template in Ollama's form, and its file."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
import pytest

from refine_rl.errors import UserError
from refine_rl.export.go_template import Render, around
from refine_rl.export.ollama import Told, require_name
from refine_rl.types import Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if answer %}<|im_start|>assistant\n{% endif %}"
)
WITH_A_HEAD = (
    "<s>{% if messages[0].role != 'system' %}<|system|>Be kind.<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if answer %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ fail() }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if answer %}[assistant] {% endif %}"
)


def render_of(template: str) -> Render:
    def fail() -> str:
        raise UserError("no system message")

    made = jinja2.Template(template, keep_trailing_newline=True)
    return lambda messages, answer: made.render(messages=messages, answer=answer, fail=fail)


def chat(*turns: str, system: str = "") -> Sequence[Message]:
    said: list[Message] = [{"role": "system", "content": system}] if system else []
    for n, text in enumerate(turns):
        said.append({"role": "assistant" if n % 2 else "user", "content": text})
    return said


@pytest.mark.parametrize("template", [CHATML, WITH_A_HEAD, NO_SYSTEM])
def test_a_conversation_is_written_as_the_template_writes_it(template: str) -> None:
    render = render_of(template)
    found = around(render)
    assert ("system" in found.roles) == (template != NO_SYSTEM)
    for messages in (chat("Hi."), chat("Hi.", "Hello!", "Bye."), chat("Hi.", "Yes?", "No.", system="Be.")):
        if template != NO_SYSTEM or messages[0]["role"] != "system":
            assert found.filled(messages) == render(messages, True)


def test_the_form_of_go() -> None:
    assert around(render_of(WITH_A_HEAD)).without("<s>").text() == (
        "{{ if not .System }}<|system|>Be kind.<|end|>{{ end }}{{ range .Messages }}"
        '{{ if eq .Role "system" }}<|system|>{{ .Content }}<|end|>'
        '{{ else if eq .Role "user" }}<|user|>{{ .Content }}<|end|>'
        '{{ else if eq .Role "assistant" }}<|assistant|>{{ .Content }}<|end|>{{ end }}{{ end }}<|assistant|>'
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (CHATML.replace("{{ m.content }}", "{{ m.content | upper }}"), "changes the words"),
        (CHATML.replace("<|im_end|>", "{% if not loop.last %}<|im_end|>{% endif %}"), "in another way than"),
        (CHATML.replace("<|im_end|>", "{{ '{{' }}"), "which end a template of Go"),
    ],
)
def test_what_cannot_be_told_so(template: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        around(render_of(template)).text()


def test_the_file() -> None:
    told = Told(
        chat=around(render_of(NO_SYSTEM)),
        system="Be brief.",
        stop=["<|end|>"],
        temperature=0.7,
        top_p=1.0,
        top_k=0,
        context=2048,
        answer=64,
    )
    lines = told.modelfile("mine.gguf").split("\n")
    assert lines[0] == "FROM ./mine.gguf"
    assert 'SYSTEM """Be brief."""' in lines
    assert lines[-8:-1] == [
        "PARAMETER temperature 0.7",
        "PARAMETER top_p 1",
        "PARAMETER top_k 0",
        "PARAMETER repeat_penalty 1",
        "PARAMETER num_ctx 2048",
        "PARAMETER num_predict 64",
        'PARAMETER stop "<|end|>"',
    ]


def test_names() -> None:
    for good in ("mine", "me/mine:v1", "a.b-c_d:latest"):
        require_name(good)
    for bad in ("", "a b", "/mine", "me/mine/x", "mine:"):
        with pytest.raises(UserError, match="a name is letters"):
            require_name(bad)
