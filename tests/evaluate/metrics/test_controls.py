"""Controls: what they say, what they score, and what is said where the tuned model does not beat them."""

from __future__ import annotations

import pytest

import make
from refine_rl.errors import UserError
from refine_rl.evaluate.metrics.measure import Bootstrap, Scale, bleu, deranged, measure, rouge_f1
from refine_rl.evaluate.metrics.names import not_beaten
from refine_rl.evaluate.metrics.nearest import Nearest
from refine_rl.evaluate.metrics.references import controls_of, require_references
from refine_rl.evaluate.metrics.resample import as_rows
from refine_rl.evaluate.verdict import cautions
from refine_rl.types import Beside

pytest.importorskip("sacrebleu")
HELD_OUT = [
    make.prompt(1, "def read_lines(path)", split="held_out", answer="Read all lines.", name="read_lines"),
    make.prompt(2, "def close(file)", split="held_out", answer="Close the file.", name="close"),
    make.prompt(3, "def addTwo(n)", split="held_out", answer="Add two to a number.", name="m.addTwo"),
]
TRAIN = [
    make.prompt(4, "def close_all(files)", answer="Close many files.", name="close_all"),
    make.prompt(5, "def readText(path)", answer="Read a text.", name="readText"),
    make.prompt(6, "def read_lines_twice(path)", name="read_lines"),  # no reference: no use
]
SAID = ["Read lines.", "Close it.", "Two."]


def test_controls_answer_without_a_model() -> None:
    found = controls_of(HELD_OUT, SAID, TRAIN, reference="answer", name="name", seed=0)
    references = ["Read all lines.", "Close the file.", "Add two to a number."]
    assert found["name"] == (["Read lines.", "Close.", "Add two."], references)
    assert found["nearest"][0][:2] == ["Read a text.", "Close many files."]
    answers, others = found["shuffled"]
    assert answers == SAID
    assert sorted(others) == sorted(references)
    assert all(other != own for other, own in zip(others, references, strict=True))


def test_controls_that_cannot_be_had_are_left_out() -> None:
    assert controls_of(HELD_OUT[:1], SAID[:1], [], reference="answer", name="", seed=0) == {}
    found = controls_of(HELD_OUT, SAID, TRAIN, reference="answer", name="", seed=0)
    assert found.keys() == {"shuffled", "nearest"}
    # By the prompts' texts now: `def`, `close` and `path` decide.
    assert found["nearest"][0][:2] == ["Read a text.", "Close many files."]


def test_the_nearest_is_by_rare_words_and_the_first_of_equals() -> None:
    near = Nearest(["the file the file", "the handle", "close", "close"])
    assert [near.place(text) for text in ("a handle", "CLOSE", "nothing known")] == [1, 2, 0]
    with pytest.raises(ValueError, match="no texts"):
        Nearest([])


@pytest.mark.parametrize("count", [2, 3, 17])
def test_shuffled_means_nobody_keeps_his_own(count: int) -> None:
    for seed in range(20):
        places = deranged(count, seed)
        assert sorted(places) == list(range(count))
        assert not any(place == own for own, place in enumerate(places))


def test_metrics_and_controls_have_the_same_scores_as_alone() -> None:
    references = ["a b c d", "e f g h i", "k l m n"]
    columns = {
        "base": (["x", "e f", "k"], references),
        "tuned": (["a b c d", "e f g h", "k l m n"], references),
        "sft": (["a b c", "e f g", "k l m"], references),
    }
    controls = {"nearest": (["a b c d", "e x g h i", "k l"], references)}
    points = {"tuned": Scale(rows=as_rows([0.5, 1.0, 0.0])), "nearest": Scale(rows=as_rows([1.0, None, 1.0]))}
    found = measure(
        [bleu, rouge_f1], columns, controls, {}, {"reward": points}, Bootstrap(resamples=100, seed=0)
    )
    assert list(found.metrics) == ["bleu", "rouge1", "rouge2", "rougeL"]
    metric = found.metrics["rouge1"]
    assert metric.prompts == 3
    assert metric.tuned.mean == pytest.approx((1 + 8 / 9 + 1) / 3)
    assert metric.base.mean == pytest.approx((0 + 4 / 7 + 2 / 5) / 3)
    assert metric.difference.mean == pytest.approx(metric.tuned.mean - metric.base.mean)
    assert metric.others["sft"].tuned_minus.mean > 0
    nearest = found.controls["nearest"]
    assert nearest["rouge1"].mean == pytest.approx((1 + 4 / 5 + 2 / 3) / 3)
    assert nearest["bleu"].mean < found.metrics["bleu"].tuned.mean
    # The reward on the two prompts where the control has one.
    assert (nearest["reward"].mean, nearest["reward"].tuned_minus.mean) == (1.0, -0.75)


# -- what is said ---------------------------------------------------------------------------------


def test_a_control_that_is_not_beaten_is_said() -> None:
    def beside(mean: float, low: float, high: float) -> Beside:
        ahead = make.estimate((low + high) / 2, low, high)
        return Beside(mean=mean, ci95=(mean, mean), tuned_minus=ahead)

    controls = {
        "nearest": {
            "bleu": beside(12.0, -1.0, 2.0),
            "rouge1": beside(0.25, 0.1, 0.2),
            "reward": beside(0.5, -0.1, 0),
        },
        "name": {"bleu": beside(3.0, 0.5, 2.0)},
        "shuffled": {"rouge1": beside(0.5, -0.125, 0.125)},
    }
    scale = make.contrast(10, 12.5, 1)
    metric = {"bleu": make.metric(scale, prompts=64)}
    said = not_beaten(make.comparison("better", make.contrast(0.2, 0.8), metrics=metric, controls=controls))
    assert said.keys() == {"nearest", "shuffled"}
    assert said["nearest"] == (
        "The tuned model is not shown to beat the answer of the nearest training prompt, which needs no "
        "model, by BLEU (12.500 against 12.000) and Reward (0.450 against 0.500)."
    )
    assert "fit the reference of another prompt as well as their own by ROUGE-1 (0.500" in said["shuffled"]
    compared = make.comparison("better", make.contrast(0.2, 0.8), metrics=metric, controls=controls)
    assert cautions(compared)["control_nearest"] == said["nearest"]
    few = {"bleu": make.metric(scale, prompts=4)}
    assert (
        not_beaten(make.comparison("better", make.contrast(0.2, 0.8), metrics=few, controls=controls)) == {}
    )


# -- what a prompt must have ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "prompt 'p9' has no `answer` in its data, which is empty"),
        ({"answr": "x"}, "has no `answer` in its data; did you mean `answr`?"),
        ({"solution": "x"}, "has no `answer` in its data; there is `solution`"),
        ({"answer": "  "}, "has an empty `answer`"),
        ({"answer": ""}, "has an empty `answer`"),
        ({"answer": ["a", "b"]}, "has a list as `answer`; a text is needed"),
    ],
)
def test_a_prompt_without_a_reference_is_named(data: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        require_references([HELD_OUT[0], make.prompt(9, split="held_out", **data)], "answer")
    assert said in str(caught.value)
    assert str(caught.value).startswith('evaluate.reference = "answer": ')
    assert "leave those metrics out of evaluate.metrics" in str(caught.value)


def test_numbers_are_references_too() -> None:
    require_references([make.prompt(1, answer=12), make.prompt(2, answer=0.5)], "answer")
