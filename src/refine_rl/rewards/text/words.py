"""Text taken apart for rules: words, sentences, lines, n-grams, numbers. Plain functions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_](?:[^\W_]|['’\-](?=[^\W_]))*|[^\W_]+")
_SENTENCE_END = re.compile(r"""(?<![.!?…])[.!?…]++["'”’)\]*_]*+(?=\s|$)|[。！？]+|\n\s*\n""")
_ABBREVIATION = re.compile(
    r"(?:^|\W)(?:mr|mrs|ms|dr|prof|st|vs|no|approx|e\.g|i\.e|cf|[a-z])\.$", re.IGNORECASE
)
_PUNCTUATION = re.compile(r"""[;!?"'`()\[\]*_…¿¡]|[.,:](?![0-9])|(?<![0-9])[,:]""")
_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "−": "-"})
_ARTICLE = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)

_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{(-?[0-9]+)\}\s*\{([0-9]+)\}")
_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w)\]}])[-+])?
    (?:
        (?<![\w/.,]) (?:(?P<whole>[0-9]+)[ ])? (?P<over>[0-9]+)\s?/\s?(?P<under>[0-9]+) (?![0-9/]|[.,][0-9])
      | (?<!\w)(?<![0-9][.])
        (?P<decimal> (?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]) | [0-9]+) (?:\.[0-9]+)? | (?<!\.)\.[0-9]+ )
        (?P<exponent> [eE][-+]?[0-9]{1,3}(?!\w) )?
    )
    """,
    re.VERBOSE,
)
# What is wanted must be plain; these say that the last number of a text is part of another one.
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+\Z")  # 1 000 000
_EMPHASIS = re.compile(r"(?<![\w)*])(\*{1,2})(?=[^\s*])([^*\n]+)(?<=\S)\1(?![\w(*])")
_LEADS_ON = re.compile(
    r"""(?:
        [0-9]['’,._:]                             # 1'000, 1,5, 1.000.000, 12:30
      | [\w)\]}%]\s*(?:\*\*|[*×·÷^±])\s*[({]?       # 2*3, 10^6, 10^{6}, x ** 2, 5±1
      | [0-9)\]}]\s*[-+/–—]\s*                    # 3-5, 2 + 3
      | [A-Za-z][+/]                              # x+1
      | [A-Za-z]_\{?                              # x_2
      | (?<!\\boxed)(?<!\\text)(?<!\\mathrm)(?<!\\mathbf)(?<=[A-Za-z])[({]  # sqrt(2), \sqrt{2}, f(2)
      | \}\{                                      # \frac{\pi}{2}
      | \][({]                                    # \sqrt[3]{2}
      | √\s*
      | \\(?:times|cdot|div|pm)\s*
    )[-+]?\Z""",
    re.VERBOSE,
)
_GOES_ON = re.compile(
    r"""(?:
        ['’_:.,]\d                                # 1_000, 1.000.000
      | \s*(?:\*\*|[*×·÷^±])\s*[\w({\\√]           # 10^n, 2 * x
      | \s*[-+/]\s*[A-Za-z(\\√]?\(                # 2 + (...)
      | \s*\\(?:times|cdot|sqrt|pi|div|pm)\b
      | \s*(?:hundred|thousand|million|billion|trillion|dozen)s?\b
      | [²³¹⁰⁴-⁹π√½⅓¼¾]
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_LONGEST_NUMBER = 300
# Thai, Lao, Burmese, Khmer; kana; Han
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_LONGEST_WORD = 20


def split_words(text: str) -> list[str]:
    """Words in order: letters with inner apostrophes and hyphens, or numbers with inner points and commas.

    A script without spaces gives one word for each unbroken run.

    >>> split_words("Well-made, isn't it? 3.5 of 1,000 - yes.")
    ['Well-made', "isn't", 'it', '3.5', 'of', '1,000', 'yes']
    """
    return _WORD.findall(text)


def units(text: str) -> list[str]:
    """What two texts are compared by, in one case: words; of scripts without spaces (and of runs of more than
    20 characters) the characters; of a text without any word, its signs.

    >>> units("Return the_sum, 3.5!"), units("猫は寝る"), units("?!")
    (['return', 'the', 'sum', '3.5'], ['猫', 'は', '寝', 'る'], ['?', '!'])
    """
    found: list[str] = []
    for word in split_words(fold(text)):
        whole = len(word) <= _LONGEST_WORD and not _UNSPACED.search(word)
        found.extend((word,) if whole else word)
    return found or [sign for sign in text if not sign.isspace()]


def split_sentences(text: str) -> list[str]:
    """Sentences in order: ended by . ! ? … (not after an abbreviation or an initial) or a blank line.

    A piece without a word in it is no sentence.

    >>> split_sentences("Dr. No left. Why? He paid $3.50")
    ['Dr. No left.', 'Why?', 'He paid $3.50']
    """
    pieces: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if match.group() == "." and _ABBREVIATION.search(text, max(start, match.end() - 8), match.end()):
            continue
        pieces.append(text[start : match.end()])
        start = match.end()
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces if _WORD.search(piece)]


def split_lines(text: str) -> list[str]:
    """The lines that are not blank, without the space around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def fold(text: str, *, case: bool = False) -> str:
    """Text made comparable: composed characters, straight quotes, and one case unless `case` matters.

    >>> fold("Don’t STOP")
    "don't stop"
    """
    text = unicodedata.normalize("NFC", text).translate(_QUOTES)
    return text if case else unicodedata.normalize("NFC", text.casefold())


def normalise(text: str, ignore: Sequence[str]) -> str:
    """`text` without the differences named in `ignore`: "case", "punctuation", "articles".

    White space always counts as one blank. Punctuation is sentence marks, quotes, brackets and
    asterisks; marks inside a number and signs (- + % $ /) stay, so that -5 is not 5.

    >>> normalise(' "The  Answer" is -3.50. ', ["case", "punctuation", "articles"])
    'answer is -3.50'
    """
    text = fold(text, case="case" not in ignore)
    if "punctuation" in ignore:
        without = _PUNCTUATION.sub("", text)
        text = without if without.strip() else text
    if "articles" in ignore:
        without = _ARTICLE.sub("", text)
        text = without if without.strip() else text
    return " ".join(text.split())


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` neighbours.

    >>> ngrams(["a", "b", "c"], 2)
    [('a', 'b'), ('b', 'c')]
    """
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def repeated_share(text: str, n: int) -> float:
    """The share of n-grams that already occurred earlier in the text: 1 - distinct / all; 0 without any.

    The units are words and single marks, in one case. A word of more than 20 characters counts as
    its characters, so that unbroken loops ("lolololo...") and scripts without spaces are seen.

    >>> repeated_share("yo ho ho yo ho ho", 3)
    0.25
    """
    units: list[str] = []
    for word in re.findall(r"\w+|[^\w\s]", text.casefold()):
        units.extend(word if len(word) > _LONGEST_WORD else (word,))
    found = ngrams(units, n)
    return 1.0 - len(set(found)) / len(found) if found else 0.0


def find_numbers(text: str) -> list[Fraction]:
    r"""The numbers in the text, in order and exact.

    Read are signs, decimals, thousands separators (1,234), powers (1e-3), fractions (1/2, 1 1/2,
    \frac{1}{2}). A hyphen between two numbers is no sign; a date's parts stay apart; digits that
    follow a letter belong to the word.

    >>> [str(number) for number in find_numbers("From -1,250.5 to 1 1/2, or .5")]
    ['-2501/2', '3/2', '1/2']
    """
    return [n for m in _numbers_in(_plain(text)) for n in _read_number(m)]


def wanted_number(text: str) -> Fraction:
    r"""The last number of a text that says what is right, such as "6 * 7 = 42" or "#### 42".

    Raises ValueError where the text has no number, or where what stands around the last one says that the
    number meant may be another: 10^6, 1 000 000, 1'000, 1_000, 1,5, sqrt(2), 3-5, 12:30, 2x+1, 1.5 million.

    >>> wanted_number("He has 3 + 4 = 7 apples.")
    Fraction(7, 1)
    >>> wanted_number("10^6")
    Traceback (most recent call last):
    ...
    ValueError: cannot be told for sure: its last number would be 6
    """
    plain = _plain(_EMPHASIS.sub(r"\2", text))
    found = [(m, n) for m in _numbers_in(plain) for n in _read_number(m)]
    if not found:
        raise ValueError("holds no number")
    match, number = found[-1]
    before, behind = plain[: match.start()], plain[match.end() :]
    if _SPACED.search(plain[: match.end()]) or _LEADS_ON.search(before) or _GOES_ON.match(behind):
        raise ValueError(f"cannot be told for sure: its last number would be {number}")
    return number


def _plain(text: str) -> str:
    return _LATEX_FRACTION.sub(r"\1/\2", text.translate(_QUOTES))


def _numbers_in(text: str) -> Iterator[re.Match[str]]:
    return (m for m in _NUMBER.finditer(text) if len(m.group()) <= _LONGEST_NUMBER)


def _read_number(match: re.Match[str]) -> list[Fraction]:
    sign = -1 if match["sign"] == "-" else 1
    if match["decimal"] is not None:
        return [sign * Fraction(match["decimal"].replace(",", "") + (match["exponent"] or ""))]
    whole = [Fraction(match["whole"])] if match["whole"] is not None else []
    over, under = int(match["over"]), int(match["under"])
    if under == 0:
        return [sign * n for n in whole]
    if whole and over < under:
        return [sign * (whole[0] + Fraction(over, under))]
    return [sign * n for n in (*whole, Fraction(over, under))]
