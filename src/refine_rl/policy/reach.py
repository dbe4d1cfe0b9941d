"""What an adapter reaches of a model, and random matrices in it, to see whether they move anything: looked at
before a run."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from refine_rl.policy.policy import Policy
from refine_rl.randomness import torch_seed

STIRRED = 1.6
"""The standard deviation of the random second matrices, times the adapter's scale and the root of its rank:
what they add to a layer's output is of that output's own size, so that it shows in bfloat16 too."""
_BLOCK = re.compile(r"^(.*?\.\d+)\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """The linear layers of a model (its head apart) and those that an adapter is on; and its blocks (the
    parts that are numbered) with those of them that have one such layer or more. `names` are the last parts
    of the adapted layers' names.

    >>> Reach(adapted=2, linear=14, reached=1, blocks=2, names=("q_proj",)).whole
    False
    """

    adapted: int
    linear: int
    reached: int
    blocks: int
    names: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether every block has an adapter."""
        return self.reached == self.blocks


def reach_of(policy: Policy) -> Reach:
    """Where the policy's adapter is; without one, every layer counts as reached."""
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    model = policy.model.get_base_model() if policy.adapter else policy.model
    adapted = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    inside = tuple(f"{name}." for name in adapted)
    head = model.get_output_embeddings()
    plain = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and not name.startswith(inside)
        and name not in adapted
    ]
    linear = [*adapted, *plain]
    with_one = adapted if policy.adapter else linear
    return Reach(
        adapted=len(with_one),
        linear=len(linear),
        reached=len(_blocks(with_one)),
        blocks=len(_blocks(linear)),
        names=tuple(sorted({name.rsplit(".", 1)[-1] for name in with_one})),
    )


def _blocks(names: list[str]) -> set[str]:
    return {found[1] for name in names if (found := _BLOCK.match(name))}


@contextlib.contextmanager
def stirred(policy: Policy, seed: int = 0) -> Iterator[int]:
    """Inside, the adapter's second matrices, which are 0 at first, are random ones, so that it changes what
    the model says; afterwards all is as it was. Gives the number of matrices, 0 without an adapter."""
    if not policy.adapter:
        yield 0
        return
    config = policy.model.peft_config["default"]
    second = {n: p for n, p in policy.trainable().items() if "lora_B" in n or "lora_embedding_B" in n}
    kept = {name: parameter.detach().clone() for name, parameter in second.items()}
    generator = torch.Generator().manual_seed(torch_seed(seed, "stirred"))
    with torch.no_grad():
        for parameter in second.values():
            rank = max(1, parameter.shape[-1])
            size = STIRRED / (config.lora_alpha / config.r * math.sqrt(rank))
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    try:
        yield len(second)
    finally:
        with torch.no_grad():
            for name, parameter in second.items():
                parameter.copy_(kept[name])


def tied(policy: Policy) -> bool:
    """Whether the head's weights are the embedding's."""
    words, head = policy.model.get_input_embeddings(), policy.model.get_output_embeddings()
    return head is not None and words is not None and head.weight is words.weight
