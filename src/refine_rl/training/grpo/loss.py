"""The losses, as pure functions: named inputs in, loss and metrics out, the denominator explicit.

All of them are one sum over sampled tokens (row b, token t),

    loss = sum_b w_b sum_t ( c_bt f_bt + beta kl_bt ),

and differ in the term f of a token (`surrogates`) and in the weight w_b of a row's tokens
(`row_weights`); c is 1, or the importance weight of a sampler that is not the trainer (`importance`).
Because the weights are known before any forward pass, the sum may be split over micro-batches of whole
rows at will without changing the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from refine_rl.training.grpo.kl import kl_terms
from refine_rl.training.grpo.replay import replayed
from refine_rl.training.grpo.surrogates import SURROGATES
from refine_rl.training.learner import LossSums


def row_weights(loss: str, lengths_B: Sequence[int], *, max_tokens: int) -> list[float]:
    """The weight of each token of a row with `lengths_B[b]` sampled tokens, B rows in the whole batch.

    - "grpo" (arXiv 2402.03300), "gspo" (2507.18071), "sapo" (2511.20347): 1 / (B * length): mean over
      a row's tokens, then over rows.
    - "dapo" (2503.14476), "cispo" (2506.13585), "dppo_tv" and "dppo_kl" (2602.04879): 1 / (all sampled
      tokens): one mean over all tokens of the step, those of rows with advantage 0 included.
    - "bnpo": the same number here. In TRL, where the name comes from, the mean is over the tokens of the
      local batch (one device's micro-batch), and then over those batches, so that the result depends on
      how the step is cut up; cut into a single batch, it is this mean.
    - "dr_grpo" (2503.20783): 1 / (B * max_tokens): a constant, so that long answers are not favoured
      when wrong.
    - "luspo" (2602.05261): 1 / B: the row's term of "gspo" times its length, so that a token's gradient does
      not depend on how long its answer is.

    >>> row_weights("grpo", [2, 4], max_tokens=8)
    [0.25, 0.125]
    >>> row_weights("dr_grpo", [2, 4], max_tokens=8)
    [0.0625, 0.0625]
    """
    B = len(lengths_B)
    if loss in ("grpo", "gspo", "sapo"):
        return [1 / (B * n) for n in lengths_B]
    if loss in ("dapo", "bnpo", "cispo", "dppo_tv", "dppo_kl"):
        return [1 / sum(lengths_B)] * B
    if loss == "dr_grpo":
        return [1 / (B * max_tokens)] * B
    if loss == "luspo":
        return [1 / B] * B
    raise ValueError(f"unknown loss {loss!r}")


def policy_loss(
    logprobs_B_T: torch.Tensor,
    old_logprobs_B_T: torch.Tensor,
    advantages_B: torch.Tensor,
    weights_B: torch.Tensor,
    mask_B_T: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    loss: str = "grpo",
    reference_B_T: torch.Tensor | None = None,
    kl: float = 0.0,
    kl_estimator: str = "k3",
    importance_B_T: torch.Tensor | None = None,
    token_advantages_B_T: torch.Tensor | None = None,
    replayed_B: torch.Tensor | None = None,
) -> LossSums:
    """The policy loss called `loss`, with beta = `kl` times the KL term where a reference is given.

    Every row has at least one sampled token and stands here with all of them. `importance_B_T` has no
    gradient, is cut already, and leaves the KL term alone. `token_advantages_B_T` (teacher.py) stand in the
    place of the rows' own. Rows of `replayed_B` have the loss of replay.py instead of this one, and no KL
    term.
    """
    surrogate = SURROGATES[loss]
    advantages = advantages_B[:, None] if token_advantages_B_T is None else token_advantages_B_T
    per_token, cut = surrogate(logprobs_B_T, old_logprobs_B_T, advantages, mask_B_T, clip_low, clip_high)
    if importance_B_T is not None:
        per_token = per_token * importance_B_T
    if reference_B_T is not None and kl > 0:
        per_token = per_token + kl * kl_terms(logprobs_B_T, reference_B_T, kl_estimator)
    if replayed_B is not None:
        again, beyond = replayed(logprobs_B_T, old_logprobs_B_T, advantages_B[:, None])
        per_token = torch.where(replayed_B[:, None], again, per_token)
        cut = torch.where(replayed_B[:, None], beyond, cut)
    weighted = torch.where(mask_B_T, per_token * weights_B[:, None], 0.0)
    return LossSums(loss=weighted.sum(), clipped_tokens=int((cut & mask_B_T).sum()))
