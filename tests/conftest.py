"""Shared fixtures: no network for anybody, and small models of several architectures."""

from __future__ import annotations

import fcntl
import importlib.util
import io
import itertools
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import quick

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as refine_rl.policy does; here torch comes first
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it in its processes; a test that wants it sets its own
# Models of a few thousand weights gain nothing by more, and wait for it; here and in every child.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# peft imports bitsandbytes, and that compiles functions as it is imported: a second of every child's.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

if importlib.util.find_spec("hypothesis"):  # not where only the tests of a card are run (benchmarks/gpu.py)
    from hypothesis import HealthCheck
    from hypothesis import settings as hypothesis_settings

    hypothesis_settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    hypothesis_settings.load_profile("busy")  # a busy machine makes nothing wrong


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(quick, "quick")  # not by its hooks' names here: those would not see src


MakeModel = Callable[..., Path]

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A test that would reach the outside fails at once, unless it is marked `network`."""
    if "network" in request.keywords:
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def _cache_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llm_cache")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """once(name, make) -> a folder that `make` has filled: once, however many processes pytest-xdist has."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, half = place / name, place / f"{name} half made"
        with (place / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                shutil.rmtree(half, ignore_errors=True)
                half.mkdir()
                make(half)
                half.rename(folder)
        return folder

    return made


_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, _cache_folders: Path) -> None:
    """Every test begins with an empty cache of replies."""
    monkeypatch.setenv("REFINE_CACHE", str(_cache_folders / str(next(_numbers))))


def _beside(name: str) -> ModuleType:
    """A module of this folder; tests cannot import each other by name."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def llm_server() -> Iterator[Callable[..., Any]]:
    """llm_server(brain=..., moods=..., hold=...) -> a running server; see llm_server.py."""
    module = sys.modules.get("llm_server") or _beside("llm_server")
    running: list[Any] = []

    def start(**how: Any) -> Any:
        running.append(module.LlmServer(**how))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def llm_brain() -> Callable[..., str]:
    """A writer and a judge for any task, to be the brain of `llm_server`; see llm_brain.py."""
    module = sys.modules.get("llm_brain") or _beside("llm_brain")
    return module.brain  # type: ignore[no-any-return]


@pytest.fixture
def tinker_server(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """tinker_server(folder, reduction="mean", ...) -> a running service; see tinker_server/."""
    from tinker_server import TinkerServer

    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    running: list[Any] = []

    def start(folder: Path | None = None, *, store: Path = tmp_path / "tinker", **manners: Any) -> Any:
        running.append(TinkerServer(folder or make_model(), store=store, **manners))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def refine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """refine("train", task, stdin="...") in process, in an empty folder: imports take seconds."""
    from refine_rl import cli

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_leave", sys.exit)  # a command may not end the process, as the real one does

    def call(*arguments: str | Path, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["refine", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert end.value.code is None or isinstance(end.value.code, int)
        return Result(end.value.code or 0, out, err)

    yield call
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def is_linear() -> Callable[[Callable[[int], object], int], bool]:
    """is_linear(work, n): whether work(4 * n) costs about four times work(n); if quadratic, sixteen times.

    It is processor time of this thread that counts. A busy machine can only add to it, so the least of
    several tries is compared, and another try made while the least looks like too much."""

    def cost(work: Callable[[int], object], size: int) -> float:
        began = time.thread_time()
        work(size)
        return time.thread_time() - began

    def judge(work: Callable[[int], object], size: int) -> bool:
        small, large = [], []
        for _ in range(8):
            small.append(cost(work, size))
            large.append(cost(work, 4 * size))
            if len(small) > 1 and min(large) < 9 * max(0.005, min(small)):
                return True
        return False

    return judge


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As on a machine of two cores: micro-batches go in two lanes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """make_model("llama", chat=True, **config) -> a folder with a small random model and tokenizer."""
    built: dict[str, Path] = {}

    def make(kind: str = "llama", *, chat: bool = True, **changes: Any) -> Path:
        key = f"{kind} {chat} {changes}"
        if key not in built:
            built[key] = tmp_path_factory.mktemp(kind)
            _build(built[key], kind, chat, changes)
        return built[key]

    return make


def _build(folder: Path, kind: str, chat: bool, changes: dict[str, Any]) -> None:
    import torch
    import transformers

    tokenizer = _tokenizer(chat)
    common = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=256, **common, **changes
        )
    elif kind in ("gpt_neox", "phi"):
        sizes.pop("num_key_value_heads")
        config = transformers.CONFIG_MAPPING[kind](**{**sizes, **common, **changes})
    else:
        if kind in ("qwen3", "gemma3_text"):
            sizes["head_dim"] = 8
        config = transformers.CONFIG_MAPPING[kind](**{**sizes, **common, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        # Larger weights than a fresh model's: otherwise all next-token distributions are nearly flat.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(chat: bool) -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["hello there, say something short about the cat and the dog"] * 4, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )
    if chat:
        fast.chat_template = CHAT
    return fast
