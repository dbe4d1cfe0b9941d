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
from collections.abc import Callable, Sequence
from dataclasses import replace

from refine_rl.errors import GuardStop, UserError
from refine_rl.policy.continuing import Begun, encode_text, go_on
from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.policy.sample import Purpose, sample
from refine_rl.randomness import generator
from refine_rl.settings import EarlyExitSettings, Settings
from refine_rl.training.grpo.collect import Finished
from refine_rl.types import Prompt, Segment, Trajectory


def serial_groups(
    policy: Policy,
    prompts: Sequence[Prompt],
    step: int,
    settings: Settings,
    exits: EarlyExitSettings,
    *,
    pause: Callable[[], None] = lambda: None,
    finished: Finished = lambda place, group: None,
) -> list[tuple[Trajectory, ...]]:
    """The serial group of each prompt; each is told to `finished` as soon as it is whole. Raises GuardStop
    where no answer has a thought."""
    r, seed = settings.rollout, settings.grpo.seed
    how = Sampling(max_tokens=r.max_tokens, temperature=r.temperature, top_p=r.top_p, top_k=r.top_k)
    purpose = Purpose(seed=seed, step=step, name="rollout")
    whole = [
        group[0] for group in sample(policy, prompts, members=1, sampling=how, purpose=purpose, pause=pause)
    ]
    thoughts = [thought_tokens(policy, t, exits.ends) for t in whole]
    if not any(thoughts) and all(exits.ends not in t.completion for t in whole):
        raise _no_thoughts(step, exits, whole)

    forced = Segment(token_ids=encode_text(policy, _forced(exits)), trainable=False)
    longest = room_for_thought(policy, settings, exits)
    begun: list[Begun] = []
    places: list[int] = []  # whose early exit each of `begun` is
    groups: list[list[Trajectory]] = []
    for place, (prompt, answer, thought) in enumerate(zip(prompts, whole, thoughts, strict=True)):
        kept = cuts(min(thought - 1, longest), r.group_size - 1, seed=seed, step=step, prompt_id=prompt.id)
        begun += [
            Begun(prompt=prompt, member=m, segments=(*_cut(answer, n), forced)) for m, n in enumerate(kept)
        ]
        places += [place] * len(kept)
        groups.append([replace(answer, member=len(kept))])
        if not kept:
            finished(place, tuple(groups[place]))

    def exited(number: int, trajectory: Trajectory) -> None:
        group = groups[places[number]]
        group.append(trajectory)
        group.sort(key=lambda t: t.member)
        if len(group) == group[-1].member + 1:
            finished(places[number], tuple(group))

    go_on(
        policy,
        begun,
        sampling=replace(how, max_tokens=exits.answer_tokens),
        purpose=replace(purpose, name="early_exit"),
        pause=pause,
        finished=exited,
    )
    return [tuple(group) for group in groups]


def thought_tokens(policy: Policy, answer: Trajectory, ends: str) -> int:
    """How many of a sampled answer's tokens are its thought: those before the text `ends`; all where it was
    cut before it came to that, none where it stopped without."""
    tokens = answer.segments[1].token_ids
    at = policy.decode(tokens).find(ends)
    if at < 0:
        return len(tokens) if answer.stop_reason == "length" else 0
    # The most tokens whose text does not reach into `ends`.
    return bisect_right(range(len(tokens) + 1), at, key=lambda n: len(policy.decode(tokens[:n]))) - 1


def cuts(last: int, count: int, *, seed: int, step: int, prompt_id: str) -> tuple[int, ...]:
    """`count` different numbers from 1 to `last`, ascending (all where there are fewer): the tokens of a
    thought that are kept."""
    drawn = generator(seed, step, prompt_id, "cuts").permutation(max(0, last))[:count]
    return tuple(sorted(int(n) + 1 for n in drawn))


def room_for_thought(policy: Policy, settings: Settings, exits: EarlyExitSettings) -> int:
    """The most tokens of a thought that leave room for the forced text and an answer within
    rollout.max_tokens. Raises UserError where there are none."""
    forced = len(encode_text(policy, _forced(exits)))
    room = settings.rollout.max_tokens - forced - exits.answer_tokens
    if room < 1:
        raise UserError(
            f"rollout.max_tokens = {settings.rollout.max_tokens} leaves no room for a thought beside the "
            f"{forced} tokens of the text that ends it and rollout.early_exit.answer_tokens = "
            f"{exits.answer_tokens}. Raise the first, or lower the last."
        )
    return room


def _forced(exits: EarlyExitSettings) -> str:
    return exits.forced or exits.ends


def _cut(answer: Trajectory, tokens: int) -> tuple[Segment, Segment]:
    prompt, sampled = answer.segments
    return prompt, Segment(
        token_ids=sampled.token_ids[:tokens], trainable=True, logprobs=sampled.logprobs[:tokens]
    )


def _no_thoughts(step: int, exits: EarlyExitSettings, whole: Sequence[Trajectory]) -> GuardStop:
    return GuardStop(
        "no_thoughts",
        f"Step {step}: no answer of the model has {exits.ends!r} in it, so there is no thought to cut. One "
        f"of them: {whole[0].completion[:200]!r}",
        "rollout.early_exit.ends is the text with which the model itself ends a thought: go on with the one "
        "that it uses (control tokens are no part of an answer's text), or start anew with a model that "
        "thinks before it answers.",
    )
