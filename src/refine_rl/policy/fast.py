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
from refine_rl.policy.head import target_logprobs
from refine_rl.policy.prefix import PackedRow, attention_configs, pack, packed_mode

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.25}
"""Largest difference of a log-prob, in nats, that rounding may leave in the self-check. Another attention
than the model's own gives more in nearly every token."""

_MEAN = {torch.float32: 2e-5, torch.bfloat16: 0.03}


@dataclass(frozen=True, kw_only=True)
class Fast:
    """What the fast path needs of a model. Logits are scale * capped(head(hidden))."""

    body: Any
    head: Any  # an nn.Linear
    scale: float
    cap: float
    configs: tuple[Any, ...]

    def hidden(self, ids: torch.Tensor, positions: torch.Tensor, layout: Any) -> torch.Tensor:
        """The body's last hidden states of a packed row, [N, hidden]."""
        with packed_mode(self.configs):
            out = self.body(input_ids=ids, position_ids=positions, use_cache=False, packed=layout)
        return cast(torch.Tensor, out.last_hidden_state[0])

    def rounded(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The head's weight and bias in a number format: autocast keeps whole weights that it has rounded,
        parts of them it rounds anew each time."""
        bias = self.head.bias
        return self.head.weight.to(dtype), None if bias is None else bias.to(dtype)

    def logits(
        self,
        hidden: torch.Tensor,
        head: tuple[torch.Tensor, torch.Tensor | None],
        start: int = 0,
        end: int | None = None,
    ) -> torch.Tensor:
        """[N, hidden] -> [N, V] float32, or those of a part of the vocabulary; `head` as of `rounded`."""
        bias = None if head[1] is None else head[1][start:end]
        logits = torch.nn.functional.linear(hidden.to(head[0].dtype), head[0][start:end], bias).float()
        if self.cap:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits if self.scale == 1.0 else logits * self.scale

    def logprobs(
        self, row: PackedRow, sources: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """log pi(targets[i] | all before it) at `temperature`, float32 [n]; `sources[i]` is the place in
        the row whose hidden state predicts it."""
        hidden: torch.Tensor = _Taken.apply(  # type: ignore[no-untyped-call]
            self.hidden(row.ids, row.positions, row.packed), sources
        )
        weight, bias = self.head.weight, self.head.bias
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        else:
            hidden = hidden.to(weight.dtype)
        return target_logprobs(hidden, weight, bias, targets, scale=self.scale / temperature, cap=self.cap)


class _Taken(torch.autograd.Function):
    """Rows of [N, hidden], some of them several times: a prompt's last token predicts the first of each of
    its suffixes. The backward pass of plain indexing adds these up in whatever order a processor's threads
    come, and no run would be the same to the bit; here one thread adds them."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.rows = len(hidden)
        return hidden[places]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.rows, grad.shape[1])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            total.index_put_((places,), grad, accumulate=True)
        finally:
            torch.set_num_threads(threads)
        return total, None


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
    if not (largest <= TOLERANCE[compute_dtype] and mean <= _MEAN[compute_dtype]):
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
