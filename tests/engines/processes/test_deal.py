"""Who does which part: as even as can be, and the same every time."""

from __future__ import annotations

import random
from itertools import combinations_with_replacement

import pytest

from refine_rl.engines.processes.deal import cut, dealt
from refine_rl.engines.processes.engine import place_of
from refine_rl.engines.processes.place import Place, launched
from refine_rl.errors import UserError
from refine_rl.settings import EngineSettings


def test_the_largest_come_first_and_held_pieces_stay() -> None:
    assert dealt([3, 3, 2, 2, 2], 2) == [0, 1, 0, 1, 0]
    assert dealt([7, 1, 1, 1], 3) == [0, 1, 2, 1]
    assert dealt([1, 1, 1, 1], 2, held={0: 1, 1: 1}) == [1, 1, 0, 0]
    assert dealt([], 2) == []


def largest(keys: list[int], shared: list[int], own: list[int], parts: list[slice]) -> int:
    """Tokens of the largest part."""

    def tokens(part: slice) -> int:
        rows = range(part.start, part.stop)
        firsts = [n for n in rows if n == part.start or keys[n] != keys[n - 1]]
        return sum(own[n] for n in rows) + sum(shared[n] for n in firsts)

    return max(tokens(part) for part in parts)


@pytest.mark.parametrize("seed", range(30))
def test_no_other_cut_has_a_smaller_largest_part(seed: int) -> None:
    chance = random.Random(seed)
    keys = sorted(chance.randint(0, 3) for _ in range(chance.randint(1, 7)))
    prompts = [chance.randint(0, 9) for _ in range(4)]
    shared, own = [prompts[key] for key in keys], [chance.randint(1, 9) for _ in keys]
    ranks = chance.randint(1, 4)
    parts = cut(keys, shared, own, ranks)
    assert [n for part in parts for n in range(part.start, part.stop)] == list(range(len(keys)))
    assert len(parts) == ranks
    every = [
        [slice(a, b) for a, b in zip((0, *ends), (*ends, len(keys)), strict=True)]
        for ends in combinations_with_replacement(range(len(keys) + 1), ranks - 1)
    ]
    assert largest(keys, shared, own, parts) == min(largest(keys, shared, own, some) for some in every)


def test_a_launcher_says_who_this_is() -> None:
    said = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert launched({**said, "MASTER_ADDR": "localhost"}) == Place(rank=3, size=4, local_rank=3, local_size=4)
    two = launched({**said, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert two == Place(rank=3, size=4, local_rank=1, local_size=2)
    assert not two.one_machine
    assert launched({**said, "WORLD_SIZE": "1", "RANK": "0"}) is None
    assert launched({"RANK": "3", "WORLD_SIZE": "4"}) is None
    with pytest.raises(UserError, match="RANK=three"):
        launched({**said, "RANK": "three", "MASTER_ADDR": "127.0.0.1"})


def test_a_launcher_that_does_not_say_who_shares_a_machine() -> None:
    """One process a pod: were all taken for one machine's, the first would listen to that alone."""
    said = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "pod-0", "MASTER_PORT": "1"}
    with pytest.raises(UserError, match=r"LOCAL_RANK and LOCAL_WORLD_SIZE missing.*LOCAL_WORLD_SIZE=1"):
        launched(said)
    with pytest.raises(UserError, match=r": LOCAL_RANK missing"):
        launched({**said, "LOCAL_WORLD_SIZE": "1"})
    place = launched({**said, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    assert place == Place(rank=1, size=2, local_rank=0, local_size=1)
    assert launched({**said, "WORLD_SIZE": "1"}) is None


def test_a_launcher_and_settings_that_want_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    two = Place(rank=0, size=2, local_rank=0, local_size=2)
    assert place_of(EngineSettings(processes=2)) == place_of(EngineSettings()) == two
    with pytest.raises(UserError, match=r"engine\.processes = 3, and a launcher started 2"):
        place_of(EngineSettings(processes=3))
    with pytest.raises(UserError, match=r"started 2 processes, and engine\.kind = 'vllm' is for one"):
        place_of(EngineSettings(kind="vllm", base_url="http://127.0.0.1:1/v1"))
