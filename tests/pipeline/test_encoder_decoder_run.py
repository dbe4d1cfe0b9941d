"""Whole runs of encoder-decoders: as those of decoder-only models, to the bit and to the token."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import PIPE, begin
from make import Pause, task_toml, write_pairs
from models import listening_model
from refine_rl.errors import Interrupted
from refine_rl.pipeline.replay import replay
from refine_rl.pipeline.train import run
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.settings.file import load_settings

Task = Callable[..., Settings]
WORDS = ["cat", "dog", "tree", "house", "river", "stone"]
KINDS: dict[str, dict[str, Any]] = {
    "t5": {"model": {"prefix": "say: "}, "grpo": {"kl": 0.05}},
    "bart": {
        "model": {"adapter": "none"},
        "grpo": {
            **{"learning_rate": 1e-3, "updates_per_step": 2, "minibatches": 2, "kl_stop": 0.5},
            **{"replay": 1, "oversample": 1.5},
        },
    },
    "mt5": {
        "model": {"gradient_checkpointing": True, "dropout": 0.1},
        "rollout": {"ahead": 1},
        "grpo": {"minibatches": 2},
    },
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """task("t5", **sections) -> settings of a run of a few seconds: short answers are better."""
    folder = tmp_path_factory.mktemp("task")
    write_pairs(folder, WORDS)

    def make(family: str, **sections: Any) -> Settings:
        model = folder / family
        if not model.is_dir():
            listening_model(model, family)
        usual: dict[str, Any] = {
            "model": {"name": str(model)},
            "prompts": {"validation": 3, "held_out": 4},
            "reward": {"rules": [{"rule": "chars", "max": 9}]},
            "grpo": {"steps": 4, "checkpoint_every": 2, "validate_every": 2},
        }
        tables = {**usual, **sections}
        text = task_toml(model, **{n: {**usual.get(n, {}), **tables[n]} for n in tables})
        (folder / f"{family}.toml").write_text(text)
        return load_settings(folder / f"{family}.toml")

    return make


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """whole("t5") -> a run that was never stopped."""
    runs: dict[str, RunFolder] = {}

    def get(family: str) -> RunFolder:
        if family not in runs:
            folder = RunFolder.create(tmp_path_factory.mktemp("runs") / family, task(family, **KINDS[family]))
            run(folder)
            runs[family] = folder
        return runs[family]

    return get


def same(a: RunFolder, b: RunFolder) -> None:
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert (a.checkpoint(4) / file).read_bytes() == (b.checkpoint(4) / file).read_bytes()
    for file in ("groups.jsonl", "validation.jsonl", "comparison.json"):
        assert (a.path / file).read_text() == (b.path / file).read_text(), file


@pytest.mark.parametrize("family", KINDS)
def test_a_run_is_stopped_and_resumed_to_the_bit(
    whole: Callable[[str], RunFolder], task: Task, tmp_path: Path, family: str
) -> None:
    unbroken = whole(family)
    metrics = list(unbroken.metrics())
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    assert all(m["mismatch_mean"] < 1e-5 for m in metrics if family != "mt5")
    assert any(m["grad_norm"] for m in metrics)
    folder = RunFolder.create(tmp_path / "run", task(family, **KINDS[family]))
    with pytest.raises(Interrupted):
        run(folder, pause=Pause(66))
    assert len(list(folder.metrics())) < 4
    run(folder)
    same(unbroken, folder)


CHILD = """
import sys
from pathlib import Path
from refine_rl.pipeline.train import run
from refine_rl.run import RunFolder
folder = RunFolder.open(Path(sys.argv[1]))
class Tells:
    def __call__(self):
        if len(list(folder.metrics())) >= 2:
            print("two steps", flush=True)
run(folder, pause=Tells())
"""


def test_a_killed_run_is_resumed_to_the_bit(
    whole: Callable[[str], RunFolder], task: Task, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "run", task("t5", **KINDS["t5"]))
    child = begin(folder.path, code=CHILD, stdout=PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"two steps\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not folder.model.is_dir()
    run(folder)
    same(whole("t5"), folder)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_step_is_made_again_to_the_token(whole: Callable[[str], RunFolder], family: str) -> None:
    again = replay(whole(family), step=3)
    assert len(again) == 12
    assert all(member.same for member in again)


def test_early_exits_are_taken_by_a_decoder(task: Task, tmp_path: Path) -> None:
    """Members of one prompt with given tokens of different lengths, sampled and trained."""
    exits = {"ends": "e", "forced": "e the", "answer_tokens": 4}
    settings = task(
        "t5",
        rollout={"max_tokens": 16, "early_exit": exits},
        reward={"rules": [{"rule": "chars", "max": 40}], "success": 0.5},
        grpo={"steps": 2, "mismatch_tolerance": 1e-5},
    )
    folder = RunFolder.create(tmp_path / "run", settings)
    run(folder)
    recorded = [group for groups in folder.recorded_steps().values() for group in groups]
    segments = {len(t.segments) for group in recorded for t in group.trajectories}
    assert segments == {2, 4}  # prompt and answer; prompt, cut thought, forced text, answer
    assert [m["step"] for m in folder.metrics()] == [1, 2]


def test_the_commands_know_it(
    whole: Callable[[str], RunFolder], refine: Callable[..., Any], tmp_path: Path
) -> None:
    import transformers

    folder = whole("t5")
    out = tmp_path / "merged"
    assert refine("export", folder.path, "--out", out, "--merged").code == 0
    card = (out / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM" in card
    assert '# It reads "say: " before each text.' in card
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    outcome = next(o for o in folder.outcomes("tuned") or [])
    ids = tokenizer(f"say: {outcome.prompt.text}", return_tensors="pt").input_ids
    tokens = outcome.greedy[0].segments[1].token_ids
    start = torch.tensor([[model.config.decoder_start_token_id, *tokens[:-1]]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=start).logits
    assert logits[0].argmax(-1).tolist() == list(tokens)
    found = refine("chat", folder.path, stdin=f"{outcome.prompt.text}\n\n")
    assert found.code == 0
    assert outcome.greedy[0].completion.splitlines()[0] in found.out
    assert refine("eval", folder.path).code == 0
    benched = refine("bench", "--model", folder.settings().model.name, "--prompt-tokens", "8", "--steps", "1")
    assert "8 prompts of 8 tokens" in benched.out
    planned = refine("plan", folder.settings().folder / "t5.toml")
    assert "M parameters on cpu" in planned.out + planned.err
