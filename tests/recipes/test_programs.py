"""The recipe `programs`: requests with the code that does them, tests that tell right from hurried code,
splits that are apart, and the tokenizer that keeps every text."""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict

import pytest

from refine_rl.policy.made import made_folder, maker_of
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import recipe_folder
from refine_rl.recipes.programs import grammar, pairs, prompts
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.code.jail.exam import read_exam
from refine_rl.rewards.sanity import check_sanity
from refine_rl.settings.file import load_settings


def holds(code: str, tests: str) -> bool:
    """Whether every assertion holds, in this interpreter: the code is the grammar's own."""
    space: dict[str, object] = {}
    try:
        exec(f"{code}\n{tests}", space)  # noqa: S102
    except (AssertionError, ValueError):
        return False
    return True


def test_every_template_is_code_that_does_what_it_says() -> None:
    cases = [
        (("at_least", "square", "sum", 3, 2), [3, 1, 4], 25),
        (("all", "remainder", "count", 2, 3), [3, 6, 4], 2),
        (("positive", "same", "largest", 2, 2), [-1, 0], 0),
        (("odd", "negate", "descending", 2, 2), [1, 5, 2, 3], [-1, -3, -5]),
        (("other", "plus", "reversed", 4, 1), [1, 4, 2], [3, 2]),
        (("below", "minus", "last", 9, 2), [1, 2, 3, 9], [0, 1]),
        (("multiple", "absolute", "first", 3, 2), [-3, 1, 6, 9], [3, 6]),
    ]
    for parts, given, wanted in cases:
        assert holds(grammar.function(*parts).code, f"assert f({given}) == {wanted}"), parts


def test_tests_hold_for_the_right_code_and_seldom_for_the_edges_done_wrong() -> None:
    rng = random.Random("tests")
    edges = {
        ("at_least", "sum"),
        ("at_most", "list"),
        ("all", "largest"),
        ("all", "count"),
        ("all", "reversed"),
    }
    caught: dict[bool, int] = defaultdict(int)
    for keep in grammar.KEEP:
        for make in grammar.MAKE:
            function = grammar.function(keep, "same", make, 4, 2)
            tests = prompts.tests(rng, function)
            assert read_exam(tests).assertions == prompts.ASSERTIONS
            assert holds(function.code, tests)
            wrong = grammar.code_of(grammar.MAKE[make][2], "x", grammar.KEEP[keep][2], 4, 2)
            if (keep, make) in edges:
                caught[holds(wrong, tests)] += 1
    assert caught == {False: len(edges)}


def test_no_template_is_of_two_splits_and_every_part_is_trained_on() -> None:
    drawn = {
        split: {grammar.draw_function(random.Random(f"{split}/{n}"), split).template for n in range(400)}
        for split in grammar.SPLITS
    }
    assert not drawn["train"] & drawn["held_out"]
    assert not drawn["validation"] & (drawn["train"] | drawn["held_out"])
    parts = {split: {part for t in found for part in t.split("/")} for split, found in drawn.items()}
    assert parts["held_out"] <= parts["train"]


def test_it_is_the_same_for_the_same_seed() -> None:
    assert (
        prompts.prompts("train", 30, 1) == prompts.prompts("train", 30, 1) != prompts.prompts("train", 30, 2)
    )
    assert pairs.pairs(30, 1) == pairs.pairs(30, 1) != pairs.pairs(30, 2)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        prompts.prompts("dev", 1, 0)


def test_most_examples_look_right_and_are_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of them is Python; the requests are those of training."""
    rng = random.Random("hurried")
    wrong = 0
    for _ in range(200):
        function = grammar.draw_function(rng)
        code = grammar.hurried(rng, function)
        compile(code, "<example>", "exec")
        wrong += not holds(code, prompts.tests(rng, function))
    assert 80 < wrong < 180


def test_the_task_is_sound_and_its_reward_orders_the_sanity_cases() -> None:
    settings = load_settings(
        recipe_folder("programs"),
        overrides=["prompts.train=20", "prompts.validation=5", "prompts.held_out=8"],
    )
    found, _ = load_prompts(settings)
    reward = build_reward(settings)
    reward.check_data(found)
    with contextlib.closing(reward.components[0].sandbox):  # type: ignore[attr-defined]
        check_sanity(reward, settings.reward.sanity)


def test_the_tokenizer_keeps_every_text_and_answers_fit() -> None:
    from transformers import AutoTokenizer

    maker = maker_of("recipe:programs")
    assert maker is not None
    tokenizer = AutoTokenizer.from_pretrained(made_folder(maker))
    settings = load_settings(recipe_folder("programs"))
    for row in pairs.pairs(200, 3):
        for text in row.values():
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.decode(ids) == text
        assert len(tokenizer.encode(row["answer"], add_special_tokens=False)) < settings.rollout.max_tokens
