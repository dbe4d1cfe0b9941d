"""A policy: the model that is trained, its tokenizer and its way of talking.

A model comes from a hub id, a folder or "tiny" (bundled). Only safetensors are loaded, and no code
that lies beside a model is ever run.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from refine_rl.config import ModelSettings
from refine_rl.errors import UserError
from refine_rl.randomness import torch_seed
from refine_rl.types import Message

log = logging.getLogger("refine_rl")

PLAIN_TEMPLATE = (
    "{{ START }}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}Assistant: {{ message.content }}{{ eos_token }}\n"
    "{% else %}{{ message.role | capitalize }}: {{ message.content }}\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For models without a template of their own; it is saved with the tuned model."""


@dataclass(kw_only=True, eq=False)
class Policy:
    """The model with everything that is needed to talk to it.

    `compute_dtype` is the number format of the matrix products; `frozen` a copy of the untrained
    model, kept only where there is no adapter to switch off.
    """

    model: Any
    tokenizer: Any
    stop_ids: frozenset[int]
    device: torch.device
    compute_dtype: torch.dtype
    context_length: int
    source: str
    adapter: bool
    frozen: Any = None

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's token ids in the model's own template, ready for an answer."""
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise whatever their author chose
            roles = ", ".join(m["role"] for m in messages)
            raise UserError(
                f"The chat template of {self.source} refuses a conversation of the roles {roles}: {error}. "
                "A template that knows no system message wants it inside the first user message."
            ) from error
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of sampled tokens, special tokens left out."""
        return str(
            self.tokenizer.decode(
                list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def forward(self, **inputs: Any) -> Any:
        """The model's output in the policy's precision. `position_ids` and `logits_to_keep` are left
        out for the few architectures whose forward does not know them: those derive positions from
        the attention mask, and return the logits of every column."""
        known = inspect.signature(self._bare_model.forward).parameters
        for name in ("position_ids", "logits_to_keep"):
            if name not in known:
                inputs.pop(name, None)
        with self.precision():
            return self.model(**inputs)

    @property
    def _bare_model(self) -> Any:
        return self.model.get_base_model() if self.adapter else self.model

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Forward passes of sampler and trainer run in here, so that both compute the same."""
        weights = next(self.model.parameters()).dtype
        if weights == self.compute_dtype:
            yield
        else:
            with torch.autocast(self.device.type, dtype=self.compute_dtype):
                yield

    @contextlib.contextmanager
    def dropout(self, rate: float, seed: int) -> Iterator[None]:
        """LoRA dropout on, with its own randomness; everything else stays as in sampling."""
        if rate == 0:
            yield
            return
        layers = [
            m for n, m in self.model.named_modules() if isinstance(m, nn.Dropout) and "lora_dropout" in n
        ]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            try:
                for layer in layers:
                    layer.train()
                yield
            finally:
                for layer in layers:
                    layer.eval()

    @contextlib.contextmanager
    def reference(self) -> Iterator[Policy]:
        """The policy as it was before training: the adapter off, or the frozen copy."""
        if self.adapter:
            with self.model.disable_adapter():
                yield self
        elif self.frozen is not None:
            yield Policy(**{k: v for k, v in vars(self).items() if k != "model"}, model=self.frozen)
        else:
            raise RuntimeError("this policy was loaded without a frozen copy (keep_reference=True)")

    def save(self, folder: Path) -> None:
        """The adapter or the model, with tokenizer and chat template, as transformers reads it."""
        if self.adapter:
            self.model.save_pretrained(folder, safe_serialization=True)
        else:
            copied = copy.deepcopy(self.model).to(self.compute_dtype)
            copied.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)

    def save_merged(self, folder: Path) -> None:
        """One ordinary model, the adapter's product added into its weights."""
        if not self.adapter:
            self.save(folder)
            return
        # In float32: adding a small product to a bfloat16 weight would round most of it away first.
        merged = copy.deepcopy(self.model).float().merge_and_unload().to(self.compute_dtype)
        merged.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)


def load_policy(
    settings: ModelSettings, *, seed: int = 0, adapter_from: Path | None = None, keep_reference: bool = False
) -> Policy:
    """Loads the model of `settings`, with a fresh adapter (or the one in `adapter_from`).

    Raises UserError where the model cannot be had or is of a kind that is not trained here.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    device = choose_device(settings.device)
    if device.type == "cuda":
        # A resumed run equals an unbroken one to the bit only if the kernels do.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    compute_dtype = choose_dtype(settings.dtype, device)
    source = model_source(settings.name)
    weights_from = str(adapter_from) if adapter_from and settings.adapter == "none" else source
    model_config = _fetch(transformers.AutoConfig, source)
    if getattr(model_config, "is_encoder_decoder", False):
        raise UserError(
            f"{settings.name} is an encoder-decoder ({model_config.model_type}); GRPO here trains "
            "decoder-only models."
        )
    # Without an adapter every weight is trained: they stay float32, or small updates would be lost.
    dtype = compute_dtype if settings.adapter == "lora" else torch.float32
    model = _fetch(transformers.AutoModelForCausalLM, weights_from, dtype=dtype, use_safetensors=True)
    tokenizer = _fetch(transformers.AutoTokenizer, source)
    frozen = None
    if settings.adapter == "lora":
        model = _with_adapter(model, settings, seed, adapter_from)
    elif keep_reference:
        untrained = (
            copy.deepcopy(model)
            if weights_from == source
            else _fetch(transformers.AutoModelForCausalLM, source, dtype=dtype, use_safetensors=True)
        )
        frozen = untrained.requires_grad_(False).eval().to(device)
    model.to(device).eval()
    _ensure_template(tokenizer)
    return Policy(
        model=model,
        tokenizer=tokenizer,
        stop_ids=stop_ids(model, tokenizer),
        device=device,
        compute_dtype=compute_dtype,
        context_length=_context_length(model_config),
        source=settings.name,
        adapter=settings.adapter == "lora",
        frozen=frozen,
    )


def model_source(name: str) -> str:
    """What from_pretrained is given: the bundled folder for "tiny", else the name itself."""
    if name == "tiny":
        return str(resources.files("refine_rl") / "assets" / "tiny")
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if looks_like_path:
        raise UserError(f"[model] name = {name!r}: there is no such folder.")
    return name


def choose_device(wanted: str) -> torch.device:
    """ "auto": cuda, else mps, else cpu."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"[model] device = {wanted!r} cannot be used here: {reason}") from error
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """ "auto": bfloat16 where the processor multiplies it in hardware, else float32."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Private names of torch 2.x; where they are gone we fall back to float32, which is always right.
        fast = any(
            getattr(torch.cpu, probe, bool)()
            for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the model's own, the tokenizer's, the template's end of turn."""
    ids: set[int] = set()
    for holder in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        value = getattr(holder, "eos_token_id", None)
        ids.update([value] if isinstance(value, int) else value or [])
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    end_of_turn = _end_of_turn(tokenizer)
    if end_of_turn is not None:
        ids.add(end_of_turn)
    if not ids:
        raise UserError(
            "The model and its tokenizer name no stop token: set eos_token in tokenizer_config.json."
        )
    return frozenset(ids)


def _end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the template puts behind an assistant's words, where it puts one."""
    word = "refine"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hello"}, {"role": "assistant", "content": word}], tokenize=False
        )
    except Exception:  # an odd template has no end of turn that we could learn
        return None
    ids = tokenizer(text[text.rindex(word) + len(word) :].lstrip(), add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return ids[0] if ids and ids[0] in special else None


def _ensure_template(tokenizer: Any) -> None:
    if tokenizer.chat_template is None:
        starts = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = PLAIN_TEMPLATE.replace("{{ START }}", "{{ bos_token }}" if starts else "")


def _context_length(config: Any) -> int:
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text_config, "max_position_embeddings", None) or 1 << 20)


def _with_adapter(model: Any, settings: ModelSettings, seed: int, adapter_from: Path | None) -> Any:
    import peft

    if adapter_from is not None:
        with _peft_quiet():
            return peft.PeftModel.from_pretrained(model, str(adapter_from), is_trainable=True)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), _peft_quiet():
        torch.manual_seed(torch_seed(seed, "adapter"))
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            linear = sorted(
                {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
            )
            raise UserError(
                f"[model] targets = {settings.targets!r} matches no layer; "
                f"this model has {', '.join(linear)}."
            ) from error


@contextlib.contextmanager
def _peft_quiet() -> Iterator[None]:
    """Without peft's remarks that no user can act on: its use of a transformers name that is going to
    change, and that it transposes GPT-2's Conv1D by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        yield


def _fetch(kind: Any, source: str, **options: Any) -> Any:
    local = Path(source).is_dir()
    try:
        return kind.from_pretrained(source, trust_remote_code=False, local_files_only=local, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        if local:
            hint = "The folder needs config.json, *.safetensors and the tokenizer's files."
        elif os.environ.get("HF_HUB_OFFLINE") == "1":
            hint = "HF_HUB_OFFLINE=1 is set, and the model is not in the local cache."
        else:
            hint = 'Check the name and the network; offline, use a folder or name = "tiny".'
        raise UserError(f"Cannot load the model {source!r}: {reason} {hint}") from error
