"""Log-probs of given tokens from hidden states, without ever holding [tokens, vocabulary].

The head is worked off in tiles of the vocabulary with a running log-sum-exp, as flash attention does.
The gradient of a log-prob with respect to its hidden state,

    d log p(y) / d h = (W_y - sum_v p(v) W_v) / temperature,

is formed in the same pass, [T, hidden]: the backward pass only scales it, and the tiles are never made
again. Where the head itself is trained, its gradient needs the probabilities a second time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from refine_rl.policy.onednn import linear
from refine_rl.policy.products import times

ROWS = 1024  # tokens that are worked off at once
TILE = 1024  # of the vocabulary: a tile's passes should find it in the processor's cache
WIDE = (2048, 32768)  # rows and tile where every product is a launch
LEAST = -87.0
"""The exponent of a weight that no sum beside 1 feels. Below it a float32 exponential has no normal number
to give, and on a processor takes up to 80 times as long to say so."""

BITS = math.log2(math.e)


def exponentials(x: torch.Tensor, least: float = LEAST, bits: float = BITS) -> torch.Tensor:
    """e^x of float32 numbers up to 0 in their place, of no less than `least`.

    On a processor as 2^(x / ln 2): torch computes powers of 2 itself, and leaves exponentials to a library of
    Intel's, which takes twice to three times as long on other makers' processors. (`bits` is rounded, so that
    e^-20 is off by 2e-6 of itself; nobody feels that beside 1.) It can be compiled (scripted.py).
    """
    x = x.clamp_(min=least)
    return x.mul_(bits).exp2_() if x.device.type == "cpu" else x.exp_()


class _TargetLogprobs(torch.autograd.Function):
    """[T, hidden], [V, hidden], [V] or None, [T] -> [T] float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_T: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets_T: torch.Tensor,
        scale: float,
        cap: float,
    ) -> torch.Tensor:
        wants_hidden = ctx.needs_input_grad[0]
        wants_head = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        T = hidden_T.shape[0]
        out = torch.empty(T, dtype=torch.float32, device=hidden_T.device)
        logsum = torch.empty_like(out)
        slopes = torch.empty_like(hidden_T) if wants_hidden else None
        step = _sizes(hidden_T)[0]
        for start in range(0, T, step):
            rows = slice(start, start + step)
            piece = _piece(hidden_T[rows], weight, bias, targets_T[rows], scale, cap, slope=wants_hidden)
            out[rows], logsum[rows] = piece[0], piece[1]
            if slopes is not None:
                slopes[rows] = piece[2]
        ctx.scale, ctx.cap = scale, cap
        kept = (hidden_T, weight, bias, targets_T, logsum) if wants_head else (None,) * 5
        ctx.save_for_backward(slopes, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad_T: torch.Tensor) -> Any:
        slopes, hidden_T, weight, bias, targets_T, logsum = ctx.saved_tensors
        for_hidden = None if slopes is None else slopes * grad_T[:, None].to(slopes.dtype)
        for_weight = for_bias = None
        if weight is not None:
            for_weight, for_bias = _head_gradient(
                hidden_T, weight, bias, targets_T, logsum, grad_T, ctx.scale, ctx.cap
            )
        return for_hidden, for_weight, for_bias, None, None, None


def target_logprobs(
    hidden_T: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets_T: torch.Tensor,
    *,
    scale: float = 1.0,
    cap: float = 0.0,
) -> torch.Tensor:
    """log softmax(scale * capped(hidden W^T + bias))[target] for each of T tokens, float32 [T].

    `cap` > 0 is a soft cap, cap * tanh(x / cap) before the scale (Gemma 2). The products have the number
    format of `hidden_T`; all sums are float32.
    """
    found: torch.Tensor = _TargetLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_T, weight, bias, targets_T, scale, cap
    )
    return found


def _sizes(hidden: torch.Tensor) -> tuple[int, int]:
    """Rows and tile."""
    return (ROWS, TILE) if hidden.device.type == "cpu" else WIDE


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scale: float, cap: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A tile's logits, float32 [R, tile], and the slope of the soft cap."""
    logits = times(hidden, weight).float()
    if bias is not None:
        logits += bias
    slope = None
    if cap:
        bent = torch.tanh(logits / cap)
        logits, slope = bent * cap, 1 - bent * bent
    return logits if scale == 1.0 else logits * scale, slope


def _piece(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    scale: float,
    cap: float,
    *,
    slope: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-prob and log-sum-exp of some tokens, [R], and d log p / d hidden, [R, hidden]."""
    R = hidden.shape[0]
    highest = torch.full((R, 1), float("-inf"), device=hidden.device)
    total = torch.zeros(R, 1, device=hidden.device)
    chosen = torch.zeros(R, device=hidden.device)
    mean = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    chosen_slope = torch.ones(R, device=hidden.device)
    width = _sizes(hidden)[1]
    for start in range(0, weight.shape[0], width):
        w = weight[start : start + width].to(hidden.dtype)
        b = None if bias is None else bias[start : start + width].to(hidden.dtype)
        logits, bent = _logits(hidden, w, b, scale, cap)
        here = (targets >= start) & (targets < start + w.shape[0])
        place = (targets - start).clamp(0, w.shape[0] - 1)[:, None]
        chosen = torch.where(here, logits.gather(1, place)[:, 0], chosen)
        new = torch.maximum(highest, logits.amax(1, keepdim=True))
        shrink = torch.exp(highest - new)
        logits = exponentials(logits.sub_(new))
        total = total * shrink + logits.sum(1, keepdim=True)
        if slope:
            if bent is not None:
                chosen_slope = torch.where(here, bent.gather(1, place)[:, 0], chosen_slope)
                logits = logits * bent
            mean.mul_(shrink).add_(times(logits.to(hidden.dtype), w.T))
        highest = new
    logsum = (highest + total.log())[:, 0]
    if slope:
        own = weight[targets].float() * chosen_slope[:, None]
        mean = (own - mean / total) * scale
    return chosen - logsum, logsum, mean.to(hidden.dtype)


def _head_gradient(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    logsum: torch.Tensor,
    grad: torch.Tensor,
    scale: float,
    cap: float,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradient of a trained head: sum_t g_t (onehot(y_t) - p_t) h_t^T, tile by tile."""
    for_weight = torch.zeros_like(weight)
    for_bias = None if bias is None else torch.zeros_like(bias)
    step, width = _sizes(hidden)
    for start in range(0, weight.shape[0], width):
        tile = slice(start, start + width)
        w = weight[tile].to(hidden.dtype)
        b = None if bias is None else bias[tile].to(hidden.dtype)
        for first in range(0, hidden.shape[0], step):
            rows = slice(first, first + step)
            logits, bent = _logits(hidden[rows], w, b, scale, cap)
            push = exponentials(logits.sub_(logsum[rows, None]))
            here = (targets[rows] >= start) & (targets[rows] < start + w.shape[0])
            lines = here.nonzero()[:, 0]
            push[lines, targets[rows][lines] - start] -= 1
            if bent is not None:
                push = push * bent
            pull = push.mul_(grad[rows, None] * -scale)
            for_weight[tile] += times(pull.to(hidden.dtype).T, hidden[rows].T).to(weight.dtype)
            if for_bias is not None:
                for_bias[tile] += pull.sum(0).to(for_bias.dtype)
    return for_weight, for_bias


@dataclass(frozen=True, kw_only=True)
class Head:
    """What makes logits of a model's last hidden states: scale * capped(hidden W^T + bias)."""

    head: Any  # an nn.Linear
    scale: float
    cap: float

    @property
    def bias(self) -> torch.Tensor | None:
        """[V], added to the product."""
        found: torch.Tensor | None = self.head.bias
        return found

    def rounded(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The head's weight and bias in a number format: autocast keeps whole weights that it has rounded,
        parts of them it rounds anew each time."""
        bias = self.bias
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
        logits = linear(hidden.to(head[0].dtype), head[0][start:end], bias).float()
        if self.cap:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits if self.scale == 1.0 else logits * self.scale

    def logprobs_of(
        self, hidden_T: torch.Tensor, targets_T: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """log-probs of these tokens at `temperature`, float32 [T], where `hidden_T` predict them."""
        weight = self.head.weight
        if torch.is_autocast_enabled(hidden_T.device.type):
            hidden_T = hidden_T.to(torch.get_autocast_dtype(hidden_T.device.type))
        else:
            hidden_T = hidden_T.to(weight.dtype)
        scale = self.scale / temperature
        return target_logprobs(hidden_T, weight, self.bias, targets_T, scale=scale, cap=self.cap)


class Taken(torch.autograd.Function):
    """Rows of [N, ...], some of them several times: a prompt's last token predicts the first of each of
    its suffixes. The backward pass of plain indexing adds these up in whatever order a processor's threads
    come, and no run would be the same to the bit; here one thread adds them."""

    @staticmethod
    def forward(ctx: Any, found: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.rows = len(found)
        return found[places]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.rows, *grad.shape[1:])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            total.index_put_((places,), grad, accumulate=True)
        finally:
            torch.set_num_threads(threads)
        return total, None


def taken(found: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """found[places], with a gradient that is added up in one order."""
    rows: torch.Tensor = Taken.apply(found, places)  # type: ignore[no-untyped-call]
    return rows
