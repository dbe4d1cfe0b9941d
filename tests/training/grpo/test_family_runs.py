"""Whole runs with what depends on the run's past: they resume to the bit, and are replayed to the token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from make import Pause, write_pairs
from refine_rl.errors import Interrupted
from refine_rl.pipeline import replay as replaying
from refine_rl.pipeline import teacher as teachers
from refine_rl.pipeline.replay import replay
from refine_rl.pipeline.train import run
from refine_rl.rewards.decayed import decayed
from refine_rl.run import RunFolder
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.grpo import kl
from refine_rl.training.grpo.itself import Itself
from refine_rl.training.grpo.kl import Distance
from refine_rl.training.grpo.teacher import apart
from refine_rl.types import Prompt

MakeModel = Callable[..., Path]
WORDS = ["cat", "dog", "tree", "house", "river", "stone"]


def whole_and_stopped(
    make_model: MakeModel, folder: Path, sections: dict[str, Any], **tables: dict[str, Any]
) -> RunFolder:
    """A run never stopped, held against one that was stopped in its fourth step or so and taken up again."""
    write_pairs(folder, WORDS)
    task: dict[str, dict[str, Any]] = {
        "model": {"name": str(make_model("llama")), "device": "cpu", "dtype": "float32", "rank": 4},
        "prompts": {"source": "file:prompts.jsonl", "validation": 0, "held_out": 2},
        "reward": {"rules": [{"rule": "words", "max": 2, "strict": True}]},
        "rollout": {"group_size": 4, "max_tokens": 8},
        "grpo": {
            "steps": 6,
            "prompts_per_step": 3,
            "learning_rate": 0.02,
            "checkpoint_every": 3,
            "validate_every": 0,
            "all_cut_patience": 99,
            "zero_variance_patience": 99,
        },
        "evaluate": {"samples": 1, "bootstrap": 100},
    }
    for name, values in sections.items():
        task[name] = {**task[name], **values}
    settings = settings_from_dict({"task": "Be short.", **task, **tables}, folder)
    whole, stopped = (RunFolder.create(folder / name, settings) for name in ("whole", "stopped"))
    run(whole)
    with pytest.raises(Interrupted):
        run(stopped, pause=Pause(62))
    assert 0 < len(stopped.metrics()) < 6
    run(stopped)
    weights = [(r.checkpoint(6) / "weights.safetensors").read_bytes() for r in (whole, stopped)]
    assert weights[0] == weights[1]
    assert list(whole.groups()) == list(stopped.groups())
    clocks = ("seconds", "tokens_per_second")
    timeless = [
        [{k: v for k, v in m.items() if k not in clocks} for m in r.metrics()] for r in (whole, stopped)
    ]
    assert timeless[0] == timeless[1]
    return whole


def test_an_adaptive_kl_with_importance_weights(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kl, "GAIN", 4.0)  # so that six steps show what the past does
    grpo = {"kl": 2.0, "kl_target": 0.001, "importance_cap": 2.0, "updates_per_step": 2, "loss": "gspo"}
    whole = whole_and_stopped(make_model, tmp_path, {"grpo": grpo, "rollout": {"ahead": 1}})
    metrics = whole.metrics()
    kls = [m["kl"] for m in metrics]
    assert [m["kl_coefficient"] for m in metrics] == [kl.adapted(2.0, 0.001, kls[:n]) for n in range(6)]
    assert len({m["kl_coefficient"] for m in metrics}) > 2
    # Sampled with the newest weights after a checkpoint and at the start, else with older ones.
    assert [m["importance_max"] == pytest.approx(1.0, abs=1e-4) for m in metrics] == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    in_force = {}
    coefficient = Distance.coefficient

    def listening(self: Distance, step: int) -> float:
        in_force[step] = coefficient(self, step)
        return in_force[step]

    monkeypatch.setattr(Distance, "coefficient", listening)
    assert all(member.same for member in replay(whole, step=6))
    assert in_force == {4: metrics[3]["kl_coefficient"]}  # trained again, from the checkpoint of step 3


@pytest.mark.parametrize("pool", ["all", "informative", "curriculum"])
def test_resampled_groups(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    grpo = {"resample": 4, "loss": "cispo", "advantage": "rloo", "kl": 0.01}
    whole = whole_and_stopped(make_model, tmp_path, {"grpo": grpo, "prompts": {"pool": pool}})
    steps = whole.recorded_steps()
    sizes = Counter(len(groups) for groups in steps.values())
    assert max(sizes) > 3
    assert max(sizes) <= 7
    for groups in steps.values():
        assert len({g.prompt.id for g in groups}) == len(groups)
        for g in groups:
            values = {s.value for s in g.scores}
            assert (g.advantages == (None,) * 4) == (len(values) == 1)
    assert [m["groups"] for m in whole.metrics()] == [len(steps[s]) for s in range(1, 7)]
    largest = max(steps, key=lambda s: (len(steps[s]), s))
    together = []

    play_of = replaying.play_of

    def listening(*given: Any, **more: Any) -> Any:
        play = play_of(*given, **more)

        def rollouts(prompts: Sequence[Prompt], step: int) -> Any:
            together.append(len(prompts))
            return play(prompts, step)

        return rollouts

    monkeypatch.setattr(replaying, "play_of", listening)
    assert all(member.same for member in replay(whole, step=largest))
    assert together[0] == 3
    assert len(together) > 1
    assert sum(together) == len(steps[largest])


def test_early_exits(make_model: MakeModel, tmp_path: Path) -> None:
    rollout = {"ahead": 1, "max_tokens": 10, "early_exit": {"ends": "the end", "answer_tokens": 2}}
    sections = {"rollout": rollout, "grpo": {"advantage": "mean", "kl": 0.01, "resample": 0}}
    whole = whole_and_stopped(make_model, tmp_path, sections)
    groups = list(whole.groups())
    rewards = {t["reward"] for g in groups for t in g["trajectories"]}
    assert {0.0, 0.5, 1.0} <= rewards <= {0.0, 0.125, 0.25, 0.5, 1.0}
    for group in groups:
        *exits, last = group["trajectories"]
        assert len(last["spans"]) == 1
        for early in exits:
            (thought, *_), (forced, trained), (answer, _) = early["spans"]
            assert early["tokens"][:thought] == last["tokens"][:thought]
            assert early["logprobs"] == [*last["logprobs"][:thought], *early["logprobs"][thought:]]
            assert (len(early["logprobs"]), trained) == (thought + answer, False)
            assert forced + thought + answer <= 10
        rights = [t["breakdown"]["words"] == 1.0 for t in group["trajectories"]]
        assert [t["reward"] for t in group["trajectories"]] == list(decayed(rights))
    assert all(m.same for step in (2, 5) for m in replay(whole, step=step))
    # The comparison lets the model think, and its rewards are the reward's own.
    tuned = whole.outcomes("tuned")
    assert tuned is not None
    for trajectory, score in [pair for o in tuned for pair in (*o.sampled, o.greedy)]:
        assert len(trajectory.segments) == 2
        assert score.value == score.breakdown["words"]
    assert whole.report.is_file()


@pytest.mark.parametrize("pool", ["all", "informative"])
def test_groups_told_apart_by_steps(make_model: MakeModel, tmp_path: Path, pool: str) -> None:
    never = {"rule": "contains", "text": "not to be found"}
    steps = {"split": "[aeiou ]", "rules": [{"rule": "chars", "max": 2}], "weight": 0.25}
    sections = {
        "grpo": {"flat": "steps", "solved": 1.0, "deviation": "population", "epsilon": 1e-6},
        "reward": {"rules": [never], "steps": steps},
        "prompts": {"pool": pool},
    }
    whole = whole_and_stopped(make_model, tmp_path, sections)
    told_apart = Counter()
    right = 3 / (3**0.5 + 4e-6)  # of four answers the only right one: 3/4 over a deviation of sqrt(3)/4
    for step, groups in whole.recorded_steps().items():
        for g in groups:
            shares = [s.breakdown["right_steps"] for s in g.scores]
            assert {s.value for s in g.scores} == {0.0}
            told_apart[step] += len(set(shares)) > 1
            others = [(sum(shares) - s) / 3 for s in shares]
            assert g.advantages == pytest.approx(
                [0.25 * right * (s - o) for s, o in zip(shares, others, strict=True)], abs=1e-9
            )
    metrics = whole.metrics()
    assert [m["groups_by_steps"] for m in metrics] == [told_apart[step] for step in range(1, 7)]
    assert [m["groups_zero_variance"] for m in metrics] == [3] * 6
    assert sum(told_apart.values()) > 6
    assert all(m["grad_norm"] for m in metrics)
    flat = {g.prompt.id for gs in whole.recorded_steps().values() for g in gs if not any(g.advantages)}
    assert {record["prompt_id"] for record in whole.pool()} <= flat


def test_a_run_without_a_reward_has_a_teacher_and_resumes_to_the_bit(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, Any] = {
        "reward": {"rules": []},
        "rollout": {"ahead": 1},
        "prompts": {"validation": 2},
        "grpo": {"validate_every": 3, "flat": "drop", "learning_rate": 0.003, "loss": "dapo"},
        "evaluate": {"samples": 4},
    }
    teacher = {"model": str(make_model("qwen3", hidden_size=64))}
    whole = whole_and_stopped(make_model, tmp_path, sections, teacher=teacher)
    assert all(m["teacher_kl"] > 0 for m in whole.metrics())
    looks = [*whole.validation()]
    assert [look["step"] for look in looks] == [0, 3, 6]
    for look in looks:  # 8 answers, whose tokens weigh alike in one and whose answers do in the other
        assert look["teacher_kl"] > 0 > look["reward"]["mean"] == look["components"]["nearness"]
    said = [(t, s) for g in whole.recorded_steps()[6] for t, s in zip(g.trajectories, g.scores, strict=True)]
    taught = [its for g in whole.recorded_steps()[6] for its in g.taught]
    assert [s.value for _, s in said] == [
        pytest.approx(-fmean(apart(t, its))) for (t, _), its in zip(said, taught, strict=True)
    ]
    comparison = whole.comparison()
    assert comparison.tuned is not None
    assert comparison.tuned.mean < 0
    assert {"teacher", "weights"} <= whole.config.source()["model"].keys()
    monkeypatch.setattr(teachers, "teacher_of", None)  # what it said is on record
    assert all(member.same for member in replay(whole, step=5))


def test_a_policy_that_teaches_itself_resumes_to_the_bit_and_is_replayed(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, Any] = {
        "reward": {"rules": [{"rule": "words", "max": 2}]},
        "grpo": {"learning_rate": 0.003, "loss": "dapo"},
    }
    teacher = {"model": "self", "shown": "best", "share": 0.5}
    whole = whole_and_stopped(make_model, tmp_path, sections, teacher=teacher)
    best = 0
    for group in (g for step in whole.recorded_steps().values() for g in step):
        values = [s.value for s in group.scores if s.value is not None]
        for s, its in zip(group.scores, group.each_taught, strict=True):
            assert (its is None) == (s.value == max(values))
            if its is not None:
                assert its.shown in {t.completion.strip() for t in group.trajectories}
                best += 1
    assert best > 0
    assert any(m.get("teacher_kl") is not None for m in whole.metrics())
    monkeypatch.setattr(Itself, "__call__", None)  # what it said is on record
    assert all(member.same for member in replay(whole, step=5))
