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
    ending = Ending(groups)
    yield from ending.empty()
    for stems in _batches(_in_turn(groups, memory), sampling, memory):
        for stem, written in _batch(network, stems, sampling, purpose, pause, memory):
            opening = network.opening(stem.members[0].asked)
            said = [
                spoken_turn(network, member, opening, tokens, logprobs)
                for member, (tokens, logprobs) in zip(stem.members, written, strict=True)
            ]
            yield from ending.add(stem.place, said)


@dataclass(frozen=True, kw_only=True)
class Stem:
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


def stems_of(groups: Sequence[Sequence[Begun]]) -> list[Stem]:
    """The groups' stems, in order; a group of nobody has none."""
    return [
        Stem(place=place, members=tuple(some))
        for place, group in enumerate(groups)
        for _, some in groupby(group, key=lambda b: b.token_ids)
    ]


class Ending:
    """Groups whose members end in any order; each is handed out, in its own, once its last has ended."""

    def __init__(self, groups: Sequence[Sequence[Begun]]) -> None:
        self._groups = groups
        self._ended: list[list[Trajectory]] = [[] for _ in groups]

    def empty(self) -> list[Spoken]:
        """The groups of nobody."""
        return [(place, ()) for place, group in enumerate(self._groups) if not group]

    def add(self, place: int, said: Sequence[Trajectory]) -> list[Spoken]:
        """The group at `place`, if these were the last of it."""
        group, ended = self._groups[place], self._ended[place]
        ended += said
        if len(ended) < len(group):
            return []
        order = {b.member: n for n, b in enumerate(group)}
        return [(place, tuple(sorted(ended, key=lambda t: order[t.member])))]


def _in_turn(groups: Sequence[Sequence[Begun]], memory: Memory | None) -> list[Stem]:
    """With a memory, those of whom only the prompt stands come first; all others are stems of their own."""
    stems = stems_of(groups)
    if memory is None:
        return stems
    going_on = [s for s in stems if s.goes_on]
    return [s for s in stems if not s.goes_on] + [
        Stem(place=s.place, members=(member,)) for s in going_on for member in s.members
    ]


def _batches(stems: Sequence[Stem], sampling: Sampling, memory: Memory | None) -> Iterator[list[Stem]]:
    """As many stems as may be sampled at once, beside what is kept in memory, at least one."""
    longest = max((len(s.token_ids) for s in stems), default=0)

    def most() -> int:
        room = sampling.max_cached - (memory.tokens if memory else 0)
        return min(sampling.max_rows, room // (longest + sampling.max_tokens))

    batch: list[Stem] = []
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
    stems: Sequence[Stem],
    sampling: Sampling,
    purpose: Purpose,
    pause: Pause,
    memory: Memory | None,
) -> Iterator[tuple[Stem, Written]]:
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
    members = [b for stem in stems for b in stem.members]

    def keep(row: int, place: int, tokens: Sequence[int]) -> None:
        if memory is not None:
            memory.keep(members[row], tokens[:-1], lambda: way.kept(place))  # nobody has read the last

    rows = _Rows(way, counts, sampling.max_tokens, network.stop_ids, device, keep)
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
        stop_ids: frozenset[int],
        device: torch.device,
        keep: Callable[[int, int, Sequence[int]], None],
    ) -> None:
        self._way, self._room, self._stop_ids, self._keep = way, room, stop_ids, keep
        self._stem_of = [number for number, count in enumerate(counts) for _ in range(count)]
        self._writing = list(counts)  # members of each stem that go on
        self._tokens: list[list[int]] = [[] for _ in self._stem_of]
        self._logprobs: list[list[float]] = [[] for _ in self._stem_of]
        self._rows = list(range(len(self._stem_of)))  # those still in the batch
        self._places = torch.arange(len(self._rows), device=device)  # the same, for the way
        self._alive = [True] * len(self._rows)
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
                drawn = []
                for t in range(self._t, min(self._t + self._way.ahead, self._room)):
                    if self._token is not None:
                        self._way.step(self._token)
                    pause()
                    self._token, logprob = self._way.draw(self._places, t)
                    drawn.append((self._token, logprob))
                if ended := self._take(drawn):
                    return ended

    def _take(self, drawn: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[int]:
        """Stems whose last member has stopped. What was drawn behind a stop is nobody's."""
        tokens_n_R = torch.stack([token for token, _ in drawn]).tolist()
        logprobs_n_R = torch.stack([logprob for _, logprob in drawn]).tolist()
        ended = []
        for tokens, logprobs in zip(tokens_n_R, logprobs_n_R, strict=True):
            self._t += 1
            for place, (row, token, logprob) in enumerate(zip(self._rows, tokens, logprobs, strict=True)):
                if not self._alive[place]:
                    continue
                self._tokens[row].append(token)
                self._logprobs[row].append(exact(logprob))
                if token in self._stop_ids:  # a member that was cut never goes on
                    self._keep(row, place, self._tokens[row])
                if token in self._stop_ids or self._t == self._room:
                    self._alive[place] = False
                    stem = self._stem_of[row]
                    self._writing[stem] -= 1
                    if self._writing[stem] == 0:
                        ended.append(stem)
        self._move_together()
        return ended

    def _move_together(self) -> None:
        """Leaves the rows behind that have stopped, once they are many."""
        left = sum(self._alive)
        if not left or len(self._rows) - left < max(1, len(self._rows) // self._way.leave):
            return
        places = [place for place, alive in enumerate(self._alive) if alive]
        stay = torch.tensor(places, device=self._places.device)
        self._way.stay(stay)
        self._rows = [self._rows[place] for place in places]
        self._places = self._places[stay]
        self._alive = [True] * left
        if self._token is not None:
            self._token = self._token[stay]


def exact(logprob: float) -> float:
    """The shortest decimal that gives the same float32 back: exact, and short on disk."""
    if not math.isfinite(logprob):
        raise GuardStop(
            "not_finite",
            "While sampling, the model's log-probs were not finite numbers: its weights are broken.",
            "Go back to an earlier checkpoint, with a lower grpo.learning_rate; "
            'in a new run, model.dtype = "float32" helps where bfloat16 is too coarse.',
        )
    return float(str(np.float32(logprob)))


def spoken_turn(
    network: Network, member: Begun, opening: str, tokens: Sequence[int], logprobs: Sequence[float]
) -> Trajectory:
    """A member with the turn that it has spoken: sampled `tokens`, behind the `opening` that the template
    writes of an answer."""
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
