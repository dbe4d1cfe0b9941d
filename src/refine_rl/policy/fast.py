"""The fast forward pass of a policy: packed rows, a tiled head, and the check that it is exact.

`find_fast` takes a model apart into what the fast path needs (the body, the head, how the head's output
is scaled) and compares the result with the model's own forward pass. Where that cannot be done, or the two
disagree, the plain path is taken, and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from refine_rl.policy import prefix
from refine_rl.policy.head import Head, taken
from refine_rl.policy.prefix import PackedRow, attention_configs, pack, packed_mode

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.25}
"""Largest difference of a log-prob, in nats, that rounding may leave in the self-check. Another attention
than the model's own gives more in nearly every token."""

MEAN = {torch.float32: 2e-5, torch.bfloat16: 0.03}


@dataclass(frozen=True, kw_only=True)
class Fast(Head):
    """What the fast path needs of a model."""

    body: Any
    configs: tuple[Any, ...]

    def hidden(self, ids: torch.Tensor, positions: torch.Tensor, layout: Any) -> torch.Tensor:
        """The body's last hidden states of a packed row, [N, hidden]."""
        with packed_mode(self.configs):
            out = self.body(input_ids=ids, position_ids=positions, use_cache=False, packed=layout)
        return cast(torch.Tensor, out.last_hidden_state[0])

    def logprobs(
        self, row: PackedRow, sources: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """log pi(targets[i] | all before it) at `temperature`, float32 [n]; `sources[i]` is the place in
        the row whose hidden state predicts it."""
        hidden = taken(self.hidden(row.ids, row.positions, row.packed), sources)
        return self.logprobs_of(hidden, targets, temperature)


def find_fast(model: Any, *, plain: Any, compute_dtype: torch.dtype, vocabulary: int) -> Fast | str:
    """The fast path of a model (without its adapter's wrapper), or why there is none.

    `plain(ids)` gives the logits of rows [B, T] by the model's own forward pass.
    """
    body, head = model.base_model, model.get_output_embeddings()
    if body is model or not isinstance(head, torch.nn.Linear) or type(head) is not torch.nn.Linear:
        return "its head is no plain linear layer"
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )
    fast = Fast(
        body=body,
        head=head,
        scale=scale,
        cap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
        configs=tuple(attention_configs(model)),
    )
    try:
        found = _difference(fast, plain, vocabulary)
    except Exception as error:  # whatever an architecture of its own makes of our keyword
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    mean, largest = float(found.mean()), float(found.max())
    if not (largest <= TOLERANCE[compute_dtype] and mean <= MEAN[compute_dtype]):
        return f"it differs from the model's own forward pass by {mean:.2g} nats on average"
    return fast


@torch.no_grad()
def _difference(fast: Fast, plain: Any, vocabulary: int) -> torch.Tensor:
    """|log-prob of the fast path - of the plain one| over some random tokens, [n]."""
    device = fast.head.weight.device
    generator = torch.Generator().manual_seed(0)

    def some(n: int) -> list[int]:
        return torch.randint(0, vocabulary, (n,), generator=generator).tolist()

    prompts = [some(40), some(9)]
    suffixes = [[some(12), some(5)], [some(7), some(7), some(1)]]
    row, sources, targets = gather(prompts, suffixes, device)
    got = fast.logprobs(row, sources, targets, 1.0)
    want = []
    for prompt, members in zip(prompts, suffixes, strict=True):
        for member in members:
            ids = torch.tensor([prompt + member], device=device)
            logits = plain(ids)[0].float().log_softmax(-1)
            place = torch.arange(len(prompt) - 1, ids.shape[1] - 1, device=device)
            want.append(logits[place, ids[0, place + 1]])
    return (got - torch.cat(want)).abs()


def gather(
    prompts: Sequence[Sequence[int]], suffixes: Sequence[Sequence[Sequence[int]]], device: torch.device
) -> tuple[PackedRow, torch.Tensor, torch.Tensor]:
    """The packed row on the device, and for every suffix token, in order, where it is predicted and
    what it is."""
    row = pack(prompts, suffixes)
    sources: list[int] = []
    targets: list[int] = []
    for block, members in zip(row.packed.blocks, suffixes, strict=True):
        start = block.start + block.length
        for member in members:
            sources += [start_of(block), *range(start, start + len(member) - 1)] if member else []
            targets += member
            start += len(member)
    return row.to(device), torch.tensor(sources, device=device), torch.tensor(targets, device=device)


def start_of(block: prefix.Block) -> int:
    """The place of the prompt's last token, which predicts the first token of every suffix."""
    return block.start + block.length - 1
