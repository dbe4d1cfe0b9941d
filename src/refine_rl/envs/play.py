"""The only loop over turns: a world and its speaker make the groups of some prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refine_rl.envs.base import Coming, How, Members, Turn, World
from refine_rl.envs.build import plain_world
from refine_rl.envs.stage import Stage
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose, Speaker, Spoken
from refine_rl.progress import Counted, Pause, never, uncounted
from refine_rl.types import Prompt


def play(world: World, prompts: Sequence[Prompt], pause: Pause = never) -> Iterator[Spoken]:
    """A group for each prompt, with the prompt's place, as soon as it is over.

    All groups that go on do so together; what the world still has to do for one goes on while others are
    sampled. `pause` is called between tokens and while the world is waited for; it may raise to leave early.
    """
    memory = world.speaker.memory() if world.goes_on else None
    coming = {place: world.begin(prompt) for place, prompt in enumerate(prompts)}
    turns: dict[int, Turn] = {}
    spoken: dict[int, Members] = {}
    number = 0
    while True:
        yield from _arrived(coming, turns, pause)
        if not turns:
            return
        if spoken:
            world.between(number, [spoken[place] for place in sorted(turns)])
        number += 1
        how, places, now = world.how(number), sorted(turns), turns
        spoken, turns = {}, {}
        for n, said in world.speaker.speak(
            [now[place].begun for place in places],
            sampling=how.sampling,
            purpose=how.purpose,
            pause=pause,
            memory=memory,
        ):
            place = places[n]
            group = tuple(sorted((*said, *now[place].waiting), key=lambda t: t.member))
            spoken[place] = group
            coming[place] = world.after(number, prompts[place], now[place], group)
            yield from _arrived(coming, turns)


def _arrived(
    coming: dict[int, Coming], turns: dict[int, Turn], pause: Pause | None = None
) -> Iterator[Spoken]:
    """Takes the turns that are here (with `pause`: all, which are waited for) out of `coming`: those that
    follow are put into `turns`, groups that are over are given away."""
    for place in [place for place, turn in coming.items() if pause is not None or turn.here]:
        turn = coming.pop(place).wait(pause or never)
        if turn.over:
            yield place, turn.waiting
        else:
            turns[place] = turn


def sample(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    *,
    members: int,
    sampling: Sampling,
    purpose: Purpose,
    stage: Stage | None = None,
    pause: Pause = never,
    counted: Counted = uncounted,
) -> list[Members]:
    """`members` plain answers to each prompt, in the order of the prompts; or trajectories in the
    environments of a `stage`. `counted` hears of the prompts that are done."""
    world = plain_world(speaker, members, How(sampling=sampling, purpose=purpose), stage)
    groups: dict[int, Members] = {}
    for place, group in play(world, prompts, pause):
        groups[place] = group
        counted(len(groups), len(prompts))
    return [groups[place] for place in range(len(prompts))]
