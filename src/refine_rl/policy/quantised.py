"""A base whose linear layers hold 4 or 8 bits a weight (QLoRA, https://arxiv.org/abs/2305.14314).

bitsandbytes rounds and packs the weights: 4 bits are NormalFloat4 in blocks of 64 with their scales rounded
once more, 8 bits are a row's weights over its largest (LLM.int8(), https://arxiv.org/abs/2208.07339). The
head, the embeddings and the norms stay as they are.

Its products are not taken. On a processor with bfloat16 those of 4 bits pack the weights anew at the first
token that is sampled, multiply in bfloat16 from then on, and no gradient comes back through them: the layers
below learn nothing any more, and no error says so. Those of 8 bits round the inputs too, by what else is in
the batch: the sampler's log-probs would not be the trainer's. So a layer's weights are unpacked for its
product, and for the way back once more; what is kept between is the packed form. The same numbers are
multiplied in sampling and in training, on every device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from refine_rl.errors import SettingsError
from refine_rl.policy.share import Share

_PACKAGE = "bitsandbytes"


def require_quantiser() -> None:
    """Raises SettingsError where the extra is not installed."""
    if find_spec(_PACKAGE) is None:
        raise SettingsError(
            '`model.adapter = "qlora"` needs the package bitsandbytes: pip install "refine-rl[qlora]"; '
            'or use `model.adapter = "lora"`, which keeps the base as it is'
        )


def quantisation(bits: int, dtype: torch.dtype) -> Any:
    """What transformers is told: 4 or 8 bits; everything else is in `dtype`."""
    import transformers

    # It says on a processor that a kernel for products is missing, which are not taken here.
    logging.getLogger(_PACKAGE).setLevel(logging.ERROR)
    if bits == 8:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def quantised(model: Any, bits: int, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of whole weights as one of `bits` bits on the device; what stays whole is in `dtype`."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return own_products(
        type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=model.state_dict(),
            dtype=dtype,
            quantization_config=quantisation(bits, dtype),
            device_map={"": device},
        )
    )


def own_products(model: Any) -> Any:
    """Replaces the forward pass of every quantised layer by the product of its unpacked weights."""
    import bitsandbytes

    for layer in model.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt):
            layer.unpacked = None  # its weights, while they are kept: see lora.at_rest
            layer.form = model.dtype  # of its weights when they are whole
            layer.forward = MethodType(_forward, layer)
    return model


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The quantised layers, by name."""
    return ((name, layer) for name, layer in model.named_modules() if is_quantised(layer))


def is_quantised(layer: nn.Module) -> bool:
    """Whether it is a layer of `own_products`."""
    return hasattr(layer, "unpacked")


def share_of(model: nn.Module) -> Share:
    """How many parameters are trained, and how many there are: bitsandbytes packs two weights into a byte."""
    packed = sum(layer.weight.numel() for _, layer in quantised_layers(model))
    whole = sum(layer.in_features * layer.out_features for _, layer in quantised_layers(model))
    every = list(model.parameters())
    return Share(
        trained=sum(p.numel() for p in every if p.requires_grad),
        whole=sum(p.numel() for p in every) - packed + whole,
    )


def number_format(layer: Any) -> torch.dtype:
    """Of a linear layer's weights when they are whole."""
    form: torch.dtype = layer.form if is_quantised(layer) else layer.weight.dtype
    return form


@torch.no_grad()
def whole_weight(layer: Any) -> torch.Tensor:
    """A linear layer's weights [out, in]; of a quantised one those that the packed ones stand for."""
    weight = layer.weight
    if not is_quantised(layer):
        return weight  # type: ignore[no-any-return]
    if weight.dtype == torch.int8:
        whole: torch.Tensor = weight.data * (weight.SCB / 127).unsqueeze(1)
    else:
        from bitsandbytes.functional import dequantize_4bit

        whole = dequantize_4bit(weight.data, weight.quant_state)
    return whole.to(layer.form)


def unquantise(model: Any) -> Any:
    """The model with whole weights in the place of packed ones, rounded as those were."""
    from transformers.pytorch_utils import Conv1D

    for name, layer in list(quantised_layers(model)):
        weight = whole_weight(layer)
        with torch.device("meta"):
            plain: Any = nn.Linear(layer.in_features, layer.out_features, bias=False)
            if layer.source_cls is Conv1D:
                plain, weight = Conv1D(layer.out_features, layer.in_features), weight.T.contiguous()
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = layer.bias
        model.set_submodule(name, plain)
    for part in (m for m in model.modules() if "hf_quantizer" in vars(m)):
        part.hf_quantizer.remove_quantization_config(part)
        for said in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
            setattr(part, said, False)
    return model


class _Product(torch.autograd.Function):
    """x W^T + bias with W unpacked for it and again for the way back, where the gradient of x alone is
    wanted: nothing of the base is trained."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        return linear(x, whole_weight(layer), layer.bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad @ whole_weight(ctx.layer), None


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    if layer.unpacked is not None:
        return linear(x, layer.unpacked, layer.bias)
    return _Product.apply(x, layer)  # type: ignore[no-any-return, no-untyped-call]
