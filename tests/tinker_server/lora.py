"""What a Tinker service computes: a frozen base model, LoRA adapters of it, their gradients, and samples.

The adapter is added to the weights, W + alpha / rank * B A, and the model is called with the sums: the
same function as peft's layers, of which this is an independent twin. float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ALPHA = 32  # Tinker's, whatever the rank
LAYERS = {
    "train_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "train_mlp": ("gate_proj", "up_proj", "down_proj"),
    "train_unembed": ("lm_head",),
}
AT_ONCE = 16  # rows in one call of the model


class WrongRequestError(Exception):
    """The client's own fault: the promise ends with this text, category "user"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One completion: its tokens (the stop token with them), their log-probs at temperature 1."""

    tokens: list[int]
    logprobs: list[float]
    stopped: bool


class Base:
    """The frozen model of a folder."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.folder = folder
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval().requires_grad_(False)
        end = model.generation_config.eos_token_id
        self.stops = frozenset([end] if isinstance(end, int) else end or [])
        self.context = int(model.config.max_position_embeddings)
        self.vocabulary = int(model.config.vocab_size)

    def layers(self, parts: Iterable[str]) -> dict[str, Tensor]:
        """The weights [out, in] that `parts` (keys of LAYERS) name, by the module's name."""
        names = {name for part in parts for name in LAYERS[part]}
        linear = {n: m.weight for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)}
        return {name: weight for name, weight in linear.items() if name.rsplit(".", 1)[-1] in names}

    def call(self, ids_B_T: Tensor, weights: Mapping[str, Tensor], **more: Any) -> Any:
        """The model's output, with `weights` in place of its own of these names."""
        # Untied: an adapter of the head does not move the embeddings that share its weight.
        return torch.func.functional_call(self.model, dict(weights), (ids_B_T,), more, tie_weights=False)

    def logprobs(
        self, rows: Sequence[tuple[Sequence[int], Tensor]], weights: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """log p(target) at every position of each row of (ids, targets); one [T] a row."""
        out: list[Tensor] = []
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            ids_B_T = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(ids) for ids, _ in some], batch_first=True
            )
            logits_B_T_V = self.call(ids_B_T, weights, use_cache=False).logits.float()
            for logits_T_V, (ids, target_T) in zip(logits_B_T_V, some, strict=True):
                all_T_V = logits_T_V[: len(ids)].log_softmax(-1)
                out.append(all_T_V.gather(-1, target_T[:, None])[:, 0])
        return out

    @torch.no_grad()
    def sample(
        self,
        ids: Sequence[int],
        number: int,
        weights: Mapping[str, Tensor],
        *,
        max_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        stops: frozenset[int],
        seed: int,
    ) -> list[Sampled]:
        """`number` completions of one prompt. As vLLM does it, the seed of the i-th is `seed + i`, so two
        prompts whose seeds are closer than `number` share draws."""
        from transformers import DynamicCache

        draws = [torch.Generator().manual_seed((seed + i) % 2**63) for i in range(number)]
        tokens: list[list[int]] = [[] for _ in draws]
        logprobs: list[list[float]] = [[] for _ in draws]
        ended = [False] * number
        cache, next_B_T = DynamicCache(), torch.tensor([list(ids)] * number)
        for _ in range(max_tokens):
            logits_B_V = (
                self.call(next_B_T, weights, past_key_values=cache, use_cache=True).logits[:, -1].float()
            )
            all_B_V = logits_B_V.log_softmax(-1)
            for i, draw in enumerate(draws):
                if not ended[i]:
                    token = _draw(logits_B_V[i], temperature, top_k, top_p, draw)
                    tokens[i].append(token)
                    logprobs[i].append(float(all_B_V[i, token]))
                    ended[i] = token in stops
            if all(ended):
                break
            next_B_T = torch.tensor([[row[-1]] for row in tokens])
        return [
            Sampled(tokens=t, logprobs=p, stopped=e) for t, p, e in zip(tokens, logprobs, ended, strict=True)
        ]


def _draw(logits_V: Tensor, temperature: float, top_k: int, top_p: float, draw: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    probs_V = (logits_V / temperature).softmax(-1)
    if top_k > 0:
        probs_V = probs_V.where(probs_V >= probs_V.topk(min(top_k, len(probs_V))).values[-1], 0)
    if top_p < 1:
        sorted_V, order_V = probs_V.sort(descending=True)
        keep_V = sorted_V.cumsum(0) - sorted_V < top_p * probs_V.sum()
        probs_V = torch.zeros_like(probs_V).scatter(0, order_V, sorted_V.where(keep_V, 0))
    return int(torch.multinomial(probs_V, 1, generator=draw))


class Adapter:
    """A LoRA adapter that is trained, and its AdamW."""

    def __init__(self, base: Base, *, rank: int, parts: Sequence[str], seed: int) -> None:
        """Begins at no change: A as torch.nn.Linear's weights, by `seed`, B zero."""
        self.base, self.rank, self.parts = base, rank, tuple(parts)
        self.over = base.layers(parts)
        if not self.over:
            raise WrongRequestError(f"the model has no layers for {', '.join(parts)}")
        draw = torch.Generator().manual_seed(seed)
        self.parameters: dict[str, Tensor] = {}
        for name, weight in self.over.items():
            a = torch.empty(rank, weight.shape[1])
            torch.nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=draw)
            self.parameters[key(name, "A")] = a.requires_grad_(True)
            self.parameters[key(name, "B")] = torch.zeros(weight.shape[0], rank, requires_grad=True)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.0, weight_decay=0.0)

    def weights(self) -> dict[str, Tensor]:
        return added(self.over, self.parameters, self.rank)

    def state(self) -> dict[str, Tensor]:
        """A copy of all A and B, by peft's names."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def gradients(self) -> dict[str, Tensor]:
        """What was accumulated since the last step, by peft's names."""
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in self.parameters.items()
        }

    @torch.no_grad()
    def put(self, state: Mapping[str, Tensor]) -> None:
        if state.keys() != self.parameters.keys():
            raise WrongRequestError("the weights are those of another model")
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])

    def step(self, params: Mapping[str, float], *, clips: bool) -> float:
        """AdamW on what was accumulated, which is forgotten; the gradient's norm before clipping."""
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        most = params["grad_clip_norm"] if clips and params["grad_clip_norm"] > 0 else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), most))
        for group in self.optimizer.param_groups:
            group.update(
                lr=params["learning_rate"],
                betas=(params["beta1"], params["beta2"]),
                eps=params["eps"],
                weight_decay=params["weight_decay"],
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def key(layer: str, which: str) -> str:
    """The name that peft gives to a layer's A or B in an adapter's file."""
    return f"base_model.model.{layer}.lora_{which}.weight"


def added(over: Mapping[str, Tensor], state: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The weights of the layers with the adapter in them."""
    scale = ALPHA / rank
    return {
        f"{name}.weight": weight + scale * state[key(name, "B")] @ state[key(name, "A")]
        for name, weight in over.items()
    }
