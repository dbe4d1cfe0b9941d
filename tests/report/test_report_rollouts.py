from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packed import carried
from refine_rl.report.data import plain
from refine_rl.report.rollouts import choose, for_script
from refine_rl.report.survey import Seen, survey
from refine_rl.run import RunFolder


def test_everything_is_there_where_it_fits(run: RunFolder) -> None:
    found, data = carried(run)
    assert (found.groups, found.groups_all, found.steps, found.steps_all) == (180, 180, 60, 60)
    assert found.followed == ""
    assert data["others"] == []
    assert [s["step"] for s in data["steps"]] == list(range(1, 61))
    groups = [group for step in data["steps"] for group in step["groups"]]
    for group, line in zip(groups, run.groups.lines(), strict=True):
        assert group["prompt"] == line["prompt_id"]
        assert group["context"] == line["trajectories"][0]["messages"][:1]
        assert set(data["facets"][group["prompt"]]) == {"style", "topic"}
        for member, t in zip(group["members"], line["trajectories"], strict=True):
            assert member["messages"] == [
                {**message, "content": plain(message["content"])} for message in t["messages"][1:]
            ]
            assert member["tokens"] == len(t["tokens"])
            assert (member["status"], member["stop"]) == (t["status"], t["stop_reason"])
            assert member["why"] == t["explanation"]
            for key in ("reward", "advantage"):
                about = None if t[key] is None else pytest.approx(t[key], rel=1e-3)
                assert member[key] == about
            assert member["parts"] == pytest.approx(t["breakdown"], rel=1e-3)


@pytest.mark.parametrize("part", [2, 5])
def test_a_large_run_is_thinned_within_the_limit(run: RunFolder, part: int) -> None:
    whole = len(carried(run)[0].json.encode())
    limit = whole // part
    found, data = carried(run, limit)
    assert len(found.json.encode()) <= limit
    assert len(found.json.encode()) > 0.5 * limit
    assert found.groups == sum(len(s["groups"]) for s in data["steps"]) < 180
    assert (found.groups_all, found.steps_all) == (180, 60)
    # Rewards of all groups: with their texts, or as numbers alone.
    rewards = {(step, prompt): given for step, prompt, given in data["others"]} | {
        (s["step"], g["prompt"]): [m["reward"] for m in g["members"]]
        for s in data["steps"]
        for g in s["groups"]
    }
    assert rewards == {
        (seen.step, seen.prompt): [None if r is None else pytest.approx(r, rel=1e-3) for r in seen.rewards]
        for seen in survey(run)
    }


def test_what_is_left_keeps_the_ends_one_prompt_and_some_of_every_step(run: RunFolder) -> None:
    whole = len(carried(run)[0].json.encode())
    found, data = carried(run, whole // 2)
    by_step = {s["step"]: [g["prompt"] for g in s["groups"]] for s in data["steps"]}
    assert by_step.keys() == set(range(1, 61))
    assert len(by_step[1]) == len(by_step[60]) == 3
    came = {(g.step, g.prompt) for g in survey(run) if g.prompt == found.followed}
    assert len(came) > 3
    assert {(step, found.followed) for step, prompts in by_step.items() if found.followed in prompts} == came
    few = carried(run, whole // 15)[1]["steps"]
    gaps = [b["step"] - a["step"] for a, b in itertools.pairwise(few)]
    assert max(gaps) <= 30  # spread over the run


def test_rewards_of_too_many_groups_are_left_out(run: RunFolder) -> None:
    found, data = carried(run, 8_000)
    assert not found.rewards
    assert data["others"] == []
    assert len(data["steps"]) > 3


def seen(step: int, prompt: str, size: int = 100) -> Seen:
    return Seen(step=step, prompt=prompt, rewards=(1.0,), agreement=None, size=size)


def test_at_least_one_group_is_kept() -> None:
    assert choose([seen(4, "a"), seen(9, "b")], 5) == [0]
    assert choose([], 5) == []


def test_a_run_without_rollouts_carries_none(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    found, data = carried(make_run(tmp_path / "run", steps=0, compared=False))
    assert (found.groups, found.groups_all) == (0, 0)
    assert data["steps"] == []


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
    (group,) = carried(run)[1]["steps"][0]["groups"]
    assert group["context"] == [question, same]
    assert group["members"][0]["messages"] == [{"role": "user", "content": "no"}, other]
    long = group["members"][1]["messages"][1]["content"]
    assert long == "x" * 8000 + " […] (1000 more characters in the run’s files)"


@given(st.dictionaries(st.text(), st.text() | st.floats() | st.none(), max_size=4))
def test_embedded_json_says_the_same_and_has_nothing_that_html_reads_or_that_turns_text(
    data: dict[str, str | float | None],
) -> None:
    text = for_script(data)
    assert not set("<>&\x7f\x85\u2028\u202e\u2066\ud800") & set(text)
    assert plain(text) == text
    back = json.loads(text)
    for key, value in data.items():
        finite = not isinstance(value, float) or abs(value) < float("inf")
        assert back[key] == (value if finite else None)
