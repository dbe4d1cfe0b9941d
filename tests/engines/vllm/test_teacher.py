"""A teacher at a server: it says what its model says here; what is no teacher is refused at the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from make import trajectory
from refine_rl.engines.vllm.teacher import ServedTeacher
from refine_rl.errors import MachineError, UserError
from refine_rl.pipeline.teacher import require_teacher
from refine_rl.policy.load import load_policy, without_weights
from refine_rl.policy.policy import Policy
from refine_rl.settings import ModelSettings, Settings, TeacherSettings
from refine_rl.training.grpo.teacher import LocalTeacher
from refine_rl.types import Segment, Trajectory
from vllm_server import VllmServer

MakeModel = Callable[..., Path]
Serve = Callable[..., VllmServer]


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> Policy:
    return load_policy(ModelSettings(name=str(make_model()), dtype="float32", device="cpu", rank=1))


def settings(server: VllmServer, **changes: Any) -> TeacherSettings:
    return TeacherSettings(model="served", base_url=server.base_url, **changes)


def answers() -> list[Trajectory]:
    """One of two turns, and one."""
    said = [(9, 4, 7), (6, 5)]
    turns = (
        Segment(token_ids=(1, 2, 3), trainable=False),
        Segment(token_ids=said[0], trainable=True, logprobs=(-1.0,) * 3),
        Segment(token_ids=(2, 2), trainable=False),
        Segment(token_ids=said[1], trainable=True, logprobs=(-1.0,) * 2),
    )
    return [trajectory("p1", segments=turns), trajectory("p1", member=1, tokens=(8, 3))]


def test_it_says_what_a_teacher_in_this_process_says(
    make_model: MakeModel, serve: Serve, model: Policy
) -> None:
    server = serve(make_model(), fault=lambda path, number: "503" if number == 2 else "")
    teacher, group = ServedTeacher(settings(server, concurrency=2)), answers()
    try:
        assert teacher.require(model) == 256
        found = teacher.of(group)
        here = LocalTeacher(speaker=model, tokens=64).of(group)
        assert [len(its) for its in found] == [5, 2]
        for one, other in zip(found, here, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
        asked = len(server.asked("/v1/completions"))
        assert teacher.of(group) == found
        assert len(server.asked("/v1/completions")) == asked == 4  # one of them twice
        teacher.let_go(group)
        teacher.of(group[:1])
        assert len(server.asked("/v1/completions")) == asked + 1
    finally:
        teacher.close()
        teacher.close()


@pytest.mark.parametrize(
    ("how", "changes", "said"),
    [
        ({"fault": "no-prompt-logprobs"}, {}, "most services do not"),
        ({"fault": "another-name"}, {}, "answered, and 'served' was asked"),
        ({"names": ("other",)}, {}, "has no such model; it has other"),
        ({"key": "s"}, {}, "teacher.base_url: .* does not name its models"),
        ({"tokenizer": True}, {}, "must have the policy's tokenizer"),
    ],
)
def test_what_is_no_teacher_is_refused_before_anything_is_loaded(
    make_model: MakeModel, serve: Serve, how: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    fault = how.pop("fault", "")
    if "tokenizer" in how:
        how["tokenizer"] = Path(without_weights(ModelSettings(name="tiny")).tokenizer.name_or_path)
    server = serve(make_model(), fault=lambda path, number: fault, **how)
    teacher = settings(server, **changes)
    task = Settings(task="x", model=ModelSettings(name=str(make_model())), teacher=teacher)
    with pytest.raises(UserError, match=said):
        require_teacher(task)


def test_a_server_that_falls_silent_ends_the_run(make_model: MakeModel, serve: Serve) -> None:
    server = serve(make_model(), fault=lambda path, number: "drop" if number else "")
    teacher = ServedTeacher(settings(server))
    try:
        assert teacher.ask([1, 2])[0] is None
        with pytest.raises(MachineError, match=r"gives no reply.*\n?.*vllm serve served"):
            teacher.of(answers())
    finally:
        teacher.close()
