"""What a run at 8B and at 70B takes, on paper, by the formulas of `refine plan`; no GPU, model or network.

    python benchmarks/scale_table.py                # prints the tables
    python benchmarks/scale_table.py docs/scale.md  # puts them into the page

The models are made from their published configurations, without memory for weights; the card's rates are
those that its maker publishes. Nothing of it was run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen3Config

from refine_rl.plan.counts import Counts
from refine_rl.plan.machine import Rates
from refine_rl.plan.pace import Pace, estimate
from refine_rl.plan.service import passed
from refine_rl.plan.team import team_of
from refine_rl.policy.size import size_of
from refine_rl.settings import Settings
from refine_rl.settings.file import settings_from_dict

MODELS: dict[str, PretrainedConfig] = {
    "8B": Qwen3Config(
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=False,
        max_position_embeddings=40960,
    ),
    "70B": LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=False,
        max_position_embeddings=131072,
    ),
}
"""Qwen3-8B's and Llama-3.3-70B's."""
PROMPT, ANSWER, CHARS = 512, 512, 4  # tokens; characters of one, as in the plan
STEPS, PROMPTS, MEMBERS = 100, 16, 8
AT_ONCE = 4096  # tokens, in training
COUNTS = Counts(train=256, validation=32, held_out=64, chars=PROMPT * CHARS)
MATRICES, MEMORY, HELD = 989e12, 3.35e12, 80.0
"""An H100 SXM's products a second in bfloat16 without sparsity, bytes a second of its memory, and GB:
https://www.nvidia.com/en-us/data-center/h100/ (1,979 TFLOPS with sparsity, 3.35 TB/s, 80 GB)."""
LINK = 450e9
"""Bytes a second that it gets from the others by NVLink: half of the 900 GB/s of both directions, ibidem."""
AN_HOUR = 3.0
"""Dollars that an hour of such a card is taken at; 2.1 to 4.3 were asked in autumn 2026."""
TINKER = {"prefill": 0.195, "sample": 0.60, "train": 0.44}
"""Dollars a million tokens of Qwen3-8B at the hosted Tinker service, as its page of prices had them
on 2026-10-07 (https://tinker-docs.thinkingmachines.ai/tinker/models/)."""
MARK = re.compile(r"(?s)(<!-- table: (\w+) -->\n).*?(<!-- end -->)")

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A model on so many cards, with so many prompts a step."""

    model: str
    text: str
    cards: int = 1
    prompts: int = PROMPTS
    adapter: str = "lora"
    shard: bool = False
    served: bool = False  # a server elsewhere samples


WAYS = (
    Way(model="8B", text="one H100"),
    Way(model="8B", text="8 H100, `processes = 8`", cards=8),
    Way(model="8B", text=f"the same, {8 * PROMPTS} prompts a step", cards=8, prompts=8 * PROMPTS),
    Way(model="8B", text='one H100 to learn, `kind = "vllm"`', served=True),
    Way(model="70B", text="one H100, 4 bits", adapter="qlora"),
    Way(model="70B", text="8 H100, 4 bits, `processes = 8`", cards=8, adapter="qlora"),
    Way(model="70B", text="8 H100, `shard = true`", cards=8, shard=True),
)


def settings(way: Way, **engine: Any) -> Settings:
    """A run with every other number as it is by default, and more tokens at once, as on a GPU."""
    where: dict[str, Any] = {"processes": way.cards, "shard": way.shard} if way.cards > 1 else {}
    if way.served:
        where = {"kind": "vllm", "base_url": "http://127.0.0.1:8000/v1"}
    return settings_from_dict(
        {
            "task": "Any.",
            "model": {"name": "NAME", "adapter": way.adapter, "gradient_checkpointing": way.model == "70B"},
            "reward": {"rules": [{"rule": "words", "max": 20}]},
            "rollout": {"group_size": MEMBERS, "max_tokens": ANSWER},
            "engine": engine or where,
            "grpo": {"steps": STEPS, "prompts_per_step": way.prompts, "tokens_per_micro_batch": AT_ONCE},
        },
        Path(),
    )


def rates(rows: int, devices: int) -> Rates:
    """Of a card that samples so many rows at once: a weight of two bytes is read once for all of them."""
    return Rates(
        device="cuda",
        dtype="bfloat16",
        train=MATRICES,
        decode=min(MATRICES, rows * MEMORY),
        bytes=MEMORY,
        devices=devices,
        link=LINK,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Seconds of a step's parts, hours of the whole run, GB on each card; low and high."""

    sampling: Span
    training: Span
    hours: Span
    memory: Span


def taken(way: Way) -> Taken:
    size, made = size_of(MODELS[way.model], "all-linear"), settings(way)
    team = team_of(made.engine, rates(1, way.cards))
    machine = rates(team.groups(way.prompts) * MEMBERS, way.cards)
    work = estimate(made, size, machine, COUNTS, team)
    sampling, training, hours = [], [], []
    for n, share in enumerate((0.5, 1.0)):
        pace = Pace(
            settings=made, size=size, rates=team.rates(machine), prompt=PROMPT, share=share, team=team
        )
        sampling.append(pace.sampling(way.prompts, MEMBERS))
        training.append(pace.training(way.prompts, MEMBERS))
        hours.append((STEPS * work.step[n] + work.evaluation[n]) / 3600)
    low, high = work.memory
    return Taken(
        sampling=(sampling[0], sampling[1]),
        training=(training[0], training[1]),
        hours=(hours[0], hours[1]),
        memory=(low / 1e9, high / 1e9),
    )


def shown(span: Span, times: float = 1.0) -> str:
    low, high = (_figures(x * times) for x in span)
    return low if low == high else f"{low}\u2013{high}"


def _figures(x: float) -> str:
    return f"{x:.2f}" if x < 0.95 else f"{x:.1f}" if x < 9.95 else f"{x:.0f}"


def by_cards() -> Iterator[str]:
    """A row a way."""
    yield "| model | on | GB a card | sampling, s | training, s | hours | dollars |"
    yield "|---|---|---|---|---|---|---|"
    for way in WAYS:
        t = taken(way)
        fits = "" if t.memory[1] <= HELD else ", may not fit" if t.memory[0] <= HELD else ", **too much**"
        sampling = "the server's" if way.served else shown(t.sampling)
        more = " + server" if way.served else ""
        cells = [
            way.model,
            way.text,
            shown(t.memory) + fits,
            sampling,
            shown(t.training),
            shown(t.hours) + more,
            shown(t.hours, way.cards * AN_HOUR) + more,
        ]
        yield f"| {' | '.join(cells)} |"


def by_tokens() -> Iterator[str]:
    """A row a stage, of the run with 16 prompts a step, at a service that holds the model."""
    made = settings(WAYS[0], kind="tinker", prices=TINKER)
    yield "| stage | prefilled | sampled | trained | dollars, Qwen3-8B |"
    yield "|---|---|---|---|---|"
    found = passed(made, COUNTS, None)
    for one in found:
        spans = [shown(span, 1e-6) for span in (one.prefilled, one.sampled, one.trained)]
        assert one.dollars is not None
        yield f"| {one.stage} | {' | '.join(spans)} | {shown(one.dollars)} |"
    sums = [
        shown((sum(s[0] for s in column), sum(s[1] for s in column)), 1e-6)
        for column in zip(*((one.prefilled, one.sampled, one.trained) for one in found), strict=True)
    ]
    paid = [one.dollars for one in found if one.dollars is not None]
    whole = shown((sum(s[0] for s in paid), sum(s[1] for s in paid)))
    yield f"| **together** | {' | '.join(sums)} | **{whole}** |"


TABLES = {"cards": by_cards, "tokens": by_tokens}


def filled(page: str) -> str:
    """The page with its tables as they are now."""
    return MARK.sub(lambda m: "\n".join([m[1], *TABLES[m[2]](), "", m[3]]), page)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join("\n".join(table()) for table in TABLES.values()))
