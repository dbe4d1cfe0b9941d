"""Demonstrations as tokens, which rows each step takes, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch

from refine_rl.randomness import generator
from refine_rl.training.learner import LossSums
from refine_rl.training.rows import MicroBatch, Row
from refine_rl.types import Segment, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """A demonstration's tokens; small, as there may be a great many. `spans` are the lengths of its segments,
    given and target in turns."""

    name: str
    ids: np.ndarray  # [T] int32
    spans: tuple[int, ...]

    @property
    def targets(self) -> int:
        """Tokens of its answers."""
        return sum(self.spans[1::2])

    def trajectory(self) -> Trajectory:
        ends = list(accumulate(self.spans))
        segments = tuple(
            Segment(
                token_ids=tuple(self.ids[end - length : end].tolist()),
                trainable=place % 2 == 1,
                target=place % 2 == 1,
            )
            for place, (length, end) in enumerate(zip(self.spans, ends, strict=True))
        )
        return Trajectory(prompt_id=self.name, member=0, messages=(), segments=segments, stop_reason="stop")


def tokens_of(name: str, segments: Sequence[Segment], limit: int) -> tuple[Tokens | None, int]:
    """The first `limit` tokens of a demonstration, up to the last of an answer, and how many tokens of
    answers were cut; None where no token of an answer is left.

    >>> given = Segment(token_ids=(1, 2, 3), trainable=False)
    >>> answer = Segment(token_ids=(4, 5), trainable=True, target=True)
    >>> tokens, cut = tokens_of("a:1", [given, answer], 4)
    >>> tokens.ids.tolist(), tokens.spans, cut
    ([1, 2, 3, 4], (3, 1), 1)
    >>> tokens_of("a:1", [given, answer], 3)
    (None, 2)
    """
    spans: list[int] = []
    left = limit
    for segment in segments:
        spans.append(min(left, len(segment.token_ids)))
        left -= spans[-1]
    cut = sum(len(s.token_ids) - n for s, n in zip(segments, spans, strict=True) if s.target)
    while spans and not (len(spans) % 2 == 0 and spans[-1]):
        spans.pop()
    ids = np.array([i for s in segments for i in s.token_ids][: sum(spans)], dtype=np.int32)
    return (Tokens(name=name, ids=ids, spans=tuple(spans)) if spans else None), cut


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which rows a step takes: the next ones up to `batch_tokens`, at least one and no more than there are.
    Every pass has an order of its own, which follows from the seed and its number; a step may take the last
    rows of one pass and the first of the next.

    >>> order = Order(lengths=(3, 3, 3, 3), batch_tokens=7)
    >>> [len(order.rows(step)) for step in (1, 2, 3)], order.epochs(2), order.steps(1.5)
    ([2, 2, 2], 1.0, 3)
    """

    lengths: tuple[int, ...]
    batch_tokens: int
    seed: int = 0

    def rows(self, step: int) -> list[int]:
        """The places of the rows of a step, from 1 on."""
        first, last = self._end(step - 1), self._end(step)
        return [self._row(place) for place in range(first, last)]

    def epochs(self, step: int) -> float:
        """The passes that are behind a step."""
        return self._end(step) / len(self.lengths)

    def steps(self, epochs: float) -> int:
        """The steps of so many passes, at least one."""
        step = 1
        while self._end(step) < round(epochs * len(self.lengths)):
            step += 1
        return step

    def _row(self, place: int) -> int:
        """The row at a place in the row of all passes."""
        epoch, at = divmod(place, len(self.lengths))
        if epoch not in self._passes:
            self._passes.clear()  # two are needed at a time at most, and each is made again as it was
            for number in (epoch, epoch + 1):
                order = generator(self.seed, "sft order", number).permutation(len(self.lengths))
                self._passes[number] = order
        return int(self._passes[epoch][at])

    def _end(self, step: int) -> int:
        """One past the last place that a step takes."""
        while len(self._ends) <= step:
            first = place = self._ends[-1]
            tokens = 0
            while place == first or tokens + self.lengths[self._row(place)] <= self.batch_tokens:
                tokens += self.lengths[self._row(place)]
                place += 1
                if place == first + len(self.lengths):
                    break
            self._ends.append(place)
        return self._ends[step]

    @cached_property
    def _passes(self) -> dict[int, np.ndarray]:
        return {}

    @cached_property
    def _ends(self) -> list[int]:
        return [0]


def rows_of(tokens: Sequence[Tokens]) -> list[Row]:
    """The rows of an update on these demonstrations: each token of an answer weighs the same."""
    each = 1.0 / sum(t.targets for t in tokens)
    return [Row(trajectory=t.trajectory(), advantage=1.0, weight=each) for t in tokens]


def likelihood(new_B_T: torch.Tensor, batch: MicroBatch, start_B_T: torch.Tensor | None) -> LossSums:
    """An objective: sum of -weight * log pi over the answers' tokens, so over all micro-batches of a step the
    mean negative log-likelihood of a token, in nats."""
    mask = batch.tokens.trainable.to(new_B_T.device)
    weighted = torch.where(mask, -new_B_T * batch.weights_B[:, None], 0.0)
    return LossSums(loss=weighted.sum(), clipped_tokens=0)
