"""Builds the folder of a small run, as training would have left it, from seeded random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import make
from refine_rl.evaluate.compare import compare, met_in_training
from refine_rl.run import RunFolder
from refine_rl.settings import Settings
from refine_rl.types import Group, Outcome, Prompt, Score, StepMetrics, Trajectory

STYLES = ("pirate", "formal", "haiku", "sarcastic", "Gen-Z slang", "Shakespearean")
TOPICS = ("server", "coffee", "invoice", "holiday", "cat")
STYLED = {
    "pirate": "Ahoy, the {topic} be gone by Friday, savvy?",
    "formal": "I have the honour to inform you that the {topic} is expected by Friday.",
    "haiku": "Quiet Friday dawn\nthe {topic} waits in silence\nnobody hurries",
    "sarcastic": "Oh great, the {topic} comes on Friday. I can hardly wait.",
    "Gen-Z slang": "ngl the {topic} drops Friday, no cap, it's giving deadline fr",
    "Shakespearean": "Hark! The {topic} doth come ere Friday's sun be set.",
}
HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    "<!--<script>\u2028]]> &lt; {{ 7*7 }} \x00",
)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunFolder]:
    return build_run


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """Completions that try to break out of the page."""
    return HOSTILE


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of 60 steps; nobody may change it."""
    folder = tmp_path_factory.mktemp("runs") / "messages"
    return build_run(folder, steps=60, prompts_per_step=3, group_size=4, texts=HOSTILE)


def settings(**changes: Any) -> Settings:
    rules = [
        {"rule": "words", "max": 30, "name": "length"},
        {"rule": "keeps", "name": "keeps", "weight": 2.0},
        {"rule": "regex", "pattern": "(?i)ahoy|hark|honour", "name": "style"},
    ]
    return Settings.model_validate(
        {
            "task": "Rewrite the text in the requested style while keeping its meaning.\nStay short.",
            "model": {"name": "tiny"},
            "reward": {"rules": rules},
            "grpo": {"steps": 120},
        }
        | changes
    )


def build_run(
    folder: Path,
    *,
    steps: int = 120,
    prompts_per_step: int = 8,
    group_size: int = 8,
    held_out: int = 64,
    compared: bool = True,
    texts: tuple[str, ...] = (),
) -> RunFolder:
    """A run of `steps` steps in which the reward rises from about 0.2 to about 0.85.

    The first members of the first group write `texts` instead of what they would have written, and
    so does the tuned model in answer to the first held-out prompt.
    """
    chance = random.Random(0)
    run = RunFolder.create(folder, settings())
    prompts = _prompts(held_out)
    run.save_prompts(prompts)
    train = [p for p in prompts if p.split == "train"]
    run.event("started", "started", "A new run.")
    run.validation.append(_validation(0, 0.2))
    for step in range(1, steps + 1):
        skill = 0.2 + 0.65 * step / (step + 25) * 1.2
        groups = []
        for number, prompt in enumerate(chance.sample(train, prompts_per_step)):
            given = texts if step == 1 and number == 0 else ()
            groups.append(_group(step, prompt, group_size, skill, chance, given))
        run.append_groups(groups)
        run.metrics.append(_metrics(step, groups, skill, chance))
        if step % 10 == 0:
            run.validation.append(_validation(step, skill))
    if steps >= 60:
        run.event("warning", "length", "Completions became 34 % shorter within 20 steps.", step=40)
        run.event("best", "best", "Validation reward 0.81.", step=60)
    if compared:
        unseen = [p for p in prompts if p.split == "held_out"]
        lost = unseen[60:62]  # on these the tuned model is worse
        base = [_outcome(p, 1.0 if p in lost else 0.2, chance) for p in unseen]
        tuned = [
            _outcome(p, 0.0 if p in lost else 0.85, chance, () if p is not unseen[0] else texts[:1])
            for p in unseen
        ]
        run.save_outcomes("base", base)
        run.save_outcomes("tuned", tuned)
        run.save_comparison(
            compare(
                base,
                tuned,
                success=_success,
                resamples=500,
                seed=0,
                seen=met_in_training(prompts),
            )
        )
        run.event("finished", "finished", "The tuned model is in model/.")
    return run


def _success(score: Score) -> bool:
    return min(score.breakdown.values()) >= 1


def _prompts(held_out: int) -> list[Prompt]:
    splits = ["train"] * 40 + ["validation"] * 8 + ["held_out"] * held_out
    return [
        make.prompt(
            f"p{i:04d}",
            f"Rewrite as {STYLES[i % 6]}: The {TOPICS[i % 5]} will be here by Friday, "
            "please tell the others.",
            split=split,  # type: ignore[arg-type]
            facets={"style": STYLES[i % 6], "topic": TOPICS[i % 5]},
        )
        for i, split in enumerate(splits)
    ]


def _answer(prompt: Prompt, good: bool, chance: random.Random) -> str:
    if good:
        return STYLED[prompt.facets["style"]].format(topic=prompt.facets["topic"])
    words = prompt.text.split(": ")[1].rstrip(".").split()
    return " ".join(words[: chance.randint(3, 12)]) + "."


def _attempt(
    prompt: Prompt, member: int, skill: float, chance: random.Random, text: str | None = None
) -> tuple[Trajectory, Score]:
    good = chance.random() < skill
    answer = _answer(prompt, good, chance) if text is None else text
    tokens = tuple(chance.randrange(1000) for _ in range(max(1, len(answer) // 4)))
    stop = "length" if chance.random() < 0.05 else "stop"
    trajectory = make.trajectory(prompt, answer, member=member, tokens=tokens, logprob=-0.5, stop=stop)
    if chance.random() < 0.004:
        return trajectory, Score.missing("the reward function raised ZeroDivisionError")
    length = 1.0 if chance.random() < 0.9 else 0.5
    keeps = round(chance.uniform(0.6, 1.0), 2) if good else round(chance.uniform(0.1, 0.7), 2)
    parts = {"length": length, "keeps": 1.0 if keeps > 0.75 else keeps, "style": float(good)}
    value = (parts["length"] + 2 * parts["keeps"] + parts["style"]) / 4
    why = f"{len(answer.split())} words; {keeps:.0%} of the content words are kept"
    return trajectory, Score(value=value, breakdown=parts, explanation=why)


def _group(
    step: int, prompt: Prompt, size: int, skill: float, chance: random.Random, texts: tuple[str, ...]
) -> Group:
    given = [*texts[:size], *[None] * (size - len(texts))]
    pairs = [_attempt(prompt, m, skill, chance, given[m]) for m in range(size)]
    return make.group(prompt, *(s for _, s in pairs), step=step, trajectories=[t for t, _ in pairs])


def _metrics(step: int, groups: list[Group], skill: float, chance: random.Random) -> StepMetrics:
    scores = [s for g in groups for s in g.scores if s.value is not None]
    values = [s.value for s in scores if s.value is not None]
    lengths = [t.completion_tokens for g in groups for t in g.trajectories]
    seconds = {"sample": 0.4 + 0.1 * chance.random(), "score": 0.02, "train": 0.3 + 0.05 * chance.random()}
    return make.metrics(
        step,
        reward_mean=sum(values) / len(values),
        reward_std=0.2 * (1 - skill),
        components={
            n: sum(s.breakdown[n] for s in scores) / len(scores) for n in ("length", "keeps", "style")
        },
        groups=len(groups),
        groups_zero_variance=sum(len({s.value for s in g.scores}) == 1 for g in groups),
        groups_missing=sum(any(s.status == "missing" for s in g.scores) for g in groups),
        tokens_mean=sum(lengths) / len(lengths),
        clipped_share=sum(t.stop_reason == "length" for g in groups for t in g.trajectories) / len(lengths),
        loss=chance.gauss(0, 0.002),
        kl=None if step % 30 in (5, 6) else 0.05 * skill * step / 60 + 0.004 * chance.random(),
        entropy=1.4 - 0.9 * skill + 0.05 * chance.random(),
        grad_norm=0.3 + 0.1 * chance.random(),
        seconds=seconds | {"total": sum(seconds.values()) + 0.05},
        tokens_per_second=900.0,
        mismatch_mean=2e-5 * chance.random(),
        distinct_share=1 - 0.3 * skill,
        openings={"Ahoy, the": round(0.2 * skill, 3)} if step > 5 else {},
    )


def _validation(step: int, skill: float) -> dict[str, Any]:
    mean = 0.25 + 0.7 * skill * 0.9
    return {
        "step": step,
        "reward": {"mean": mean, "ci95": [mean - 0.05, mean + 0.05]},
        "success": max(0.0, skill - 0.15),
        "components": {"length": 0.95, "keeps": 0.4 + 0.5 * skill, "style": skill},
    }


def _outcome(prompt: Prompt, skill: float, chance: random.Random, texts: tuple[str, ...] = ()) -> Outcome:
    given = [*texts, *[None] * (4 - len(texts))]
    sampled = tuple(_attempt(prompt, m, skill, chance, given[m]) for m in range(4))
    greedy = _attempt(prompt, 0, min(1, skill * 1.1), chance, given[0])
    return Outcome(prompt=prompt, sampled=sampled, greedy=greedy)
