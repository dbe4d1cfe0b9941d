"""A chat whose answers are to be imitated, as segments: given, target, given, target ...

The first segment is what `encode` gives as the prompt when an answer to the same messages is sampled, and an
answer ends with the token that ends it: what is imitated is the situation in which answers are sampled. What
the template writes behind that token belongs to the next given segment. Text that reads like a control
token stays text (control.py), in answers as in prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from refine_rl.errors import UserError
from refine_rl.policy.control import ChatText, Control, Render, encode_chat, opening_of
from refine_rl.types import Message, Segment


def demonstrate(
    tokenizer: Any,
    control: Control,
    stop_ids: frozenset[int],
    messages: Sequence[Message],
    render: Render,
    whole: Render,
    *,
    every: bool,
    given: Collection[int] = (),
) -> tuple[Segment, ...]:
    """The chat up to its last answer, with `every` answer, or the last one, as a target; those at the places
    `given` are none, and no last one. `render` writes a conversation ready for an answer, `whole` as it
    stands.

    Raises UserError where the template writes an earlier turn otherwise than it writes the newest, so that
    what is trained on would not be what is sampled behind.
    """
    answers = answers_in(messages, given)
    if not answers:
        raise UserError("A chat without an answer of the assistant to something shows nothing to imitate.")
    stops = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(stop_ids)]
    text = ChatText(tokenizer, control, messages, whole)
    segments: list[Segment] = []
    done = ""  # of the conversation's text, with marks: what stands in `segments`
    for number in answers if every else answers[-1:]:
        begun = text.marked(messages[:number], render)
        if segments:
            if not begun.startswith(done):
                raise _rewritten(messages[: number + 1])
            ids = text.inside(begun[len(done) :])
        else:
            ids = encode_chat(tokenizer, control, messages[:number], render)
        segments.append(Segment(token_ids=tuple(ids), trainable=False))
        written = text.marked(messages[: number + 1], whole)
        if written.startswith(begun):
            answer, ended = _answer(written[len(begun) :], stops, text.mark)
        else:
            answer, ended = _behind_opening(messages[: number + 1], render), False
        ids = text.inside(answer)
        if not ended:
            ids.append(_end(tokenizer, stop_ids))
        segments.append(Segment(token_ids=tuple(ids), trainable=True, target=True))
        done = begun + answer
    return tuple(segments)


def answers_in(messages: Sequence[Message], given: Collection[int] = ()) -> list[int]:
    """The places of the answers that are to be imitated: those of the assistant to something, but for
    `given`."""
    return [n for n, m in enumerate(messages) if m["role"] == "assistant" and n and n not in given]


def _answer(written: str, stops: Sequence[str], mark: str) -> tuple[str, bool]:
    """What the template writes of an answer, up to the token that ends it; whether it writes one."""
    ends = [(place, place + len(stop)) for stop in stops if (place := written.find(stop)) >= 0]
    if ends:
        return written[: min(ends)[1]], True
    return written.rstrip(f"\n{mark}"), False


def _behind_opening(messages: Sequence[Message], render: Render) -> str:
    """The answer where the template begins it itself, with the opening tag of a thought: what comes behind.
    Raises UserError for one that does not begin so."""
    opening, content = opening_of(messages[:-1], render), messages[-1]["content"]
    if not opening:
        raise _rewritten(messages)
    if not content.lstrip().startswith(opening.strip()):
        raise UserError(
            f"The model's template begins every answer with {opening.strip()!r}, and this one does not: "
            f"{content[:60]!r}. Write the thought into the answers, or take a model that does not think "
            "aloud."
        )
    return content.lstrip()[len(opening.strip()) :].lstrip("\n")


def _end(tokenizer: Any, stop_ids: frozenset[int]) -> int:
    """The token that ends an answer where the template writes none."""
    own = tokenizer.eos_token_id
    return own if own in stop_ids else min(stop_ids)


def _rewritten(messages: Sequence[Message]) -> UserError:
    return UserError(
        "The model's template writes this chat's earlier turns otherwise than it wrote them when they were "
        f"the newest ({len(messages)} messages: it leaves out thoughts, for one). Train on the last answer "
        'alone: sft.train_on = "last".'
    )
