"""The recipe `codet5`: functions that parse and docstrings that are right, splits that are apart, examples of
the qualities they should have, rules to the digit, and the model that it makes."""

from __future__ import annotations

import ast
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from refine_rl.policy.made import _key, made_folder, maker_of
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import copy_recipe, recipe_folder
from refine_rl.recipes.codet5 import codexglue, grammar, pairs, prompts, rules
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.sanity import check_sanity
from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings

FOLDER = Path(grammar.__file__).parent
Drawn = dict[str, list[grammar.Function]]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    counts = {"train": 6000, "validation": 1000, "held_out": 2000}
    rngs = {split: random.Random(f"test/{split}") for split in counts}
    return {s: [grammar.draw_function(rngs[s], s) for _ in range(n)] for s, n in counts.items()}


# -- the grammar ------------------------------------------------------------------------------


def test_functions_parse_and_their_docstrings_have_every_component(drawn: Drawn) -> None:
    for function in [one for some in drawn.values() for one in some]:
        (tree,) = ast.parse(function.code).body
        assert isinstance(tree, ast.FunctionDef)
        assert tree.name == function.name
        assert [arg.arg for arg in tree.args.args if arg.arg != "self"] == list(function.parameters)
        assert not re.search(r"[{}@?]", function.docstring)
        text, code = function.docstring, function.code
        scores = {
            "meaning": rules.meaning(code, text, text),
            "parameters": rules.parameters(code, text, function.parameters),
            "returns": rules.returns(code, text, function.returns),
            "length": rules.length(code, text),
            "ends": rules.ends(code, text),
            "understood": rules.understood(code, text, text, function.parameters),
        }
        assert {name: score.value for name, score in scores.items()} == dict.fromkeys(scores, 1.0), function


def test_no_code_and_no_docstring_is_of_two_splits(drawn: Drawn) -> None:
    """By construction: what tells two templates of different splits apart tells their texts apart."""
    for field in ("code", "docstring", "template"):
        owners: dict[str, set[str]] = defaultdict(set)
        for split, functions in drawn.items():
            for function in functions:
                owners[getattr(function, field)].add(split)
        assert {len(splits) for splits in owners.values()} == {1}, field


def test_held_out_functions_are_made_of_parts_that_were_trained_on(drawn: Drawn) -> None:
    parts = {
        split: {part for f in functions if f.family == "list" for part in f.template.split("/")}
        for split, functions in drawn.items()
    }
    assert parts["held_out"] <= parts["train"]
    assert {f.family for f in drawn["train"]} == {"list", "one", "fixed", "method", "units"}
    assert {f.family for f in drawn["held_out"]} == {"list", "one", "method"}


def test_it_is_the_same_for_the_same_seed() -> None:
    assert prompts.prompts("train", 30, 1) == prompts.prompts("train", 30, 1)
    assert prompts.prompts("train", 30, 1) != prompts.prompts("train", 30, 2)
    assert pairs.pairs(30, 1) == pairs.pairs(30, 1) != pairs.pairs(30, 2)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        prompts.prompts("dev", 1, 0)


@pytest.mark.parametrize(
    ("template", "said", "arguments", "result"),
    [
        ("list/count/number/-/even", "Return the number of", [[1, 2, 3, 4, 6]], 3),
        ("one/change/text/rev", "reversed", ["abc"], "cba"),
        ("one/test/number/odd", "is odd", [3], True),
        ("fixed/gcd", "greatest common divisor", [12, 18], 6),
        ("units/celsius_to_fahrenheit/1", "from celsius to fahrenheit", [100], 212),
    ],
)
def test_code_does_what_its_docstring_says(template, said, arguments, result) -> None:
    rng = random.Random(0)
    drawn = (grammar.draw_function(rng, grammar.split_of(template)) for _ in range(20_000))
    function = next(function for function in drawn if function.template == template)
    space: dict[str, object] = {}
    exec(function.code, space)  # noqa: S102 - the grammar's own
    assert said in function.docstring
    assert space[function.name](*arguments) == result  # type: ignore[operator]


# -- the examples -----------------------------------------------------------------------------


def test_examples_are_of_the_qualities_that_they_should_have() -> None:
    good = "Return the `prices` that are greater than `limit`."
    rng = random.Random(3)
    made = {quality: pairs.degrade(rng, good, quality) for quality in pairs.QUALITIES}
    vague, long = (grammar.data("functions")["poor"][kind] for kind in ("vague", "long"))
    assert made["good"] == good
    assert made["plain"] == "Return the given value that are greater than the given value."
    assert made["vague"] in vague
    assert made["short"] in ("Return.", "Return the.", "Return the prices.")
    assert len(made["repeated"].split()) > len(good.split())
    assert rules.no_repeats("", made["repeated"]).value < 1
    assert rules.parameters("def f(prices, limit):", made["wrong"], ["prices", "limit"]).value == 0
    assert made["long"].removeprefix(good + " ") in long
    assert sum(pairs.QUALITIES.values()) == pytest.approx(1)


def test_few_examples_are_good() -> None:
    """A greedy model that has learnt them is not yet in the good style."""
    rows = pairs.pairs(4000, 0)
    named = Counter("`" in row["answer"] for row in rows)
    assert 0.25 < named[True] / len(rows) < 0.4
    assert all(row["answer"].strip() and row["prompt"].startswith("def ") for row in rows)
    assert len({row["prompt"] for row in rows}) > 0.9 * len(rows)


# -- the rules --------------------------------------------------------------------------------

CODE = "def run(prices, max_price):\n    return [x for x in prices if x > max_price]"
GOOD = "Return the `prices` that are greater than `max_price`."


@pytest.mark.parametrize(
    ("text", "meaning", "parameters", "length", "no_repeats", "ends", "understood"),
    [
        (GOOD, 1, 1, 1, 1, 1, 1),
        # return, price, greater, than, max, price; of them return, greater, than are shared
        ("Return the given value that are greater than the given value.", 6 / 13, 0, 1, 7 / 9, 1, 1),
        ("Return the prices greater than max_price", 1, 1, 1, 1, 0, 1),
        ("Return the `prices` that are greater than `limit`.", 8 / 11, 0, 1, 1, 1, 1),
        ("Return the `prices` that are less than `max_price`.", 10 / 12, 1, 1, 1, 1, 0),
        ("Return.", 2 / 7, 0, 1 / 3, 1, 1, 0),
        (f"{GOOD} {GOOD}", 12 / 18, 1, 1, 1 / 7, 1, 1),
        ("Return return the prices.", 4 / 9, 0.5, 1, 0, 1, 0),
        ("", 0, 0, 0, 1, 0, 0),
    ],
)
def test_scores(text, meaning, parameters, length, no_repeats, ends, understood) -> None:
    names = ["prices", "max_price"]
    assert rules.meaning(CODE, text, GOOD).value == pytest.approx(meaning)
    assert rules.parameters(CODE, text, names).value == parameters
    assert rules.length(CODE, text).value == length
    assert rules.no_repeats(CODE, text).value == pytest.approx(no_repeats)
    assert rules.ends(CODE, text).value == ends
    assert rules.understood(CODE, text, GOOD, names).value == understood


def test_what_is_returned() -> None:
    for text, says in (("Yields each item.", True), ("Print it, then return.", True), ("Print it.", False)):
        assert rules.returns("", text, True).value == float(says)
        assert rules.returns("", text, False).value == float(not says)


def test_long_docstrings_lose() -> None:
    words = " ".join(f"word{n}" for n in range(30))
    assert rules.length("", words).value == 0.5
    assert rules.length("", f"{words} {words}").value == 0


def test_a_function_without_parameters_names_them_all() -> None:
    assert (
        rules.parameters("def close(self):\n    self.open = False", "Mark this as not open.", []).value == 1
    )
    assert rules.parameters("def close(self):\n    self.open = False", "Close `door`.", []).value == 0


# -- the task ---------------------------------------------------------------------------------


def test_the_task_file_is_valid_and_its_sanity_cases_hold() -> None:
    settings = load_settings(recipe_folder("codet5"))
    reward = build_reward(settings)
    check_sanity(reward, settings.reward.sanity)
    found, report = load_prompts(settings)
    reward.check_data(found)
    assert report.splits == {"train": 800, "validation": 32, "held_out": 200}
    assert settings.model.name == f"file:{recipe_folder('codet5') / 'model.py'}"


def test_the_model_is_made_and_keeps_every_character(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    mine = copy_recipe("codet5", tmp_path / "mine").parent
    quicker = re.sub(r"TEXTS = 12_000", "TEXTS = 500", (mine / "model.py").read_text())
    (mine / "model.py").write_text(quicker)
    maker = maker_of(load_settings(mine).model.name)
    assert maker is not None
    folder = made_folder(maker)
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (config.model_type, config.is_encoder_decoder, config.tie_word_embeddings) == ("t5", True, True)
    assert config.num_decoder_layers <= config.num_layers
    assert config.decoder_start_token_id == config.pad_token_id == tokenizer.pad_token_id
    for function in (grammar.draw_function(random.Random(n), "held_out") for n in range(40)):
        for text in (function.code, function.docstring, "class A:\n\tx = {'ä': [1, 2]}\n\n\n"):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    (mine / "words.toml").write_text((FOLDER / "words.toml").read_text() + "\n")
    assert _key(maker) not in folder.name  # another grammar, another tokenizer


# -- real code --------------------------------------------------------------------------------


def test_real_code_comes_without_its_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def row(name: str, words: int) -> dict[str, object]:
        code = f"def {name} ( self , a , b = ( 1 , 2 ) , * rest ) : return a".split()
        return {
            "func_name": name,
            "code_tokens": code,
            "docstring_tokens": ["say", "\n", *["it"] * words, "."],
        }

    asked: list[tuple[object, ...]] = []

    def load_dataset(*names: str, split: str) -> datasets.Dataset:
        asked.append((*names, split))
        return datasets.Dataset.from_list([row("one", 1), row("long", 65), row("two", 2), row("none", 3)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = codexglue.pairs(10, 0)
    assert asked == [("google/code_x_glue_ct_code_to_text", "python", "train")]
    assert sorted(pair["answer"] for pair in found) == ["say it .", "say it it .", "say it it it ."]
    assert found[0]["prompt"].endswith("( self , a , b = ( 1 , 2 ) , * rest ) : return a")
    (only,) = codexglue.prompts("held_out", 1, 0)
    assert asked[-1][-1] == "test"
    assert only["data"]["parameters"] == ["a", "b", "rest"]
    assert only["data"]["returns"] is True
    assert (
        rules.parameters(only["prompt"], "Give a and b with `rest`.", only["data"]["parameters"]).value == 1
    )


def test_the_settings_for_codet5_base_are_valid() -> None:
    settings = load_settings(FOLDER / "task_base.toml")
    assert (settings.model.name, settings.model.prefix) == ("Salesforce/codet5-base", "summarize: ")
    assert settings.sft is not None
    assert (settings.sft.steps, settings.sft_learning_rate, settings.sft_model.dropout) == (10_000, 5e-4, 0.1)
    assert (settings.model.rank, settings.model.alpha) == (16, 32)
    reward, small = settings.reward, load_settings(FOLDER).reward
    assert reward.functions == small.functions


# -- the whole way ----------------------------------------------------------------------------


def test_from_nothing_to_a_tuned_model(refine: Callable[..., Any], tmp_path: Path) -> None:
    """With a model, examples and steps that are too few: everything but the figures."""
    mine = copy_recipe("codet5", tmp_path / "mine").parent
    text = (mine / "model.py").read_text()
    for wanted, small in (
        ("TEXTS = 12_000", "TEXTS = 300"),
        ("d_model=192", "d_model=32"),
        ("d_ff=768", "d_ff=32"),
    ):
        assert wanted in text
        text = text.replace(wanted, small)
    (mine / "model.py").write_text(text)
    few = {
        **{"sft.data": "file:pairs.py[:60]", "sft.steps": 2, "sft.batch_tokens": 400, "sft.validation": 5},
        **{"sft.examples": 1, "prompts.train": 4, "prompts.held_out": 2, "prompts.validation": 0},
        **{"grpo.steps": 2, "grpo.warmup_steps": 0, "grpo.prompts_per_step": 2, "grpo.all_cut_patience": 9},
        **{"rollout.group_size": 2, "rollout.max_tokens": 6, "evaluate.samples": 1},
    }
    changes = [word for key, value in few.items() for word in ("--set", f"{key}={value}")]
    done = refine("train", mine, "--run", "run", *changes)
    assert done.code == 0, done.err
    assert "Making the untrained model of mine (once" in " ".join(done.err.split())
    run = RunFolder.open(Path("run"))
    assert [len(run.metrics()), len(run.sft.sft_history())] == [2, 2]
    comparison = json.loads(Path("run/comparison.json").read_text())
    assert set(comparison["details"]) > {"greedy", "component:understood"}
    assert set(comparison["others"]) == {"sft"}
    assert [len(run.outcomes(which) or []) for which in ("base", "sft", "tuned")] == [2, 2, 2]
    base, tuned = (load_file(folder / "model.safetensors") for folder in (made(mine), Path("run/sft/model")))
    moved = [name for name, weights in base.items() if not torch.equal(weights, tuned[name])]
    assert len(moved) > 0.9 * len(base)  # every weight was trained


def made(task: Path) -> Path:
    maker = maker_of(load_settings(task).model.name)
    assert maker is not None
    return made_folder(maker)
