"""A function's code without its docstring: what is left stands as it was written."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from refine_rl.prompts.harvest.functions import Function, UnreadError, code_of, read_source


def read(folder: Path, text: str | bytes, name: str = "a.py") -> tuple[list[Function], list[str]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = read_source(path)
    return source.documented, source.lines


def only(folder: Path, text: str) -> str | None:
    ((function,), lines) = read(folder, text)
    return code_of(function, lines)


CASES = {
    "comments, decorators and blank lines stay": (
        '''
        class A:
            @cached  # once
            @other(
                1)
            async def f(self, x: int = 1,  # why
                        *args) -> str:
                # before
                """Say it.

                At length.
                """

                # after
                if x:

                    return  "a"   # odd  spaces
        ''',
        """
        @cached  # once
        @other(
            1)
        async def f(self, x: int = 1,  # why
                    *args) -> str:
            # before
            # after
            if x:

                return  "a"   # odd  spaces
        """,
    ),
    "a text of several lines keeps its margin": (
        '''
        class A:
            def f(self):
                """Say it."""
                sql = """
                select
            from t
                """
                return sql
        ''',
        '''
        def f(self):
            sql = """
                select
            from t
                """
            return sql
        ''',
    ),
    "texts that are joined are no text of several lines": (
        '''
        class A:
            def f(self):
                """Say it."""
                return ("one"
                        "two")
        ''',
        """
        def f(self):
            return ("one"
                    "two")
        """,
    ),
    "a docstring beside a statement": (
        """
        def f(é): "Sä it."; return é; x = 1
        """,
        """
        def f(é): return é; x = 1
        """,
    ),
    "a docstring of joined pieces, and one of its own inside": (
        '''
        def f():
            "Say" \\
                " it."
            def g():
                """Inner."""
                return 1
            return g
        ''',
        '''
        def f():
            def g():
                """Inner."""
                return 1
            return g
        ''',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_docstring_alone_is_taken_out(tmp_path: Path, case: str) -> None:
    given, expected = (textwrap.dedent(text).lstrip("\n") for text in CASES[case])
    functions, lines = read(tmp_path, given)
    code = code_of(functions[0], lines)
    assert code is not None
    if case == "a text of several lines keeps its margin":
        expected = expected.replace("select", "select")  # its lines stand where they stood
        assert code.split("\n")[2:5] == given.split("\n")[4:7]
        assert [code.split("\n")[n] for n in (0, 1, 5)] == [
            "def f(self):",
            '    sql = """',
            "    return sql",
        ]
    else:
        assert code == expected.rstrip("\n")
    ast.parse(code)


def test_what_cannot_be_taken_out_is_not_touched(tmp_path: Path) -> None:
    assert only(tmp_path, '@(\n    a\n)\ndef f():\n    "Say it."\n    return 1\n') is None
    assert (
        only(tmp_path, 'def f():\n    ("Say"\n    " it."\n    )\n    return 1\n') == "def f():\n    return 1"
    )
    assert only(tmp_path, 'def f():\n    """Say it."""\n') is None  # nothing would be left


def test_a_tab_is_a_margin_as_well(tmp_path: Path) -> None:
    code = only(tmp_path, 'class A:\n\tdef f(self):\n\t\t"""Say it."""\n\t\treturn 1\n')
    assert code == "def f(self):\n\treturn 1"


def test_names_lines_and_what_lies_within(tmp_path: Path) -> None:
    text = '''
import os

if os.name:
    def top():
        """Top."""
        class Local:
            def deep(self):
                """Deep."""
        return Local
else:
    try:
        @decorator
        def other(): "Other."
    except E:
        pass

class A:
    class B:
        async def f(self):
            """F."""

    def without(self): ...
'''
    functions, _ = read(tmp_path, text)
    assert [(f.name, f.line, f.inner, f.docstring) for f in functions] == [
        ("top", 5, False, "Top."),
        ("top.Local.deep", 8, True, "Deep."),
        ("other", 13, False, "Other."),
        ("A.B.f", 20, False, "F."),
    ]
    assert read_source(tmp_path / "a.py").functions == 5


def test_line_ends_marks_and_encodings_of_all_kinds(tmp_path: Path) -> None:
    plain = 'def f(x):\n    """Zähle."""\n    return x\n'
    expected = ("Zähle.", "def f(x):\n    return x")
    for data in (
        plain.encode(),
        b"\xef\xbb\xbf" + plain.encode(),
        plain.replace("\n", "\r\n").encode(),
        plain.replace("\n", "\r").encode(),
        b"# -*- coding: latin-1 -*-\n" + plain.encode("latin-1"),
        b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\n" + plain.encode("cp1252"),
        ("\x0c\n" + plain).encode(),
        ('x = "a\x0cb\u2028c"\n' + plain).encode(),  # no ends of lines for Python
    ):
        ((function,), lines) = read(tmp_path, data)
        assert (function.docstring, code_of(function, lines)) == expected


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"print 'python 2'\n", "line 1: Missing parentheses"),
        (b"x = '\x00'\n", "null bytes"),
        (b"# coding: nonsense\n", "its encoding: unknown encoding: nonsense"),
        (b"x = '\xe9'\n", "its encoding: "),
        (b"x = " + b"(" * 5000 + b")" * 5000, "too many nested parentheses|nested too deeply"),
        (b"x = " + b"-" * 100_000 + b"1", "nested too deeply|too many|recursion"),
        (b"if x: pass\n" + b"elif x: pass\n" * 3000, "nested too deeply|too many|recursion"),
        (b"#" + b"x" * 2_000_001, "more than 2,000,000 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(UnreadError, match=why):
        read(tmp_path, data)


def test_source_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    text = f'open({str(mark)!r}, "w")\n@open({str(mark)!r}, "w")\ndef f():\n    """Say it."""\n    return 1\n'
    assert only(tmp_path, text)
    assert not mark.exists()


def test_code_of_this_very_package_means_the_same(tmp_path: Path) -> None:
    """Each function of our own source, compared with what `ast` writes."""
    root = Path(__file__).parents[3] / "src" / "refine_rl"
    checked = 0
    for path in sorted(root.glob("prompts/**/*.py")):
        source = read_source(path)
        for function in source.documented:
            code = code_of(function, source.lines)
            if len(function.node.body) == 1:
                assert code is None
                continue
            assert code is not None
            (found,) = ast.parse(code).body
            bare = ast.parse(ast.unparse(function.node)).body[0]
            assert isinstance(bare, ast.FunctionDef | ast.AsyncFunctionDef)
            bare.body = bare.body[1:]
            assert ast.dump(found) == ast.dump(bare)
            assert function.docstring.split("\n")[0] not in code
            checked += 1
    assert checked > 100
