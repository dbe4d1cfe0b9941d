from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from make import comparison, estimate, event
from refine_rl.report.headline import Headline, headline
from refine_rl.report.next_steps import Command
from refine_rl.report.now import standing_of
from refine_rl.run.life import Life
from refine_rl.run.lock import hold
from refine_rl.types import Comparison, Content, Contrast

RESUME = "refine train --resume runs/a"


def head(comparison: Comparison | None, events: list[Any], validation: list[Any], **more: Any) -> Headline:
    standing = standing_of(events, more.pop("hold", None), silent=90.0, patience=120.0, resume=RESUME)
    usual = {"steps_done": 7, "steps": 120, "standing": standing, "again": "refine eval runs/a"}
    return headline(comparison, events, validation, **(usual | more))


def words(*args: Any, **kwargs: Any) -> str:
    said = head(*args, **kwargs)
    return " | ".join([f"{said.claim} {said.numbers}", *said.notes]).replace("\N{NO-BREAK SPACE}", " ")


def test_better_is_said_with_its_numbers() -> None:
    assert words(comparison("better", estimate(0.62, 0.55, 0.68)), [], []) == (
        "The tuned model is better: reward 0.21 → 0.83 (difference +0.62, 95 % interval 0.55 to 0.68) "
        "on 64 held-out prompts."
    )


def test_worse_and_not_better_are_said_as_plainly() -> None:
    worse = words(comparison("worse", estimate(-0.2, -0.3, -0.1)), [], [])
    assert worse.startswith("The tuned model is worse: ")
    assert "difference −0.20, 95 % interval −0.30 to −0.10)" in worse
    flat = words(comparison("not better", estimate(0.01, -0.004, 0.02)), [], [])
    assert flat.startswith("The tuned model is not shown to be better: ")
    assert "interval −0.004 to 0.02, which does not exclude 0)" in flat


def test_what_weakens_the_claim_is_said_with_it() -> None:
    shaky = words(comparison("better", estimate(0.6, 0.5, 0.7), prompts=5, prompts_missing=3), [], [])
    assert "95 % interval 0.50 to 0.70) compared on 5 of 8 held-out prompts." in shaky
    assert "Only 5 prompts: an interval from so few holds less often than it should." in shaky
    assert "Left out on both sides, because a score was missing: 3 of 8 prompts." in shaky


def test_too_few_prompts_get_no_interval() -> None:
    said = words(comparison("too few to tell", estimate(0.6, 0.6, 0.6), prompts=1), [], [])
    claim = "Too few prompts to tell: reward 0.21 → 0.83 (difference +0.60) on 1 held-out prompt."
    assert said.startswith(f"{claim} | Only 1 prompt: ")
    assert "interval 0" not in said
    assert "does not exclude" not in said


def test_nothing_learned_and_nothing_compared_are_said() -> None:
    flat = words(comparison("no signal", estimate(0.0, -0.1, 0.1)), [], [])
    assert flat.startswith("Nothing was learned: reward 0.21 → 0.83 (difference 0.00, 95 % interval")
    assert "No step of the training moved a weight" in flat
    none = {"base": None, "tuned": None, "prompts": 0, "prompts_missing": 4}
    said = head(comparison("not possible", None, **none), [], [])
    assert said.claim == "Trained, but a comparison was not possible:"
    assert said.numbers == "scores of both models on 0 of 4 held-out prompts."
    assert any("compare again" in note for note in said.notes)


def test_the_share_of_cut_answers_stands_beside_the_verdict() -> None:
    def said(base: float, tuned: float) -> str:
        cut = Contrast(base=estimate(base, 0, 1), tuned=estimate(tuned, 0, 1), difference=estimate(0, 0, 0))
        return words(comparison("better", estimate(0.6, 0.5, 0.7), details={"cut": cut}), [], [])

    assert said(0.1, 0.0).startswith("The tuned model is better: reward")
    assert "Answers cut at the token limit: base 10 %, tuned 0 %." in said(0.1, 0.0)
    mostly = said(1.0, 0.97)
    assert mostly.startswith("The tuned model is better, on answers that were mostly cut off: reward")
    assert "what is compared are beginnings" in mostly


def test_content_that_was_lost_stands_in_the_claim() -> None:
    lost = {
        "base": Content(tokens=40.0, kept=0.3, by_length=0.9),
        "tuned": Content(tokens=8.0, kept=0.06),
    }
    said = words(comparison("better", estimate(0.62, 0.55, 0.68), content=lost), [], [])
    assert said.startswith("The tuned model is better by its reward, and lost the prompts’ content: reward")
    assert "Answers fell from 40 to 8 tokens and from 30 % to 6 % of the prompt's content words" in said


def test_successes_are_told_sampled_and_greedy() -> None:
    contrast = Contrast(base=estimate(0.09, 0, 0), tuned=estimate(0.9, 0, 0), difference=estimate(0.81, 0, 0))
    told = words(comparison("better", estimate(1, 1, 1), details={"success": contrast}), [], [])
    assert "Full successes: 9 % → 90 % of sampled answers." in told
    both = {"success": contrast, "success_greedy": contrast}
    told = words(comparison("better", estimate(1, 1, 1), details=both), [], [])
    assert "of sampled answers, 9 % → 90 % of greedy ones." in told


def test_a_guard_and_its_advice_stand_at_the_top() -> None:
    events = [event("started"), event("guard", "no_variance", "Lower the bar of the rules.", step=12)]
    said = words(None, events, [])
    assert said.startswith("Stopped by the guard “no_variance”: 7 of 120 steps trained")
    assert "The guard “no_variance” stopped training at step 12: Lower the bar of the rules." in said
    compared = words(comparison("better", estimate(0.6, 0.5, 0.7)), events, [])
    assert "The guard “no_variance” stopped training at step 12: Lower the bar of the rules." in compared


def test_a_resumed_run_is_not_stopped_any_more() -> None:
    events = [event("guard", "x", "advice", 3), event("resumed"), event("warning", "length", "shorter", 5)]
    said = words(None, events, [])
    assert said.startswith("Broken off: 7 of 120 steps trained; base and tuned were not compared")
    assert "guard" not in said
    assert said.endswith(f"Go on with: {RESUME}")


@pytest.mark.parametrize(
    ("kind", "claim", "way_out"),
    [
        ("interrupted", "Interrupted and saved:", f"Go on with: {RESUME}"),
        ("finished", "Trained, not compared:", "Compare with: refine eval runs/a"),
        ("started", "Broken off:", f"Go on with: {RESUME}"),
    ],
)
def test_an_unfinished_run_says_how_to_go_on(kind: str, claim: str, way_out: str) -> None:
    said = words(None, [event(kind, step=7)], [])
    assert said.startswith(claim)
    assert way_out in said


def test_without_a_comparison_validation_is_a_lead() -> None:
    validation = [
        {"step": s, "reward": {"mean": m, "ci95": [m, m]}} for s, m in ((0, 0.2), (10, 0.4), (20, 0.55))
    ]
    assert "0.20 at step 0 → 0.55 at step 20" in words(None, [], validation)
    assert "no proof" in words(None, [], validation)
    assert "validation" not in words(None, [], validation[:1])


def test_a_failure_is_said_and_a_run_that_went_back_is_not_finished() -> None:
    failed = head(None, [event("failure", "endpoint", "No answer.")], [])
    assert (failed.tone, failed.claim) == ("open", "Stopped, an endpoint or the machine failed:")
    assert failed.notes == (f"No answer. Go on with: {RESUME}",)
    back = [event("finished", "finished", ""), event("rewound", "rewound", "Back to step 2.")]
    assert head(None, back, []).claim == "Broken off:"


def test_a_run_that_somebody_holds_is_running(tmp_path: Path) -> None:
    with Life.claim(tmp_path / "a").writing():
        holds = hold(tmp_path / "a")
    assert words(None, [event("started")], [], hold=holds) == (
        "Running: 7 of 120 steps trained; base and tuned were not compared on held-out prompts."
    )


def test_the_commands_that_follow_from_a_verdict_stand_behind_what_weakens_it() -> None:
    after = [Command(text="refine eval runs/a --samples 16", what="More answers may narrow it:")]
    flat = head(comparison("not better", estimate(0.01, -0.004, 0.02), prompts=19), [], [], after=after)
    assert flat.notes[0].startswith("Only 19 prompts")
    assert flat.notes[-1] == "More answers may narrow it: refine eval runs/a --samples 16"


def test_a_run_that_went_back_on_its_way_says_so_at_the_top() -> None:
    def look(step: int, reward: float, eye: float) -> dict[str, Any]:
        return {"step": step, "reward": {"mean": reward}, "eye": {"mean": eye}}

    back = event("note", "gone_back", "From step 2 to step 6 ...: training went back to step 2 ...", 2)
    rewound = event("rewound", "rewound", "Back to step 2.", 2)
    guard = event("guard", "all_cut", "Nothing was finished.", 4)
    events = [event("warning", "drift", "Apart.", 6), back, rewound, guard]
    looks = [look(0, 0.3, 0.6), look(4, 0.5, 0.5)]
    said = words(None, events, looks, eye_chooses=True)
    assert said.startswith("Stopped by the guard “all_cut”: 7 of 120 steps trained")
    went = "Training went back to step 2 on the way, as the reward rose and the other eye saw the answers get"
    assert f"Nothing was finished. | {went}" in said
    assert said.endswith(
        "Reward on the validation prompts: 0.30 at step 0 → 0.50 at step 4; the other eye gives the same "
        "answers 0.60 → 0.50. That eye chooses the checkpoint, so this is a lead, no proof."
    )
    assert went in words(comparison("better", estimate(0.62, 0.55, 0.68)), events[:-1], looks)
    later = [*events, event("rewound", "rewound", "Back to the start.", 0)]
    assert went not in words(None, later, looks)
    usual = words(None, [guard], [looks[0], {"step": 4, "reward": {"mean": 0.5}}])
    assert usual.endswith(
        "0.30 at step 0 → 0.50 at step 4. They choose the checkpoint, so this is a lead, no proof."
    )
