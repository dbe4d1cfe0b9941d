"""Models that a task brings along: made once, kept, made anew when what they depend on is another, and good
for every command."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_rl.errors import MachineError, UserError
from refine_rl.policy import made
from refine_rl.policy.cache import cache_folder
from refine_rl.policy.fingerprint import fingerprint
from refine_rl.policy.made import made_folder, maker_of
from refine_rl.policy.origin import find_origin
from refine_rl.run import RunFolder
from refine_rl.settings.file import load_settings

Refine = Callable[..., Any]

MODEL = """
import torch, transformers
from pathlib import Path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from words import WORDS

def make(folder, seed):
    with (Path(__file__).parent / "calls" / "log").open("a") as log:
        log.write(f"{seed}\\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    ends = {"eos_token": "<end>", "pad_token": "<pad>"}
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[*ends.values()], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(WORDS, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(fast), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
"""
TASK = """
task = "Answer briefly."
[model]
name = "file:model.py"
[prompts]
source = "file:prompts.jsonl"
[reward]
rules = [{rule = "words", max = 5}]
[rollout]
group_size = 2
max_tokens = 4
[grpo]
steps = 2
prompts_per_step = 2
validate_every = 0
all_cut_patience = 10
[evaluate]
samples = 1
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task's folder whose model.py notes each call."""
    folder = tmp_path / "my-task"
    (folder / "calls").mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    (folder / "words.py").write_text('WORDS = ["hello there, say something short about the cat"] * 4\n')
    (folder / "task.toml").write_text(TASK)
    rows = [
        {"prompt": f"Say {a} and {b}."} for a in ("cat", "dog", "sun") for b in ("one", "two", "six", "ten")
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def calls(task: Path) -> list[str]:
    log = task / "calls" / "log"
    return log.read_text().split() if log.exists() else []


def test_it_is_made_once_and_anew_when_something_beside_it_changes(task: Path) -> None:
    name = load_settings(task).model.name
    assert name == f"file:{task.resolve() / 'model.py'}"
    notes: list[str] = []
    maker = maker_of(name)
    assert maker is not None
    first = made_folder(maker, notes.append)
    assert first == made_folder(maker, notes.append) == Path(find_origin(name).base)
    assert calls(task) == ["0"]
    assert notes == [f"Making the untrained model of my-task (once; it is kept in {first})"]
    assert not (sys.modules.keys() & {"words"})  # another task's file of this name would not be read
    for name_of_other, text in (("task.toml", "# other"), ("README.md", "other")):
        (task / name_of_other).write_text(text)
    assert made_folder(maker) == first
    (task / "words.py").write_text('WORDS = ["quite another corpus of words"]\n')
    assert made_folder(maker) != first
    assert calls(task) == ["0", "0"]
    other_seed = maker_of(f"{name}#7")
    assert other_seed is not None
    assert made_folder(other_seed).name.startswith("my-task-7-")
    assert calls(task)[-1] == "7"


def test_it_comes_out_the_same_again(task: Path) -> None:
    name = load_settings(task).model.name
    first = fingerprint(find_origin(name))
    shutil.rmtree(Path(find_origin(name).base).parent)
    assert fingerprint(find_origin(name)) == first
    assert calls(task) == ["0", "0"]
    assert fingerprint(find_origin(f"{name}#1"))["weights"] != first["weights"]


def test_the_quicker_of_two_wins(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = maker_of(f"file:{task / 'model.py'}")
    assert maker is not None
    make = made._make

    def another_is_quicker(maker: made.Maker, folder: Path) -> None:
        make(maker, folder)
        monkeypatch.setattr(made, "_make", make)
        (made_folder(maker) / "theirs").touch()

    monkeypatch.setattr(made, "_make", another_is_quicker)
    folder = made_folder(maker)
    assert (folder / "theirs").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left over
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == (task / "model.py").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def other(): pass", r"model\.py has no function make\(folder, seed\)"),
        (
            "def make(folder, seed):\n    pass",
            r"wrote no config\.json, no tokenizer_config\.json, no \*\.safetens",
        ),
        ("def make(folder, seed):\n    return 1 / seed", r"model\.py:2 makes no model: ZeroDivisionError"),
        ("import nothing_of_this_name", r"model\.py:1 makes no model: ModuleNotFoundError"),
        ("def make(folder, seed:", r"makes no model: SyntaxError"),
    ],
)
def test_a_file_that_makes_no_model(task: Path, code: str, said: str) -> None:
    (task / "model.py").write_text(code)
    maker = maker_of(f"file:{task / 'model.py'}")
    assert maker is not None
    with pytest.raises(UserError, match=said):
        made_folder(maker)
    assert not any(cache_folder("models").iterdir())


def test_names(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert maker_of("tiny") is None
    assert maker_of("Qwen/Qwen2.5-0.5B-Instruct") is None
    with pytest.raises(UserError, match=r"there is no Python file .*nothing\.py.*make\(folder, seed\)"):
        maker_of("file:nothing.py")
    with pytest.raises(UserError, match=r"there is no Python file .*task\.toml"):
        maker_of(f"file:{task / 'task.toml'}")
    with pytest.raises(UserError, match="there is no recipe 'style' with a model of its own"):
        maker_of("recipe:style")
    (task / "file").touch()
    monkeypatch.setenv("REFINE_CACHE", str(task / "file"))
    maker = maker_of(f"file:{task / 'model.py'}")
    assert maker is not None
    with pytest.raises(MachineError, match="REFINE_CACHE=FOLDER"):
        made_folder(maker)


def test_the_base_of_an_adapter_is_made_again(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe's, where the cache was emptied; not another one than the adapter names."""
    monkeypatch.setattr(made, "_recipes", lambda: {"my-task": task / "model.py"})
    maker = maker_of("recipe:my-task#3")
    assert maker is not None
    base = made_folder(maker)
    adapter = task / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    shutil.rmtree(base)
    assert find_origin(str(adapter)).base == str(base)
    assert calls(task) == ["3", "3"]
    shutil.rmtree(base)
    (task / "words.py").write_text('WORDS = ["quite another corpus of words"]\n')
    with pytest.raises(UserError, match=r"is an adapter of the model .*my-task-3-.*there is no such folder"):
        find_origin(str(adapter))


def test_a_run_from_begin_to_export(refine: Refine, task: Path) -> None:
    done = refine("train", task, "--run", "run")
    assert done.code == 0, done.err
    assert "Making the untrained model of my-task (once" in " ".join(done.err.split())
    run = RunFolder.open(Path("run"))
    assert run.settings().model.name == f"file:{task / 'model.py'}"
    card = Path("run/model/README.md").read_text()
    assert "The untrained model of `my-task` (seed 0), trained with Re:Fine" in card
    assert refine("replay", "run", "--step", "1", "--prompt", run.groups()[0]["prompt_id"]).code == 0
    shutil.rmtree(Path(find_origin(run.settings().model.name).base))  # the cache may be emptied at any time
    assert refine("eval", "run").code == 0
    assert refine("export", "run", "--out", "out", "--merged").code == 0
    assert calls(task) == ["0", "0"]
    (task / "words.py").write_text('WORDS = ["quite another corpus of words"]\n')
    done = refine("eval", "run")
    assert done.code == 2
    assert "is another one than when the run began" in " ".join(done.err.split())


WORD_LEVEL = """
    words = {w: n for n, w in enumerate(["<end>", "<pad>", "<no>", "stone", "river", "cloud"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<no>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<no>"}
"""


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_tokenizer_that_is_read_as_another_one_is_refused(task: Path, kind: str) -> None:
    """A Qwen2 model's is made anew from the vocabulary, and knows no word of it."""
    begin, end = MODEL.index("    tokenizer = Tok"), MODEL.index("    fast =")
    text = MODEL[:begin] + WORD_LEVEL.lstrip("\n") + MODEL[end:]
    (task / "model.py").write_text(
        text.replace("LlamaConfig", f"{kind}Config").replace("LlamaFor", f"{kind}For")
    )
    maker = maker_of(f"file:{task / 'model.py'}")
    assert maker is not None
    if kind == "Llama":
        assert made_folder(maker).is_dir()
        return
    with pytest.raises(UserError, match=r"is read as another one, a Qwen2Tokenizer.*LlamaConfig"):
        made_folder(maker)


def test_a_file_that_ends_the_process_is_told(task: Path) -> None:
    (task / "model.py").write_text("import sys\nsys.exit(4)\n")
    maker = maker_of(f"file:{task / 'model.py'}")
    assert maker is not None
    with pytest.raises(UserError, match=r"model.py:2 makes no model: SystemExit: 4"):
        made_folder(maker)
