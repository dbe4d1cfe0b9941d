"""From one sentence to a tuned model: writer and judge on a server that misbehaves, over real HTTP."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import Forked, begin
from refine_rl.errors import Interrupted
from refine_rl.llm.connections import EndpointConnections
from refine_rl.llm.open_ai import Pace
from refine_rl.pipeline import train as pipeline
from refine_rl.run import RunFolder
from refine_rl.run import endpoints as connecting
from refine_rl.settings.file import load_settings
from refine_rl.types import Prompt

MakeModel = Callable[..., Path]
IN, OUT = 3.0, 15.0  # dollars a million tokens
TASK = "Answer the customer in short words."
WORDS = ["lamp", "train", "soup", "coat", "bell", "garden", "letter", "clock", "chair", "ticket"]

MOODS = [
    *("ok", "busy:0.01", "ok", "500", "drop-before", "ok", "no-choice", "cut", "ok", "busy"),
    *("503:0.01", "refusal", "no-schema", "ok", "html-502", "error-in-200", "not-json", "ok", "busy-ms:9"),
]
"""Every way to fail that another try mends."""


def brain(body: dict[str, Any]) -> str:
    """A writer and a judge in one. What it says is a function of the request alone, also in the middle of
    a correction: it looks at the first message of the user."""
    system = next((m["content"] for m in body["messages"] if m["role"] == "system"), "")
    text = next(m["content"] for m in body["messages"] if m["role"] == "user")
    if "<trajectory id=" in text:
        return judged(text)
    if "<steps>" in text:
        return graded(text)
    assert not system
    if "Name the dimensions" in text:
        values = {"topic": WORDS[:6], "tone": ["angry", "calm", "sad"], "length": ["a line", "two lines"]}
        return json.dumps({"facets": [{"name": n, "values": v} for n, v in values.items()]})
    if "Write its system message" in text:
        return json.dumps({"system": "You answer customers."})
    if "Which numbers are mistakes?" in text:
        return json.dumps({"mistakes": []})
    if "for each of these numbered combinations" in text:
        text = text.partition("Reply with JSON alone")[0]  # what follows depends on the form of the reply
        found = re.findall(r"(?m)^(\d+)\. topic: (\w+); tone: (\w+); length: .*$", text)
        return json.dumps({"prompts": [written(int(n), topic, tone, text) for n, topic, tone in found]})
    raise AssertionError(text)


def written(number: int, topic: str, tone: str, request: str) -> dict[str, Any]:
    """A prompt for a combination, another one for another request."""
    chance = random.Random(f"{topic} {tone} {number} {request}")
    things = " ".join(chance.choice(WORDS) for _ in range(9))
    return {"combination": number, "prompt": f"I am {tone} about the {topic}: {things}"}


def judged(text: str) -> str:
    """Shorter words are better; commands to the judge, copies and nothing at all are worth nothing."""
    scores = []
    for name, content in re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S):
        answer = json.loads(content)[-1]["content"]
        words = answer.split()
        bad = not words or "score" in answer or "I am" in answer or ":" in answer or "lobster" in answer
        mean = sum(map(len, words)) / max(1, len(words))
        value = 0.0 if bad else 1 / (1 + mean / 4)
        scores.append({"trajectory_id": name, "explanation": f"{mean:.1f}", "score": round(value, 4)})
    return json.dumps({"scores": scores})


def graded(text: str) -> str:
    """The first step of more than four characters is wrong."""
    found = re.search(r"<steps>\n(.*)\n</steps>", text, re.S)
    assert found
    wrong = next((step["step"] for step in json.loads(found[1]) if len(step["text"]) > 4), 0)
    return json.dumps({"explanation": "too long", "first_wrong": wrong})


def value_of(answer: str) -> float:
    """What `judged` gives for an answer."""
    record = json.dumps([{"role": "assistant", "content": answer}])
    reply = json.loads(judged(f'<trajectory id="a">{record}</trajectory>'))
    return float(reply["scores"][0]["score"])


@pytest.fixture
def task(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """task(url, more="", endpoint="") -> a task.toml of a run of some seconds."""
    monkeypatch.setenv("MY_KEY", "sk-very-secret-1234")

    def make(url: str, more: str = "", endpoint: str = "", reward: str = "", name: str = "task") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "task.toml").write_text(f"""
            task = "{TASK}"
            [model]
            name = "{make_model("llama")}"
            device = "cpu"
            dtype = "float32"
            rank = 4
            [writer]
            model = "mine/some/writer"
            batch = 6
            [prompts]
            train = 12
            validation = 3
            held_out = 6
            max_tokens = 150
            [endpoints.mine]
            base_url = "{url}"
            key_env = "MY_KEY"
            prices = {{"*" = {{input = {IN}, output = {OUT}}}}}
            retries = 8
            {endpoint}
            [reward]
            judges = ["mine/judge"]
            {reward}
            [rollout]
            group_size = 4
            max_tokens = 10
            [grpo]
            steps = 4
            prompts_per_step = 3
            learning_rate = 0.02
            checkpoint_every = 2
            validate_every = 2
            all_cut_patience = 99
            [evaluate]
            samples = 2
            bootstrap = 200
            {more}
        """)
        return folder / "task.toml"

    return make


@pytest.fixture
def refine(refine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """refine("train", ..., cache=folder, MY_KEY="...") in process, with that cache and those variables."""

    def call(*arguments: str | Path, cache: Path, **variables: str) -> Any:
        with monkeypatch.context() as patch:
            for name, value in {"REFINE_CACHE": str(cache), **variables}.items():
                patch.setenv(name, value)
            return refine(*arguments)

    return call


def patient(file: Path) -> Path:
    """The task with so many retries that no call meets bad moods alone, in whatever order they come."""
    file.write_text(file.read_text().replace("retries = 8", "retries = 60"))
    return file


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds where an endpoint is otherwise given seconds to recover."""
    quick = functools.partial(EndpointConnections, pace=Pace(base=0.02, busy=0.05, longest=0.2))
    monkeypatch.setattr(connecting, "EndpointConnections", quick)


def begun(file: Path, run: Path, cache: Path) -> Forked:
    """A training in a process of its own, to be killed."""
    return begin("train", file, "--run", run, env={**os.environ, "REFINE_CACHE": str(cache)})


def content(run: RunFolder) -> dict[str, Any]:
    """Everything of a run that clocks and money do not change."""
    last = run.checkpoints()[-1]
    clocks = ("seconds", "tokens_per_second", "cost_usd")
    return {
        "prompts": run.prompts(),
        "groups": list(run.groups()),
        "validation": run.validation(),
        "metrics": [{k: v for k, v in m.items() if k not in clocks} for m in run.metrics()],
        "comparison": run.comparison(),
        "weights": (run.checkpoint(last) / "weights.safetensors").read_bytes(),
    }


@pytest.mark.usefixtures("quick_retries")
def test_the_moods_of_the_server_change_nothing_but_the_bill(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    runs, servers = [], []
    chance = random.Random(1)
    for name, moods, delay in (
        ("calm", "ok", 0.0),
        ("moody", lambda n, body: MOODS[n % len(MOODS)], lambda n: chance.random() * 0.05),
    ):
        server = llm_server(brain=brain, moods=moods, delay=delay)
        file = patient(task(server.base_url))
        done = refine("train", file, "--run", tmp_path / name, cache=tmp_path / f"cache-{name}")
        assert done.code == 0, done.err
        runs.append(RunFolder.open(tmp_path / name))
        servers.append(server)
        assert "sk-very-secret" not in done.out + done.err
    calm, moody = runs
    for what, value in content(calm).items():
        assert value == content(moody)[what], what
    # The right scores: what the judge says of each answer, whatever it took to get it.
    scores = [t for g in moody.groups() for t in g["trajectories"]]
    assert len(scores) == 4 * 3 * 4
    assert all(t["status"] == "scored" for t in scores)
    for g in moody.groups():
        answers = [t["messages"][-1]["content"] for t in g["trajectories"]]
        for t, answer in zip(g["trajectories"], answers, strict=True):
            alone = len(set(answers)) == 1
            assert t["reward"] == pytest.approx(0.5 if alone else value_of(answer)), answer
    # The prompts: as many as asked for, disjoint, with facets, all under the written system message.
    prompts = moody.prompts()
    assert [sum(p.split == s for p in prompts) for s in ("train", "validation", "held_out")] == [12, 3, 6]
    assert len({p.text for p in prompts}) == 21
    assert all(set(p.facets) >= {"topic", "tone", "length"} for p in prompts)
    assert {p.messages[0]["content"] for p in prompts} == {"You answer customers."}
    assert unseen_combinations(prompts)
    # The bill, to the billionth of a dollar; calls that were lost have no price, and none is 0 by mistake.
    for run, server in zip(runs, servers, strict=True):
        calls = run.calls()
        paid = [c for c in calls if c["cost_usd"]]
        bill = sum(IN * tokens[0] + OUT * tokens[1] for tokens in server.billed) / 1e6
        assert sum(c["cost_usd"] for c in paid) == pytest.approx(bill, abs=1e-9)
        assert len(paid) == len(server.billed)
        assert len([c for c in calls if c["outcome"] != "cached"]) == len(server.requests)
        assert {c["purpose"] for c in calls} >= {"writer", "judge"}
    steps = [m["cost_usd"] for m in calm.metrics()]
    assert 0 < sum(steps) < sum(c["cost_usd"] for c in calm.calls())
    assert None in [m["cost_usd"] for m in moody.metrics()]  # a lost call's price is not known, and not 0
    assert len(servers[1].requests) > 1.5 * len(servers[0].requests)
    outcomes = {c["outcome"] for c in moody.calls()}
    assert outcomes >= {
        "ok",
        "busy",
        "server error",
        "no connection",
        "empty",
        "cut",
        "refusal",
        "unsupported",
    }
    # What was asked and replied is on record, a record for each call, also for those that came to nothing.
    for run in runs:
        numbers = [c["id"] for c in run.calls()]
        assert len(set(numbers)) == len(numbers)
        exchanges = list(run.exchanges())
        assert [e["id"] for e in exchanges] == numbers
        assert [e["outcome"] for e in exchanges] == [c["outcome"] for c in run.calls()]
        assert "What was asked, and what was replied" in run.report.read_text()
    assert {e["outcome"] for e in moody.exchanges() if e["reply"] is None} >= {
        "busy",
        "empty",
        "server error",
    }
    for file in moody.path.rglob("*"):
        assert not file.is_file() or b"sk-very-secret" not in file.read_bytes(), file


@pytest.mark.usefixtures("quick_retries")
def test_steps_of_wrong_answers_graded_by_a_moody_server(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    """No answer is ever right; its steps are its words, and a judge says how far they go."""
    moods = [mood for mood in MOODS if mood != "refusal"]  # who refuses twice is not asked again
    server = llm_server(brain=brain, moods=lambda n, body: moods[n % len(moods)])
    judge = '[reward.steps]\njudges = ["mine/judge"]\nsplit = " +"\n[judge]\ncorrections = 9'
    file = patient(task(server.base_url, judge))
    text = file.read_text().replace(
        'judges = ["mine/judge"]\n            ', 'rules = [{rule = "words", min = 90, strict = true}]\n', 1
    )
    file.write_text(text.replace("[grpo]", '[grpo]\nflat = "steps"\nsolved = 1.0', 1))
    done = refine("train", file, "--run", tmp_path / "run", cache=tmp_path / "c")
    assert done.code == 0, done.err
    run = RunFolder.open(tmp_path / "run")
    shares = []
    for group in run.groups():
        for t in group["trajectories"]:
            steps = t["messages"][-1]["content"].split(" ")
            steps = [step.strip() for step in steps if step.strip()]
            right = next((n for n, step in enumerate(steps) if len(step) > 4), len(steps))
            assert t["reward"] == 0.0
            assert t["breakdown"]["right_steps"] == pytest.approx(right / len(steps) if steps else 0.0)
            shares.append(t["breakdown"]["right_steps"])
    assert len(shares) == 4 * 3 * 4
    assert len(set(shares)) > 3
    assert sum(m["groups_by_steps"] for m in run.metrics()) > 6
    calls = run.calls()
    assert {c["purpose"] for c in calls} == {"anchor", "writer", "steps"}
    bill = sum(IN * tokens[0] + OUT * tokens[1] for tokens in server.billed) / 1e6
    assert sum(c["cost_usd"] for c in calls if c["cost_usd"]) == pytest.approx(bill, abs=1e-9)


def unseen_combinations(prompts: list[Prompt]) -> set[tuple[str, ...]]:
    """Combinations of facets that only held-out prompts have."""
    where: dict[tuple[str, ...], set[str]] = {}
    for p in prompts:
        where.setdefault(tuple(p.facets[f] for f in ("topic", "tone", "length")), set()).add(p.split)
    return {combination for combination, splits in where.items() if splits == {"held_out"}}


def test_killed_while_the_judge_thinks_and_resumed(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    """kill -9 at any moment: the run ends as if nothing had been, and what was paid for is not paid again."""
    whole_server = llm_server(brain=brain)
    whole = tmp_path / "whole"
    assert refine("train", task(whole_server.base_url), "--run", whole, cache=tmp_path / "c1").code == 0
    server = llm_server(brain=brain, delay=0.02)
    file = task(server.base_url)
    cut = tmp_path / "cut"
    child = begun(file, cut, tmp_path / "c2")
    deadline = time.monotonic() + 60
    while not (cut / "metrics.jsonl").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.Random(time.time_ns()).random() * 0.4)
    child.kill()
    child.wait()
    done = refine("train", "--resume", cut, cache=tmp_path / "c2")
    assert done.code == 0, done.err
    for what, value in content(RunFolder.open(whole)).items():
        assert value == content(RunFolder.open(cut))[what], what
    # At most the calls in flight were made twice.
    assert len(server.requests) <= len(whole_server.requests) + 8


def test_calls_under_way_at_a_kill_stand_in_the_ledger(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    """kill -9 while the judge thinks about a whole step; without a cache, all of it is asked again."""
    hangs, answered = True, 16

    def delay(number: int) -> float:
        return 300.0 if hangs and number >= answered else 0.0

    server = llm_server(brain=brain, delay=delay)
    file = task(server.base_url, "[budget]\ndollars = 9.0", "concurrency = 3\ncache = false")
    cut = tmp_path / "cut"
    child = begun(file, cut, tmp_path / "c")
    deadline = time.monotonic() + 100
    while len(server.requests) < answered + 3 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    child.wait()
    hangs, under_way = False, len(server.requests) - answered
    assert under_way == 3
    assert len(RunFolder.open(cut).calls()) == answered
    done = refine("train", "--resume", cut, cache=tmp_path / "c")
    assert done.code == 0, done.err
    calls = RunFolder.open(cut).calls()
    assert len([c for c in calls if c["outcome"] != "cached"]) == len(server.requests)
    assert [c["outcome"] for c in calls].count("killed") == under_way
    numbers = [c["id"] for c in calls]
    assert sorted(numbers) == list(range(1, len(calls) + 1))
    lost = {c["id"] for c in calls if c["outcome"] == "killed"}
    assert {e["id"] for e in RunFolder.open(cut).exchanges()} == set(numbers) - lost
    for call in calls[answered : answered + under_way]:
        assert (call["outcome"], call["cost_usd"], call["purpose"]) == ("killed", None, "judge")
        assert call["extra"]["estimated_usd"] > 8192 * OUT / 1e6
    assert not list(cut.glob(".*.jsonl"))


def test_the_cap_stops_saves_reports_and_lets_go_on(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = llm_server(brain=brain)
    calm = tmp_path / "calm"
    assert refine("train", task(server.base_url), "--run", calm, cache=tmp_path / "c1").code == 0
    costs = [c["cost_usd"] for c in RunFolder.open(calm).calls()]
    cap = sum(costs) / 2
    poor = tmp_path / "poor"
    file = task(server.base_url, f"[budget]\ndollars = {cap}", "concurrency = 2")
    done = refine("train", file, "--run", poor, cache=tmp_path / "c2")
    assert done.code == 3
    assert "budget.dollars" in done.err
    assert "--resume" in done.err
    assert (poor / "report.html").is_file()
    spent = sum(c["cost_usd"] for c in RunFolder.open(poor).calls())
    assert cap <= spent <= cap + 2 * max(costs)
    done = refine("train", "--resume", poor, "--set", "budget.dollars=99", cache=tmp_path / "c2")
    assert done.code == 0, done.err
    assert content(RunFolder.open(poor)) == content(RunFolder.open(calm))


def test_an_evaluation_under_a_cap_that_is_used_up_says_how_to_go_on(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = llm_server(brain=lambda body: "Sorry, no." if body["model"] == "mad" else brain(body))
    run, cache = tmp_path / "run", tmp_path / "c"
    file = task(server.base_url, "[budget]\ndollars = 9.0")
    assert refine("train", file, "--run", run, cache=cache).code == 0
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("dollars = 9.0", "dollars = 0.01"))
    again = ("eval", run, "--seed", "5", "--judge", "other/judge", "--set")
    other = f'endpoints.other={{base_url="{server.base_url}", prices={{judge={{input=1.0, output=1.0}}}}}}'
    done = refine(*again, other, cache=cache)
    assert done.code == 3
    assert "--set budget.dollars=0.02:" in done.err
    assert "--resume" not in done.err
    done = refine(*again, other, "--set", "budget.dollars=9.0", cache=cache)
    assert done.code == 0, done.err
    assert RunFolder.open(run).calls()[-1]["endpoint"] == "other"
    done = refine(*again, "judge.repeats=3", cache=cache)
    assert done.code == 2
    assert "alone" in done.err
    # A judge of whom nothing can be used is found out before the model is loaded and answers.
    mad = ("eval", run, "--seed", "6", "--judge", "mine/mad", "--set", "budget.dollars=9.0")
    done = refine(*mad, cache=cache)
    assert done.code == 4
    assert "evaluate.judge (mine/mad): mine/mad gave no usable reply: There is no JSON" in done.err
    assert "The base model answers" not in done.err


def test_a_writer_that_eats_the_cap_before_anything_else(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = llm_server(brain=brain)
    run = tmp_path / "run"
    file = task(server.base_url, "[budget]\ndollars = 0.000001")
    done = refine("train", file, "--run", run, cache=tmp_path / "c")
    assert done.code == 3
    assert len(server.requests) == 1
    assert (run / "report.html").is_file()
    assert (run / "llm_calls.jsonl").read_text().count("\n") == 1  # what was paid for stays on record


def test_what_a_writer_was_asked_without_a_run_is_kept_where_asked_for(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    moods = ["ok", "cut"]  # the second reply comes in half
    server = llm_server(brain=brain, moods=moods)
    file = task(server.base_url)
    kept = tmp_path / "replies.jsonl"
    done = refine("prompts", file, "--replies", kept, cache=tmp_path / "c")
    assert done.code == 0, done.err
    assert "1 reply could not be used" in done.out
    records = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(records) == len(server.requests)
    assert {r["purpose"] for r in records} == {"writer"}
    assert sorted(r["outcome"] for r in records) == ["cut", *["ok"] * (len(records) - 1)]
    asked = [json.dumps(r["messages"]) for r in server.requests]
    assert sorted(json.dumps(r["messages"]) for r in records) == sorted(asked)
    file.write_text(file.read_text().replace("[prompts]", '[prompts]\nsource = "recipe:style"'))
    refused = refine("prompts", file, "--replies", tmp_path / "r.jsonl", cache=tmp_path / "c")
    assert (refused.code, "no writer is asked" in refused.err) == (2, True)


def test_what_is_missing_is_said_before_anything_is_loaded(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = llm_server(brain=brain)
    for key, change, variables in (
        ("MY_KEY", lambda text: text, {"MY_KEY": ""}),
        ("reward.judges", lambda text: text.replace("mine/judge", "opnerouter/deepseek/r1"), {}),
        ("prices", lambda text: re.sub(r"prices.*", "", text) + "[budget]\ndollars = 1.0\n", {}),
        ("writer.model", lambda text: text.replace("mine/some/writer", "writer"), {}),
    ):
        file = task(server.base_url)
        file.write_text(change(file.read_text()))
        done = refine("train", file, "--run", tmp_path / "run", cache=tmp_path / "c", **variables)
        assert done.code == 2, (key, done.err)
        assert key in done.err
        assert "Loading" not in done.err
        assert not (tmp_path / "run").exists()
    assert server.requests == []


@pytest.mark.parametrize(
    ("mood", "text"),
    [("401", "MY_KEY"), ("404", "judge"), ("402", "money"), ("500", "gives no reply")],
)
def test_a_judge_that_refuses_ends_the_run_with_4_and_it_can_go_on(
    refine: Callable[..., Any],
    task: Callable[..., Path],
    llm_server: Callable[..., Any],
    tmp_path: Path,
    mood: str,
    text: str,
) -> None:
    def moods(number: int, body: dict[str, Any]) -> str:
        return mood if body["model"] == "judge" and not healed else "ok"

    healed: list[bool] = []
    server = llm_server(brain=brain, moods=moods)
    run = tmp_path / "run"
    file = task(server.base_url)
    file.write_text(file.read_text().replace("retries = 8", "retries = 0"))
    done = refine("train", file, "--run", run, cache=tmp_path / "c")
    assert done.code == 4, done.err
    assert text in done.err
    assert "--resume" in done.err
    assert "sk-very-secret" not in done.err
    healed.append(True)
    done = refine("train", "--resume", run, cache=tmp_path / "c")
    assert done.code == 0, done.err


def test_a_server_that_is_not_there(
    refine: Callable[..., Any], task: Callable[..., Path], tmp_path: Path
) -> None:
    file = task("http://127.0.0.1:9/v1", endpoint="timeout = 2.0")
    file.write_text(file.read_text().replace("retries = 8", "retries = 1"))
    done = refine("train", file, "--run", tmp_path / "run", cache=tmp_path / "c")
    assert done.code == 4
    assert "127.0.0.1:9" in done.err


def test_a_judge_that_likes_bad_answers_stops_the_run_before_training(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    def gullible(body: dict[str, Any]) -> str:
        reply = json.loads(brain(body))
        for entry in reply.get("scores", []):
            entry["score"] = 0.9
        return json.dumps(reply)

    server = llm_server(brain=gullible)
    run = tmp_path / "run"
    done = refine("train", task(server.base_url), "--run", run, cache=tmp_path / "c")
    assert done.code == 3, done.err
    assert "order to the judge" in done.err
    assert RunFolder.open(run).metrics() == []
    assert "order to the judge" in (run / "report.html").read_text()


@pytest.mark.parametrize(("what", "code"), [("never", 4), ("bad answers", 3)])
def test_a_judge_of_whom_nothing_can_be_used_stops_the_run_before_anything_is_spent(
    refine: Callable[..., Any],
    task: Callable[..., Path],
    llm_server: Callable[..., Any],
    tmp_path: Path,
    what: str,
    code: int,
) -> None:
    """Nothing at all: before the model is loaded, and the writer asked. Nothing of the bad answers beside the
    model's own: before the base model answers for the comparison. Once it is mended, the run goes on."""

    def confused(body: dict[str, Any]) -> str:
        shown = body["messages"][1]["content"].count("<trajectory id=") if len(body["messages"]) > 1 else 0
        return "I like them all!" if not mended and shown >= (1 if what == "never" else 3) else brain(body)

    mended: list[bool] = []
    server = llm_server(brain=confused)
    run = tmp_path / "run"
    done = refine("train", task(server.base_url), "--run", run, cache=tmp_path / "c")
    assert done.code == code, done.err
    assert "There is no JSON in the reply" in done.err
    assert f"train --resume {run}" in done.err
    folder = RunFolder.open(run)
    assert folder.outcomes("base") is None
    asked = {r["model"] for r in server.requests}
    assert ("Loading" in done.err, asked == {"judge"}) == (
        (False, True) if what == "never" else (True, False)
    )
    assert "unusable" in {c["outcome"] for c in folder.calls()}
    mended.append(True)
    done = refine("train", "--resume", run, cache=tmp_path / "c")
    assert done.code == 0, done.err
    page = folder.report.read_text()
    assert "I like them all!" in page
    assert page.count("Before training (") == 1  # the look that could be had, and not the first one
    assert "judged by mine/judge" in page


def test_ctrl_c_while_a_sanity_case_waits_for_the_judge(
    task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = llm_server(brain=brain, delay=60.0)
    case = 'sanity = [{prompt = "Say hi to me.", good = "hi", bad = "I am: sorry"}]'
    folder = RunFolder.create(tmp_path / "run", load_settings(task(server.base_url, reward=case)))

    def pause() -> None:
        if server.requests:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        pipeline.run(folder, pause=pause)
    assert server.billed == []  # nothing was waited for
    assert folder.events()[-1]["kind"] == "interrupted"
    assert [c["outcome"] for c in folder.calls()] == ["cancelled"]  # it may have to be paid for


def test_a_judge_whose_replies_stay_unusable_stops_the_run_with_missing_scores(
    refine: Callable[..., Any], task: Callable[..., Path], llm_server: Callable[..., Any], tmp_path: Path
) -> None:
    def mad(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        later = "lobster" not in text  # of the first look something can be used
        return "I like them all!" if "<trajectory id=" in text and later else brain(body)

    server = llm_server(brain=lambda body: mad(body) if len(body["messages"]) < 4 else "Sorry, no.")
    run = tmp_path / "run"
    file = task(server.base_url, "[judge]\nanchors = false")
    done = refine("train", file, "--run", run, cache=tmp_path / "c")
    assert done.code == 3
    assert "missing" in done.err
    assert "never counted as 0" in done.err
