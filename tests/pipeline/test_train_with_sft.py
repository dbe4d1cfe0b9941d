"""A run that begins with supervised fine-tuning: both in one go, stopped anywhere, three columns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from make import Pause
from refine_rl.errors import Interrupted, UserError
from refine_rl.pipeline.evaluate import evaluate_again
from refine_rl.pipeline.replay import replay
from refine_rl.pipeline.resume import reopen, reopen_sft
from refine_rl.pipeline.sft import run as run_sft
from refine_rl.pipeline.train import run
from refine_rl.run import RunFolder
from refine_rl.run.start import begun_from
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict

WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish", "bird", "road"]


@pytest.fixture(scope="module")
def task(
    make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Settings]:
    folder = tmp_path_factory.mktemp("task")
    pairs = [{"prompt": f"say {a} and {b}", "answer": f"{a} {a}"} for a in WORDS for b in WORDS]
    asked = [{"prompt": f"say {a} then {b}"} for a in WORDS[:5] for b in WORDS[:5]]
    asked[0] = {"prompt": pairs[0]["prompt"], "split": "held_out"}
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in pairs))
    (folder / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))

    def make(**tables: Any) -> Settings:
        usual: dict[str, Any] = {
            "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
            "prompts": {"source": "file:asked.jsonl", "validation": 3},
            "sft": {"data": "file:pairs.jsonl", "steps": 6, "batch_tokens": 300, "learning_rate": 0.03},
            "reward": {"rules": [{"rule": "contains", "text": "t"}, {"rule": "chars", "max": 9}]},
            "rollout": {"max_tokens": 8, "group_size": 4},
            "grpo": {
                "steps": 3,
                "prompts_per_step": 3,
                "learning_rate": 0.02,
                "kl": 0.05,
                "all_cut_patience": 99,
            },
            "evaluate": {"samples": 2, "bootstrap": 100},
        }
        return settings_from_dict({"task": "Twice.", **usual, **tables}, folder)

    return make


@pytest.fixture(scope="module")
def whole(task: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "whole", task())
    run(folder)
    return folder


def test_the_comparison_has_three_columns(whole: RunFolder) -> None:
    comparison = whole.comparison()
    assert comparison is not None
    assert comparison.base is not None
    sft = comparison.others["sft"]
    base, after, tuned = (whole.outcomes(side) for side in ("base", "sft", "tuned"))
    assert base is not None
    assert after is not None
    assert tuned is not None
    rewards = [sum(s.value or 0 for _, s in o.sampled) / len(o.sampled) for o in after]
    assert sft.mean == pytest.approx(sum(rewards) / len(rewards))
    assert comparison.examples[0].others == {"sft": after[0].greedy[0].completion}
    # Base is the model before it was fine-tuned: the same answers as a run without [sft] gives.
    assert [o.greedy[0].completion for o in base] != [o.greedy[0].completion for o in after]
    page = whole.report.read_text(encoding="utf-8")
    assert "After SFT" in page
    assert "Tuned less after SFT" in page


def test_the_base_is_the_model_before_both(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = task()
    alone = RunFolder.create(tmp_path / "alone", settings.model_copy(update={"sft": None}))
    run(alone)
    assert alone.outcomes("base") == whole.outcomes("base")
    assert alone.comparison() is not None
    assert whole.comparison().others.keys() == {"sft"}  # type: ignore[union-attr]


def test_the_reference_is_the_fine_tuned_model(whole: RunFolder) -> None:
    first = whole.history()[0]
    assert first.kl == pytest.approx(0, abs=1e-6)


def test_what_is_held_out_is_not_learned_from(whole: RunFolder) -> None:
    """The pair that asks what a held-out prompt asks is left out."""
    (line,) = [e["text"] for e in whole.sft.events() if e["name"] == "rows"]
    assert line.startswith("1 row left out: they ask what a held-out prompt asks\n90 rows to train on")


@pytest.mark.parametrize("at", [3, 210, 222, 290])  # of 321: reading, learning, answering, GRPO
def test_stopped_anywhere_it_ends_in_the_same_weights(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path, at: int
) -> None:
    folder = RunFolder.create(tmp_path / "stopped", task())
    pause = Pause(at)
    while True:
        try:
            run(folder, pause=pause)
            break
        except Interrupted:
            at *= 50  # each time further, for what comes first is done anew
            folder, pause = reopen(folder.path, []), Pause(at)
    assert folder.comparison() == whole.comparison()
    for part in ("model", "sft/model"):
        ours = (folder.path / part / "adapter_model.safetensors").read_bytes()
        assert ours == (whole.path / part / "adapter_model.safetensors").read_bytes()


def test_later_looks_know_all_three(whole: RunFolder) -> None:
    comparison, _ = evaluate_again(whole, samples=1)
    assert comparison.others.keys() == {"sft"}
    assert all(member.same for member in replay(whole, step=2))


def test_what_the_fine_tuning_was_cannot_change_on_the_way(whole: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "other", whole.settings())
    with pytest.raises(UserError, match=r"--set sft\.steps: this cannot change within a run"):
        reopen(folder.path, ["sft.steps=9"])


def test_a_run_begins_with_the_model_of_another(
    whole: RunFolder, task: Callable[..., Settings], tmp_path: Path
) -> None:
    """`model.start` with the fine-tuning's own folder: base is then the fine-tuned model."""
    model = {"start": str(whole.sft.path), "device": "cpu", "dtype": "float32", "rank": 4}
    settings = begun_from(task(model=model).model_copy(update={"sft": None}))
    folder = RunFolder.create(tmp_path / "later", settings)
    run(folder)
    assert folder.outcomes("base") == whole.outcomes("sft")
    assert folder.outcomes("tuned") == whole.outcomes("tuned")
    assert "Base is the tuned model of the run “sft”" in folder.report.read_text(encoding="utf-8")


def test_another_fine_tuned_model_is_not_taken_for_the_one_it_began_with(
    whole: RunFolder, tmp_path: Path
) -> None:
    """The fine-tuning's folder is a run of its own, and may be gone on with; what GRPO began with is then
    gone, and nothing that was trained upon it may be measured upon the other."""
    shutil.copytree(whole.path, tmp_path / "whole")
    folder = RunFolder.open(tmp_path / "whole")
    run_sft(reopen_sft(folder.sft.path, [], steps=8))
    with pytest.raises(UserError, match="other are: fine tuned weights"):
        evaluate_again(folder, samples=1)
    (folder.path / "comparison.json").unlink()
    with pytest.raises(UserError, match="other are: fine tuned weights"):
        run(folder)

    folder.answers("tuned").remove()
    run(reopen(folder.path, [], from_step=0))  # all of it upon the new one
    assert folder.outcomes("base") == whole.outcomes("base")
    assert folder.outcomes("sft") != whole.outcomes("sft")

    shutil.rmtree(folder.sft.path)
    with pytest.raises(UserError, match=r"begins with supervised fine-tuning, and its model is not there"):
        evaluate_again(folder, samples=1)


def test_a_fine_tuned_model_of_another_base_is_refused(
    task: Callable[..., Settings], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    """The base's files change between the fine-tuning and GRPO."""
    shutil.copytree(make_model("llama"), tmp_path / "base")
    model = {"name": str(tmp_path / "base"), "device": "cpu", "dtype": "float32", "rank": 4}
    folder = RunFolder.create(tmp_path / "run", task(model=model))
    run(folder)
    folder.answers("tuned").remove()
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({k: 1.1 * v for k, v in weights.items()}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(UserError, match=r"run/sft .* is another one .*refine sft --resume"):
        run(reopen(folder.path, [], from_step=0))
