"""A model's layers as decode_step.py wants them: weights that multiply the same input, behind one another.

`layers_of` takes apart what Llama, Mistral, Qwen 2 and 3 and their like are made of; whether what it found is
the model is asked of the model, as `fast.find_fast` does. The copies are made anew for each sampling, since
training moves the weights in between; they are as many bytes as the layers have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn

from refine_rl.policy import onednn
from refine_rl.policy.attention import scale_queries
from refine_rl.policy.decode_step import Layer, Product, answers, asks, rms_norm
from refine_rl.policy.norm import eps_of, is_lean
from refine_rl.policy.prefix import attended
from refine_rl.policy.quantised import is_quantised
from refine_rl.policy.rope import moving_kinds
from refine_rl.policy.size import FUSED_BYTES

_INSIDE = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
_INNER = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_BODY = {"embed_tokens", "layers", "norm", "rotary_emb"}


@dataclass(frozen=True, kw_only=True)
class Fused:
    """What a token needs of a model's body. `early`: see attention.scale_queries."""

    words: torch.Tensor  # [V, hidden], the embeddings
    layers: list[Layer]
    norm: torch.Tensor
    eps: float
    rotary: Any
    early: bool

    def angles(self, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of the positions below `longest`, [longest, 1, D], for `decode_step.asks`."""
        places = torch.arange(longest, device=self.words.device)[None]
        cos, sin = (x[0, :, None] for x in self.rotary(self.words[:1, None], places))
        sin = sin.clone()
        sin[..., : sin.shape[-1] // 2].neg_()
        return cos, sin

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads of the layers' last states, [R, hidden]."""
        return rms_norm(x, self.norm, self.eps)

    def hidden(self, ids: torch.Tensor, angles: Sequence[torch.Tensor], layout: Any) -> torch.Tensor:
        """Last hidden states of N tokens, [N] -> [N, hidden], at these cos and sin, [N, 1, D], in a layout of
        theirs (prefix.py). Under autocast as without."""
        with torch.autocast(ids.device.type, enabled=False):
            x = self.words[ids]
            for n, layer in enumerate(self.layers):
                q, k, v = (y.transpose(0, 1)[None] for y in asks(x, layer, *angles))
                found = attended(layout, n, q, k, v, layer.scale, layer.window)
                x = answers(x, found[0].flatten(1), layer)
            return self.normed(x)


AGREE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""How far hidden states may be from those of the body's own modules, of their size."""

_UNFIT: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Bodies that were asked and are made otherwise, and how; "" where they are not."""

_AGREED: WeakSet[nn.Module] = WeakSet()
"""Bodies whose fused layers have given what their own modules give."""


def why_not_fused(body: Any) -> str:
    """Why a token goes through the body's own modules; "" where it does not have to, as far as is known."""
    if body not in _UNFIT:
        _UNFIT[body] = _strange(body)
    return _UNFIT[body]


def agreed(body: nn.Module) -> bool:
    """Whether the body's fused layers have given what its own modules give."""
    return body in _AGREED


def compare(body: nn.Module, got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether fused layers agree with the body's own modules, by last hidden states of both. A body is asked
    once; where they do not, it is not fused again."""
    off = float((got.float() - want.float()).abs().mean() / want.float().abs().mean())
    if off <= AGREE[dtype]:
        _AGREED.add(body)
        return True
    _UNFIT[body] = f"its layers compute something else: {off:.2g} of it"
    return False


def fused(body: Any, dtype: torch.dtype) -> Fused | None:
    """The layers of a model's body with the weights of now in `dtype`; None where it is made otherwise,
    where the copies would be too many, or while its base is packed."""
    if why_not_fused(body) or moving_kinds(body):
        return None
    device = body.embed_tokens.weight.device
    linear = [m for layer in body.layers for m in _linear(layer)]
    size = sum(m.in_features * m.out_features for m in linear) * dtype.itemsize
    if size > FUSED_BYTES.get(device.type, 0) or any(_packed(m) for m in linear):
        return None
    layers = [_layer(layer, dtype) for layer in body.layers]
    return Fused(
        words=body.embed_tokens.weight.detach(),
        layers=layers,
        norm=body.norm.weight.detach(),
        eps=eps_of(body.norm),
        rotary=body.rotary_emb,
        early=all(scale_queries(dtype, layer.scale) for layer in layers),
    )


def _strange(body: Any) -> str:
    """What of the body is not known here, by its name; "" if nothing."""
    if unknown := _unlike(body, _BODY):
        return f"its body: {unknown}"
    if type(body.embed_tokens) is not nn.Embedding:
        return "its embeddings are of another kind"
    norms = [body.norm]
    for layer in body.layers:
        attention: Any = getattr(layer, "self_attn", None)
        mlp: Any = getattr(layer, "mlp", None)
        for part, known in ((layer, _INSIDE), (attention, _ATTENTION), (mlp, _INNER)):
            if part is None or (unknown := _unlike(part, known, optional={"q_norm", "k_norm"})):
                return f"its layers: {unknown or 'other parts'}"
        if type(mlp.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
            return f"its activation is {type(mlp.act_fn).__name__}"
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
        norms += [n for name in ("q_norm", "k_norm") if (n := getattr(attention, name, None)) is not None]
        width = getattr(attention, "head_dim", 0)
        if not width or not hasattr(attention, "scaling") or not hasattr(attention, "config"):
            return "its attention does not tell its sizes"
        if any(len(n.weight) != width for n in norms[-2:] if hasattr(attention, "q_norm")):
            return "its norms of queries and keys are not of a head's width"
        if not all(type(_base(m)) is nn.Linear or is_quantised(_base(m)) for m in _linear(layer)):
            return "its products are no linear layers"
    if not all(map(is_lean, norms)):
        return "its norms are of another kind"
    return ""


def _unlike(module: Any, known: set[str], optional: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """The first part that it has and should not have, or the other way round; "" if there is none."""
    found = {name for name, _ in module.named_children()}
    odd = sorted((found - known) | (known - optional - found))
    return odd[0] if odd else ""


def _linear(layer: Any) -> list[Any]:
    a, m = layer.self_attn, layer.mlp
    return [a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj]


def _base(layer: Any) -> Any:
    """A linear layer without its adapter."""
    return getattr(layer, "base_layer", layer)


def _packed(layer: Any) -> bool:
    """Whether its weight is not at hand whole: quantised (see lora.at_rest), or in parts (shard.py)."""
    from torch.distributed.tensor import DTensor

    base = _base(layer)
    if is_quantised(base):
        return base.unpacked is None and getattr(layer, "whole", None) is None
    return isinstance(base.weight, DTensor) or (base is not layer and not hasattr(layer, "whole"))


def _layer(layer: Any, dtype: torch.dtype) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    width = attention.head_dim
    H, K = attention.q_proj.out_features // width, attention.k_proj.out_features // width
    heads, heads_eps = torch.empty(0), 0.0
    if hasattr(attention, "q_norm"):
        both = (attention.q_norm.weight.expand(H, -1), attention.k_norm.weight.expand(K, -1))
        heads, heads_eps = torch.cat(both).detach(), eps_of(attention.q_norm)
    inner = [_product([mlp.gate_proj, mlp.up_proj], dtype)]
    if inner[0].dnn and not len(inner[0].a):
        inner = [_product([m], dtype) for m in (mlp.gate_proj, mlp.up_proj)]
    return Layer(
        norm=layer.input_layernorm.weight.detach(),
        into=_product([attention.q_proj, attention.k_proj, attention.v_proj], dtype),
        heads=heads,
        out=_product([attention.o_proj], dtype),
        after=layer.post_attention_layernorm.weight.detach(),
        inner=inner,
        down=_product([mlp.down_proj], dtype),
        H=H,
        K=K,
        scale=float(attention.scaling),
        window=_window(attention),
        eps=eps_of(layer.input_layernorm),
        heads_eps=heads_eps,
    )


def _window(attention: Any) -> int:
    """Mistral's layers ask their configuration each time; others, whose layers differ, have it themselves."""
    return int(getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None)) or 0)


def _product(layers: Sequence[Any], dtype: torch.dtype) -> Product:
    """The product of linear layers that have the same input, one behind the other."""
    weights, biases, adapters = zip(*map(_parts, layers), strict=True)
    a = b = bias = torch.empty(0)
    if any(x is not None for x in adapters):
        a = torch.cat([x[0] for x in adapters if x is not None])
        b = torch.block_diag(  # type: ignore[no-untyped-call]
            *(w.new_zeros(len(w), 0) if x is None else x[1] for w, x in zip(weights, adapters, strict=True))
        )
    if any(x is not None for x in biases):
        every = zip(weights, biases, strict=True)
        bias = torch.cat([w.new_zeros(len(w)) if x is None else x for w, x in every])
    weight = (torch.cat(weights) if len(weights) > 1 else weights[0]).to(dtype)
    dnn = onednn.at_hand(weight.device, dtype)
    return Product(
        weight=onednn.packed(weight) if dnn else weight,
        bias=bias.to(dtype),
        a=a.to(dtype),
        b=b.to(dtype),
        dnn=dnn,
    )


def _parts(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | None]:
    """A layer's weight and bias, and its adapter's two where they are not part of the weight (lora.py)."""
    base = _base(layer)
    bias = None if base.bias is None else base.bias.detach()
    adapted = base is not layer and not layer.disable_adapters and not layer.merged
    if adapted and layer.whole is not None:
        return layer.whole, bias, None
    weight = base.unpacked if is_quantised(base) else base.weight.detach()
    return weight, bias, layer.rounded if adapted else None
