from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from refine_rl.report.data import plain
from refine_rl.report.rollouts import choose, collect, for_script
from refine_rl.run import RunFolder


def test_everything_is_there_where_it_fits(run: RunFolder) -> None:
    rollouts = collect(run, 10_000_000)
    data = json.loads(rollouts.json)
    assert (rollouts.groups, rollouts.groups_all) == (180, 180)
    assert [s["step"] for s in data] == list(range(1, 61))
    line = next(run.groups.lines())
    shown = data[0]["groups"][0]
    assert shown["prompt"] == line["prompt_id"]
    assert shown["context"] == line["trajectories"][0]["messages"][:1]
    assert set(shown["facets"]) == {"style", "topic"}
    for member, trajectory in zip(shown["members"], line["trajectories"], strict=True):
        assert member["messages"] == [
            {**message, "content": plain(message["content"])} for message in trajectory["messages"][1:]
        ]
        assert member["tokens"] == len(trajectory["tokens"])
        for key in ("reward", "status", "breakdown", "explanation", "advantage", "stop_reason", "member"):
            assert member[key] == trajectory[key]


def test_a_large_run_is_thinned_evenly_and_within_the_limit(run: RunFolder) -> None:
    whole = len(collect(run, 10_000_000).json)
    fewer = collect(run, whole // 2)
    data = json.loads(fewer.json)
    assert fewer.steps == 60
    assert {len(s["groups"]) for s in data} == {1}
    assert len(fewer.json) < whole // 2 * 1.1  # facets and step numbers come on top
    few = collect(run, whole // 20)
    steps = [s["step"] for s in json.loads(few.json)]
    assert 4 <= few.steps == few.groups == len(steps) < 10
    assert len({b - a for a, b in itertools.pairwise(steps)}) == 1
    assert (few.groups_all, few.steps_all) == (180, 60)


def test_at_least_one_group_is_kept() -> None:
    assert choose({4: [100], 9: [100]}, 5) == (1, [4])
    assert choose({}, 5) == (1, [])


def test_groups_of_unequal_number_are_counted_as_they_are() -> None:
    assert choose({1: [5, 5, 5], 2: [5]}, 15) == (2, [1, 2])
    assert choose({1: [5], 2: [5], 3: [5], 4: [5]}, 10) == (1, [1, 3])


def test_turns_after_the_shared_ones_stay_with_their_member(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    run = make_run(tmp_path / "run", steps=1, prompts_per_step=1, group_size=2, held_out=2, compared=False)
    line = next(run.groups.lines())
    first, second = line["trajectories"]
    question = {"role": "user", "content": "Guess."}
    same, other = {"role": "assistant", "content": "crane"}, {"role": "assistant", "content": "slate"}
    first["messages"] = [question, same, {"role": "user", "content": "no"}, other]
    second["messages"] = [question, same, {"role": "user", "content": "warm"}, same]
    second["messages"][-1] = {"role": "assistant", "content": "x" * 9000}
    (tmp_path / "run" / "groups.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    (group,) = json.loads(collect(run, 10_000_000).json)[0]["groups"]
    assert group["context"] == [question, same]
    assert [m["content"] for m in group["members"][0]["messages"]] == ["no", "slate"]
    long = group["members"][1]["messages"][1]["content"]
    assert long == "x" * 8000 + " […] (1000 more characters in the run’s files)"


@given(st.dictionaries(st.text(), st.text() | st.floats() | st.none(), max_size=4))
def test_embedded_json_says_the_same_and_has_nothing_that_html_reads(
    data: dict[str, str | float | None],
) -> None:
    text = for_script(data)
    assert text.isascii()
    assert not set("<>&") & set(text)
    back = json.loads(text)
    for key, value in data.items():
        finite = not isinstance(value, float) or abs(value) < float("inf")
        assert back[key] == (value if finite else None)
