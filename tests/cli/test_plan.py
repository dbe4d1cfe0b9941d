"""refine plan: what it prints, what it asks, how it ends."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.cli import planning

Refine = Callable[..., Any]  # its results have .code, .out and .err
JUDGED = """
task = "Answer politely."
[model]
name = "tiny"
[writer]
model = "local/writer"
[reward]
judges = ["local/judge", "openrouter/org/judge"]
[grpo]
steps = 10
validate_every = 0
[budget]
dollars = 0.01
[endpoints.local]
base_url = "http://127.0.0.1:9/v1"
prices = {writer = {input = 1.0, output = 2.0}, judge = {input = 1.0, output = 2.0}}
"""


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "task.toml").write_text(JUDGED)
    return tmp_path / "judged" / "task.toml"


def test_rules_cost_time_alone(refine: Refine, task: Path, tmp_path: Path) -> None:
    done = refine("plan", task)
    assert (done.code, done.err) == (0, "")
    head = done.out.splitlines()[0]
    assert head.startswith("35 training, 4 validation, 6 held-out prompts of about ")
    assert "6 steps of 3 prompts x 4 answers of at most 10 tokens" in head
    assert "dollars" not in done.out
    assert "calls to LLMs" not in done.out
    assert re.search(r"^time     \d+(–\d+)? s$", done.out, re.MULTILINE)
    assert re.search(r"^memory   .* [MG]B$", done.out, re.MULTILINE)
    assert "numbers of calls" not in done.out
    assert not (tmp_path / "runs").exists()


def test_games_are_told_apart_from_answers(refine: Refine, task: Path) -> None:
    (task.parent / "my_world.py").write_text(
        "class Yes:\n"
        "    def start(self, data, seed):\n        return 'Go.'\n"
        "    def step(self, reply):\n        return 'yes', 1.0, True\n"
    )
    world = ("--set", "rollout.environment=my_world.py:Yes", "--set", "rollout.turns=5")
    head = refine("plan", task, *world).out.splitlines()[0]
    assert "6 steps of 3 prompts x 4 games of at most 5 turns of 10 tokens in my_world.py:Yes" in head


def test_a_plan_needs_no_key(refine: Refine, judged: Path) -> None:
    done = refine("plan", judged)
    assert done.code == 0
    rows = {tuple(re.split(r" {2,}", line.strip())[:2]) for line in done.out.splitlines()}
    assert rows >= {
        ("facets", "1"),
        ("prompts", "10–20"),
        ("training", "80"),
        ("held-out comparison", "24"),
        ("anchors", "2"),
    }
    assert done.out.count("  training ") == 2
    assert "Not set yet: OPENROUTER_API_KEY." in done.out
    assert "budget.dollars needs the price of every model" in done.out
    assert "openrouter/org/judge" in done.out
    assert "The plan exceeds budget.dollars = 0.01" in done.out
    assert max(map(len, done.out.splitlines()[1:-4])) <= 200


def test_json(refine: Refine, judged: Path) -> None:
    done = refine("plan", judged, "--json", "--set", "grpo.steps=20")
    plan = json.loads(done.out)
    assert done.code == 0
    training = [p for p in plan["lines"] if p["calls"]["stage"] == "training"]
    assert [(p["calls"]["model"], p["calls"]["low"], p["calls"]["high"]) for p in training] == [
        ("local/judge", 160, 160),
        ("openrouter/org/judge", 160, 160),
    ]
    assert training[0]["dollars"][0] > 0
    assert plan["cost"] == {"low": None, "high": None, "unknown": ["openrouter/org/judge"]}
    assert plan["probe"] is None
    assert plan["seconds"]["total"][0] > 0


def test_the_bundled_recipe(refine: Refine) -> None:
    done = refine("plan", "--recipe", "style")
    assert done.code == 0
    assert "480 training, 24 validation, 64 held-out prompts" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Name a task.toml"),
        (("--recipe", "style", "x.toml"), "A task and a recipe are two tasks"),
        (("--recipe", "dots", "--set", "rollout.max_tokens=5000"), "leaves no room for a prompt"),
        (("--recipe", "dots", "--set", "grpo.prompts_per_step=1000"), "there are only 480 training prompts"),
        (("--recipe", "stile"), "did you mean 'style'"),
        (("--recipe", "style", "--yes"), "--yes goes with --probe"),
        (("--recipe", "style", "--set", "grpo.stps=3"), "grpo.steps"),
        (("--recipe", "style", "--set", 'reward.judges=["nowhere/x"]'), "there is no endpoint `nowhere`"),
        (("--recipe", "style", "--set", 'prompts.source="file:none.jsonl"'), "none.jsonl"),
    ],
)
def test_mistakes(refine: Refine, arguments: tuple[str, ...], said: str) -> None:
    done = refine("plan", *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


# -- the probe ------------------------------------------------------------------------------------


def test_a_probe(refine: Refine, task: Path) -> None:
    done = refine("plan", task, "--probe", "--yes", "--json")
    found = json.loads(done.out)["probe"]
    assert done.code == 0
    assert (found["groups"], found["answers"], found["missing"], found["cost_usd"]) == (8, 32, 0, 0.0)
    assert found["no_signal"] == found["flat"] / 8
    low, high = found["no_signal_ci95"]
    assert low <= found["no_signal"] <= high
    assert 1 <= found["tokens_mean"] <= 10
    again = json.loads(refine("plan", task, "--probe", "--yes", "--json").out)["probe"]
    assert {**again, "seconds": 0} == {**found, "seconds": 0}
    shown = refine("plan", task, "--probe", "--yes")
    assert f"{found['flat']} of 8 groups had no spread in their rewards" in shown.out
    assert "Loading" in shown.err


def test_a_probe_without_any_spread_gives_advice(refine: Refine, task: Path) -> None:
    rules = 'reward.rules=[{rule = "words", max = 999}]'
    done = refine("plan", task, "--probe", "--yes", "--set", rules)
    assert "8 of 8 groups had no spread in their rewards: about 100% of all" in done.out
    assert "(68% to 100% with 95 % confidence)" in done.out
    assert "make the reward finer" in done.out


def test_a_probe_asks_first(refine: Refine, task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = refine("plan", task, "--probe")
    assert done.code == 2
    assert "say --yes" in done.err
    assert "It asks no LLM." in done.err

    monkeypatch.setattr(planning, "_on_a_terminal", lambda: True)
    refused = refine("plan", task, "--probe", stdin="n\n")
    assert (refused.code, "groups had no spread" in refused.out) == (0, False)
    agreed = refine("plan", task, "--probe", stdin="y\n")
    assert (agreed.code, "groups had no spread" in agreed.out) == (0, True)


def test_a_probe_says_how_many_calls_it_takes(refine: Refine, task: Path) -> None:
    judges = ('reward.judges=["openrouter/a/b"]', "judge.repeats=3")
    done = refine("plan", task, "--probe", "--set", judges[0], "--set", judges[1])
    assert done.code == 2
    assert "scoring them takes up to 24 calls to LLMs" in done.err
    keyless = refine("plan", task, "--probe", "--yes", "--set", judges[0])
    assert keyless.code == 2
    assert "OPENROUTER_API_KEY is not set" in keyless.err


def test_a_probe_needs_written_prompts(refine: Refine, judged: Path) -> None:
    done = refine("plan", judged, "--probe", "--yes")
    assert done.code == 2
    assert f"prompts {judged} --out {judged.parent}/written.jsonl" in done.err
    assert f"plan {judged} --probe --set prompts.source=file:written.jsonl" in done.err


def test_a_probe_whose_rewards_fail_says_why(refine: Refine, task: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def broken(completion):\n    raise ValueError('no luck')\n")
    functions = f'reward.functions=["{tmp_path}/broken.py:broken"]'
    done = refine("plan", task, "--probe", "--yes", "--set", functions)
    assert done.code == 2
    assert "No group could be scored" in done.err
    assert "no luck" in done.err


def test_a_probe_with_a_judge_costs_what_it_says(
    refine: Refine, task: Path, llm_server: Callable[..., Any]
) -> None:
    def judge(body: dict[str, Any]) -> str:
        item = body["response_format"]["json_schema"]["schema"]["properties"]["scores"]["items"]
        ids = item["properties"]["trajectory_id"]["enum"]
        return json.dumps(
            {"scores": [{"trajectory_id": i, "explanation": "", "score": n / 9} for n, i in enumerate(ids)]}
        )

    server = llm_server(brain=judge)
    settings = [
        'reward.judges=["local/j"]',
        "reward.rules=[]",
        f'endpoints.local.base_url="{server.base_url}"',
        'endpoints.local.prices={"*" = {input = 1.0, output = 2.0}}',
    ]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    done = refine("plan", task, *flags, "--probe", "--yes", "--json")
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    found = json.loads(done.out)["probe"]
    assert (found["groups"], found["flat"], len(server.requests)) == (8, 0, 8)
    assert found["cost_usd"] == pytest.approx(sum(i + 2 * o for i, o in server.billed) / 1e6)
    down = llm_server(moods="401")
    flags = [flag.replace(server.base_url, down.base_url) for flag in flags]
    assert refine("plan", task, *flags, "--probe", "--yes").code == 4


# -- supervised fine-tuning -------------------------------------------------------------------------


@pytest.fixture
def imitating(task: Path, tmp_path: Path) -> Path:
    """The task with 20 answers to imitate."""
    lines = [{"prompt": f"say {n}", "answer": f"{n} it is"} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = task.read_text().replace("file:prompts.jsonl", f"file:{task.parent}/prompts.jsonl")
    sft = '\n[sft]\ndata = "file:pairs.jsonl"\nsteps = 4\nbatch_tokens = 100\nadapter = "none"\n'
    (tmp_path / "task.toml").write_text(text + sft)
    return tmp_path / "task.toml"


def test_both_stages_are_shown(refine: Refine, imitating: Path) -> None:
    done = refine("plan", imitating)
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()[:2]
    assert re.fullmatch(
        r"18 rows to imitate \([\d,]+ tokens, [\d,]+ of them in answers\), 2 to validate; 4 steps of up to "
        r"100 tokens: \d\.\d\d passes",
        first,
    )
    assert second.startswith("35 training, 4 validation, 6 held-out prompts of about ")
    assert re.search(r"^time     .*s \(supervised fine-tuning \d+(–\d+)? s\)$", done.out, re.MULTILINE)
    assert re.search(r"^training supervised: .*\(100 %\);\s+GRPO: .*\)$", done.out, re.MULTILINE | re.DOTALL)


def test_supervised_fine_tuning_alone(refine: Refine, imitating: Path) -> None:
    alone = ("plan", imitating, "--set", "reward.rules=[]")
    done = refine(*alone)
    assert (done.code, done.err) == (0, "")
    assert "held-out" not in done.out
    assert re.search(r"^time     \d+(–\d+)? s$", done.out, re.MULTILINE)
    assert re.search(r"^training .* parameters are trained \(100 %\)$", done.out, re.MULTILINE)
    assert done.out.rstrip().endswith("`refine sft` on these settings.")
    plan = json.loads(refine(*alone, "--json").out)
    assert (plan["counts"], plan["work"], plan["lines"]) == (None, None, [])
    assert (plan["sft"]["rows"]["train"], plan["sft"]["rows"]["steps"]) == (18, 4)
    assert plan["seconds"]["total"] == [5 + s for s in plan["sft"]["seconds"]]
    refused = refine(*alone, "--probe", "--yes")
    assert (refused.code, "this task has no reward" in refused.err) == (2, True)


def test_rows_that_cannot_be_imitated_are_told(refine: Refine, imitating: Path) -> None:
    (imitating.parent / "pairs.jsonl").write_text('{"prompt": "say 1", "answer": "1"}\n{"prompt": "say 2"}\n')
    done = refine("plan", imitating)
    assert (done.code, done.out) == (2, "")
    assert "pairs.jsonl:2 has no column `answer`" in done.err


TOOL = """
def look_up(word: str) -> int:
    \"\"\"The number that belongs to a word. WHAT\"\"\"
    return 1
"""


def test_what_the_policy_is_told_of_its_tools_is_counted(refine: Refine, task: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(task.parent, tmp_path / "tools"))

    def planned(*tools: str) -> tuple[int, int]:
        """Tokens of a prompt, and how many of them are about the tools."""
        done = refine("plan", folder, "--set", f"rollout.tools={list(tools)}")
        assert done.code == 0, done.err
        found = re.search(r"prompts of about (\d+) tokens(?:, (\d+) of them about the tools)?; ", done.out)
        assert found is not None
        return int(found[1]), int(found[2] or 0)

    (folder / "tools.py").write_text(TOOL.replace("WHAT", ""))
    bare, short = planned(), planned("tools.py:look_up")
    assert bare[1] == 0
    assert short[0] - short[1] == bare[0]
    (folder / "tools.py").write_text(TOOL.replace("WHAT", "x" * 400))
    assert planned("tools.py:look_up")[0] - short[0] in (100, 101)  # four characters a token


def test_tokens_at_a_service(refine: Refine, task: Path) -> None:
    there = ["--set", "engine.kind=tinker", "--set", "engine.prices={prefill=1, sample=4, train=2}"]
    done = refine("plan", task, *there)
    assert done.code == 0, done.err
    assert re.search(r"^tokens at the service +prefilled +sampled +trained +dollars$", done.out, re.MULTILINE)
    assert re.search(r"^  training .*\$0\.\d+–0\.\d+$", done.out, re.MULTILINE)
    assert re.search(r"^dollars  \$0\.\d+–0\.\d+$", done.out, re.MULTILINE)
    assert not re.search(r"^(time|memory|disk|machine) ", done.out, re.MULTILINE)
    whole = json.loads(refine("plan", task, *there, "--json").out)
    assert [one["stage"] for one in whole["service"]][1] == "training"
    assert whole["memory"] is None
    unpriced = refine("plan", task, *there[:2])
    assert re.search(r"^dollars  unknown for tinker/", unpriced.out, re.MULTILINE)
    assert json.loads(refine("plan", task, *there[:2], "--json").out)["cost"]["low"] is None
    probed = refine("plan", task, *there, "--probe", "--yes")
    assert probed.code == 2
    assert "engine.kind" in probed.err
