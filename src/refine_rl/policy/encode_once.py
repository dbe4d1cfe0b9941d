"""Sampling from an encoder-decoder: a prompt is encoded once for all its members, and so are the decoder's
keys and values of it; what members write lies in a cache that those who have stopped leave."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from refine_rl.policy.draw import Sampling
from refine_rl.policy.drawer import Drawer
from refine_rl.policy.halves import Halves, Heard, for_rows
from refine_rl.policy.lora import at_rest
from refine_rl.policy.protocol import Begun, Network


@dataclass(kw_only=True)
class _Part:
    """Rows with equally many tokens in front, so that a token's place is the same for all; `rows` are their
    numbers in the batch, ascending."""

    rows: torch.Tensor
    heard: Heard


class EncodeOnce:
    """An encoder-decoder's way to sample (`protocol.Way`)."""

    def __init__(
        self,
        network: Network,
        halves: Halves,
        begun: Sequence[Begun],
        counts: Sequence[int],
        sampling: Sampling,
        draws_R_T: torch.Tensor,
    ) -> None:
        self._network, self._halves = network, halves
        self._begun, self._counts = begun, counts
        self._rest = at_rest(network.model)
        self._draw = Drawer(halves, network.compute_dtype, sampling, draws_R_T)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        with self._network.precision(), self._rest:
            yield

    def start(self) -> None:
        device = self._network.device
        prompts = list(dict.fromkeys(b.segments[0].token_ids for b in self._begun))
        heard = self._halves.hear(prompts)
        place = torch.tensor([prompts.index(b.segments[0].token_ids) for b in self._begun], device=device)
        given = [[i for s in b.segments[1:] for i in s.token_ids] for b in self._begun]
        stem_of = torch.arange(len(given), device=device).repeat_interleave(
            torch.tensor(self._counts, device=device)
        )
        self._parts = []
        self._hidden = heard.hidden.new_empty(len(stem_of), heard.hidden.shape[-1])
        for length in sorted({len(tokens) for tokens in given}):
            stems = torch.tensor([n for n, t in enumerate(given) if len(t) == length], device=device)
            rows = torch.isin(stem_of, stems).nonzero()[:, 0]
            if not length:
                own = for_rows(heard, place[stem_of[rows]])
                self._hidden[rows] = own.hidden
            else:
                stem, ids = for_rows(heard, place[stems]), [given[n] for n in stems.tolist()]
                hidden = self._halves.go_on(torch.tensor(ids, device=device), stem)[:, -1]
                members = torch.searchsorted(stems, stem_of[rows])  # which of these stems is each row's
                own = for_rows(stem, members)
                self._hidden[rows] = hidden[members]
            self._parts.append(_Part(rows=rows, heard=own))

    def draw(self, rows: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A token and its log-prob for each row."""
        return self._draw(self._hidden, rows, t)

    def stay(self, rows: torch.Tensor) -> None:
        """Only these rows (indices, ascending) go on."""
        parts = []
        for part in self._parts:
            kept = torch.isin(part.rows, rows).nonzero()[:, 0]
            if len(kept):
                now = torch.searchsorted(rows, part.rows[kept])
                parts.append(_Part(rows=now, heard=for_rows(part.heard, kept)))
        self._parts = parts

    def kept(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("this way has no memory")

    def step(self, token: torch.Tensor) -> None:
        hidden = self._hidden.new_empty(len(token), self._hidden.shape[-1])
        for part in self._parts:
            hidden[part.rows] = self._halves.go_on(token[part.rows, None], part.heard)[:, -1]
        self._hidden = hidden
