"""How a model is talked to: its chat template, and the tokens that end its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from refine_rl.errors import UserError
from refine_rl.types import Message

_DIRECTIVES = "aAwdbBmyYHIMpSfjUWcxXGuV"

PLAIN_TEMPLATE = (
    "{{ START }}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}Assistant: {{ message.content }}{{ eos_token }}\n"
    "{% else %}{{ message.role | capitalize }}: {{ message.content }}\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For models without a template of their own; it is saved with the tuned model."""


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    moment: datetime,
    source: str,
    answer: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The conversation as the template writes it, ready for an answer or not; `tools` are what it describes.
    A template that asks what day it is gets `moment`. Raises UserError where the template refuses the
    conversation."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    further: dict[str, Any] = {}
    if template and "strftime_now" in template:
        further["chat_template"] = stopped(template, moment)
    if tools:
        further["tools"] = [dict(schema) for schema in tools]
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer, **further
        )
    except Exception as error:  # templates raise whatever their author chose
        roles = ", ".join(m["role"] for m in messages)
        raise UserError(
            f"The chat template of {source} refuses a conversation of the roles {roles}: {error}. "
            "A template that knows no system message wants it inside the first user message."
        ) from error
    return str(text)


def stopped(template: str, moment: datetime) -> str:
    """A chat template whose `strftime_now` always says `moment`.

    transformers lets nobody hand a function to a template; so the template gets one of its own, which goes
    before that of the environment. What it can be asked for is filled in beforehand.
    """
    known = {f"%{d}": moment.strftime(f"%{d}") for d in _DIRECTIVES}
    bare = {form.replace("%", "%-"): text.lstrip("0") or "0" for form, text in known.items()}
    fill = "".join(f" | replace({form!r}, {text!r})" for form, text in {**known, **bare, "%%": "%"}.items())
    # The line end belongs to the tag before it: the template stays as it was, to the blank.
    return f"{{%- macro strftime_now(format) %}}{{{{ format{fill} }}}}{{%- endmacro %}}\n{template}"


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the model's own, the tokenizer's, the template's end of turn."""
    ids: set[int] = set()
    for holder in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        value = getattr(holder, "eos_token_id", None)
        ids.update([value] if isinstance(value, int) else value or [])
    ids.update(i for i in (tokenizer.eos_token_id, end_of_turn(tokenizer)) if i is not None)
    if not ids:
        raise UserError(
            "The model and its tokenizer name no stop token: set eos_token in tokenizer_config.json."
        )
    return frozenset(ids)


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the template puts behind an assistant's words, where it puts one."""
    word = "refine"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hello"}, {"role": "assistant", "content": word}], tokenize=False
        )
    except Exception:  # an odd template has no end of turn that we could learn
        return None
    ids = tokenizer(text[text.rindex(word) + len(word) :].lstrip(), add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return ids[0] if ids and ids[0] in special else None


def ensure_template(tokenizer: Any) -> None:
    if tokenizer.chat_template is None:
        starts = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = PLAIN_TEMPLATE.replace("{{ START }}", "{{ bos_token }}" if starts else "")
