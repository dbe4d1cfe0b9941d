"""What a service does that no answer of it tells, tried at the start on an adapter that is thrown away.

- How far apart its sampler and its trainer are with the same weights: numbers of other kernels and formats.
  It is the measure for every step's check.
- Whether it adds up the tokens and rows of a loss, or takes means: twice the rows give twice the gradient, or
  the same. (Where it says the gradient's norm.)
- Whether it clips the gradient: a step with a gradient clipped to nothing moves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from refine_rl.engines.tinker.bill import Use
from refine_rl.engines.tinker.datums import datums
from refine_rl.engines.tinker.speaker import TinkerPolicy
from refine_rl.engines.tinker.weights import LOSS, Adapter, Slopes
from refine_rl.errors import GuardStop, SettingsError
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.policy.tokens import TokenBatch, token_batch
from refine_rl.progress import never
from refine_rl.training.learner import LearnerConfig
from refine_rl.training.rows import sampled_logprobs
from refine_rl.types import Prompt

TOKENS, ANSWERS = 24, 4
ASKED = Prompt(id="trial", split="train", messages=({"role": "user", "content": "Describe the sea."},))
LEAST, MOST = 1e-4, 0.05
"""Bounds of what is let pass between sampler and trainer: differences of a service in float32 vary by more
than their measure on a few tokens shows; and above the other, rollouts are another policy's."""
MARGIN = 8.0
"""How many times the difference that was measured is let pass later, on other tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """`apart` is what the check of each step lets pass, in nats a token."""

    apart: float
    notes: tuple[str, ...]


def tried(policy: TinkerPolicy, weights: Adapter, config: LearnerConfig) -> Trial:
    """Tries an adapter, and spoils it. Raises GuardStop where sampler and trainer are not the same model, and
    SettingsError where engine.reduction is not what the service does."""
    members = begun(policy.encode(ASKED.messages), ASKED, ANSWERS)
    sampling = Sampling(max_tokens=TOKENS)
    purpose = Purpose(seed=0, step=0, name="trial")
    ((_, group),) = policy.speak([members], sampling=sampling, purpose=purpose)
    batch = token_batch(group)
    now = weights.logprobs(batch, never)
    drawn = torch.tensor([x for t in group for x in sampled_logprobs(t)])
    found = float((now[batch.sampled] - drawn).abs().mean())
    limit = MOST if config.allowed is None else config.allowed
    if not found <= limit:
        raise GuardStop(
            "mismatch",
            f"The sampler and the trainer of {policy.service.address.url} disagree by {found:.4f} nats a "
            f"token with the same, untrained weights (allowed: {limit:g}).",
            "They are not the same model, or tokens go through text on the way. Nothing was trained. If it "
            "is rounding, grpo.mismatch_tolerance lets it pass.",
            limit=2 * found,
        )
    apart = min(max(MARGIN * found, LEAST), MOST)
    notes = [f"sampler and trainer of the service are {found:.1e} nats a token apart with the same weights"]
    # Before anything else moves: the optimizer remembers earlier gradients.
    if config.max_grad_norm and not _clips(weights, batch, now, apart):
        notes.append(
            "the service ignores the bound on the gradient's norm (max_grad_norm): outliers among the steps "
            "are as large as they come; a lower learning rate helps"
        )
    _require_reduction(weights, batch, now)
    return Trial(apart=apart, notes=tuple(notes))


def _slopes(batch: TokenBatch) -> torch.Tensor:
    """Of a loss that likes half of the rows and dislikes the others, [B, T]."""
    signs = torch.tensor([1.0 if row % 2 else -1.0 for row in range(len(batch.lengths))])
    return batch.sampled * signs[:, None] / batch.sampled.sum()


def _require_reduction(weights: Adapter, batch: TokenBatch, now: torch.Tensor) -> None:
    norms = [_norm(weights, batch, now, times) for times in (1, 2)]
    if norms[0] is None or norms[1] is None or not norms[0] > 0:
        return
    taken = "sum" if norms[1] / norms[0] > 1.5 else "mean"
    if taken != weights.reduction:
        raise SettingsError(
            f"engine.reduction = {weights.reduction!r}, and {weights.service.address.url} takes the {taken} "
            f"of the rows of a loss: the same rows twice give {norms[1] / norms[0]:.2f} times the gradient. "
            f'Set engine.reduction = "{taken}".'
        )


def _norm(weights: Adapter, batch: TokenBatch, now: torch.Tensor, times: int) -> float | None:
    """The norm of the gradient of the rows, `times` over, in one request; no weight moves."""
    data = datums(batch, now, -_slopes(batch)) * times
    service, line = weights.service, weights.service.bill.begin("trial")
    asked = service.ask(weights.trainer().forward_backward(data, LOSS), "Trying a gradient", line)
    service.billed(asked, Use(train=times * sum(batch.lengths)))
    return weights.step(rate=0.0, weight_decay=0.0, max_norm=0.0)


def _clips(weights: Adapter, batch: TokenBatch, now: torch.Tensor, apart: float) -> bool:
    """Whether a gradient that is clipped to next to nothing moves next to nothing: below the eps of AdamW,
    which would make any other gradient a step of the learning rate's size."""
    weights.gradient([Slopes(batch=batch, now_B_T=now, slopes_B_T=_slopes(batch))], never)
    weights.step(rate=1e-2, weight_decay=0.0, max_norm=1e-12)
    after = weights.logprobs(batch, never)
    return float((after - now)[batch.sampled].abs().mean()) <= apart
