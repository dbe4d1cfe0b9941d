"""The memory of a GRPO run by model size, from the formulas of `refine plan`; no GPU, no model, no network.

    python benchmarks/memory_table.py                  # prints the tables
    python benchmarks/memory_table.py docs/memory.md   # puts them into the page

The models are made from their published configurations, without memory for weights.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from transformers import PretrainedConfig, Qwen2Config

from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import Rates
from refine_rl.plan.memory import kept_weights, memory
from refine_rl.policy.size import Size, size_of
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict
from refine_rl.training.memory import SLACK

MODELS = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "heads": (14, 2)},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "heads": (12, 2)},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "heads": (28, 4)},
}
"""Qwen2.5's; the vocabulary is that of the largest, and the largest alone does not tie its head."""
WAYS = {
    "LoRA": {"adapter": "lora"},
    "QLoRA, 4 bits": {"adapter": "qlora"},
    "all weights": {"adapter": "none"},
}
LENGTHS = (2048, 4096, 8192)  # tokens of a prompt and the longest answer, together
CARDS = (8, 12, 16, 24, 48, 80, 141)  # GB
CHARS = 4  # of a token, as in the plan
MARK = re.compile(r"(?s)(<!-- table: (\w+) -->\n).*?(<!-- end -->)")


def config(name: str) -> PretrainedConfig:
    given = dict(MODELS[name])
    heads, keys = given.pop("heads")
    large = name == "7B"
    return Qwen2Config(
        **given,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        vocab_size=152064 if large else 151936,
        tie_word_embeddings=not large,
        max_position_embeddings=32768,
    )


def settings(way: str, answer: int, *, checkpointing: bool = False) -> Settings:
    """A run with every other number as it is by default."""
    model = {"name": "NAME", "gradient_checkpointing": checkpointing, **WAYS[way]}
    reward = {"rules": [{"rule": "words", "max": 20}]}
    return settings_from_dict(
        {"task": "Any.", "model": model, "reward": reward, "rollout": {"max_tokens": answer}}, Path()
    )


def span(way: str, size: Size, length: int, *, checkpointing: bool = False) -> tuple[float, float]:
    """GB at the peak on a GPU in bfloat16, low and high; half of the `length` is the answer's."""
    made = settings(way, length // 2, checkpointing=checkpointing)
    counts = Counts(train=256, validation=32, held_out=64, chars=length // 2 * CHARS)
    rates = Rates(device="cuda", dtype="bfloat16", train=1.0, decode=1.0, bytes=1.0)
    low, high = (memory(made, size, rates, counts, slack) / 1e9 for slack in (1.0, SLACK))
    return low, high


def shown(found: tuple[float, float]) -> str:
    low, high = (f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in found)
    return f"{low} to {high}"


def by_size() -> Iterator[str]:
    """A row a model and way; a column a length."""
    heads = " | ".join(f"{length:,} tokens" for length in LENGTHS)
    yield f"| model | trained | {heads} |"
    yield f"|---|---|{'---|' * len(LENGTHS)}"
    for name in MODELS:
        size = size_of(config(name), "all-linear")
        for way in WAYS:
            cells = [shown(span(way, size, length)) for length in LENGTHS]
            yield f"| {name} | {way} | {' | '.join(cells)} |"


def by_card() -> Iterator[str]:
    """The largest model whose high figure fits into a card, at the shortest length."""
    yield "| card | LoRA | QLoRA, 4 bits | all weights |"
    yield "|---|---|---|---|"
    sizes = {name: size_of(config(name), "all-linear") for name in MODELS}
    for card in CARDS:
        cells = []
        for way in WAYS:
            fits = [name for name, size in sizes.items() if span(way, size, LENGTHS[0])[1] <= card]
            cells.append(fits[-1] if fits else "none of these")
        yield f"| {card} GB | {' | '.join(cells)} |"


def by_means() -> Iterator[str]:
    """What brings it down, for one long case."""
    size = size_of(config("1.5B"), "all-linear")
    yield "| 1.5B, LoRA, 4,096 tokens | GB |"
    yield "|---|---|"
    yield f"| as it is | {shown(span('LoRA', size, 4096))} |"
    yield f"| half the length | {shown(span('LoRA', size, 2048))} |"
    spared = span("LoRA", size, 4096, checkpointing=True)
    yield f"| `model.gradient_checkpointing = true` | {shown(spared)} |"
    both = span("QLoRA, 4 bits", size, 4096, checkpointing=True)
    yield f'| the same, and `model.adapter = "qlora"` | {shown(both)} |'


def by_disk() -> Iterator[str]:
    """What the checkpoints and the model of a run take on disk."""
    yield "| model | LoRA | all weights |"
    yield "|---|---|---|"
    for name in MODELS:
        size = size_of(config(name), "all-linear")
        kept = [kept_weights(settings(way, 256).model, size, 4) / 1e9 for way in ("LoRA", "all weights")]
        yield f"| {name} | {kept[0]:.1f} GB | {kept[1]:.0f} GB |"


TABLES = {"size": by_size, "card": by_card, "means": by_means, "disk": by_disk}


def filled(page: str) -> str:
    """The page with its tables as they are now."""
    return MARK.sub(lambda m: "\n".join([m[1], *TABLES[m[2]](), "", m[3]]), page)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join("\n".join(table()) for table in TABLES.values()))
