"""The quick tier: what is in it, and that no model gets in."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import quick

ROOT = Path(__file__).parents[1]
COLLECT = """
import json, pathlib, pytest, quick
class Seen:
    def pytest_collection_finish(self, session):
        seen = {item.nodeid: quick.why_slow(item) for item in session.items}
        pathlib.Path(sys.argv[1]).write_text(json.dumps(seen))
pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider"], plugins=[Seen()])
"""


@pytest.fixture(scope="module")
def why_slow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every test, and why it is not quick."""
    config = request.config
    if config.args == config.getini("testpaths") and not config.option.keyword and not config.option.deselect:
        # The suite runs as a whole, and has been collected but for what its own -m leaves out.
        return {item.nodeid: quick.why_slow(item) for item in request.session.items}
    file = tmp_path_factory.mktemp("collected") / "why.json"
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n{COLLECT}"
    subprocess.run([sys.executable, "-c", code, file], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads(file.read_text())


def test_most_tests_are_quick(why_slow: dict[str, str]) -> None:
    """Where fewer are, a rule of tests/quick.py hit more than was meant."""
    quick_ones = [name for name, why in why_slow.items() if not why]
    assert len(quick_ones) > 0.55 * len(why_slow)
    assert any(name.startswith("src/") for name in quick_ones)  # doctests


@pytest.mark.parametrize(
    "place",
    [
        "tests/envs/test_play.py",
        "tests/llm/test_structured.py",
        "tests/prompts/",
        "tests/rewards/judges/",
        "tests/rewards/rules/",
        "tests/rewards/test_combine.py",
        "tests/rewards/text/",
        "tests/run/test_journal.py",
        "tests/run/test_table.py",
        "tests/settings/",
        "tests/training/grpo/test_advantages.py",
        "tests/training/grpo/test_collect.py",
        "tests/training/grpo/test_loop.py",
        "tests/training/grpo/test_loss.py",
    ],
)
def test_the_tier_holds(place: str, why_slow: dict[str, str]) -> None:
    here = [why for name, why in why_slow.items() if name.startswith(place)]
    assert here.count("") > 0.8 * len(here)


def _starts_a_process() -> None:
    subprocess.run(["true"], check=True)


class _Holds:
    def start(self) -> None:
        def later() -> None:
            _starts_a_process()

        later()


def _asks_for_trl() -> None:
    pytest.importorskip("trl.rewards")


def test_words_are_found_through_what_a_test_names() -> None:
    assert "subprocess" in quick.words_of(_Holds)
    assert "trl" in quick.words_of(_asks_for_trl)
    assert "subprocess" not in quick.words_of(_asks_for_trl)


def test_a_quick_test_cannot_make_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config

    importlib.import_module(quick.MODELS)
    quick.forbid_models(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="makes or loads a model"):
        AutoModelForCausalLM.from_config(GPT2Config(n_embd=8, n_layer=1, n_head=1))


def test_a_quick_test_cannot_import_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, quick.MODELS, raising=False)
    quick.forbid_models(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="makes or loads a model"):
        importlib.import_module(quick.MODELS)
