"""One step's update: rows in, a better policy out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from refine_rl.policy.lanes import Gradients, in_lanes, lanes_of
from refine_rl.policy.logprobs import logprobs, token_batch
from refine_rl.policy.policy import Policy
from refine_rl.randomness import torch_seed
from refine_rl.settings import Settings
from refine_rl.training import check
from refine_rl.training.grpo import importance
from refine_rl.training.grpo.kl import kl_terms
from refine_rl.training.grpo.loss import LossSums, policy_loss
from refine_rl.training.rows import MemberKey, Row, micro_batch, micro_batches, sampled_logprobs
from refine_rl.types import Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateMetrics:
    """What an update saw. None: not measurable in this step."""

    loss: float | None  # of the first optimizer step
    grad_norm: float | None  # the largest, before clipping
    clip_share: float | None
    mismatch_mean: float | None
    mismatch_max: float | None
    importance_mean: float | None = None  # of the weights before they are cut; None without a cap
    importance_max: float | None = None


_Starts = dict[int, torch.Tensor]
"""Each micro-batch's log-probs [B, T] before any weight has moved."""


def make_optimizer(policy: Policy, settings: Settings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in the order of their names."""
    parameters = [p for _, p in sorted(policy.trainable().items())]
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.grpo.weight_decay)


def learning_rate(step: int, settings: Settings) -> float:
    """Of step 1 ... steps: a linear warm-up, then constant, or linear or cosine towards 0."""
    g, peak = settings.grpo, settings.learning_rate
    if step <= g.warmup_steps:
        return peak * step / g.warmup_steps
    progress = (step - 1 - g.warmup_steps) / max(1, g.steps - g.warmup_steps)
    if g.schedule == "linear":
        return peak * (1 - progress)
    if g.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    settings: Settings,
    *,
    step: int,
    seen: torch.Tensor | None = None,
    pause: Callable[[], None] = lambda: None,
) -> UpdateMetrics:
    """Moves the policy by `grpo.updates_per_step` optimizer steps on the same rows.

    The log-probs of the rollouts stay the old ones throughout. `seen` is the comparison of sampler and
    trainer where it was made when the rows were sampled, with weights that have moved since; else it is
    made here. `pause` may raise as long as no weight has moved. Raises GuardStop on a mismatch of sampler
    and trainer, and on a loss or gradient that is not finite, before it moves a weight.
    """
    g = settings.grpo
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, settings)
    worked = [r for r in rows if r.advantage != 0 or r.reference is not None]
    lanes = 1 if settings.model.dropout > 0 else lanes_of(policy)  # dropout has one stream of randomness
    parameters = [p for _, p in sorted(policy.trainable().items())]
    if seen is None and rows and (not worked or settings.model.dropout > 0):
        # The training pass cannot give the comparison: there is none, or dropout disturbs it.
        seen = check.compare(policy, [r.trajectory for r in rows], settings, step)
    losses: list[float] = []
    norms: list[float] = []
    uncut: list[torch.Tensor] = []
    clipped = 0
    starts: _Starts = {}
    chunks = _chunks([r.trajectory for r in worked], settings, policy, lanes)
    for u in range(g.updates_per_step if worked else 0):
        optimizer.zero_grad(set_to_none=True)
        gradients = Gradients(parameters, lanes)

        def backward(
            n: int, lane: int, u: int = u, gradients: Gradients = gradients, starts: _Starts = starts
        ) -> _Part:
            if u == 0 and lane == 0:
                pause()
            some, start = [worked[i] for i in chunks[n]], starts.get(n)
            part = _forward(policy, some, settings, seed=(step, u, n), start_B_T=start)
            gradients.add(lane, part.sums.loss)
            return part.detached()

        parts = in_lanes(backward, len(chunks), lanes)
        gradients.hand_over()
        loss = sum(p.sums.loss.item() for p in parts)
        clipped += sum(p.sums.clipped_tokens for p in parts)
        differences = [p.new_minus_old.abs() for p in parts]
        if g.importance_cap is not None and u == 0:
            starts = {n: p.new_B_T for n, p in enumerate(parts)}
            uncut = [p.new_minus_old.exp() for p in parts]
        norm = float(nn.utils.clip_grad_norm_(parameters, g.max_grad_norm))
        check.require_finite(loss, norm, step)
        if seen is None:
            seen = torch.cat(differences)
            check.require_match(policy, [r.trajectory for r in worked], seen, settings, step)
        optimizer.step()
        losses.append(loss)
        norms.append(norm)
    optimizer.zero_grad(set_to_none=True)
    tokens = sum(r.trajectory.completion_tokens for r in worked) * len(losses)
    return UpdateMetrics(
        loss=losses[0] if losses else None,
        grad_norm=max(norms) if norms else None,
        clip_share=clipped / tokens if tokens else None,
        mismatch_mean=float(seen.mean()) if seen is not None else None,
        mismatch_max=float(seen.max()) if seen is not None else None,
        importance_mean=float(torch.cat(uncut).mean()) if uncut else None,
        importance_max=float(torch.cat(uncut).max()) if uncut else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What a micro-batch gave: its share of the loss, the log-probs [B, T], and new - old, [N]."""

    sums: LossSums
    new_B_T: torch.Tensor
    new_minus_old: torch.Tensor

    def detached(self) -> _Part:
        """Without the graph, which is large."""
        return replace(self, sums=replace(self.sums, loss=self.sums.loss.detach()))


def _forward(
    policy: Policy,
    rows: Sequence[Row],
    settings: Settings,
    *,
    seed: tuple[int, int, int],
    start_B_T: torch.Tensor | None,
) -> _Part:
    """The rows' share of the loss. `start_B_T`: their log-probs when the step's update began, where that
    is over."""
    g = settings.grpo
    batch = micro_batch(rows, policy.device)
    mask = batch.tokens.trainable.to(policy.device)
    with policy.dropout(settings.model.dropout, torch_seed(g.seed, "dropout", *seed)):
        new = logprobs(policy, batch.tokens, temperature=settings.rollout.temperature)
        old, weights = batch.old_B_T, None
        if g.importance_cap is not None:
            old = new.detach() if start_B_T is None else start_B_T
            weights = importance.weights(old, batch.old_B_T).clamp(max=g.importance_cap)
        sums = policy_loss(
            new,
            old,
            batch.advantages_B,
            batch.weights_B,
            mask,
            loss=g.loss,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            reference_B_T=batch.reference_B_T,
            kl=g.kl,
            kl_estimator=g.kl_estimator,
            importance_B_T=weights,
        )
    return _Part(sums=sums, new_B_T=new.detach(), new_minus_old=(new.detach() - batch.old_B_T)[mask])


def _chunks(
    trajectories: Sequence[Trajectory], settings: Settings, policy: Policy, lanes: int
) -> list[list[int]]:
    tokens = settings.grpo.tokens_per_micro_batch // lanes  # the lanes' micro-batches are in memory at once
    return list(micro_batches(trajectories, tokens, packed=policy.fast is not None))


def reference_logprobs(
    policy: Policy, trajectories: Sequence[Trajectory], settings: Settings
) -> dict[MemberKey, tuple[float, ...]]:
    """The reference's log-probs of each trajectory's sampled tokens."""
    found: dict[MemberKey, tuple[float, ...]] = {}
    with torch.no_grad(), policy.reference() as reference:
        lanes = lanes_of(reference)
        chunks = _chunks(trajectories, settings, reference, lanes)

        def work(n: int, lane: int) -> None:
            some = [trajectories[i] for i in chunks[n]]
            batch = token_batch(some)
            values = logprobs(reference, batch, temperature=settings.rollout.temperature).cpu()
            for row, t in enumerate(some):
                found[t.prompt_id, t.member] = tuple(values[row][batch.trainable[row]].tolist())

        in_lanes(work, len(chunks), lanes)
    return found


def kl_per_token(
    trajectories: Sequence[Trajectory], references: Mapping[MemberKey, tuple[float, ...]], estimator: str
) -> list[torch.Tensor]:
    """For each trajectory the KL estimates of its sampled tokens, [n], from the sampler's log-probs."""
    return [
        kl_terms(
            torch.tensor(sampled_logprobs(t)), torch.tensor(references[t.prompt_id, t.member]), estimator
        )
        for t in trajectories
    ]
