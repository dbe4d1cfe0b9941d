"""chat, export and eval on checkpoints, the card of what they write, and its files' modes."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from refine_rl.pipeline.chat import HELP

Refine = Callable[..., Any]
Trained = tuple[Path, Any]


@pytest.fixture
def stopped(trained: Trained, tmp_path: Path) -> Path:
    """The run as it would stand had it been stopped behind its last step."""
    run = Path(shutil.copytree(trained[0], tmp_path / "my run"))
    for file in ("comparison.json", "report.html", "evaluations/tuned.jsonl"):
        (run / file).unlink()
    shutil.rmtree(run / "model")
    return run


def steps_of(run: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").iterdir())


def position(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "checkpoints" / "step-000006" / "position.json").read_text()))


def test_a_run_that_is_not_finished_says_what_there_is(refine: Refine, stopped: Path) -> None:
    listed = ", ".join(map(str, steps_of(stopped)))
    for arguments in (("chat", stopped), ("export", stopped, "--out", "out"), ("eval", stopped)):
        done = refine(*arguments)
        said = " ".join(done.err.split())
        assert done.code == 2
        assert f"Its checkpoints so far: {listed} (best on validation: " in said
        assert "--checkpoint last, --checkpoint best or --checkpoint" in said
        assert "refine train --resume 'my run'" in said.replace(str(stopped.parent) + "/", "")
    for wrong in ("5", "first", "0"):
        done = refine("export", stopped, "--out", "out", "--checkpoint", wrong)
        assert done.code == 2
        assert f"--checkpoint {wrong}: there is none" in " ".join(done.err.split())
        assert listed in " ".join(done.err.split())
    assert not Path("out").exists()


def test_without_validation_there_is_no_best_and_without_checkpoints_nothing(
    refine: Refine, stopped: Path
) -> None:
    file = stopped / "checkpoints" / "step-000006" / "position.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "best_step": 0}))
    done = refine("chat", stopped, "--checkpoint", "best")
    assert done.code == 2
    assert "no validation has chosen one yet" in " ".join(done.err.split())
    shutil.rmtree(stopped / "checkpoints")
    done = refine("eval", stopped, "--checkpoint", "last")
    assert done.code == 2
    assert "There is no checkpoint either; the first comes after step 2" in " ".join(done.err.split())


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "adapter_model.safetensors")
    return {name.replace(".weight", ""): value for name, value in found.items()}


@pytest.mark.parametrize("which", ["4", "last", "best"])
def test_a_checkpoint_is_exported(refine: Refine, stopped: Path, which: str) -> None:
    best = position(stopped)["best_step"]
    step = {"last": 6, "best": best}.get(which) or int(which)
    assert refine("export", stopped, "--out", "out", "--checkpoint", which).code == 0
    kept = load_file(stopped / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")
    got = adapter_of(Path("out"))
    assert len(got) == len(kept) > 0
    for name, value in kept.items():
        assert torch.equal(got[name.replace(".default.weight", "")], value), name
    card = Path("out/README.md").read_text()
    assert "not compared with the base model" in card
    assert f"{step} steps" in card


def test_a_checkpoint_merged_is_the_policy_of_that_step(refine: Refine, stopped: Path) -> None:
    from transformers import AutoModelForCausalLM

    from refine_rl.pipeline.weights import choose_weights, open_model
    from refine_rl.run import RunFolder

    assert refine("export", stopped, "--out", "whole", "--merged", "--checkpoint", "4").code == 0
    run = RunFolder.open(stopped)
    _, policy = open_model(run, choose_weights(run, "4"))
    ids = torch.tensor([[5, 6, 7, 8]])
    merged = AutoModelForCausalLM.from_pretrained("whole")
    with torch.no_grad():
        expected = policy.model(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        with policy.reference() as base:
            assert (base.model(input_ids=ids).logits - expected).abs().max() > 1e-3


def test_a_checkpoint_is_talked_to_and_evaluated(refine: Refine, stopped: Path, trained: Trained) -> None:
    said = refine("chat", stopped, "--checkpoint", "last", stdin="hello there\n")
    assert said.code == 0
    assert said.out.startswith("tuned: ")
    assert "after 6 steps" in said.err
    done = refine("eval", stopped, "--checkpoint", "4", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["prompts"] == 6
    assert "the checkpoint after 4 steps" in " ".join(done.err.split())
    written = json.loads((stopped / "evaluations" / "eval-step-4.json").read_text())
    assert written["tuned"] == result["tuned"]
    # The best checkpoint is what the finished run has as its model: the same draws give the same numbers.
    best = refine("eval", stopped, "--checkpoint", "best", "--json")
    finished = Path(shutil.copytree(trained[0], "finished"))
    assert json.loads(best.out) == json.loads(refine("eval", finished, "--json").out)
    # The run itself goes on as if nothing had been asked.
    assert refine("train", "--resume", stopped).code == 0
    assert (stopped / "comparison.json").read_text() == (trained[0] / "comparison.json").read_text()


def test_the_card_says_what_was_trained_and_by_what_licence(
    refine: Refine, trained: Trained, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    best = position(run)["best_step"]
    text = f"{best} steps (the best of 6 on the validation prompts)" if best != 6 else "6 steps, each of"
    assert refine("export", run, "--out", "adapter").code == 0
    assert refine("export", run, "--out", "merged", "--merged").code == 0
    assert refine("export", run, "--out", "best", "--checkpoint", "best").code == 0
    for folder, library in (("adapter", "peft"), ("merged", "transformers"), ("best", "peft")):
        card = Path(folder, "README.md").read_text()
        front = huggingface_hub.metadata_load(Path(folder, "README.md"))
        assert front["library_name"] == library
        assert front["pipeline_tag"] == "text-generation"
        assert text in card
        assert "Verdict on held-out prompts" in card
        assert ("merged into the weights" in card) == (folder == "merged")
        assert "AutoPeftModelForCausalLM" in card or folder == "merged"
        assert "/" + "tmp" not in card
        assert "holds for these weights as well" in card  # the small model has no card of its own


def test_files_of_a_model_are_there_for_others(refine: Refine, trained: Trained, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        run = Path(shutil.copytree(trained[0], tmp_path / "run"))
        for file in run.rglob("*.safetensors"):
            assert file.stat().st_mode & 0o777 == 0o644, file
        (run / "model" / "adapter_model.safetensors").chmod(0o600)  # as older runs have it
        for name, more in (("a", ()), ("b", ("--merged",)), ("c", ("--checkpoint", "4"))):
            assert refine("export", run, "--out", name, *more).code == 0
            modes = {f.name: f.stat().st_mode & 0o777 for f in Path(name).rglob("*")}
            assert set(modes.values()) == {0o644}, modes
        os.umask(0o077)
        assert refine("export", run, "--out", "private", "--merged").code == 0
        assert {f.stat().st_mode & 0o777 for f in Path("private").rglob("*")} == {0o600}
    finally:
        os.umask(before)


def test_lines_can_be_edited_where_there_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from refine_rl.cli.model import line_editing

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    pytest.importorskip("readline")
    for stdin, there in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.delitem(sys.modules, "readline", raising=False)
        monkeypatch.setattr(sys, "stdin", stdin)
        line_editing()
        assert ("readline" in sys.modules) == there


def test_commands_in_a_talk(refine: Refine, trained: Trained) -> None:
    run = Path(shutil.copytree(trained[0], "run"))
    lines = ["/help", "hi", "/base", "hi", "/tokens 1", "hi", "/system be kind", "/temperature 0.5", "//x"]
    wrong = ["/nonsense", "/tokens none", "/temperature -1"]
    done = refine("chat", run, stdin="\n".join([*lines, *wrong, "/quit", "never"]) + "\n")
    assert done.code == 0
    assert HELP in done.err
    first, base, tuned, short_base, short, *_ = done.out.splitlines()
    assert first == tuned != short
    assert base.startswith("base:  ")
    assert short_base.startswith("base:  ")
    assert tuned.startswith(short)
    assert len(done.out.splitlines()) == 7
    for said in ("System message: be kind", "Temperature: 0.5", "at most: 1", "/nonsense is no command"):
        assert said in done.err
    assert "a number of at least 1, not 'none'" in done.err
    assert "a number of at least 0, not '-1'" in done.err
