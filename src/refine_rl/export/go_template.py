"""A chat template in Ollama's form.

Ollama reads no Jinja: of a GGUF file's chat template it looks whether it resembles one that it has, and else
sends a message as it is (https://github.com/ollama/ollama/blob/main/template/template.go). So it is told:
what the template writes around the words of each role is found by rendering short conversations, and written
as a template of Go. A template that does more than that cannot be told so; that is noticed on whole prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refine_rl.errors import UserError
from refine_rl.types import Message

Render = Callable[[Sequence[Message], bool], str]
"""A conversation as the model's own template writes it; True: ready for an answer."""
_WORDS = {"system": "refinesays", "user": "refineasks", "assistant": "refineanswers"}
_OTHER = "refineasksmore"


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """What stands around words. `head`: before the first message, where there is no system message; `roles`:
    before and behind the words of each role; `answer`: where the model is to speak."""

    head: str
    roles: dict[str, tuple[str, str]]
    answer: str

    def filled(self, messages: Sequence[Message]) -> str:
        """A conversation as Ollama will write it."""
        told = any(m["role"] == "system" for m in messages)
        said = [f"{self.roles[m['role']][0]}{m['content']}{self.roles[m['role']][1]}" for m in messages]
        return ("" if told else self.head) + "".join(said) + self.answer

    def without(self, first: str) -> Around:
        """The same without a text at the very beginning, which the tokenizer puts there by itself."""
        roles = dict(self.roles)
        if "system" in roles:
            roles["system"] = (roles["system"][0].removeprefix(first), roles["system"][1])
        return Around(head=self.head.removeprefix(first), roles=roles, answer=self.answer)

    def text(self) -> str:
        """As a template of Go. Raises UserError where a piece cannot stand in one."""
        pieces = [self.head, self.answer, *(p for pair in self.roles.values() for p in pair)]
        if any(sign in piece for piece in pieces for sign in ("{{", "}}", '"""')):
            raise UserError("the chat template writes {{, }} or three quotes, which end a template of Go")
        head = f"{{{{ if not .System }}}}{self.head}{{{{ end }}}}" if self.head else ""
        cases = [
            f'{{{{ {"if" if n == 0 else "else if"} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{behind}'
            for n, (role, (before, behind)) in enumerate(self.roles.items())
        ]
        return f"{head}{{{{ range .Messages }}}}{''.join(cases)}{{{{ end }}}}{{{{ end }}}}{self.answer}"


def around(render: Render) -> Around:
    """What a template writes around words. Raises UserError where that depends on more than the role."""
    user: Message = {"role": "user", "content": _WORDS["user"]}
    answer: Message = {"role": "assistant", "content": _WORDS["assistant"]}
    more: Message = {"role": "user", "content": _OTHER}
    alone = render([user], False)
    first, behind = _cut(alone, _WORDS["user"])
    asked = render([user], True)
    if not asked.startswith(alone):
        raise UserError("the chat template writes a message anew where an answer is to come")
    between, after = _cut(_cut(render([user, answer], False), _WORDS["user"])[1], _WORDS["assistant"])
    rest = _cut(_cut(render([user, answer, more], False), _WORDS["assistant"])[1], _OTHER)[0]
    if not between.startswith(behind) or not rest.startswith(after):
        raise UserError("the chat template writes earlier messages in another way than the last")
    before = rest[len(after) :]
    if not first.endswith(before):
        raise UserError("the chat template writes the first message in another way than the others")
    roles = {"user": (before, behind), "assistant": (between[len(behind) :], after)}
    if (system := _system(render, user, before)) is not None:
        roles = {"system": system, **roles}
    head = first[: len(first) - len(before)]
    return Around(head=head, roles=roles, answer=asked[len(alone) :])


def _system(render: Render, user: Message, before: str) -> tuple[str, str] | None:
    """What stands around a system message; None where the template takes none."""
    try:
        text = render([{"role": "system", "content": _WORDS["system"]}, user], False)
        opened, rest = _cut(text, _WORDS["system"])
        between = _cut(rest, _WORDS["user"])[0]
    except UserError:
        return None
    return (opened, between[: len(between) - len(before)]) if between.endswith(before) else None


def _cut(text: str, word: str) -> tuple[str, str]:
    if text.count(word) != 1:
        raise UserError("the chat template changes the words of a message")
    before, _, behind = text.partition(word)
    return before, behind
