"""The held-out answers of a run on its page: all of them where there is room, and what is said of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import make
from games import games_run
from refine_rl.report.answers import Answers, choose, collect
from refine_rl.report.page import render
from refine_rl.run import RunFolder
from refine_rl.types import Outcome, Prompt, Score

MakeRun = Callable[..., RunFolder]
PROMPTS = [
    make.prompt(f"h{n}", f"Say {n}.", split="held_out", facets={"kind": "ab"[n % 2]}) for n in range(4)
]


def outcome(prompt: Prompt, greedy: Score | float, *sampled: Score | float, text: str = "said") -> Outcome:
    scores = [make.score(s) if isinstance(s, float) else s for s in (*sampled, greedy)]
    pairs = [
        (make.trajectory(prompt, f"{text} {n}", member=n, tokens=(5, 6)), s) for n, s in enumerate(scores)
    ]
    return Outcome(prompt=prompt, sampled=tuple(pairs[:-1]), greedy=pairs[-1])


@pytest.fixture
def folder(tmp_path: Path, make_run: MakeRun) -> RunFolder:
    """A run that has prompts and no answers yet."""
    settings = make_run(tmp_path / "other", steps=0, compared=False).settings()
    run = RunFolder.create(tmp_path / "run", settings)
    run.save_prompts(PROMPTS)
    return run


def found(run: RunFolder, limit: int = 10**6) -> Answers:
    answers = collect(run, run.comparison(), limit)
    assert answers is not None
    return answers


def test_the_sense_of_a_prompt_is_by_the_mean_of_its_sampled_answers(folder: RunFolder) -> None:
    lost = Score.missing("the judge was away")
    folder.save_outcomes(
        "base",
        [
            outcome(PROMPTS[0], 1.0, 0.0, 0.5),
            outcome(PROMPTS[1], 0.0, 0.5, 0.5),
            outcome(PROMPTS[2], 0.0, 1.0, lost),
            outcome(PROMPTS[3], 0.0, lost, lost),
        ],
    )
    folder.save_outcomes(
        "tuned",
        [
            outcome(PROMPTS[0], 0.0, 0.5, 0.5),  # better, whatever the greedy answers were
            outcome(PROMPTS[1], 1.0, 0.25, 0.75),
            outcome(PROMPTS[2], 1.0, 0.5, 0.5),
            outcome(PROMPTS[3], 1.0, 0.5, 0.5),
        ],
    )
    answers = found(folder)
    assert [(card.sense, card.gain) for card in answers.cards] == [
        ("better", 0.25),
        ("same", 0.0),
        ("worse", -0.5),
        ("open", None),
    ]
    assert answers.senses == {"better": 1, "worse": 1, "same": 1, "open": 1}
    assert answers.facets == {"kind": {"a": 2, "b": 2}}
    assert answers.sides == (("base", "Base"), ("tuned", "Tuned"))
    assert [card.anchor for card in answers.cards] == ["answer-h0", "answer-h1", "answer-h2", "answer-h3"]
    base = answers.cards[2].sides[0]
    assert (base.mean, base.sampled[1].note, base.sampled[1].why) == (1.0, "missing", "the judge was away")


def test_base_alone_is_shown_as_long_as_there_is_nothing_else(folder: RunFolder) -> None:
    assert collect(folder, None, 10**6) is None
    folder.save_outcomes("base", [outcome(p, 0.5, 0.0, 1.0) for p in PROMPTS])
    answers = found(folder)
    assert answers.sides == (("base", "Base"),)
    assert {card.sense for card in answers.cards} == {"open"}
    page = render(folder)
    section = page[page.index('<section id="answers"') :].partition("</section>")[0]
    assert "All 4 prompts, with the base model’s greedy answer" in section
    assert "Better or worse" not in section
    assert 'class="sense' not in section
    assert section.count("reward 0.50") == 4


def test_what_does_not_fit_is_left_out_sampled_answers_first(folder: RunFolder) -> None:
    for side in ("base", "tuned"):
        folder.save_outcomes(side, [outcome(p, 0.5, 0.0, 1.0, text="x" * 1000) for p in PROMPTS])
    answers = found(folder)
    assert (answers.samples, answers.samples_all, len(answers.cards)) == (2, 2, 4)
    for part, samples, cards in ((0.8, 1, 4), (0.5, 0, 4), (0.25, 0, 2), (0.01, 0, 1)):
        fewer = found(folder, int(part * answers.size))
        assert (fewer.samples, fewer.samples_all, len(fewer.cards), fewer.prompts) == (samples, 2, cards, 4)
        assert all(len(side.sampled) == samples for card in fewer.cards for side in card.sides)
    page = render(folder, page_bytes=8_000)
    assert "To keep the page small the rest is left out; evaluations/ in the run’s folder has all." in page
    assert "To keep the page small the rest" not in render(folder)


def test_the_mean_is_over_all_answers_also_where_some_are_left_out(folder: RunFolder) -> None:
    folder.save_outcomes("base", [outcome(p, 0.5, 0.0, 1.0) for p in PROMPTS])
    cards = found(folder).cards
    kept, some = choose(cards, 2, 5_000)
    assert kept < 2
    assert [card.sides[0].mean for card in some] == [0.5] * len(some)


def test_without_answers_on_record_the_examples_stand_there(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", steps=1, held_out=40)
    for side in ("base", "tuned"):
        run.answers(side).remove()
    answers = found(run)
    comparison = run.comparison()
    assert comparison is not None
    assert [card.prompt for card in answers.cards] == [e.prompt for e in comparison.examples]
    assert answers.samples_all == 0
    assert "24 of the prompts, chosen by their order and their facets alone" in render(run)


def test_turns_of_a_game_are_a_dialogue_and_components_and_reasons_stand_below(tmp_path: Path) -> None:
    run = games_run(tmp_path / "games", "hello")
    answer = found(run).cards[1].sides[1].greedy
    assert answer is not None
    assert answer.dialogue is not None
    assert [m["content"] for m in answer.dialogue.messages] == ["25", "higher", "33", "lower", "29", "right"]
    assert answer.parts == (("world", 1.0),)


def test_ids_that_are_no_anchors_get_their_number(tmp_path: Path, make_run: MakeRun) -> None:
    settings = make_run(tmp_path / "other", steps=0, compared=False).settings()
    run = RunFolder.create(tmp_path / "run", settings)
    odd = [make.prompt(name, "Say.", split="held_out") for name in ("a b", "a-b", 'x"<')]
    run.save_prompts(odd)
    run.save_outcomes("base", [outcome(p, 0.5, 0.5) for p in odd])
    assert [card.anchor for card in found(run).cards] == ["answer-1.", "answer-a-b", "answer-3."]
    assert 'id="answer-1."' in render(run)
