"""What templates know of tools, and what they are told where they know nothing."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from refine_rl.policy.tools import ToolForm, tool_form
from refine_rl.types import Message

SCHEMA = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {}}}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
QWEN = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n{% endif %}<tools>{% for t in tools %}\n{{ t | tojson }}{% endfor %}"
    "\n</tools><|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{% elif not (m.role == 'system' and tools) %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}<|im_start|>assistant\n"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') "
    "or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<start_of_turn>{{ m.role }}\n{{ m.content }}"
    "<end_of_turn>\n{% endfor %}<start_of_turn>model\n"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}{% if m.tool_call_id is not defined %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{% elif m.role == 'assistant' %}{{ m.content }}</s>{% else %}[INST]{{ m.content }}[/INST]{% endif %}"
    "{% endfor %}"
)
TALK = [
    Message(role="user", content="1 + 2?"),
    Message(role="assistant", content="CALL"),
    Message(role="tool", content="3"),
]


def writer(template: str) -> Any:
    def refuse(text: str) -> None:
        raise ValueError(text)

    made = ImmutableSandboxedEnvironment(trim_blocks=True).from_string(template)
    return lambda messages, tools: made.render(messages=messages, tools=tools, raise_exception=refuse)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (CHATML, ToolForm(told=False, role=True, system=True)),
        (QWEN, ToolForm(told=True, role=True, system=True)),
        (GEMMA, ToolForm(told=False, role=False, system=False)),
        (MISTRAL, ToolForm(told=True, role=False, system=True)),
    ],
)
def test_what_a_template_knows_is_tried_out(template: str, form: ToolForm) -> None:
    write = writer(template)
    found = tool_form(write, (SCHEMA,))
    assert found == form
    text = write(found.messages(TALK, (SCHEMA,)), found.given((SCHEMA,)))
    assert text.count('"add"') == 1
    assert (
        text.index('"add"') < text.index("1 + 2?") < text.index("CALL") < text.index("3", text.index("CALL"))
    )


def test_a_template_that_knows_nothing_is_told_in_words() -> None:
    write = writer(GEMMA)
    form = tool_form(write, (SCHEMA,))
    assert form.messages(TALK, (SCHEMA,))[0]["content"].endswith("answer without a call.\n\n1 + 2?")
    assert form.messages(TALK, (SCHEMA,))[2] == {
        "role": "user",
        "content": "<tool_response>\n3\n</tool_response>",
    }


def test_a_system_message_keeps_what_it_says() -> None:
    form = tool_form(writer(CHATML), (SCHEMA,))
    told = form.messages([Message(role="system", content="Be brief."), *TALK], (SCHEMA,))
    assert told[0]["content"].startswith("Be brief.\n\nYou can call these tools")
    assert told[1:] == TALK
