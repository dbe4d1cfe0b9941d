"""The rivals of a tuned model: made from training prompts alone, once, and one that fails is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from make import Pause, prompt, write_pairs
from refine_rl.envs.play import sample
from refine_rl.errors import Interrupted, MachineError, UserError
from refine_rl.evaluate.rivals import rewards
from refine_rl.evaluate.stats import paired
from refine_rl.pipeline.evaluate import evaluate_again
from refine_rl.pipeline.export import export_model
from refine_rl.pipeline.model import run_policy
from refine_rl.pipeline.rivals import contest
from refine_rl.pipeline.rivals.prompt import BetterPrompt
from refine_rl.pipeline.rivals.rival import Ring
from refine_rl.pipeline.rivals.trial import Put, Trial, Tried
from refine_rl.pipeline.rivals.tries import Tries
from refine_rl.pipeline.train import run
from refine_rl.pipeline.weights import choose_weights
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose
from refine_rl.rewards.build import build_scorers
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.types import Comparison, Outcome, Trajectory

WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish"]
MakeModel = Callable[..., Path]


@pytest.fixture(scope="module")
def task(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """task(**sections) -> settings of a run of two seconds: shorter answers are better."""
    folder = tmp_path_factory.mktemp("task")
    write_pairs(folder, WORDS)

    def make(**sections: dict[str, Any]) -> Settings:
        usual: dict[str, dict[str, Any]] = {
            "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
            "prompts": {"source": "file:prompts.jsonl", "train": 9, "validation": 0, "held_out": 6},
            "reward": {"rules": [{"rule": "chars", "max": 12}]},
            "rollout": {"group_size": 3, "max_tokens": 8},
            "grpo": {"steps": 1, "prompts_per_step": 3, "learning_rate": 0.02, "all_cut_patience": 99},
            "evaluate": {"samples": 2, "bootstrap": 200},
        }
        for name, values in sections.items():
            usual[name] = {**usual.get(name, {}), **values}
        return settings_from_dict({"task": "Be short.", **usual}, folder)

    return make


@pytest.fixture(scope="module")
def whole(task: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with all rivals, never stopped."""
    settings = task(evaluate={"rivals": ["prompt", "best_of_n", "sft"], "rival_calls": 64})
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "whole", settings)
    run(folder)
    return folder


@pytest.fixture
def copied(whole: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it, to be damaged."""
    shutil.copytree(whole.path, tmp_path / "whole")
    return RunFolder.open(tmp_path / "whole")


def compared(folder: RunFolder) -> Comparison:
    found = folder.comparison()
    assert found is not None
    return found


def outcomes(folder: RunFolder, side: str) -> list[Outcome]:
    found = folder.outcomes(side)
    assert found is not None
    return found


def scored(
    settings: Settings, groups: Sequence[Sequence[Trajectory]], folder: RunFolder
) -> list[list[float]]:
    by_id = {p.id: p for p in folder.prompts()}
    with ScoringLoop() as loop:
        found = loop.score(build_scorers(settings).validation, [(by_id[g[0].prompt_id], g) for g in groups])
    return [[s.value for s in scores if s.value is not None] for scores in found]


def test_all_stand_on_the_same_prompts_paired_with_tuned(whole: RunFolder) -> None:
    c = compared(whole)
    assert list(c.others) == ["prompt", "best_of_n", "sft"] == list(c.rivals)
    tuned = outcomes(whole, "tuned")
    for name, other in c.others.items():
        own = outcomes(whole, name)
        assert [o.prompt.id for o in own] == [o.prompt.id for o in tuned]
        assert {len(o.sampled) for o in own} == {2}
        values = [[v for v in rewards(side) if v is not None] for side in (own, tuned)]
        expected = paired(*values, resamples=200, seed=0)
        assert (other.mean, other.ci95) == (expected.base.mean, expected.base.ci95)
        assert other.tuned_minus == expected.difference
        assert other.cost_usd == 0.0
        assert other.calls == 0
    assert c.others_missing == {}
    assert c.took is not None
    assert c.took.answers == 9
    assert json.loads((whole.path / "comparison.json").read_text())["others"]["sft"]["seconds"] > 0


def test_the_best_of_n_is_the_best_of_the_base_models_own_draws(whole: RunFolder) -> None:
    base = run_policy(whole, keep_reference=False)
    held_out = [p for p in whole.prompts() if p.split == "held_out"]
    drawn = sample(
        base,
        held_out,
        members=6,
        sampling=Sampling(max_tokens=8),
        purpose=Purpose(seed=0, step=0, name="held_out"),
    )
    for outcome, mine in zip(outcomes(whole, "best_of_n"), drawn, strict=True):
        for k, (answer, score) in enumerate(outcome.sampled):
            group = mine[3 * k : 3 * k + 3]
            (values,) = scored(whole.settings(), [group], whole)
            first = values.index(max(values))
            assert answer.segments[1] == group[first].segments[1]
            assert (answer.member, score.value) == (k, max(values))
        assert outcome.greedy == outcome.sampled[0]
    own = outcomes(whole, "base")
    assert [o.sampled[0][0].segments for o in own] == [group[0].segments for group in drawn]
    other = compared(whole).others["best_of_n"]
    assert other.draws == 3
    tokens = [t.completion_tokens for group in drawn for t in group]
    assert other.tokens == sum(tokens) / 12


def test_what_is_imitated_are_the_best_answers_to_training_prompts(whole: RunFolder, tmp_path: Path) -> None:
    pairs = [json.loads(line) for line in (whole.path / "rivals/sft.pairs.jsonl").read_text().splitlines()]
    train = {p.messages[-1]["content"]: p for p in whole.prompts() if p.split == "train"}
    groups = sample(
        run_policy(whole, keep_reference=False),
        list(train.values()),
        members=3,
        sampling=Sampling(max_tokens=8),
        purpose=Purpose(seed=0, step=0, name="rival sft"),
    )
    best = {}
    for group, values in zip(groups, scored(whole.settings(), groups, whole), strict=True):
        if len(set(values)) > 1 or values[0] == 1:
            best[group[0].messages[-2]["content"]] = group[values.index(max(values))].completion
    assert {p["messages"][-2]["content"]: p["messages"][-1]["content"] for p in pairs} == {
        asked: answer for asked, answer in best.items() if answer.strip()
    }
    own = RunFolder.open(whole.path / "rivals/sft")
    assert (own.config.kind(), own.settings().sft_model.rank) == ("sft", 4)
    assert own.settings().sft_model.dropout == 0.0
    assert own.model.is_dir()
    assert compared(whole).others["sft"].folder == "rivals/sft"
    export_model(own, tmp_path / "out", merged=True, weights=choose_weights(own))  # it looks by itself
    assert "model.safetensors" in [file.name for file in (tmp_path / "out").iterdir()]
    assert compared(whole).others["sft"].answers == 27


def test_no_rival_is_made_of_a_held_out_prompt(whole: RunFolder) -> None:
    held_out = [p.text for p in whole.prompts() if p.split == "held_out"]
    texts = [f.read_text() for f in (whole.path / "rivals").rglob("*.json*")]
    assert len(texts) > 8
    assert not [asked for asked in held_out for text in texts if asked in text]
    assert compared(whole).others["prompt"].answers <= 64


def test_the_report_has_the_table_and_what_to_ship(whole: RunFolder) -> None:
    page = whole.report.read_text()
    assert "Beside its rivals" in page
    assert page.count('class="row" role="img" aria-label="best of 3:') == 1
    assert ">Ship " in page


def test_a_rival_that_is_done_is_not_made_again(copied: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill behind the last rival."""
    before = (copied.path / "comparison.json").read_text()
    (copied.path / "comparison.json").unlink()
    for rival in contest.ALL.values():
        monkeypatch.setattr(type(rival), "make", None)
        monkeypatch.setattr(type(rival), "answer", None)
    run(copied)
    assert (copied.path / "comparison.json").read_text() == before


def test_what_was_tried_is_not_tried_again(copied: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill amid the search: what is on record stands for what was done, and for what it took."""
    made = json.loads((copied.path / "rivals/prompt.json").read_text())
    for file in ("comparison.json", "rivals/prompt.json", "evaluations/prompt.jsonl"):
        (copied.path / file).unlink()
    monkeypatch.setattr(Trial, "_try", None)
    run(copied)
    assert json.loads((copied.path / "rivals/prompt.json").read_text()) == made


def test_a_run_that_is_stopped_among_its_rivals_ends_as_if_it_were_not(
    copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copied.path / "comparison.json").read_text()
    shutil.rmtree(copied.path / "rivals")
    for file in ("comparison.json", *(f"evaluations/{r}.jsonl" for r in ("prompt", "best_of_n", "sft"))):
        (copied.path / file).unlink()
    times = 0
    while times < 40:
        try:
            run(copied, pause=Pause(at=60))
            break
        except Interrupted:
            times += 1
    assert times > 1

    def timeless(text: str) -> str:
        return re.sub(r'"seconds": [\d.]+', "", text)

    assert timeless((copied.path / "comparison.json").read_text()) == timeless(before)


def test_a_rival_that_fails_is_missing_and_the_rest_stands(
    whole: RunFolder, copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied.path / "comparison.json").unlink()
    (copied.path / "evaluations/best_of_n.jsonl").unlink()

    def down(*arguments: Any) -> None:
        raise MachineError("The endpoint is down.")

    monkeypatch.setattr(contest.BestOfN, "answer", down)
    run(copied)
    c, before = compared(copied), compared(whole)
    assert c.others_missing == {"best_of_n": "The endpoint is down."}
    assert list(c.others) == ["prompt", "sft"]
    assert c.others["sft"] == before.others["sft"]
    assert c.reward == before.reward
    (told,) = [e["text"] for e in copied.events() if e["name"] == "rival_best_of_n"]
    assert told.endswith(f"refine eval {copied.path} --rivals best_of_n")
    assert "missing: The endpoint is down." in copied.report.read_text()


def test_rivals_of_a_run_that_had_none(task: Callable[..., Settings], tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "plain", task())
    without = run(folder)
    assert (without.others, without.took, without.ship) == ({}, None, None)
    file = folder.path / "comparison.json"
    record = json.loads(file.read_text())
    file.write_text(
        json.dumps({k: v for k, v in record.items() if k not in ("others_missing", "took", "ship")})
    )
    assert folder.comparison() == without  # as an older version wrote it
    again, _ = evaluate_again(
        folder, rivals=["best_of_n"], overrides=["evaluate.best_of=5"], seed=3, weights=None
    )
    assert again.others["best_of_n"].draws == 5
    assert again.base is not None
    assert again.others["best_of_n"].mean >= again.base.mean
    assert folder.settings().evaluate.rivals == []
    with pytest.raises(UserError, match='--rivals sfft: no rival is called "sfft"; did you mean "sft"'):
        evaluate_again(folder, rivals=["sfft"])
    with pytest.raises(UserError, match=r"evaluate\.rival_calls` alone"):
        evaluate_again(folder, overrides=["evaluate.samples=5"])


# -- with LLMs ------------------------------------------------------------------------------------


def brain(body: dict[str, Any]) -> str:
    """A judge for whom shorter is better, and a writer that numbers its texts."""
    text = body["messages"][-1]["content"]
    if "Write a better system prompt" in text:
        return f"```\nanswer in {len(text) % 97} words\n```"
    found = re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S)
    lengths = {name: len(json.loads(said)[-1]["content"]) for name, said in found}
    scores = [{"trajectory_id": n, "explanation": "", "score": 1 / (1 + k)} for n, k in lengths.items()]
    return json.dumps({"scores": scores})


@pytest.fixture
def judged(
    task: Callable[..., Settings], llm_server: Callable[..., Any], tmp_path: Path
) -> tuple[Any, Settings]:
    server = llm_server(brain=brain)
    endpoint = {"base_url": server.base_url, "key_env": "", "cache": False, "retries": 0}
    endpoint["prices"] = {"*": {"input": 1.0, "output": 1.0}}
    settings = task(
        endpoints={"e": endpoint},
        reward={"rules": [], "judges": ["e/j"]},
        judge={"anchors": False},
        writer={"model": "e/w"},
        evaluate={"rivals": ["prompt"], "rival_calls": 80, "samples": 1},
    )
    return server, settings


def test_an_llm_looks_for_a_better_prompt(judged: tuple[Any, Settings], tmp_path: Path) -> None:
    server, settings = judged
    folder = RunFolder.create(tmp_path / "judged", settings)
    c = run(folder)
    other = c.others["prompt"]
    assert other.how.startswith("gepa 0.1.4, e/w writing; ")
    assert 32 <= other.answers <= 80
    calls = [call for call in folder.calls() if call["purpose"] == "rival prompt"]
    asked = [r["messages"][-1]["content"] for r in server.requests if r["model"] == "w"]
    assert len(calls) == len(asked) >= 1
    held_out = [p.text for p in folder.prompts() if p.split == "held_out"]
    train = [p.text for p in folder.prompts() if p.split == "train"]
    assert not [text for text in held_out if any(text in request for request in asked)]
    assert [text for text in train if any(text in request for request in asked)]
    assert all("<task>\nBe short.\n</task>" in request for request in asked)
    assert other.calls > len(calls)
    its = folder.calls()[-6 - other.calls : -6]  # the comparison's are the last
    assert other.cost_usd == pytest.approx(sum(call["cost_usd"] for call in its))
    assert {call["purpose"] for call in its} == {"judge", "rival prompt"}
    # Base, rival and tuned are judged in one group a held-out prompt.
    seen = [r["messages"][-1]["content"] for r in server.requests if r["model"] == "j"]
    assert sum(any(json.dumps(asked)[1:-1] in text for asked in held_out) for text in seen) == 6
    assert {score.status for o in outcomes(folder, "prompt") for _, score in o.sampled} == {"scored"}


def test_a_writer_that_is_down_makes_the_prompt_missing(judged: tuple[Any, Settings], tmp_path: Path) -> None:
    server, settings = judged
    server.moods = lambda number, body: "503" if body["model"] == "w" else "ok"
    c = run(RunFolder.create(tmp_path / "down", settings))
    assert c.others == {}
    assert "e/w wrote no system prompt" in c.others_missing["prompt"]
    assert c.reward is not None


# -- small parts ----------------------------------------------------------------------------------


class Reads:
    """A policy's texts: with or without system messages."""

    def __init__(self, system: bool) -> None:
        self.system = system

    def encode(self, messages: Sequence[Any]) -> tuple[int, ...]:
        if not self.system and messages[0]["role"] == "system":
            raise UserError("no system message")
        return (1,)


@pytest.mark.parametrize(
    ("systems", "knows", "expected"),
    [
        (("", ""), True, [("system", "T"), ("user", "Say hi.")]),
        (("", ""), False, [("user", "T\n\nSay hi.")]),
        (("A", "A"), True, [("system", "T"), ("user", "Say hi.")]),
        (("A", "B"), True, [("system", "T\n\nA"), ("user", "Say hi.")]),
    ],
)
def test_where_a_text_is_put(systems: tuple[str, str], knows: bool, expected: list[tuple[str, str]]) -> None:
    train = [prompt(n, system=system) for n, system in enumerate(systems)]
    put = Put.before("T", train, Reads(knows))  # type: ignore[arg-type]
    assert [(m["role"], m["content"]) for m in put(train[0]).messages] == expected


def test_tries_add_up_what_they_took(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    files = folder.rival("sft")
    files.begin()
    done: list[Sequence[int]] = []

    def do(new: Sequence[int]) -> list[int]:
        done.append(list(new))
        return [10 * n for n in new]

    tries = Tries(files)
    assert tries.each(["a", "b"], do, answers=3) == [0, 10]
    assert tries.each(["b", "c"], do, answers=3) == [10, 10]
    assert done == [[0, 1], [1]]
    assert (tries.answers, tries.calls, tries.cost_usd) == (9, 0, 0.0)
    later = Tries(RunFolder(tmp_path).rival("sft"))
    assert later.each(["c", "a"], do, answers=3) == [10, 0]
    assert len(done) == 2
    assert later.answers == 6
    later.add(cost_usd=None, seconds=2.0)
    assert later.cost_usd is None


def test_a_text_that_is_no_better_leaves_the_prompts_as_they_are(
    whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "mean", lambda self, text, prompts: 0.5)
    none = Tried(value=None, said=[], why=[])
    monkeypatch.setattr(Trial, "__call__", lambda self, text, prompts: [none] * len(prompts))
    monkeypatch.setattr(Trial, "relative", False)
    monkeypatch.setattr(Trial, "fits", lambda self, text: True)

    class Work:
        settings = whole.settings()

    ring = Ring(
        work=Work(),  # type: ignore[arg-type]
        base=None,  # type: ignore[arg-type]
        train=[prompt(n, f"Say {n}.") for n in range(8)],
        files=whole.rival("prompt"),
        tries=None,  # type: ignore[arg-type]
    )
    made = BetterPrompt().make(ring)
    assert made["found"] == ""
    assert "none is better than the prompts as they are" in made["how"]
