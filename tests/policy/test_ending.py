"""Who is computed together, and when a group is handed out."""

from __future__ import annotations

from make import prompt, trajectory
from refine_rl.policy.protocol import Begun
from refine_rl.policy.sample import Ending, Stem, stems_of
from refine_rl.types import Segment

TWO = prompt(2)


def member(number: int, *said: int) -> Begun:
    """Of the second prompt, which has one token; with what was `said` behind it."""
    segments = (Segment(token_ids=(7,), trainable=False),)
    if said:
        segments += (Segment(token_ids=said, trainable=True, logprobs=(-1.0,) * len(said)),)
    return Begun(prompt=TWO, member=number, segments=segments)


def test_neighbours_of_one_group_of_whom_the_same_stands_are_a_stem() -> None:
    a, b, c, d = member(0, 1), member(1, 1), member(2, 2), member(3, 1)
    assert stems_of([[a, b, c, d], [], [a]]) == [
        Stem(place=0, members=(a, b)),
        Stem(place=0, members=(c,)),
        Stem(place=0, members=(d,)),
        Stem(place=2, members=(a,)),
    ]


def test_a_group_comes_out_in_its_order_once_its_last_has_ended() -> None:
    ending = Ending([[], [member(n) for n in (4, 1, 6)], [member(0)]])
    said = {n: trajectory(TWO, member=n, tokens=1) for n in (0, 1, 4, 6)}
    assert ending.empty() == [(0, ())]
    assert ending.add(1, [said[6], said[1]]) == []
    assert ending.add(2, [said[0]]) == [(2, (said[0],))]
    assert ending.add(1, [said[4]]) == [(1, (said[4], said[1], said[6]))]
