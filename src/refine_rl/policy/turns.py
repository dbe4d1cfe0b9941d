"""What the template writes between a sampled answer and the policy's next one.

The answer's tokens stand, with the one that ended it; here are those that come behind it. They continue what
stands only if the template, asked for the longer conversation, writes the shorter one again and goes on. That
is compared each time, text with text: what a template does to earlier turns can depend on what is in them.
Blanks around an answer are let be: many templates trim them, and here they stay as they were sampled. So does
the token that ended it, be it another than the template's or one that the template does not write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from refine_rl.errors import UserError
from refine_rl.policy.control import TAG, ChatText, Control, Render, opening_of
from refine_rl.types import Message

SHOWN = 60
"""So many characters of a text are shown in a message."""


def next_turn(
    tokenizer: Any,
    control: Control,
    stop_ids: frozenset[int],
    messages: Sequence[Message],
    more: Sequence[Message],
    render: Render,
    *,
    source: str,
    as_sampled: bool = False,
) -> tuple[int, ...]:
    """The token ids behind the answer with which `messages` end, through `more`, until the policy is to speak
    again. `render` writes a conversation ready for an answer. What reads like a control token in a message
    stays text; raises ControlTextError where the tokenizer cannot do that.

    Raises UserError where the template writes what stands otherwise than it stands, unless all turns are to
    stay `as_sampled`; and where it writes no earlier answer at all.
    """
    *asked, answer = messages
    if answer["role"] != "assistant":
        raise ValueError("the conversation does not end with an answer")
    whole = [*messages, *more]
    if not as_sampled and (found := _rewritten(asked, answer, more, render)):
        stood, written = found
        raise UserError(
            f"The chat template of {source} writes an earlier turn otherwise than it stood when it was the "
            f"newest: {stood!r} became {written!r}. So a trajectory of several turns is not the conversation "
            'that its template writes. rollout.history = "as_sampled" keeps every turn as it was sampled '
            "(the model goes on to see its own earlier thoughts); or take a model whose template leaves "
            "earlier turns as they are."
        )
    text = ChatText(tokenizer, control, whole, render)
    word = _stand_in(whole)
    written = text.marked([*asked, Message(role="assistant", content=word), *more], render)
    if written.count(word) != 1:
        raise UserError(
            f"The chat template of {source} leaves an earlier answer out, or writes it more than once: with "
            "it there are no trajectories of several turns. Take a model with another template."
        )
    stops = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(stop_ids)]
    return tuple(text.inside(_behind_end(written.partition(word)[2], stops, text.mark)))


def probes(template: str, opening: str) -> Iterator[str]:
    """Answers that show what a template does to earlier ones: a plain one, and one behind a thought in each
    of the ways that the template knows. `opening` is what it writes of an answer itself."""
    if not opening:
        yield "refine answers"
    thought = "{}\nrefine thinks\n{}\n\nrefine answers"
    for ends in dict.fromkeys(m.group() for m in TAG.finditer(template) if m["ends"]):
        begins = (
            ends.replace("/", "", 1) if "/" in ends else ends.replace("END", "START").replace("end", "start")
        )
        yield thought.format(opening.strip() or begins, ends)


def _rewritten(
    asked: Sequence[Message], answer: Message, more: Sequence[Message], render: Render
) -> tuple[str, str] | None:
    """A place that the template writes anew once the conversation goes on, as it stood and as it is written;
    None where there is none."""
    opening = opening_of(asked, render)
    begun = render(asked)
    # What the template wrote of the answer is a part of the answer's text.
    before = begun.removesuffix(opening) if answer["content"].startswith(opening) else begun
    word = _stand_in([*asked, answer, *more])
    plain = render([*asked, Message(role="assistant", content=word), *more])
    tail = plain.rpartition(word)[2]
    written = render([*asked, answer, *more])
    start = _common(before.rstrip(), written)
    if start < len(before.rstrip()):
        return _around(before, start), _around(written, start)
    middle = written[start : len(written) - len(tail)].strip() if written.endswith(tail) else written[start:]
    stood = answer["content"].strip()
    if middle == stood:
        return None
    place = _common(stood, middle)
    return _around(stood, place), _around(middle, place)


def _behind_end(tail: str, stops: Sequence[str], mark: str) -> str:
    """What follows the end of an answer, of what the template writes behind its words. A template that writes
    no end there goes on at once."""
    core = tail.lstrip(f" \n{mark}")
    ended = max((len(stop) for stop in stops if core.startswith(stop)), default=0)
    return core[ended:] if ended else tail.removeprefix(mark)


def _stand_in(messages: Sequence[Message]) -> str:
    """A word that stands nowhere in these messages."""
    word = "refineanswers"
    while any(word in m["content"] for m in messages):
        word += "s"
    return word


def _common(one: str, other: str) -> int:
    """How many characters two texts begin alike with."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _around(text: str, place: int) -> str:
    """
    >>> _around("abcdef", 3)
    'abcdef'
    """
    start = max(0, place - SHOWN // 3)
    return text[start : start + SHOWN]
