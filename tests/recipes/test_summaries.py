"""The recipe `summaries`: texts hold their facts, splits are apart, and copying the text does not pay."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import make
from refine_rl.llm.scripted import Scripted, ScriptedConnections
from refine_rl.prompts.near_duplicates import features, similarity
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import recipe_folder
from refine_rl.recipes.summaries import prompts as grammar
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.text.words import split_words
from refine_rl.settings import QuizSettings
from refine_rl.settings.file import load_settings

FOLDER = Path(grammar.__file__).parent
WRITER, READER = "openrouter/moonshotai/kimi-k2", "openrouter/qwen/qwen-2.5-7b-instruct"


@pytest.fixture(scope="module")
def notes() -> list[grammar.Notes]:
    rng = random.Random(1)
    return [grammar.draw_notes(rng, kind) for kind in grammar.grammar()["kinds"] for _ in range(100)]


def stands_in(answer: str, text: str) -> bool:
    return re.search(rf"(?<![\w,.]){re.escape(answer)}(?!\w)", text) is not None


# -- the texts --------------------------------------------------------------------------------


def test_every_answer_stands_in_its_text_once(notes) -> None:
    for text in notes:
        assert len(text.facts) == grammar.FACTS
        assert len({fact.ask for fact in text.facts}) == grammar.FACTS
        for fact in text.facts:
            assert text.text.count(fact.answer) == 1
            assert fact.answer in fact.words
        assert "{" not in text.text
        asks = [fact["ask"] for fact in grammar.grammar()["kinds"][text.kind]["facts"]]
        places = [asks.index(fact.ask) for fact in text.facts]
        assert places == sorted(places)  # as it would be told
        assert 140 <= len(split_words(text.text)) <= 210


def test_the_facts_fit_into_a_summary(notes) -> None:
    for text in notes:
        assert len(split_words(summary_of(text))) <= 60


def test_prompts_are_the_same_for_the_same_seed_and_of_every_kind() -> None:
    first = grammar.prompts("train", 60, 3)
    assert first == grammar.prompts("train", 60, 3)
    assert first != grammar.prompts("train", 60, 4)
    assert Counter(row["facets"]["kind"] for row in first) == {"meeting": 20, "incident": 20, "visit": 20}
    assert all(row["data"]["source"] in row["prompt"] for row in first)
    assert all("60 words" in row["prompt"] for row in first)
    assert len({row["prompt"].replace(row["data"]["source"], "") for row in first}) == 4
    with pytest.raises(ValueError, match="unknown split 'test'"):
        grammar.prompts("test", 1, 0)


def test_splits_share_no_texts_and_no_near_duplicates() -> None:
    rows = {
        split: grammar.prompts(split, count, 0)
        for split, count in (("train", 240), ("validation", 12), ("held_out", 24))
    }
    sources = [{row["data"]["source"] for row in found} for found in rows.values()]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 276
    train = [features(row["prompt"]) for row in rows["train"]]
    for row in rows["validation"] + rows["held_out"]:
        mine = features(row["prompt"])
        assert max(similarity(mine, other) for other in train) < 0.85


def test_the_split_follows_from_title_and_first_answers(notes, monkeypatch) -> None:
    drawn = {}
    draw = grammar.draw_notes

    def recorded(rng, kind):
        text = draw(rng, kind)
        return drawn.setdefault(text.text, text)

    monkeypatch.setattr(grammar, "draw_notes", recorded)
    for split in grammar.SPLITS:
        for row in grammar.prompts(split, 20, 0):
            assert grammar.split_of(drawn[row["data"]["source"]]) == split
    for text in notes[:20]:
        longer = replace(text, text=text.text + " More.")
        assert grammar.split_of(longer) == grammar.split_of(text)
    shares = Counter(map(grammar.split_of, notes))
    assert shares["validation"] < shares["held_out"] < shares["train"]


def test_a_copied_folder_gives_its_prompts(tmp_path) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    words = (copy / "notes.toml").read_text(encoding="utf-8").replace("the canteen", "the crypt")
    (copy / "notes.toml").write_text(words, encoding="utf-8")
    prompts, report = load_prompts(load_settings(copy / "task.toml"))
    assert report.splits == {"train": 240, "validation": 12, "held_out": 24}
    assert any("the crypt" in prompt.text for prompt in prompts)


# -- the hack ---------------------------------------------------------------------------------


def summary_of(text: grammar.Notes) -> str:
    """All facts in few words of one's own."""
    return "; ".join(f"{fact.ask.split()[0].lower()}: {fact.answer}" for fact in text.facts)


def writer_of(texts: list[grammar.Notes]) -> Scripted:
    """A writer that asks for every fact; its wrong answers do not stand in the text."""

    def brain(request) -> str:
        source = json.loads(request.messages[-1]["content"].split("\n")[1])[0]["text"]
        found = next(text for text in texts if text.text == source)
        questions = [
            {
                "question": fact.ask,
                "right": fact.answer,
                "wrong": [word for word in fact.words if not stands_in(word, source)][:3],
            }
            for fact in found.facts
        ]
        return json.dumps({"questions": questions})

    return Scripted(brain, model=WRITER)


def reader() -> Scripted:
    """A reader that answers a question rightly exactly where the fact stands in its text."""

    def brain(request) -> str:
        lines = request.messages[-1]["content"].split("\n")
        text = json.loads(lines[lines.index("<text>") + 1])[0]["text"]
        answers = []
        for q in json.loads(lines[lines.index("<questions>") + 1]):
            known = [letter for letter, option in q["options"].items() if stands_in(option, text)]
            answers.append({"id": q["id"], "answer": known[0] if len(known) == 1 else "don't know"})
        return json.dumps({"answers": answers})

    return Scripted(brain, model=READER)


def rewards_of(settings, text: grammar.Notes, *completions: str) -> list[float]:
    reward = build_reward(
        settings, connections=ScriptedConnections({WRITER: writer_of([text]), READER: reader()})
    )
    prompt = make.prompt(1, f"Sum up.\n\n{text.text}", source=text.text)
    reward.check_prompt(prompt)
    scores = make.scored(reward, prompt, *completions)
    assert all(score.status == "scored" for score in scores), [score.explanation for score in scores]
    return [score.value for score in scores]


def settings_with(*, penalties: bool):
    settings = load_settings(recipe_folder("summaries"))
    if penalties:
        return settings
    quiz = QuizSettings(writer=WRITER, reader=READER, questions=8, max_copied=1.0)
    return settings.model_copy(
        update={"reward": settings.reward.model_copy(update={"quiz": quiz, "overlong": None})}
    )


def test_copying_wins_without_the_penalties_and_loses_with_them(notes) -> None:
    starts = []
    for text in notes[::60]:
        good = summary_of(text)
        half = "; ".join(good.split("; ")[:3])
        beginning = " ".join(text.text.split()[:55])
        copy, best, some, start = rewards_of(
            settings_with(penalties=False), text, text.text, good, half, beginning
        )
        assert copy == best == 1.0
        assert some == 0.5
        starts.append(start)

        copy, best, some, start, nothing = rewards_of(
            settings_with(penalties=True), text, text.text, good, half, beginning, ""
        )
        assert best == 1.0
        assert some == 0.5
        assert start == 0.0  # short enough, but all of it is copied
        assert nothing == 0.0
        words = len(split_words(text.text))
        assert copy == pytest.approx((60 - words) / 60)
        assert copy < -1
    assert max(starts) > 0  # it has a part of the facts, and would be paid for them


def test_each_penalty_alone_stops_a_way_to_copy(notes) -> None:
    text = notes[0]
    settings = settings_with(penalties=True)
    only_length = settings.model_copy(
        update={
            "reward": settings.reward.model_copy(update={"quiz": settings_with(penalties=False).reward.quiz})
        }
    )
    only_copying = settings.model_copy(
        update={"reward": settings.reward.model_copy(update={"overlong": None})}
    )
    # A word pushed in after every fourth leaves no five in a row, but makes the text longer.
    disguised = re.sub(r"((?:\S+\s+){4})", r"\1so ", text.text)
    hidden, plain = rewards_of(only_copying, text, disguised, text.text)
    assert hidden >= 0.5
    assert plain == 0.0
    assert max(rewards_of(only_length, text, disguised, text.text)) < -0.5
    assert max(rewards_of(settings, text, disguised, text.text)) < -0.5


def test_the_task_file_names_what_the_readme_promises() -> None:
    settings = load_settings(recipe_folder("summaries"))
    assert settings.reward.judges == []
    assert settings.reward.quiz.writer == WRITER
    assert settings.reward.quiz.reader == READER
    assert settings.reward.quiz.max_copied == 0.3
    assert (settings.reward.overlong.kind, settings.reward.overlong.unit, settings.reward.overlong.limit) == (
        "linear",
        "words",
        60,
    )
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    steps, a_step, size = settings.grpo.steps, settings.grpo.prompts_per_step, settings.rollout.group_size
    assert f"{steps} steps of {a_step} texts, {size} summaries each" in " ".join(readme.split())
    p, samples = settings.prompts, settings.evaluate.samples
    validations = 1 + steps // settings.grpo.validate_every
    calls = (
        steps * a_step * size
        + 3 * (p.train + p.validation + p.held_out)
        + validations * p.validation * samples
        + 2 * p.held_out * (samples + 1)
    )
    assert round(calls, -2) == 3000
