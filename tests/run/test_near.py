"""Which run is meant by a path that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_rl.errors import UserError
from refine_rl.run import RunFolder
from refine_rl.run.near import did_you_mean, run_near
from refine_rl.settings import Settings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the runs runs/shop, runs/shop-2 and other/greet, and a task's folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/shop", "runs/shop-2", "other/greet"):
        RunFolder.create(
            Path(name), Settings.model_validate({"task": "a", "reward": {"rules": [{"rule": "not_empty"}]}})
        )
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "task.toml").write_text('task = "a"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        ("shop", "runs/shop"),  # the task's folder, or the name that `refine runs` shows
        ("shop-2", "runs/shop-2"),
        ("runs/shop/model", "runs/shop"),
        ("runs/shop/report.html", "runs/shop"),
        ("runs/shpo", "runs/shop"),
        ("other/gret", "other/greet"),
        ("shp-2", "runs/shop-2"),
        ("other/entirely", None),
        ("elsewhere/x", None),
    ],
)
def test_the_run_that_is_meant(here: Path, named: str, meant: str | None) -> None:
    assert run_near(Path(named)) == (None if meant is None else Path(meant))


def test_it_is_said_where_a_run_is_wanted(here: Path) -> None:
    with pytest.raises(
        UserError, match=r"^shop is not a run: it has no config.toml. Did you mean runs/shop\?$"
    ):
        RunFolder.open(Path("shop"))
    assert did_you_mean(Path("runs")) == " Those in it: refine runs runs"
    assert did_you_mean(here / "runs") == f" Those in it: refine runs {here}/runs"
    assert did_you_mean(Path("elsewhere")) == ""
