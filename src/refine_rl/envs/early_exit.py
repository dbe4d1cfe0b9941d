"""S-GRPO's rollouts (arXiv 2505.07686): a serial group, made of one thought.

For each prompt one answer is sampled whole. Its thought, the tokens before `rollout.early_exit.ends`, is cut
at random places; each cut thought is ended by a forced text, and the answer to it is sampled. The group is
these early exits in the order of their length, and the whole answer last.

A cut thought keeps the log-probs with which it was sampled and is trained in every member that holds it, as
in the paper, whose loss runs over all tokens of each. The forced text was not sampled and is not trained:
that thoughts end earlier comes from what follows a good exit being trained down in the longer members. Two
things differ from the paper: the places of a group are distinct, so that no two members share a length, and
a thought of fewer tokens gives a smaller group.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from refine_rl.envs.base import Coming, How, Members, Turn, at_once, ended
from refine_rl.errors import GuardStop, UserError
from refine_rl.policy.protocol import Begun, Speaker, begun
from refine_rl.randomness import generator
from refine_rl.settings import EarlyExitSettings
from refine_rl.types import Prompt, Segment, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyExit:
    """Serial groups of at most `members`: the first turn is the whole answer, the second its exits. Thought,
    forced text and an exit's answer together have no more tokens than the whole answer may have."""

    speaker: Speaker
    members: int
    first: How
    exits: EarlyExitSettings

    @property
    def goes_on(self) -> bool:
        return False  # a thought that is cut is another beginning

    def fits(self) -> None:
        """Raises UserError where no token of a thought has room."""
        self._room()

    def how(self, number: int) -> How:
        if number == 1:
            return self.first
        return How(
            sampling=replace(self.first.sampling, max_tokens=self.exits.answer_tokens),
            purpose=replace(self.first.purpose, name="early_exit"),
        )

    def begin(self, prompt: Prompt) -> Coming:
        return at_once(Turn(begun=begun(self.speaker.encode(prompt.messages), prompt, 1)))

    def after(self, number: int, prompt: Prompt, turn: Turn, group: Members) -> Coming:
        """The exits of a whole answer, in the order of their length; the whole answer stands last."""
        if number > 1:
            return ended(group)
        (answer,) = group
        last = min(thought_tokens(self.speaker, answer, self.exits.ends) - 1, self._room())
        key = self.first.purpose
        kept = cuts(last, self.members - 1, seed=key.seed, step=key.step, prompt_id=prompt.id)
        forced = Segment(token_ids=self.speaker.encode_words(self._forced), trainable=False)
        return at_once(
            Turn(
                begun=tuple(
                    Begun(prompt=prompt, member=m, segments=(*_cut(answer, n), forced))
                    for m, n in enumerate(kept)
                ),
                waiting=(replace(answer, member=len(kept)),),
            )
        )

    def between(self, number: int, groups: Sequence[Members]) -> None:
        """Raises GuardStop where no answer has a thought."""
        ends, whole = self.exits.ends, [group[0] for group in groups]
        if not any(thought_tokens(self.speaker, t, ends) or ends in t.completion for t in whole):
            raise GuardStop(
                "no_thoughts",
                f"Step {self.first.purpose.step}: no answer of the model has {ends!r} in it, so there is no "
                f"thought to cut. One of them: {whole[0].completion[:200]!r}",
                "rollout.early_exit.ends is the text with which the model itself ends a thought: go on with "
                "the one that it uses (control tokens are no part of an answer's text), or start anew with a "
                "model that thinks before it answers.",
            )

    @property
    def _forced(self) -> str:
        return self.exits.forced or self.exits.ends

    def _room(self) -> int:
        """The most tokens of a thought that leave room for the forced text and an answer."""
        forced = len(self.speaker.encode_words(self._forced))
        whole = self.first.sampling.max_tokens
        room = whole - forced - self.exits.answer_tokens
        if room < 1:
            raise UserError(
                f"rollout.max_tokens = {whole} leaves no room for a thought beside the {forced} "
                f"tokens of the text that ends it and rollout.early_exit.answer_tokens = "
                f"{self.exits.answer_tokens}. Raise the first, or lower the last."
            )
        return room


def thought_tokens(speaker: Speaker, answer: Trajectory, ends: str) -> int:
    """How many of a sampled answer's tokens are its thought: those before the text `ends`; all where it was
    cut before it came to that, none where it stopped without."""
    tokens = answer.segments[1].token_ids
    at = speaker.decode(tokens).find(ends)
    if at < 0:
        return len(tokens) if answer.stop_reason == "length" else 0
    # The most tokens whose text does not reach into `ends`.
    return bisect_right(range(len(tokens) + 1), at, key=lambda n: len(speaker.decode(tokens[:n]))) - 1


def cuts(last: int, count: int, *, seed: int, step: int, prompt_id: str) -> tuple[int, ...]:
    """`count` different numbers from 1 to `last`, ascending (all where there are fewer): the tokens of a
    thought that are kept."""
    drawn = generator(seed, step, prompt_id, "cuts").permutation(max(0, last))[:count]
    return tuple(sorted(int(n) + 1 for n in drawn))


def _cut(answer: Trajectory, tokens: int) -> tuple[Segment, Segment]:
    prompt, sampled = answer.segments
    return prompt, Segment(
        token_ids=sampled.token_ids[:tokens], trainable=True, logprobs=sampled.logprobs[:tokens]
    )
