"""Floating-point operations that a training step needs, a multiplication and an addition being two.

What is needed, not what is done: nothing that is computed twice counts twice.

- A prompt goes through the model once when its group is sampled and once when it is trained on, however
  many members the group has; a completion's last token goes through it never, for it predicts nothing.
- A weight of a linear layer: 2 a token forward. Backward 4 where it is trained (gradient of the input and
  of the weight), 2 where it is frozen. An adapter counts in training alone: for sampling it can be merged.
  (Under an adapter nothing before the first layer is trained, so its queries, keys and values need no
  gradient of their input; they are counted like the others.)
- The head: only for tokens that predict a sampled one; the first token of a group's members is predicted
  once for all of them.
- Attention: 4 * (heads * head size) for each pair of a token and one that it looks at, forward; twice that
  backward. Windows count, and nobody looks ahead.
- Norms, activations, the softmax, embeddings and the optimizer are no matrix products and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from refine_rl.policy.fetch import is_encoder_decoder
from refine_rl.policy.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a step is to do: `prompts` groups of `members` completions, all of the same lengths."""

    prompts: int
    members: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def predicting(self) -> int:
        """Completion tokens that go through the model: all but each completion's last."""
        return self.prompts * self.members * (self.completion_tokens - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What of a model decides its operations. `body` counts the weights of all linear layers but the head
    and the adapter; `windows` has an entry a layer, 0 where attention sees everything before."""

    body: int
    head: int
    adapter: int
    trained: bool  # body and head, not only the adapter
    width: int  # heads * head size
    windows: tuple[int, ...]

    def sampling(self, load: Load) -> int:
        """Operations of sampling a step's completions."""
        through = load.prompts * load.prompt_tokens + load.predicting
        products = 2 * self.body * through + 2 * self.head * (load.prompts + load.predicting)
        return products + self._attention(load)

    def training(self, load: Load) -> int:
        """Operations of the forward and the backward pass over the same tokens."""
        through = load.prompts * load.prompt_tokens + load.predicting
        weight = 6 if self.trained else 4
        products = weight * (self.body * through + self.head * (load.prompts + load.predicting))
        return products + 6 * self.adapter * through + 3 * self._attention(load)

    def _attention(self, load: Load) -> int:
        p, c = load.prompt_tokens, load.completion_tokens
        pairs = sum(seen(0, p, w) + load.members * seen(p, c - 1, w) for w in self.windows)
        return 4 * self.width * load.prompts * pairs


def seen(first: int, count: int, window: int) -> int:
    """How many tokens those at places first ... first + count - 1 look at in all, themselves included.

    >>> seen(0, 3, 0), seen(3, 2, 0), seen(0, 3, 2)
    (6, 9, 5)
    """
    last = first + count
    full = max(first, min(last, window)) if window else last  # from here on the window is full
    return (full * (full + 1) - first * (first + 1)) // 2 + (last - full) * window


def costs(policy: Policy) -> Costs | None:
    """Of the policy's model; None for an architecture whose operations are not known here: matrices outside
    linear layers (mixtures of experts), layers without attention, encoder-decoders."""
    from transformers.pytorch_utils import Conv1D

    if is_encoder_decoder(policy.model.config):
        return None
    bare = policy.model.get_base_model() if policy.adapter else policy.model
    head = bare.get_output_embeddings()
    body = adapter = 0
    counted = set()
    for module in policy.model.modules():
        if isinstance(module, nn.Embedding):
            counted.add(module.weight)
        if isinstance(module, nn.Linear | Conv1D):
            counted.add(module.weight)
            if module is head:
                continue
            if policy.adapter and module.weight.requires_grad:
                adapter += module.weight.numel()
            else:
                body += module.weight.numel()
    others = [p for p in policy.model.parameters() if p.ndim > 1 and p not in counted]
    config = bare.config.get_text_config()
    windows = _windows(config)
    if others or head is None or windows is None:
        return None
    heads = config.num_attention_heads
    return Costs(
        body=body,
        head=head.weight.numel(),
        adapter=adapter,
        trained=not policy.adapter,
        width=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
        windows=windows,
    )


def _windows(config: Any) -> tuple[int, ...] | None:
    window = getattr(config, "sliding_window", None) or 0
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return (int(window),) * int(config.num_hidden_layers)
    known: dict[str, int] = {"full_attention": 0, "sliding_attention": int(window)}
    return tuple(known[kind] for kind in kinds) if set(kinds) <= known.keys() else None
