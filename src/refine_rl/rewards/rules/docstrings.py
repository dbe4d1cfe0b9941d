"""Rules for docstrings: each holds the completion against the source of its function in the prompt's data."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from refine_rl.errors import SettingsError, UserError
from refine_rl.rewards.base import Check, RuleFactory, rule
from refine_rl.rewards.rules.content import named, text_of
from refine_rl.rewards.text.docstrings import bare, read_docstring
from refine_rl.rewards.text.english import STOP_WORDS, content_stems
from refine_rl.rewards.text.functions import Function, read_function, tokens_of
from refine_rl.rewards.text.words import ngrams, split_lines
from refine_rl.types import Prompt, one_line

DOCSTRING_RULES: dict[str, RuleFactory] = {}

Code = Annotated[str, "key of the prompt's data that holds the function's source"]

_BACKTICKS = re.compile(r"`([A-Za-z_]\w*)`")
_RETURNS = re.compile(r"\b(?:return|yield)(?:s|ed|ing)?\b|->", re.IGNORECASE)
_RETURNS_SOMETHING = re.compile(rf"(?:{_RETURNS.pattern})(?!\s+`*(?:none|nothing)\b)", re.IGNORECASE)
_A_THING = re.compile(r"\W*(?:the|an?|whether|true|false)\b", re.IGNORECASE)
_NOTHING = re.compile(r"\W*(?:none|nothing)\b", re.IGNORECASE)
_EXCEPTION = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Warning|Interrupt|Exit)\b")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")
_BUILTINS = frozenset(dir(builtins))


@rule(DOCSTRING_RULES)
def docstring_style(
    *,
    style: Annotated[
        Literal["any", "google", "numpy", "rest"], "the style that its sections must have"
    ] = "any",
    sections: Annotated[Literal["allowed", "needed", "none"], "whether there may be any"] = "allowed",
) -> Check:
    """The share of section headings and fields that are of one style, times that of described entries.

    A docstring of sentences alone is of every style, and gets 1. Half of it where nothing stands before the
    first section; 0 with triple quotes within, as they would end it. The first 400 lines are read.
    """

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        found = read_docstring(completion)
        if '"""' in found.text:
            return 0.0, "triple quotes would end the docstring"
        if not re.search(r"\w", found.text):
            return 0.0, "no words"
        told = found.style if style == "any" else style
        total = sum(found.marks.values())
        if found.style is None or told is None:
            return (0.0, "no sections") if sections == "needed" else (1.0, "sentences alone")
        if sections == "none":
            return 0.0, f"sections in {found.style} style"
        share = found.marks[told] / total * (found.described if told == found.style else 0.0)
        value = share if found.summary else share / 2
        start = "" if found.summary else ", no summary before them"
        return (
            value,
            f"{found.marks[told]} of {total} headings {told}, {found.described:.0%} described{start}",
        )

    return check


@rule(DOCSTRING_RULES)
def docstring_parameters(*, code: Code = "code") -> Check:
    """n / (p + k): n of the function's p parameters are named, and k names are invented; 1 without any.

    A parameter is named by an entry of a section, or as a word of the text (one that is also a common English
    word, such as `a`, in backticks or an entry); `file_name` also as "file name". Invented is an entry, or a
    name in backticks, that the code does not have. self, *args, **kwargs and private ones need not be named.
    """

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        function, found = _function(prompt, code), read_docstring(completion)
        entries, ticked = set(found.parameters), set(_BACKTICKS.findall(found.text))
        text, spelled = set(re.findall(r"\w+", found.text)), f" {' '.join(_parts(found.text))} "
        there = [
            name
            for name in function.parameters
            if name in entries | ticked
            or (name not in STOP_WORDS and name in text)
            or ("_" in name.strip("_") and f" {' '.join(_parts(name))} " in spelled)
        ]
        invented = {n for n in entries if n not in function.known}
        invented |= {n for n in ticked if n not in function.words and n not in _BUILTINS}
        return _share(function.parameters, there, invented, "parameters named")

    return check


@rule(DOCSTRING_RULES)
def docstring_returns(*, code: Code = "code") -> Check:
    """1 when the docstring says that something is returned where something is, and only then, else 0.

    It says so by a section, by a form of "return" or "yield" (not "returns None"), by "->", or where the
    summary names a thing: "The ...", "Whether ...". Of stubs, properties, context managers and classes
    nothing is asked.
    """

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        function, found = _function(prompt, code), read_docstring(completion)
        if function.returns == "unknown":
            return 1.0, "nothing is asked"
        if function.returns == "yes":
            words = _RETURNS.search(found.summary) or _A_THING.match(found.summary)
            said = bool(words) or found.returns is not None
            return (1.0, "says what is returned") if said else (0.0, "says nothing of what is returned")
        section = found.returns is not None and not _NOTHING.match(found.returns)
        said = section or bool(_RETURNS_SOMETHING.search(found.summary))
        return (0.0, "says that something is returned, and nothing is") if said else (1.0, "returns nothing")

    return check


@rule(DOCSTRING_RULES)
def docstring_raises(*, code: Code = "code") -> Check:
    """n / (p + k): n of the p exceptions that the function's own body raises are named, and k others; 1
    without any.

    Others are those that occur nowhere in the code. NotImplementedError and StopIteration need not be named.
    """

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        function, found = _function(prompt, code), read_docstring(completion)
        said = {*found.raises, *_EXCEPTION.findall(found.text)}
        said |= function.raises.intersection(re.findall(r"\w+", found.text))
        return _share(
            sorted(function.raises), function.raises & said, said - function.words, "exceptions named"
        )

    return check


@rule(DOCSTRING_RULES)
def docstring_no_code(
    *,
    code: Code = "code",
    n: Annotated[int, "length of the runs of words and marks that are compared"] = 5,
    allowed: Annotated[float, "share of copied words and marks that costs nothing"] = 0.1,
) -> Check:
    """1 - (c - allowed) / (1 - allowed), at most 1, where c is the share of words and marks that are copied.

    Copied are runs of n that occur in the code, and whole lines of three or more that do.
    """
    if n < 1 or not 0 <= allowed < 1:
        raise SettingsError("`n` must be at least 1, and `allowed` at least 0 and under 1")

    @_of_function(code)
    def check(function: Function, completion: str) -> tuple[float, str]:
        known = set(ngrams(function.tokens, n))
        mine: list[str] = []
        taken: list[bool] = []
        for line in split_lines(bare(completion)):
            tokens = tokens_of(line)
            mine += tokens
            taken += [len(tokens) >= 3 and line in function.lines] * len(tokens)
        for start, gram in enumerate(ngrams(mine, n)):
            if gram in known:
                taken[start : start + n] = [True] * n
        share = sum(taken) / len(taken) if taken else 0.0
        return min(1.0, (1 - share) / (1 - allowed)), f"{share:.0%} is copied from the code"

    return check


@rule(DOCSTRING_RULES)
def docstring_no_echo(
    *,
    code: Code = "code",
    enough: Annotated[int, "different content words beyond the name's that give 1"] = 3,
) -> Check:
    """min(1, w / enough), where w counts the different content words that are not in the function's name.

    English stop words and forms of "return" are left out; plural, tense and -ing do not matter.
    """
    if enough < 1:
        raise SettingsError("`enough` must be at least 1")

    @_of_function(code)
    def check(function: Function, completion: str) -> tuple[float, str]:
        name = content_stems(_CAMEL.sub(" ", f"{function.name} return function method"))
        words = [s for s in content_stems(_CAMEL.sub(" ", bare(completion))) if s not in name]
        return min(1.0, len(words) / enough), f"{len(words)} content words beyond `{function.name}`"

    return check


def _of_function(code: str) -> Callable[[Callable[[Function, str], tuple[float, str]]], Check]:
    def made(check: Callable[[Function, str], tuple[float, str]]) -> Check:
        return lambda prompt, completion: check(_function(prompt, code), completion)

    return made


def _function(prompt: Prompt, key: str) -> Function:
    """The function in the prompt's data. Raises UserError that names the prompt where there is none."""
    source = text_of(prompt, key)
    try:
        return read_function(source)
    except ValueError as error:
        raise UserError(
            f"data `{key}` of {named(prompt)} {error}: {one_line(source, 60)!r}. It must be the source of a "
            "Python function: correct it, or take the row out"
        ) from None


def _parts(text: str) -> list[str]:
    """Words in lower case, names taken apart: readFile and read_file are "read", "file"."""
    return [part.lower() for word in re.findall(r"\w+", text) for part in _CAMEL.split(word) if part]


def _share(wanted: Iterable[str], there: Iterable[str], invented: set[str], what: str) -> tuple[float, str]:
    wanted, there = list(wanted), list(there)
    total = len(wanted) + len(invented)
    made_up = f", invented: {one_line(', '.join(sorted(invented)), 80)}" if invented else ""
    return (len(there) / total if total else 1.0), f"{len(there)} of {len(wanted)} {what}{made_up}"
