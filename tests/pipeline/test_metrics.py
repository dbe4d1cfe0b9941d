"""Metrics of whole runs on a small random model: in the comparison, resumed, and in a later evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from make import Pause
from refine_rl.errors import Interrupted, UserError
from refine_rl.evaluate.metrics.rouge import rouge
from refine_rl.pipeline.evaluate import evaluate_again
from refine_rl.pipeline.resume import reopen
from refine_rl.pipeline.train import run
from refine_rl.pipeline.weights import open_model
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import override, settings_from_dict

pytest.importorskip("sacrebleu")

MakeModel = Callable[..., Path]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]
AS_LONG = """
def as_long(completion, answer):
    return 1 - abs(len(completion) - len(answer)) / 100
"""
METRICS = ["bleu", "chrf", "rouge", "length", "perplexity"]


@pytest.fixture(scope="module")
def task(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """task(metrics=[...]) -> settings of a run of a second; each prompt has an answer and a name."""
    folder = tmp_path_factory.mktemp("task")
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
    lines = [
        {"prompt": f"say something about the {a} and a {b}", "answer": f"The {a} {b}.", "name": f"{a}_{b}"}
        for a, b in pairs
    ]
    (folder / "rewards.py").write_text(AS_LONG)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(**evaluate: Any) -> Settings:
        return settings_from_dict(
            {
                "task": "Be short.",
                "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
                "prompts": {"source": "file:prompts.jsonl", "validation": 0, "held_out": 8},
                "reward": {"rules": [{"rule": "chars", "max": 12}], "functions": ["rewards.py:as_long"]},
                "rollout": {"group_size": 4, "max_tokens": 8},
                "grpo": {"steps": 3, "prompts_per_step": 3, "checkpoint_every": 1, "all_cut_patience": 99},
                "evaluate": {"samples": 2, "bootstrap": 200, **evaluate},
            },
            folder,
        )

    return make


@pytest.fixture(scope="module")
def measured(task: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "a", task(metrics=METRICS, name="name"))
    run(folder)
    return folder


def test_the_comparison_has_every_metric_of_the_greedy_answers(measured: RunFolder) -> None:
    comparison = measured.comparison()
    assert comparison is not None
    names = ["bleu", "chrf", "rouge1", "rouge2", "rougeL", "chars", "tokens", "perplexity"]
    assert list(comparison.metrics) == names
    for side in ("base", "tuned"):
        outcomes = measured.outcomes(side)
        assert outcomes is not None
        said = [(o.greedy[0].completion, o.prompt.data["answer"]) for o in outcomes]
        of = {name: getattr(metric, side).mean for name, metric in comparison.metrics.items()}
        assert of["rouge1"] == pytest.approx(sum(rouge(*pair)[0] for pair in said) / 8)
        assert of["chars"] == sum(len(text) for text, _ in said) / 8
        assert of["tokens"] == sum(o.greedy[0].completion_tokens for o in outcomes) / 8
    for metric in comparison.metrics.values():
        assert metric.prompts == 8
        assert metric.difference.mean == pytest.approx(metric.tuned.mean - metric.base.mean)
        assert metric.difference.ci95[0] <= metric.difference.mean <= metric.difference.ci95[1]
    assert comparison.metrics["bleu"].how.startswith("sacrebleu, nrefs:1|")
    kept = json.loads((measured.path / "comparison.json").read_text())
    assert kept["metrics"]["chrf"]["tuned"]["mean"] == comparison.metrics["chrf"].tuned.mean
    assert {"mean", "ci95", "tuned_minus"} == kept["controls"]["nearest"]["bleu"].keys()


def test_controls_are_measured_and_rewarded_alike(measured: RunFolder) -> None:
    comparison = measured.comparison()
    assert comparison is not None
    texts = {"bleu", "chrf", "rouge1", "rouge2", "rougeL"}
    assert {name: set(found) for name, found in comparison.controls.items()} == {
        "shuffled": {*texts, "reward"},
        "name": {*texts, "reward"},
        "nearest": {*texts, "reward"},
    }
    # "Cat dog." for "The cat dog.": 2 of 2 and of 3 words, 1 of 1 and of 2 pairs of them.
    echoed = comparison.controls["name"]
    assert echoed["rouge1"].mean == pytest.approx(4 / 5)
    assert echoed["rouge2"].mean == pytest.approx(2 / 3)
    assert echoed["rouge1"].tuned_minus.mean == pytest.approx(comparison.metrics["rouge1"].tuned.mean - 4 / 5)
    # "Cat dog." is short enough for the rule, and four characters shorter than "The cat dog.".
    assert echoed["reward"].mean == pytest.approx(1 + 0.96)
    said = measured.outcomes("tuned") or []
    greedy = [o.greedy[1].value or 0.0 for o in said]
    assert echoed["reward"].mean + echoed["reward"].tuned_minus.mean == pytest.approx(sum(greedy) / 8)
    events = [e for e in measured.events() if e["kind"] == "warning"]
    assert not [e for e in events if e["name"].startswith("missing")]
    assert (
        "The tuned model is not shown to beat the name echoed" in (measured.path / "report.html").read_text()
    )


def test_a_resumed_run_measures_the_same(
    task: Callable[..., Settings], measured: RunFolder, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "b", task(metrics=METRICS, name="name"))
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(12))
    run(folder)
    assert folder.comparison() == measured.comparison()


def test_a_resume_takes_other_metrics_but_no_other_reference(
    task: Callable[..., Settings], measured: RunFolder, tmp_path: Path
) -> None:
    """Base is asked for its losses anew: it is what the policy still is when a run is taken up."""
    folder = RunFolder.create(tmp_path / "g", task(metrics=["rouge"], name="name"))
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(40))
    assert folder.outcomes("base") is not None
    with pytest.raises(UserError, match=r"--set evaluate\.reference: this cannot change within a run"):
        reopen(folder.path, ['evaluate.reference="name"'])
    comparison = run(reopen(folder.path, ['evaluate.metrics=["perplexity"]', 'evaluate.name=""']))
    own = measured.comparison()
    assert own is not None
    assert comparison.metrics.keys() == {"perplexity"}
    assert comparison.metrics["perplexity"].base == own.metrics["perplexity"].base


def test_a_reward_that_looks_at_no_reference_has_no_shuffled_control(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = task(metrics=["rouge"])
    blind = settings.model_copy(update={"reward": settings.reward.model_copy(update={"functions": []})})
    folder = RunFolder.create(tmp_path / "c", blind)
    comparison = run(folder)
    assert comparison.controls.keys() == {"shuffled", "nearest"}  # no column of names
    assert "reward" not in comparison.controls["shuffled"]
    assert "reward" in comparison.controls["nearest"]


def test_a_later_evaluation_measures_what_it_is_asked_for(measured: RunFolder) -> None:
    before = (measured.path / "comparison.json").read_bytes()
    comparison, written = evaluate_again(measured, metrics=["chrf", "length"], name="later", seed=5)
    assert list(comparison.metrics) == ["chrf", "chars", "tokens"]
    own = measured.comparison()
    assert own is not None
    # Greedy answers have no luck in them, so only the draws of the interval are others.
    assert comparison.metrics["chrf"].tuned.mean == own.metrics["chrf"].tuned.mean
    assert comparison.metrics["chrf"].base.mean == own.metrics["chrf"].base.mean
    assert measured.evaluations()[written.stem] == comparison
    assert (measured.path / "comparison.json").read_bytes() == before
    page = (measured.path / "report.html").read_text()
    assert "Later evaluations" in page
    assert f"<h3>{written.stem}</h3>" in page


def test_the_perplexity_is_of_the_references_under_each_model(measured: RunFolder) -> None:
    """Held against the model itself, without a batch: the mean over all tokens, then exp."""
    own, later = measured.comparison(), evaluate_again(measured, metrics=["perplexity"], name="p")[0]
    assert own is not None
    held_out = [p for p in measured.prompts() if p.split == "held_out"]
    _, policy = open_model(measured)

    def perplexity() -> float:
        loss, count = 0.0, 0
        for prompt in held_out:
            asked = policy.encode(prompt.messages)
            words = [*policy.encode_words(str(prompt.data["answer"])), min(policy.stop_ids)]
            with torch.no_grad():
                logits = policy.forward(input_ids=torch.tensor([[*asked, *words]])).logits[0].double()
            logprobs = torch.log_softmax(logits, dim=-1)
            for place, token in enumerate(words, len(asked)):
                loss -= float(logprobs[place - 1, token])
                count += 1
        return math.exp(loss / count)

    found = own.metrics["perplexity"]
    assert found.tuned.mean == pytest.approx(perplexity(), rel=1e-5)
    with policy.reference():
        assert found.base.mean == pytest.approx(perplexity(), rel=1e-5)
    assert found.base.mean != pytest.approx(found.tuned.mean, rel=1e-4)
    assert later.metrics["perplexity"].tuned.mean == pytest.approx(found.tuned.mean, rel=1e-6)
    assert later.metrics["perplexity"].base.mean == pytest.approx(found.base.mean, rel=1e-6)
    assert later.controls == {}  # nothing is said that could be held against a reference
    assert own.controls["nearest"].keys() == {"bleu", "chrf", "rouge1", "rouge2", "rougeL", "reward"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metrics": ["rogue"]}, '--metrics rogue: no metric is called "rogue"; did you mean "rouge"?'),
        ({"metrics": ["bleu"], "reference": "anser"}, "did you mean `answer`?"),
        ({"metrics": ["win_rate"]}, "--metrics win_rate: a judge decides it"),
        ({"judge": "a/b", "metrics": ["bleu"]}, "--judge a/b: this run's reward has no judge"),
    ],
)
def test_what_cannot_be_measured_is_refused(measured: RunFolder, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        evaluate_again(measured, **asked)
    assert said in str(caught.value)


def test_a_missing_reference_stops_before_the_model_is_loaded(
    task: Callable[..., Settings], tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "d", task(metrics=["bleu"], reference="label"))
    with pytest.raises(UserError, match=r"has no `label` in its data; there are `answer`, `name`"):
        run(folder)
    assert not folder.groups.exists()


def longer(body: dict[str, Any]) -> str:
    """A judge for whom the longer of two answers wins."""
    parts = body["messages"][-1]["content"].split('<answer name="')[1:]
    a, b = (len(json.loads(part.split("\n</answer>")[0].split('">\n')[1])[0]["content"]) for part in parts)
    return json.dumps({"explanation": "by length", "winner": "A" if a > b else "B" if b > a else "tie"})


def test_a_win_rate_is_judged_in_both_orders_and_paid_for(
    task: Callable[..., Settings], tmp_path: Path, llm_server: Callable[..., Any]
) -> None:
    server = llm_server(brain=longer)
    settings = override(
        task(metrics=["win_rate", "length"], judge="mine/judge"),
        [f'endpoints.mine={{base_url="{server.base_url}"}}'],
    )
    folder = RunFolder.create(tmp_path / "e", settings)
    comparison = run(folder)
    assert list(comparison.metrics) == ["chars", "tokens", "win_rate", "win_rate_reference"]
    base, tuned = (folder.outcomes(side) or [] for side in ("base", "tuned"))

    def points(ours: str, theirs: str) -> float:
        return (len(ours) > len(theirs)) + (len(ours) == len(theirs)) / 2

    pairs = [(t.greedy[0].completion, b.greedy[0].completion) for b, t in zip(base, tuned, strict=True)]
    won = sum(points(*pair) for pair in pairs) / 8
    metric = comparison.metrics["win_rate"]
    assert (metric.tuned.mean, metric.base.mean) == pytest.approx((won, 1 - won))
    assert metric.difference.mean == pytest.approx(2 * won - 1)
    assert (metric.how, metric.notes["missing"]) == ("judged by mine/judge", 0)
    beside = [(t.greedy[0].completion, t.prompt.data["answer"]) for t in tuned]
    against = comparison.metrics["win_rate_reference"]
    assert against.tuned.mean == pytest.approx(sum(points(*pair) for pair in beside) / 8)
    if "first_shown" in metric.notes:
        assert metric.notes["first_shown"] == 0.5  # this judge does not look at the place
        assert metric.notes["turned"] == 0.0
    calls = [call for call in folder.calls() if call["purpose"] == "win rate"]
    distinct = sum(len({t, b}) == 2 for t, b in pairs)
    distinct += sum(a != b for a, b in beside)
    distinct += sum(o.greedy[0].completion != o.prompt.data["answer"] for o in base)
    assert len(calls) == 2 * distinct  # the first look stands under another purpose
    assert comparison.controls == {}
    page = (folder.path / "report.html").read_text()
    assert "Win rate against the reference" in page
    assert "judged by mine/judge" in page


def test_verdicts_that_cannot_be_had_are_missing_and_never_losses(
    task: Callable[..., Settings], tmp_path: Path, llm_server: Callable[..., Any]
) -> None:
    def silent_on_cats(body: dict[str, Any]) -> str:
        return "no JSON" if "The cat" in str(body) else longer(body)

    server = llm_server(brain=silent_on_cats)
    settings = override(
        task(metrics=["win_rate"], judge="mine/judge"),
        [f'endpoints.mine={{base_url="{server.base_url}"}}', "judge.corrections=0"],
    )
    folder = RunFolder.create(tmp_path / "f", settings)
    comparison = run(folder)
    held_out = [p for p in folder.prompts() if p.split == "held_out"]
    lost = sum(str(p.data["answer"]).startswith("The cat") for p in held_out)
    assert 0 < lost < 8
    metric = comparison.metrics["win_rate_reference"]
    assert (metric.prompts, metric.notes["missing"]) == (8 - lost, 2 * lost)
    assert comparison.metrics["win_rate"].prompts == 8
    (warning,) = [e for e in folder.events() if e["name"] == "missing_in_win_rate"][:1]
    assert f"No verdict on {lost} of 8 pairs of answers" in warning["text"]
