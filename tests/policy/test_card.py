"""The model card's facts about the base model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from refine_rl.policy.card import Trained, base_of, model_card
from refine_rl.settings import Settings


def front(text: str) -> dict[str, object]:
    return dict(yaml.safe_load(text.split("---")[1]))


def card_of(name: str, adapter: str = "lora", *, merged: bool = False) -> str:
    settings = Settings.model_validate({"task": "Be short.", "model": {"name": name, "adapter": adapter}})
    return model_card(settings, None, trained=Trained(step=3, taken=3), base=base_of(name), merged=merged)


def test_the_bundled_model() -> None:
    text = card_of("tiny")
    assert front(text)["license"] == "apache-2.0"
    assert "base_model" not in front(text)  # it has no id on a hub
    assert "The bundled model `tiny`, trained with Re:Fine" in text
    assert f"3 steps, of {Settings(task='x').grpo.steps} planned, each of" in text


def test_a_hubs_model_is_named_and_its_card_asked_for_the_licence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: own-terms\nlicense_link: https://example.com/terms\n---\n# x\n"
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "README.md"))
    for merged, relation in ((False, "adapter"), (True, "finetune")):
        said = front(card_of("some-org/Some-1B", merged=merged))
        assert said["base_model"] == "some-org/Some-1B"
        assert said["base_model_relation"] == relation
        assert [said["license"], said["license_name"]] == ["other", "own-terms"]
        assert said["license_link"] == "https://example.com/terms"
    assert "all weights" in card_of("some-org/Some-1B", "none", merged=True)
    assert "merged" not in card_of("some-org/Some-1B", "none", merged=True)
    assert "LoRA rank 16 on a base of 4 bits (NF4" in card_of("some-org/Some-1B", "qlora")
    assert "unpacked, with the adapter merged in" in card_of("some-org/Some-1B", "qlora", merged=True)


def test_without_a_network_the_licence_is_not_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    text = card_of("some-org/Some-1B")
    assert front(text)["base_model"] == "some-org/Some-1B"
    assert "license" not in front(text)
    assert "The licence of the model that was trained holds" in text


@pytest.mark.parametrize("text", ["no front matter", "---\n: [broken\n---\n", "---\nlicense: [a, b]\n---\n"])
def test_a_strange_card_beside_a_model_does_no_harm(
    make_model: Callable[..., Path], tmp_path: Path, text: str
) -> None:
    (tmp_path / "README.md").write_text(text)
    base = base_of(str(tmp_path))
    assert (base.id, base.licence, base.called) == ("", {}, tmp_path.name)


def test_a_folder_hands_down_what_its_card_says(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\nbase_model: some-org/Some-1B\n---\n")
    text = card_of(str(tmp_path))
    assert front(text)["base_model"] == "some-org/Some-1B"
    assert front(text)["license"] == "mit"
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("trained", "text"),
    [
        (Trained(step=60, taken=60, best=True), "60 steps"),
        (Trained(step=40, taken=60, best=True), "40 steps (the best of 60 on the validation prompts)"),
        (Trained(step=20, taken=20), "20 steps, of 60 planned"),
        (
            Trained(step=10, taken=20, best=True),
            "10 steps (the best of 20 on the validation prompts, of 60 planned)",
        ),
        (Trained(step=10, taken=20), "10 steps (of 20 that were taken, of 60 planned)"),
    ],
)
def test_true_numbers_of_steps(trained: Trained, text: str) -> None:
    assert trained.text(60) == text
