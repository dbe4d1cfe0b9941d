"""Who answers in a run of several processes: whole groups are dealt out, each process continues its own."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from refine_rl.engines.processes.deal import cut, dealt
from refine_rl.engines.processes.hand import Hand
from refine_rl.engines.processes.orders import Logprobs, Order, Speak
from refine_rl.engines.processes.team import Team
from refine_rl.policy.draw import Sampling
from refine_rl.policy.memory import Memory
from refine_rl.policy.protocol import Begun, Purpose, Speaker, Spoken
from refine_rl.policy.spoken_for import SpokenFor
from refine_rl.policy.tokens import TokenBatch
from refine_rl.progress import Pause, never

_PLAYS = itertools.count(1)


@dataclass(kw_only=True, eq=False)
class Dealt(Memory):
    """What this process keeps of a play; each of the others keeps what is its own under the same `number`.
    `ranks`: a prompt's group stays where its keys and values are."""

    number: int = field(default_factory=_PLAYS.__next__)
    ranks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class TeamSpeaker(SpokenFor):
    """The model of this process, with the others beside it. `reference`: as it was before training."""

    hand: Hand
    team: Team
    number: int  # the model's
    reference_only: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)  # lanes ask from several threads

    def speak(
        self,
        groups: Sequence[Sequence[Begun]],
        *,
        sampling: Sampling,
        purpose: Purpose,
        pause: Pause = never,
        memory: Memory | None = None,
    ) -> Iterator[Spoken]:
        """See `Speaker`. What a member draws is a function of (seed, step, prompt, member, purpose): so who
        continues it makes no difference but how rounding falls."""
        kept = memory if isinstance(memory, Dealt) else None
        shares = self._shares(groups, sampling, kept)
        orders: dict[int, Order] = {
            rank: Speak(
                model=self.number,
                groups=[groups[place] for place in places],
                sampling=sampling,
                purpose=purpose,
                memory=None if kept is None else kept.number,
                reference=self.reference_only,
            )
            for rank, places in enumerate(shares)
            if rank
        }
        with self.team.asked(orders) as asked:
            own = self.hand.speak(
                [groups[place] for place in shares[0]],
                sampling=sampling,
                purpose=purpose,
                pause=asked.pause(pause),
                memory=memory,
                reference=self.reference_only,
            )
            try:
                with self.team.together():
                    for n, said in own:
                        yield shares[0][n], said
                        for rank, (place, theirs) in asked.come():
                            yield shares[rank][place], theirs
            except BaseException:
                asked.take_back()  # before this process waits for the others to end
                own.close()
                raise
            for rank, (place, theirs) in asked.rest(pause):
                yield shares[rank][place], theirs

    def _shares(
        self, groups: Sequence[Sequence[Begun]], sampling: Sampling, kept: Dealt | None
    ) -> list[list[int]]:
        """The places of each rank's groups."""
        work = [
            sum(sampling.max_tokens for _ in group) + max((len(b.token_ids) for b in group), default=0)
            for group in groups
        ]
        names = [group[0].prompt.id if group else "" for group in groups]
        held = {} if kept is None else kept.ranks
        held_places = {place: held[name] for place, name in enumerate(names) if name in held}
        ranks = dealt(work, self.team.place.size, held_places)
        if kept is not None:
            kept.ranks = {name: rank for name, rank in zip(names, ranks, strict=True) if name}
        shares: list[list[int]] = [[] for _ in range(self.team.place.size)]
        for place, rank in enumerate(ranks):
            shares[rank].append(place)
        return shares

    def memory(self) -> Memory | None:
        """See `Speaker`."""
        return None if self.policy.memory() is None else Dealt()

    def logprobs(self, batch: TokenBatch, *, temperature: float = 1.0) -> torch.Tensor:
        """See `Speaker`; with gradient, those of this process alone."""
        if torch.is_grad_enabled():
            with self.hand.speaker(self.reference_only) as speaker:
                return speaker.logprobs(batch, temperature=temperature)
        prompts = [tuple(ids[:n].tolist()) for ids, n in zip(batch.ids, batch.prompts, strict=True)]
        shared = batch.prompts if self.shares_prompts else (0,) * len(prompts)
        own = [n - s for n, s in zip(batch.lengths, shared, strict=True)]
        parts = cut(prompts, shared, own, self.team.place.size)
        orders: dict[int, Order] = {
            rank: Logprobs(
                model=self.number,
                batch=_part(batch, part),
                temperature=temperature,
                reference=self.reference_only,
            )
            for rank, part in enumerate(parts)
            if rank
        }
        with self._lock, self.team.asked(orders) as asked:
            with self.team.together():
                mine = self.hand.logprobs(_part(batch, parts[0]), temperature, reference=self.reference_only)
            found = {0: mine, **asked.wait()}
        out = torch.zeros(batch.ids.shape)
        for rank, part in enumerate(parts):
            if found[rank].numel():
                out[part] = found[rank]
        return out.to(self.device)

    @contextlib.contextmanager
    def reference(self) -> Iterator[Speaker]:
        """See `Speaker`."""
        yield replace(self, reference_only=True)

    @property
    def tolerance(self) -> float:
        return self.policy.tolerance


def _part(batch: TokenBatch, rows: slice) -> TokenBatch | None:
    """Some rows, no longer than they are; None: none."""
    lengths = batch.lengths[rows]
    if not lengths:
        return None
    T = batch.ids.shape[1]
    return TokenBatch(
        ids=batch.ids[rows, :T].contiguous(),
        attention=batch.attention[rows, :T].contiguous(),
        trainable=batch.trainable[rows, :T].contiguous(),
        sampled=batch.sampled[rows, :T].contiguous(),
        prompts=batch.prompts[rows],
        lengths=lengths,
    )
