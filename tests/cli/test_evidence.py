"""What a comparison says when something is missing: from the command line, in all that a run leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from make import task_toml
from refine_rl.evaluate.variety import variety

Refine = Callable[..., Any]  # its results have .code, .out and .err
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]
GONE = """
from pathlib import Path

def score(prompt, completion, kind):
    trained = Path("run/metrics.jsonl").exists() and Path("run/metrics.jsonl").read_text().count("\\n") >= 3
    if kind == "{kind}" and trained and not Path("mended").exists():
        raise ConnectionError("the scoring service is gone")
    return len(completion) / 40
"""
FLAKY = """
def score(prompt, completion):
    if sum(map(ord, completion)) % 6 == 0:
        raise ConnectionError("now and then")
    return len(completion) / 40
"""
LENGTH = "def score(prompt, completion):\n    return len(completion) / 40\n"
FLAT = "def score(prompt, completion):\n    return 0.5\n"


@pytest.fixture
def task(make_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """task(code, held_out=6, ...) -> a task.toml of a run of a second, whose function is `code`. Every prompt
    has its split as the data `kind`, and facets; "calm" cats are held out whole."""

    def make(code: str, held_out: int = 6, validation: int = 0, max_tokens: int = 10, **tables: Any) -> Path:
        pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
        splits = ["held_out"] * held_out + ["validation"] * validation
        rows = []
        for n, (a, b) in enumerate(pairs[: len(splits) + 14]):
            split = splits[n] if n < len(splits) else "train"
            tone = "calm" if split == "held_out" and n % 2 else "angry"
            text = f"say something about the {a} and a {b}"
            rows.append({"prompt": text, "split": split, "kind": split, "facets": {"tone": tone}})
        folder = tmp_path / "task"
        folder.mkdir()
        (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "rewards.py").write_text(code)
        usual = {
            "prompts": {"held_out": held_out, "validation": validation},
            "reward": {"functions": ["rewards.py:score"], "max_missing": 0.5},
            "rollout": {"max_tokens": max_tokens},
            "grpo": {"zero_variance_patience": 99},
        }
        (folder / "task.toml").write_text(task_toml(make_model("llama"), **(usual | tables)))
        return folder / "task.toml"

    return make


def comparison(file: str = "comparison.json") -> dict[str, Any]:
    found = json.loads(Path("run", file).read_text())
    assert isinstance(found, dict)
    return found


def lines(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run", file).read_text().splitlines()]


def warnings() -> dict[str, str]:
    return {e["name"]: e["text"] for e in lines("events.jsonl") if e["kind"] == "warning"}


def page() -> str:
    """The report's words, without its markup."""
    html = Path("run/report.html").read_text()
    return " ".join(re.sub(r"<[^>]+>", " ", html[html.index("<body>") :]).replace("\xa0", " ").split())


def test_the_last_held_out_score_is_lost_and_the_training_is_not(
    refine: Refine, task: Callable[..., Path]
) -> None:
    done = refine("train", task(GONE.format(kind="held_out"), held_out=1), "--run", "run")
    assert done.code == 0, done.err
    assert "not possible: compared on 0 of 1 held-out prompts" in done.out
    assert "warning" in done.err
    assert "ConnectionError: the scoring service is gone" in done.err
    assert 'raise ConnectionError("the scoring service is gone")' in done.err  # where it was raised
    found = comparison()
    assert (found["verdict"], found["prompts"], found["prompts_missing"]) == ("not possible", 0, 1)
    assert found["base"] is found["tuned"] is found["difference"] is None
    assert found["scores_missing"] == {"base": 0, "tuned": 3}
    assert found["details"].keys() == {"cut"}
    assert "ConnectionError: the scoring service is gone" in warnings()["missing_in_tuned"]
    assert "compare again" in warnings()["not_possible"]
    assert "refine eval run" in done.out
    assert "Trained, but a comparison was not possible: scores of both models on 0 of 1" in page()
    card = Path("run/model/README.md").read_text()
    assert "**not possible**" in card
    assert "has scores of both models" in card
    assert Path("run/model/adapter_model.safetensors").is_file()

    still = refine("eval", "run", "--json")
    assert (still.code, json.loads(still.out)["verdict"]) == (0, "not possible")
    assert "has scores of both models" in still.err
    # What an evaluation lacks is not said of the run, and hides nothing that the run still has to say.
    assert "missing_in_base" not in warnings()
    assert warnings()["missing_in_base_of_eval"].startswith(
        "Evaluation eval: The base model's answers: 3 of 3"
    )
    again = refine("train", "--resume", "run")
    assert (again.code, "not possible" in again.out) == (0, True)
    Path("mended").touch()
    mended = refine("eval", "run", "--json", "--name", "mended")
    assert mended.code == 0, mended.err
    assert json.loads(mended.out)["verdict"] == "too few to tell"
    assert json.loads(mended.out)["base"]["mean"] > 0


def test_the_last_look_at_validation_is_lost_and_the_training_is_not(
    refine: Refine, task: Callable[..., Path]
) -> None:
    made = task(GONE.format(kind="validation"), validation=3)
    done = refine("train", made, "--run", "run", "--set", "grpo.validate_every=3")
    assert done.code == 0, done.err
    assert "Validation at step 3: 6 of 6 scores are missing" in warnings()["validation_missing"]
    assert comparison()["prompts"] == 6
    assert Path("run/checkpoints/step-000003").is_dir()
    steps = [line["step"] for line in lines("validation.jsonl")]
    assert steps == [0]


def test_while_training_goes_on_a_lost_validation_stops_it_and_it_goes_on_later(
    refine: Refine, task: Callable[..., Path]
) -> None:
    longer = ["--set", "grpo.validate_every=3", "--set", "grpo.steps=4"]
    stopped = refine("train", task(GONE.format(kind="validation"), validation=3), "--run", "run", *longer)
    assert stopped.code == 3
    assert "Validation at step 3: 6 of 6 scores are missing" in stopped.err
    assert stopped.err.count("first missing score") == 1
    Path("mended").touch()
    done = refine("train", "--resume", "run")
    assert done.code == 0, done.err
    assert [v["step"] for v in lines("validation.jsonl")] == [0, 3, 4]
    assert all(v["scores_missing"] == 0 for v in lines("validation.jsonl"))


def test_a_flaky_function_costs_scores_and_no_prompts(refine: Refine, task: Callable[..., Path]) -> None:
    done = refine("train", task(FLAKY, held_out=12, validation=3), "--run", "run")
    assert done.code == 0, done.err
    found = comparison()
    outcomes = {side: lines(f"evaluations/{side}.jsonl") for side in ("base", "tuned")}
    missing = {
        side: sum(t["status"] == "missing" for o in those for t in (*o["sampled"], o["greedy"]))
        for side, those in outcomes.items()
    }
    assert sum(missing.values()) > 0
    assert found["scores_missing"] == missing
    whole = [
        all(any(t["reward"] is not None for t in o["sampled"]) for o in pair)
        for pair in zip(outcomes["base"], outcomes["tuned"], strict=True)
    ]
    assert (found["prompts"], found["prompts_missing"]) == (sum(whole), 12 - sum(whole))
    assert found["prompts"] > 6
    said = (
        f"Scores are missing of {missing['base']} of the base model’s 36 answers and of {missing['tuned']} of"
    )
    for text in (done.out, page(), Path("run/model/README.md").read_text()):
        assert said in " ".join(text.split())
    # Each part of the run says so when it happens, once, with the reason.
    for name in ("missing_in_base", "missing_in_tuned", "missing_in_training"):
        assert "ConnectionError: now and then" in warnings()[name], name
        assert 'raise ConnectionError("now and then")' in warnings()[name]
    assert done.err.count("the first missing score, and why") >= 2
    assert done.err.index("ConnectionError") < done.err.index("step 1/3")
    assert sum(m["members_missing"] for m in lines("metrics.jsonl")) > 0


def judge(body: dict[str, Any], *, flaky: Callable[[list[str]], bool]) -> str:
    """Longer answers are better; a reply to `flaky` answers is of no use."""
    text = body["messages"][-1]["content"]
    answers = re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S)
    contents = [json.loads(content)[-1]["content"] for _, content in answers]
    if flaky(contents):
        return "I would rather not say."
    scores = [
        {"trajectory_id": name, "explanation": "so", "score": min(1.0, len(content) / 80)}
        for (name, _), content in zip(answers, contents, strict=True)
    ]
    return json.dumps({"scores": scores})


JUDGED = {
    "reward": {"judges": ["mine/judge"], "rubric": "Longer is better.", "max_missing": 0.2},
    "judge": {"anchors": False, "corrections": 0},
}


@pytest.mark.parametrize("lost", [5, 6])
def test_a_flaky_judge_costs_prompts_and_never_the_model(
    refine: Refine, task: Callable[..., Path], llm_server: Callable[..., Any], lost: int
) -> None:
    """A ruler sees the answers of base and tuned to a held-out prompt in one group; of `lost` of the six
    groups it says nothing of use."""
    seen: list[int] = []

    def flaky(answers: list[str]) -> bool:
        if len(answers) <= 4:  # a group of training
            return False
        seen.append(len(answers))
        return len(seen) <= lost

    server = llm_server(brain=lambda body: judge(body, flaky=flaky))
    made = task(LENGTH, **JUDGED, endpoints={"mine": {"base_url": server.base_url}})
    done = refine("train", made, "--run", "run", "--set", "endpoints.mine.concurrency=1")
    assert done.code == 0, done.err
    assert len(seen) == 6
    found = comparison()
    assert (found["prompts"], found["prompts_missing"]) == (6 - lost, lost)
    assert found["verdict"] == ("not possible" if lost == 6 else "too few to tell")
    assert f"compared on {6 - lost} of 6 held-out prompts" in done.out
    assert f"on {6 - lost} of 6 held-out prompts" in page()
    text = warnings()["missing_in_comparison"]
    assert text.startswith(f"The held-out answers: {6 * lost} of 36 scores are missing; ")
    assert "\njudge: missing: mine/judge" in text  # the judge's failure, not what passed
    assert "first missing score" in done.err
    assert Path("run/model/adapter_model.safetensors").is_file()
    later = refine("eval", "run", "--json")  # the judge says something again
    assert (later.code, json.loads(later.out)["prompts"]) == (0, 6)


def test_nothing_learned_is_a_verdict(refine: Refine, task: Callable[..., Path]) -> None:
    done = refine("train", task(FLAT), "--run", "run")
    assert done.code == 0, done.err
    assert "\nno signal: compared on 6 held-out prompts" in done.out
    assert all(m["loss"] is None for m in lines("metrics.jsonl"))
    assert comparison()["verdict"] == "no signal"
    assert "Nothing was learned: reward 0.50 → 0.50" in page()
    card = Path("run/model/README.md").read_text()
    assert "**no signal**" in card
    for text in (done.out, done.err, card, page(), warnings()["no_signal"]):
        assert "No step of the training moved a weight" in " ".join(text.split())
    assert json.loads(refine("eval", "run", "--json").out)["verdict"] == "no signal"


def test_nothing_learned_on_few_prompts_has_no_intervals(refine: Refine, task: Callable[..., Path]) -> None:
    done = refine("train", task(FLAT, held_out=3), "--run", "run")
    assert done.code == 0, done.err
    assert comparison()["verdict"] == "no signal"
    card = Path("run/model/README.md").read_text().partition("## Training")[0]
    (ended,) = [e["text"] for e in lines("events.jsonl") if e["kind"] == "finished"]
    for text in (done.out.partition("prompt  ")[0], card, ended):
        assert "0.500" in text
        assert not re.search(r"\d to [+-]?\d|\d, [+-]?\d", text), text


def test_a_verdict_on_cut_answers_is_qualified(refine: Refine, task: Callable[..., Path]) -> None:
    done = refine("train", task(LENGTH, max_tokens=2), "--run", "run")
    assert done.code == 0, done.err
    found = comparison()
    assert found["details"]["cut"]["base"]["mean"] == 1.0
    assert f"\n{found['verdict']} (answers mostly cut) on 6 held-out prompts" in done.out
    said = r"Answers cut at the token limit: base 100 %, tuned \d+ %\."
    card = Path("run/model/README.md").read_text()
    for text in (done.out, page(), card):
        assert re.search(said, " ".join(text.split()))
        assert "what is compared are beginnings" in " ".join(text.split())
    assert ", on answers that were mostly cut off:" in page()


def test_too_few_prompts_have_a_verdict_of_their_own(refine: Refine, task: Callable[..., Path]) -> None:
    done = refine("train", task(LENGTH, held_out=3), "--run", "run")
    assert done.code == 0, done.err
    again = refine("eval", "run")
    assert again.code == 0, again.err
    card = Path("run/model/README.md").read_text()
    assert comparison()["verdict"] == comparison("evaluations/eval.json")["verdict"] == "too few to tell"
    for text in (done.out, again.out):
        assert "\ntoo few to tell: compared on 3 held-out prompts" in text
        assert "a verdict needs at least 5" in " ".join(text.split())
        assert not re.search(r"[+-]\d\.\d+ to [+-]\d\.\d+", text)
        assert "[" not in text.partition("prompt  ")[0]
    assert "Too few prompts to tell: reward" in page()
    assert "**too few to tell**" in card
    assert "| difference |" in card
    assert not re.search(r"\d to [+-]?\d", card.partition("## Training")[0])


def test_facets_that_are_held_out_whole_get_their_answer(refine: Refine, task: Callable[..., Path]) -> None:
    done = refine("train", task(LENGTH, held_out=10), "--run", "run")
    assert done.code == 0, done.err
    found = comparison()
    assert {v: part["prompts"] for v, part in found["facets"]["tone"].items()} == {"angry": 5, "calm": 5}
    assert {name: part["prompts"] for name, part in found["combinations"].items()} == {"seen": 5, "unseen": 5}
    assert found["combinations"]["unseen"] == found["facets"]["tone"]["calm"]
    tuned, prompts = lines("evaluations/tuned.jsonl"), lines("prompts.jsonl")
    tones = {p["id"]: p["facets"]["tone"] for p in prompts}
    rewards = [sum(t["reward"] for t in o["sampled"]) / 2 for o in tuned if tones[o["prompt_id"]] == "calm"]
    assert found["facets"]["tone"]["calm"]["tuned"]["mean"] == pytest.approx(sum(rewards) / 5)
    part = found["combinations"]["unseen"]["difference"]
    row = next(line for line in done.out.splitlines() if line.strip().startswith("held out whole"))
    low, high = part["ci95"]
    sides = [f"{found['combinations']['unseen'][side]['mean']:.3f}" for side in ("base", "tuned")]
    assert row.split()[3:] == ["5", *sides, f"{part['mean']:+.3f}", f"{low:+.3f}", "to", f"{high:+.3f}"]
    assert "combinations held out whole 5" in page()
    again = json.loads(refine("eval", "run", "--json").out)
    assert {name: p["prompts"] for name, p in again["combinations"].items()} == {"seen": 5, "unseen": 5}


def test_the_variety_of_a_step_is_that_of_its_groups(refine: Refine, task: Callable[..., Path]) -> None:
    assert refine("train", task(LENGTH), "--run", "run").code == 0
    groups = lines("groups.jsonl")
    for m in lines("metrics.jsonl"):
        answers = [
            (g["prompt_id"], [t["messages"][-1]["content"] for t in g["trajectories"]])
            for g in groups
            if g["step"] == m["step"]
        ]
        expected = variety(answers)
        assert (m["distinct_share"], m["openings"]) == (expected.distinct_share, expected.openings)
    assert set(comparison()["variety"]) == {"base", "tuned", "base_greedy", "tuned_greedy"}


def test_a_policy_that_says_the_same_to_everybody_is_named(refine: Refine, task: Callable[..., Path]) -> None:
    """A reward that does not look at the prompt is won by one answer for all."""
    code = "def score(prompt, completion):\n    return 1 - len(completion) / 20\n"
    longer = ["--set", "grpo.steps=40", "--set", "grpo.learning_rate=0.05", "--set", "rollout.group_size=16"]
    done = refine("train", task(code, held_out=8, max_tokens=4), "--run", "run", *longer)
    assert done.code == 0, done.err
    found = comparison()
    assert found["details"]["greedy"]["difference"]["mean"] > 0.2  # it is paid ...
    assert found["variety"]["base_greedy"]["distinct_share"] == 1.0
    assert found["variety"]["tuned_greedy"] == {"distinct_share": 0.0, "openings": {"": 1.0}}
    for text in (done.err, page(), warnings()["same_greedy"]):  # ... and named
        assert "Greedy answers came to be the same for different prompts" in " ".join(text.split())
    assert "tuned, greedy answers: 0 %. Most frequent openings: nothing at all (100 %)." in page()
