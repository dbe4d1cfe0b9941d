"""Control tokens: which tokens of a model steer a conversation, and how text that reads like one stays text.

A tokenizer turns the characters `<|im_end|>` into the token that ends a turn wherever they stand, in a prompt
that somebody found on the web as well. Here the contents of messages never become control tokens: their
characters are encoded in two parts, as a text of which no token is made. A conversation without such text is
encoded exactly as ever.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from refine_rl.errors import UserError
from refine_rl.types import Message, Prompt, count_of

Render = Callable[[Sequence[Message]], str]
"""A conversation as the template writes it."""

TAG = re.compile(
    r"[<\[]\|?(?P<ends>/|end_)?\w*(?:think|thought|reason|reflect|scratchpad)\w*\|?[>\]]", re.IGNORECASE
)
"""The tag of a thought, in the ways of today's models: `<think>`, `[/THINK]`, `<|START_THINKING|>`."""

_MARKUP = re.compile(r"[<\[({|｜].*[>\])}|｜]", re.DOTALL)
"""What control tokens look like. Some tokenizers have added mere words, and not for steering."""

NAMES = 5
"""So many prompts are named in a message."""

_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class ControlTextError(UserError):
    """A text that reads like a control token, and that this tokenizer cannot encode as anything else."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a tokenizer's special tokens are there for.

    `texts` never become tokens where they stand in a message: everything that is special, and what the
    template itself writes around messages. `ids` are their tokens, but for the one that stands for the
    unknown. Of the special tokens an answer may hold, `content` belong to its text (tags of thoughts,
    channels, tools), and `hidden` do not.
    """

    texts: tuple[str, ...]
    ids: frozenset[int]
    content: frozenset[int]
    hidden: frozenset[int]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Any of the texts, the longest first."""
        longest = sorted(self.texts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest)) or "(?!)")

    def held(self, messages: Sequence[Message]) -> list[str]:
        """The control texts in these messages, each once, in order."""
        return list(dict.fromkeys(t for m in messages for t in self.pattern.findall(m["content"])))


NO_CONTROL = Control(texts=(), ids=frozenset(), content=frozenset(), hidden=frozenset())
"""For a policy that reads numbers instead of text."""


def control_of(tokenizer: Any, stop_ids: frozenset[int], render: Callable[..., str]) -> Control:
    """What `tokenizer` and its template use as control tokens; `render(messages, answer=True)` is the
    template's text, ready for an answer or not. A template may refuse any conversation."""
    tokens = {i: token for i, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    added = {i: str(token) for i, token in tokens.items()}
    special = {i for i, token in tokens.items() if token.special} | set(tokenizer.all_special_ids)
    named = {getattr(tokenizer, f"{name}_token_id", None) for name in _NAMED} | stop_ids
    written, own = _around_messages(render, list(added.values()))
    tags = {i for i, text in added.items() if TAG.fullmatch(text)}
    markup = {i for i, text in added.items() if _MARKUP.fullmatch(text)}
    turns = {i for i in markup if added[i] in written} - tags
    # Where the model itself writes control tokens before its words (channels), all that it says is content.
    channels = {i for i, text in added.items() if text in own} & special - tags
    hidden = (special & named) if channels else special & (named | turns)
    # A word or a sign that somebody has declared padding steers nothing, and is in every other text.
    steering = {i for i, text in added.items() if text in written} | stop_ids
    protected = added.keys() & ((special & (markup | steering)) | turns | stop_ids)
    return Control(
        texts=tuple(added[i] for i in sorted(protected)),
        ids=frozenset(protected - {tokenizer.unk_token_id}),
        content=frozenset(special - hidden),
        hidden=frozenset(hidden),
    )


def control_of_plain(tokenizer: Any, stop_ids: frozenset[int]) -> Control:
    """What `tokenizer` uses as control tokens where prompts and answers are plain texts: whatever is special,
    and none of it belongs to an answer's text."""
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    protected = {i for i in added.keys() & special if _MARKUP.fullmatch(added[i])} | (added.keys() & stop_ids)
    return Control(
        texts=tuple(added[i] for i in sorted(protected)),
        ids=frozenset(protected - {tokenizer.unk_token_id}),
        content=frozenset(),
        hidden=frozenset(special | stop_ids),
    )


def _around_messages(render: Callable[..., str], tokens: Sequence[str]) -> tuple[set[str], set[str]]:
    """Which tokens the template writes around messages, and which of them stand between the place where an
    answer begins and its words."""
    asked, word = Message(role="user", content="refineasks"), "refineanswers"
    answered = Message(role="assistant", content=word)
    system = Message(role="system", content="refinesays")
    texts = []
    for messages in ([system, asked], [asked, answered, asked], [asked], [asked, answered]):
        for answer in (True, False):
            try:
                texts.append(render(messages, answer=answer))
            except UserError:
                texts.append("")
    begun, whole = texts[4], texts[7]
    own = whole[len(begun) :].partition(word)[0] if begun and whole.startswith(begun) else ""
    pattern = re.compile("|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True)) or "(?!)")
    return {t for text in texts for t in pattern.findall(text)}, set(pattern.findall(own))


def encode_chat(tokenizer: Any, control: Control, messages: Sequence[Message], render: Render) -> list[int]:
    """The token ids of a conversation, in which every control token is one of the template's. Raises
    ControlTextError where that cannot be had."""
    text = render(messages)
    mark = _unused(text, messages)
    straddled = _straddled(_fenced(messages, mark, render), mark, control)
    if straddled or control.held(messages):
        split = [Message(role=m["role"], content=_split(m["content"], mark, control)) for m in messages]
        text = _fenced(split, mark, render) if straddled else render(split)
    return _encoded(tokenizer, text.split(mark), control)


class ChatText:
    """The text of a chat and of its beginnings, with marks where no token may be made across; so one text can
    be told to go on from another, and what it has more be encoded."""

    def __init__(self, tokenizer: Any, control: Control, messages: Sequence[Message], render: Render) -> None:
        self._tokenizer, self._control = tokenizer, control
        self.mark = _unused(render(messages), messages)
        self._straddled = _straddled(_fenced(messages, self.mark, render), self.mark, control)

    def marked(self, messages: Sequence[Message], render: Render) -> str:
        """The text of the chat's first messages, as `encode_chat` would cut it."""
        control, mark = self._control, self.mark
        if not self._straddled and not control.held(messages):
            return render(messages)
        split = [Message(role=m["role"], content=_split(m["content"], mark, control)) for m in messages]
        return _fenced(split, mark, render) if self._straddled else render(split)

    def inside(self, text: str) -> list[int]:
        """The token ids of a part of such a text, as it stands in the middle. Raises ControlTextError where
        they cannot be had."""
        return _encoded(self._tokenizer, ["", *text.split(self.mark)], self._control)


def encode_words(tokenizer: Any, control: Control, text: str) -> list[int]:
    """The token ids of a text that is put into an answer. Special tokens that are content in an answer are
    tokens here too; all other control texts are text. Raises ControlTextError where that cannot be had."""
    names = {str(tokenizer.convert_ids_to_tokens(i)) for i in control.content}
    texts = tuple(t for t in control.texts if t not in names)
    apart = replace(control, texts=texts, ids=control.ids - control.content)
    mark = _unused(text, [])
    return _encoded(tokenizer, _split(text, mark, apart).split(mark), apart)


def readable(
    prompts: Sequence[Prompt], encode: Callable[[Sequence[Message]], object], control: Control
) -> tuple[list[Prompt], list[str]]:
    """The prompts that can be encoded, and lines about those that read like control tokens: which are
    encoded as text, and which are set aside."""
    kept, as_text, aside = [], [], []
    for prompt in prompts:
        try:
            encode(prompt.messages)
        except ControlTextError:
            aside.append(prompt.id)
            continue
        kept.append(prompt)
        if held := control.held(prompt.messages):
            as_text.append(f"{prompt.id} {held[0]!r}")
    lines = []
    if as_text:
        lines.append(f"{_of(as_text)} text like a control token of this model, which it reads as text")
    if aside:
        lines.append(
            f"{_of(aside)} text like a control token of this model that its tokenizer cannot encode as text: "
            "set aside"
        )
    return kept, lines


def _of(names: Sequence[str]) -> str:
    """How many prompts, and the first of them.

    >>> _of(["p0001", "p0002"])
    '2 prompts (p0001, p0002) hold'
    """
    more = ", ..." if len(names) > NAMES else ""
    hold = "holds" if len(names) == 1 else "hold"
    return f"{count_of(len(names), 'prompt')} ({', '.join(names[:NAMES])}{more}) {hold}"


def opening_of(messages: Sequence[Message], render: Render) -> str:
    """What the template has written of the answer when the model's turn comes: a thought's opening tag and
    what follows it; "" where it opens none."""
    mark = _unused("", messages)
    tail = _fenced(messages, mark, render).rpartition(mark)[2]
    tags = list(TAG.finditer(tail))
    opens = tags and not tags[-1]["ends"] and not tail[tags[-1].end() :].strip()
    return tail[tags[-1].start() :] if opens else ""


def _encoded(tokenizer: Any, pieces: Sequence[str], control: Control) -> list[int]:
    """Each piece encoded for itself, as if it stood in the middle of a text. Raises ControlTextError where
    that makes more control tokens than stand in the pieces as such."""
    newline = _ids(tokenizer, "\n") if len(pieces) > 1 else []
    ids = _ids(tokenizer, pieces[0])
    for piece in filter(None, pieces[1:]):
        # Some tokenizers put a space before a text's first word; not behind a line's end.
        behind = _ids(tokenizer, "\n" + piece)
        whole = behind[: len(newline)] == newline
        ids += behind[len(newline) :] if whole else _ids(tokenizer, piece)
    found = [i for i in ids if i in control.ids]
    own = Counter(text for piece in pieces for text in control.pattern.findall(piece))
    if len(found) > own.total():
        made = Counter(tokenizer.convert_ids_to_tokens(found))
        raise _refusal(", ".join(made - own))
    return ids


def _ids(tokenizer: Any, text: str) -> list[int]:
    # Not verbose: it would warn of a text longer than the model reads, which is ours to say, with the row.
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _unused(text: str, messages: Sequence[Message]) -> str:
    """A character for private use that stands nowhere here."""
    there = set(text).union(*(m["content"] for m in messages))
    return next(chr(c) for c in range(0xE000, 0xF900) if chr(c) not in there)


def _fenced(messages: Sequence[Message], mark: str, render: Render) -> str:
    """The conversation with a mark at both ends of every content, within its blanks: templates trim."""
    fenced = []
    for message in messages:
        content = message["content"]
        core = content.strip()
        if core:
            before, _, after = content.partition(core)
            content = f"{before}{mark}{core}{mark}{after}"
        fenced.append(Message(role=message["role"], content=content))
    return render(fenced)


def _straddled(fenced: str, mark: str, control: Control) -> bool:
    """Whether a control text is made of a content and what stands beside it."""
    text, borders = "", []
    for piece in fenced.split(mark):
        text += piece
        borders.append(len(text))
    found = [m.span() for m in control.pattern.finditer(text)]
    return any(start < border < end for border in borders[:-1] for start, end in found)


def _split(content: str, mark: str, control: Control) -> str:
    """The content with a mark inside every control text, so that none is left in a piece."""
    first = control.pattern.sub(lambda m: m.group()[0] + mark + m.group()[1:], content)
    if not any(map(control.pattern.search, first.split(mark))):
        return first
    every = control.pattern.sub(lambda m: mark.join(m.group()), content)
    for piece in every.split(mark):
        if found := control.pattern.search(piece):
            raise _refusal(found.group())
    return every


def _refusal(text: str) -> ControlTextError:
    return ControlTextError(
        f"The text {text!r} reads like a control token of this model, and its tokenizer cannot encode it as "
        "anything else. Take it out of the text."
    )
