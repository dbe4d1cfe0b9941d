"""Rules about the form of a completion: its length, its pattern, its syntax, its sound."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from refine_rl.errors import SettingsError
from refine_rl.rewards.base import Check, RuleFactory, rule
from refine_rl.rewards.rules.json_schemas import bounded, check_patterns
from refine_rl.rewards.text.english import count_syllables
from refine_rl.rewards.text.patterns import Pattern
from refine_rl.rewards.text.words import repeated_share, split_lines, split_sentences, split_words
from refine_rl.types import Prompt, one_line

FORM_RULES: dict[str, RuleFactory] = {}

Min = Annotated[int | None, "fewest allowed"]
Max = Annotated[int | None, "most allowed"]
Strict = Annotated[bool, "0 at once outside the window"]

_FENCE = re.compile(r"\A```[\w-]*[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_FLESCH_MARGIN = 30.0
_HAIKU = [5, 7, 5]


@rule(FORM_RULES)
def words(*, min_: Min = None, max_: Max = None, strict: Strict = False) -> Check:
    """1 with `min` to `max` words; linearly down to 0 at half of `min` and at twice `max`."""
    return _window("word", lambda text: len(split_words(text)), min_, max_, strict)


@rule(FORM_RULES)
def chars(*, min_: Min = None, max_: Max = None, strict: Strict = False) -> Check:
    """The same window on characters, without the white space around the completion."""
    return _window("character", lambda text: len(text.strip()), min_, max_, strict)


@rule(FORM_RULES)
def sentences(*, min_: Min = None, max_: Max = None, strict: Strict = False) -> Check:
    """The same window on sentences (ended by . ! ? … or a blank line)."""
    return _window("sentence", lambda text: len(split_sentences(text)), min_, max_, strict)


@rule(FORM_RULES)
def lines(*, min_: Min = None, max_: Max = None, strict: Strict = False) -> Check:
    """The same window on lines that are not blank."""
    return _window("line", lambda text: len(split_lines(text)), min_, max_, strict)


@rule(FORM_RULES)
def length(
    *,
    min_: Annotated[int, "fewest that give 1"] = 50,
    max_: Annotated[int, "most that give 1"] = 500,
    floor: Annotated[float, "what is left, however long"] = 0.3,
    unit: Annotated[Literal["chars", "words"], "what is counted, without the white space around"] = "chars",
) -> Check:
    """n / min under `min`; 1 from `min` to `max`; above, max(1 - (n - max) / max, floor).

    Softer than `chars` and `words`: also far outside of the window a step towards it pays, up to `floor`.
    """
    wanted = _wanted(min_, max_)
    if min_ < 1:
        raise SettingsError("`min` must be at least 1")
    if not 0 <= floor <= 1:
        raise SettingsError("`floor` must be between 0 and 1")

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        n = len(completion.strip()) if unit == "chars" else len(split_words(completion))
        value = min(n / min_, 1.0) if n <= max_ else max(1 - (n - max_) / max_, floor)
        return value, f"{n} {'characters' if unit == 'chars' else 'words'}, wanted {wanted}"

    return check


def window_value(n: float, low: float | None, high: float | None, *, strict: bool) -> float:
    """1 inside [low, high]; below, 2 n / low - 1; above, 2 - n / high; never under 0. Strict: 0 outside."""
    if low is not None and n < low:
        return 0.0 if strict else max(0.0, 2 * n / low - 1)
    if high is not None and n > high:
        return 0.0 if strict else max(0.0, 2 - n / high)
    return 1.0


def _window(unit: str, count: Callable[[str], int], low: int | None, high: int | None, strict: bool) -> Check:
    wanted = _wanted(low, high)
    if min(n for n in (low, high) if n is not None) < 1:
        raise SettingsError("`min` and `max` must be at least 1; leave out the one that is not needed")

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        n = count(completion)
        value = window_value(n, low, high, strict=strict)
        return value, f"{n} {unit}{'' if n == 1 else 's'}, wanted {wanted}"

    return check


def _wanted(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        if low > high:
            raise SettingsError(f"`min` ({low}) is larger than `max` ({high})")
        return f"{low:g} to {high:g}" if low != high else f"{low:g}"
    if low is not None:
        return f"at least {low:g}"
    if high is not None:
        return f"at most {high:g}"
    raise SettingsError("give `min`, `max` or both")


@rule(FORM_RULES)
def regex(
    *,
    pattern: Annotated[str, "a Python regular expression; `(?i)` at its start ignores case"],
    full: Annotated[bool, "the whole completion must match, without the white space around it"] = False,
) -> Check:
    """1 when the pattern occurs in the completion, else 0; missing where the search takes over a second."""
    try:
        compiled = Pattern(pattern)
    except re.error as error:
        raise SettingsError(f"`pattern` is not a regular expression: {error}") from None

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        found = compiled.fullmatch(completion.strip()) if full else compiled.search(completion)
        return (1.0, "the pattern matches") if found else (0.0, "the pattern does not match")

    return check


Fenced = Annotated[bool, "allow a Markdown code fence around it"]


@rule(FORM_RULES)
def valid_json(*, fenced: Fenced = False) -> Check:
    """1 when the completion is JSON and nothing else, else 0."""

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        try:
            _parse_json(completion, fenced)
        except ValueError as error:
            return 0.0, f"not JSON: {error}"
        return 1.0, "valid JSON"

    return check


@rule(FORM_RULES)
def json_schema(
    *,
    schema: Annotated[dict[str, Any], "a JSON schema (draft 2020-12 unless it names another)"],
    fenced: Fenced = False,
) -> Check:
    """1 when the completion is JSON that the schema accepts, 0.5 for other JSON, else 0.

    Needs the extra `schema`: pip install "refine-rl[schema]".
    """
    try:
        import jsonschema
        import referencing
    except ModuleNotFoundError:
        raise SettingsError('the package jsonschema is missing: pip install "refine-rl[schema]"') from None
    dialect = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        dialect.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SettingsError(f"`schema` is not a JSON schema: {error.message}") from None
    check_patterns(schema)
    # An empty registry: a reference to an address must never be fetched.
    validator = bounded(dialect)(schema, registry=referencing.Registry())

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        try:
            instance = _parse_json(completion, fenced)
            problem = jsonschema.exceptions.best_match(validator.iter_errors(instance))
        except ValueError as error:
            return 0.0, f"not JSON: {error}"
        if problem is None:
            return 1.0, "the schema accepts it"
        return 0.5, f"JSON, but {problem.json_path}: {one_line(problem.message, 100)}"

    return check


def _parse_json(text: str, fenced: bool) -> Any:
    """The value of strict JSON (no NaN, no Infinity); raises ValueError, also where it is nested too deep."""
    text = text.strip()
    if fenced and (match := _FENCE.match(text)):
        text = match[1]
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


@rule(FORM_RULES)
def syllables(
    *,
    pattern: Annotated[list[int], "syllables of each line"] = _HAIKU,
    tolerance: Annotated[int, "syllables that a line may be off, as the counter works by spelling"] = 0,
) -> Check:
    """The mean over lines of max(0, 1 - |counted - wanted| / wanted); a line too many or too few gives 0.

    Lines end at a line break or at " / ".
    """
    if not pattern or min(pattern) < 1:
        raise SettingsError("`pattern` must be a list of whole numbers of at least 1, such as [5, 7, 5]")
    if tolerance < 0:
        raise SettingsError("`tolerance` must be at least 0")
    wanted = "-".join(map(str, pattern))

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        found = [line for part in split_lines(completion) for line in part.split(" / ") if split_words(line)]
        counts = [sum(map(count_syllables, split_words(line))) for line in found]
        marks = [
            1.0 if abs(n - p) <= tolerance else max(0.0, 1 - abs(n - p) / p)
            for n, p in zip(counts, pattern, strict=False)
        ]
        value = sum(marks) / max(len(counts), len(pattern))
        return value, f"{'-'.join(map(str, counts)) or 'none'}, wanted {wanted}"

    return check


@rule(FORM_RULES)
def no_repetition(
    *,
    n: Annotated[int, "length of the runs that are compared, in words and marks"] = 3,
    allowed: Annotated[float, "share of repeated runs that costs nothing"] = 0.1,
) -> Check:
    """1 - (r - allowed) / (1 - allowed), at most 1, where r is the share of n-grams that occurred before.

    "Yo ho ho" has a single 3-gram and repeats nothing.
    """
    return ngram_share("repeats", lambda prompt, completion: repeated_share(completion, n), n, allowed)


def ngram_share(what: str, share_of: Callable[[Prompt, str], float], n: int, allowed: float) -> Check:
    """1 up to an `allowed` share of n-grams that are `what`, then falling linearly to 0 at a share of 1."""
    if n < 1 or not 0 <= allowed < 1:
        raise SettingsError("`n` must be at least 1, and `allowed` at least 0 and under 1")

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        share = share_of(prompt, completion)
        return min(1.0, (1 - share) / (1 - allowed)), f"{share:.0%} of the {n}-grams are {what}"

    return check


@rule(FORM_RULES)
def readability(
    *,
    min_: Annotated[float | None, "lowest allowed ease"] = None,
    max_: Annotated[float | None, "highest allowed ease"] = None,
) -> Check:
    """1 with a Flesch reading ease in the window, falling linearly to 0 at 30 points outside it.

    Ease = 206.835 - 1.015 words/sentences - 84.6 syllables/words (R. Flesch, A new readability
    yardstick, Journal of Applied Psychology 32, 1948); 60 to 70 is plain English, under 30 very hard.
    """
    wanted = _wanted(min_, max_)

    def check(prompt: Prompt, completion: str) -> tuple[float, str]:
        found = split_words(completion)
        if not found:
            return 0.0, "no words"
        per_sentence = len(found) / len(split_sentences(completion))
        ease = 206.835 - 1.015 * per_sentence - 84.6 * sum(map(count_syllables, found)) / len(found)
        below = min_ - ease if min_ is not None else 0.0
        above = ease - max_ if max_ is not None else 0.0
        value = max(0.0, 1 - max(0.0, below, above) / _FLESCH_MARGIN)
        return value, f"reading ease {ease:.0f}, wanted {wanted}"

    return check
