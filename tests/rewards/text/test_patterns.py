"""Patterns mean what they mean for Python's `re`, and come to an end."""

from __future__ import annotations

import re
import warnings

import pytest

from refine_rl.rewards.steps.steps import steps_of
from refine_rl.rewards.text import patterns
from refine_rl.rewards.text.patterns import Pattern, TooSlow, written_for_regex

PATTERNS = r"""
boxed{e}
\boxed\{d\}
x{i<=2}
a{2,3}
a{,2}b
a{2}{e}
a{1
{
[[:alpha:]]+
[]a]+
[^]a]+
[a[b]c]
[{e}]
(?x) a # [ {e}
(?#[)x{e}
\N{EM DASH}
(?i)straße
^\s*$
(a)|b
(?<=a)b
(?P<n>a+)b(?P=n)
(?m)^x$
(?s)a.b
[a-z&&[aeiou]]
\d+
a|b|
(?:a|ab)(?:c|bcd)
x*
(?a)\w+
(a*)*b
(a|b)*?c
(?>a+)b
a++b
\bcat\b
"""
TEXTS = [
    *(
        "boxed{e}",
        "boxe",
        "\\boxed{d}",
        "aa",
        "aaab",
        "xi",
        "x{i<=2}",
        "alpha",
        "[:alpha:]]",
        "]a",
        "[a",
        "a{1",
    ),
    *("STRASSE strasse straße", "", " ", "ab", "aba aabaa", "x\nx", "a\nb", "{", "é１２", "abcd", "a]c]"),
    *("aa{e}", "—", "b", "x{e}", "ab{e}", "the cat, a concatenation"),
]


@pytest.mark.parametrize("text", PATTERNS.strip().splitlines())
def test_a_pattern_means_what_it_means_for_re(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        plain = re.compile(text)
    ours = Pattern(text)
    for line in TEXTS:
        assert ours.search(line) == bool(plain.search(line)), line
        assert ours.fullmatch(line) == bool(plain.fullmatch(line)), line
        assert ours.split(line) == plain.split(line)[:: plain.groups + 1], line


@pytest.mark.parametrize("text", ["(", r"(?V1)a", r"\p{L}", r"\Xa", "(?:a", "a**", r"(?|a|b)", "[z-a]"])
def test_what_re_refuses_is_refused(text: str) -> None:
    with pytest.raises(re.error):
        Pattern(text)


def test_what_is_written_otherwise() -> None:
    assert written_for_regex(r"\\{e}") == r"\\\{e}"
    assert written_for_regex(r"\{e}[\]{[]{1,}") == r"\{e}[\]{\[]{1,}"


def test_a_search_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "LIMIT", 0.05)
    for text in (r"(.|..)+#$", r"(a|aa)+!$", r"^(\w|\w#?)*$"):
        with pytest.raises(
            TooSlow, match=r"did not come to an end within 0.05 s on a text of \d+ characters"
        ):
            Pattern(text).search(("a" * 30 + "#") * 40 + "!")
    with pytest.raises(TooSlow):
        steps_of("a" * 5000, r"(a|aa)+b")
