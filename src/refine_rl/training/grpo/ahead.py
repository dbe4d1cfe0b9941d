"""Which weights sample which step.

With `rollout.ahead` the answers of step s + 1 are sampled while those of step s are being judged: with
the weights before update s, one update older than they would be otherwise. The loss takes the sampler's
own log-probs as the old ones, so its ratio and clipping account for that update. Checkpoints and
validations are barriers: what follows them is sampled with the newest weights, so that a checkpoint is
the whole state of a run. All of this is a function of the step and the settings; nothing depends on how
fast a judge is.
"""

from __future__ import annotations

from refine_rl.settings import Settings


def sampled_after(step: int, settings: Settings) -> int:
    """The number of updates behind the weights that sample `step` (1, 2 ...).

    >>> from refine_rl.settings import GRPOSettings, RolloutSettings
    >>> settings = Settings(task="x", rollout=RolloutSettings(ahead=1),
    ...                     grpo=GRPOSettings(checkpoint_every=3, validate_every=0))
    >>> [sampled_after(step, settings) for step in (1, 2, 3, 4, 5)]
    [0, 0, 1, 3, 3]
    """
    before = step - 1
    return before if not settings.ahead or _is_barrier(before, settings) else before - 1


def _is_barrier(step: int, settings: Settings) -> bool:
    g = settings.grpo
    return step % g.checkpoint_every == 0 or (g.validate_every > 0 and step % g.validate_every == 0)
