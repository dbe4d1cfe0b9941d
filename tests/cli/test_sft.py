"""refine sft from the command line: a run, going on, what is refused, and the Python door."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import refine_rl
from refine_rl.settings.toml_write import dump_toml

Refine = Callable[..., Any]
PAIRS = [{"prompt": f"say {n}", "answer": f"{n} {n}", "other": n} for n in range(30)]


@pytest.fixture
def task(make_model: Any, tmp_path: Path) -> Callable[..., Path]:
    """task(rows, **of sft) -> a task.toml beside them."""

    def make(rows: Any = PAIRS, /, model: Mapping[str, Any] | None = None, **sft: Any) -> Path:
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tables = {
            "task": "Say it twice.",
            "model": {
                "name": str(make_model()),
                "rank": 4,
                "device": "cpu",
                "dtype": "float32",
                **(model or {}),
            },
            "rollout": {"max_tokens": 6},
            "sft": {"data": "file:pairs.jsonl", "batch_tokens": 100, "learning_rate": 0.02, **sft},
        }
        (folder / "task.toml").write_text(dump_toml(tables))
        return folder / "task.toml"

    return make


def test_a_run_and_what_can_be_done_with_it(
    refine: Refine, task: Callable[..., Path], tmp_path: Path
) -> None:
    done = refine("sft", task(epochs=3.0), "--steps", "4", "--json")  # a trial before the long run
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result.keys() == {"run", "before", "after", "training", "step", "steps"}
    assert result["run"] == "runs/mine-sft"
    assert result["after"] < result["before"]
    assert "27 rows to train on" in done.err
    assert "4,096 of 41,696 parameters are trained (9.8 %)" in done.err
    assert re.search(r"4/4  loss \d\.\d{4} .*, validation \d\.\d{4}", done.err)

    again = refine("sft", "--resume", "runs/mine-sft")
    assert again.code == 0
    assert "nothing is left to train" in again.err
    named = refine("train", "runs/mine-sft").err
    assert "`refine sft --resume runs/mine-sft` goes on with it" in " ".join(named.split())
    assert "`refine sft runs/mine-sft/config.toml` trains its task anew" in " ".join(named.split())
    assert refine("chat", "runs/mine-sft", stdin="say 3\n").out.startswith("tuned:")
    exported = refine("export", "runs/mine-sft", "--out", "out", "--merged")
    assert exported.code == 0, exported.err
    assert (
        "Supervised fine-tuning on 27 rows of `file:pairs.jsonl`, 4 steps"
        in Path("out/README.md").read_text()
    )
    assert refine("report", "runs/mine-sft").code == 0

    more = refine("sft", "--resume", "runs/mine-sft", "--steps", "6", "--json")
    assert more.code == 0, more.err
    assert json.loads(more.out)["steps"] == 6


@pytest.mark.parametrize(
    ("sft", "text"),
    [
        (
            {"data": "file:none.jsonl"},
            r"none\.jsonl: no such file; `sft\.data` is relative to the task's folder",
        ),
        (
            {"answer": "othr"},
            r"pairs\.jsonl:1 has no column `othr` \(sft\.answer\); there are `prompt`.*`other`",
        ),
        ({"answer": "other"}, r"pairs\.jsonl:1 has a `other` that is not text: 0"),
        ({"max_tokens": 2}, r"nothing to train on: 30 rows .*Raise sft\.max_tokens \(2\)"),
        ({"epochs": 2.0, "steps": 3}, r"`sft` `steps` and `epochs` both say how long"),
        ({"epoch": 2.0}, r"`sft\.epoch` is not a setting; did you mean `sft\.epochs`"),
        ({"validation": 1.5}, r"task\.toml:\d+: `sft\.validation`"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_left(
    refine: Refine, task: Callable[..., Path], sft: dict[str, Any], text: str
) -> None:
    done = refine("sft", task(**sft))
    assert (done.code, done.out) == (2, "")
    assert re.search(text, done.err), done.err
    assert "Traceback" not in done.err
    assert not Path("runs/mine-sft").exists()


def test_a_file_without_answers_says_so_once(refine: Refine, task: Callable[..., Path]) -> None:
    done = refine("sft", task([{"prompt": "Hi"}, {"prompt": "Ho"}]))
    assert done.code == 2
    assert "has no column `answer`; there is `prompt` (so it is with all 2 rows)" in done.err


def test_a_task_without_the_table_is_refused(refine: Refine, task: Callable[..., Path]) -> None:
    file = task()
    file.write_text(file.read_text().partition("[sft]")[0])
    done = refine("sft", file)
    assert done.code == 2
    assert "There is no [sft] in the task: say where the answers to imitate stand" in done.err


def test_an_encoder_alone_cannot_answer(refine: Refine, task: Callable[..., Path], tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "bert"
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder)
    done = refine("sft", task(model={"name": str(folder)}))
    assert done.code == 2
    assert "Traceback" not in done.err
    assert str(folder) in done.err


def test_flags_that_do_not_go_together(refine: Refine, task: Callable[..., Path]) -> None:
    assert "Name a task.toml (refine sft task.toml)" in refine("sft").err
    assert "its settings are in the folder" in refine("sft", task(), "--resume", "runs/a").err
    assert "--from-step goes with --resume" in refine("sft", task(), "--from-step", "3").err
    assert "is not a run" in refine("sft", "--resume", "nowhere").err


def test_the_same_in_python(
    task: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tomllib.loads(task().read_text())["model"]
    more = {"steps": 2, "batch_tokens": 100, "learning_rate": 0.02, "rollout": {"max_tokens": 6}}
    run = refine_rl.sft(PAIRS, model=model, run="one", **more)
    assert run.after is not None
    assert run.before is not None
    assert run.after < run.before
    assert (run.model / "adapter_model.safetensors").is_file()
    assert run.report.is_file()
    same = refine_rl.sft(tmp_path / "mine/pairs.jsonl", model=model, run="two", **more)
    assert same.after == run.after
    assert refine_rl.resume_sft("one") == run
    with pytest.raises(refine_rl.UserError, match="resume_sft"):
        refine_rl.resume("one")
