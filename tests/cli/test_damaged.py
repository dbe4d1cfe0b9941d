"""What a crash, a full disk or a hand leaves in a run's folder is named, and never a hole in silence."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import Interrupted
from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings
from refine_rl.training import checkpoint

Refine = Callable[..., Any]
Trained = tuple[Path, Any]
LAST = 6


@pytest.fixture(scope="module")
def stopped(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `trained`, interrupted after its fifth step: checkpoints 3, 4 and 5."""
    from refine_rl.pipeline.train import run

    folder = RunFolder.create(tmp_path_factory.mktemp("stopped") / "shorter", load_settings(task))

    def after_five() -> None:
        if len(folder.metrics()) == 5:
            raise Interrupted("Interrupted.")

    with pytest.raises(Interrupted):
        run(folder, pause=after_five)
    assert folder.checkpoints()[-3:] == [3, 4, 5]
    return folder.path


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "a run"))  # a blank, so that commands need quotes


def same(run: Path, trained: Trained) -> None:
    """The finished run is that which was never stopped, to the bit."""
    whole = trained[0]
    for file in ("groups.jsonl", "validation.jsonl", "prompts.jsonl", "comparison.json"):
        assert (run / file).read_text() == (whole / file).read_text(), file
    for file in ("weights.safetensors", "optimizer.safetensors"):
        last = f"checkpoints/step-{LAST:06d}/{file}"
        assert (run / last).read_bytes() == (whole / last).read_bytes(), file
    timeless = [
        [
            {k: v for k, v in m.items() if k not in ("seconds", "tokens_per_second")}
            for m in RunFolder(r).metrics()
        ]
        for r in (run, whole)
    ]
    assert timeless[0] == timeless[1]


def content(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


# -- checkpoints ------------------------------------------------------------------------------


def test_what_is_no_checkpoint_does_no_harm(refine: Refine, run: Path, trained: Trained) -> None:
    checkpoints = run / "checkpoints"
    for folder in ("step-backup", "step-000002.bak", "step-7", "step-9999999", ".step-notes", "mine"):
        (checkpoints / folder).mkdir()
        (checkpoints / folder / "weights.safetensors").write_text("mine")
    (checkpoints / "step-9999999").rename(checkpoints / "step-0000009")
    (checkpoints / "step-000006").write_text("mine")
    (checkpoints / "step-000003.link").symlink_to(checkpoints / "step-000003")
    (checkpoints / ".step-000004.71").write_text("left by a kill")
    before = {p.name for p in checkpoints.iterdir()}
    assert refine("train", "--resume", run).code == 0
    same(run, trained)
    after = {p.name for p in checkpoints.iterdir()}
    gone = {".step-000004.71", *(f"step-{n:06d}" for n in range(LAST))}
    assert before - gone <= after
    assert (checkpoints / "step-000006.not-a-checkpoint").read_text() == "mine"
    assert (checkpoints / "step-backup" / "weights.safetensors").read_text() == "mine"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "weights cut": ("weights.safetensors", cut, r"weights\.safetensors has \d+ bytes instead of \d+"),
    "weights changed": ("weights.safetensors", flip, r"weights\.safetensors is not what was written"),
    "weights missing": ("weights.safetensors", Path.unlink, r"weights\.safetensors is missing"),
    "optimizer zeros": ("optimizer.safetensors", zeros, r"optimizer\.safetensors is not what was written"),
    "optimizer missing": ("optimizer.safetensors", Path.unlink, r"optimizer\.safetensors is missing"),
    "position cut": ("position.json", cut, r"position\.json is cut or changed"),
    "position empty": (
        "position.json",
        lambda path: path.write_text(""),
        r"position\.json is cut or changed",
    ),
    "position another": ("position.json", lambda path: path.write_text("[5]"), "position.json is cut or"),
    "position missing": ("position.json", Path.unlink, r"position\.json is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_to_a_checkpoint_is_seen(run: Path, damage: str) -> None:
    file, spoil, words = DAMAGE[damage]
    newest = run / "checkpoints" / "step-000005"
    spoil(newest / file)
    with pytest.raises(checkpoint.DamagedCheckpoint, match=words):
        checkpoint.check(newest)


@pytest.mark.parametrize("damage", ["weights cut", "optimizer missing", "position cut"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(
    refine: Refine, run: Path, trained: Trained, damage: str
) -> None:
    file, spoil, words = DAMAGE[damage]
    spoil(run / "checkpoints" / "step-000005" / file)
    done = refine("train", "--resume", run)
    assert done.code == 0
    said = " ".join(done.err.split())
    assert re.search(f"The checkpoint of step 5 is damaged: .*{words}", said), said
    assert "set aside as step-000005.damaged" in said
    assert "Training, steps 5 to 6" in done.err
    same(run, trained)
    assert (run / "checkpoints" / "step-000005.damaged").is_dir()
    assert "damaged_checkpoint" in [e["name"] for e in RunFolder(run).events() if e["kind"] == "warning"]
    assert "The checkpoint of step 5 is damaged" in (run / "report.html").read_text()


def test_where_every_checkpoint_is_damaged_the_steps_are_made_again(
    refine: Refine, run: Path, trained: Trained
) -> None:
    for step in RunFolder(run).checkpoints():
        cut(run / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")
    done = refine("train", "--resume", run)
    assert (done.code, done.err.count("is damaged: ")) == (0, len(list(run.glob("checkpoints/*.damaged"))))
    assert "Training, steps 1 to 6" in done.err
    same(run, trained)


def test_a_damaged_best_checkpoint_comes_back(refine: Refine, run: Path, trained: Trained) -> None:
    """The newest one alone would end in a model that is nowhere."""
    folder = RunFolder(run)
    best = json.loads((folder.checkpoint(5) / "position.json").read_text())["best_step"]
    assert best == 3
    cut(folder.checkpoint(best) / "weights.safetensors")
    assert refine("train", "--resume", run).code == 0
    same(run, trained)
    assert (run / "model" / "adapter_model.safetensors").read_bytes() == (
        trained[0] / "model" / "adapter_model.safetensors"
    ).read_bytes()


def test_a_record_that_ends_before_the_checkpoint(refine: Refine, run: Path, trained: Trained) -> None:
    """A power cut may take the last lines, which lay beside a checkpoint that was forced to the disk."""
    for file in ("metrics.jsonl", "groups.jsonl"):
        lines = (run / file).read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= 4]
        (run / file).write_bytes(b"".join(kept) + lines[len(kept)][:30])
    assert refine("train", "--resume", run).code == 0
    same(run, trained)


def test_a_damaged_checkpoint_and_other_commands(refine: Refine, trained: Trained, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "done"))
    for step in RunFolder(run).checkpoints():
        cut(run / "checkpoints" / f"step-{step:06d}" / "optimizer.safetensors")
    done = refine("replay", run, "--step", "5")
    assert (done.code, done.out.count(": same, ")) == (0, 12)
    assert "The checkpoint of step 4 is damaged" in done.err


# -- lines ------------------------------------------------------------------------------------


def replace(number: int, line: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [*lines[: number - 1], line, *lines[number:]]


def without(number: int) -> Callable[[list[bytes]], list[bytes]]:
    return replace(number, b"")


def edit(number: int, **values: Any) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: replace(
        number, json.dumps({**json.loads(lines[number - 1]), **values}).encode() + b"\n"
    )(lines)


def token_lost(lines: list[bytes]) -> list[bytes]:
    record = json.loads(lines[6])
    record["trajectories"][1]["tokens"].pop()
    return replace(7, json.dumps(record).encode() + b"\n")(lines)


LINES: dict[str, tuple[str, Callable[[list[bytes]], list[bytes]], str]] = {
    "no JSON": ("metrics.jsonl", replace(4, b'{"step": 4, "rew\n'), ":4: .*no JSON"),
    "zeros": ("metrics.jsonl", replace(4, b"\0\0\0\0\n"), ":4: .*no JSON"),
    "no UTF-8": ("metrics.jsonl", replace(4, b'{"step": "\xff"}\n'), ":4: .*no UTF-8"),
    "no object": ("metrics.jsonl", replace(4, b"7\n"), ":4: .*no JSON object"),
    "nested": ("metrics.jsonl", replace(4, b"[" * 100_000 + b"\n"), ":4: .*nested too deeply"),
    "a step lost": ("metrics.jsonl", without(4), ":4: .*step 5 follows step 3"),
    "a step twice": ("metrics.jsonl", lambda lines: [*lines[:4], *lines[3:]], ":5: .*step 4 follows step 4"),
    "a key lost": ("metrics.jsonl", edit(4, step=None), ":4: .*`step` is null"),
    "a key too many": ("metrics.jsonl", edit(4, note="mine"), ":4: .*`note` is no key"),
    "text for a number": ("metrics.jsonl", edit(4, loss="high"), ':4: .*`loss` is "high"'),
    "groups: no JSON": ("groups.jsonl", replace(8, b'{"step": 3, "pro\n'), ":8: .*no JSON"),
    "groups: one lost": ("groups.jsonl", without(8), ":9: .*1 more groups of step 3"),
    "groups: a step lost": (
        "groups.jsonl",
        lambda lines: lines[:6] + lines[9:],
        ":7: .*step 4 follows step 2",
    ),
    "groups: a token lost": ("groups.jsonl", token_lost, ":7: .*tokens, log-probs and spans"),
    "groups: whose": (
        "groups.jsonl",
        edit(14, prompt_id="p99999"),
        ":14: .*no prompt 'p99999'",
    ),
    "validation": ("validation.jsonl", replace(2, b"{}\n"), ":2: .*`step` is missing"),
}


@pytest.mark.parametrize("damage", LINES)
def test_a_damaged_line_is_named_and_the_advice_works(
    refine: Refine, run: Path, trained: Trained, damage: str
) -> None:
    file, spoil, words = LINES[damage]
    lines = (run / file).read_bytes().splitlines(keepends=True)
    (run / file).write_bytes(b"".join(spoil(lines)))
    before = content(run)
    done = refine("train", "--resume", run)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert re.search(f"{re.escape(str(run / file))}{words}", done.err), done.err
    after = content(run)
    for log in ("events.jsonl", "times.jsonl"):  # say that it was tried
        del before[log], after[log]
    assert after == before
    (advice,) = re.findall(r"refine (train --resume .* --from-step \d+)$", done.err, re.MULTILINE)
    if damage in ("zeros", "a step twice", "groups: no JSON", "groups: one lost"):
        assert refine(*shlex.split(advice)).code == 0
        same(run, trained)


WHOLE: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "prompts: cut in a line": ("prompts.jsonl", lambda text: text[:-40], r":45: .*ends in the middle"),
    "prompts: a line lost": (
        "prompts.jsonl",
        lambda text: text[text.index(b"\n") + 1 :],
        "lines were changed",
    ),
    "prompts: a word changed": (
        "prompts.jsonl",
        lambda text: text.replace(b"cat", b"cow"),
        "lines were changed",
    ),
    "prompts: empty": ("prompts.jsonl", lambda text: b"", "lines were changed"),
    "prompts: no JSON": ("prompts.jsonl", lambda text: b"{\n" + text, ":1: .*no JSON"),
    "settings: cut": ("config.toml", lambda text: text[: len(text) // 2], r":\d+: "),
    "settings: cut at a line": (
        "config.toml",
        lambda text: text[: text.index(b"[grpo]")],
        r":\d+: the end is missing",
    ),
    "settings: empty": ("config.toml", lambda text: b"", r":1: the end is missing"),
    "settings: no UTF-8": ("config.toml", lambda text: b'x = "\xff"\n' + text, ":1: not UTF-8"),
    "settings: another key": (
        "config.toml",
        lambda text: text.replace(b"[grpo]", b"[grpo]\nstepz = 3"),
        r":\d+: `grpo.stepz` is not a setting",
    ),
    "events": ("events.jsonl", lambda text: b"{}\n" + text, ":1: .*`time` is missing.* or take it out"),
    "base: cut": ("evaluations/base.jsonl", lambda text: text[:-40], r":6: .*ends in the middle"),
    "base: a line lost": (
        "evaluations/base.jsonl",
        lambda text: text[text.index(b"\n") + 1 :],
        "answers to 1",
    ),
}


@pytest.mark.parametrize("damage", WHOLE)
def test_a_damaged_file_is_named(refine: Refine, run: Path, trained: Trained, damage: str) -> None:
    file, spoil, words = WHOLE[damage]
    text = (run / file).read_bytes()
    (run / file).write_bytes(spoil(text))
    done = refine("train", "--resume", run)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert re.search(f"{re.escape(str(run / file))}.*{words}", done.err), done.err
    (run / file).write_bytes(text)
    if damage == "settings: cut at a line":
        assert refine("train", "--resume", run).code == 0
        same(run, trained)


@pytest.mark.parametrize("command", [["report"], ["eval"], ["replay", "--step", "2"], ["chat"]])
@pytest.mark.parametrize("file", ["config.toml", "prompts.jsonl", "groups.jsonl"])
def test_other_commands_name_it_too(
    refine: Refine, trained: Trained, tmp_path: Path, command: list[str], file: str
) -> None:
    if command == ["chat"] and file != "config.toml":
        pytest.skip("it reads no prompts and no groups")
    run = Path(shutil.copytree(trained[0], tmp_path / "done"))
    (run / file).write_bytes(b"{{\n" + (run / file).read_bytes())
    done = refine(command[0], run, *command[1:])
    assert (done.code, done.out) == (2, "")
    assert f"{run / file}:1: " in done.err
    assert "Traceback" not in done.err
    assert "--from-step" not in done.err  # a finished run cannot go back


# -- settings changed on the way --------------------------------------------------------------


def test_what_a_resume_changes_is_told(refine: Refine, run: Path) -> None:
    assert refine("train", "--resume", run, "--set", "grpo.learning_rate=0.001").code == 0
    folder = RunFolder(run)
    (event,) = [e for e in folder.events() if e["kind"] == "changed"]
    assert (event["name"], event["text"], event["step"]) == ("grpo.learning_rate", "0.02 -> 0.001", 5)
    told = "grpo.learning_rate: 0.02 up to step 5, 0.001 from step 6 on"
    assert told in (run / "report.html").read_text()
    assert told in (run / "model" / "README.md").read_text()
    assert [m["learning_rate"] for m in folder.metrics()][-2:] == [0.02, 0.001]
    done = refine("replay", run, "--step", "5")  # by the rate that it had
    told = [line for line in done.out.splitlines() if " member " in line]
    assert (done.code, len(told) > 0) == (0, True)
    assert all(": same, " in line for line in told)


def test_a_change_from_the_first_step_on_is_none(refine: Refine, run: Path) -> None:
    change = ["--set", "grpo.learning_rate=0.001", "--set", "budget.hours=5"]
    assert refine("train", "--resume", run, "--from-step", "0", *change).code == 0
    assert [e["name"] for e in RunFolder(run).events() if e["kind"] == "changed"] == [
        "grpo.learning_rate",
        "budget.hours",
    ]
    assert RunFolder(run).changed_settings() == []
    assert "Changed on the way" not in (run / "model" / "README.md").read_text()


def test_steps_under_other_settings_are_not_made_again(refine: Refine, run: Path) -> None:
    def stop_at_once(*_: object, **__: object) -> None:
        raise Interrupted("Interrupted.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refine_rl.pipeline.train.run", stop_at_once)
        assert refine("train", "--resume", run, "--set", "grpo.learning_rate=0.001").code == 130
    cut(run / "checkpoints" / "step-000005" / "weights.safetensors")
    done = refine("train", "--resume", run)
    assert done.code == 2
    assert "the steps up to 5 were made under other settings" in done.err
    assert done.err.rstrip().endswith(f"refine train --resume '{run}' --from-step 4")
    assert refine("train", "--resume", run, "--from-step", "4").code == 0
    (change,) = RunFolder(run).changed_settings()
    assert change.step == 4


def test_a_replay_does_not_go_through_steps_under_other_settings(refine: Refine, run: Path) -> None:
    change = ["--from-step", "3", "--set", "grpo.weight_decay=0.1"]
    assert refine("train", "--resume", run, *change).code == 0
    done = refine("replay", run, "--step", "3")
    assert (done.code, "Step 3 was made under other settings" in done.err) == (2, True)
    shutil.rmtree(run / "checkpoints" / "step-000003")
    done = refine("replay", run, "--step", "4")  # from the start: steps 1 to 3 had another decay
    assert (done.code, done.out) == (2, "")
    assert "Step 4 would have to be made from step 0 on" in done.err
    assert "grpo.weight_decay: 0.0 up to step 3, 0.1 from step 4 on" in " ".join(done.err.split())
    assert refine("replay", run, "--step", "5").code == 0


# -- evidence that was taken away -------------------------------------------------------------


def test_answers_of_the_tuned_model_are_made_again(refine: Refine, trained: Trained, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "done"))
    evidence = ("evaluations/tuned.jsonl", "comparison.json")
    for gone in (evidence[:1], evidence[1:], evidence):
        for file in gone:
            (run / file).unlink()
        assert refine("train", "--resume", run).code == 0
        same(run, trained)
        assert (run / evidence[0]).read_text() == (trained[0] / evidence[0]).read_text()
    assert [e["kind"] for e in RunFolder(run).events()].count("finished") == 1


def test_without_them_a_finished_run_goes_back(refine: Refine, trained: Trained, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "done"))
    (run / "evaluations" / "tuned.jsonl").unlink()
    back = ["--from-step", str(RunFolder(run).checkpoints()[-2]), "--set", "grpo.learning_rate=0.001"]
    assert refine("train", "--resume", run, *back).code == 0
    folder = RunFolder(run)
    assert [m["learning_rate"] for m in folder.metrics()][-1] == 0.001
    assert folder.finished()
    assert "is finished" in refine("train", "--resume", run).err
