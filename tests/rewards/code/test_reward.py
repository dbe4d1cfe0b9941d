"""Programs against tests: what counts, what is whose fault, and that it is as in one interpreter."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import types
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest

from make import attempts, prompt, scored
from refine_rl.errors import MachineError, SettingsError, UserError
from refine_rl.rewards.build import build_reward, isolation_of
from refine_rl.rewards.code.jail.exam import read_exam
from refine_rl.rewards.code.reward import CodeReward, code_of
from refine_rl.rewards.code.sandbox import Failed, Isolation, Limits, Sandbox
from refine_rl.settings import CodeSettings, RewardSettings, Settings
from refine_rl.types import Score

ROOMY = Limits(seconds=30.0, cpu=30, memory=256)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    one = Sandbox(ROOMY, 1)
    yield one
    one.close()


def score(sandbox: Sandbox, code: str, tests: str, grade: Any = "share") -> Score:
    reward = CodeReward(tests="tests", grade=grade, sandbox=sandbox)
    (found,) = scored(reward, prompt(tests=dedent(tests)), dedent(code))
    return found


RIGHT = [  # program, tests of which every one holds
    ("def f(x): return 2 * x", "assert f(2) == 4\nassert f('a') == 'aa'\nassert f((1,)) == (1, 1)"),
    ("def f(): return 2 ** 200", "assert f() == 2 ** 200\nassert type(f()) is int"),
    ("def f(): return 5 // 2", "assert f() is not True\nassert f() == 2.0\nassert isinstance(f(), int)"),
    ("def f(x): return {x: {1, 2}, 'b': frozenset({x})}", "assert f(3) == {3: {1, 2}, 'b': frozenset({3})}"),
    ("def f(): return [9e999, 1j, b'x', None, range(3)]", "assert f() == [9e999, 1j, b'x', None, range(3)]"),
    ("def f(): return float('nan')", "import math\nassert math.isnan(f())"),
    ("def f(): return '\\ud800é\\n'", "assert f() == '\\ud800é\\n'"),
    (
        "def f(xs): xs.sort()",
        "xs = [3, 1, 2]\nassert f(xs) is None\nf(xs)\nassert xs == [1, 2, 3] and f(xs) is None",
    ),
    (
        "def f(d): d['k'] = 1\ndef g(s): s.add(4)",
        "d = {}\ns = set()\nf(d)\ng(s)\nassert (d, s) == ({'k': 1}, {4})",
    ),
    ("def f(g, x): return g(x) + 1", "assert f(lambda x: 2 * x, 4) == 9\nassert f(abs, -3) == 4"),
    ("def f(*, a=1, b=2): return a - b", "assert f() == -1\nassert f(b=5, a=1) == -4"),
    (
        "def f(n):\n    for i in range(n): yield i",
        "assert list(f(3)) == [0, 1, 2]\nassert next(iter(f(1))) == 0",
    ),
    (
        "def f(n): return (i * i for i in range(n))",
        "assert sum(f(4)) == 14\nassert 9 in f(4)\nassert max(f(3)) == 4",
    ),
    (
        "import itertools\ndef f(): return itertools.count()",
        "assert [x for x, _ in zip(f(), 'abc')] == [0, 1, 2]",
    ),
    ("from collections import Counter\ndef f(t): return Counter(t)", "assert f('aab') == {'a': 2, 'b': 1}"),
    (
        "from collections import deque\ndef f(): return deque([1, 2])",
        "assert list(f()) == [1, 2]\nassert len(f()) == 2\nassert f()[1] == 2",
    ),
    (
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
        """
        try:
            f(-1)
        except ValueError as error:
            said = str(error)
        assert "negative" in said
        try:
            f(-1)
            assert False, "no error"
        except ValueError:
            pass
        """,
    ),
    (
        "class Odd(KeyError): pass\ndef f(): raise Odd('x')",
        "try:\n    f()\n    assert False\nexcept KeyError:\n    pass",
    ),
    (
        """
        class Stack:
            def __init__(self): self.items = []
            def push(self, x): self.items.append(x); return self
            def pop(self): return self.items.pop()
            def __len__(self): return len(self.items)
            def __eq__(self, other): return self.items == other.items
            def __add__(self, other): return Stack().push(len(self) + len(other))
            def __str__(self): return "/".join(map(str, self.items))
            def __contains__(self, x): return x in self.items
            def __iter__(self): return iter(self.items)
        def make(*xs):
            one = Stack()
            for x in xs: one.push(x)
            return one
        """,
        """
        s = Stack()
        s.push(1).push(2)
        assert len(s) == 2
        assert s.pop() == 2
        assert s.pop() == 1 and not s
        assert make(1, 2) == make(1, 2)
        assert make(1, 2) != make(2, 1)
        assert (make(1) + make(2, 3)).pop() == 3
        assert str(make(1, 2)) == "1/2"
        assert isinstance(s, Stack) and not isinstance(3, Stack)
        assert make(1, 2).items == [1, 2]
        assert 2 in make(1, 2) and 3 not in make(1, 2)
        """,
    ),
    (
        "LIMIT = 3\ncount = 0\ndef f():\n    global count\n    count += 1\n    return count",
        "assert LIMIT == 3\nassert f() == 1\nassert f() == 2 and f() == 3\nassert count == 3",
    ),
    (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: 'int' = 2",
        "assert P(1).y == 2\nassert P(1) == P(1, 2)\nassert repr(P(1)) == 'P(x=1, y=2)'",
    ),
    ("import asyncio\ndef f():\n    async def g(): return 7\n    return asyncio.run(g())", "assert f() == 7"),
    (
        "import random, json, decimal\ndef f(): return json.dumps(str(decimal.Decimal(1)))",
        "assert f() == '\"1\"'",
    ),
    ("if __name__ == '__main__':\n    raise SystemExit\nprint('hello')\nf = abs", "assert f(-2) == 2"),
    (
        "def candidate(x): return x + 1",
        "def check(f):\n    assert f(1) == 2\n    assert f(2) == 3\ncheck(candidate)",
    ),
]


@pytest.mark.parametrize(("code", "tests"), RIGHT)
def test_a_right_program_holds_as_in_one_interpreter(
    sandbox: Sandbox, code: str, tests: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain twin: program and tests in one namespace, where nobody cheats."""
    module = types.ModuleType("plain")
    monkeypatch.setitem(sys.modules, "plain", module)  # dataclasses look there
    space = module.__dict__
    with contextlib.redirect_stdout(None):
        exec(dedent(code), space)  # noqa: S102
        exec(dedent(tests), space)  # noqa: S102
    found = score(sandbox, code, tests)
    assert (found.value, found.status) == (1.0, "scored"), found.explanation


def test_each_assertion_stands_alone(sandbox: Sandbox) -> None:
    code = """
        import os
        def f(x):
            if x == 1: raise KeyError(x)
            if x == 2: os._exit(0)
            if x == 3: return 0
            return x
        """
    tests = "k = 4\nf(0)\n" + "\n".join(f"assert f({n}) == {n}" for n in (1, 2, 3, "k", 5))
    found = score(sandbox, code, tests)
    assert found.value == 2 / 5
    assert found.explanation == (
        "2 of 5 hold; assert f(1) == 1: KeyError: 1 (line 3 of the program); "
        "assert f(2) == 2: it ended itself before it had answered; assert f(3) == 3 does not hold"
    )
    assert score(sandbox, code, tests, "all").value == 0.0
    assert score(sandbox, "def f(x): return x", tests, "all").value == 1.0


def test_an_assertion_that_takes_too_long_leaves_time_for_the_others() -> None:
    with contextlib.closing(Sandbox(Limits(seconds=3.0, cpu=60, memory=256), 1)) as short:
        found = score(
            short,
            "def f(x):\n    while x == 1: pass\n    return x",
            "k = 3\nassert f(1) == 1\nassert f(2) == 2\nassert f(k) == 3",
        )
    assert found.value == 2 / 3
    assert "assert f(1) == 1: it took too long" in found.explanation


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def f(x) return x", "the program does not run: SyntaxError: expected ':' (line 1 of the program)"),
        (
            "x = 1 / 0",
            "the program does not run: ZeroDivisionError: division by zero (line 1 of the program)",
        ),
        ("def g(x): return x", "NameError: name 'f' is not defined"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
        ("f = 3", "TypeError: 'int' object is not callable"),
        ("", "no program"),
        ("def f(x): return '\ud800'", "half of a surrogate pair"),
    ],
)
def test_its_own_fault_is_a_score_of_0_that_says_so(sandbox: Sandbox, code: str, why: str) -> None:
    found = score(sandbox, code, "assert f(2) == 4")
    assert (found.value, found.status) == (0.0, "scored")
    assert why in found.explanation


def test_no_value_of_the_tests_is_handed_to_the_programs_operators(sandbox: Sandbox) -> None:
    """A difference with the expected value would hand that value over."""
    code = """
        class Sly:
            def __sub__(self, other): return 0
            def __rsub__(self, other): return 0
            def __abs__(self): return 0
            def __lt__(self, other): return True
            def __gt__(self, other): return True
            def __contains__(self, x): return True
            def __iter__(self): return iter([])
        def f(x): return Sly()
        """
    tests = "\n".join(
        f"assert {one}"
        for one in (
            "abs(f(2) - 4) < 1",
            "abs(4 - f(2)) < 1",
            "f(2) < 5",
            "3 < f(2)",
            "4 in f(2)",
            "4 == f(2)",
        )
    )
    assert score(sandbox, code, tests).value == 0.0


def test_tests_that_fail_by_themselves_are_no_score(sandbox: Sandbox) -> None:
    for tests, why in (
        ("x = 1 / 0\nassert f(2) == 4", "line 1: ZeroDivisionError"),
        ("assert f(object()) == 4", "line 1: a object cannot be handed to a program"),
    ):
        found = score(sandbox, "def f(x): return 4", tests)
        assert found.status == "missing"
        assert why in found.explanation


def test_a_sandbox_that_fails_makes_the_score_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with contextlib.closing(Sandbox(ROOMY, 1)) as broken:
        found = score(broken, "def f(x): return 4", "assert f(2) == 4")
        assert found.status == "missing"
        assert found.explanation.startswith("the program could not be run: no worker can be begun")
        with pytest.raises(MachineError, match=r"reward\.code: no worker can be begun"):
            CodeReward(tests="tests", grade="all", sandbox=broken).isolated()


def test_a_worker_that_was_killed_is_replaced() -> None:
    with contextlib.closing(Sandbox(ROOMY, 1)) as sandbox:
        assert score(sandbox, "def f(x): return 4", "assert f(2) == 4").value == 1.0
        for worker in sandbox.workers:
            worker.process.kill()
            worker.process.wait()
        assert score(sandbox, "def f(x): return 4", "assert f(2) == 4").status == "missing"
        assert score(sandbox, "def f(x): return 4", "assert f(2) == 4").value == 1.0


def test_a_group_is_scored_in_its_order_and_at_once(sandbox: Sandbox) -> None:
    with contextlib.closing(Sandbox(ROOMY, 3)) as three:
        reward = CodeReward(tests="tests", grade="share", sandbox=three)
        asked = prompt(tests=["assert f(1) == 1", "assert f(2) == 4"])
        texts = ["def f(x): return x", "def f(x): return x * x", "def f(x): return x", "no code"]
        found = asyncio.run(reward.score_group(asked, attempts(asked, *texts)))
        assert [s.value for s in found] == [0.5, 1.0, 0.5, 0.0]
        assert len(three.workers) <= 3


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```py\nx = 1\n```\nthen\n```\ny = 2\n```", "x = 1\n\ny = 2\n"),
        ("```bash\npip install x\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("~~~python title\nx = 1\n~~~", "x = 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("<think>```python\nx = 0\n```</think>\n```Python\nx = 1\n```", "x = 1\n"),
        ("<think>\nx = 0</think>\nx = 1", "x = 1"),
        ("```json\n{}\n```", "```json\n{}\n```"),
    ],
)
def test_code_is_found_in_an_answer(completion: str, code: str) -> None:
    assert code_of(completion) == code


def test_tests_are_looked_at_before_training() -> None:
    reward = build_reward(
        Settings(task="Code.", reward=RewardSettings(code=CodeSettings(tests="checks", weight=2.0)))
    )
    assert (reward.component_names, reward.weights, reward.top) == (("code",), {"code": 2.0}, 2.0)
    reward.check_prompt(prompt(checks="assert f(2) == 4"))
    for data, why in (
        ({"tests": "assert f(2) == 4"}, "p1 has no data `checks`; it has `tests`"),
        ({"checks": "f(2)"}, r"p1: its tests \(data `checks`\): they hold no assertion"),
        ({"checks": 3}, "must be a text or a list of texts"),
    ):
        with pytest.raises(UserError, match=why):
            reward.check_prompt(prompt(**data))


# -- what is isolated -----------------------------------------------------------------------------


class Known(Sandbox):
    """On a machine of which it is known what it isolates."""

    def __init__(self, found: Isolation | None) -> None:
        super().__init__(ROOMY, 1)
        self._found_here = found

    def isolation(self) -> Isolation:
        if self._found_here is None:
            raise Failed("no program runs on this machine: it is made of cheese")
        return self._found_here


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Isolation(root=True, calls=True), ""),
        (
            Isolation(root=False, calls=True, why="unshare: Operation not permitted"),
            "NOT isolated (the kernel refuses: unshare: Operation not permitted): "
            "they could find out which files",
        ),
        (Isolation(root=True, calls=False), "NOT isolated: they could make processes"),
        (
            Isolation(root=False, calls=False),
            "read and change every file that you can; reach the network; signal or start other processes",
        ),
    ],
)
def test_what_is_not_isolated_is_told_or_refused(found: Isolation, told: str) -> None:
    reward = CodeReward(tests="tests", grade="share", sandbox=Known(found))
    assert told in reward.isolated()
    assert bool(reward.isolated()) == bool(told)
    full = CodeReward(tests="tests", grade="share", isolation="full", sandbox=Known(found))
    if not told:
        assert full.isolated() == ""
        return
    with pytest.raises(SettingsError, match=r'reward\.code\.isolation is "full"'):
        full.isolated()


def test_a_machine_on_which_nothing_runs_is_told() -> None:
    reward = CodeReward(tests="tests", grade="share", sandbox=Known(None))
    with pytest.raises(MachineError, match="it is made of cheese"):
        reward.isolated()


def test_who_runs_no_code_is_told_nothing() -> None:
    assert (
        isolation_of(
            build_reward(Settings(task="x", reward=RewardSettings(rules=[{"rule": "words", "max": 3}])))
        )
        == ""
    )  # type: ignore[list-item]


def test_an_exam_of_many_assertions_is_read_quickly() -> None:
    assert read_exam("\n".join(f"assert f({n}) == {n}" for n in range(2000))).assertions == 2000
