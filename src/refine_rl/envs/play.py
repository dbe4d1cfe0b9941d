"""The only loop over turns: a world and a speaker make the groups of some prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refine_rl.envs.base import How, Members, Turn, World
from refine_rl.envs.single_turn import SingleTurn
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose, Speaker, Spoken
from refine_rl.progress import Pause, never
from refine_rl.types import Prompt


def play(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    members: int,
    how: How,
    *,
    world: World | None = None,
    pause: Pause = never,
) -> Iterator[Spoken]:
    """A group of `members` trajectories for each prompt, with the prompt's place, as soon as it is over.

    All groups that go on do so together. `pause` is called between tokens; it may raise to leave early.
    """
    world = world or SingleTurn()
    turns = {place: world.begin(speaker, p, members, how) for place, p in enumerate(prompts)}
    number = 0
    while turns:
        number += 1
        drawn = world.how(number, how)
        spoken: dict[int, Members] = {}
        follow: dict[int, Turn] = {}
        places = sorted(turns)
        for n, said in speaker.speak(
            [turns[place].begun for place in places],
            sampling=drawn.sampling,
            purpose=drawn.purpose,
            pause=pause,
        ):
            place = places[n]
            waited = turns[place].waiting
            group = tuple(sorted((*said, *waited), key=lambda t: t.member)) if waited else said
            following = world.after(speaker, number, prompts[place], group, how)
            if following is None:
                yield place, group
            else:
                spoken[place], follow[place] = group, following
        if follow:
            world.between(speaker, number, [spoken[place] for place in sorted(spoken)], how)
        turns = follow


def played(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    members: int,
    *,
    sampling: Sampling,
    purpose: Purpose,
    world: World | None = None,
    pause: Pause = never,
) -> list[Members]:
    """The groups of all prompts, in order."""
    how = How(sampling=sampling, purpose=purpose)
    groups = dict(play(speaker, prompts, members, how, world=world, pause=pause))
    return [groups[place] for place in range(len(prompts))]
