"""BLEU, chrF and ROUGE: by hand on small texts, and against sacrebleu and rouge-score on many."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine_rl.errors import SettingsError
from refine_rl.evaluate.metrics import sacre
from refine_rl.evaluate.metrics.measure import rouge_f1
from refine_rl.evaluate.metrics.rouge import by_characters, rouge

sacrebleu = pytest.importorskip("sacrebleu.metrics")
WORDS = ["the", "a", "cat", "file", "reads", "returns,", "and.", "(not)", "Größe", "12.5", "x_1", "文件"]


def texts(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(0, 12))) for _ in range(count)]


def resampled(rows: Sequence[Sequence[float]], seed: int) -> list[float]:
    drawn = np.random.default_rng(seed).integers(len(rows), size=len(rows))
    return [int(n) for n in np.asarray(rows)[drawn].sum(axis=0)]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_a_corpus_gets_what_sacrebleu_gives_it(name: str) -> None:
    metric = sacrebleu.BLEU(force=True) if name == "bleu" else sacrebleu.CHRF()
    for seed in range(40):
        answers, references = texts(seed, 1 + seed % 9), texts(1000 + seed // 2, 1 + seed % 9)
        if seed % 4 == 0:
            answers = [a if n % 2 else r for n, (a, r) in enumerate(zip(answers, references, strict=True))]
        corpus = sacre.count(name, answers, references)  # type: ignore[arg-type]
        ours = corpus.value(corpus.rows.sum(axis=0))
        assert ours == pytest.approx(metric.corpus_score(answers, [references]).score, abs=1e-9)
        # Any resample, through sacrebleu's own formula; ours takes many at once.
        sums = [resampled(corpus.rows, s) for s in range(5)]
        theirs = [metric._compute_score_from_stats(list(one)).score for one in sums]
        assert corpus.value(np.array(sums, dtype=float)) == pytest.approx(theirs, abs=1e-9)


def test_bleu_by_hand() -> None:
    """Five tokens of six: 5/5, 4/4, 3/3, 2/2 n-grams match, and the answer is too short by one."""
    corpus = sacre.count("bleu", ["the cat sat on the"], ["the cat sat on the mat"])
    assert corpus.rows.tolist() == [[5, 6, 5, 4, 3, 2, 5, 4, 3, 2]]
    assert corpus.value(corpus.rows[0]) == pytest.approx(100 * math.exp(1 - 6 / 5))
    # One 1-gram of four, nothing longer: 1/4, then 1/2, 1/4, 1/8 of a match (exponential smoothing).
    corpus = sacre.count("bleu", ["a b c d"], ["a x y z"])
    wanted = (1 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** 0.25
    assert corpus.value(corpus.rows[0]) == pytest.approx(100 * wanted)
    assert "tok:13a|smooth:exp|version:" in corpus.how


def test_chrf_by_hand() -> None:
    """`ab` for `abc`: 1-grams 2 of 2 and of 3, 2-grams 1 of 1 and of 2; no longer ones on both sides."""
    corpus = sacre.count("chrf", ["a b"], ["abc"])
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    assert corpus.value(corpus.rows[0]) == pytest.approx(
        100 * 5 * precision * recall / (4 * precision + recall)
    )
    assert "nc:6|nw:0" in corpus.how


def test_nothing_at_all_scores_0() -> None:
    for name in ("bleu", "chrf"):
        corpus = sacre.count(name, ["", ""], ["a b", "c"])  # type: ignore[arg-type]
        assert corpus.value(corpus.rows.sum(axis=0)) == 0.0


def test_bleu_of_a_script_without_spaces_is_by_characters() -> None:
    corpus = sacre.count("bleu", ["返回文件的所有内容"], ["返回文件的内容"])
    assert "tok:char" in corpus.how
    assert 30 < float(corpus.value(corpus.rows[0])) < 100


def test_without_sacrebleu_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sacre.require_sacrebleu("bleu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        SettingsError, match=r'evaluate\.metrics: "chrf" .*pip install "refine-rl\[metrics\]"'
    ):
        sacre.require_sacrebleu("chrf")


# -- ROUGE ----------------------------------------------------------------------------------------


def test_rouge_by_hand() -> None:
    # 1-grams: the, cat of 4 and 3; 2-grams: none; the longest common subsequence: the ... cat
    assert rouge("the black cat runs", "the cat, sleeping") == pytest.approx((4 / 7, 0.0, 4 / 7))
    # b and c, once each in the reference: 2 of 4 and of 3; `b c`: 1 of 3 and of 2
    assert rouge("b c b c", "a b c") == pytest.approx((4 / 7, 2 / 5, 4 / 7))


def test_rouge_is_what_rouge_score_gives() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    compared = 0
    for seed in range(30):
        for answer, reference in zip(texts(seed, 20), texts(500 + seed, 20), strict=True):
            if by_characters(reference):
                continue
            theirs = scorer.score(reference, answer)
            wanted = tuple(theirs[name].fmeasure for name in ("rouge1", "rouge2", "rougeL"))
            assert rouge(answer, reference) == pytest.approx(wanted, abs=1e-12)
            compared += 1
    assert compared > 450


@given(st.text(max_size=30).filter(lambda text: bool(text.strip())))
def test_a_text_is_like_itself_in_any_script(text: str) -> None:
    one, _, longest = rouge(text, text)
    assert (one, longest) == (1.0, 1.0)


def test_other_scripts_are_compared_by_characters_and_it_is_said() -> None:
    # 4 of 5 characters each way; as words of a-z both would be nothing
    assert rouge("кошка", "кошки") == pytest.approx((4 / 5, 3 / 4, 4 / 5))
    assert rouge("a cat", "кошки") == (0.0, 0.0, 0.0)
    scales = rouge_f1(["кошка", "a cat"], ["кошки", "a cat"])
    assert "1 of 2 references by characters" in scales["rouge1"].how
    assert scales["rouge2"].rows.tolist() == [[0.75, 1.0], [1.0, 1.0]]
