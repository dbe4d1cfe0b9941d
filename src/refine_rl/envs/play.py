"""The only loop over turns: a world and its speaker make the groups of some prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refine_rl.envs.base import How, Members, Turn, World
from refine_rl.envs.single_turn import SingleTurn
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose, Speaker, Spoken
from refine_rl.progress import Pause, never
from refine_rl.types import Prompt


def play(world: World, prompts: Sequence[Prompt], pause: Pause = never) -> Iterator[Spoken]:
    """A group for each prompt, with the prompt's place, as soon as it is over.

    All groups that go on do so together. `pause` is called between tokens; it may raise to leave early.
    """
    turns = dict(enumerate(map(world.begin, prompts)))
    number = 0
    while turns:
        number += 1
        how, places = world.how(number), sorted(turns)
        spoken: dict[int, Members] = {}
        follow: dict[int, Turn] = {}
        for n, said in world.speaker.speak(
            [turns[place].begun for place in places],
            sampling=how.sampling,
            purpose=how.purpose,
            pause=pause,
        ):
            place = places[n]
            group = tuple(sorted((*said, *turns[place].waiting), key=lambda t: t.member))
            following = world.after(number, prompts[place], group)
            if following is None:
                yield place, group
            else:
                spoken[place], follow[place] = group, following
        if follow:
            world.between(number, [spoken[place] for place in sorted(spoken)])
        turns = follow


def sample(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    *,
    members: int,
    sampling: Sampling,
    purpose: Purpose,
    pause: Pause = never,
) -> list[Members]:
    """`members` plain answers to each prompt, in the order of the prompts."""
    world = SingleTurn(speaker=speaker, members=members, first=How(sampling=sampling, purpose=purpose))
    groups = dict(play(world, prompts, pause))
    return [groups[place] for place in range(len(prompts))]
