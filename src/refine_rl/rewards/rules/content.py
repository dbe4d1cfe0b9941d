"""Rules that compare a completion with something: given texts, the prompt, or the prompt's data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from difflib import get_close_matches
from fractions import Fraction
from typing import Annotated, Any, Literal

from refine_rl.errors import SettingsError, UserError
from refine_rl.rewards.base import Check, RuleFactory, rule
from refine_rl.rewards.rules.form import ngram_share
from refine_rl.rewards.text.english import content_stems
from refine_rl.rewards.text.words import find_numbers, fold, ngrams, normalise, split_words, wanted_number
from refine_rl.settings.toml_write import toml_key, toml_string
from refine_rl.types import Prompt, one_line

CONTENT_RULES: dict[str, RuleFactory] = {}

Texts = Annotated[str | list[str] | None, "a text or a list of texts"]
DataKey = Annotated[str | None, "key of the prompt's data that holds it; instead of the fixed one"]
Case = Annotated[bool, "upper and lower case matter"]
Whole = Annotated[bool, "count whole words only"]
Ignore = Annotated[list[Literal["case", "punctuation", "articles"]], "differences that do not count"]
# What the right answer is called in people's files.
_ANSWERS = ("answer", "label", "target", "reference", "solution", "output", "response", "completion", "gold")
_IGNORE: list[Literal["case", "punctuation", "articles"]] = ["case", "punctuation"]


@rule(CONTENT_RULES)
def contains(
    *,
    text: Texts = None,
    data: DataKey = None,
    need: Annotated[Literal["all", "any"], "how many of a list are wanted"] = "all",
    case: Case = False,
    whole: Whole = False,
) -> Check:
    """The share of the texts that occur in the completion.

    With `need = "any"`: 1 when one of them occurs, else 0.
    """
    wanted = _texts(text, data, may_be_empty=True)

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        texts = wanted(prompt)
        absent = [t for t in texts if not _occurs(t, completion, case, whole)]
        if not absent:
            return 1.0, "all there"
        if need == "any":
            return (0.0, f"none of {_quote(absent)}") if len(absent) == len(texts) else (1.0, "there")
        return 1 - len(absent) / len(texts), f"lacks {_quote(absent)}"

    return check


@rule(CONTENT_RULES)
def excludes(*, text: Texts = None, data: DataKey = None, case: Case = False, whole: Whole = False) -> Check:
    """1 when none of the texts occurs in the completion, else 0."""
    banned = _texts(text, data, may_be_empty=True)

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        found = [t for t in banned(prompt) if _occurs(t, completion, case, whole)]
        return (0.0, f"has {_quote(found)}") if found else (1.0, "has none of it")

    return check


@rule(CONTENT_RULES)
def starts_with(*, text: Texts = None, data: DataKey = None, case: Case = False) -> Check:
    """1 when the completion starts with the text (one of the texts), white space apart, else 0."""
    return _at_one_end("start", str.startswith, _texts(text, data), case)


@rule(CONTENT_RULES)
def ends_with(*, text: Texts = None, data: DataKey = None, case: Case = False) -> Check:
    """1 when the completion ends with the text (one of the texts), white space apart, else 0."""
    return _at_one_end("end", str.endswith, _texts(text, data), case)


def _at_one_end(
    end: str, stands: Callable[[str, str], bool], wanted: Callable[[Prompt], list[str]], case: bool
) -> Check:
    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        texts, folded = wanted(prompt), fold(completion.strip(), case=case)
        found = any(stands(folded, fold(t.strip(), case=case)) for t in texts)
        return (1.0, "it does") if found else (0.0, f"does not {end} with {_quote(texts)}")

    return check


@rule(CONTENT_RULES)
def keeps(
    *,
    of: Annotated[
        str | None, "key of the prompt's data that holds the input; the last user message without it"
    ] = None,
    enough: Annotated[float, "share of the words that gives 1"] = 1.0,
) -> Check:
    """min(1, s / enough), where s is the share of the input's different content words that survive.

    English stop words are left out; plural, tense and -ing do not matter. An input without content
    words gives 1.
    """
    if not 0 < enough <= 1:
        raise SettingsError("`enough` must be above 0 and at most 1")

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        wanted = content_stems(text_of(prompt, of) if of is not None else prompt.text)
        kept = set(content_stems(completion)).intersection(wanted)
        share = len(kept) / len(wanted) if wanted else 1.0
        return min(1.0, share / enough), f"{len(kept)} of {len(wanted)} content words kept"

    return check


@rule(CONTENT_RULES)
def not_copy(
    *,
    of: Annotated[
        str | None,
        "key of the prompt's data that must not be copied; without it, the system and user messages",
    ] = None,
    n: Annotated[int, "length of the runs of words that are compared"] = 4,
    allowed: Annotated[float, "share of copied runs that costs nothing"] = 0.0,
) -> Check:
    """1 - (c - allowed) / (1 - allowed), at most 1, where c is the share of copied n-grams.

    An n-gram of the completion is copied when it occurs in the source. A completion shorter than n
    words is a copy only when it is the whole source.
    """

    def copied(prompt: Prompt, completion: str) -> float:
        if of is not None:
            sources = [text_of(prompt, of)]
        else:
            sources = [m["content"] for m in prompt.messages if m["role"] != "assistant"]
        originals = [split_words(fold(source)) for source in sources]
        mine = split_words(fold(completion))
        if len(mine) < n:
            return float(bool(mine) and mine in originals)
        known = {gram for original in originals for gram in ngrams(original, n)}
        found = ngrams(mine, n)
        return sum(gram in known for gram in found) / len(found)

    return ngram_share("copied", copied, n, allowed)


@rule(CONTENT_RULES)
def one_of(
    *,
    options: Annotated[list[str] | None, "the allowed answers"] = None,
    data: DataKey = None,
    ignore: Ignore = _IGNORE,
) -> Check:
    """1 when the whole completion is one of the options, after normalisation, else 0."""
    return _is_any_of(_texts(options, data, name="options"), ignore)


@rule(CONTENT_RULES)
def equals(*, text: Texts = None, data: DataKey = None, ignore: Ignore = _IGNORE) -> Check:
    """1 when the completion equals the text (one of the texts) after normalisation, else 0.

    White space never counts. Marks inside numbers and the signs - + % $ / always do.
    """
    return _is_any_of(_texts(text, data), ignore)


def _is_any_of(wanted: Callable[[Prompt], list[str]], ignore: list[Any]) -> Check:
    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        texts, answer = wanted(prompt), normalise(completion, ignore)
        if any(normalise(t, ignore) == answer for t in texts):
            return 1.0, "equal"
        return 0.0, f"wanted {_quote(texts)}, got {_quote([completion])}"

    return check


@rule(CONTENT_RULES)
def number_equals(
    *,
    value: Annotated[float | None, "the number wanted"] = None,
    data: DataKey = None,
    tolerance: Annotated[float, "largest difference allowed"] = 0.0,
    which: Annotated[
        Literal["last", "only"], '"last": the last number counts; "only": there may be no other'
    ] = "last",
) -> Check:
    """1 when the number in the completion is the number wanted, else 0.

    Read are -1,234.5, 1e-3, 1/2, 1 1/2 and LaTeX fractions. From a text in the data, the last number
    is wanted; a text of which it cannot be told for sure (10^6, 1 000 000, 1,5, sqrt(2)) is refused.
    """
    _exactly_one("value", value, data)
    if tolerance < 0:
        raise SettingsError("`tolerance` must be at least 0")
    slack = Fraction(str(tolerance))

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        wanted = Fraction(str(value)) if data is None else _number_of(prompt, data)
        found = find_numbers(completion)
        if not found:
            return 0.0, "no number"
        if which == "only" and len(found) > 1:
            return 0.0, f"{len(found)} numbers, wanted one"
        right = abs(found[-1] - wanted) <= slack
        return float(right), f"{_show(found[-1])}, wanted {_show(wanted)}"

    return check


def _exactly_one(name: str, fixed: object, data: str | None) -> None:
    if (fixed is None) == (data is None):
        raise SettingsError(f"give either `{name}` or `data` (a key of the prompt's data), and not both")


def _texts(
    fixed: str | list[str] | None, data: str | None, *, name: str = "text", may_be_empty: bool = False
) -> Callable[[Prompt], list[str]]:
    """Where a rule's texts come from: fixed ones, or the prompt's data."""
    _exactly_one(name, fixed, data)
    if data is not None:
        return lambda prompt: texts_of(prompt, data, may_be_empty)
    texts = [fixed] if isinstance(fixed, str) else list(fixed or [])
    if not texts or not all(t.strip() for t in texts):
        raise SettingsError(f"`{name}` is empty")
    return lambda prompt: texts


def data_value(prompt: Prompt, key: str) -> Any:
    """`prompt.data[key]`; a UserError that names the prompt and the keys it has, where there is none."""
    if key not in prompt.data:
        has = ", ".join(f"`{k}`" for k in prompt.data) or "no data at all"
        way_out = _other_name(prompt, key) if prompt.origin.startswith("file:") else ""
        raise UserError(f"{named(prompt)} has no data `{key}`; it has {has}{way_out}. Every prompt needs it.")
    return prompt.data[key]


def _other_name(prompt: Prompt, key: str) -> str:
    """How the column that is probably meant becomes data `key`."""
    there = {name.lower(): name for name in prompt.data}
    close = get_close_matches(key.lower(), there, n=1, cutoff=0.75)
    if not close and key.lower() in _ANSWERS:
        close = [word for word in _ANSWERS if word in there]
    if not close:
        return ""
    near = there[close[0]]
    return f"; `data = {{{toml_key(key)} = {toml_string(near)}}}` in [prompts] takes `{near}` for it"


def named(prompt: Prompt) -> str:
    """A prompt as an error names it, with its line."""
    return f"prompt {prompt.id} ({prompt.origin})" if prompt.origin else f"prompt {prompt.id}"


def texts_of(prompt: Prompt, key: str, may_be_empty: bool = False) -> list[str]:
    """The texts that the prompt's data holds there; a UserError where it holds something else."""
    value = data_value(prompt, key)
    texts = value if isinstance(value, list | tuple) else [value]
    _refuse_blank(prompt, key, value)
    if not all(isinstance(t, str | int | float) and str(t).strip() for t in texts):
        raise UserError(
            f"data `{key}` of {named(prompt)} must be a text or a list of texts, not {_quote([value])}"
        )
    if not texts and not may_be_empty:
        raise UserError(f"data `{key}` of {named(prompt)} is an empty list")
    return [str(t) for t in texts]


def _refuse_blank(prompt: Prompt, key: str, value: Any) -> None:
    """Nothing can be compared with a cell that was left empty: it would be right, or wrong, for everybody."""
    if isinstance(value, str) and not value.strip():
        raise UserError(f"data `{key}` of {named(prompt)} is blank: fill it in, or take the row out")


def text_of(prompt: Prompt, key: str) -> str:
    """The one text that the prompt's data holds there; a UserError where it holds something else."""
    value = data_value(prompt, key)
    if not isinstance(value, str):
        raise UserError(f"data `{key}` of {named(prompt)} must be a text, not {_quote([value])}")
    _refuse_blank(prompt, key, value)
    return value


def _number_of(prompt: Prompt, key: str) -> Fraction:
    value = data_value(prompt, key)
    _refuse_blank(prompt, key, value)
    why = "holds no number"
    if isinstance(value, str):
        try:
            return wanted_number(value)
        except ValueError as error:
            why = str(error)
    elif isinstance(value, int) and not isinstance(value, bool):
        return Fraction(value)
    elif isinstance(value, float) and math.isfinite(value):
        return Fraction(str(value))
    way_out = "" if why == "holds no number" else ". Write the number alone, in digits, as in 1000000 or 1.5"
    raise UserError(f"data `{key}` of {named(prompt)} {why}: {_quote([value])}{way_out}")


def _occurs(text: str, completion: str, case: bool, whole: bool) -> bool:
    text, completion = fold(text, case=case), fold(completion, case=case)
    if not whole:
        return text in completion
    return re.search(rf"(?<!\w){re.escape(text.strip())}(?!\w)", completion) is not None


def _quote(values: list[Any]) -> str:
    return one_line(", ".join(map(repr, values)), 100)


def _show(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else f"{float(number):g}"
