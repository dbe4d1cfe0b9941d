"""The attention of prefix.py and whole_rows.py by torch's flash kernels: for an accelerator, in half formats.

A packed row needs no padding here. Every prompt and every suffix looks at itself, causally, in one call over
the whole row; what suffixes see of their prompts is a second call, all of a prompt's suffixes as one text
that looks at the prompt's. Both give the log of the sum of what they weighed (log-sum-exp), so the two are
put together as one softmax:

    z = log(exp(z_own) + exp(z_prompt)),  o = exp(z_own - z) o_own + exp(z_prompt - z) o_prompt

The kernels' backward pass makes the weights again from scores and z, and needs o only for rowsum(dO o). With
z and o of the whole, each call's backward pass gives that call's share of the gradients (FlashAttention-2,
arXiv 2307.08691).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch

FORMATS = (torch.bfloat16, torch.float16)
WIDEST = 256
"""The kernels' widest head."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts one after the other: where each begins, and the end, int32 [texts + 1]; tokens of the longest."""

    starts: torch.Tensor
    longest: int


@dataclass(frozen=True, kw_only=True)
class Across:
    """What looks at a prompt: the tokens of suffixes, by prompt, `asking` [S], at the prompts' `asked` [L].
    `back` says of each token of the row, [N], where it is among the first (`asking_back`) or the second, S
    and L where it is not."""

    queries: Texts
    keys: Texts
    asking: torch.Tensor
    asked: torch.Tensor
    asking_back: torch.Tensor
    asked_back: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Of a packed row of N tokens: every text by itself, and suffixes across to their prompts. `widest` is
    the most tokens that one token has before it, with itself."""

    own: Texts
    across: Across | None
    widest: int


def layout_of(prompts: Sequence[int], suffixes: Sequence[Sequence[int]], device: torch.device) -> Layout:
    """Of prompts of so many tokens, each with suffixes of so many behind it."""
    texts = [n for length, some in zip(prompts, suffixes, strict=True) for n in (length, *some) if n]
    widest = max(length + max(some, default=0) for length, some in zip(prompts, suffixes, strict=True))
    asking: list[int] = []
    asked: list[int] = []
    queries, keys = [], []
    start = 0
    for length, some in zip(prompts, suffixes, strict=True):
        own = sum(some)
        if own:
            asked += range(start, start + length)
            asking += range(start + length, start + length + own)
            queries.append(own)
            keys.append(length)
        start += length + own
    across = None
    if asking:
        across = Across(
            queries=_texts(queries, device),
            keys=_texts(keys, device),
            asking=torch.tensor(asking, device=device),
            asked=torch.tensor(asked, device=device),
            asking_back=_back(asking, start, device),
            asked_back=_back(asked, start, device),
        )
    return Layout(own=_texts(texts, device), across=across, widest=widest)


def _texts(lengths: Sequence[int], device: torch.device) -> Texts:
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return Texts(starts=starts.to(device), longest=max(lengths))


def _back(places: Sequence[int], N: int, device: torch.device) -> torch.Tensor:
    back = torch.full((N,), len(places))
    back[torch.tensor(places)] = torch.arange(len(places))
    return back.to(device)


def able(q: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether there are kernels for such heads, [..., D], here."""
    D = v.shape[-1]
    return (
        v.device.type == "cuda"
        and v.dtype in FORMATS
        and q.shape[-1] == D
        and D % 8 == 0
        and D <= WIDEST
        and _card_is_able(v.device)
    )


@cache
def _card_is_able(device: torch.device) -> bool:
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, *, scale: float) -> torch.Tensor:
    """[H, N, D], [K, N, D], [K, N, D] -> [N, H, D]."""
    # Under autocast rotary positions may leave queries and keys in a wider format than the values.
    rows = (x.to(v.dtype).transpose(0, 1) for x in (q, k, v))
    found: torch.Tensor = _Flash.apply(*rows, layout, scale)  # type: ignore[no-untyped-call]
    return found


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, scale: float
    ) -> torch.Tensor:
        out, logsum = look(q, k, v, layout.own, layout.own, causal=True, scale=scale)
        if (a := layout.across) is not None:
            some = q[a.asking], k[a.asked], v[a.asked]
            more, logsum_more = look(*some, a.queries, a.keys, causal=False, scale=scale)
            nothing = torch.full_like(logsum_more[:, :1], float("-inf"))
            logsum_more = torch.cat([logsum_more, nothing], dim=1).index_select(1, a.asking_back)
            whole = torch.logaddexp(logsum, logsum_more)  # [H, N]
            own, other = (torch.exp(x - whole).T[..., None] for x in (logsum, logsum_more))
            out = (out * own).addcmul_(_spread(more, a.asking_back), other).to(v.dtype)
            logsum = whole
        ctx.save_for_backward(q, k, v, out, logsum)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, out, logsum = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        given = grad.to(v.dtype).contiguous()
        kept = (given, q, k, v, out, logsum)
        for_q, for_k, for_v = look_back(*kept, layout.own, layout.own, causal=True, scale=scale)
        if (a := layout.across) is not None:
            some = (given[a.asking], q[a.asking], k[a.asked], v[a.asked])
            kept = (*some, out[a.asking], logsum[:, a.asking].contiguous())
            more_q, more_k, more_v = look_back(*kept, a.queries, a.keys, causal=False, scale=scale)
            for_q = for_q + _spread(more_q, a.asking_back)
            for_k, for_v = for_k + _spread(more_k, a.asked_back), for_v + _spread(more_v, a.asked_back)
        return for_q, for_k, for_v, None, None


def _spread(x: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """[n, heads, D] -> [N, heads, D], 0 where `back` names none: copies, no sum whose order could vary."""
    return torch.cat([x, torch.zeros_like(x[:1])]).index_select(0, back)


def look(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: Texts,
    keys: Texts,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each text of `queries` looks at the one of `keys` in its place: [n, H, D], [m, K, D], [m, K, D] -> what
    it sees, [n, H, D], and the logarithms of what the weights' exponentials add up to, [H, n] float32."""
    out, logsum, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, queries.starts, keys.starts, queries.longest, keys.longest, 0.0, causal, False, scale=scale
    )
    return out, logsum


def look_back(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    logsum: torch.Tensor,
    queries: Texts,
    keys: Texts,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v."""
    # Of the generator that would have dropped weights, had any been dropped.
    drawn = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
    with _one_order():
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, logsum, queries.starts, keys.starts, queries.longest, keys.longest,
            0.0, causal, *drawn, scale=scale,
        )  # fmt: skip
    return found


@contextlib.contextmanager
def _one_order() -> Iterator[None]:
    """Torch's flash attention adds gradients up in one order only where whatever else has no fixed order is
    an error, not where torch is to warn of it."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
