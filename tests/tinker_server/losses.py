"""Tinker's losses: sums over tokens, as its documentation defines them
(https://tinker-docs.thinkingmachines.ai/losses), of log-probs and what came with the row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tinker_server.lora import WrongRequestError

NEEDS = {
    "cross_entropy": ("weights",),
    "importance_sampling": ("logprobs", "advantages"),
    "ppo": ("logprobs", "advantages"),
    "cispo": ("logprobs", "advantages"),
}


def loss_of(
    kind: str, new_T: Tensor, given: Mapping[str, Tensor], config: Mapping[str, float], *, mean: bool
) -> Tensor:
    """The loss of one row. `mean` divides it by its weights, or its positions where it has none, as
    SkyRL's JAX backend does; a sum else."""
    parts_T = _per_token(kind, new_T, given, config)
    if not mean:
        return parts_T.sum()
    return parts_T.sum() / (given["weights"].sum() if "weights" in given else len(new_T))


def _per_token(kind: str, new_T: Tensor, given: Mapping[str, Tensor], config: Mapping[str, float]) -> Tensor:
    if kind == "cross_entropy":
        return -new_T * given["weights"]
    ratio_T, advantage_T = torch.exp(new_T - given["logprobs"]), given["advantages"]
    low, high = config.get("clip_low_threshold", 0.8), config.get("clip_high_threshold", 1.2)
    if kind == "importance_sampling":
        return -ratio_T * advantage_T
    if kind == "ppo":
        return -torch.minimum(ratio_T * advantage_T, ratio_T.clamp(low, high) * advantage_T)
    return -ratio_T.clamp(low, high).detach() * new_T * advantage_T  # cispo


def check(
    kind: str, rows: list[tuple[list[int], Mapping[str, Tensor]]], vocabulary: int, context: int
) -> None:
    """Refuses what a service refuses: WrongRequestError."""
    for number, (ids, given) in enumerate(rows):
        here = f"data[{number}]"
        for name in ("target_tokens", *NEEDS[kind]):
            if name not in given:
                raise WrongRequestError(f"{here}: {kind} needs loss_fn_inputs[{name!r}]")
        for name, value in given.items():
            if value.shape != (len(ids),):
                raise WrongRequestError(
                    f"{here}: {name} has the shape {list(value.shape)} for {len(ids)} tokens"
                )
            if not torch.isfinite(value.float()).all():
                raise WrongRequestError(f"{here}: {name} has a number that is not finite")
        if not ids or len(ids) > context:
            raise WrongRequestError(f"{here}: {len(ids)} tokens; the context is {context}")
        for token in (*ids, *given["target_tokens"].tolist()):
            if not 0 <= token < vocabulary:
                raise WrongRequestError(f"{here}: no token {token} among {vocabulary}")
