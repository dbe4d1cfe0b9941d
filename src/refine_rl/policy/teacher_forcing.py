"""Log-probs of given answers under an encoder-decoder, with gradient: a prompt is encoded once for the rows
that begin with it, and the decoder's keys and values of it are made once. Prompts of very different lengths
go through the encoder apart, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from refine_rl.policy.halves import Halves, for_rows
from refine_rl.policy.head import taken
from refine_rl.policy.protocol import Network
from refine_rl.policy.tokens import TokenBatch

ALIKE = 0.75
"""Prompts go through the encoder together down to this share of the longest one's length."""


def teacher_forced(
    network: Network, halves: Halves, batch: TokenBatch, *, temperature: float, recomputes: bool
) -> torch.Tensor:
    """log pi(token | the prompt, and what was written before it) at `temperature`, [B, T] float32, 0 where
    not trainable. `recomputes`: layers are computed again on the way back, and no cache outlives that."""
    device = network.device
    forced = _with_recomputing if recomputes else _with_cache
    rows, columns, found = [], [], []
    for some in _alike(batch.prompts):
        part = _part(batch, some)
        with network.precision():
            hidden = forced(halves, part, device)
            targets = batch.ids[part.rows, part.columns].to(device)
            found.append(halves.logprobs_of(hidden, targets, temperature))
        rows.append(part.rows)
        columns.append(part.columns)
    out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=device)
    return out.index_put((torch.cat(rows).to(device), torch.cat(columns).to(device)), torch.cat(found))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some rows of a batch: their prompts, each once, and which is each row's; what the decoder is fed; and
    for each trainable token its row and column in the batch, its row here and its place in the answer."""

    prompts: tuple[tuple[int, ...], ...]
    places: torch.Tensor  # [R]
    fed: torch.Tensor  # [R, T]
    rows: torch.Tensor  # [n]
    columns: torch.Tensor  # [n]
    here: torch.Tensor  # [n]
    written: torch.Tensor  # [n], 0 for an answer's first


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows whose prompts are of nearly the same length, ascending within each part.

    >>> list(_alike([9, 3, 8, 9, 2]))
    [[0, 2, 3], [1], [4]]
    """
    some: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda r: -lengths[r]):
        if some and lengths[row] < ALIKE * lengths[some[0]]:
            yield sorted(some)
            some = []
        some.append(row)
    yield sorted(some)


def _part(batch: TokenBatch, some: Sequence[int]) -> _Part:
    order = torch.tensor(some)
    starts = torch.tensor([batch.prompts[row] for row in some])
    known: dict[tuple[int, ...], int] = {}
    places = [
        known.setdefault(tuple(batch.ids[row, : batch.prompts[row]].tolist()), len(known)) for row in some
    ]
    here, columns = batch.trainable[order].nonzero(as_tuple=True)
    written = columns - starts[here]
    longest = int(written.max()) if len(written) else 0  # so many are fed: the last predicts nothing
    fed = starts[:, None] + torch.arange(longest)
    # Behind a row's end stands anything: nobody who looks back sees it.
    ids = batch.ids[order].gather(1, fed.clamp(max=batch.ids.shape[1] - 1))
    return _Part(
        prompts=tuple(known),
        places=torch.tensor(places),
        fed=ids,
        rows=order[here],
        columns=columns,
        here=here,
        written=written,
    )


def _with_cache(halves: Halves, part: _Part, device: torch.device) -> torch.Tensor:
    """The hidden states that predict the trainable tokens, [n, hidden]."""
    heard = halves.hear(part.prompts)
    hidden, longest = heard.hidden, part.fed.shape[1]
    if longest:
        more = halves.go_on(part.fed.to(device), for_rows(heard, part.places.to(device)))
        hidden = torch.cat([hidden, more.flatten(0, 1)])
    later = len(part.prompts) + part.here * longest + part.written - 1
    sources = torch.where(part.written == 0, part.places[part.here], later)
    return taken(hidden, sources.to(device))


def _with_recomputing(halves: Halves, part: _Part, device: torch.device) -> torch.Tensor:
    """The same without a cache; the prompts' states are repeated instead."""
    states, mask = halves.encode(part.prompts)
    places = part.places.to(device)
    start = torch.tensor(halves.start, device=device).expand(len(places), -1)
    ids = torch.cat([start, part.fed.to(device)], dim=1)
    hidden = halves.whole(ids, taken(states, places), mask[places])
    sources = part.here * ids.shape[1] + len(halves.start) - 1 + part.written
    return taken(hidden.flatten(0, 1), sources.to(device))
