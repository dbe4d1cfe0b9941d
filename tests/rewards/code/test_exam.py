"""Tests as text: what is an assertion, what the program has to give, and tests that are refused."""

from __future__ import annotations

import pytest

from refine_rl.rewards.code.jail.exam import BadTests, read_exam


@pytest.mark.parametrize(
    ("tests", "asserts", "names"),
    [
        ("assert f(2) == 4", [True], ("f",)),
        ("import math\nassert math.isclose(f(1), 0.5)", [False, True], ("f",)),
        ("xs = [3, 1]\nassert f(xs) == sorted(xs)", [False, True], ("f",)),
        ("for x in range(3):\n    assert f(x) == g(x)", [True], ("f", "g")),
        ("try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass", [True], ("f",)),
        ("def check(h):\n    assert h(1) == 2\n\ncheck(f)", [False, True], ("f",)),
        ("r = f(3)\nassert r == 9", [False, True], ("f",)),
        ("found = []\nfound.append(f(1))\nassert found == [2]", [False, False, True], ("f",)),
        ("assert all(f(x) == [y for y in x] for x in ([], [1]))", [True], ("f",)),
        ("s = Stack()\nassert s.pop() is None", [False, True], ("Stack",)),
        ("assert (lambda k: f(k))(2) == 4", [True], ("f",)),
    ],
)
def test_statements_are_assertions_or_set_up(tests: str, asserts: list[bool], names: tuple[str, ...]) -> None:
    exam = read_exam(tests)
    assert [part.asserts for part in exam.parts] == asserts
    assert exam.names == names
    assert exam.assertions == sum(asserts)


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("assert f(2) = 4", r"do not parse as Python: line 1"),
        ("", r"no assertion: write `assert f\(2\) == 4`"),
        ("print(f(2))", "no assertion"),
        ("def check(h):\n    assert h(1) == 2", "no assertion; nobody calls `check`"),
        ("assert f(1) == 1\nassert 1 == 1", "line 2 asks nothing of the program: assert 1 == 1"),
        ("x = 3\nassert isinstance(x, int)", "line 2 asks nothing"),
        ("import numpy as np\nassert f(1) == 1", "line 1 imports `numpy`"),
        ("from solution import f\nassert f(1) == 1", "own names are there without an import"),
        ("from . import f\nassert f(1) == 1", r"imports `\.`"),
        ("\0", "do not parse"),
    ],
)
def test_tests_that_say_nothing_are_refused(tests: str, why: str) -> None:
    with pytest.raises(BadTests, match=why):
        read_exam(tests)
