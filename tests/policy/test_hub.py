"""Where the hub cannot be reached, that is found out once, and said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from refine_rl.errors import MachineError
from refine_rl.policy import hub
from refine_rl.policy.card import base_of
from refine_rl.policy.hub import hub_answers
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
