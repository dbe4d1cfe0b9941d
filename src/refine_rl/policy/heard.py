"""Tokens heard as they are drawn, by somebody who does not want to wait for the end of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from refine_rl.policy.draw import Sampling
from refine_rl.policy.memory import Memory
from refine_rl.policy.protocol import Begun, Network, Way

Hear = Callable[[Sequence[int], Sequence[int], Sequence[float]], None]
"""Hears of rows (their numbers in the whole batch), their newest tokens and these tokens' log-probs. Rows
that have stopped already may still be among them. It may raise to leave early, as a Pause may."""


class Heard:
    """A network that samples as another one does (`speak`), and tells of each token as it is drawn."""

    def __init__(self, network: Network, hear: Hear) -> None:
        self.model, self.device = network.model, network.device
        self.compute_dtype, self.stop_ids = network.compute_dtype, network.stop_ids
        self.encode, self.opening, self.decode = network.encode, network.opening, network.decode
        self.precision = network.precision
        self._network, self._hear = network, hear

    def way(
        self,
        begun: Sequence[Begun],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
        memory: Memory | None,
    ) -> Way:
        return _HeardWay(self._network.way(begun, counts, sampling, draws_R_T, memory), self._hear)


class _HeardWay:
    def __init__(self, way: Way, hear: Hear) -> None:
        self._way, self._hear = way, hear
        self.ahead, self.leave = way.ahead, way.leave

    def inside(self) -> AbstractContextManager[None]:
        return self._way.inside()

    def start(self) -> None:
        self._way.start()

    def draw(self, rows: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, logprobs = self._way.draw(rows, t)
        self._hear(rows.tolist(), tokens.tolist(), logprobs.tolist())
        return tokens, logprobs

    def stay(self, rows: torch.Tensor) -> None:
        self._way.stay(rows)

    def step(self, token: torch.Tensor) -> None:
        self._way.step(token)

    def kept(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._way.kept(place)
