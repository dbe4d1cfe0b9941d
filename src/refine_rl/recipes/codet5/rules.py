"""Rules of the recipe `codet5`: each looks at one docstring and gives a score in [0, 1] and a reason.

`reference`, `name`, `parameters` and `returns` come from the prompt's data, the code is the prompt itself.
`understood` is not meant to be trained on: it asks for nothing but what the function does, so that a better
style cannot pass for a better understanding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from refine_rl.types import Score

FEWEST, MOST = 3, 24
"""Words that a docstring may have."""
_WORD = re.compile(r"[A-Za-z0-9_']+")
_NAME = re.compile(r"`(\w+)`")
_SAYS_RETURNS = re.compile(r"\b(?:return|yield)s?\b", re.IGNORECASE)
_FUNCTION_WORDS_TEXT = "a an the of and or in to is are be that with for by from it its this on as at if"
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())
_FILLERS = frozenset({"given", "value", "argument", "parameter", "input"})
"""Words by which a parameter may be meant without its name."""


def content_words(text: str) -> list[str]:
    """The words that carry the meaning, in lower case and in the singular; names fall apart into their words.

    >>> content_words("Return the names that contain `old_key2`.")
    ['return', 'name', 'contain', 'old', 'key', '2']
    """
    found = re.findall(r"[A-Za-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text))
    words = [word.lower() for word in found if word.lower() not in _FUNCTION_WORDS]
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words]


def meaning(prompt: str, completion: str, reference: str) -> Score:
    """F1 of the content words that the docstring and the reference share, each as often as in both."""
    mine, wanted = Counter(content_words(completion)), Counter(content_words(reference))
    shared = (mine & wanted).total()
    total = mine.total() + wanted.total()
    return Score(
        value=2 * shared / total if total else 0.0,
        explanation=f"{shared} words shared; {mine.total()} written, {wanted.total()} in the reference",
    )


def parameters(prompt: str, completion: str, parameters: Sequence[str]) -> Score:
    """The share of the parameters that the docstring names; 0 where it names something that is not there."""
    said = set(_WORD.findall(completion))
    named = [name for name in parameters if name in said]
    there = set(re.findall(r"\w+", prompt))
    looks_like_names = {*_NAME.findall(completion), *(word for word in said if "_" in word.strip("_"))}
    unknown = sorted(looks_like_names - there)
    if unknown:
        return Score(value=0.0, explanation=f"not in the code: {', '.join(unknown)}")
    why = f"{len(named)} of {len(parameters)} parameters named"
    return Score(value=len(named) / len(parameters) if parameters else 1.0, explanation=why)


def returns(prompt: str, completion: str, returns: bool) -> Score:
    """1 where the docstring says that something is returned or yielded, and something is; or neither."""
    says = _SAYS_RETURNS.search(completion) is not None
    found, said = ("something" if fact else "nothing" for fact in (returns, says))
    why = f"{found} is returned, and the docstring says {said}"
    return Score(value=float(says == returns), explanation=why)


def length(prompt: str, completion: str) -> Score:
    """1 from `FEWEST` to `MOST` words; falls to 0 on either side."""
    n = len(_WORD.findall(completion))
    value = n / FEWEST if n < FEWEST else max(0.0, 1 - (n - MOST) / 12) if n > MOST else 1.0
    return Score(value=value, explanation=f"{n} words; {FEWEST} to {MOST} are asked for")


def no_repeats(prompt: str, completion: str) -> Score:
    """1 where no three words in a row come again, 0 where half of them do, or where a word follows itself."""
    words = [word.lower() for word in _WORD.findall(completion)]
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    if twice := [a for a, b in pairwise(words) if a == b]:
        return Score(value=0.0, explanation=f"twice in a row: {', '.join(twice)}")
    again = len(runs) - len(set(runs))
    value = max(0.0, 1 - 2 * again / len(runs)) if runs else 1.0
    return Score(value=value, explanation=f"{again} of {len(runs)} runs of three words come again")


def ends(prompt: str, completion: str) -> Score:
    """1 where the docstring ends as a sentence does."""
    ok = completion.rstrip().endswith((".", "!", "?"))
    return Score(value=float(ok), explanation="ends with a full stop" if ok else "does not end as a sentence")


def understood(prompt: str, completion: str, reference: str, parameters: Sequence[str]) -> Score:
    """1 where the docstring says what the reference says, in the same order, parameters apart: they may be
    named, meant ("the given value") or left out."""
    mine, wanted = _plain(completion, parameters), _plain(reference, parameters)
    ok = mine == wanted
    why = (
        "says what the reference says"
        if ok
        else f"says {' '.join(mine) or 'nothing'}; not {' '.join(wanted)}"
    )
    return Score(value=float(ok), explanation=why)


def _plain(text: str, parameters: Sequence[str]) -> list[str]:
    """What is said, without names, and without a second sentence.

    >>> _plain("Return the `items` that are greater than `limit`.", ["items", "limit"])
    ['return', 'greater', 'than']
    """
    sentence = re.split(r"\.(?:\s|$)", text.strip(), maxsplit=1)[0]
    names = {*parameters, *_NAME.findall(sentence)}
    kept = [word for word in _WORD.findall(sentence) if word not in names]
    return [word for word in content_words(" ".join(kept)) if word not in _FILLERS]
