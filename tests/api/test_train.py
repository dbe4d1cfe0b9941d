"""The Python front door."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import refine_rl as refine
from refine_rl import api
from refine_rl.api.arguments import Task
from refine_rl.errors import GuardStop, SettingsError, UserError
from refine_rl.progress import Quiet

WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud"]
PROMPTS = [f"say something about the {a} and a {b}" for a in WORDS for b in WORDS if a < b]


def brevity(prompt: str, completion: str) -> float:
    return 1.0 if len(completion) <= 8 else 0.0


def breakdowns(run: refine.Run) -> set[str]:
    lines = (run.folder / "groups.jsonl").read_text().splitlines()
    return {name for line in lines for t in json.loads(line)["trajectories"] for name in t["breakdown"]}


def test_a_function_and_a_list_of_prompts(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run = refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], **small())
    assert run.folder == Path("runs/run")
    assert breakdowns(run) == {"brevity"}
    recorded = [json.loads(line) for line in (run.folder / "prompts.jsonl").read_text().splitlines()]
    assert sorted(r["messages"][0]["content"] for r in recorded) == sorted(PROMPTS)
    assert run.comparison.prompts == 4  # 20 % of 21
    assert run.report.is_file()
    assert (run.model / "adapter_model.safetensors").is_file()
    assert str(run.comparison).startswith(run.comparison.verdict)
    again = refine.open_run(run.folder)
    assert again == run
    # The next one gets a folder of its own.
    assert refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], **small()).folder == Path(
        "runs/run-2"
    )


def test_rules_a_file_and_data_for_a_function(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = [{"prompt": p, "limit": len(p)} for p in PROMPTS]
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    async def shorter(completion: str, limit: int) -> refine.Score:
        return refine.Score(value=float(len(completion) < limit))

    run = refine.train(
        "Be brief.",
        prompts="tickets.jsonl",
        rules=[{"rule": "words", "max": 2}],
        rewards=[shorter],
        run=tmp_path / "mine",
        **small(),
    )
    assert breakdowns(run) == {"words", "shorter"}
    assert run.folder == tmp_path / "mine"


def test_a_task_file_with_sections_over_it(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "task.toml").write_text(
        'task = "Be brief."\nname = "brief"\n[prompts]\nsource = "file:prompts.txt"\nheld_out = 3\n'
        '[reward]\nrules = [{rule = "chars", max = 9}]\n[grpo]\nlearning_rate = 0.02\nsteps = 50\n'
    )
    run = refine.train(folder / "task.toml", **small())
    assert run.folder == Path("runs/brief")
    assert breakdowns(run) == {"chars"}
    assert run.comparison.prompts == 3
    config = (run.folder / "config.toml").read_text()
    assert "steps = 2\n" in config  # given here
    assert "learning_rate = 0.02\n" in config  # of the file


def test_it_works_inside_a_running_event_loop(small: Callable[..., dict[str, Any]]) -> None:
    async def cell() -> refine.Run:
        return refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], **small())

    assert asyncio.run(cell()).comparison.prompts == 4


def test_the_example_of_the_module_runs(
    small: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert api.__doc__ is not None
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    train = api.train
    monkeypatch.setattr(refine, "train", lambda **given: train(**{**small(), **given}))
    exec(api.__doc__.split("\n\n", 1)[1], {})  # noqa: S102  the docstring is ours
    assert "on 4 held-out prompts" in capsys.readouterr().out


def writer_and_judge(body: dict[str, Any]) -> str:
    """Writes prompts of random words; shorter answers are better."""
    text = next(m["content"] for m in body["messages"] if m["role"] == "user")
    if "<trajectory id=" in text:
        found = re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S)
        lengths = {name: len(json.loads(content)[-1]["content"]) for name, content in found}
        ranked = [
            {"trajectory_id": name, "explanation": "-", "score": 1 / (2 + n) if 0 < n < 30 else 0.0}
            for name, n in lengths.items()
        ]
        return json.dumps({"scores": ranked})
    if "Name the dimensions" in text:
        return json.dumps({"facets": [{"name": n, "values": WORDS[:3]} for n in ("topic", "place", "time")]})
    places = re.findall(r"(?m)^(\d+)\. topic: .*$", text.partition("Reply with JSON alone")[0])
    some = random.Random(text)
    prompts = [{"combination": int(n), "prompt": " ".join(some.choices(WORDS, k=12))} for n in places]
    return json.dumps({"prompts": prompts, "mistakes": [], "system": "Be brief."})


def test_a_writer_and_a_judge_need_no_data(
    small: Callable[..., dict[str, Any]],
    tmp_path: Path,
    llm_server: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REFINE_CACHE", str(tmp_path / "cache"))
    server = llm_server(brain=writer_and_judge)
    sections: dict[str, Any] = {
        "endpoints": {"mine": {"base_url": server.base_url, "key_env": ""}},
        "prompts": {"train": 6, "validation": 2, "held_out": 2, "max_tokens": 150},
    }
    run = refine.train("Be brief.", writer="mine/w", judge="mine/j", **small(**sections))
    assert breakdowns(run) == {"judge"}
    prompts = map(json.loads, (run.folder / "prompts.jsonl").read_text().splitlines())
    assert {prompt["origin"] for prompt in prompts} == {"writer:mine/w"}
    assert {request["model"] for request in server.requests} == {"w", "j"}


def test_what_writer_and_judge_stand_for(tmp_path: Path) -> None:
    def settings(**given: Any) -> Any:
        writer, judge = given.pop("writer", None), given.pop("judge", None)
        task = given.pop("task", "Be brief.")
        asked = Task(task=task, writer=writer, judge=judge, sections=given)
        asked.check()
        return asked.settings()

    both = settings(writer="a/w", judge="b/j", reward={"rubric": "Kind."})
    assert (both.writer.model, both.reward.judges, both.reward.rubric) == ("a/w", ["b/j"], "Kind.")
    assert settings(judge=("b/j", "b/k")).reward.judges == ["b/j", "b/k"]
    tables = settings(
        writer={"model": "a/w", "batch": 5}, judge={"kind": "absolute"}, reward={"judges": ["b/j"]}
    )
    assert (tables.writer.batch, tables.judge.kind, tables.reward.judges) == (5, "absolute", ["b/j"])
    (tmp_path / "task.toml").write_text(
        'task = "t"\n[writer]\nmodel = "a/x"\nbatch = 3\n[reward]\njudges = ["b/x"]\nrubric = "Kind."\n'
    )
    over = settings(task=tmp_path / "task.toml", writer="a/w", judge="b/j")
    assert (over.writer.model, over.writer.batch) == ("a/w", 3)
    assert (over.reward.judges, over.reward.rubric) == (["b/j"], "Kind.")
    with pytest.raises(UserError, match=r'judge=3: "ENDPOINT/MODEL", a list of these'):
        settings(judge=3)
    with pytest.raises(SettingsError, match="`reward` must be a table"):
        settings(judge="b/j", reward=3)


def test_resuming(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    calls, back = 0, False

    def patchy(prompt: str, completion: str) -> float:
        nonlocal calls
        calls += 1
        if calls > 40 and not back:
            raise RuntimeError("away")
        return brevity(prompt, completion)

    grpo = {"steps": 8, "prompts_per_step": 2, "all_cut_patience": 99, "validate_every": 0}
    with pytest.raises(GuardStop, match="away"):
        refine.train("Be brief.", prompts=PROMPTS, rewards=[patchy], run="mine", **small(grpo=grpo))
    with pytest.raises(
        UserError, match=r"is not finished. Go on with it: refine_rl.resume\('mine', rewards=\[patchy\]\)"
    ):
        refine.open_run("mine")
    with pytest.raises(UserError, match=r"\[patchy\], not with none.*resume\('mine', rewards=\[patchy\]\)"):
        refine.resume("mine")
    with pytest.raises(UserError, match=r"not with rewards=\[brevity\]"):
        refine.resume("mine", rewards=[brevity])
    assert Path("mine/config.toml").is_file()  # a refused resume takes nothing away
    back = True
    run = refine.resume("mine", rewards=[patchy], observer=Quiet())
    steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))
    with pytest.raises(UserError, match="not a run"):
        refine.resume("elsewhere")


def test_no_functions_where_there_were_none(small: Callable[..., dict[str, Any]]) -> None:
    rules = [{"rule": "words", "max": 2}]
    run = refine.train("Be brief.", prompts=PROMPTS, rules=rules, **small())
    with pytest.raises(UserError, match=r"without any code from Python.*leave rewards=\[brevity\] out"):
        refine.resume(run.folder, rewards=[brevity])


def test_an_evaluation_wants_the_functions_too(small: Callable[..., dict[str, Any]]) -> None:
    from refine_rl.pipeline.evaluate import evaluate_again
    from refine_rl.pipeline.given import Given
    from refine_rl.run import RunFolder

    run = refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], **small())
    folder, given = RunFolder.open(run.folder), Given(rewards=[brevity])
    with pytest.raises(UserError, match="brevity"):
        evaluate_again(folder)
    with folder.writing(), pytest.raises(UserError, match="another process"):
        evaluate_again(folder, given=given)
    with (folder.path / "events.jsonl").open("ab") as file:
        file.write(b'{"time')
    comparison, _ = evaluate_again(folder, given=given)
    assert "component:brevity" in comparison.details
    assert (folder.path / "events.jsonl").read_bytes().endswith(b"}\n")  # repaired


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": [lambda text: 1.0]}, "is no reward function"),
        ({"rewards": brevity}, r"rewards is a list of functions: rewards=\[brevity\]"),
        ({"rewards": []}, "reward"),
        ({"prompts": []}, "no prompts|prompt"),
        ({"prompts": ["one", 2]}, r"prompts\[1\] is 2"),
        ({"prompts": [{"prompt": "one", "x": {1}}]}, r"prompts\[0\] cannot be written as JSON"),
        ({"prompts": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"grop": {"steps": 3}}, "`grop` is not a setting; did you mean `grpo`"),
        ({"grpo": {"stepz": 3}}, "did you mean `grpo.steps`"),
        ({"grpo": 3}, "grpo"),
        ({"model": "/no/model"}, "there is no such folder"),
        ({"task": "nothing.toml"}, "nothing.toml: no such file"),
        ({"task": " "}, "say in plain words"),
    ],
)
def test_mistakes_leave_no_folder(
    small: Callable[..., dict[str, Any]], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    usual = {"task": "Be brief.", "prompts": PROMPTS, "rewards": [brevity], **small()}
    with pytest.raises(UserError, match=message):
        refine.train(**{**usual, **changes})
    assert [p for p in tmp_path.rglob("*") if p.name != "runs"] == []


def test_a_used_folder_is_refused_before_anything_is_written(
    small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already and is no run"):
        refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], run="notes", **small())
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["mine.txt"]


def test_a_section_that_does_not_fit_names_its_key(small: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(SettingsError, match=r"grpo\.loss.*dapo"):
        refine.train("Be brief.", prompts=PROMPTS, rewards=[brevity], **small(grpo={"loss": "ppo"}))


def test_the_pieces_have_public_names_and_come_late() -> None:
    code = (
        "import sys, refine_rl; assert 'torch' not in sys.modules; "
        "assert set(refine_rl.__all__) <= set(dir(refine_rl)); "
        "missing = [n for n in refine_rl.__all__ if not callable(getattr(refine_rl, n, None))]; "
        "assert missing == [], missing; "
        "from refine_rl.training.grpo.loss import policy_loss; assert refine_rl.policy_loss is policy_loss"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'zscores'"):
        refine.zscores  # noqa: B018


def test_two_runs_beside_one_another(small: Callable[..., dict[str, Any]]) -> None:
    given = {"prompts": PROMPTS, "rewards": [brevity]}
    a = refine.train("Be brief.", run="a", **given, **small())
    b = refine.train("Be brief.", run="b", **given, **small())
    with pytest.raises(UserError, match=r"refine_rl.compare_runs\('a', ..., rewards=\[brevity\]\)"):
        refine.compare_runs(a, b)
    beside = refine.compare_runs(a, "b", rewards=[brevity], observer=Quiet())
    assert beside.versus.comparison.prompts == 4
    assert beside.versus.comparison.difference is not None
    assert beside.versus.comparison.difference.mean == 0.0  # the same model twice
    assert beside.file.is_file()
    assert beside.page.is_file()
    assert repr(beside).startswith("A a, B b: ")
