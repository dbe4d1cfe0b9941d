"""refine doctor on a sound task, and on a broken copy of each kind."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from make import task_toml
from refine_rl.pipeline.rivals import gepa_search
from refine_rl.plan import machine
from refine_rl.run.trackers import build
from vllm_server import VllmServer

MakeModel = Callable[..., Path]
Refine = Callable[..., Any]
Doctor = Callable[..., dict[str, Any]]
SMALL = ("--set", "rollout.group_size=2", "--set", "rollout.max_tokens=4")
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
ENDPOINT = """
[endpoints.local]
base_url = "BASE"
key_env = "LOCAL_KEY"
prices = {judge = {input = 1.0, output = 2.0}, writer = {input = 1.0, output = 2.0}}
"""


@pytest.fixture
def doctor(refine: Refine, task: Path) -> Doctor:
    """What it finds, by check; a list of (status, text, advice) each."""

    def found(*more: str | Path, task: Path = task, code: int | None = None) -> dict[str, Any]:
        done = refine("doctor", task, "--json", *SMALL, *more)
        whole = json.loads(done.out)
        assert done.code == (2 if whole["errors"] else 0)
        assert code in (None, done.code), whole
        checks: dict[str, Any] = {}
        for one in whole["checks"]:
            checks.setdefault(one["check"], []).append((one["status"], one["text"], one["advice"]))
        return checks

    return found


@pytest.fixture
def model(make_model: MakeModel, tmp_path: Path) -> Path:
    """A copy of a model that a test may spoil."""
    return Path(shutil.copytree(make_model("llama"), tmp_path / "model"))


def change(file: Path, **values: Any) -> None:
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, **values}))


def weights(folder: Path, how: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(how(load_file(file)), file, metadata={"format": "pt"})


def alone(found: dict[str, Any], check: str) -> tuple[str, str, str]:
    (one,) = found[check]
    return one  # type: ignore[no-any-return]


def test_a_sound_task_has_a_tick_on_each_line(refine: Refine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)  # no core lies idle
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = refine("doctor", "--recipe", "style", "--set", "rollout.group_size=2", "--set", "model.rank=4")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[-1] == "All is well: a run can begin."
    ticks = [line for line in lines if line.startswith("✓ ")]
    assert [line.split("  ")[0].removeprefix("✓ ") for line in ticks] == [
        "settings",
        "packages",
        "device",
        "task",
        "memory",
        "disk",
        "time",
        "weights",
        "template",
        "stop tokens",
        "adapter",
        "sampler",
        "answers",
        "reward",
    ]
    assert lines[: len(ticks)] == ticks
    assert "hello<|im_end|>\\n<|im_start|>assistant\\n'" in done.out
    assert "LoRA rank 4 on 28 of 28 linear layers" in done.out
    assert "in 4 of 4 blocks" in done.out


def test_settings_that_cannot_be_come_first_and_alone(doctor: Doctor) -> None:
    found = doctor("--set", "grpo.kl_in=reward", code=2)
    status, text, _ = alone(found, "settings")
    assert (status, list(found)) == ("error", ["settings", "all else"])
    assert "does nothing without a coefficient" in text


def test_a_task_that_is_not_there_is_no_finding(refine: Refine) -> None:
    done = refine("doctor", "nowhere.toml")
    assert (done.code, done.out) == (2, "")
    assert "nowhere.toml" in done.err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda w: {k: v for k, v in w.items() if "layers.1.mlp.up_proj" not in k},
            "1 weight missing: model.layers.1.mlp.up_proj.weight",
        ),
        (lambda w: {**w, "model.extra.weight": torch.zeros(2)}, "1 weight too many: model.extra.weight"),
    ],
)
def test_a_model_that_would_be_loaded_in_part(
    doctor: Doctor, model: Path, spoil: Callable[[Any], Any], words: str
) -> None:
    weights(model, spoil)
    found = doctor("--set", f"model.name={model}", code=2)
    status, text, _ = alone(found, "weights")
    assert status == "error"
    assert words in text
    assert alone(found, "task")[0] == "ok"  # what does not need it was looked at


def test_a_template_that_forgets_whose_turn_it_is(doctor: Doctor, model: Path) -> None:
    (model / "chat_template.jinja").write_text(TEMPLATE)
    status, text, advice = alone(doctor("--set", f"model.name={model}", code=2), "template")
    assert status == "error"
    assert "'<|assistant|>'" in text
    [first, mend] = advice.splitlines()
    assert "chat_template.jinja" in first
    (model / "chat_template.jinja").write_text(TEMPLATE + mend)
    status, text, _ = alone(doctor("--set", f"model.name={model}"), "template")
    assert (status, text.endswith("'<|user|>hello<|end|><|assistant|>'")) == ("ok", True)


def test_a_template_that_needs_no_word_before_an_answer_is_sound(doctor: Doctor, model: Path) -> None:
    text = "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}<|system|>"
    (model / "chat_template.jinja").write_text(
        text + "{% else %} {{ m.content }}<|end|>{% endif %}{% endfor %}"
    )
    assert alone(doctor("--set", f"model.name={model}"), "template")[0] == "ok"


def test_a_template_that_ends_no_answer(doctor: Doctor, model: Path) -> None:
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    status, text, advice = alone(doctor("--set", f"model.name={model}"), "stop tokens")
    assert (status, "puts none behind one" in text) == ("warning", True)
    assert advice.endswith("{{ eos_token }}")


def test_stop_tokens_that_are_not_named_or_never_come(doctor: Doctor, model: Path) -> None:
    (model / "generation_config.json").write_text('{"eos_token_id": 1}')
    named = ("--set", f"model.name={model}")
    status, text, _ = alone(doctor(*named), "stop tokens")
    assert (status, "generation_config.json lacks the one" in text) == ("ok", True)
    change(model / "generation_config.json", eos_token_id=[0, 5000])
    status, text, advice = alone(doctor(*named), "stop tokens")
    assert (status, "no token 5000" in text, "eos_token_id" in advice) == ("warning", True, True)


def test_answers_that_never_end(doctor: Doctor) -> None:
    status, text, advice = alone(doctor("--set", "rollout.max_tokens=1", code=2), "answers")
    assert (status, "16 cut at 1 tokens" in text) == ("error", True)
    assert advice.endswith("--set rollout.max_tokens=2")


def test_an_adapter_that_reaches_nothing_or_half_of_the_blocks(doctor: Doctor) -> None:
    status, text, _ = alone(doctor("--set", 'model.targets=["q_prog"]', code=2), "plan")
    assert (status, "(nearest: q_proj" in text) == ("error", True)
    found = doctor("--set", 'model.targets=["0.self_attn.q_proj"]')
    status, text, advice = alone(found, "adapter")
    assert (status, "1 of 14 linear layers (q_proj), in 1 of 2 blocks" in text) == ("warning", True)
    assert advice.endswith("--set model.targets=all-linear")


def test_a_reward_that_is_constant_or_raises(
    doctor: Doctor, task: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(task.parent, tmp_path / "own")) / "task.toml"
    (own.parent / "rewards.py").write_text(
        "def same(prompt, completion):\n    return 0.5\n\ndef broken(prompt, completion):\n    return 1 / 0\n"
    )
    for name in ("same", "broken"):
        own.write_text(task_toml(make_model("llama"), reward={"functions": [f"rewards.py:{name}"]}))
        status, found, advice = alone(doctor(task=own, code=2), "reward")
        assert status == "error"
        if name == "same":
            assert found == "Each of 16 answers got 0.500: nothing could be learned"
            assert "GRPO learns from differences" in advice
        else:
            assert "`broken` could not score 16 of 16 answers" in found
            assert "division by zero" in found
            assert f"check {own}" in advice


def test_too_little_memory_and_what_would_fit(
    doctor: Doctor, refine: Refine, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "installed_memory", lambda device: 1e6)
    status, text, advice = alone(doctor(code=2), "memory")
    assert (status, text.endswith("It does not fit")) == ("error", True)
    assert "take a smaller model" in advice
    many = ("--set", "rollout.group_size=64")  # a step of few answers has no batch that could be smaller
    high = json.loads(refine("plan", task, *SMALL, *many, "--json").out)["memory"][1]
    monkeypatch.setattr(machine, "installed_memory", lambda device: high * 0.99)
    status, _, advice = alone(doctor(*many), "memory")
    assert status == "warning"
    key, _, value = advice.split()[-1].partition("=")
    assert key in ("grpo.tokens_per_micro_batch", "model.gradient_checkpointing")
    fits = json.loads(refine("plan", task, *SMALL, *many, "--json", "--set", f"{key}={value}").out)
    assert fits["memory"][1] <= high * 0.99


# -- endpoints ---------------------------------------------------------------------------------------


@pytest.fixture
def judged(
    task: Path, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """The task with a judge and a writer at an address."""
    monkeypatch.setenv("LOCAL_KEY", "sk-secret")

    def make(base_url: str) -> Path:
        own = Path(shutil.copytree(task.parent, tmp_path / "judged")) / "task.toml"
        asking = {"reward": {"judges": ["local/judge"]}, "writer": {"model": "local/writer"}}
        own.write_text(task_toml(make_model("llama"), **asking) + ENDPOINT.replace("BASE", base_url))
        return own

    return make


def says(body: dict[str, Any]) -> str:
    """A judge that likes short answers, and a writer."""
    text = body["messages"][-1]["content"]
    if "<task>" in text and "realistic input" in text:
        return json.dumps({"inputs": [{"input": "a line"}]})
    ids = re.findall(r'<trajectory id="([^"]+)">(.*?)</trajectory>', text, re.S)
    return json.dumps({"scores": [{"id": i, "explanation": "", "score": 1 / (1 + len(t))} for i, t in ids]})


def test_those_who_are_asked_answer(
    doctor: Doctor, judged: Callable[[str], Path], llm_server: Callable[..., Any], refine: Refine
) -> None:
    server = llm_server(brain=says)
    own = judged(server.base_url)
    unasked = refine("doctor", own, *SMALL)
    assert (unasked.code, server.requests) == (2, [])
    assert "The doctor makes up to 10 calls to local/writer, local/judge, at most about $" in unasked.err
    assert "say --yes, or --offline" in unasked.err
    offline = doctor("--offline", task=own)
    assert alone(offline, "judges")[:2] == ("skipped", "Not asked: --offline: local/writer, local/judge")
    assert alone(offline, "reward")[0] == "skipped"
    assert server.requests == []
    found = doctor("--yes", task=own)
    status, text, _ = alone(found, "judges")
    assert (status, text.startswith("local/judge (reward.judges) answers, 0.")) == ("ok", True)
    assert alone(found, "writer")[0] == "ok"
    assert alone(found, "reward")[0] == "ok"
    assert len(server.requests) <= 10


def test_a_tracker_that_is_not_installed_is_an_error_before_a_run(
    refine: Refine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None if name == "wandb" else object())
    nowhere = ("doctor", "--recipe", "style", "--set", 'model.name="./nowhere"')  # no model is loaded
    done = refine(*nowhere, "--set", 'track.to=["wandb"]')
    assert done.code == 2
    assert '✗ trackers     `track.to`: "wandb" needs wandb: pip install "refine-rl[wandb]"' in done.out
    assert "✓ trackers     installed: trackio" in refine(*nowhere, "--set", 'track.to=["trackio"]').out


def test_a_rival_whose_package_is_not_installed_is_an_error(
    refine: Refine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> str:
        raise PackageNotFoundError("gepa")

    monkeypatch.setattr(gepa_search, "gepa_version", gone)
    more = ('evaluate.rivals=["prompt"]', 'reward.judges=["openai/a"]', 'model.name="./nowhere"')
    done = refine("doctor", "--recipe", "style", *[word for one in more for word in ("--set", one)])
    assert done.code == 2
    assert 'rivals       evaluate.rivals: "prompt" is searched by gepa, which is not installed' in done.out


def test_what_is_said_in_several_lines_stands_below_itself(refine: Refine) -> None:
    done = refine(
        "doctor",
        "--recipe",
        "style",
        "--set",
        'model.name="./nowhere"',
        "--set",
        'reward.judges=["openai/a"]',
        "--set",
        'evaluate.judge="together/b"',
    )
    lines = done.out.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("✗ endpoints    reward.judges"))
    assert lines[first + 1].startswith(f"{' ' * 15}evaluate.judge")


def test_prose_in_the_place_of_json(
    doctor: Doctor, judged: Callable[[str], Path], llm_server: Callable[..., Any]
) -> None:
    server = llm_server(brain=lambda body: "I like the first one best.")
    found = doctor("--yes", task=judged(server.base_url), code=2)
    status, text, advice = alone(found, "judges")
    assert (status, text.startswith("local/judge (reward.judges): ")) == ("error", True)
    assert 'kind = "absolute"' in advice
    assert alone(found, "writer")[0] == "error"
    assert alone(found, "reward")[:2] == (
        "skipped",
        "Not tried: an LLM scores, and it was not asked or cannot be used",
    )
    assert alone(found, "sampler")[0] == "ok"  # what needs nobody was looked at


def test_a_key_that_is_refused_missing_or_a_price_that_is_unknown(
    doctor: Doctor,
    judged: Callable[[str], Path],
    llm_server: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = llm_server(brain=says, moods="401")
    own = judged(server.base_url)
    found = doctor("--yes", task=own, code=2)
    refused = [one for one in found["endpoints"] if one[0] == "error"]
    assert [("Incorrect API key" in text, advice) for _, text, advice in refused] == [
        (True, "export LOCAL_KEY=...")
    ]
    assert "sk-secret" not in json.dumps(found)
    assert server.requests == []  # the list of models said so, and cost nothing
    own.write_text(own.read_text().replace("judge = {input = 1.0, output = 2.0}, ", ""))
    status, text, advice = found_price(doctor, own)
    assert (status, "the price of local/judge is not known" in text) == ("warning", True)
    assert "judge = {input = 5.0, output = 25.0}" in advice
    monkeypatch.delenv("LOCAL_KEY")
    status, text, _ = alone(doctor("--offline", task=own, code=2), "endpoints")
    assert (status, "export LOCAL_KEY=..." in text) == ("error", True)


def found_price(doctor: Doctor, own: Path) -> tuple[str, str, str]:
    return alone(doctor("--offline", task=own), "endpoints")


def test_a_model_that_the_endpoint_does_not_list(
    doctor: Doctor, judged: Callable[[str], Path], llm_server: Callable[..., Any]
) -> None:
    server = llm_server(brain=says, models=["judges", "writer"])
    found = doctor("--yes", task=judged(server.base_url))
    warned = [one for one in found["endpoints"] if one[0] == "warning"]
    assert warned == [
        (
            "warning",
            "local does not list judge; the nearest that it has is judges",
            'In the task file: "local/judges"',
        )
    ]


# -- a server that samples ---------------------------------------------------------------------------


def test_a_server_that_has_the_adapter_and_one_that_leaves_it_out(doctor: Doctor, model: Path) -> None:
    server = VllmServer(model, names=(str(model),))
    served = (f'model.name="{model}"', "model.device=cpu", "model.dtype=float32", 'engine.kind="vllm"')
    changes = [*served, f'engine.base_url="{server.base_url}"', "rollout.temperature=1.0"]
    named = [word for change in changes for word in ("--set", change)]
    try:
        sound = doctor(*named)
        assert [status for status, _, _ in sound["engine"]] == ["ok", "ok"]
        assert alone(sound, "sampler")[0] == "ok"
        assert server.asked("/v1/load_lora_adapter")
        server.wrong = "base"
        found = doctor(*named, code=2)
    finally:
        server.stop()
    (_, (status, text, _)) = found["engine"]
    assert (status, "It leaves the adapter or some of its layers out" in text) == ("error", True)
    assert (alone(found, "weights")[0], alone(found, "sampler")[0]) == ("ok", "ok")  # in this process
