"""Sampling: a model continues trajectories by one turn, each token with its log-prob.

Members of a group whose tokens so far are the same are computed once until they part; rows that have finished
leave the batch. The t-th token of a member is decided by the t-th uniform draw of (seed, step, prompt,
member, purpose), by inversion of the cumulative distribution, so what a member draws does not depend on its
neighbours. Starting and going on behind given tokens (a thought that was cut, an environment's words) are
the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import torch

from refine_rl.errors import GuardStop
from refine_rl.policy.draw import Sampling
from refine_rl.policy.memory import Memory
from refine_rl.policy.protocol import Begun, Network, Purpose, Spoken, Way
from refine_rl.progress import Pause, never
from refine_rl.randomness import uniforms
from refine_rl.types import Segment, StopReason, Trajectory

LEAVE = 8
"""Rows are moved together once one in so many has stopped: moving costs a copy of keys and values."""


def speak(
    network: Network,
    groups: Sequence[Sequence[Begun]],
    *,
    sampling: Sampling,
    purpose: Purpose,
    pause: Pause = never,
    memory: Memory | None = None,
) -> Iterator[Spoken]:
    """Each member with one more turn: its segments, and at most `sampling.max_tokens` sampled tokens. A group
    comes out, with its place, as soon as its last member has ended, while others are still being sampled.

    `pause` is called between tokens; it may raise to leave early. Log-probs are natural logarithms at
    `sampling.temperature` (at 1 where that is 0) over the whole vocabulary, before top-k and top-p. A
    `memory` has the keys and values of earlier turns of the same play, and gets those of this one.
    """
    if memory is not None:
        going_on = [b for group in groups for b in group]
        memory.begin(network.model, going_on, sampling.max_cached // 2)
    ended: list[list[Trajectory]] = [[] for _ in groups]
    for place, group in enumerate(groups):
        if not group:
            yield place, ()
    for stems in _batches(_stems(groups, memory), sampling, memory):
        for stem, written in _batch(network, stems, sampling, purpose, pause, memory):
            opening = network.opening(stem.members[0].asked)
            for member, (tokens, logprobs) in zip(stem.members, written, strict=True):
                ended[stem.place].append(_trajectory(network, member, opening, tokens, logprobs))
            if len(ended[stem.place]) == len(groups[stem.place]):
                order = {b.member: n for n, b in enumerate(groups[stem.place])}
                yield stem.place, tuple(sorted(ended[stem.place], key=lambda t: order[t.member]))


@dataclass(frozen=True, kw_only=True)
class _Stem:
    """Neighbours of one group whose tokens so far are the same; `place` is their group's."""

    place: int
    members: tuple[Begun, ...]

    @cached_property
    def token_ids(self) -> tuple[int, ...]:
        return self.members[0].token_ids

    @property
    def goes_on(self) -> bool:
        """Whether anything stands behind the prompt."""
        return len(self.members[0].segments) > 1


def _stems(groups: Sequence[Sequence[Begun]], memory: Memory | None) -> list[_Stem]:
    """With a memory, those of whom only the prompt stands come first; all others are stems of their own."""
    stems = [
        _Stem(place=place, members=tuple(some))
        for place, group in enumerate(groups)
        for _, some in groupby(group, key=lambda b: b.token_ids)
    ]
    if memory is None:
        return stems
    going_on = [s for s in stems if s.goes_on]
    return [s for s in stems if not s.goes_on] + [
        _Stem(place=s.place, members=(member,)) for s in going_on for member in s.members
    ]


def _batches(stems: Sequence[_Stem], sampling: Sampling, memory: Memory | None) -> Iterator[list[_Stem]]:
    """As many stems as may be sampled at once, beside what is kept in memory, at least one."""
    longest = max((len(s.token_ids) for s in stems), default=0)

    def most() -> int:
        room = sampling.max_cached - (memory.tokens if memory else 0)
        return min(sampling.max_rows, room // (longest + sampling.max_tokens))

    batch: list[_Stem] = []
    rows, most_now = 0, most()
    for stem in stems:
        other = memory is not None and bool(batch) and stem.goes_on != batch[0].goes_on
        if batch and (other or rows + len(stem.members) > most_now):
            yield batch
            batch, rows, most_now = [], 0, most()
        batch.append(stem)
        rows += len(stem.members)
    if batch:
        yield batch


Written = list[tuple[list[int], list[float]]]
"""The tokens and log-probs of a stem's members."""


def _batch(
    network: Network,
    stems: Sequence[_Stem],
    sampling: Sampling,
    purpose: Purpose,
    pause: Pause,
    memory: Memory | None,
) -> Iterator[tuple[_Stem, Written]]:
    """Stems, with what their members have written, as they end."""
    key = {"seed": purpose.seed, "step": purpose.step, "purpose": purpose.name}
    draws_R_T = np.stack(
        [
            uniforms(sampling.max_tokens, prompt_id=b.prompt.id, member=b.member, **key)  # type: ignore[arg-type]
            for stem in stems
            for b in stem.members
        ]
    )
    device = network.device
    draws = torch.from_numpy(draws_R_T).to(device, torch.float64 if device.type != "mps" else torch.float32)
    counts = [len(s.members) for s in stems]
    way = network.way([s.members[0] for s in stems], counts, sampling, draws, memory)
    stop = torch.tensor(sorted(network.stop_ids), device=device)
    members = [b for stem in stems for b in stem.members]

    def keep(row: int, place: int, tokens: Sequence[int]) -> None:
        if memory is not None:
            memory.keep(members[row], tokens[:-1], lambda: way.kept(place))  # nobody has read the last

    rows = _Rows(way, counts, sampling.max_tokens, stop, keep)
    while not rows.over:
        for number in rows.until_one_ends(pause):
            yield stems[number], rows.written(number)


class _Rows:
    """The rows of a batch while they are written: which of them go on, and what they have said."""

    def __init__(
        self,
        way: Way,
        counts: Sequence[int],
        room: int,
        stop: torch.Tensor,
        keep: Callable[[int, int, Sequence[int]], None],
    ) -> None:
        self._way, self._room, self._stop, self._keep = way, room, stop, keep
        self._stem_of = [number for number, count in enumerate(counts) for _ in range(count)]
        self._writing = list(counts)  # members of each stem that go on
        self._tokens: list[list[int]] = [[] for _ in self._stem_of]
        self._logprobs: list[list[float]] = [[] for _ in self._stem_of]
        self._rows = torch.arange(len(self._stem_of), device=stop.device)  # those still in the batch
        self._alive = torch.ones(len(self._stem_of), dtype=torch.bool, device=stop.device)
        self._token: torch.Tensor | None = None
        self._t = 0

    @property
    def over(self) -> bool:
        return not any(self._writing)

    def written(self, stem: int) -> Written:
        """What the members of a stem have written."""
        its = [row for row, number in enumerate(self._stem_of) if number == stem]
        return [(self._tokens[row], self._logprobs[row]) for row in its]

    # Not inference_mode: buffers made there (rotary caches) could not enter training.
    @torch.no_grad()
    def until_one_ends(self, pause: Pause) -> list[int]:
        """Goes on, token by token, until the last member of a stem has stopped; those stems."""
        with self._way.inside():
            if self._token is None:
                self._way.start()
            while True:
                if self._token is not None:
                    self._way.step(self._token)
                pause()
                token, logprob = self._way.draw(self._rows, self._t)
                if ended := self._take(token, logprob):
                    return ended

    def _take(self, token: torch.Tensor, logprob: torch.Tensor) -> list[int]:
        rows, alive = self._rows, self._alive
        for row, ok, i, x in zip(
            rows.tolist(), alive.tolist(), token.tolist(), logprob.tolist(), strict=True
        ):
            if ok:
                self._tokens[row].append(i)
                self._logprobs[row].append(_exact(x))
        self._t += 1
        at_end = torch.isin(token, self._stop)
        for place in (alive & at_end).nonzero().squeeze(1).tolist():  # a member that was cut never goes on
            row = int(rows[place])
            self._keep(row, place, self._tokens[row])
        stopped = alive & (at_end | (self._t == self._room))
        ended = []
        for row in rows[stopped].tolist():
            stem = self._stem_of[row]
            self._writing[stem] -= 1
            if self._writing[stem] == 0:
                ended.append(stem)
        self._alive = alive & ~stopped
        left = int(self._alive.sum())
        if left and len(rows) - left >= max(1, len(rows) // LEAVE):
            stay = self._alive.nonzero().squeeze(1)
            self._way.stay(stay)
            self._rows, token, self._alive = rows[stay], token[stay], self._alive[stay]
        self._token = token
        return ended


def _exact(logprob: float) -> float:
    """The shortest decimal that gives the same float32 back: exact, and short on disk."""
    if not math.isfinite(logprob):
        raise GuardStop(
            "not_finite",
            "While sampling, the model's log-probs were not finite numbers: its weights are broken.",
            "Go back to an earlier checkpoint, with a lower grpo.learning_rate; "
            'in a new run, model.dtype = "float32" helps where bfloat16 is too coarse.',
        )
    return float(str(np.float32(logprob)))


def _trajectory(
    network: Network, member: Begun, opening: str, tokens: list[int], logprobs: list[float]
) -> Trajectory:
    stop_reason: StopReason = "stop" if tokens[-1] in network.stop_ids else "length"
    # The stop token is sampled and trained like any other, but it is no part of the text, whether or
    # not the tokenizer calls it special.
    words = tokens[:-1] if stop_reason == "stop" else tokens
    said = opening + network.decode(
        [*member.answered, *words]
    )  # a thought that the template has opened is part of it
    return Trajectory(
        prompt_id=member.prompt.id,
        member=member.member,
        messages=(*member.asked, {"role": "assistant", "content": said}),
        segments=(
            *member.segments,
            Segment(token_ids=tuple(tokens), trainable=True, logprobs=tuple(logprobs)),
        ),
        stop_reason=stop_reason,
    )
