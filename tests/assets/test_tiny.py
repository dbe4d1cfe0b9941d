"""The bundled model: its files, what it can do before training, and how it was made."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import refine_rl.assets
from make import prompt
from refine_rl.assets.make_tiny import measure, pretrain
from refine_rl.assets.make_tiny.corpus import documents
from refine_rl.assets.make_tiny.invented import invent_word, replace_words
from refine_rl.assets.make_tiny.rewriting import attempt, swap
from refine_rl.assets.make_tiny.tokenizer import train_tokenizer
from refine_rl.policy.load import load_policy
from refine_rl.recipes.dots import prompts as dots_prompts
from refine_rl.recipes.style import prompts as style_prompts
from refine_rl.settings import ModelSettings

FOLDER = Path(refine_rl.assets.__file__).parent / "tiny"
CHAT = [{"role": "system", "content": "You are polite."}, {"role": "user", "content": "Greet Ben."}]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def policy():
    return load_policy(ModelSettings(name="tiny", dtype="float32"))


def test_files_are_small_and_safe():
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000
    assert {path.suffix for path in FOLDER.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    assert (
        "Apache-2.0" in (FOLDER / "README.md").read_text()
        or "apache-2.0" in (FOLDER / "README.md").read_text()
    )


def test_it_loads_and_takes_an_adapter(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    assert model.num_parameters() <= 3_900_000
    assert model.config.max_position_embeddings >= 512
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    out = tuned.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False
    )
    assert out[0, -1] == tokenizer.eos_token_id
    assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_template_and_tokens(tokenizer):
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are polite.<|im_end|>\n<|im_start|>user\nGreet Ben.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    for text in ("The cat sat on 17 chairs.", "naïve, 東京 \U0001f600", "  two  spaces\n\tand a tab"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokens = [tokenizer.decode([i]) for i in tokenizer("the cat in the 3 gardens")["input_ids"]]
    assert "".join(tokens) == "the cat in the 3 gardens"
    assert " " not in tokens  # a space is part of the word or digit that follows it


def test_it_copies(policy):
    rates = measure.success_rates(
        policy,
        measure.echo_rows("known", 40, 7) + measure.echo_rows("invented", 40, 7),
        measure.echo_success,
        facet="words",
        samples=1,
        max_tokens=64,
    )
    assert rates["greedy"]["known"] >= 0.9
    assert rates["greedy"]["invented"] >= 0.6


def test_it_follows_the_style_in_a_minority_of_attempts(policy):
    rows = style_prompts.prompts("held_out", 48, 5)
    rates = measure.success_rates(
        policy, rows, measure.style_success, facet="style", samples=4, max_tokens=48
    )
    assert 0.04 <= rates["sampled"]["all"] <= 0.3
    assert rates["greedy"]["all"] <= 0.3


def test_it_counts_and_repeats_in_a_minority_of_attempts(policy):
    rows = dots_prompts.prompts("held_out", 48, 5)
    rates = measure.success_rates(policy, rows, measure.dots_success, facet="kind", samples=4, max_tokens=24)
    assert 0.1 <= rates["sampled"]["all"] <= 0.6


def test_corpus_is_the_same_for_the_same_seed_and_leaves_out_what_is_held_out():
    first = list(itertools.islice(documents(1), 3000))
    assert first == list(itertools.islice(documents(1), 3000))
    assert first[:20] != list(itertools.islice(documents(2), 20))
    requests = " ".join(f"{chat.system} {chat.request}" for chat in first)
    for row in style_prompts.prompts("held_out", 200, 0):
        assert row["data"]["source"] not in requests
    assert sum(chat.system != "" for chat in first) / 3000 == pytest.approx(
        0.08 + 0.56 * 0.92 * 0.08, abs=0.02
    )


def test_a_sixth_of_the_attempts_is_perfect_and_half_is_literal():
    rng, text = random.Random(0), "Your boss lost the keyboard on Monday."
    found = Counter()
    for _ in range(2000):
        answer = attempt(rng, text, "pirate")
        asked = prompt("p", f"Say this like a pirate: {text}", style="pirate", source=text)
        found["perfect"] += measure.style_success(asked, answer)
        found["literal"] += answer == text
    assert found["perfect"] / 2000 == pytest.approx(0.17, abs=0.06)
    assert found["literal"] / 2000 == pytest.approx(0.47, abs=0.04)


def test_words_are_swapped_and_invented():
    rng = random.Random(0)
    assert (
        swap(rng, "Your boss and my bossy friend.", "pirate", share=1.0) == "Yer captain and me bossy matey."
    )
    assert len({invent_word(rng) for _ in range(500)}) > 480
    assert replace_words(rng, "The cat saw Ben.", ("cat", "Ben"), 0.0) == "The cat saw Ben."
    the, new, saw, name = replace_words(rng, "The cat saw Ben.", ("cat", "Ben"), 1.0).split()
    assert (the, saw) == ("The", "saw")
    assert new != "cat"
    assert name[0].isupper()


def test_pretraining_starts_on_the_answers_alone_and_is_repeatable():
    chats = list(itertools.islice(documents(0), 200))
    tokenizer = train_tokenizer(f"{chat.request}\n{chat.answer}" for chat in chats)
    recipe = pretrain.Recipe(steps=2, batch=4, warmup=1)
    tokens, mask = next(pretrain.batches(tokenizer, recipe))
    for row, kept in zip(tokens, mask, strict=True):
        answer = row[kept].tolist()
        assert answer[-1] == tokenizer.eos_token_id
        assert (
            tokenizer.encode("assistant\n", add_special_tokens=False)[-1]
            == row[~kept].tolist()[int(kept.nonzero()[0, 0]) - 1]
        )
        assert tokenizer.pad_token_id not in answer

    def losses():
        found = []
        model = pretrain.new_model(tokenizer, 0)
        pretrain.pretrain(model, tokenizer, recipe, lambda _, loss: found.append(loss))
        return found

    assert losses() == losses()
