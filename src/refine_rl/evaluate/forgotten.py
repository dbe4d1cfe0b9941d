"""What is said of what training changed outside of its task."""

from __future__ import annotations

from refine_rl.types import Comparison, decimals

LARGE_KL = 0.1
"""Nats a token outside of the task, from which on a word is said."""
LARGE_RISE = 1.1
"""Of the perplexity of neutral texts."""


def told(c: Comparison) -> str:
    """What was measured, in a sentence; "" where nothing was."""
    f = c.forgetting
    if f is None:
        return ""
    low, high = f.kl.ci95
    stayed, ended, tokens = f.same, f.ended, f.tokens
    return (
        f"Outside of the task: perplexity of {f.texts} neutral texts {decimals(f.perplexity.base.mean)} -> "
        f"{decimals(f.perplexity.tuned.mean)}; of {f.instructions} general instructions {stayed.mean:.0%} "
        f"are answered as before, {ended.base.mean:.0%} -> {ended.tuned.mean:.0%} of the answers end, with "
        f"{decimals(tokens.base.mean)} -> {decimals(tokens.tuned.mean)} tokens; KL from base "
        f"{decimals(f.kl.mean)} nats a token ({decimals(low)} to {decimals(high)})."
    )


def large(c: Comparison) -> str:
    """A word where it is surely large; "" else."""
    f = c.forgetting
    if f is None:
        return ""
    rose = f.perplexity.difference.ci95[0] > (LARGE_RISE - 1) * f.perplexity.base.mean
    if f.kl.ci95[0] <= LARGE_KL and not rose:
        return ""
    return (
        "The tuned model changed outside of its task, too, and may have forgotten what it could. Less of it: "
        "fewer steps, a lower learning rate, or a pull to the start (grpo.kl)."
    )
