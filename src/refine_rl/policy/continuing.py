"""Sampling that goes on behind given tokens: a thought that was cut, words that were put in its place.

The decoding is that of `sample`; what stands already plays the part of the prompt, and each answer is the
only member of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.policy.sample import Purpose, _decode, _decode_fast
from refine_rl.randomness import uniforms
from refine_rl.types import Prompt, Segment, StopReason, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """The beginning of member `member` of its prompt's group; the first segment is the prompt."""

    prompt: Prompt
    member: int
    segments: tuple[Segment, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Everything that stands already."""
        return tuple(i for s in self.segments for i in s.token_ids)


def encode_text(policy: Policy, text: str) -> tuple[int, ...]:
    """The token ids of a text that is put into an answer, without template or special tokens (but for the
    tags of thoughts and the like, which belong to an answer's text)."""
    return policy.encode_words(text)


def go_on(
    policy: Policy,
    begun: Sequence[Begun],
    *,
    sampling: Sampling,
    purpose: Purpose,
    pause: Callable[[], None] = lambda: None,
    finished: Callable[[int, Trajectory], None] = lambda place, trajectory: None,
) -> list[Trajectory]:
    """One trajectory for each beginning, in order: its segments, and one more of at most
    `sampling.max_tokens` sampled tokens. `finished` gets each as soon as it has ended.

    The draws are those of (seed, step, prompt, member, purpose), as in `sample`.
    """
    found: list[Trajectory] = []
    longest = max((len(b.token_ids) for b in begun), default=0)
    rows = max(1, min(sampling.max_rows, sampling.max_cached // (longest + sampling.max_tokens)))
    for start in range(0, len(begun), rows):

        def of_chunk(place: int, trajectory: Trajectory, start: int = start) -> None:
            finished(start + place, trajectory)

        found += _chunk(policy, begun[start : start + rows], sampling, purpose, pause, of_chunk)
    return found


def _chunk(
    policy: Policy,
    begun: Sequence[Begun],
    sampling: Sampling,
    purpose: Purpose,
    pause: Callable[[], None],
    finished: Callable[[int, Trajectory], None],
) -> list[Trajectory]:
    draws_R_T = np.stack(
        [
            uniforms(
                sampling.max_tokens,
                seed=purpose.seed,
                step=purpose.step,
                prompt_id=b.prompt.id,
                member=b.member,
                purpose=purpose.name,
            )
            for b in begun
        ]
    )
    found: dict[int, Trajectory] = {}

    def ended(place: int, tokens: list[list[int]], logprobs: list[list[float]]) -> None:
        found[place] = _whole(policy, begun[place], tokens[0], logprobs[0])
        finished(place, found[place])

    run = _decode if policy.fast is None else _decode_fast
    run(policy, [b.token_ids for b in begun], 1, sampling, draws_R_T, pause, ended)
    return [found[place] for place in range(len(begun))]


def _whole(policy: Policy, begun: Begun, tokens: list[int], logprobs: list[float]) -> Trajectory:
    stop_reason: StopReason = "stop" if tokens[-1] in policy.stop_ids else "length"
    behind_prompt = [i for s in begun.segments[1:] for i in s.token_ids]
    words = behind_prompt + (tokens[:-1] if stop_reason == "stop" else tokens)
    said = policy.opening(begun.prompt.messages) + policy.decode(words)
    return Trajectory(
        prompt_id=begun.prompt.id,
        member=begun.member,
        messages=(*begun.prompt.messages, {"role": "assistant", "content": said}),
        segments=(
            *begun.segments,
            Segment(token_ids=tuple(tokens), trainable=True, logprobs=tuple(logprobs)),
        ),
        stop_reason=stop_reason,
    )
