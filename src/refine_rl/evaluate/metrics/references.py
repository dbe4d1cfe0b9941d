"""References in the data of prompts, and the answers of controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from refine_rl.errors import UserError
from refine_rl.evaluate.metrics.measure import Pairs, deranged
from refine_rl.evaluate.metrics.nearest import Nearest, echo
from refine_rl.types import Prompt

NEEDED_BY = ("bleu", "chrf", "rouge", "bertscore", "perplexity")
"""The metrics that compare with a reference."""


def text_in(prompt: Prompt, column: str) -> str:
    """The text of a column of a prompt's data, a number as it is written; "" where there is none.

    >>> prompt = Prompt(id="p1", split="train", messages=(), data={"answer": 12, "notes": ["a", "b"]})
    >>> text_in(prompt, "answer"), text_in(prompt, "notes"), text_in(prompt, "label")
    ('12', '', '')
    """
    value = prompt.data.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()


def require_references(prompts: Sequence[Prompt], column: str, *, key: str = "evaluate.reference") -> None:
    """Raises UserError that names the first of the prompts which has no text in `column`; `key` is the
    setting that named the column."""
    for prompt in prompts:
        if text_in(prompt, column):
            continue
        where = f"prompt {prompt.id!r}" + (f" ({prompt.origin})" if prompt.origin else "")
        if column not in prompt.data:
            what = f"has no `{column}` in its data{_others(column, prompt.data)}"
        elif (value := prompt.data[column]) is None or (isinstance(value, str) and not value.strip()):
            what = f"has an empty `{column}`"
        else:
            kind = type(value).__name__
            what = f"has a {kind} as `{column}`; a text is needed"
        raise UserError(
            f'{key} = "{column}": {where} {what}\nThe metrics compare with a reference of every held-out '
            "prompt: name the column that holds it, or leave those metrics out of evaluate.metrics."
        )


def _others(column: str, data: Mapping[str, object]) -> str:
    if not data:
        return ", which is empty"
    near = get_close_matches(column, data, n=1)
    listed = ", ".join(f"`{name}`" for name in data)
    return f"; did you mean `{near[0]}`?" if near else f"; there {'is' if len(data) == 1 else 'are'} {listed}"


def controls_of(
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    train: Sequence[Prompt],
    *,
    reference: str,
    name: str,
    seed: int,
) -> dict[str, Pairs]:
    """Answers and references of each control that can be had: "shuffled", the tuned model's `answers` beside
    the references of other prompts; "name", the words of the column `name`, where all prompts have it;
    "nearest", the reference of the training prompt whose name (without one, whose text) is nearest.
    """
    references = [text_in(prompt, reference) for prompt in prompts]
    found: dict[str, Pairs] = {}
    if len(prompts) > 1:
        found["shuffled"] = (answers, [references[place] for place in deranged(len(prompts), seed)])
    names = [text_in(prompt, name) for prompt in prompts] if name else []
    if names and all(names):
        found["name"] = ([echo(each) for each in names], references)
    known = [p for p in train if text_in(p, reference) and (not name or text_in(p, name))]
    if known:
        nearest = Nearest([text_in(p, name) if name else p.text for p in known])
        chosen = [known[nearest.place(text)] for text in (names or [p.text for p in prompts])]
        found["nearest"] = ([text_in(p, reference) for p in chosen], references)
    return found
