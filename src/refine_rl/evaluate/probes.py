"""What training changed outside of its task: forgetting.

A model is looked at before and after training, on what has nothing to do with the task: how likely it finds
plain texts (`texts/neutral.txt`, written for this), and how it answers general instructions
(`texts/instructions.txt`) greedily. How far it moved is the KL divergence from base to tuned, which goes
with what is forgotten (Shenfeld, Pari and Agrawal 2025, "RL's Razor"): log pi_base - log pi_tuned of the
tokens that base sampled for the same instructions, a mean over tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from refine_rl.evaluate.answer import answer
from refine_rl.evaluate.metrics.likelihood import Loss, reference_losses
from refine_rl.evaluate.metrics.resample import Resampled, Rows, as_rows, mean, resample
from refine_rl.evaluate.stats import mean_ci
from refine_rl.policy.protocol import Purpose, Speaker
from refine_rl.policy.tokens import token_batch
from refine_rl.progress import Pause, never
from refine_rl.types import Contrast, Forgetting, Prompt, Segment, Trajectory

MOST_TOKENS = 64  # of an answer
_TEXTS = Path(__file__).with_name("texts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """A sampled answer of base: the tokens of the instruction, those of the answer, and their log-probs."""

    asked: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What a model did: the loss of each neutral text (nats, tokens), the greedy answer to each instruction
    with its length in tokens and whether it came to an end, and the answers that base sampled, each with
    this model's nats over its tokens less base's."""

    losses: tuple[Loss | None, ...]
    greedy: tuple[tuple[str, int, bool], ...]
    sampled: tuple[Sampled, ...]
    moved: tuple[float, ...]


def neutral() -> list[str]:
    return (_TEXTS / "neutral.txt").read_text(encoding="utf-8").splitlines()


def instructions() -> list[Prompt]:
    lines = (_TEXTS / "instructions.txt").read_text(encoding="utf-8").splitlines()
    return [_prompt(f"probe{number:02d}", line) for number, line in enumerate(lines)]


def _prompt(name: str, text: str) -> Prompt:
    return Prompt(id=name, split="held_out", messages=({"role": "user", "content": text},))


def probe(speaker: Speaker, *, seed: int, base: Probed | None = None, pause: Pause = never) -> Probed:
    """What a model does; `base` is what it did before training, None where this is before."""
    texts, asked = neutral(), instructions()
    about = [_prompt(f"text{number:02d}", "Write a few plain sentences.") for number in range(len(texts))]
    answers = answer(
        speaker,
        asked,
        samples=1,
        max_tokens=MOST_TOKENS,
        purpose=Purpose(seed=seed, step=0, name="probes"),
        pause=pause,
    )
    sampled = tuple(_sampled(a.sampled[0]) for a in answers) if base is None else base.sampled
    return Probed(
        losses=tuple(reference_losses(speaker, about, texts, pause)),
        greedy=tuple(
            (a.greedy.said, sum(len(s.logprobs) for s in a.greedy.segments), a.greedy.stop_reason == "stop")
            for a in answers
        ),
        sampled=sampled,
        moved=tuple(0.0 if base is None else _moved(speaker, one) for one in sampled),
    )


def _sampled(t: Trajectory) -> Sampled:
    own = [s for s in t.segments if s.trainable]
    return Sampled(
        asked=t.segments[0].token_ids,
        tokens=tuple(i for s in own for i in s.token_ids),
        logprobs=tuple(x for s in own for x in s.logprobs),
    )


def _moved(speaker: Speaker, one: Sampled) -> float:
    """log pi_base - log pi of an answer that base sampled, summed over its tokens."""
    segments = (
        Segment(token_ids=one.asked, trainable=False),
        Segment(token_ids=one.tokens, trainable=True, logprobs=one.logprobs),
    )
    row = Trajectory(prompt_id="", member=0, messages=(), segments=segments, stop_reason="stop")
    with torch.no_grad():
        now = speaker.logprobs(token_batch([row]), temperature=1.0).double().sum()
    return math.fsum(one.logprobs) - float(now)


def forgetting(base: Probed, tuned: Probed, *, resamples: int, seed: int) -> Forgetting | None:
    """Both beside one another; None where no neutral text has a likelihood."""
    sides = {"base": base, "tuned": tuned}
    rows = {name: _rows([loss or (math.nan, 1) for loss in side.losses]) for name, side in sides.items()}
    texts = resample(rows, _perplexity, resamples=resamples, seed=seed)
    moved = [(nats, len(one.tokens)) for nats, one in zip(tuned.moved, tuned.sampled, strict=True)]
    apart = resample({"kl": _rows(moved)}, mean, resamples=resamples, seed=seed)
    if texts is None or apart is None:
        return None
    same = [float(b[0] == t[0]) for b, t in zip(base.greedy, tuned.greedy, strict=True)]

    def of(place: int) -> Contrast:
        columns = {n: as_rows([float(one[place]) for one in side.greedy]) for n, side in sides.items()}
        found = resample(columns, mean, resamples=resamples, seed=seed)
        assert found is not None  # there are instructions
        return _contrast(found)

    return Forgetting(
        texts=texts.prompts,
        instructions=len(same),
        perplexity=_contrast(texts),
        kl=apart.estimate("kl"),
        same=mean_ci(same, resamples=resamples, seed=seed),
        tokens=of(1),
        ended=of(2),
    )


def _rows(pairs: Sequence[tuple[float, int]]) -> Rows:
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def _perplexity(sums: Rows) -> Rows:
    found: Rows = np.exp(sums[..., 0] / sums[..., 1])
    return found


def _contrast(found: Resampled) -> Contrast:
    return Contrast(
        base=found.estimate("base"), tuned=found.estimate("tuned"), difference=found.minus("tuned", "base")
    )
