"""From a tree of source to pairs: what is found, dropped and counted, and how it is split."""

from __future__ import annotations

import builtins
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import UserError
from refine_rl.prompts.harvest import Harvest, Pair, Wanted, harvest
from refine_rl.prompts.harvest.filters import WHY, Limits, is_test, wrong_with_answer
from refine_rl.prompts.harvest.functions import read_source
from refine_rl.prompts.harvest.parts import part_of
from refine_rl.prompts.harvest.trees import SourceFile, find_files


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder


def function(name: str, docstring: str, *body: str) -> str:
    lines = [f"def {name}:", f'    """{docstring}"""', *(f"    {line}" for line in body)]
    return "\n".join(lines) + "\n\n"


PARSE = function("parse(text)", "Parse the text into a number.", "value = int(text)", "return value + 1")
MANY = {
    "pkg/__init__.py": function(
        "first(items)", "Return the first of the items.", "for x in items:", "    return x"
    ),
    "pkg/good.py": PARSE
    + function(
        "copy(words)", "Turn the words to a figure.", "figure = int(words)", "return figure + 9"
    )  # same code
    + "class A:\n"
    + textwrap.indent(
        function(
            "parse(self)", "Parse the text  into a number.", "return self.text.strip().lower()"
        )  # same docstring
        + function("call(self)", "Call what the object has.", "return self.call_it(self.kind)")
        + function("todo(self)", "TODO: describe it.", "return self.call_it(self.other)")
        + function("short(self)", "Get it.", "return self.call_it(self.kind, 1, 2)")
        + function("stub(self)", "Do what a subclass does.", "raise NotImplementedError('later')")
        + function("dots(self)", "Do what a subclass does.", "...")
        + function("only(self)", ">>> only(1)\n        1\n        ", "return self.call_it(self.only, 1, 2)")
        + function(
            "other(self)", "Liefert den Wert der Zelle und die Summe.", "return self.call_it(self.x, 5)"
        )
        + function(
            "web(self)", "Load the page http://a.example now.", "return self.call_it(self.web, self.y)"
        ),
        "    ",
    )
    + function(
        "outer(x)",
        "Make a counter of calls.",
        "def inner():",
        '    """Count one more call."""',
        "    return x",
        "return inner",
    )
    + function("f(x)", "Return what x stands for.", "return x")  # short code
    + function("long(x)", "Return a very long list of it.", "return [", *["    x + 1,"] * 300, "]")
    + "def undocumented(x):\n    return x + 1\n",
    "pkg/near.py": function(
        "all_of(" + ", ".join(f"a{n}" for n in range(90)) + ")",
        "Add all of the numbers.",
        "return (",
        *[f"    a{n} +" for n in range(90)],
        "    zero)",
    )
    + function(
        "each_of(" + ", ".join(f"a{n}" for n in range(90)) + ")",
        "Add up each number there is.",
        "return (",
        *[f"    a{n} +" for n in range(90)],
        "    nought, None)",
    ),
    "pkg/made.py": "# This file was auto-generated. Do not edit.\n"
    + function("made(x)", "Return what was generated.", "return x.made(1)"),
    "pkg/data_pb2.py": function("buffer(x)", "Return the buffer of x.", "return x.buffer(1, 2, 3, 4)"),
    "pkg/tests/test_good.py": function(
        "helper(x)", "Help the tests with x.", "return x.helper(1, 2, 3, 4, 5)"
    ),
    "pkg/broken.py": "def f(:\n",
    "script.py": function("main(argv)", "Run the whole program.", "print(argv)", "return 0 if argv else 2"),
    ".hidden/x.py": PARSE,
    "venv/pyvenv.cfg": "",
    "venv/lib/x.py": PARSE,
}


def test_everything_of_a_tree_is_counted(tmp_path: Path) -> None:
    found = harvest([str(tree(tmp_path, MANY))], Wanted())
    assert [pair.name for pair in found.pairs] == ["first", "parse", "A.call", "outer", "all_of", "main"]
    assert found.dropped == {
        "nested": 1,
        "test": 1,
        "generated": 2,
        "stub": 2,
        "examples only": 1,
        "boilerplate": 1,
        "short docstring": 1,
        "language": 1,
        "address": 1,
        "short code": 1,
        "long code": 1,
        "same code": 1,
        "same docstring": 1,
        "near-duplicate": 1,
    }
    assert found.documented == len(found.pairs) + sum(found.dropped.values()) == 22
    assert found.functions == 23
    assert (found.files, found.unread) == (8, (("pkg/broken.py", "line 1: invalid syntax"),))
    assert found.dropped.keys() <= WHY.keys()


def test_a_row_has_all_that_is_known(tmp_path: Path) -> None:
    tree(tmp_path, MANY | {"pyproject.toml": '[project]\nlicense = "MIT"\n'})
    (pair,) = (pair for pair in harvest([str(tmp_path)], Wanted()).pairs if pair.name == "A.call")
    code = "def call(self):\n    return self.call_it(self.kind)"
    lines = (tmp_path / "pkg" / "good.py").read_text().split("\n")
    assert lines[pair.line - 1] == "    def call(self):"
    assert pair == Pair(
        prompt=f"Say in one sentence what this function does.\n\n{code}",
        answer="Call what the object has.",
        code=code,
        docstring="Call what the object has.",
        name="A.call",
        module="pkg.good",
        package="pkg",
        path="pkg/good.py",
        line=pair.line,
        licence="MIT",
        split=pair.split,
    )


def test_the_prompt_is_filled_in_one_pass(tmp_path: Path) -> None:
    text = function("f(x)", "Return the place of x.", 'return x.replace("{{name}}", "{{code}}")')
    (tmp_path / "a.py").write_text(text)
    code = 'def f(x):\n    return x.replace("{{name}}", "{{code}}")'

    def prompt(template: str) -> str:
        return harvest([str(tmp_path / "a.py")], Wanted(prompt=template)).pairs[0].prompt

    assert prompt("{{name}}: {{ code }}") == f"f: {code}"
    assert prompt("Describe:") == f"Describe:\n\n{code}"
    with pytest.raises(
        UserError, match=r"\['module'\], which nothing fills; there are {{code}} and {{name}}"
    ):
        prompt("{{module}}")


def test_limits_and_tests_are_asked_for(tmp_path: Path) -> None:
    root = str(tree(tmp_path, MANY))
    names = {
        pair.name for pair in harvest([root], Wanted(tests=True, code=(10, 9000), near_duplicate=1)).pairs
    }
    assert {"helper", "f", "long", "each_of"} <= names
    assert [p.name for p in harvest([root], Wanted(answer=(1, 26), words=2)).pairs] == [
        "A.call",
        "A.short",
        "outer",
        "all_of",
        "main",
    ]


PARTS = [
    ("One line", "One line", "One line", "One line"),
    (
        "Get it, e.g. by name. Or not.\n\nMore.",
        "Get it, e.g. by name.",
        "Get it, e.g. by name. Or not.",
        None,
    ),
    ("Over\ntwo lines. Then\nmore", "Over two lines.", "Over two lines. Then more", None),
    (
        "See J. Doe for v. 3.2 of it. Fine.",
        "See J. Doe for v. 3.2 of it.",
        "See J. Doe for v. 3.2 of it. Fine.",
        None,
    ),
    ("Really? Yes!", "Really?", "Really? Yes!", "Really? Yes!"),
    ("Do it (now.) Then rest.", "Do it (now.)", "Do it (now.) Then rest.", None),
    ("Make it.\n:param x: why\n:return: it", "Make it.", "Make it.", None),
    ("Make it.\nArgs:\n    x: why", "Make it.", "Make it.", None),
    ("Make it.\n>>> make()\n1", "Make it.", "Make it.", None),
    ("make(x) -> y\n\nMake it.", "Make it.", "Make it.", None),
    (":meth:`~a.b` and :class:`C` meet.", "`a.b` and `C` meet.", "`a.b` and `C` meet.", None),
    ("Make\n----\nIt.", "", "", None),
    ("Args:\n    x: why", "", "", None),
    (">>> 1\n1\n\n>>> 2\n2", "", "", ""),
]


@pytest.mark.parametrize(("docstring", "sentence", "paragraph", "whole"), PARTS)
def test_parts_of_a_docstring(docstring: str, sentence: str, paragraph: str, whole: str | None) -> None:
    assert part_of(docstring, "sentence") == sentence
    assert part_of(docstring, "paragraph") == paragraph
    assert part_of(docstring, "all") == (docstring if whole is None else whole)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("Return the value of the cell.", ""),
        ("Return the naïve façade of a café.", ""),
        ("Vérifie la valeur de la cellule et les autres.", "language"),
        ("返回单元格的值", "language"),
        ("Возвращает значение ячейки", "language"),
        ("See the base class.", "boilerplate"),
        ("See if the base class has a method of that name and call it there.", ""),
        ("Return one of the following:", "boilerplate"),
        ("Internal.", "boilerplate"),
        ("Internal state of the parser is reset here.", ""),
        ("y" * 61, "short docstring"),  # one word
        ("word " * 14 + ".", "long docstring"),
        ("See www.example.org for it.", "address"),
        ("", "examples only"),
    ],
)
def test_what_is_no_answer(answer: str, why: str) -> None:
    assert wrong_with_answer(answer, Limits(answer=(10, 66), code=(1, 1), words=3)) == why


@pytest.mark.parametrize(
    ("module", "name", "test"),
    [
        ("unittest.case", "TestCase.run", True),
        ("unittest.case", "skip", False),
        ("a.tests.b", "f", True),
        ("a.test_b", "f", True),
        ("a.b_test", "f", True),
        ("conftest", "f", True),
        ("a.testing", "f", False),
        ("a.latest", "contest", False),
        ("a.b", "C.test_it", True),
    ],
)
def test_what_is_a_test(module: str, name: str, test: bool) -> None:
    assert is_test(SourceFile(path=Path(), shown="", module=module, package="", licence=""), name) == test


def many_modules(folder: Path, sizes: Sequence[int]) -> str:
    files = {
        f"pkg{m}/m{m}.py": "".join(
            function(
                f"f{m}_{n}(x)",
                f"Return part {n} of module {m}.",
                f"return x.part{n}(x.module{m}, {'x, ' * n})",
            )
            for n in range(size)
        )
        for m, size in enumerate(sizes)
    }
    return str(tree(folder, files | {f"pkg{m}/__init__.py": "" for m in range(len(sizes))}))


def by_split(found: Harvest, key: str = "module") -> dict[str, set[str]]:
    splits: dict[str, set[str]] = {}
    for pair in found.pairs:
        splits.setdefault(pair.split, set()).add(getattr(pair, key))
    return splits


@pytest.mark.parametrize("key", ["module", "package"])
def test_a_module_or_package_is_in_one_split(tmp_path: Path, key: Any) -> None:
    root = many_modules(tmp_path, [5] * 20)
    found = harvest([root], Wanted(split_by=key, near_duplicate=1))
    splits = by_split(found, key)
    assert found.splits() == {"train": 85, "validation": 5, "held_out": 10}
    assert not splits["train"] & splits["held_out"] | splits["validation"] & (
        splits["train"] | splits["held_out"]
    )
    again = harvest([root], Wanted(split_by=key, near_duplicate=1))
    assert again == found


def test_splits_of_few_modules(tmp_path: Path) -> None:
    large = harvest([many_modules(tmp_path / "a", [40, 3, 3])], Wanted(near_duplicate=1))
    assert by_split(large)["train"] == {"pkg0.m0"}  # 40 of 46: no tenth
    one = harvest([many_modules(tmp_path / "b", [5])], Wanted(near_duplicate=1))
    assert one.splits() == {"train": 5, "validation": 0, "held_out": 0}
    two = harvest([many_modules(tmp_path / "c", [4, 5])], Wanted(near_duplicate=1))
    assert two.splits() == {"train": 5, "validation": 0, "held_out": 4}
    none = harvest(
        [many_modules(tmp_path / "d", [4, 5, 6])], Wanted(near_duplicate=1, validation=0, held_out=0)
    )
    assert none.splits() == {"train": 15, "validation": 0, "held_out": 0}


@pytest.mark.parametrize("package", ["json", "email", "logging"])
def test_most_of_what_the_standard_library_documents_is_kept(package: str) -> None:
    found = harvest([package], Wanted())
    counted = sum(len(read_source(file.path).documented) for file in find_files(package))
    assert found.documented == counted > 10
    assert len(found.pairs) >= 0.6 * counted
    assert {pair.licence for pair in found.pairs} == {"PSF-2.0"}
    assert {pair.package for pair in found.pairs} == {package}
    assert found.unread == ()


def test_packages_are_found_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"imports {name}")

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", refuse)
        names = {
            name: [(f.module, f.shown) for f in find_files(name)] for name in ("this", "wsgiref", "xml.dom")
        }
    assert set(sys.modules) == before
    assert names["this"] == [("this", "this.py")]
    assert ("wsgiref.util", "wsgiref/util.py") in names["wsgiref"]
    assert names["xml.dom"][0] == ("xml.dom", "xml/dom/__init__.py")
    assert {module.split(".")[0] for module, _ in names["xml.dom"]} == {"xml"}


def test_all_of_the_standard_library_is_found() -> None:
    files = find_files("stdlib")
    packages = {file.package for file in files}
    assert {"json", "email", "logging", "this", "typing"} <= packages
    assert not {"site-packages", "pip", "pytest"} & packages
    assert {file.licence for file in files} == {"PSF-2.0"}


def test_an_installed_package_has_its_licence_and_its_other_name(tmp_path: Path) -> None:
    (file, *_) = find_files("safetensors")
    assert file.licence == "Apache Software License" or "Apache" in file.licence
    (one,) = find_files("typing_extensions")
    assert (one.module, one.shown, one.licence) == ("typing_extensions", "typing_extensions.py", "PSF-2.0")
    assert {file.package for file in find_files("typing-extensions")} == {"typing_extensions"}


def test_a_namespace_has_the_files_of_all_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(
        tmp_path,
        {"a/space/one/__init__.py": PARSE, "b/space/two/mod.py": PARSE, "b/space/two/__init__.py": ""},
    )
    monkeypatch.syspath_prepend(tmp_path / "a")
    monkeypatch.syspath_prepend(tmp_path / "b")
    assert [file.module for file in find_files("space")] == ["space.one", "space.two", "space.two.mod"]
    assert [file.shown for file in find_files("space.two")] == ["space/two/__init__.py", "space/two/mod.py"]


def test_modules_of_a_tree_are_named_from_their_outermost_package(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "repo",
        {
            "src/pkg/__init__.py": "",
            "src/pkg/sub/__init__.py": "",
            "src/pkg/sub/a.py": PARSE,
            "tools/x.py": PARSE,
        },
    )

    def names(place: Path) -> list[tuple[str, str]]:
        return [(file.module, file.shown) for file in find_files(str(place)) if file.path.stat().st_size]

    assert names(root) == [("pkg.sub.a", "src/pkg/sub/a.py"), ("x", "tools/x.py")]
    assert names(root / "src" / "pkg" / "sub") == [("pkg.sub.a", "sub/a.py")]
    assert names(root / "src" / "pkg" / "sub" / "a.py") == [("pkg.sub.a", "a.py")]


def test_a_file_that_two_names_lead_to_is_read_once(tmp_path: Path) -> None:
    root = tree(tmp_path, {"pkg/__init__.py": PARSE})
    assert (
        len(harvest([str(root), str(root / "pkg"), str(root / "pkg" / "__init__.py")], Wanted()).pairs) == 1
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "jsno",
            "jsno: there is no such file or folder, and no such package is installed here; did you mean js",
        ),
        ("./nowhere", "./nowhere: there is no such file or folder"),
        ("sys", "sys: it is not written in Python, so there is no source to read"),
        ("json.nothing", "json.nothing: there is no such file"),
        ("../..//", None),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str | None
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(UserError) as caught:
        find_files(name)
    assert str(caught.value).startswith(said or "../..//: there is no Python source in it")
