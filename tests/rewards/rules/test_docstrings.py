"""The docstring rules: what they read of a docstring and of its function's source, by exact numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import make
from refine_rl.errors import SettingsError, UserError
from refine_rl.rewards.rules.docstrings import DOCSTRING_RULES
from refine_rl.rewards.rules.table import rule_reward
from refine_rl.rewards.text.docstrings import bare, read_docstring
from refine_rl.rewards.text.functions import read_function
from refine_rl.settings import RuleSettings

ADD = "def add_all(first, last_name, *rest, key=None, **more):\n    return first + last_name"
GOOGLE = """Adds what it gets.

Args:
    first: What stands first.
    last_name (str): What stands last.
    *rest: All others.

Returns:
    The sum.

Raises:
    KeyError: When `key` is unknown.
"""
NUMPY = """Adds what it gets.

Parameters
----------
first : int
    What stands first.
last_name, key : str
    What stands last.

Returns
-------
int
    The sum.

Raises
------
KeyError
    When the key is unknown.
"""
REST = """Adds what it gets.

:param first: What stands first.
:param str last_name: What stands last.
:param \\*rest: All others.
:returns: The sum.
:raises KeyError: When the key is unknown.
"""


def value(rule: str, docstring: str, code: str = ADD, **parameters: Any) -> float:
    reward = rule_reward(RuleSettings.model_validate({"rule": rule, **parameters}), where="here")
    of = make.prompt(1, code=code)
    reward.check_prompt(of)
    (score,) = make.scored(reward, of, docstring)
    assert score.status == "scored", score.explanation
    assert score.value is not None
    return score.value


@pytest.mark.parametrize(
    ("text", "style", "parameters"),
    [
        (GOOGLE, "google", ("first", "last_name", "rest")),
        (NUMPY, "numpy", ("first", "last_name", "key")),
        (REST, "rest", ("first", "last_name", "rest")),
    ],
)
def test_each_style_is_read(text: str, style: str, parameters: tuple[str, ...]) -> None:
    for written in (text, f'"""{text}"""', f"```python\n'''{text}\n'''\n```", text.replace("\n", "\n    ")):
        found = read_docstring(written)
        assert found.style == style
        assert found.summary == "Adds what it gets."
        assert found.parameters == parameters
        assert found.returns is not None
        assert "The sum." in found.returns
        assert found.raises == ("KeyError",)
        assert found.described == 1.0
    assert value("docstring_style", text) == 1.0
    assert value("docstring_style", text, style=style, sections="needed") == 1.0
    assert value("docstring_style", text, sections="none") == 0.0
    other = "numpy" if style != "numpy" else "google"
    assert value("docstring_style", text, style=other) == 0.0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Adds.", 1.0),
        ("adds what it gets: a, b", 1.0),
        ("!?", 0.0),
        ('Adds.\n"""\nx = 1', 0.0),
        ("Args:\n    first: It.", 0.5),  # no summary
        ("Adds.\n\nArgs:\n    first: It.\n    last_name:", 0.5),  # one of two entries says nothing
        ("Adds.\n\nArgs:\n    first", 0.0),  # no entry
        ("Adds.\n\nArgs:\nfirst\n", 0.0),
        ("Adds.\n\nArgs:\n    first: It.\n\n:param last_name: That.\n:param key: It.", 2 / 3),  # two styles
        ("Adds.\n\nParameters\n----------\nfirst : int\n    It.\n\nReturns\n-------\nint", 1.0),
    ],
)
def test_style(text: str, wanted: float) -> None:
    assert value("docstring_style", text) == pytest.approx(wanted)


def test_sentences_alone_are_no_sections() -> None:
    assert value("docstring_style", "Adds.", sections="needed") == 0.0
    assert value("docstring_style", "Adds.", sections="none", style="numpy") == 1.0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # first, last_name and key should be named; *rest and **more may be
        (GOOGLE, 1.0),  # `key` stands in a description
        (NUMPY, 1.0),
        (REST, 1.0),
        ("Adds first and the last name.", 2 / 3),
        ("Adds first and last_name by key, with more.", 1.0),
        ("Adds.", 0.0),
        ("Adds `first` and `second`.", 1 / 4),  # 1 of 3, one invented
        ("Adds `first` and `rest` to `None`.", 1 / 3),
        ("Adds.\n\nArgs:\n    first: It.\n    other: What?\n    **more: Rest.", 1 / 4),
        ("Adds.\n\n:param first: It.\n:param 3 x: What?", 1 / 4),
    ],
)
def test_parameters(text: str, wanted: float) -> None:
    assert value("docstring_parameters", text) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("code", "text", "wanted"),
    [
        ("def f(): return 1", "One.", 1.0),
        ("def f(): return 1", "One.\n\nArgs:\n    x: It.", 0.0),
        ("    def f(self, a):\n        return a", "Gives a thing.", 0.0),  # an article is no name
        ("    def f(self, a):\n        return a", "Gives `a`.", 1.0),
        ("@classmethod\ndef f(cls, x): ...", "Takes x.", 1.0),
        ("@staticmethod\ndef f(self): ...", "Nothing.", 0.0),  # a parameter like any other
        ("async def f(_x, y, /, *, z): ...", "Takes y.", 1 / 2),
        ("class Box:\n    '''A box of z.'''\n    def __init__(self, size): ...", "Holds size.", 1.0),
        ("class Box:\n    size = 1", "Holds `size`.", 1.0),
    ],
)
def test_parameters_of_methods_and_classes(code: str, text: str, wanted: float) -> None:
    assert value("docstring_parameters", text, code) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("body", "says", "wanted"),
    [
        ("return a", "Returns it.", 1.0),
        ("return a", "Yielding it.", 1.0),
        ("return a", "The sum of all.", 1.0),
        ("return a", "Whether it is there.", 1.0),
        ("return a", "f(a) -> the sum", 1.0),
        ("return a", "Add up.", 0.0),
        ("return a", "Add up.\n\nReturns:\n    The sum.", 1.0),
        ("return a", "Add up.\n\nArgs:\n    a: Returned as it is.", 0.0),
        ("yield a", "Yields it.", 1.0),
        ("yield a", "Add up.", 0.0),
        ("print(a)", "Print it.", 1.0),
        ("print(a)", "Print it. Returns None.", 1.0),
        ("print(a)", "Print it.\n\nReturns:\n    None", 1.0),
        ("print(a)", "Print it.\n\nReturns:\n    The text.", 0.0),
        ("print(a)", "Print it and return the text.", 0.0),
        ("print(a)\n    return None", "Print it.", 1.0),
        (
            "def g(): return 1\n    print(lambda: (yield))",
            "Print it.",
            1.0,
        ),  # what is within returns for itself
        ("pass", "Returns it.", 1.0),  # a stub
        ("...", "Add up.", 1.0),
        ("raise NotImplementedError", "Add up.", 1.0),
    ],
)
def test_returns(body: str, says: str, wanted: float) -> None:
    assert value("docstring_returns", says, f"def f(a):\n    {body}") == wanted


@pytest.mark.parametrize(
    ("code", "returns"),
    [
        ("def f() -> int: ...", "yes"),
        ("def f() -> None: ...", "no"),
        ("def f() -> NoReturn:\n    raise X", "no"),
        ("@property\ndef f(self): return 1", "unknown"),
        ("@functools.cached_property\ndef f(self): return 1", "unknown"),
        ("@contextlib.contextmanager\ndef f(): yield", "unknown"),
        ("class A: pass", "unknown"),
    ],
)
def test_what_is_returned_by_declaration(code: str, returns: str) -> None:
    assert read_function(code).returns == returns


@pytest.mark.parametrize(
    ("body", "says", "wanted"),
    [
        ("return a", "Add up.", 1.0),
        ("return a", "Raises KeyError.", 0.0),
        ("raise KeyError(a)", "Add up.", 0.0),
        ("raise KeyError(a)", "Raises KeyError.", 1.0),
        ("raise err.Missing from None", "May raise Missing.", 1.0),
        ("raise KeyError(a)", "Add up.\n\nRaises:\n    KeyError: Missing.\n    OSError: Full.", 1 / 2),
        ("raise KeyError if a else ValueError", "Add up.", 1.0),  # no name that is raised for sure
        ("raise a", "Add up.", 1.0),
        ("raise NotImplementedError", "Add up.", 1.0),
        ("try: go()\n    except OSError: raise ValueError(a)", "ValueError, after an OSError.", 1.0),
        ("try: go()\n    except OSError: raise", "Lets OSError through.", 1.0),
        ("if a: raise KeyError\n    raise ValueError", "Raises ValueError.", 1 / 2),
        ("def g(): raise KeyError", "Add up.", 1.0),
    ],
)
def test_raises(body: str, says: str, wanted: float) -> None:
    assert value("docstring_raises", says, f"def f(a):\n    {body}") == pytest.approx(wanted)


CODE = "def area(w, h):\n    '''The old docstring of it all.'''\n    size = w * h\n    return size"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("The area of a rectangle.", 0.0),
        ("return size", 0.0),  # two words are no line that is copied
        ("size = w * h", 1.0),
        (CODE.replace("    '''The old docstring of it all.'''\n", ""), 1.0),
        ("The old docstring of it all.", 0.0),  # no code
        # 10 tokens, 7 of them "area ( w , h ) :"
        ("Calls area(w, h): so.", 7 / 10),
        ("```\nsize = w * h\n```", 1.0),
    ],
)
def test_no_code(text: str, share: float) -> None:
    assert value("docstring_no_code", text, CODE, allowed=0.0) == pytest.approx(1 - share)
    assert value("docstring_no_code", text, CODE, allowed=0.5) == pytest.approx(min(1, (1 - share) / 0.5))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("get_user_names", "Get the user name.", 0),
        ("getUserNames", "Gets user names", 0),
        ("get_user_names", "get_user_names getUserName", 0),
        ("get_user_names", "Returns the names of a user's function", 0),
        ("get_user_names", "Reads all names from the table of users.", 2),
        ("f", "Reads it, reads it, and READS it.", 1),
        ("HTTPServer", "The HTTP server waits.", 1),
        ("f", "用户 名称", 2),
    ],
)
def test_no_echo(name: str, text: str, words: int) -> None:
    for enough in (1, 2, 3):
        wanted = min(1, words / enough)
        assert value("docstring_no_echo", text, f"def {name}(): ...", enough=enough) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def f(:\n    pass", "is no Python (invalid syntax)"),
        ("print 'old'", "is no Python"),
        ("x = 1", "holds no function"),
        ("def f():\x00 pass", "is no Python"),
        ("(" * 500, "is no Python (too many nested parentheses)"),
        ("-" * 100_000 + "1", "is no Python"),
        (" ", "is blank"),
        (7, "must be a text"),
    ],
)
@pytest.mark.parametrize("rule", [name for name in DOCSTRING_RULES if name != "docstring_style"])
def test_code_that_cannot_be_read_is_told_before_training(rule: str, code: Any, why: str) -> None:
    reward = rule_reward(RuleSettings.model_validate({"rule": rule}), where="here")
    with pytest.raises(UserError) as caught:
        reward.check_prompt(make.prompt(1, code=code, origin="file:pairs.jsonl, line 3"))
    assert str(caught.value).startswith(
        f"here (`{rule}`): data `code` of prompt p1 (file:pairs.jsonl, line 3)"
    )
    assert why in str(caught.value)
    with pytest.raises(UserError, match="has no data `code`; it has `source`"):
        reward.check_prompt(make.prompt(1, source="def f(): ..."))
    named = rule_reward(RuleSettings.model_validate({"rule": rule, "code": "source"}), where="here")
    named.check_prompt(make.prompt(1, source="def f(): ..."))


def test_code_as_people_have_it() -> None:
    """Indented methods whose strings stand further to the left, fences, escapes that warn."""
    method = '    def f(self, x):\n        """Says:\n  it"""\n        return """\nx\n"""'
    found = read_function(method)
    assert (found.name, found.parameters, found.returns) == ("f", ("x",), "yes")
    assert "it" not in found.words
    assert read_function("```python\ndef f(x): return '\\d'\n```").parameters == ("x",)
    assert read_function("import re\n\n@cache\ndef f(x):\n    '''é''' ; return x").words >= {
        "re",
        "cache",
        "f",
    }


@pytest.mark.parametrize(
    "table",
    [
        {"rule": "docstring_no_code", "n": 0},
        {"rule": "docstring_no_code", "allowed": 1.0},
        {"rule": "docstring_no_echo", "enough": 0},
        {"rule": "docstring_style", "style": "epytext"},
        {"rule": "docstring_style", "sections": "some"},
    ],
)
def test_impossible_parameters_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=rf"here \(`{table['rule']}`\): `"):
        rule_reward(RuleSettings.model_validate(table), where="here")


PIECES = [
    "Args:",
    "Returns:",
    "Raises:",
    "Parameters\n----------",
    "Returns\n---",
    ":param x:",
    ":raises",
    ":",
]
PIECES += [
    "    ",
    "x",
    "x : int, optional",
    "x (int): It.",
    "\n",
    "\n\n",
    '"""',
    "`",
    "```",
    "(",
    ")",
    "é",
    "\u2028",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_docstring_stays_within_bounds(text: str) -> None:
    for rule in DOCSTRING_RULES:
        assert 0.0 <= value(rule, text, CODE) <= 1.0
    found = read_docstring(text)
    assert 0.0 <= found.described <= 1.0
    assert bare(found.text) == found.text or '"""' in text or "```" in text


@pytest.mark.parametrize("rule", DOCSTRING_RULES)
def test_long_docstrings_take_linear_time(rule: str, is_linear: Callable[..., bool]) -> None:
    check = rule_reward(RuleSettings.model_validate({"rule": rule}), where="here").score
    of = make.prompt(1, code=CODE)
    for piece in (
        "word ",
        "x",
        "(",
        "Args:\n  x (",
        ":param (a",
        "`x` ",
        "a, ",
        "\n",
        "size = w * h\n",
        '"""',
        "```\n",
    ):
        assert is_linear(lambda n, piece=piece: check(of, piece * n + "."), 10_000), piece
