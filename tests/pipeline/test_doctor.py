"""Parts of the doctor that no task file reaches: a sampler that is not the trainer, versions, what fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from refine_rl.engines.local import LocalEngine
from refine_rl.errors import GuardStop, Interrupted, UserError
from refine_rl.pipeline.doctor import machine
from refine_rl.pipeline.doctor.found import Examination, Finding
from refine_rl.pipeline.doctor.model import look_at_sampler
from refine_rl.pipeline.doctor.subject import Command, Subject
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.reach import reach_of, stirred
from refine_rl.settings import ModelSettings, RolloutSettings, Settings
from refine_rl.types import Prompt

MakeModel = Callable[..., Path]
PROMPTS = [Prompt(id="p", split="train", messages=({"role": "user", "content": "hello there"},))]


@pytest.fixture(scope="module")
def policy(make_model: MakeModel) -> Policy:
    return load_policy(ModelSettings(name=str(make_model("llama")), rank=4, dtype="float32", device="cpu"))


def looked_at(engine: Any, policy: Policy) -> Finding:
    exam = Examination()
    settings = Settings(
        task="x", model=ModelSettings(name="tiny"), rollout=RolloutSettings(max_tokens=6, temperature=0.9)
    )
    before = policy.check_sum()
    look_at_sampler(Subject(exam=exam, settings=settings), engine, PROMPTS)
    assert policy.check_sum() == before  # the random matrices are out again
    (found,) = exam.findings
    return found


class WithoutAdapter:
    """Samples with the adapter off, and trains with it on: the fault that hid in a sampler for two months."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def speak(self, groups: Any, **how: Any) -> Iterator[Any]:
        with self._policy.reference() as untrained:
            yield from untrained.speak(groups, **how)


def test_a_sampler_that_has_the_adapter_and_one_that_has_not(policy: Policy) -> None:
    sound = looked_at(LocalEngine(policy), policy)
    assert (sound.status, "a random adapter moves them by" in sound.text) == ("ok", True)

    class Engine:
        speaker = WithoutAdapter(policy)

    Engine.policy = policy  # type: ignore[attr-defined]
    off = looked_at(Engine(), policy)
    assert off.status == "error"
    assert "sampler and trainer disagree by" in off.text
    assert "the adapter was off in the sampler" in off.advice


def test_an_adapter_that_changes_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refine_rl.policy.reach.STIRRED", 0.0)
    found = looked_at(LocalEngine(policy), policy)
    assert (found.status, "what is learned would not reach it" in found.text) == ("error", True)


def test_random_matrices_and_where_they_are(policy: Policy) -> None:
    reach = reach_of(policy)
    assert (reach.adapted, reach.linear, reach.reached, reach.blocks) == (14, 14, 2, 2)
    second = [p for n, p in policy.trainable().items() if "lora_B" in n]
    with stirred(policy) as matrices:
        assert matrices == len(second) == 14
        assert all(bool((p != 0).all()) for p in second)
    assert all(bool((p == 0).all()) for p in second)


def test_what_fails_does_not_stop_what_comes_behind_it() -> None:
    heard: list[Finding] = []
    exam = Examination(heard.append)
    with exam.looking("a") as look:
        raise UserError("wrong")
    with exam.looking("b"):
        raise GuardStop("g", "It stopped.", "Go on.")
    with exam.looking("c"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert look.failed
    assert [(f.check, f.status, f.text) for f in exam.findings] == [
        ("a", "error", "wrong"),
        ("b", "error", "It stopped."),
        ("c", "error", "Out of memory."),
    ]
    assert heard == exam.findings
    with exam.looking("e"):
        raise UserError("wrong")
    assert (heard[-1].status, heard[-1].text) == ("skipped", "Stops for the same reason as `a`")
    for through in (Interrupted("stop"), ZeroDivisionError()):  # a person's wish; a defect of ours
        with pytest.raises(type(through)), exam.looking("d"):
            raise through


def packages(monkeypatch: pytest.MonkeyPatch, **versions: str) -> Finding:
    monkeypatch.setattr(machine, "version", lambda name: versions.get(name, version(name)))
    exam = Examination()
    machine.look_at_packages(exam)
    return exam.findings[0]


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages(monkeypatch).status == "ok"
    old = packages(monkeypatch, transformers="4.57.0")
    assert (old.status, "transformers 4.57.0 is not <6,>=5.0" in old.text) == ("error", True)
    newer = packages(monkeypatch, peft="0.99.0")
    assert (newer.status, "peft (up to 0.21.2)" in newer.text) == ("warning", True)


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pinned[name] for name in machine.TESTED} == machine.TESTED


def device(monkeypatch: pytest.MonkeyPatch, **model: Any) -> Finding:
    exam = Examination()
    settings = Settings(task="x", model=ModelSettings(name="tiny", **model))
    machine.look_at_device(Subject(exam=exam, settings=settings, command=Command(which="t.toml")))
    return exam.findings[0]


def test_a_card_that_lies_idle_and_a_slow_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(machine, "cores", lambda: torch.get_num_threads())
    assert device(monkeypatch, device="cpu").status == "ok"
    slow = device(monkeypatch, device="cpu", dtype="bfloat16")
    assert (slow.status, slow.advice) == ("warning", "refine doctor t.toml --set model.dtype=auto")
    monkeypatch.setattr(machine, "cores", lambda: torch.get_num_threads() + 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert device(monkeypatch, device="cpu").advice == "unset OMP_NUM_THREADS"
    (tmp_path / "none").touch()
    driver = device(monkeypatch, device="cpu")
    assert (driver.status, "sees no GPU" in driver.text) == ("warning", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda which: "A card")
    idle = device(monkeypatch, device="cpu")
    assert (idle.status, "There is a GPU (A card)" in idle.text) == ("warning", True)
    assert idle.advice == "refine doctor t.toml --set model.device=auto"
    nowhere = device(monkeypatch, device="cuda:99")
    assert nowhere.status == "error"
