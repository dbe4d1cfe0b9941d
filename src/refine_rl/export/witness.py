"""What the tuned model says to a few prompts, and how likely it found that: an export has to say it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from refine_rl.policy.draw import Sampling
from refine_rl.policy.encoder_decoder import EncoderDecoder
from refine_rl.policy.policy import Policy
from refine_rl.policy.protocol import Purpose, begun
from refine_rl.policy.tokens import token_batch
from refine_rl.types import Message, Prompt

PROMPTS = 4
"""So many are asked."""
TOKENS = 48
"""An answer is cut here, or earlier, where the run cuts it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """The most likely answer to a prompt: its tokens (with the one that ends it, unless it was cut) and their
    log-probs, those of the model before training too."""

    messages: tuple[Message, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    text: str
    ended: bool
    logprobs: tuple[float, ...]
    untrained: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """What was said, and what is needed to compare it. `texts` is the policy without its weights; `exact` and
    `rounded` are the mean differences of log-probs that rounding may leave in the policy's own products and
    in bfloat16; `start` the tokens with which a decoder that listens begins; `left_out` how many prompts were
    passed over, as their words hold control tokens, which a plain tokenizer does not keep apart."""

    said: tuple[Said, ...]
    texts: Policy
    stop_ids: frozenset[int]
    max_tokens: int
    exact: float
    rounded: float
    start: tuple[int, ...]
    bits: int
    left_out: int

    @property
    def tokens(self) -> int:
        return sum(len(s.answer) for s in self.said)

    @property
    def moved(self) -> float:
        """How far training moved the log-prob of a token of these answers, in nats, on average."""
        return mean_apart([(s.logprobs, s.untrained) for s in self.said])


def mean_apart(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """
    >>> mean_apart([((-1.0, -2.0), (-1.5, -2.0)), ((-1.0,), (-2.0,))])
    0.5
    """
    found = [abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)]
    return sum(found) / max(1, len(found))


@torch.no_grad()
def hear(policy: Policy, prompts: Sequence[Prompt], max_tokens: int, bits: int = 0) -> Witness:
    """Asks the policy the first of these prompts whose words hold no control tokens. `bits`: of its base's
    weights, where they are packed."""
    plain = [p for p in prompts if not policy.control.held(p.messages)]
    chosen = plain[:PROMPTS]
    ids = [policy.encode(p.messages) for p in chosen]
    room = min((policy.answer_room(len(i)) for i in ids), default=0)
    limit = max(1, min(max_tokens, TOKENS, room))
    if policy.moving:
        policy.hold_still(max(map(len, ids), default=0) + limit)
    groups = [begun(i, p, 1) for i, p in zip(ids, chosen, strict=True)]
    sampling, purpose = Sampling(max_tokens=limit, temperature=0.0), Purpose(seed=0, step=0, name="export")
    answered = dict(policy.speak(groups, sampling=sampling, purpose=purpose))
    said = []
    for place, (asked, prompt) in enumerate(zip(chosen, ids, strict=True)):
        (found,) = answered[place]
        answer = tuple(t for s in found.segments[1:] for t in s.token_ids)
        batch = token_batch([found])
        tuned = policy.logprobs(batch)[0, len(prompt) :].tolist()
        with policy.reference() as before:
            untrained = before.logprobs(batch)[0, len(prompt) :].tolist()
        said.append(
            Said(
                messages=asked.messages,
                prompt=prompt,
                answer=answer,
                text=policy.decode(answer),
                ended=found.stop_reason == "stop",
                logprobs=tuple(tuned),
                untrained=tuple(untrained),
            )
        )
    return Witness(
        said=tuple(said),
        texts=replace(policy, model=None, frozen=None),
        stop_ids=policy.stop_ids,
        max_tokens=limit,
        exact=policy.tolerance,
        rounded=max(policy.tolerance, replace(policy, compute_dtype=torch.bfloat16).tolerance),
        start=policy.halves.start if isinstance(policy, EncoderDecoder) else (),
        bits=bits,
        left_out=len(prompts) - len(plain),
    )
