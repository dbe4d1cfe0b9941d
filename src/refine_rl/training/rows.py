"""The rows of one update, and the micro-batches in which they go through the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from refine_rl.errors import GuardStop
from refine_rl.policy.tokens import TokenBatch, token_batch
from refine_rl.types import Trajectory

PARTS = 16
"""Sizes of micro-batches that are looked at for lanes: from the largest down to half of it."""

EACH = 32
"""Tokens that a micro-batch takes as long as for itself, whatever is in it."""

MemberKey = tuple[str, int]  # prompt id and member: one trajectory of a step


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One trajectory that takes part in the update."""

    trajectory: Trajectory
    advantage: float
    weight: float  # of each of its trainable tokens
    reference: tuple[float, ...] | None = None  # the reference's log-probs of the trainable tokens
    start: tuple[float, ...] | None = (
        None  # the trainer's of the sampled ones, before the step's first update
    )
    taught: tuple[float, ...] | None = None  # the teacher's log-probs of the trainable tokens
    then: int | None = None  # the step that sampled it, where that is over: the row is replayed

    @property
    def teaches(self) -> bool:
        """Whether it has a gradient: an advantage of 0 has none, unless a KL term is in the loss or a teacher
        there is. Without one it needs no forward pass; in the denominators it counts all the same."""
        return self.advantage != 0 or self.reference is not None or self.taught is not None

    @property
    def sampled(self) -> bool:
        """Whether a sampler had a part in it: only then is there something to compare the trainer with."""
        return any(s.sampled and s.token_ids for s in self.trajectory.segments)

    @property
    def fresh(self) -> bool:
        """Whether the step itself sampled it: only then was the trainer of this moment the sampler."""
        return self.sampled and self.then is None

    @property
    def old(self) -> tuple[float, ...]:
        """The sampler's log-probs of the sampled tokens."""
        return sampled_logprobs(self.trajectory)


def sampled_logprobs(trajectory: Trajectory) -> tuple[float, ...]:
    """The sampler's log-probs of all sampled tokens, in order."""
    return tuple(x for s in trajectory.segments for x in s.logprobs)


def length(trajectory: Trajectory) -> int:
    """All tokens, the prompt's included."""
    return sum(len(s.token_ids) for s in trajectory.segments)


def micro_batches(
    trajectories: Sequence[Trajectory], tokens: int, *, packed: bool = False, lanes: int = 1
) -> Iterator[list[int]]:
    """Indices of trajectories, each micro-batch at most `tokens` tokens as they go through the model (but
    at least one row): `packed`, rows in their order, a prompt counted once for the rows that share it, and
    no group cut before as many tokens follow its prompt as that has; else rows of similar length, padded
    to the longest. The micro-batches of all `lanes` (lanes.py) have so many tokens together; packed ones are
    smaller where the last lane is done sooner so."""
    if not packed:
        yield from _padded_batches(trajectories, tokens // lanes)
        return
    groups = _groups(trajectories)
    lengths = [length(t) for t in trajectories]
    most = tokens // lanes
    sizes = [most * part // PARTS for part in range(PARTS, PARTS // 2 - 1, -1)] if lanes > 1 else [most]
    found = [_packed_batches(groups, lengths, size) for size in sizes]
    yield from (rows for rows, _ in min(found, key=lambda batches: _longest(batches, lanes)))


def _longest(batches: Sequence[tuple[list[int], int]], lanes: int) -> int:
    """Tokens of the lane that has most to do: lane k takes batches k, k + lanes, ..."""
    return max(sum(tokens + EACH for _, tokens in batches[lane::lanes]) for lane in range(lanes))


def _groups(trajectories: Sequence[Trajectory]) -> list[tuple[int, list[int]]]:
    """Rows that begin with the same prompt, and how many tokens that has."""
    groups: dict[object, list[int]] = {}
    for index, trajectory in enumerate(trajectories):
        shares = any(s.sampled for s in trajectory.segments)  # a demonstration goes through whole
        groups.setdefault(trajectory.segments[0].token_ids if shares else index, []).append(index)
    return [(len(trajectories[rows[0]].segments[0].token_ids), rows) for rows in groups.values()]


def _packed_batches(
    groups: Sequence[tuple[int, list[int]]], lengths: Sequence[int], tokens: int
) -> list[tuple[list[int], int]]:
    """Micro-batches, and the tokens of each."""
    found: list[tuple[list[int], int]] = []
    chunk: list[int] = []
    count = 0
    for prompt, members in groups:
        written = 0  # tokens of this prompt's completions in this chunk
        for index in members:
            own = lengths[index] - prompt
            # Where a group is cut its prompt is computed once more: not before the part pays for it.
            pays = written == 0 or written >= prompt
            if chunk and pays and count + own + (0 if written else prompt) > tokens:
                found.append((chunk, count))
                chunk, count, written = [], 0, 0
            count += own + (0 if written else prompt)
            written += own
            chunk.append(index)
    return [*found, (chunk, count)] if chunk else found


def _padded_batches(trajectories: Sequence[Trajectory], tokens: int) -> Iterator[list[int]]:
    chunk: list[int] = []
    longest = 0
    for index in sorted(range(len(trajectories)), key=lambda i: -length(trajectories[i])):
        if chunk and (len(chunk) + 1) * longest > tokens:
            yield chunk
            chunk = []
        if not chunk:
            longest = length(trajectories[index])
        chunk.append(index)
    if chunk:
        yield chunk


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Tensors of some rows. `old_B_T` is 0 where `tokens.sampled` is False: nobody sampled a target, so it
    has no old log-prob. `reference_B_T`, `taught_B_T` and `start_B_T` (see `Row`) are 0 where
    `tokens.trainable` is False, and in rows that have none; they and `replayed_B` are None where no row has
    any or is."""

    tokens: TokenBatch
    old_B_T: torch.Tensor
    reference_B_T: torch.Tensor | None
    advantages_B: torch.Tensor
    weights_B: torch.Tensor
    start_B_T: torch.Tensor | None = None
    taught_B_T: torch.Tensor | None = None
    taught_B: torch.Tensor | None = None  # bool: which rows have a teacher; None where all have, or none
    replayed_B: torch.Tensor | None = None  # bool

    @property
    def fresh(self) -> torch.Tensor:
        """Which tokens the step itself sampled, on the processor."""
        if self.replayed_B is None:
            return self.tokens.sampled
        return self.tokens.sampled & ~self.replayed_B.cpu()[:, None]


def micro_batch(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    """The rows' tensors; all but the token ids on `device`. Raises GuardStop where other tokens would be
    trained on than those that were sampled, or are targets."""
    tokens = token_batch([r.trajectory for r in rows])
    _require_own(rows, tokens)

    def spread(values: Sequence[float], mask_B_T: torch.Tensor) -> torch.Tensor:
        # Boolean indexing fills row by row, left to right: the order of the values.
        out = torch.zeros(tokens.ids.shape, dtype=torch.float32)
        out[mask_B_T] = torch.tensor(values, dtype=torch.float32)
        return out.to(device)

    def of_some(each: Sequence[tuple[float, ...] | None], mask_B_T: torch.Tensor) -> torch.Tensor | None:
        values = [x for own in each for x in own or ()]
        has_B = torch.tensor([own is not None for own in each])
        return spread(values, mask_B_T & has_B[:, None]) if values else None

    return MicroBatch(
        tokens=tokens,
        old_B_T=spread([x for r in rows for x in r.old], tokens.sampled),
        reference_B_T=of_some([r.reference for r in rows], tokens.trainable),
        advantages_B=torch.tensor([r.advantage for r in rows], device=device),
        weights_B=torch.tensor([r.weight for r in rows], device=device),
        start_B_T=of_some([r.start for r in rows], tokens.sampled),
        taught_B_T=of_some([r.taught for r in rows], tokens.trainable),
        taught_B=torch.tensor([r.taught is not None for r in rows], device=device)
        if len({r.taught is None for r in rows}) == 2
        else None,
        replayed_B=torch.tensor([r.then is not None for r in rows], device=device)
        if any(r.then is not None for r in rows)
        else None,
    )


def _require_own(rows: Sequence[Row], tokens: TokenBatch) -> None:
    """Raises GuardStop unless as many tokens of each row are trained on as its policy sampled (of a
    demonstration, as are targets): none of a prompt, or of what a world said."""
    for row, found in zip(rows, tokens.trainable.sum(1).tolist(), strict=True):
        segments = [s for s in row.trajectory.segments if s.token_ids]
        own = [s for s in segments if (s.sampled if row.sampled else s.target)]
        # The very first token is predicted by nothing.
        wanted = sum(len(s.token_ids) for s in own) - (bool(own) and own[0] is segments[0])
        if found != wanted:
            raise GuardStop(
                "mask",
                f"An answer to {row.trajectory.prompt_id} has {wanted} tokens to learn from, and {found} "
                "would be trained on: words of its prompt, or of its world, among them.",
                "Nothing was learned from it. A world of your own must mark what it says as not trainable.",
            )
