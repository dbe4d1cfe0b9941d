"""The recipe `style`: its rules let good rewrites pass and every known trick fail; its splits are apart."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from refine_rl.assets.make_tiny.rewriting import rewrite
from refine_rl.prompts.near_duplicates import features, similarity
from refine_rl.recipes.style import prompts as grammar
from refine_rl.recipes.style import rules
from refine_rl.settings import Settings

FOLDER = Path(rules.__file__).parent
SOURCE = "My boss lost the keyboard on Monday."
PROMPT = f"Say this like a pirate: {SOURCE}"
GOOD = "Ahoy matey, me captain lost the keyboard on Monday. Savvy?"


def components(prompt, completion, style, source):
    scores = {
        "style": rules.style(prompt, completion, style, source),
        "fidelity": rules.fidelity(prompt, completion, style, source),
        "length": rules.length(prompt, completion, source),
        "no_repetition": rules.no_repetition(prompt, completion, source),
        "no_instruction": rules.no_instruction(prompt, completion, source),
    }
    assert all(0 <= score.value <= 1 and score.explanation for score in scores.values())
    return {name: score.value for name, score in scores.items()}


def passes(prompt, completion, style, source):
    return all(value == 1 for value in components(prompt, completion, style, source).values())


@pytest.fixture(scope="module")
def rows():
    return grammar.prompts("train", 1200, 0)


def test_reference_rewrites_pass(rows):
    rng = random.Random(1)
    passed = Counter()
    for row in rows:
        answer = rewrite(rng, row["data"]["source"], row["data"]["style"])
        passed[passes(row["prompt"], answer, **row["data"])] += 1
    assert passed[True] / len(rows) >= 0.98


def test_copies_and_wrong_styles_never_pass(rows):
    rng = random.Random(2)
    for row in rows[:400]:
        style, source = row["data"]["style"], row["data"]["source"]
        assert not passes(row["prompt"], source, style, source)
        other = rng.choice([name for name in grammar.styles() if name != style])
        assert not passes(row["prompt"], rewrite(rng, source, other), style, source)


def test_repeated_closers_never_pass(rows):
    rng = random.Random(3)
    for row in rows[:400]:
        style, source = row["data"]["style"], row["data"]["source"]
        closers = [c for c in grammar.styles()[style]["closers"] if len(rules.words_of(c)) > 1]
        answer = f"{rewrite(rng, source, style)} " + " ".join([rng.choice(closers)] * 3)
        assert not passes(row["prompt"], answer, style, source)


def test_a_lost_word_never_passes(rows):
    rng = random.Random(4)
    for row in rows[:400]:
        style, source = row["data"]["style"], row["data"]["source"]
        word = rng.choice(rules.content_words(source))
        parts = [part for part in source.split() if rules.words_of(part) != [word]]
        assert components(row["prompt"], rewrite(rng, " ".join(parts), style), style, source)["fidelity"] < 1


@pytest.mark.parametrize(
    ("completion", "component", "value"),
    [
        (GOOD, "style", 1.0),
        ("Arr, my boss lost the keyboard on Monday.", "style", 1 / 3),
        ("Arr! Arr! Arr! My boss lost the keyboard on Monday.", "style", 1 / 3),
        (f"{GOOD} No cap.", "style", 0.5),
        ("", "style", 0.0),
        (GOOD, "fidelity", 1.0),
        ("Ahoy, the boss lost the keyboard on Tuesday", "fidelity", 3 / 4),
        ("Monday keyboard lost boss", "fidelity", 1 / 4),
        ("", "fidelity", 0.0),
        ("", "length", 0.0),
        ("Ahoy, boss lost", "length", 3 / 7),
        (SOURCE, "length", 1.0),
        ("arr " * 25, "length", 1.0),
        ("arr " * 34, "length", 0.5),
        ("arr " * 99, "length", 0.0),
        (GOOD, "no_repetition", 1.0),
        (f"{GOOD} Walk the plank! Walk the plank!", "no_repetition", 0.25),
        ("The cup is on the table on the boat.", "no_repetition", 1.0),
        (f"Sure, say this like a pirate: {GOOD}", "no_instruction", 0.0),
        (GOOD, "no_instruction", 1.0),
    ],
)
def test_components(completion, component, value):
    assert components(PROMPT, completion, "pirate", SOURCE)[component] == pytest.approx(value)


def test_a_poem_needs_its_lines():
    source = "The train was late on Friday."
    lines = ["Softly comes the dawn,", "the train was late on Friday.", "Dreams are drifting by."]
    assert rules.style("", "\n".join(lines), "poetic", source).value == 1
    assert rules.style("", " ".join(lines), "poetic", source).value == pytest.approx(1 / 3)


def test_marks_that_stand_in_the_source_do_not_count():
    score = rules.style("", "The booty is silent. Arr.", "pirate", "The booty is silent.")
    assert score.value == pytest.approx(1 / 3)  # "booty" is no merit, "silent" is no fault


def test_an_unknown_style_is_named():
    with pytest.raises(ValueError, match=r"unknown style 'yoda': styles\.toml has formal, pirate"):
        rules.style("", GOOD, "yoda", SOURCE)


def test_prompts_are_the_same_for_the_same_seed_and_cover_every_style():
    first = grammar.prompts("train", 60, 3)
    assert first == grammar.prompts("train", 60, 3)
    assert first != grammar.prompts("train", 60, 4)
    assert Counter(row["facets"]["style"] for row in first) == dict.fromkeys(grammar.styles(), 10)
    assert all(row["data"]["source"] in row["prompt"] for row in first)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="unknown split 'test'"):
        grammar.prompts("test", 1, 0)


def test_splits_share_neither_messages_nor_near_duplicates(rows):
    kept_back = grammar.prompts("held_out", 120, 0) + grammar.prompts("validation", 60, 0)
    train = [features(row["prompt"]) for row in rows]
    sources = {row["data"]["source"] for row in rows}
    for row in kept_back:
        assert row["data"]["source"] not in sources
        mine = features(row["prompt"])
        assert max(similarity(mine, other) for other in train) < 0.85
    owners = {grammar.split_of(("cat", "sofa")), grammar.split_of(("sofa", "Cat"))}
    assert len(owners) == 1


def test_only_held_out_prompts_show_the_unseen_pairing(rows):
    def unseen(found):
        return [(row["facets"]["style"], row["facets"]["topic"]) == grammar.UNSEEN for row in found]

    held_out = grammar.prompts("held_out", 64, 0)
    assert unseen(held_out) == [row["facets"]["pairing"] == "unseen" for row in held_out]
    assert sum(unseen(held_out)) == 8
    assert not any(unseen(rows))
    assert not any(unseen(grammar.prompts("validation", 60, 0)))


def test_task_file_is_valid_and_its_sanity_cases_hold():
    settings = Settings.model_validate(tomllib.loads((FOLDER / "task.toml").read_text()))
    for case in settings.reward.sanity:
        assert passes(case.prompt, case.good, **case.data)
        assert not passes(case.prompt, case.bad, **case.data)


def test_showcase_styles_exist():
    rows = [json.loads(line) for line in (FOLDER / "showcase.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert all(row["style"] in grammar.styles() and row["source"] in row["prompt"] for row in rows)


def test_a_copied_folder_works(tmp_path):
    copy = shutil.copytree(FOLDER, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    styles = (copy / "styles.toml").read_text().replace("[pirate", "[corsair")
    (copy / "styles.toml").write_text(styles)
    modules = {}
    for name in ("prompts", "rules"):
        spec = importlib.util.spec_from_file_location(f"copied_style_{name}", copy / f"{name}.py")
        modules[name] = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(__import__("sys").modules, spec.name, modules[name])
            spec.loader.exec_module(modules[name])
    assert {row["facets"]["style"] for row in modules["prompts"].prompts("train", 12, 0)} >= {"corsair"}
    assert modules["rules"].style(PROMPT, GOOD, "corsair", SOURCE).value == 1
