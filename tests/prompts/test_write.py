"""Prompts from a task alone, by writers that are good, bad, repetitive, unwilling or gone."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from refine_rl.errors import GuardStop, Interrupted, MachineError, SettingsError, UserError
from refine_rl.llm.background import all_of
from refine_rl.llm.client import CallFailed, EndpointDown, Request
from refine_rl.llm.scripted import Scripted, ScriptedConnections
from refine_rl.llm.structured import Unusable
from refine_rl.prompts import load_all_prompts, load_prompts
from refine_rl.prompts.board import Board
from refine_rl.prompts.slots import Slot, plan_slots
from refine_rl.prompts.write import Written, write_prompts
from refine_rl.prompts.writer import CHECKED, read_system, sift
from refine_rl.report.coverage import cover
from refine_rl.settings import PromptSettings, Settings
from refine_rl.types import Prompt, Split

TASK = "Answer every question in one friendly sentence."
ASKED: dict[Split, int] = {"train": 20, "validation": 4, "held_out": 8}


def settings(seed: int = 0, *, prompts: dict[str, Any] | None = None, **writer: Any) -> Settings:
    return Settings.model_validate(
        {
            "task": TASK,
            "prompts": prompts or {},
            "writer": {"model": "scripted/writer", "batch": 5, **writer},
            "grpo": {"seed": seed},
        }
    )


def write(client: Scripted, given: Settings | None = None, asked: dict[Split, int] = ASKED) -> Written:
    s = given or settings()
    return asyncio.run(
        write_prompts(client, asked, task=s.task, prompts=s.prompts, writer=s.writer, seed=s.grpo.seed)
    )


def load(client: Scripted, given: Settings | None = None, **numbers: int) -> tuple[list[Prompt], Any]:
    asked = {"train": 20, "validation": 4, "held_out": 8} | numbers
    s = given or settings()
    s = s.model_copy(update={"prompts": s.prompts.model_copy(update=asked)})
    return load_prompts(s, ScriptedConnections({"scripted/writer": client}))


def texts(written: Written) -> list[str]:
    return [c.messages[0]["content"] for c in written.candidates]


def test_a_writer_fills_every_slot(scripts: SimpleNamespace) -> None:
    brain = scripts.Brain()
    client = Scripted(brain, model="scripted/writer")
    found = write(client)
    assert Counter(c.split for c in found.candidates) == ASKED
    assert (found.stopped, found.dropped, found.read, found.unchecked) == ("", (), 32, 0)
    assert found.facets == scripts.FACETS
    assert found.system == "You answer kindly."
    assert {c.origin for c in found.candidates} == {"writer:scripted/writer"}
    for c in found.candidates:
        assert list(c.facets) == ["topic", "tone", "length"]
        assert all(f"{value}" in c.messages[0]["content"] for value in c.facets.values())
    rounds = [[f"{r}/{b}" for b in range(n)] for r, n in enumerate((1, 4, 2))]  # 5, 20 and 7 of 32
    assert [c for c in brain.calls if c[-1].isdigit()] == [about for r in rounds for about in r]
    assert brain.calls[0] == "facets"
    assert brain.calls[-1] == "system"
    assert sum(c.endswith("check") for c in brain.calls) == 7


def test_batches_know_what_exists_and_what_went_wrong(scripts: SimpleNamespace) -> None:
    def some(number: int, combination: Any, batch: int) -> str:
        return "Sure, here it is" if number == 2 else scripts.plain(number, combination, batch)

    client = Scripted(scripts.Brain(some), model="scripted/writer")
    write(client)
    batches = {r.about: r for r in client.requests if r.about[-1].isdigit()}
    first, second = batches["0/0"].messages[0]["content"], batches["1/0"].messages[0]["content"]
    assert "exist already" not in first
    assert "refused" not in first
    assert f"<task>\n{TASK}\n</task>" in first
    assert "told the task in a system message" in first
    listed = second.split("write nothing like them:\n")[1].split("\n\n")[0].splitlines()
    assert len(listed) == 4
    assert all(line.startswith("- Tell me ") for line in listed)
    assert "- it talks about prompts (1x)" in second
    combinations = scripts.combinations(batches["0/0"])
    assert combinations[2] in scripts.combinations(batches["1/0"]).values()  # the refused one is asked again
    assert "- Tell" not in batches["1/0 check"].messages[0]["content"] if "1/0 check" in batches else True


def test_a_batch_is_shown_first_what_is_most_like_it() -> None:
    kinds = [("a", "x"), ("b", "y"), ("a", "y"), ("a", "x")]
    slots = [Slot(split="train", combination=kind) for kind in kinds]
    board = Board(slots, {"one": ["a", "b"], "two": ["x", "y"]}, PromptSettings(), batch=5, seed=0)
    board.filled |= {1: "nothing shared", 2: "one shared", 3: "the same"}
    assert board.examples([0], 2, "key") == ["the same", "one shared"]
    assert board.examples([0], 9, "key") == ["the same", "one shared", "nothing shared"]


def test_requests_carry_what_makes_them_repeatable(scripts: SimpleNamespace) -> None:
    client = Scripted(scripts.Brain(), model="scripted/writer")
    write(client, settings(7, temperature=0.9, max_tokens=77))
    asked = {r.about: r for r in client.requests}
    assert {r.purpose for r in client.requests} == {"writer"}
    assert [r.variation for r in client.requests] == [f"7/{r.about}" for r in client.requests]
    assert [asked[a].temperature for a in ("facets", "1/3", "1/3 check", "system")] == [0.9, 0.9, 0.0, 0.3]
    assert {r.max_tokens for r in client.requests} == {77}


def test_the_order_in_which_replies_arrive_changes_nothing(scripts: SimpleNamespace) -> None:
    def run(delays: list[float]) -> Written:
        brain = scripts.Brain(lambda number, c, batch: f"Tell me {c['topic']} {number % 13}, {c['tone']}")
        arrivals = iter(delays * 40)

        async def late(request: Request) -> Any:
            await asyncio.sleep(next(arrivals))
            return brain(request)

        return write(Scripted(late))  # type: ignore[arg-type]

    one, other = run([0.0, 0.001]), run([0.004, 0.0, 0.003, 0.001])
    assert one == other
    assert one.dropped


def test_the_seed_changes_what_is_asked(scripts: SimpleNamespace) -> None:
    one, again, other = (write(Scripted(scripts.Brain()), settings(seed)) for seed in (1, 1, 2))
    assert one == again
    assert [c.facets for c in one.candidates] != [c.facets for c in other.candidates]


def test_facets_and_system_message_of_the_settings_cost_no_call(scripts: SimpleNamespace) -> None:
    facets = {"topic": ["tea", "rain"], "tone": ["calm", "angry"]}
    brain = scripts.Brain()
    client = Scripted(brain)
    found = write(client, settings(prompts={"facets": facets, "system": "Be {{kind}}."}))
    assert {"facets", "system"} & set(brain.calls) == set()
    assert found.facets == facets
    assert found.system == "Be {{kind}}."
    assert "<system>\nBe {{kind}}.\n</system>" in client.requests[0].messages[0]["content"]
    bare = Scripted(scripts.Brain())
    assert write(bare, settings(system=False)).system == ""
    assert "The model reads the input and nothing else" in bare.requests[1].messages[0]["content"]


def test_repetitions_are_dropped_and_written_anew(scripts: SimpleNamespace) -> None:
    def repeats(number: int, combination: Any, batch: int) -> str:
        if number in (2, 1002):
            return "Where is the old lighthouse of the town?"
        if number == 1003:
            return "where  is the OLD lighthouse of the town?"
        if number == 1004:
            return "Please tell me now where is the old lighthouse of the town today?"
        return str(scripts.plain(number, combination, batch))

    given = settings(prompts={"near_duplicate": 0.5})
    found = write(Scripted(scripts.Brain(repeats)), given)
    assert Counter(d.kind for d in found.dropped) == {"duplicate": 2, "near-duplicate": 1}
    near = next(d for d in found.dropped if d.kind == "near-duplicate")
    assert near.why == "0.55 like “where is the old lighthouse of the town?”"
    assert near.text.startswith("Please tell me now")
    assert (len(found.candidates), found.read, found.stopped) == (32, 35, "")
    assert texts(found).count("Where is the old lighthouse of the town?") == 1
    off = write(Scripted(scripts.Brain(repeats)), settings(prompts={"near_duplicate": 1.0}))
    assert Counter(d.kind for d in off.dropped) == {"duplicate": 2}
    twins = scripts.Brain(lambda n, c, b: "Where?" if n in (1002, 1003) else scripts.plain(n, c, b))
    found = write(Scripted(twins), settings(prompts={"near_duplicate": 1.0}))
    assert texts(found).count("Where?") == 1


def test_a_writer_that_runs_dry_is_stopped(scripts: SimpleNamespace) -> None:
    brain = scripts.Brain(lambda number, c, batch: f"{c['topic']} and {c['tone']}")  # 6 different ones
    found = write(Scripted(brain))
    assert sorted(texts(found)) == sorted(
        f"{a} and {b}" for a in scripts.FACETS["topic"] for b in ("calm", "angry")
    )
    assert found.stopped == "2 rounds in a row gave fewer than 10% new prompts (0 of 20 in the last)"
    last = max(int(c.split("/")[0]) for c in brain.calls if "/" in c)
    assert last == 3
    assert found.read == 5 + 3 * 20
    assert len(found.dropped) == found.read - 6


def test_a_combination_that_cannot_be_filled_is_given_up_for_another(scripts: SimpleNamespace) -> None:
    def no_chess(number: int, combination: Any, batch: int) -> str:
        return "" if combination["topic"] == "chess" else str(scripts.plain(number, combination, batch))

    found = write(Scripted(scripts.Brain(no_chess)))
    assert Counter(c.split for c in found.candidates) == ASKED
    assert {c.facets["topic"] for c in found.candidates} == {"tea", "rain"}
    assert found.stopped == ""
    whole = {tuple(c.facets.values()) for c in found.candidates if c.split == "held_out"}
    known = {tuple(c.facets.values()) for c in found.candidates if c.split != "held_out"}
    assert whole - known


def test_answers_that_pose_as_prompts_are_found_by_the_check(scripts: SimpleNamespace) -> None:
    def poses(number: int, combination: Any, batch: int) -> str:
        if number == 1:
            return "Sure, why?"
        return f"Gladly, {number} times!" if number == 3 else str(scripts.plain(number, combination, batch))

    def check(request: Request) -> str:
        inputs = request.messages[0]["content"].split("<input ")[1:]
        wrong = [int(i.split(">")[0]) for i in inputs if "Gladly" in i]
        return json.dumps({"mistakes": wrong})

    found = write(Scripted(scripts.Brain(poses, check=check)))
    assert [(d.kind, d.why, d.text) for d in found.dropped] == [
        ("rejected", "it talks about prompts", "Sure, why?"),
        ("rejected", CHECKED, "Gladly, 3 times!"),
    ]
    slots = plan_slots(scripts.FACETS, ASKED, 0)  # the order of the prompts, whichever came late
    assert [c.split for c in found.candidates] == [s.split for s in slots]
    assert [tuple(c.facets.values()) for c in found.candidates] == [s.combination for s in slots]
    assert len(found.candidates) == 32
    assert not any("Gladly" in text for text in texts(found))
    brain = scripts.Brain(poses, check=check)
    unchecked = write(Scripted(brain), settings(check=False))
    assert any("Gladly" in text for text in texts(unchecked))
    assert not any(call.endswith("check") for call in brain.calls)


def test_a_check_that_cannot_be_had_refuses_nothing_and_is_said(scripts: SimpleNamespace) -> None:
    def failing(request: Request) -> str | Exception:
        return CallFailed("too busy") if request.about == "0/0 check" else '{"mistakes": []}'

    found = write(Scripted(scripts.Brain(check=failing)))
    assert (len(found.candidates), found.unchecked) == (32, 5)
    assert "5 written prompts could not be checked for being answers" in found.remarks()


@pytest.mark.parametrize("reply", ['{"mistakes": [9]}', '{"mistakes": [0]}', '{"mistakes": ["1"]}', "[true]"])
def test_a_check_with_wrong_numbers_is_asked_again(scripts: SimpleNamespace, reply: str) -> None:
    client = Scripted(scripts.Brain(check=lambda request: reply))
    found = write(client, asked={"train": 3, "validation": 0, "held_out": 1})
    assert (len(found.candidates), found.unchecked) == (4, 4)
    asked = [r for r in client.requests if r.about.endswith("check")]
    assert len(asked) == 3
    said = asked[-1].messages[-1]["content"]
    assert "they are numbered 1 to 4" in said or "whole numbers" in said


def test_a_batch_without_any_usable_prompt_is_told_why(scripts: SimpleNamespace) -> None:
    brain = scripts.Brain()

    def stubborn(request: Request) -> str:
        if request.about == "0/0" and len(request.messages) == 1:
            wrong = [{"combination": 1, "prompt": "Sure, a prompt"}, {"combination": 9, "prompt": "x"}]
            return json.dumps({"prompts": wrong})
        return str(brain.batch(request))

    client = Scripted(scripts.Brain(batch=stubborn))
    found = write(client)
    told = client.requests[2].messages[-1]["content"]
    assert (
        "None of the prompts can be used: it talks about prompts (1x); it belongs to no combination (1x)."
        in told
    )
    assert len(found.candidates) == 32


def test_a_batch_whose_call_fails_is_asked_for_again(scripts: SimpleNamespace) -> None:
    brain = scripts.Brain()

    def failing(request: Request) -> str | Exception:
        return CallFailed("busy") if request.about in ("1/1", "1/2") else str(brain.batch(request))

    found = write(Scripted(scripts.Brain(batch=failing)))
    assert (len(found.candidates), found.stopped) == (32, "")


def test_a_writer_that_fails_for_good_is_an_endpoint_failure(scripts: SimpleNamespace) -> None:
    with pytest.raises(
        MachineError, match=r"gave no prompt that can be used: all calls of two rounds failed, .*: busy\.$"
    ):
        write(Scripted(scripts.Brain(batch=lambda request: CallFailed("busy"))))
    refusal = '{"prompts": [{"combination": 1, "prompt": "I\'m sorry, I can\'t help with that."}]}'
    with pytest.raises(MachineError, match=r"what it wrote was refused: it is a refusal \(5x\)\.$"):
        write(Scripted(scripts.Brain(batch=lambda request: refusal)))
    with pytest.raises(MachineError, match=r"named no facets of the task: .*\nName them in `prompts.facets`"):
        write(Scripted(scripts.Brain(facets="no idea")))
    with pytest.raises(
        MachineError, match=r"no system message: .* gap to fill in.*\nGive one in `prompts.sys"
    ):
        write(Scripted(scripts.Brain(system='{"system": "You are [insert name]."}')))


@pytest.mark.parametrize("error", [GuardStop("budget", "Spent.", "Raise it."), EndpointDown("gone")])
def test_what_ends_everything_goes_through(scripts: SimpleNamespace, error: Exception) -> None:
    brain = scripts.Brain()

    def ends(request: Request) -> str | Exception:
        return error if request.about == "1/2" else str(brain.batch(request))

    with pytest.raises(type(error)) as caught:
        write(Scripted(scripts.Brain(batch=ends)))
    assert caught.value is error


def test_after_an_error_nothing_goes_on_in_the_background() -> None:
    ended = []

    async def slow() -> None:
        try:
            await asyncio.sleep(300)
        finally:
            ended.append("slow")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def main() -> None:
        with pytest.raises(ValueError, match="no"):
            await asyncio.wait_for(all_of([slow(), fails()]), 60)
        assert ended == ["slow"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_what_cannot_be_stored_is_refused(scripts: SimpleNamespace) -> None:
    value = {"prompts": [{"combination": 1, "prompt": "half \ud83d"}, {"combination": 2, "prompt": " fine "}]}
    found = sift(value, [{"a": "b"}] * 2, TASK, told=True)
    assert found.texts == {1: "fine"}
    assert [d.why for d in found.rejected] == ["it has characters that cannot be stored"]


def test_one_prompt_a_combination() -> None:
    entries = [(2, "two"), (2, "two again"), (3, "three"), (0, "none")]
    value = {"prompts": [{"combination": n, "prompt": p} for n, p in entries]}
    found = sift(value, [{}, {}], TASK, told=True)
    assert (found.texts, found.read) == ({1: "two"}, 4)
    assert [(d.why, d.text) for d in found.rejected] == [
        ("its combination has one already", "two again"),
        ("it belongs to no combination", "three"),
        ("it belongs to no combination", "none"),
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, 'no list "prompts"'),
        ({"prompts": [{"combination": 1}]}, "Entry 1 is not"),
        ({"prompts": [{"combination": "1", "prompt": "a"}]}, "Entry 1 is not"),
        ({"prompts": [{"combination": True, "prompt": "a"}]}, "Entry 1 is not"),
        ({"prompts": ["a"]}, "Entry 1 is not"),
    ],
)
def test_replies_of_another_form(value: Any, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        sift(value, [{}], TASK, told=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (3, 'no text "system"'),
        (" ", 'no text "system"'),
        ("x" * 2000, "has 2000 characters"),
        ("You are [your name].", "has a gap"),
        ("I'm sorry, but I can't help with that.", "is no system message"),
        ("half \ud83d", "is no system message"),
    ],
)
def test_system_messages_that_cannot_be_used(text: Any, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        read_system({"system": text})
    assert read_system({"system": " You are kind.\n"}) == "You are kind."


# -- as a source ------------------------------------------------------------------------------------


def test_written_prompts_of_a_run(scripts: SimpleNamespace) -> None:
    prompts, report = load(Scripted(scripts.Brain(), model="scripted/writer"))
    assert [p.split for p in prompts] == ["train"] * 20 + ["validation"] * 4 + ["held_out"] * 8
    assert [p.id for p in prompts] == [f"p{n:04d}" for n in range(32)]
    assert {p.messages[0]["content"] for p in prompts} == {"You answer kindly."}
    assert {p.origin for p in prompts} == {"writer:scripted/writer"}
    known = {tuple(p.facets.items()) for p in prompts if p.split != "held_out"}
    unseen = [p for p in prompts if p.split == "held_out" and tuple(p.facets.items()) not in known]
    assert len(unseen) == 4  # half of held_out: combinations that are held out whole
    coverage = cover(prompts)
    assert sum(coverage.whole.values()) == 4
    for facet, values in scripts.FACETS.items():
        assert set(coverage.facets[facet]) == set(values)
        assert all(coverage.facets[facet][v]["train"] > 0 for v in values)
    assert report.summary() == [
        "32 prompts written by scripted/writer",
        "kept 20 train, 4 validation, 8 held-out",
        "system message: You answer kindly.",
    ]
    lines = coverage.lines()
    assert lines[0] == "facet   value  train  validation  held-out"
    assert lines[-1].startswith(
        "4 of 8 held-out prompts have a combination of facets that no other prompt has"
    )


def test_without_numbers_a_writer_writes_a_hundred(scripts: SimpleNamespace) -> None:
    prompts, report = load_prompts(
        settings(batch=20), ScriptedConnections({"scripted/writer": scripts.Brain()})
    )
    assert report.splits == {"train": 64, "validation": 12, "held_out": 24}
    assert len(prompts) == 100


def test_a_writer_that_stopped_early_is_said_or_refused(scripts: SimpleNamespace) -> None:
    def dries(after: int) -> Scripted:
        written: list[int] = []

        def write_one(number: int, combination: Any, batch: int) -> str:
            written.append(number)
            return str(scripts.plain(number, combination, batch)) if len(written) <= after else "Sure, more"

        return Scripted(scripts.Brain(write_one), model="scripted/writer")

    prompts, report = load(dries(30))
    assert len(prompts) == 30
    assert any(
        line.startswith("the writer stopped early: 2 rounds in a row gave fewer than 10% new prompts")
        for line in report.summary()
    )
    assert any(
        line.endswith("rejected: it talks about prompts, such as “Sure, more”") for line in report.summary()
    )
    with pytest.raises(UserError) as caught:
        load(dries(9))
    said = str(caught.value)
    assert said.startswith("too few prompts: `prompts.train` needs 10 and got ")
    assert "the writer stopped early: 2 rounds" in said
    assert said.endswith(
        "say more in the task, fix `prompts.facets`, take another `writer.model`, or ask for fewer"
    )


def test_the_writer_is_the_source_by_name_or_where_there_is_no_other(scripts: SimpleNamespace) -> None:
    client = Scripted(scripts.Brain())
    named = settings(prompts={"source": "writer"})
    assert len(load(client, named)[0]) == 32
    with pytest.raises(UserError, match="need `connections`"):
        load_prompts(named)
    with pytest.raises(SettingsError, match="there is no scripted model"):
        load_prompts(named, ScriptedConnections({}))
    with pytest.raises(UserError, match="write them first: `refine prompts"):
        load_all_prompts(named, "writer", apart_from=[])


def test_writing_hears_of_a_pause_and_tells_how_far_it_is(scripts: SimpleNamespace) -> None:
    heard: list[str] = []
    load_prompts(
        settings(batch=50), ScriptedConnections({"scripted/writer": scripts.Brain()}), note=heard.append
    )
    assert heard == [
        "prompts vary in topic (tea, rain, chess); tone (calm, angry); length (short, long)",
        "50 of 100 prompts written",
        "100 of 100 prompts written",
    ]

    async def never_back(request: Request) -> str:
        await asyncio.sleep(60)
        return ""

    def pause() -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        load_prompts(settings(), ScriptedConnections({"scripted/writer": never_back}), pause=pause)


def test_connections_are_closed_where_they_were_used(scripts: SimpleNamespace) -> None:
    class Counting(ScriptedConnections):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    connections = Counting({"scripted/writer": scripts.Brain(facets="no")})
    with pytest.raises(MachineError):
        load_prompts(settings(), connections)
    assert connections.closed == 1
