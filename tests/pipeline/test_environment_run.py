"""Whole runs in an environment of several turns: the record, resuming, replaying, evaluating, the trainer's
own look at the tokens of all turns."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import PIPE, begin
from make import Pause
from refine_rl.errors import GuardStop, Interrupted, SettingsError
from refine_rl.pipeline.compare_runs import lay_out
from refine_rl.pipeline.evaluate import evaluate_again
from refine_rl.pipeline.replay import replay
from refine_rl.pipeline.train import run
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs, plain_logprobs
from refine_rl.policy.tokens import token_batch
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import settings_from_dict

Task = Callable[..., Settings]
WORDS = ["cat", "dog", "tree", "house", "river"]
WORLD = '''
import random
from pathlib import Path

LOG = Path(__file__).parent / "steps.log"

class Shorter:
    """Each reply has to have fewer letters than the one before."""

    def start(self, data, seed):
        self.limit = 30 + random.Random(seed).randint(0, 5)
        return f"at most {self.limit}"

    def step(self, reply):
        with LOG.open("a") as log:
            log.write("step\\n")
        if len(reply) > self.limit:
            return "too long", -0.5, True
        self.limit = len(reply) - 1
        return f"now at most {self.limit}", 0.25, self.limit < 4

class Broken(Shorter):
    def step(self, reply):
        if len(reply) % 3 == 0:
            raise RuntimeError("now and then")
        return super().step(reply)

class Noted(Shorter):
    def start(self, data, seed):
        with Path(__file__).with_name("seeds.log").open("a") as log:
            log.write(f"{seed}\\n")
        return super().start(data, seed)

class Shut(Shorter):
    def step(self, reply):
        raise RuntimeError("never")
'''


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that ends its answers: every fifth token is one that stops."""
    folder = tmp_path_factory.mktemp("model") / "stops"
    shutil.copytree(make_model("llama"), folder)
    file = folder / "generation_config.json"
    config = json.loads(file.read_text())
    ends = config["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    file.write_text(json.dumps({**config, "eos_token_id": sorted({*ends, *range(100, 280, 5)})}))
    return folder


@pytest.fixture(scope="module")
def task(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    (folder / "world.py").write_text(WORLD)
    lines = [{"prompt": f"the {a} and a {b}"} for a in WORDS for b in WORDS if a != b]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(**sections: dict[str, Any]) -> Settings:
        usual: dict[str, dict[str, Any]] = {
            "model": {"name": str(model), "device": "cpu", "dtype": "float32", "rank": 4},
            "prompts": {"source": "file:prompts.jsonl", "validation": 3, "held_out": 4},
            "rollout": {
                "environment": "world.py:Shorter",
                "turns": 3,
                "max_tokens": 10,
                "trajectory_tokens": 60,
                "group_size": 4,
            },
            "grpo": {
                "steps": 4,
                "prompts_per_step": 3,
                "learning_rate": 0.02,
                "checkpoint_every": 2,
                "validate_every": 2,
                "all_cut_patience": 99,
            },
            "evaluate": {"samples": 2, "bootstrap": 200},
        }
        for name, values in sections.items():
            usual[name] = {**usual.get(name, {}), **values}
        return settings_from_dict({"task": "Be short.", **usual}, folder)

    return make


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "whole", task())
    run(folder)
    return folder


def same(a: RunFolder, b: RunFolder) -> None:
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert (a.checkpoint(4) / file).read_bytes() == (b.checkpoint(4) / file).read_bytes()
    for file in ("groups.jsonl", "validation.jsonl", "comparison.json"):
        assert (a.path / file).read_text() == (b.path / file).read_text(), file


def test_everything_is_on_record(whole: RunFolder) -> None:
    members = [t for g in whole.groups() for t in g["trajectories"]]
    assert len(members) == 48
    assert {t["world"]["end"] for t in members} >= {"done", "limit"}
    assert max(len(t["spans"]) for t in members) == 5
    for t in members:
        assert t["breakdown"]["world"] == pytest.approx(sum(t["world"]["rewards"])) == t["reward"]
        assert [trained for _, trained in t["spans"]] == [n % 2 == 0 for n in range(len(t["spans"]))]
        assert sum(length for length, _ in t["spans"]) <= 60
        assert t["messages"][0]["content"].rpartition("\n\n")[2].startswith("at most 3")
    for m in whole.metrics():
        assert m["mismatch_mean"] < 1e-5  # the tokens of all turns
        assert sum(m["ends"].values()) == pytest.approx(1.0)
        assert 1.0 <= m["turns_mean"] <= 3.0
    assert whole.comparison() is not None


def test_groups_come_back_from_the_record(whole: RunFolder) -> None:
    groups = [g for some in whole.recorded_steps().values() for g in some]
    assert all(t.played is not None for g in groups for t in g.trajectories)
    first = groups[0].trajectories[0]
    record = next(iter(whole.groups()))["trajectories"][0]
    assert first.played is not None
    assert list(first.played.rewards) == record["world"]["rewards"]
    assert first.answers[-1] == first.completion


def test_log_probs_of_all_turns_are_those_of_a_plain_forward(whole: RunFolder, model: Path) -> None:
    """Those of step 1 were sampled by the untrained model."""
    policy = load_policy(ModelSettings(name=str(model), dtype="float32", device="cpu"))
    rows = [t for g in whole.recorded_steps()[1] for t in g.trajectories]
    batch = token_batch(rows)
    with torch.no_grad():
        fast, plain = logprobs(policy, batch), plain_logprobs(policy, batch)
    for row, t in enumerate(rows):
        said = [x for s in t.segments for x in s.logprobs]
        mask = batch.trainable[row]
        torch.testing.assert_close(plain[row][mask], torch.tensor(said), atol=2e-5, rtol=0)
        torch.testing.assert_close(fast[row][mask], plain[row][mask], atol=2e-5, rtol=0)


def test_a_step_is_made_again_to_the_token(whole: RunFolder) -> None:
    again = replay(whole, step=3)
    assert len(again) == 12
    assert all(member.same for member in again)
    first = whole.recorded_steps()[3][0].trajectories[0]
    assert first.played is not None
    assert f"after {len(first.answers)} turn" in again[0].text  # the whole dialogue, not its last turn alone
    assert again[0].text == again[0].recorded_text


def test_another_evaluation_plays_the_same_world(whole: RunFolder) -> None:
    comparison, _ = evaluate_again(whole, name="again", seed=7)
    assert "component:world" in comparison.details


def test_stopped_and_resumed_to_the_bit(task: Task, tmp_path: Path) -> None:
    """With the next step's games under way while this one's are scored, and more games than are scored."""
    more = {"minibatches": 2, "updates_per_step": 2, "kl_stop": 0.5, "replay": 1, "oversample": 1.5}
    settings = task(rollout={"ahead": 1}, grpo=more)
    unbroken, folder = (RunFolder.create(tmp_path / name, settings) for name in "ab")
    run(unbroken)
    stops = 0
    while folder.comparison() is None:
        try:
            run(folder, pause=Pause(110))
        except Interrupted:
            stops += 1
    assert stops >= 2
    same(unbroken, folder)


CHILD = """
import sys
from pathlib import Path
from refine_rl.pipeline.train import run
from refine_rl.run import RunFolder
folder, log = RunFolder.open(Path(sys.argv[1])), Path(sys.argv[2])
begun = []
class Tells:
    def __call__(self):
        if len(list(folder.metrics())) == 2:
            begun.append(log.read_text())
            if begun[-1] != begun[0]:
                print("in the middle", flush=True)
                sys.stdin.read()
run(folder, pause=Tells())
"""


def test_killed_in_the_middle_of_a_step_and_resumed_to_the_bit(
    whole: RunFolder, task: Task, tmp_path: Path
) -> None:
    """When the world of step 3 has answered for the first time, and waits for the second turn."""
    settings = task()
    folder = RunFolder.create(tmp_path / "run", settings)
    child = begin(folder.path, settings.folder / "steps.log", code=CHILD, stdin=PIPE, stdout=PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"in the middle\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    child.stdin.close()
    assert [m["step"] for m in folder.metrics()] == [1, 2]
    run(folder)
    same(whole, folder)


def test_a_world_that_sometimes_fails_loses_members_not_rewards(task: Task, tmp_path: Path) -> None:
    settings = task(
        rollout={"environment": "world.py:Broken"}, reward={"max_missing": 1.0}, grpo={"steps": 2}
    )
    folder = RunFolder.create(tmp_path / "run", settings)
    run(folder)
    members = [t for g in folder.groups() for t in g["trajectories"]]
    failed = [t for t in members if t["world"]["end"] == "failed"]
    assert failed
    assert len(failed) < len(members)
    assert all(t["status"] == "missing" and t["advantage"] is None for t in failed)
    assert all("now and then" in t["world"]["why"] and "world.py" in t["world"]["why"] for t in failed)


def test_looks_meet_the_same_worlds_and_steps_others(task: Task, tmp_path: Path) -> None:
    """Three looks of 3 validation prompts x 2; base and tuned on 4 held-out prompts, 2 and the greedy one."""
    settings = task(
        rollout={"environment": "world.py:Noted"},
        grpo={"steps": 2, "validate_every": 1, "prompts_per_step": 5},
    )
    run(RunFolder.create(tmp_path / "run", settings))
    times = Counter((settings.folder / "seeds.log").read_text().split())
    assert Counter(times.values()) == {6: 3 + 4, 4: 2 * 5}


Refine = Callable[..., Any]


def test_chat_shows_the_world_played(whole: RunFolder, refine: Refine) -> None:
    """A prompt's id takes the prompt; both models meet the same world; other words are a prompt too."""
    first = next(p for p in whole.prompts() if p.split == "held_out")
    done = refine("chat", whole.path, "--base", stdin=f"{first.id}\nso long\n\n")
    assert done.code == 0, done.err
    assert "world.py:Shorter" in done.err
    base, tuned, other, _ = [t for t in re.split(r"^(?:base|tuned): +", done.out, flags=re.M) if t]
    for told in (base, tuned):
        assert told.startswith(f"{first.messages[-1]['content']}\n\nat most 3")
        assert re.search(r"^ *1  .*\[(\+0.25|-0.5).*\]$|ended by a limit", told, re.M), told
    assert base.splitlines()[2] == tuned.splitlines()[2]
    assert other.startswith("so long\n\nat most 3")


def test_too_many_failures_stop_the_run(task: Task, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", task(rollout={"environment": "world.py:Shut"}))
    with pytest.raises(GuardStop, match="scores are missing") as stopped:
        run(folder)
    assert "the world failed: turn 1: RuntimeError: never" in str(stopped.value)


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ("word.py:Shorter", "there is no file .*word.py; did you mean `world.py`"),
        ("world.py:Shorty", "has no class `Shorty`; did you mean `Shorter`"),
        ("world.py", "names no class"),
    ],
)
def test_an_environment_that_is_not_there(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str, what: str
) -> None:
    """It is said before a model is loaded."""
    monkeypatch.setattr("refine_rl.pipeline.prepare.run_engine", None)
    folder = RunFolder.create(tmp_path / "run", task(rollout={"environment": environment}))
    with pytest.raises(SettingsError, match=rf"rollout.environment: .*{what}"):
        run(folder)


def test_two_models_in_one_world(whole: RunFolder, task: Task, tmp_path: Path) -> None:
    """From the record, and played anew: the same prompts, the same draws on both sides."""
    a = RunFolder.open(Path(shutil.copytree(whole.path, tmp_path / "a")))
    b = RunFolder.create(tmp_path / "b", task(grpo={"learning_rate": 0.001}))
    run(b)
    log = task().folder / "steps.log"
    played = log.stat().st_size
    match = lay_out(a.path, b.path)
    assert (match.to_answer, match.to_score) == ([], [])
    versus, _, _ = match.play()
    assert log.stat().st_size == played  # nobody played
    base, tuned = versus.comparison.base, versus.comparison.tuned
    assert base is not None
    assert tuned is not None
    own = [folder.comparison() for folder in (a, b)]
    assert [c.tuned for c in own if c] == [base, tuned]

    match = lay_out(a.path, b.path, again=True)
    assert (match.to_answer, match.seed) == (["a", "b"], 1)
    versus, _, page = match.play(name="again")
    assert log.stat().st_size > played
    assert versus.comparison.prompts == 4
    assert "at most 3" in page.read_text()  # what the world said stands on the page


def test_two_models_in_one_world_from_the_command_line(
    whole: RunFolder, task: Task, tmp_path: Path, refine: Callable[..., Any]
) -> None:
    a, twin = (Path(shutil.copytree(whole.path, tmp_path / name)) for name in ("a", "twin"))
    log = task().folder / "steps.log"
    played = log.stat().st_size
    versus = compared(refine("compare", a, twin, "--again", "--json"))
    assert log.stat().st_size > played
    assert (versus["a"]["answers"], versus["b"]["answers"], versus["seed"]) == ("anew", "anew", 1)
    assert (versus["comparison"]["prompts"], versus["difference"]) == (4, (0.0, [0.0, 0.0]))
    own = whole.comparison()
    assert own is not None
    assert own.tuned is not None
    assert versus["comparison"]["base"]["mean"] != own.tuned.mean  # other draws


TOOLS = '''
def count(word: str, *, data: dict) -> int:
    """How many letters a word has."""
    return len(word)
'''


def test_two_models_with_tools_from_the_command_line(
    model: Path, task: Task, tmp_path: Path, refine: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    """Tools of a file are found again by the command; without the file nobody answers anew."""
    roomy = tmp_path / "roomy"
    shutil.copytree(make_model("llama", max_position_embeddings=1024), roomy)
    shutil.copy(model / "generation_config.json", roomy)
    (task().folder / "tools.py").write_text(TOOLS)
    settings = task(
        model={"name": str(roomy)},
        rollout={"environment": "", "tools": ["tools.py:count"], "trajectory_tokens": 400},
        reward={"rules": [{"rule": "words", "max": 3}]},
        grpo={"steps": 1, "validate_every": 0},
    )
    a = RunFolder.create(tmp_path / "a", settings)
    run(a)
    twin = shutil.copytree(a.path, tmp_path / "twin")
    for how, seed in (((), settings.grpo.seed), (("--again",), 1)):
        versus = compared(refine("compare", a.path, twin, *how, "--json"))
        made = "anew" if how else "on record"
        assert (versus["a"]["answers"], versus["b"]["answers"]) == (made, made)
        assert (versus["seed"], versus["difference"]) == (seed, (0.0, [0.0, 0.0]))
    (task().folder / "tools.py").unlink()
    gone = refine("compare", a.path, twin, "--again")
    assert gone.code == 2
    assert "tools.py" in gone.err


def compared(result: Any) -> dict[str, Any]:
    """What the command found, with the difference by its mean and interval."""
    assert result.code == 0, result.err
    versus = dict(json.loads(result.out))
    found = versus["comparison"]["difference"]
    return {**versus, "difference": (found["mean"], found["ci95"])}
