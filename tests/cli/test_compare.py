"""refine compare, on real runs: what is taken from the record, what is made anew, and that both meet the same
draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.evaluate.compare import compare
from refine_rl.pipeline.players import reward_differs
from refine_rl.pipeline.train import run as train
from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings

Refine = Callable[..., Any]  # its results have .code, .out and .err
Trained = tuple[Path, Any]


@pytest.fixture
def a(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "runs/a"))


@pytest.fixture(scope="module")
def other(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same task, trained otherwise."""
    folder = RunFolder.create(
        tmp_path_factory.mktemp("other") / "b", load_settings(task, overrides=["grpo.learning_rate=0.001"])
    )
    train(folder)
    return folder.path


def found(result: Any) -> dict[str, Any]:
    assert result.code == 0, result.err
    return dict(json.loads(result.out))


def is_nothing(versus: dict[str, Any]) -> bool:
    """Whether there is no difference at all, on any prompt and measure."""
    c = versus["comparison"]
    contrasts = [c["difference"], *(d["difference"] for d in c["details"].values())]
    return all((e["mean"], e["ci95"]) == (0.0, [0.0, 0.0]) for e in contrasts)


def test_what_both_have_on_record_is_set_side_by_side(refine: Refine, a: Path, other: Path) -> None:
    result = refine("compare", a, other, "--json")
    versus = found(result)
    assert "nothing is made anew" in result.err
    assert "Loading" not in result.err
    one, two = RunFolder(a), RunFolder(other)
    expected = compare(
        one.outcomes("tuned") or [],
        two.outcomes("tuned") or [],
        success=lambda score: False,  # not looked at here
        resamples=200,
        seed=0,
    )
    assert expected.difference is not None
    assert versus["comparison"]["difference"] == {
        "mean": expected.difference.mean,
        "ci95": list(expected.difference.ci95),
    }
    base = RunFolder(a).comparison()
    assert base is not None
    assert base.tuned is not None
    assert versus["comparison"]["base"]["mean"] == base.tuned.mean
    assert [versus[side][key] for side in "ab" for key in ("answers", "scores")] == ["on record"] * 4


def test_the_files_and_the_terminal(refine: Refine, a: Path, other: Path) -> None:
    done = refine("compare", a, other)
    assert done.code == 0, done.err
    assert "a (A)" in done.out
    assert "b (B)" in done.out
    assert "Only 6 prompts" in done.out
    record = json.loads((a / "comparisons/b.json").read_text())
    assert record["comparison"]["prompts"] == 6
    assert record["verdict"] in ("A is better", "B is better", "no difference shown")
    assert "<h1" in (a / "comparisons/b.html").read_text()
    assert not (other / "comparisons").exists()
    assert 'href="comparisons/b.html"' in (a / "report.html").read_text()  # A's page lists it at once
    again = refine("compare", a, other, "--name", "b")
    assert f"written to {a}/comparisons/b-2.json" in again.out
    assert refine("compare", a, other, "--name", "x/y").code == 2


def test_the_same_model_meets_the_same_draws(refine: Refine, a: Path) -> None:
    """A copy without its answers gives the very answers that are on record; with other draws both give
    others, and alike."""
    twin = Path(shutil.copytree(a, a.parent / "twin"))
    (twin / "evaluations/tuned.jsonl").unlink()
    result = refine("compare", a, twin, "--json")
    versus = found(result)
    assert (versus["a"]["answers"], versus["b"]["answers"]) == ("on record", "anew")
    assert is_nothing(versus)
    again = found(refine("compare", a, twin, "--again", "--json"))
    assert (again["a"]["answers"], again["b"]["answers"], again["seed"]) == ("anew", "anew", 1)
    assert is_nothing(again)
    first, second = (v["comparison"]["examples"] for v in (versus, again))
    assert [e["base"] for e in first] == [e["base"] for e in second]  # greedy ones know no draws
    assert versus["comparison"]["base"] != again["comparison"]["base"]


def test_answers_of_other_weights_are_not_taken_from_the_record(refine: Refine, a: Path, other: Path) -> None:
    twin = Path(shutil.copytree(a, a.parent / "twin"))
    for file in (other / "model").glob("*.safetensors"):
        shutil.copy(file, twin / "model" / file.name)
    versus = found(refine("compare", a, twin, "--json"))
    assert versus["b"]["answers"] == "anew"
    assert not is_nothing(versus)


def test_prompts_that_the_other_was_trained_on_are_left_out(refine: Refine, a: Path) -> None:
    import dataclasses

    twin = RunFolder(Path(shutil.copytree(a, a.parent / "twin")))
    prompts = twin.prompts()
    held_out = [p for p in prompts if p.split == "held_out"]
    words = held_out[1].messages[-1]["content"].upper()
    seen = [
        dataclasses.replace(held_out[0], split="train", id="seen-1"),
        dataclasses.replace(
            held_out[1], split="validation", id="seen-2", messages=({"role": "user", "content": f"{words}!"},)
        ),
    ]
    twin.save_prompts([*prompts, *seen])
    result = refine("compare", a, twin.path, "--json")
    versus = found(result)
    assert versus["left_out"] == [held_out[0].id, held_out[1].id]
    assert versus["comparison"]["prompts"] == len(held_out) - 2
    everything = [dataclasses.replace(p, split="train", id=f"seen-{p.id}") for p in held_out]
    twin.save_prompts([*prompts, *everything])
    refused = refine("compare", a, twin.path)
    assert refused.code == 2
    assert "name others with --prompts FILE" in refused.err


def test_any_model_may_be_the_other_one(refine: Refine, a: Path) -> None:
    model = RunFolder(a).settings().model.name
    versus = found(refine("compare", a, model, "--json"))
    base = RunFolder(a).comparison()
    assert base is not None
    assert base.base is not None
    assert versus["comparison"]["tuned"]["mean"] == base.base.mean  # untuned, it is the run's base
    assert versus["b"]["run"] == ""
    assert any("may have seen these prompts" in note for note in versus["notes"])


def test_other_prompts_and_more_samples(refine: Refine, a: Path, other: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.jsonl"
    trained = next(p for p in RunFolder(other).prompts() if p.split == "train").messages[-1]["content"]
    texts = ["what is a lamp", "who painted the blue door", "why do cats sleep", trained]
    new.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    versus = found(refine("compare", a, other, "--prompts", new, "--samples", "3", "--json"))
    assert (versus["comparison"]["prompts"], versus["comparison"]["samples"]) == (3, 3)
    assert len(versus["left_out"]) == 1
    assert versus["source"] == f"file:{new}"
    assert (versus["a"]["answers"], versus["b"]["answers"]) == ("anew", "anew")


def test_another_reward_is_told_and_only_that_sides_record_is_scored_anew(
    refine: Refine, a: Path, other: Path
) -> None:
    twin = Path(shutil.copytree(other, a.parent / "twin"))
    config = twin / "config.toml"
    config.write_text(config.read_text().replace("max = 12", "max = 5"))
    assert reward_differs(RunFolder(a), RunFolder(twin)) == ["reward.rules"]
    versus = found(refine("compare", a, twin, "--json"))
    assert versus["differs"] == ["reward.rules"]
    assert (versus["b"]["answers"], versus["b"]["scores"]) == ("on record", "anew")
    same = found(refine("compare", a, other, "--json"))
    assert versus["comparison"]["tuned"] == same["comparison"]["tuned"]  # by A's reward


def test_what_cannot_be_compared_names_the_way_out(refine: Refine, a: Path, tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        result = refine("compare", *arguments)
        assert result.code == 2
        return str(result.err)

    assert f"are the same run: name two. To set its base beside it: refine eval {a}" in refused(a, a)
    assert "there is no run. Did you mean" in refused(a, a.with_name("aa"))
    (tmp_path / "empty").mkdir()
    assert "neither a run (it has no settings of one) nor a model's folder" in refused(a, tmp_path / "empty")
    assert "is not a run" in refused(tmp_path / "empty", a)
    assert "takes other settings of `budget` and `endpoints` alone" in refused(
        a, RunFolder(a).settings().model.name, "--set", "grpo.steps=3"
    )
    assert "has no judge that it could stand for" in refused(
        a, RunFolder(a).settings().model.name, "--judge", "x/y"
    )
    unfinished = Path(shutil.copytree(a, a.with_name("unfinished")))
    shutil.rmtree(unfinished / "model")
    assert "has no tuned model yet" in refused(a, unfinished)


# -- by a judge that compares within a group --------------------------------------------------------


@pytest.fixture
def judged(
    task: Path, tmp_path: Path, refine: Refine, llm_server: Callable[..., Any], llm_brain: Callable[..., str]
) -> tuple[Path, Path, Any]:
    """Two runs of a step each that a ruler judged, and its server."""
    server = llm_server(brain=llm_brain)
    settings = {
        "reward.rules": "[]",
        "reward.judges": '["mine/j"]',
        "judge.anchors": "false",
        "endpoints.mine.base_url": f'"{server.base_url}"',
        "endpoints.mine.prices": '{"*" = {input = 1.0, output = 2.0}}',
        "grpo.steps": "1",
        "prompts.validation": "0",
        "evaluate.samples": "1",
    }
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    for name, rate in (("a", "0.02"), ("b", "0.001")):
        made = refine("train", task, "--run", tmp_path / name, *flags, "--set", f"grpo.learning_rate={rate}")
        assert made.code == 0, made.err
    return tmp_path / "a", tmp_path / "b", server


def test_a_relative_judge_sees_both_sides_in_one_group(
    refine: Refine, judged: tuple[Path, Path, Any]
) -> None:
    a, b, server = judged
    before = len(server.requests)
    lines = len(RunFolder(a).calls())
    result = refine("compare", a, b, "--json", "--judge", "mine/k")
    versus = found(result)
    assert "the answers of a and b are on record" in result.err.lower()
    assert "both sides' in one group a prompt" in result.err
    assert "Up to 6 calls to mine/k, at most about $" in result.err
    assert [versus[side]["answers"] for side in "ab"] == ["on record", "on record"]
    assert [versus[side]["scores"] for side in "ab"] == ["anew", "anew"]
    asked = [json.dumps(r) for r in server.requests[before:]]
    groups = [text for text in asked if "<trajectory id=" in text]
    assert 0 < len(groups) <= 6 + 1  # a prompt each, and the first look
    assert not any("tuned" in text.lower() for text in groups)  # nobody says which is whose
    assert len(RunFolder(a).calls()) == lines + len(asked)
    assert versus["cost_usd"] > 0
    assert versus["judge"] == "mine/k"


def test_the_budget_of_a_holds(refine: Refine, judged: tuple[Path, Path, Any]) -> None:
    a, b, _ = judged
    result = refine("compare", a, b, "--judge", "mine/k", "--set", "budget.dollars=0.000001")
    assert result.code == 3
    assert "--set budget.dollars=" in result.err
