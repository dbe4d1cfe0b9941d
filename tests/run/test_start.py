"""`model.start` names a run: found, refused with the way out, or the start of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import SettingsError
from refine_rl.run import RunFolder
from refine_rl.run.start import begun_from
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict


def task(folder: Path, **model: Any) -> Settings:
    rules = [{"rule": "words", "max": 3}]
    return settings_from_dict({"task": "Be brief.", "model": model, "reward": {"rules": rules}}, folder)


@pytest.fixture
def earlier(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "runs/pairs", task(tmp_path, name="tiny"))
    run.write_model(lambda folder: None)
    return run


@pytest.mark.parametrize("given", [{}, {"name": "tiny"}])
def test_the_run_is_found_from_the_tasks_folder_and_names_its_model(
    earlier: RunFolder, tmp_path: Path, given: dict[str, str]
) -> None:
    found = begun_from(task(tmp_path, start="runs/pairs", **given)).model
    assert (found.name, found.start) == ("tiny", str(earlier.path))
    assert found.source == str(earlier.model)


def test_without_a_start_nothing_changes(tmp_path: Path) -> None:
    settings = task(tmp_path, name="tiny")
    assert begun_from(settings) is settings
    assert settings.model.source == "tiny"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"start": "runs/pear"}, "did you mean .*runs/pairs"),
        ({"start": "other/apples"}, "there is no run; `refine sft` makes one"),
        (
            {"start": "runs/pairs/model"},
            r'names the model in a run: `model.start = ".*runs/pairs"` is the run',
        ),
        (
            {"start": "runs/pairs", "name": "org/other"},
            'that run trained tiny, and `model.name` is "org/other"',
        ),
    ],
)
def test_what_is_no_start_is_refused(
    earlier: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=said):
        begun_from(task(tmp_path, **given))


def test_a_run_without_a_model_says_how_to_go_on(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "half", task(tmp_path, name="tiny"))
    with pytest.raises(SettingsError, match=r"no tuned model yet; `refine train --resume .*half` goes on"):
        begun_from(task(tmp_path, start="half"))
