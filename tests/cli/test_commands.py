"""Every command on a finished run: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.cli import COMMANDS
from refine_rl.cli.docs import cli_markdown
from refine_rl.llm.client import Reply, Request
from refine_rl.llm.scripted import Scripted, ScriptedConnections
from refine_rl.settings.file import load_settings

Refine = Callable[..., Any]  # its results have .code, .out and .err
Trained = tuple[Path, Any]
FILES = {
    "config.toml",
    "prompts.jsonl",
    "metrics.jsonl",
    "groups.jsonl",
    "checkpoints",
    "model",
    "comparison.json",
    "report.html",
}


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the finished run, to be used up."""
    return Path(shutil.copytree(trained[0], tmp_path / trained[0].name))


def test_train_leaves_the_run_and_a_clean_terminal(trained: Trained) -> None:
    folder, terminal = trained
    assert terminal.code == 0
    assert {p.name for p in folder.iterdir()} >= FILES
    comparison = json.loads((folder / "comparison.json").read_text())
    assert f"\n{comparison['verdict']} (answers mostly cut) on 6 held-out prompts" in terminal.out
    for name in ("reward", "greedy", "success", "chars", "words", "Only 6 prompts"):
        assert name in terminal.out
    assert "report: runs/shorter/report.html" in terminal.out
    said = terminal.err.splitlines()
    where = said.index("Run: runs/shorter")  # once there is something in it, before the first step
    assert not any("  step " in line for line in said[:where])
    assert [line for line in terminal.err.splitlines() if " step 6/6 " in line]
    for litter in ("Warning", "%|", "it/s", "Traceback", "\x1b["):
        assert litter not in terminal.err + terminal.out
    steps = [line for line in terminal.err.splitlines() if "  step " in line]
    assert max(len(re.sub(", [^,]+ left$", "", line)) for line in steps) <= 80  # told now and then


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch transformers peft matplotlib openai numpy jinja2 rich"
    code = f"""
import sys
sys.argv = ["refine", "--help"]
from refine_rl.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
print([name for name in "{heavy}".split() if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert "..." not in done.stdout.replace("[ARGS]...", "")  # every command's line is whole


def test_version(refine: Refine) -> None:
    from importlib.metadata import version

    assert refine("--version").out == f"refine {version('refine-rl')}\n"


def test_recipes(refine: Refine) -> None:
    listed = json.loads(refine("recipes", "--json").out)
    assert {"dots", "style"} <= {r["name"] for r in listed}
    text = refine("recipes").out
    assert all(r["name"] in text and r["summary"] in text for r in listed)


def test_init_from_a_sentence_and_from_a_recipe(refine: Refine, tmp_path: Path) -> None:
    done = refine("init", "mine", "--task", 'Say "hi".')
    assert done.code == 0
    assert 'task = "Say \\"hi\\"."' in (tmp_path / "mine" / "task.toml").read_text()
    assert "refine train mine/task.toml" in done.out
    assert refine("init", "dots", "--recipe", "dots").code == 0
    assert (tmp_path / "dots" / "README.md").is_file()
    assert refine("init", "dots").code == 2
    both = refine("init", "other", "--recipe", "dots", "--task", "Count.")
    assert (both.code, (tmp_path / "other").exists()) == (2, False)


def test_init_with_a_writer_and_a_judge(refine: Refine, tmp_path: Path) -> None:
    sentence = 'Say "hi"\\n in a \\1 friendly way.'
    llms = ["--writer", "openrouter/moonshotai/kimi-k2", "--judge", "mine/judge"]
    done = refine("init", "mine", "--task", sentence, *llms)
    assert done.code == 0
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["task.toml"]
    assert "refine plan mine/task.toml" in done.out
    assert "refine prompts mine/task.toml" in done.out
    settings = load_settings(tmp_path / "mine")
    assert (settings.task, settings.model.name) == (sentence, "Qwen/Qwen2.5-0.5B-Instruct")
    assert (settings.writer.model, settings.reward.judges) == (llms[1], ["mine/judge"])
    assert settings.writes_prompts
    assert set(settings.endpoints) == {"mine"}
    refine(
        "init", "other", "--task", "Say hi.", "--writer", "ollama/a", "--judge", "ollama/b", "--model", "tiny"
    )
    other = load_settings(tmp_path / "other")
    assert (other.model.name, other.endpoints) == ("tiny", {})
    refine("init", "plain", "--task", "Say hi.", "--model", "some/model")
    assert load_settings(tmp_path / "plain").model.name == "some/model"
    for wrong in (["--task", "a", *llms[:2]], llms, ["--recipe", "dots", *llms], ["--task", " ", *llms]):
        assert refine("init", "wrong", *wrong).code == 2
    nameless = refine("init", "wrong", "--task", "a", "--writer", "ollama", "--judge", "ollama/b")
    assert (nameless.code, "does not name a model" in nameless.err) == (2, True)
    assert not (tmp_path / "wrong").exists()


def written(request: Request) -> str:
    """A writer's reply to anything."""
    if request.about == "system":
        return '{"system": "You answer."}'
    if request.about.endswith("check"):
        return '{"mistakes": []}'
    numbers = range(1, request.messages[0]["content"].count("tone: ") + 1)
    entries = [{"combination": n, "prompt": f"What is {n} and {request.about}?"} for n in numbers]
    return json.dumps({"prompts": entries})


def test_prompts_from_a_writer(refine: Refine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refine("init", "mine", "--task", "Answer.", "--writer", "ollama/w", "--judge", "ollama/j")
    sizes = ["--set", "prompts.train=8", "--set", "prompts.validation=2", "--set", "prompts.held_out=4"]
    facets = ["--set", 'prompts.facets={tone = ["calm", "angry"], topic = ["tea", "rain"]}']

    def connect(settings: object, folder: object, note: object, keep: object = None) -> ScriptedConnections:
        client = Scripted(lambda request: Reply(text=written(request), cost_usd=0.25), model="ollama/w")
        return ScriptedConnections({"ollama/w": client})

    monkeypatch.setattr("refine_rl.pipeline.prompts.connect", connect)
    done = refine("prompts", "mine", *sizes, *facets, "--out", "out.jsonl")
    assert done.code == 0, done.err
    assert "14 of 14 prompts written" in done.err
    for line in (
        "14 prompts written by ollama/w",
        "kept 8 train, 2 validation, 4 held-out",
        "system message: You answer.",
        "facet  value  train  validation  held-out",
        "5 calls for $1.25; `refine train` takes the same prompts from the cache",
    ):
        assert line in done.out.splitlines()
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {r["origin"] for r in records} == {"writer:ollama/w"}
    again = refine("prompts", "mine", *sizes, "--set", "prompts.source=file:../out.jsonl", "--json")
    assert [r["messages"] for r in json.loads(again.out)] != []
    assert {json.dumps(r["messages"]) for r in json.loads(again.out)} == {
        json.dumps(r["messages"]) for r in records
    }


def test_prompts_of_a_writer_without_its_key(refine: Refine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    refine("init", "mine", "--task", "Answer.", "--writer", "openrouter/w", "--judge", "ollama/j")
    done = refine("prompts", "mine")
    assert done.code == 2
    assert "writer.model: " in done.err
    assert "OPENROUTER_API_KEY" in done.err


def test_prompts(refine: Refine, task: Path, tmp_path: Path) -> None:
    shown = refine("prompts", task, "--out", "out.jsonl")
    assert "kept 35 train, 4 validation, 6 held-out" in shown.out
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == json.loads(refine("prompts", task, "--json").out)
    assert len(written) == 45
    assert refine("prompts", task, "--out", "out.jsonl").code == 2  # nothing is overwritten


def test_set_and_json(refine: Refine, task: Path, tmp_path: Path) -> None:
    done = refine("train", task, "--run", "here", "--set", "grpo.steps=1", "--json")
    result = json.loads(done.out)
    assert (done.code, result["run"], result["prompts"]) == (0, "here", 6)
    assert len((tmp_path / "here" / "metrics.jsonl").read_text().splitlines()) == 1
    assert "steps = 1\n" in (tmp_path / "here" / "config.toml").read_text()


def test_a_second_run_gets_a_name_of_its_own(refine: Refine, task: Path, tmp_path: Path) -> None:
    for name in ("shorter", "shorter-2"):
        assert refine("train", task, "--set", "grpo.steps=1").code == 0
        assert (tmp_path / "runs" / name / "report.html").is_file()


def test_resuming_a_finished_run_changes_no_result(refine: Refine, run: Path) -> None:
    names = ("comparison.json", "groups.jsonl", "metrics.jsonl", "validation.jsonl")
    before = [(run / name).read_bytes() for name in names]
    assert refine("train", "--resume", run).code == 0
    assert [(run / name).read_bytes() for name in names] == before


def test_eval(refine: Refine, run: Path, task: Path) -> None:
    done = refine("eval", run, "--json", "--name", "again", "--samples", "1", "--seed", "5")
    result = json.loads(done.out)
    assert (done.code, result["samples"], result["prompts"]) == (0, 1, 6)
    assert json.loads((run / "evaluations" / "again.json").read_text()) == result
    other = run.parent / "other.jsonl"
    other.write_text('{"prompt": "who are you?"}\n{"prompt": "say something about the cat and a dog"}\n')
    done = refine("eval", run, "--prompts", other)
    assert done.code == 0
    assert "1 prompts left out: too close to the run's own" in done.err
    assert "evaluations/eval.json" in done.out


def test_eval_keeps_to_its_folder(refine: Refine, run: Path) -> None:
    assert refine("eval", run, "--name", "../comparison").code == 2


def test_report_is_the_same_from_the_files_alone(refine: Refine, run: Path) -> None:
    page = (run / "report.html").read_text()
    (run / "report.html").unlink()
    done = refine("report", run)
    assert (done.code, done.out.strip()) == (0, str(run / "report.html"))
    again = (run / "report.html").read_text()
    assert str(run) in again  # what to type next names the folder, which is a copy here
    where = re.compile(rf"[^ '\"<>]*/{run.name}(?=[^\w])")
    assert where.sub("RUN", again) == where.sub("RUN", page)


def test_replay_makes_the_same_tokens(refine: Refine, run: Path) -> None:
    groups = [json.loads(line) for line in (run / "groups.jsonl").read_text().splitlines()]
    group = next(g for g in groups if g["step"] == 4)
    done = refine("replay", run, "--step", "4", "--prompt", group["prompt_id"], "--json")
    members = json.loads(done.out)
    assert done.code == 0
    assert [m["text"] for m in members] == [t["messages"][-1]["content"] for t in group["trajectories"]]
    assert all(m["same"] and m["prompt_id"] == group["prompt_id"] for m in members)
    whole = refine("replay", run, "--step", "4")
    assert whole.code == 0
    assert whole.out.count(": same, ") == 12
    assert whole.out.endswith("All 12 answers are those on record, token by token.\n")
    assert f"{members[0]['prompt_id']}: {members[0]['prompt']!r}\n" in whole.out
    assert members[0]["prompt"].startswith("say something about the ")


def test_replay_finds_a_changed_token(refine: Refine, run: Path) -> None:
    lines = (run / "groups.jsonl").read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if json.loads(line)["step"] == 4)
    group = json.loads(lines[at])
    tokens = group["trajectories"][2]["tokens"]
    tokens[3] = (tokens[3] + 1) % 300
    lines[at] = json.dumps(group)
    (run / "groups.jsonl").write_text("".join(line + "\n" for line in lines))
    done = refine("replay", run, "--step", "4")
    assert done.code == 2
    assert done.out.count("DIFFERENT") == 1
    assert f"{group['prompt_id']} member 2: DIFFERENT" in done.out
    assert "token by token" not in done.out
    assert "differs from the record in 1 of 12 completions" in done.err


def test_chat_with_piped_input(refine: Refine, run: Path) -> None:
    done = refine("chat", run, "--base", stdin="hello there\nthe cat\n")
    assert done.code == 0
    assert [line[:7] for line in done.out.splitlines()] == ["base:  ", "tuned: "] * 2
    again = refine("chat", run, stdin="hello there\n\nthe cat\n")  # an empty line ends
    assert again.out.splitlines() == [done.out.splitlines()[1]]


def test_chat_says_so_when_a_message_is_too_long(refine: Refine, run: Path) -> None:
    done = refine("chat", run, stdin="hello " * 400 + "\nhello\n")
    assert done.code == 0
    assert "the model reads 256 in all" in done.err
    assert done.out.count("tuned: ") == 1


def test_export_loads_in_transformers(refine: Refine, run: Path) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert refine("export", run, "--out", "adapter").out == "adapter\n"
    assert refine("export", run, "--out", "whole/model", "--merged").out == "whole/model\n"
    assert refine("export", run, "--out", "adapter").code == 2
    assert [p.name for p in Path("whole").iterdir()] == ["model"]

    base = json.loads(Path("adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    tuned = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained("whole/model").eval()
    tokenizer = AutoTokenizer.from_pretrained("whole/model")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained("adapter").chat_template
    ids = tokenizer("hello there", return_tensors="pt").input_ids
    with torch.no_grad(), tuned.disable_adapter():
        untrained = tuned(ids).logits
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, rtol=1e-4, atol=1e-4)
        assert (merged(ids).logits - untrained).abs().max() > 1e-2


def test_the_page_of_the_command_line_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == cli_markdown(), "make docs"


def test_a_refused_run_is_not_said_to_be_anywhere(
    refine: Refine, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refine_rl.run.trackers.build.find_spec", lambda name: None)
    done = refine("train", task, "--run", "run", "--set", 'track.to=["wandb"]')
    assert (done.code, done.out) == (2, "")
    assert done.err.split()[0] == "error"
    assert not Path("run").exists()


def test_data_stands_before_what_follows_upon_it(refine: Refine) -> None:
    names = [line.split()[0] for line in refine("--help").out.partition("Commands:\n")[2].splitlines()]
    assert names[names.index("data") + 1] == "prompts"
    assert sorted(names) == sorted([*COMMANDS, "data"])


def test_the_shell_completes_commands() -> None:
    words = {"COMP_WORDS": "refine re", "COMP_CWORD": "1", "_REFINE_COMPLETE": "complete_bash"}
    command = [str(Path(sys.executable).with_name("refine"))]
    done = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["recipes", "report", "review", "replay"]
