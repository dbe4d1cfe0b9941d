"""from_pretrained, whole or not at all: what it raises in plain words, and no weight that is made up.

transformers fills a weight that it does not find with random numbers, and leaves out one that it does not
know. Here either is refused, by what transformers itself counts as missing (a tied head is not).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from refine_rl.errors import MachineError, UserError
from refine_rl.policy.hub import hub_address, hub_answers
from refine_rl.settings.revision import on_hub
from refine_rl.types import count_of

SHOWN = 3  # names in a refusal
_OBJECTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def fetch_config(name: str, source: str) -> Any:
    """The configuration. Raises UserError for a model that cannot be trained here, whatever its weights."""
    import transformers

    # transformers passes over one that it cannot read, and the stop tokens in it would be gone.
    generation = Path(source) / "generation_config.json"
    if generation.is_file() and (damage := _bad_json(generation)):
        raise UserError(f"Cannot load the model {source!r}: {damage}")
    config = fetch(transformers.AutoConfig, source)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise UserError(
            f"{name} is quantised ({getattr(method, 'value', method)}), and no model is taken from quantised "
            "files here. Take the model that it was made from (its card names it), in bfloat16 or float32; "
            'model.adapter = "qlora" quantises it while it is loaded.'
        )
    return config


def config_here(source: str) -> Any:
    """The configuration, from this machine alone. Raises whatever transformers does."""
    import transformers

    name, at = on_hub(source)
    return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=True, **at)


def is_encoder_decoder(config: Any) -> bool:
    """Whether models of this configuration read with an encoder and write with a decoder."""
    return bool(getattr(config, "is_encoder_decoder", False))


def auto_class(config: Any, name: str) -> Any:
    """What of transformers makes a model that writes of this configuration. Raises UserError where only the
    encoder of an encoder-decoder is there."""
    import transformers

    both, causal = transformers.AutoModelForSeq2SeqLM, transformers.AutoModelForCausalLM
    if is_encoder_decoder(config):
        return both
    if type(config) in both._model_mapping and type(config) not in causal._model_mapping:
        raise UserError(
            f"{name} is the encoder of an encoder-decoder ({config.model_type}) alone: it reads, and cannot "
            "write. Take the whole model; where the weights are whole, its config.json lacks "
            "is_encoder_decoder = true."
        )
    return causal


def fetch_weights(source: str, dtype: torch.dtype, **options: Any) -> Any:
    """A model that writes, with every weight from the files; `options` are from_pretrained's. Raises
    UserError where one is missing, is not the model's, or has another shape."""
    import transformers

    with _transformers_quiet():
        model, info = fetch(
            auto_class(fetch(transformers.AutoConfig, source), source),
            source,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    shapes = [
        f"{name} ({_shape(found)} instead of {_shape(wanted)})"
        for name, found, wanted in sorted(info["mismatched_keys"])
    ]
    # Old files hold buffers too that the model computes itself (masks, rotations).
    buffers = [f".{name}" for name, _ in model.named_buffers()]
    foreign = [key for key in info["unexpected_keys"] if not any(b.endswith(f".{key}") for b in buffers)]
    require_whole(f"The model {source!r}", sorted(info["missing_keys"]), sorted(foreign), shapes)
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    if words is not None and head is not None and words.weight is not head.weight:
        set_untied(model)  # a file with both, and they differ: the configuration may still say otherwise
    return model


def set_untied(model: Any) -> None:
    """Has the configuration say that embedding and head are two."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False


def require_whole(what: str, missing: list[str], unexpected: list[str], shapes: list[str]) -> None:
    """Raises UserError with the first names unless all three are empty."""
    problems = [
        f"{count_of(len(names), 'weight')} {fault}: {', '.join(names[:SHOWN])}"
        + (" ..." if len(names) > SHOWN else "")
        for names, fault in ((missing, "missing"), (unexpected, "too many"), (shapes, "of another shape"))
        if names
    ]
    if not problems:
        return
    hint = "Its files are not those of this configuration: copy or download all of them again"
    if missing and unexpected:
        hint += ", or give the weights the names that the configuration's architecture has"
    raise UserError(f"{what} would be loaded in part. {'; '.join(problems)}. {hint}.")


def fetch(kind: Any, source: str, **options: Any) -> Any:
    """`kind`.from_pretrained; never code that lies beside a model. Raises UserError for whatever it raises,
    MachineError where the disk is at fault."""
    local = Path(source).is_dir() or not hub_answers()
    # Else transformers has weights that are pickles converted by a service on the hub, under the person's
    # token, and takes what that proposes (safetensors_conversion.py).
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    name, at = on_hub(source)
    try:
        return kind.from_pretrained(name, trust_remote_code=False, local_files_only=local, **at, **options)
    except Exception as error:
        raise refusal(error, source) from error


def refusal(error: Exception, source: str) -> Exception:
    """What a person is told of an error of transformers or peft; memory that ran out stays what it is."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return error
    if isinstance(error, OSError) and error.errno in _FULL:
        return MachineError(f"Cannot load the model {source!r}: {error}")
    if isinstance(error, OSError) and not Path(source).is_dir() and not hub_answers():
        return MachineError(
            f"Cannot load the model {source!r}: the hub ({hub_address()}) cannot be reached, and the model "
            "is not in its cache on this machine. Check the network; offline, use a folder or "
            f'model.name = "tiny".{_meant(source)}'
        )
    if not Path(source).is_dir() and (broken := _broken_off(error)):
        return MachineError(
            f"Cannot load the model {source!r}: the download from {hub_address()} broke off ({broken}). "
            "Check the network, and start the same command again."
        )
    return UserError(f"Cannot load the model {source!r}: {_cause(error, source)}{_meant(source)}")


def _meant(source: str) -> str:
    """A word on the bundled model, or a folder here, whose name is nearly what was asked of the hub; "" where
    there is none."""
    path = Path(source)
    if path.is_dir():
        return ""
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    bundled = ["tiny"] if path.name == source else []
    near = get_close_matches(path.name, [*bundled, *beside], n=1, cutoff=0.75)
    return f' Did you mean "{near[0] if near[0] in bundled else path.with_name(near[0])}"?' if near else ""


def _broken_off(error: BaseException | None) -> str:
    """What the client of the hub says of a connection that ended; "" where no cause of the error is one."""
    while error is not None:
        if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # httpx's, or httpx2's
            return str(error) or type(error).__name__
        error = error.__cause__ or error.__context__
    return ""


_MEANINGS = {  # of what transformers says: a pattern, and the text with its groups
    "custom code": "it needs Python code that lies beside its weights, and no such code is run here. Take a "
    "model that transformers knows by itself.",
    "has model type `(.*?)` but Transformers does not recognize": "its config.json says model_type = {0!r}, "
    "which transformers {version[transformers]} does not know. Update transformers, or take another model.",
    r"Unrecognized configuration class .*?(\w+)Config'>": "{0} is a kind of model that does not write: "
    "decoder-only models and encoder-decoders are trained here.",
    "not a valid git identifier": "the hub has no branch, tag or commit {revision!r} of it ({page}). Check "
    "what stands behind the @.",
    "gated repo": "it is gated. Accept its terms on its page, {page}, then log in: hf auth login",
    "not a valid model identifier": "there is no model of that name on the hub, or it is private ({page}). "
    "Check the name; where it is private, log in: hf auth login; offline, use a folder or "
    'model.name = "tiny".',
    "cannot be loaded with `safetensors`": "it has no weights in safetensors files, and no others are taken: "
    "reading a pickle may run code. Take a model with *.safetensors; or where you trust this one, save it "
    "anew (AutoModelForCausalLM.from_pretrained, then save_pretrained), and name that folder.",
    "untagged enum": "its tokenizer.json has a form that tokenizers {version[tokenizers]} does not read. "
    "Update tokenizers and transformers, or take the model's own tokenizer.json.",
    "backend tokenizer": "its tokenizer cannot be made from what is there: tokenizer.json is missing or "
    "damaged. Copy the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the weights.",
}


def _cause(error: Exception, source: str) -> str:
    folder = Path(source) if Path(source).is_dir() else None
    if folder is not None and (damage := _damage(folder)):
        return damage
    text = _reason(error)
    words = str(error)
    version = {name: metadata.version(name) for name in ("transformers", "tokenizers")}
    for sign, meaning in _MEANINGS.items():
        if found := re.search(sign, words):
            name, at = on_hub(source)
            page = f"{hub_address()}/{name}"
            return meaning.format(*found.groups(), version=version, page=page, revision=at.get("revision"))
    if isinstance(error, ImportError):
        return f"{text} Install that package, or take a model that does without."
    if isinstance(error, KeyError):
        return f"its files name {text}, which transformers does not know."
    if folder is None or (isinstance(error, (OSError, ValueError)) and not _is_validation(error)):
        return f"{text} {_hint(folder)}"
    return f"transformers cannot use its files ({text.rstrip('.')}). {_hint(folder)}"


def _is_validation(error: Exception) -> bool:
    return type(error).__name__.startswith("StrictDataclass")


def _reason(error: Exception) -> str:
    """The line that says it; of an error's lines that is the first, of a validation's the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if _is_validation(error) or lines[0].endswith(":"):
        return lines[-1]
    return lines[0] if lines[0][-1] in ".!?" or isinstance(error, KeyError) else f"{lines[0]}."


def _damage(folder: Path) -> str:
    """What is wrong with a folder's files themselves; "" where nothing is."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        with file.open("rb") as content:
            if content.read(40).startswith(b"version https://git-lfs"):
                return f"{file} is a Git LFS pointer, not the file itself: git lfs pull brings it."
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            return f"{file} is damaged or was cut off ({error}). Copy or download it again."
    for file in sorted(folder.glob("*.json")):
        if damage := _bad_json(file):
            return damage
        if file.name.endswith(".safetensors.index.json"):
            parts = sorted(set(json.loads(file.read_text(encoding="utf-8")).get("weight_map", {}).values()))
            if gone := [part for part in parts if not (folder / part).is_file()]:
                return f"{file} names {', '.join(gone[:SHOWN])}, which is not there. Copy or download it."
    return ""


def _bad_json(file: Path) -> str:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{file} is damaged: it is no JSON ({error}). Copy or download it again."
    if not isinstance(found, dict) and (file.name in _OBJECTS or ".index." in file.name):
        return f"{file} is damaged: it holds no JSON object. Copy or download it again."
    return ""


def _hint(folder: Path | None) -> str:
    if folder is not None and (folder / "model").is_dir():
        return f"Where it is a run, name its model: {folder / 'model'}."
    if folder is not None:
        return "The folder needs config.json, *.safetensors and the tokenizer's files."
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return (
            "HF_HUB_OFFLINE=1 is set, and the model is not in the local cache. Check the name, and unset the "
            'variable to download it; offline, use a folder or model.name = "tiny".'
        )
    return 'Check the name and the network; offline, use a folder or model.name = "tiny".'


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape)) or "a number"


@contextlib.contextmanager
def _transformers_quiet() -> Iterator[None]:
    """Without its table of weights that do not fit: a refusal names them."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
