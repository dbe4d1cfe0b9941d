"""Words, sentences, numbers, stems, syllables."""

from __future__ import annotations

from fractions import Fraction

import pytest

from refine_rl.rewards.text.english import content_stems, count_syllables, stem
from refine_rl.rewards.text.words import (
    find_numbers,
    normalise,
    repeated_share,
    split_lines,
    split_sentences,
    split_words,
    wanted_number,
)

SYLLABLES = {
    1: "a the cat moon make smile whole world blue queue league tongue makes loved walked friend eye eyes "
    "don't they're strength thought leaves goes once curled stayed prayed knives clothes vague",
    2: "table little acre wishes tables needed handled couldn't it'll lovely movement careful homework quiet "
    "client lion nation precious million question fluent ruin fluid poem going flying prism rhythm mayor "
    "loyal beyond player unique silence ocean coffee liquid naked people every create ancient o'clock",
    3: "idea area radio ratio curious obvious violet usual manual genuine video audience happier beautiful "
    "everything forever element recipe vehicle banana theater museum butterfly employee",
    4: "society variety experience january situation intuition reality television necessary generation",
    5: "university creativity opportunity continuity imagination",
}


@pytest.mark.parametrize(("count", "words"), SYLLABLES.items())
def test_syllables_of_english_words(count: int, words: str) -> None:
    assert {word: count_syllables(word) for word in words.split()} == dict.fromkeys(words.split(), count)


def test_syllables_of_what_is_no_plain_word() -> None:
    assert [count_syllables(w) for w in ("", "7", "17", "well-made", "café", "hmm", "MOON")] == [
        0,
        2,
        3,
        2,
        2,
        1,
        1,
    ]


@pytest.mark.parametrize(
    "family",
    [
        "try tries tried trying",
        "make makes making made",
        "plan plans planned planning",
        "class classes",
        "box boxes boxed boxing",
        "city cities",
        "movie movies",
        "agree agrees agreed agreeing",
        "need needs needed needing",
        "use uses used using",
        "fall falls falling fell",
        "control controlled controlling",
        "die dies died dying",
        "server servers server's",
        "leave left leaving",
        "bus buses",
        "see saw seeing sees",
    ],
)
def test_the_forms_of_a_word_share_a_stem(family: str) -> None:
    assert len({stem(word) for word in family.split()}) == 1


@pytest.mark.parametrize("pair", ["ring red", "king kind", "bed bee", "thing think", "server serve"])
def test_other_words_have_other_stems(pair: str) -> None:
    one, other = pair.split()
    assert stem(one) != stem(other)


def test_content_stems_leave_out_stop_words_and_repeats() -> None:
    assert content_stems("The server’s down, and servers can’t wait!") == [stem("server"), stem("wait")]
    assert content_stems("It is what it is.") == []


def test_words_sentences_lines() -> None:
    assert split_words("“Yo—ho”: it’s 3.50, x_y! — 日本語") == [
        "Yo",
        "ho",
        "it’s",
        "3.50",
        "x",
        "y",
        "日本語",
    ]
    assert split_sentences('He said "Stop!" Then, e.g. at 3.5 p.m. it began... Why?! Yes') == [
        'He said "Stop!"',
        "Then, e.g. at 3.5 p.m. it began...",
        "Why?!",
        "Yes",
    ]
    assert split_sentences("A title\n\nA line\nand its end. !!") == ["A title", "A line\nand its end."]
    assert split_sentences("これは文です。次の文。") == ["これは文です。", "次の文。"]
    assert split_lines("\n one \r\n\n  two\n") == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("no number", []),
        ("It is 72.", [72]),
        ("-5, +6, −7 and 10-3 = 7", [-5, 6, -7, 10, 3, 7]),
        ("$1,234,567.89", [Fraction("1234567.89")]),
        ("1,2345", [1, 2345]),
        ("1/2 or 3 / 4", [Fraction(1, 2), Fraction(3, 4)]),
        ("1 1/2 cups", [Fraction(3, 2)]),
        ("-1 1/2", [Fraction(-3, 2)]),
        ("2 5/4", [2, Fraction(5, 4)]),
        (r"\boxed{\frac{1}{3}}", [Fraction(1, 3)]),
        ("on 12/05/2024", [12, 5, 2024]),
        ("1/0", []),
        ("1e-3 and 2.5E2", [Fraction(1, 1000), 250]),
        (".5 but v1.2 and x7", [Fraction(1, 2)]),
        ("#### 18", [18]),
        ("so...5", [5]),
        ("9" * 400, []),
    ],
)
def test_find_numbers(text: str, numbers: list[Fraction | int]) -> None:
    assert find_numbers(text) == numbers


@pytest.mark.parametrize(
    ("one", "other", "ignore", "same"),
    [
        ("The answer.", "the  answer", ["case", "punctuation"], True),
        ("The answer.", "the answer", ["case"], False),
        ("The answer", "the answer", [], False),
        ("-5", "5", ["punctuation"], False),
        ("3.5", "35", ["punctuation"], False),
        ("3.50.", "3.50", ["punctuation"], True),
        ("1,000", "1000", ["punctuation"], False),
        ("**Paris**", "“Paris”", ["punctuation"], True),
        ("?", "!", ["punctuation"], False),
        ("the cat", "a cat", ["articles"], True),
        ("STRASSE", "straße", ["case"], True),
    ],
)
def test_normalise(one: str, other: str, ignore: list[str], same: bool) -> None:
    assert (normalise(one, ignore) == normalise(other, ignore)) is same


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("Yo ho ho", 0.0),
        ("Yo ho ho, and a bottle of rum! Yo ho ho!", 1 / 12),  # 14 units, 12 runs, "yo ho ho" twice
        ("yo ho ho yo ho ho", 1 / 4),
        ("ha ha ha ha ha ha ha ha", 5 / 6),
        ("!" * 12, 9 / 10),
        ("lo" * 20, 36 / 38),  # one long word: 40 characters, "lol" and "olo"
    ],
)
def test_repeated_share(text: str, share: float) -> None:
    assert repeated_share(text, 3) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(
            ("42", 42),
            ("#### 42", 42),
            ("The answer is 42.", 42),
            ("$1,234.50", Fraction(2469, 2)),
            ("42%", 42),
        ),
        *(
            ("1 1/2", Fraction(3, 2)),
            (r"\frac{1}{2}", Fraction(1, 2)),
            ("-5", -5),
            ("3.5e-7", Fraction("3.5e-7")),
        ),
        *(
            ("x = 5", 5),
            ("x=-5", -5),
            ("42 km", 42),
            ("5kg", 5),
            (r"\boxed{42}", 42),
            ("(42)", 42),
            ("5!", 5),
        ),
        *(
            ("6 * 7 = 42", 42),
            ("3 + 4 = 7 apples", 7),
            ("<<4*5=20>>20", 20),
            ("is **42**.", 42),
            ("GPT-4", 4),
        ),
        *(
            ("Answer (5)", 5),
            ("Answer: -5", -5),
            ("5 apples, 3 pears", 3),
            ("1, 2, 3", 3),
            ("In 2024, 100 people", 100),
        ),
        *(("step 1. 5", 5), ("$5$", 5), ("90°", 90), ("A: 18 dollars", 18), ("2024", 2024)),
    ],
)
def test_the_number_that_is_wanted(text: str, number: Fraction | int) -> None:
    assert wanted_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *("10^6", "1 000 000", "1'000", "1’000", "1_000", "1,5", "sqrt(2)", r"\sqrt{2}", "10**6", "2^{10}"),
        *("1\u00a0000", "3-5", "2024-05-06", "12:30", "2+3", "2 + 3", "2x+1", "1.5 million", "1.000.000"),
        *(
            "1.234,56",
            "10²",
            "√2",
            "2π",
            "x^2",
            "5±1",
            r"2\sqrt{3}",
            "10^6 apples",
            r"\frac{\pi}{2}",
            "5 × 10^3",
        ),
        *("f(2)", "5 thousand", r"2 \times 3", "2*3*4", "1,2,3", "", "none"),
    ],
)
def test_a_number_that_cannot_be_told_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        wanted_number(text)


def test_a_loop_of_a_model_has_its_syllables() -> None:
    assert count_syllables("home" * 3000) == 3000
