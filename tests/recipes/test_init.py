"""`refine init` in its four forms: what it writes loads and trains, or says what is to be replaced first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings

Refine = Callable[..., Any]
MakeModel = Callable[..., Path]
TASK = "Summarise the ticket in one sentence."


def few(*more: str) -> list[str]:
    """Flags that make a run of seconds of any task."""
    changes = (
        "grpo.steps=2",
        "grpo.prompts_per_step=4",
        "grpo.validate_every=0",
        "evaluate.samples=1",
        *more,
    )
    return [word for change in changes for word in ("--set", change)]


def fill_in(folder: Path) -> None:
    """Prompts and a reward of one's own."""
    rows = ({"prompt": f"The {n} is broken since {m}."} for n in ("lamp", "door", "bell") for m in range(8))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = (folder / "rewards.py").read_text()
    raising = next(line for line in code.splitlines() if "raise " in line)
    (folder / "rewards.py").write_text(
        code.replace(raising, "    return min(1.0, 20 / (1 + len(completion)))")
    )


def test_the_example_trains_as_it_is(refine: Refine) -> None:
    assert refine("init", "same").code == 0
    assert refine("init", "mine", "--task", "answer politely  and briefly").code == 0
    for name in ("prompts.jsonl", "rewards.py"):
        assert Path("mine", name).read_text() == Path("same", name).read_text()
    settings = load_settings(Path("mine"))
    assert (settings.model.name, settings.learning_rate, settings.rollout.max_tokens) == ("tiny", 1e-3, 48)
    assert refine("plan", "mine").code == 0
    done = refine("train", "mine", *few())
    assert done.code == 0, done.err
    assert len(RunFolder.open(Path("runs/mine")).metrics()) == 2


def test_the_reward_of_the_example_is_sound(refine: Refine) -> None:
    """No bad answer comes near the top: a refusal is no politeness, and neither is the prompt again."""
    assert refine("init", "mine").code == 0
    done = refine("check", "mine", "--count", "15", "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert (made["findings"], made["top"]) == ([], 2.5)
    bad = [a for p in made["prompts"] for a in p["answers"] if a["kind"] in ("refusal", "copied prompt")]
    assert len(bad) == 30
    assert max(a["reward"] for a in bad) <= 1.5


def test_another_task_says_what_to_replace_and_is_refused_until_then(refine: Refine) -> None:
    done = refine("init", "mine", "--task", TASK)
    assert done.code == 0
    assert "To be replaced before training" in done.out
    text = Path("mine/task.toml").read_text()
    assert "REPLACE the lines of this file" in text
    assert "WRITE the function of this name" in text
    assert "polite" not in text + Path("mine/rewards.py").read_text() + Path("mine/prompts.jsonl").read_text()
    for command in ("train", "plan"):
        done = refine(command, "mine")
        assert done.code == 2
        assert "mine/rewards.py: `good` is still to be written" in done.err
        assert "mine/prompts.jsonl: lines 1, 2, 3 of it are still as `refine init` wrote them" in done.err
        assert "--writer openrouter/moonshotai/kimi-k2" in done.err
    assert not list(Path("runs").glob("*"))
    done = refine("prompts", "mine")
    assert done.code == 2
    assert "lines 1, 2, 3 of it are still" in done.err
    fill_in(Path("mine"))
    with Path("mine/prompts.jsonl").open("a") as file:
        file.write('{"prompt": "REPLACE THIS LINE: what the model is asked, word for word."}\n')
    done = refine("train", "mine")
    assert done.code == 2
    assert "prompts.jsonl: line 25 of it are" not in done.err
    assert "prompts.jsonl: line 25 of it is still as `refine init` wrote it" in done.err
    fill_in_again = Path("mine/prompts.jsonl").read_text().splitlines()[:-1]
    Path("mine/prompts.jsonl").write_text("\n".join(fill_in_again))
    done = refine("train", "mine", *few())
    assert done.code == 0, done.err


def test_the_example_for_another_task_is_refused(refine: Refine) -> None:
    """Whoever changes the sentence alone would train politeness, and read that it is better."""
    assert refine("init", "mine").code == 0
    file = Path("mine/task.toml")
    file.write_text(file.read_text().replace("Answer politely and briefly.", TASK))
    for command in ("train", "plan"):
        done = refine(command, "mine")
        assert done.code == 2
        assert "mine/prompts.jsonl: these are the prompts of an example ('Answer politely" in done.err
        assert "mine/rewards.py: `polite` is the reward of an example" in done.err
    # The reward alone: a word changed in it is a word of one's own.
    rows = "".join(f'{{"prompt": "Ticket {n} is about the {n}th lamp."}}\n' for n in range(24))
    Path("mine/prompts.jsonl").write_text(rows)
    done = refine("plan", "mine")
    assert done.code == 2
    assert "prompts.jsonl" not in done.err
    code = Path("mine/rewards.py")
    code.write_text(code.read_text().replace('"please"', '"please call"'))
    assert refine("plan", "mine").code == 0


def test_a_model_of_the_hub(refine: Refine, make_model: MakeModel) -> None:
    """No number of the bundled model is left."""
    assert refine("init", "example", "--model", "Qwen/Qwen3-0.6B").code == 0
    assert refine("init", "mine", "--model", "Qwen/Qwen3-0.6B", "--task", TASK).code == 0
    for name, room in (("example", 96), ("mine", 256)):
        settings = load_settings(Path(name))
        assert settings.model.name == "Qwen/Qwen3-0.6B"
        assert settings.grpo.learning_rate is None
        assert (settings.learning_rate, settings.rollout.max_tokens) == (1e-4, room)
        assert (settings.grpo.steps, settings.grpo.prompts_per_step) == (60, 4)
        assert "# learning_rate = 1e-4\n" in Path(name, "task.toml").read_text()
    fill_in(Path("mine"))
    here = (f"model.name={make_model('llama')}", "rollout.max_tokens=12", "grpo.all_cut_patience=9")
    for name in ("example", "mine"):
        done = refine("train", name, *few(*here, "reward.sanity=[]"))
        assert done.code == 0, done.err


def test_a_writer_and_a_judge(
    refine: Refine, llm_server: Callable[..., Any], llm_brain: Callable[..., str]
) -> None:
    flags = ("--writer", "mine/w", "--judge", "mine/j")
    assert refine("init", "judged", "--task", TASK, *flags).code == 0
    settings = load_settings(Path("judged"))
    assert (settings.model.name, settings.rollout.max_tokens) == ("Qwen/Qwen2.5-0.5B-Instruct", 256)
    assert settings.learning_rate == 1e-4
    assert refine("init", "small", "--task", TASK, *flags, "--model", "tiny").code == 0
    server = llm_server(brain=llm_brain)
    file = Path("small/task.toml")
    file.write_text(file.read_text().replace("http://127.0.0.1:8000/v1", server.base_url))
    counts = ("prompts.train=8", "prompts.validation=1", "prompts.held_out=4", "rollout.max_tokens=24")
    done = refine("train", "small", *few(*counts))
    assert done.code == 0, done.err
    assert {c["purpose"] for c in RunFolder.open(Path("runs/small")).calls()} >= {"writer", "judge"}


@pytest.mark.parametrize("recipe", ["dots", "style", "summaries"])
def test_a_bundled_recipe(refine: Refine, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "k")
    assert refine("init", "mine", "--recipe", recipe).code == 0
    assert refine("plan", "mine").code == 0
    if recipe == "summaries":  # what it asks of LLMs is tested beside it
        return
    counts = ("prompts.train=8", "prompts.validation=1", "prompts.held_out=4")
    done = refine("train", "mine", *few(*counts))
    assert done.code == 0, done.err
