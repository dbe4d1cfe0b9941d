"""[grpo]: the update."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from refine_rl.settings.base import AtOnce, Positive, Section, tokens_at_once

MASKS = ("dppo_tv", "dppo_kl")
"""Losses whose trust region is drawn around the policy that sampled."""


class GRPOSettings(Section):
    """[grpo]: the update."""

    steps: Positive = 100
    """Rounds of sampling, scoring and updating."""
    prompts_per_step: Positive = 8
    """Prompts a step; each gets rollout.group_size completions."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Without it: 1e-4 for LoRA, 1e-5 for full fine-tuning; for "tiny" 1e-3 and 3e-4."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up; "linear" and "cosine" end at 0."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Larger gradients are scaled down to this norm."""
    loss: Literal[
        "grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "luspo", "dppo_tv", "dppo_kl"
    ] = "grpo"
    """"grpo": tokens averaged over each completion, then over completions (arXiv 2402.03300); "dapo": over
    all tokens of the step (2503.14476); "bnpo": as "dapo", with the clip of "grpo"; "dr_grpo": sum over a
    constant length (2503.20783); "gspo": one ratio a completion (2507.18071); "cispo": the clip bounds a
    token's weight (2506.13585); "sapo": a soft gate for the clip (2511.20347); "luspo": "gspo" times the
    completion's length (2602.05261); "dppo_tv", "dppo_kl": a mask by how much probability moved, in place of
    the clip (2602.04879). See docs/algorithms.md."""
    advantage: Literal["zscore", "mean", "rloo", "gdpo", "maxrl"] = "zscore"
    """"zscore": (R - mean) / (std + epsilon); "mean": R - mean; "rloo": R - mean of the others; "gdpo":
    z-score of each component, then the weighted sum, then normalised over the batch; "maxrl": (R - mean) /
    (mean + epsilon), for rewards of 0 and more: hard prompts weigh more (2602.02710)."""
    flat: Literal["keep", "drop", "sign", "steps"] | None = None
    """A group whose rewards are all equal: "keep": it counts in the loss's denominators, with advantage 0;
    "drop": it does not count (AGPO, arXiv 2503.15952 v3; DAPO); "sign": advantage 1 where its reward reaches
    grpo.solved, else -1 (AGPO v1); "steps": where its reward is below grpo.solved, the steps of its answers
    are graded by [reward.steps], and tell them apart (SGPO, 2505.11595). Without it: "drop" with
    grpo.resample, else "keep"."""
    solved: float | None = None
    """With flat = "sign" or "steps", and needed there: the reward from which a group of equal rewards is
    solved."""
    resample: Annotated[int, Field(ge=0)] = 0
    """DAPO (2503.14476): at most this many groups of other prompts are sampled in a step in place of groups
    whose rewards are all equal. Not with rollout.ahead or flat = "steps"."""
    deviation: Literal["sample", "population"] = "sample"
    """Standard deviation with denominator G - 1 or G."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-4
    """Added to the standard deviation; with "maxrl" to the mean."""
    clip_low: Annotated[float, Field(gt=0, le=1)] | None = None
    """The ratio of new to old probability is clipped below 1 - clip_low ... Without it: 0.2; 0.0003 for
    "gspo" and "luspo", 1 (nothing is clipped) for "cispo". "sapo" has no clip. With "dppo_tv" and "dppo_kl"
    it is the divergence (0.15 and 0.05) beyond which a token that got rarer is left alone ..."""
    clip_high: Annotated[float, Field(gt=0)] | None = None
    """... and above 1 + clip_high. Without it: 0.28 for "dapo", 0.0004 for "gspo" and "luspo", 4 for
    "cispo", else clip_low. With "dppo_tv" and "dppo_kl": ... or one that got more frequent."""
    importance_cap: Annotated[float, Field(gt=0)] | None = None
    """With it, each token weighs min(p / q, importance_cap), p its probability for the trainer before the
    step's updates and q for the sampler, and the ratio is of new to p: for a sampler that is not the trainer,
    or lags. Without it, q is the old probability. Not with model.dropout, nor with "dppo_tv" and
    "dppo_kl", whose mask bounds the distance to the sampler itself. Where a server samples (engine.kind =
    "vllm" or "tinker") it is 2 if nothing else is said."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of the KL term. At 0 the KL is still measured, on a few completions a step."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """Nats a token. With it, grpo.kl is where the coefficient starts; after a step whose KL was above (below)
    the target it grows (shrinks) by up to 2 % (arXiv 1909.08593). Without it, it is fixed."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """With d = log pi_ref - log pi: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. In the loss the gradient
    of k1 is 0 on average: use it in the reward."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL term goes: added to the loss, or taken from the reward before the advantage."""
    thrifty: bool = False
    """More from each scored group: minibatches = 4, updates_per_step = 4, kl_stop = 0.03, replay = 2
    and schedule = "linear", each only where it is not set and can be. What it came to stands in
    the run's config.toml; what it gave on six tasks, and where it did not, in docs/algorithms.md."""
    updates_per_step: Positive = 1
    """Passes through a step's answers, each of one optimizer step for each of grpo.minibatches; the log-probs
    before the first stay the old ones. With grpo.kl_stop, at most so many."""
    minibatches: Positive = 1
    """A step's groups are shuffled, by the seed, into so many parts of about the same size, with an optimizer
    step each; the loss's denominators are of the part. More steps for the same answers and scores. The
    learning rate and its schedule are of grpo.steps as ever: each of them takes the step's rate."""
    kl_stop: Annotated[float, Field(gt=0)] | None = None
    """Before each optimizer step but the first: how far the policy has moved from the one that sampled, in
    nats a token (e^d - 1 - d, d = log pi - log mu, averaged over the tokens at hand). Above this the step is
    over; what the last optimizer step did is not undone. 0.03 suits policies of some tenths of a nat of
    entropy a token, a peaked one wants less. Not with model.dropout."""
    replay: Annotated[int, Field(ge=0)] = 0
    """Answers of the last so many steps that were better than their group (advantage above 0) are learned
    from once more, each token weighed by min(p / q, 2), p its probability now and q when it was sampled."""
    oversample: Annotated[float, Field(ge=1, le=16)] = 1.0
    """Answers are sampled for so many times grpo.prompts_per_step prompts (never two groups of one prompt),
    and the prompts_per_step groups whose answers differ most are scored; fewer where the others are of one
    text. Saves a judge's calls, costs sampling. Not with grpo.resample or rollout.early_exit."""
    tokens_per_micro_batch: AtOnce = "auto"
    """Tokens that go through the model at once (a prompt once for all its completions), in all micro-batches
    that a processor works side by side; a group is cut only behind as many tokens as its prompt has. The
    result does not depend on it but for rounding. "auto": 2,048 on a processor; on a GPU as many as its
    free memory holds by the high figure of `refine plan`, up to 32,768. What was found stands in the run's
    config.toml, and stays when the run is resumed."""
    validate_every: Annotated[int, Field(ge=0)] = 10
    """Steps between scorings of the validation prompts; 0: never (the last checkpoint is used)."""
    checkpoint_every: Positive = 10
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 3
    """The newest ones; the best on validation is kept beside them, always."""
    zero_variance_patience: Positive = 10
    """The run stops after this many steps in which no group had any spread."""
    all_cut_patience: Positive = 1
    """The run stops after this many steps in which every completion was cut at rollout.max_tokens."""
    mismatch_tolerance: Annotated[float, Field(gt=0)] | None = None
    """Allowed mean |trainer - sampler| log-prob; without it, derived from the number format and the model's
    size."""
    seed: Annotated[int, Field(ge=0)] = 0
    """All randomness of the run follows from it."""

    def candidates(self, prompts: int) -> int:
        """Of so many training prompts, how many a step samples.

        >>> GRPOSettings(prompts_per_step=8, oversample=1.5).candidates(100), GRPOSettings().candidates(100)
        (12, 8)
        """
        wanted = math.ceil(round(self.prompts_per_step * self.oversample, 9))
        return min(wanted, max(prompts, self.prompts_per_step))

    @property
    def at_once(self) -> int:
        """tokens_per_micro_batch in force, as long as no card was asked."""
        return tokens_at_once(self.tokens_per_micro_batch)
