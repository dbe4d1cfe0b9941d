"""What a writer sends that is no prompt: refusals, talk about prompts, gaps to fill in, answers.

These are signs in the wording, so only clear ones: a customer's mail may begin with "I'm sorry". Answers
that look like any other text are left to the writer's own check (write.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from refine_rl.prompts.curate import normalised

_HELP = (
    r"(?:help|assist|comply|fulfil+|do (?:that|this|so)|provide|generate|create|write|complete|answer"
    r"|continue)"
)
_CANNOT = r"(?:can(?:'t|not)|could(?:n't| not)|won't|will not|am unable to|'m unable to|am not able to)"
_REFUSAL = re.compile(
    rf"(?:(?:i(?:'m| am)(?: \w+)? )?sorry,?(?: but)?(?: i)? |i ){_CANNOT}(?: {_HELP}\b|\W*$)"
    r"|as an (?:ai|artificial intelligence|language model)\b|as a (?:large )?language model\b",
)
_TALK = re.compile(
    r"(?:here(?:'s| is| are)|below (?:is|are)|the following (?:is|are)|these are)\b.{0,40}?"
    r"\b(?:prompts?|inputs?|examples|variations|combinations|test cases)\b"
    r"|(?:sure|certainly)[,!:]"
    r"|(?:of course|absolutely|okay|ok|great)[,!.:] ?(?:here|i'll|i will|i can|i'd be|let me)\b"
)
_LABEL = re.compile(
    r"(?:example|prompt|input|combination|variation|test case)\s*(?:#?\s*\d+\s*[:.)\-–]|:)"
    r"|\(?\d+[.)]\s+\S[^\n]*$"
)
_GAP = re.compile(
    r"(?<![\w\])])(?:[\[<{]+\s*(?:insert|your|enter|add|put|paste|placeholder|fill in|specify)\b"
    r"[^\]>}\n]{0,60}[\]>}]"
    r"|\[\s*(?:(?:company|customer|client|product|user|person|recipient|sender|city|first|last|full)? ?name"
    r"|company|customer|product|date|time|topic|text|city|number|amount|link|url|email(?: address)?|xx+)"
    r"\s*\](?!\())"
)
_ASKED = re.compile(r"(?m)^\W*(?:input|prompt|question|user|q)\W*:")
_ANSWERED = re.compile(r"(?m)^\W*(?:output|answer|response|reply|assistant|completion|result|a)\W*:\W*\w")
_WORDS_OF_A_TASK = 4  # a shorter task may stand in an input by chance


def objection(text: str, task: str, combination: Mapping[str, str], *, told: bool) -> str | None:
    """Why `text` is no prompt for the task, or None.

    `told` says that a system message tells the task, so that no input need repeat it.

    >>> objection("Here are 10 prompts:", "Be brief.", {}, told=True)
    'it talks about prompts'
    >>> objection("I'm sorry, I can't find my keys.", "Be brief.", {}, told=True)
    """
    plain, folded = normalised(text.replace("’", "'")), text.casefold()
    is_long = len(task.split()) >= _WORDS_OF_A_TASK
    named = sum(normalised(f"{facet}: {value}") in plain for facet, value in combination.items())
    signs = {
        "it is empty": not plain,
        "it is a refusal": _REFUSAL.match(plain),
        "it talks about prompts": _TALK.match(plain),
        "it carries a label or a number": _LABEL.match(folded.strip()),
        "it has a gap to fill in": _GAP.search(folded),
        "it brings its answer along": _ASKED.search(folded) and _ANSWERED.search(folded),
        "it repeats the task": told and is_long and normalised(task).rstrip(".!") in plain,
        "it names its combination": named >= min(2, len(combination)) > 0,
    }
    return next((why for why, sign in signs.items() if sign), None)


def has_gap(text: str) -> bool:
    """Whether something like "[your name]" stands in the text."""
    return _GAP.search(text.casefold()) is not None


def is_refusal(text: str) -> bool:
    """Whether the text declines to do what was asked."""
    return _REFUSAL.match(normalised(text.replace("’", "'"))) is not None
