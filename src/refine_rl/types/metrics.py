"""What a step of training tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """One line of metrics.jsonl. Shares are in [0, 1], times in seconds, tokens sampled ones.

    A quantity that could not be computed in this step is None, never 0.
    """

    step: int
    reward_mean: float | None  # over members that have a score
    reward_std: float | None  # mean over groups of the population standard deviation in the group
    components: Mapping[str, float]
    groups: int
    groups_zero_variance: int
    groups_missing: int  # groups that lost at least one member to a missing score
    tokens_mean: float
    clipped_share: float  # completions cut at max_tokens
    loss: float | None
    kl: float | None
    entropy: float | None  # nats a token, estimated from the sampled tokens' own log-probs
    grad_norm: float | None  # before clipping
    learning_rate: float
    seconds: Mapping[str, float]  # sample, score, train, total
    tokens_per_second: float
    cost_usd: float | None
    clip_share: float | None = None  # tokens whose ratio lay outside the clip range
    mismatch_mean: float | None = None  # |log-prob of the trainer - of the sampler|, nats a token
    mismatch_max: float | None = None
    members_missing: int = 0
    kl_coefficient: float | None = None  # in force in this step
    importance_mean: float | None = None  # importance weights before they are cut; None without a cap
    importance_max: float | None = None
    groups_by_steps: int = 0  # of those without variance: told apart by the steps of their answers
    distinct_share: float | None = None  # completions whose text no other prompt of the step got
    openings: Mapping[str, float] = field(default_factory=dict)  # met under several prompts; share of all
    kept_share: float | None = None  # of the prompts' content words that completions keep
    by_length: float | None = None  # how far rewards follow from lengths alone (Content)
    turns_mean: float | None = None  # of trajectories in an environment; None without one
    ends: Mapping[str, float] = field(default_factory=dict)  # shares of these: "done", "limit", "failed"
    updates: int | None = None  # optimizer steps, where there may be fewer than the settings say
    moved_kl: float | None = None  # nats a token from the sampler, before the last one or that left out
    replayed: int | None = None  # answers of earlier steps that were learned from again
    teacher_kl: float | None = None  # nats a token, of the policy to its teacher; before the update
    groups_sampled: int | None = None  # from which `groups` were chosen to be scored
    groups_alike: int | None = None  # of these, those whose answers were one text
    facets_sampled: Mapping[str, int] = field(default_factory=dict)  # "facet = value" -> groups of it
    facets_scored: Mapping[str, int] = field(default_factory=dict)  # of these, those that were scored


@dataclass(frozen=True, kw_only=True, slots=True)
class SFTMetrics:
    """One line of metrics.jsonl of supervised fine-tuning. Losses are nats a token of the answers."""

    step: int
    loss: float
    validation_loss: float | None  # of the weights after this step; None where nobody looked
    tokens: int  # that went through the model, prompts included
    targets: int  # of these, tokens of answers
    rows: int
    epoch: float  # passes through the data behind this step
    learning_rate: float
    grad_norm: float | None  # before clipping; None where whoever computes it does not say
    seconds: Mapping[str, float]  # train, total


Metrics = StepMetrics | SFTMetrics
"""What a step of either kind of training tells."""
