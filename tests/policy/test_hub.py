"""Where the hub cannot be reached, that is found out once, and said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from refine_rl.errors import MachineError
from refine_rl.policy import hub
from refine_rl.policy.card import base_of
from refine_rl.policy.hub import downloading, hub_answers
from refine_rl.policy.load import load_policy
from refine_rl.settings import ModelSettings


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses that were asked; nobody answers."""
    addresses: list[str] = []

    def nobody(address: str) -> None:
        addresses.append(address)
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_ask", nobody)
    hub_answers.cache_clear()
    yield addresses
    hub_answers.cache_clear()


def test_a_hub_that_cannot_be_reached_is_asked_once_and_named(
    asked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with pytest.raises(
            MachineError, match=r"the hub \(https://.*\) cannot be reached, and the model is not"
        ):
            load_policy(ModelSettings(name="nobody/no-model-of-this-name"))
    assert asked == [constants.ENDPOINT]
    assert "Retrying" not in caplog.text


def test_a_card_does_without(asked: list[str]) -> None:
    base = base_of("nobody/no-model-of-this-name")
    assert (base.id, base.licence) == ("nobody/no-model-of-this-name", {})
    assert len(asked) == 1


def test_a_folder_asks_nobody(asked: list[str]) -> None:
    load_policy(ModelSettings(name="tiny", dtype="float32"))
    assert asked == []


def test_who_was_told_to_stay_offline_asks_nobody(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_answers()
    assert asked == []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a model's files that are still to come, of a hub that answers: 10 MB of weights."""
    monkeypatch.setattr(hub, "_ask", lambda address: None)
    monkeypatch.setattr(hub, "_weights", lambda name: 10_000_000)
    monkeypatch.setattr(hub, "BETWEEN", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--somebody--a-model" / "blobs"
    blobs.mkdir(parents=True)
    return blobs


def test_what_comes_is_counted(cache: Path) -> None:
    told = {(done, 10): threading.Event() for done in range(10)}
    with downloading("somebody/a-model", lambda done, of: told[done, of].set()):
        assert told[0, 10].wait(60)
        (cache / "a.incomplete").write_bytes(b"0" * 7_000_000)
        assert told[7, 10].wait(60)


def test_what_is_here_is_not_counted(cache: Path) -> None:
    (cache / "a").write_bytes(b"0" * 10_000_000)
    told: list[int] = []
    for source in ("somebody/a-model", str(cache)):
        before = set(threading.enumerate())
        with downloading(source, lambda done, of: told.append(done)):
            for thread in set(threading.enumerate()) - before:
                thread.join(60)
    assert told == []


def test_a_hub_that_does_not_say_it_ends_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def silent(name: str) -> int:
        asked.set()
        raise OSError("no network")

    monkeypatch.setattr(hub, "_weights", silent)
    with downloading("somebody/a-model", lambda done, of: None):
        assert asked.wait(60)
