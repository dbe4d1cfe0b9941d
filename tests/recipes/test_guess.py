"""The recipe `guess`: the world, the player without a plan, the plan that is looked for, and a short run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.recipes.guess import model, pairs, prompts, rules, world
from refine_rl.types import Message

DATA = {"low": 10, "high": 40}


def begun(number: int, data: dict[str, int] = DATA) -> world.Guess:
    """A game whose number is `number`."""
    for seed in itertools.count():
        game = world.Guess()
        assert game.start(data, seed) == ""
        if game.number == number:
            return game
    raise AssertionError


def test_a_game() -> None:
    game = begun(29)
    assert game.step("25") == ("higher", 0.0, False)
    assert game.step(" 33\n") == ("lower", 0.0, False)
    assert game.step("29") == ("right", 1.0, True)


@pytest.mark.parametrize("reply", ["", "thirty", "²", "29.", "-29", "1" * 5000])
def test_what_is_no_number_costs_a_guess(reply: str) -> None:
    game = begun(29)
    for _ in range(4):
        assert game.step(reply) == ("say a number", 0.0, False)
    assert game.step("28") == ("it was 29", 0.0, True)


def test_the_last_guess_may_be_the_right_one() -> None:
    game = begun(29)
    for guess in ("25", "26", "27", "28"):
        assert game.step(guess) == ("higher", 0.0, False)
    assert game.step("29") == ("right", 1.0, True)


def test_the_number_follows_from_the_seed_and_may_be_any() -> None:
    def number(seed: int) -> int:
        game = world.Guess()
        game.start(DATA, seed)
        return game.number

    assert [number(seed) for seed in range(20)] == [number(seed) for seed in range(20)]
    assert {number(seed) for seed in range(1000)} == set(range(10, 41))


def test_who_takes_the_middle_finds_every_number() -> None:
    for low, high in (ends for split in prompts.SPLITS for ends in prompts.ranges(split)):
        for number in range(low, high + 1):
            game = begun(number, {"low": low, "high": high})
            first, last, done = low, high, False
            while not done:
                guess = (first + last) // 2
                said, reward, done = game.step(str(guess))
                first, last = (guess + 1, last) if said == "higher" else (first, guess - 1)
            assert reward == 1.0


def test_ranges_belong_to_one_split_each() -> None:
    found = {split: set(prompts.ranges(split)) for split in prompts.SPLITS}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 66
    assert {high - low + 1 for ends in found.values() for low, high in ends} == set(range(21, 32))
    for split, ends in found.items():
        rows = prompts.prompts(split, 1000, 0)
        assert {(r["data"]["low"], r["data"]["high"]) for r in rows} == ends
        assert len({r["prompt"] for r in rows}) == len(rows) == len(ends) * len(prompts.FORMS)
        assert all(
            str(r["data"]["low"]) in r["prompt"] and str(r["data"]["high"]) in r["prompt"] for r in rows
        )
        assert prompts.prompts(split, 7, 0) == rows[:7]
    with pytest.raises(ValueError, match="unknown split 'test'"):
        prompts.prompts("test", 1, 0)


def test_the_player_contradicts_nothing_and_has_no_plan() -> None:
    rows = pairs.pairs(2000, 0)
    assert rows[:50] == pairs.pairs(50, 0) != pairs.pairs(50, 1)
    allowed = {(r["data"]["low"], r["data"]["high"]) for r in prompts.prompts("train", 1000, 0)}
    solved, firsts = 0, []
    for row in rows:
        asked, *turns = row["messages"]
        low, high = (
            int(word) for word in "".join(c if c.isdigit() else " " for c in asked["content"]).split()
        )
        assert (low, high) in allowed
        guesses = [int(m["content"]) for m in turns if m["role"] == "assistant"]
        firsts.append((guesses[0] - low) / (high - low))
        for guess, said in zip(guesses, [m["content"] for m in turns if m["role"] == "user"], strict=False):
            assert low <= guess <= high
            low, high = (guess + 1, high) if said == "higher" else (low, guess - 1)
        assert turns[-1]["role"] == "assistant"
        solved += len(guesses) < 5
    assert sum(firsts) / len(firsts) == pytest.approx(0.5, abs=0.02)
    assert sum(f < 0.2 for f in firsts) / len(firsts) == pytest.approx(0.2, abs=0.03)
    assert 0.3 < solved / len(rows) < 0.6  # in fewer than five guesses


def said(*turns: str) -> list[Message]:
    return [{"role": "user" if n % 2 else "assistant", "content": text} for n, text in enumerate(turns)]


@pytest.mark.parametrize(
    ("turns", "value"),
    [
        (("25", "right"), 1.0),
        (("10", "higher", "40", "lower"), 0.0),
        (("25", "higher", "33", "lower", "29"), 1.0),  # 26-40, then 26-32
        (("25", "higher", "26", "higher", "34"), (1 + 0 + 6 / 6.5) / 3),  # 27-40 has its middle at 33.5
        (("no", "say a number", "25"), 0.5),
        (("90", "lower", "25"), 0.5),
        ((), 0.0),
    ],
)
def test_how_near_to_the_middle(turns: tuple[str, ...], value: float) -> None:
    assert rules.middle([], said(*turns), **DATA).value == pytest.approx(value)


def test_guesses_at_a_few_numbers_say_nothing() -> None:
    assert rules.middle([], said("37", "higher", "38", "higher", "40"), **DATA).value == pytest.approx(1 / 5)


def test_the_model_reads_the_game_in_whole_words(tmp_path: Path) -> None:
    model.make(tmp_path, 0)
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for number in range(prompts.LEAST, prompts.MOST + 1):
        assert len(words(str(number))["input_ids"]) == 1
    for text in ("higher", "lower", "right"):
        assert len(words(text)["input_ids"]) == 1
    odd = "Größe 3?\n\tnever seen: 99"
    assert words.decode(words(odd)["input_ids"]) == odd
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == len(words)
    assert loaded.num_parameters() < 1_000_000


def test_a_turn_begins_as_its_demonstration_does() -> None:
    words = model.make_tokenizer()
    chat: list[Message] = [
        {"role": "user", "content": "A number from 10 to 40."},
        *said("25", "higher", "33"),
    ]
    whole = words.apply_chat_template(chat, tokenize=True)["input_ids"]
    for turns in (1, 3):
        asked = words.apply_chat_template(chat[:turns], add_generation_prompt=True, tokenize=True)[
            "input_ids"
        ]
        assert whole[: len(asked)] == asked
    assert whole[-1] == words.eos_token_id


def test_the_demo_from_the_first_word_to_the_report(refine: Callable[..., Any], tmp_path: Path) -> None:
    small = [
        "sft.data=file:pairs.py[:60]",
        "sft.steps=2",
        "sft.validation=5",
        "sft.examples=0",
        "prompts.train=8",
        "prompts.validation=2",
        "prompts.held_out=6",
        "rollout.group_size=4",
        "grpo.steps=1",
        "grpo.all_cut_patience=2",
        "grpo.prompts_per_step=2",
        "grpo.validate_every=0",
        "evaluate.bootstrap=100",
    ]
    done = refine("demo", "guess", "--run", tmp_path / "run", *(w for s in small for w in ("--set", s)))
    assert done.code == 0, done.err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Find the number in five guesses" in page
    turns = page[page.index('<section id="turns"') :]
    assert "after SFT: " in turns  # how many turns on average
    assert "→" in done.out  # a game in the terminal
