"""Measure a model as the model card reports it: `python -m refine_rl.assets.make_tiny.measure`."""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refine_rl.assets.make_tiny.invented import invent_word
from refine_rl.envs.play import sample
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose
from refine_rl.recipes.dots import prompts as dots_prompts
from refine_rl.recipes.dots import rules as dots_rules
from refine_rl.recipes.style import prompts as style_prompts
from refine_rl.recipes.style import rules as style_rules
from refine_rl.settings import ModelSettings
from refine_rl.types import Prompt

UNSEEN_WORDS = """ocean galaxy cabbage lighthouse velvet tunnel whale copper engine marble thunderclap
harvest pillowcase anchor biscuit candlestick dolphin elbowroom feather glacier hammock insect jungle
kingdom ladle meadow nectar orbit pelican quarrel ribbon saddle thimble urchin vinegar walrus yacht
zipper daylight emerald"""
"""English words that occur in no list of the grammar."""


def style_success(prompt: Prompt, completion: str) -> bool:
    """Whether every component of the recipe `style` is 1."""
    text, style, source = prompt.text, prompt.data["style"], prompt.data["source"]
    return bool(completion.strip()) and all(
        score.value == 1
        for score in (
            style_rules.style(text, completion, style, source),
            style_rules.fidelity(text, completion, style, source),
            style_rules.length(text, completion, source),
            style_rules.no_repetition(text, completion, source),
            style_rules.no_instruction(text, completion, source),
        )
    )


def dots_success(prompt: Prompt, completion: str) -> bool:
    """Whether both components of the recipe `dots` are 1."""
    rules = (dots_rules.correct, dots_rules.bare)
    return all(rule(prompt.text, completion, **prompt.data).value == 1 for rule in rules)


def echo_success(prompt: Prompt, completion: str) -> bool:
    """Whether the sentence came back as it was."""
    return completion.strip() == str(prompt.data["text"])


def echo_rows(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Requests to repeat a sentence of the grammar, one with two words that are invented or unseen."""
    rng = random.Random(f"measure/{kind}/{seed}")
    rows = []
    for _ in range(count):
        message = style_prompts.draw_message(rng)
        text = message.text
        if kind != "known":
            for word in message.words[:2]:
                new = invent_word(rng) if kind == "invented" else rng.choice(UNSEEN_WORDS.split())
                text = text.replace(word, new, 1)
        row = {"prompt": f"Repeat this sentence: {text}", "data": {"text": text}, "facets": {"words": kind}}
        rows.append(row)
    return rows


def success_rates(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    success: Callable[[Prompt, str], bool],
    *,
    facet: str,
    samples: int,
    max_tokens: int,
) -> dict[str, dict[str, float]]:
    """Shares of successes, "sampled" (T = 1) and "greedy": over all rows and by facet."""
    prompts = [
        Prompt(
            id=f"p{number}",
            split="held_out",
            messages=({"role": "user", "content": row["prompt"]},),
            facets=row["facets"],
            data=row["data"],
        )
        for number, row in enumerate(rows)
    ]
    rates: dict[str, dict[str, float]] = {}
    for way, members, temperature in (("sampled", samples, 1.0), ("greedy", 1, 0.0)):
        groups = sample(
            policy,
            prompts,
            members=members,
            sampling=Sampling(max_tokens=max_tokens, temperature=temperature),
            purpose=Purpose(seed=0, step=0, name="measure"),
        )
        hits: dict[str, list[bool]] = defaultdict(list)
        for prompt, group in zip(prompts, groups, strict=True):
            for trajectory in group:
                hit = success(prompt, trajectory.completion)
                hits["all"].append(hit)
                hits[prompt.facets[facet]].append(hit)
        rates[way] = {name: round(sum(found) / len(found), 3) for name, found in hits.items()}
    return rates


def measure(model: str, count: int) -> dict[str, Any]:
    """Every figure of the model card, on `count` prompts of each kind."""
    policy = load_policy(ModelSettings(name=model))
    echo = [row for kind in ("known", "invented", "unseen") for row in echo_rows(kind, count, 0)]
    style = style_prompts.prompts("held_out", count, 0)
    dots = dots_prompts.prompts("held_out", count, 0)
    return {
        "style": success_rates(policy, style, style_success, facet="style", samples=4, max_tokens=64),
        "dots": success_rates(policy, dots, dots_success, facet="kind", samples=4, max_tokens=24),
        "echo": success_rates(policy, echo, echo_success, facet="words", samples=1, max_tokens=64),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help='a folder, or "tiny" for the bundled model')
    parser.add_argument("--count", type=int, default=240, help="prompts of each kind")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.model, arguments.count), indent=2))


if __name__ == "__main__":
    main()
