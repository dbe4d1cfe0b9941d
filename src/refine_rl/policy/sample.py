"""Sampling: tokens from the policy, each with its log-prob.

A prompt is prefilled once for all its G members; rows that have finished leave the batch. The t-th
token of a member is decided by the t-th uniform draw of (seed, step, prompt, member, purpose), by
inversion of the cumulative distribution, so what a member draws does not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from refine_rl.errors import GuardStop
from refine_rl.policy.decode import decode
from refine_rl.policy.draw import TILE, Sampling, draw, draw_tiled
from refine_rl.policy.lora import at_rest
from refine_rl.policy.policy import Policy
from refine_rl.randomness import uniforms
from refine_rl.types import Prompt, Segment, StopReason, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Purpose:
    """What the draws are for; with prompt and member it is the whole key of the randomness."""

    seed: int
    step: int
    name: str


Finished = Callable[[int, tuple[Trajectory, ...]], None]


def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    members: int,
    sampling: Sampling,
    purpose: Purpose,
    pause: Callable[[], None] = lambda: None,
    finished: Finished = lambda place, group: None,
) -> list[tuple[Trajectory, ...]]:
    """`members` trajectories for each prompt, in order.

    `pause` is called between tokens; it may raise to leave early. `finished` gets each prompt's place and
    group as soon as its last member has ended, while others are still being sampled. Log-probs are natural
    logarithms at `sampling.temperature` (at 1 where that is 0) over the whole vocabulary, before top-k and
    top-p.
    """
    groups: list[tuple[Trajectory, ...]] = []
    prompt_ids = [policy.encode(p.messages) for p in prompts]
    longest = max(map(len, prompt_ids), default=0)
    rows = min(sampling.max_rows, sampling.max_cached // (longest + sampling.max_tokens))
    prompts_at_once = max(1, rows // members)
    for start in range(0, len(prompts), prompts_at_once):
        some = slice(start, start + prompts_at_once)

        def of_chunk(place: int, group: tuple[Trajectory, ...], start: int = start) -> None:
            finished(start + place, group)

        groups += _sample_chunk(
            policy, prompts[some], prompt_ids[some], members, sampling, purpose, pause, of_chunk
        )
    return groups


def _sample_chunk(
    policy: Policy,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[tuple[int, ...]],
    members: int,
    sampling: Sampling,
    purpose: Purpose,
    pause: Callable[[], None],
    finished: Finished,
) -> list[tuple[Trajectory, ...]]:
    draws_R_T = np.stack(
        [
            uniforms(
                sampling.max_tokens,
                seed=purpose.seed,
                step=purpose.step,
                prompt_id=p.id,
                member=m,
                purpose=purpose.name,
            )
            for p in prompts
            for m in range(members)
        ]
    )
    groups: dict[int, tuple[Trajectory, ...]] = {}

    def ended(p: int, tokens: list[list[int]], logprobs: list[list[float]]) -> None:
        opening = policy.opening(prompts[p].messages)
        groups[p] = tuple(
            _trajectory(policy, prompts[p], m, prompt_ids[p], opening, *written)
            for m, written in enumerate(zip(tokens, logprobs, strict=True))
        )
        finished(p, groups[p])

    run = _decode if policy.fast is None else _decode_fast
    run(policy, prompt_ids, members, sampling, draws_R_T, pause, ended)
    return [groups[p] for p in range(len(prompts))]


def _trajectory(
    policy: Policy,
    prompt: Prompt,
    member: int,
    prompt_ids: tuple[int, ...],
    opening: str,
    tokens: list[int],
    logprobs: list[float],
) -> Trajectory:
    stop_reason: StopReason = "stop" if tokens[-1] in policy.stop_ids else "length"
    # The stop token is sampled and trained like any other, but it is no part of the text, whether or
    # not the tokenizer calls it special.
    words = tokens[:-1] if stop_reason == "stop" else tokens
    said = opening + policy.decode(words)  # a thought that the template has opened is part of the answer
    return Trajectory(
        prompt_id=prompt.id,
        member=member,
        messages=(*prompt.messages, {"role": "assistant", "content": said}),
        segments=(
            Segment(token_ids=prompt_ids, trainable=False),
            Segment(token_ids=tuple(tokens), trainable=True, logprobs=tuple(logprobs)),
        ),
        stop_reason=stop_reason,
    )


@torch.no_grad()
def _decode_fast(
    policy: Policy,
    prompt_ids: Sequence[tuple[int, ...]],
    members: int,
    sampling: Sampling,
    draws_R_T: np.ndarray,
    pause: Callable[[], None],
    ended: Callable[[int, list[list[int]], list[list[float]]], None],
) -> None:
    """`_decode` with shared prompts (decode.py)."""
    fast, device = policy.fast, policy.device
    assert fast is not None
    draws = torch.from_numpy(draws_R_T).to(device, torch.float64 if device.type != "mps" else torch.float32)

    head = fast.rounded(policy.compute_dtype)
    vocabulary = len(head[0])
    # An accelerator is slower by many small products; there the logits stand whole.
    tiled = device.type == "cpu" and sampling.whole(vocabulary) and len(draws) * vocabulary > 4 * TILE

    def draw_rows(
        hidden: torch.Tensor, rows: torch.Tensor, t: int, copies: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        uniform = draws[rows, t]
        if tiled:

            def some(start: int, end: int) -> torch.Tensor:
                return fast.logits(hidden, head, start, end).repeat_interleave(copies, dim=0)

            return draw_tiled(some, vocabulary, uniform, sampling.temperature)
        return draw(fast.logits(hidden, head).repeat_interleave(copies, dim=0), uniform, sampling)

    with policy.precision(), at_rest(policy.model):
        decode(
            fast.hidden,
            prompt_ids,
            members,
            room=sampling.max_tokens,
            device=device,
            draw=draw_rows,
            stop=torch.tensor(sorted(policy.stop_ids), device=device),
            pause=pause,
            ended=ended,
            write=_written,
        )


def _written(logprob: float) -> float:
    """The shortest decimal that gives the same float32 back: exact, and short on disk."""
    if not math.isfinite(logprob):
        raise _not_finite()
    return float(str(np.float32(logprob)))


@torch.no_grad()  # not inference_mode: buffers made there (rotary caches) could not enter training
def _decode(
    policy: Policy,
    prompt_ids: Sequence[tuple[int, ...]],
    members: int,
    sampling: Sampling,
    draws_R_T: np.ndarray,
    pause: Callable[[], None],
    ended: Callable[[int, list[list[int]], list[list[float]]], None],
) -> None:
    """Samples R = len(prompt_ids) * members rows, prompt by prompt; `ended` gets a prompt's place with its
    members' token ids and log-probs as soon as the last of them has stopped."""
    device = policy.device
    R = len(prompt_ids) * members
    tokens: list[list[int]] = [[] for _ in range(R)]
    logprobs: list[list[float]] = [[] for _ in range(R)]
    writing = [members] * len(prompt_ids)  # members of each prompt that go on
    stop = torch.tensor(sorted(policy.stop_ids), device=device)
    draws = torch.from_numpy(draws_R_T).to(device, torch.float64 if device.type != "mps" else torch.float32)

    ids, mask, positions = _left_padded(prompt_ids, device)
    out = policy.forward(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
    )
    cache = out.past_key_values
    cache.batch_repeat_interleave(members)
    logits = out.logits[:, -1].repeat_interleave(members, dim=0)  # [R, V]
    mask = mask.repeat_interleave(members, dim=0)
    position = positions[:, -1:].repeat_interleave(members, dim=0)
    rows = torch.arange(R, device=device)  # which rows are still in the batch
    alive = torch.ones(R, dtype=torch.bool, device=device)  # of those, which have not finished

    for t in range(sampling.max_tokens):
        pause()
        token, logprob = draw(logits.float(), draws[rows, t], sampling)
        for row, ok, i, x in zip(
            rows.tolist(), alive.tolist(), token.tolist(), logprob.tolist(), strict=True
        ):
            if ok:
                tokens[row].append(i)
                logprobs[row].append(_written(x))
        stopped = alive & (torch.isin(token, stop) | (t + 1 == sampling.max_tokens))
        alive = alive & ~stopped
        for row in rows[stopped].tolist():
            p = row // members
            writing[p] -= 1
            if writing[p] == 0:
                its = slice(p * members, (p + 1) * members)
                ended(p, tokens[its], logprobs[its])
        left = int(alive.sum())
        if left == 0:
            break
        # Leaving costs a copy of the cache, so rows leave once an eighth of the batch has finished.
        if len(rows) - left >= max(1, len(rows) // 8):
            stay = alive.nonzero().squeeze(1)
            cache.batch_select_indices(stay)
            rows, token, mask, position = rows[stay], token[stay], mask[stay], position[stay]
            alive = alive[stay]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        position = position + 1
        out = policy.forward(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]


def _not_finite() -> GuardStop:
    return GuardStop(
        "not_finite",
        "While sampling, the model's log-probs were not finite numbers: its weights are broken.",
        "Go back to an earlier checkpoint, with a lower grpo.learning_rate; "
        'in a new run, model.dtype = "float32" helps where bfloat16 is too coarse.',
    )


def _left_padded(
    prompt_ids: Sequence[tuple[int, ...]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, mask and positions [P, T], every prompt ending in the last column."""
    longest = max(map(len, prompt_ids))
    ids = torch.zeros(len(prompt_ids), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompt_ids):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    # Without explicit positions a padded prompt would start counting at its padding.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)
