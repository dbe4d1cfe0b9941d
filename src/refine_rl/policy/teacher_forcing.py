"""Log-probs of given answers under an encoder-decoder, with gradient: a prompt is encoded once for the rows
that begin with it, and the decoder's keys and values of it are made once."""

from __future__ import annotations

import torch

from refine_rl.policy.halves import Halves, for_rows
from refine_rl.policy.head import taken
from refine_rl.policy.protocol import Network
from refine_rl.policy.tokens import TokenBatch


def teacher_forced(
    network: Network, halves: Halves, batch: TokenBatch, *, temperature: float, recomputes: bool
) -> torch.Tensor:
    """log pi(token | the prompt, and what was written before it) at `temperature`, [B, T] float32, 0 where
    not trainable. `recomputes`: layers are computed again on the way back, and no cache outlives that."""
    device = network.device
    starts = torch.tensor(batch.prompts)
    prompts: dict[tuple[int, ...], int] = {}
    places = torch.tensor(
        [
            prompts.setdefault(tuple(batch.ids[row, :length].tolist()), len(prompts))
            for row, length in enumerate(batch.prompts)
        ]
    )
    rows, columns = batch.trainable.nonzero(as_tuple=True)
    written = columns - starts[rows]  # the token's place in its answer, 0 for the first
    longest = int(written.max()) if len(written) else 0  # so many are fed: the last predicts nothing
    fed = starts[:, None] + torch.arange(longest)
    # Behind a row's end stands anything: nobody who looks back sees it.
    ids = batch.ids.gather(1, fed.clamp(max=batch.ids.shape[1] - 1)).to(device)
    B, P = len(batch.prompts), len(prompts)
    with network.precision():
        if recomputes:
            states, mask = halves.encode(list(prompts))
            start = torch.tensor(halves.start, device=device).expand(B, -1)
            places = places.to(device)
            hidden = halves.whole(torch.cat([start, ids], dim=1), taken(states, places), mask[places])
            hidden = hidden[:, len(halves.start) - 1 :].flatten(0, 1)
            sources = rows * (longest + 1) + written
        else:
            heard = halves.hear(list(prompts))
            hidden = heard.hidden
            if longest:
                more = halves.go_on(ids, for_rows(heard, places.to(device)))
                hidden = torch.cat([hidden, more.flatten(0, 1)])
            sources = torch.where(written == 0, places[rows], P + rows * longest + written - 1)
        targets = batch.ids[rows, columns].to(device)
        found = halves.logprobs_of(taken(hidden, sources.to(device)), targets, temperature)
    out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=device)
    return out.index_put((rows.to(device), columns.to(device)), found)
