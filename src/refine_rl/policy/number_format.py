"""Which number format is the faster one here, for this model: a layer of its shape is timed in both.

What a processor's name promises for large products says little about a small model, whose time goes into
everything around them. So one layer of the model's own widths, with made-up weights and the adapter that is
asked for, does what a step does: it samples a token for many rows, and trains on some tokens. What counts is
the time of one thread on the processor, which other programs hardly change.

It is decided once. The run puts the decision on record, and whatever is done with it later takes it from
there. And the user's cache keeps it ($REFINE_CACHE/formats, else refine-rl/formats in $XDG_CACHE_HOME or
~/.cache; a file a shape, with the processor, the version of torch and the seconds that were measured), so
that all runs of such models on this machine have one format, where the two are close as well. Who removes the
file has it timed again.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from refine_rl.policy.cache import cache_folder
from refine_rl.policy.control import NO_CONTROL
from refine_rl.policy.decode import Decoding
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.fast import gather
from refine_rl.policy.fetch import is_encoder_decoder
from refine_rl.policy.fused import fused
from refine_rl.policy.head import exponentials
from refine_rl.policy.lean import lean_parts
from refine_rl.policy.lora import at_rest
from refine_rl.policy.memory import KeysAndValues
from refine_rl.policy.prefix import pack

ROWS = 64
"""Rows that sample at once, as in a step of 8 prompts x 8 completions."""

PROMPT, MEMBERS, COMPLETION = 24, 8, 16
"""Tokens of a prompt, and the completions that are trained on behind it."""

TIMES = (4, 12)
"""Each format is timed so often at least and at most, in turn; the shortest counts, which is what nothing
disturbed."""

ENOUGH = 0.3
"""Seconds after which no format is timed once more than it must be."""

CLEARLY = 0.9
"""bfloat16 must take less than this share of float32's time: where they are close, the finer one is better,
and the same machine should not say one thing today and another tomorrow."""

NARROW = 128
"""Models of a smaller width are not timed: their products are too small a part of their time."""

HEAD_WEIGHTS = 1 << 23
"""Of a larger vocabulary, as many tokens as make a head of so many weights stand for all."""

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Adapt = Callable[[Any], Any]
"""Puts the adapter on a model, where there is one."""


def faster_format(
    config: Any, adapt: Adapt, *, trains_all: bool, adapter: Mapping[str, Any] | None = None
) -> torch.dtype:
    """The format in which this processor samples and trains on a token sooner, for models of `config`; what
    was found before for such a one, with such an `adapter`, where the cache has it. `trains_all`: the weights
    stay float32, and only products are rounded. float32 where the two are close, or where no layer can be
    made of the configuration, and for encoder-decoders, which are not timed."""
    text = config.get_text_config()
    if is_encoder_decoder(config) or text.hidden_size < NARROW:
        return torch.float32
    subject = _subject(config, {**(adapter or {}), "trains_all": trains_all})
    digest = hashlib.sha256(json.dumps(subject, default=str).encode()).hexdigest()
    kept = cache_folder("formats") / f"{digest[:24]}.json"
    if (known := _known(kept)) is not None:
        return known
    try:
        with _one_thread():
            exact, coarse = _seconds(
                [
                    _works(one_layer(config, dtype, adapt, trains_all=trains_all))
                    for dtype in (torch.float32, torch.bfloat16)
                ]
            )
    except Exception:  # whatever an architecture makes of a configuration of one layer
        return torch.float32
    found = "bfloat16" if coarse < CLEARLY * exact else "float32"
    seconds = {"float32": exact, "bfloat16": coarse}
    _keep(kept, {"format": found, "seconds_a_token": seconds, **subject})
    return _known(kept) or FORMATS[found]  # another process's, where that was sooner


def _subject(config: Any, adapter: Mapping[str, Any]) -> dict[str, Any]:
    """What the decision depends on: this processor, what computes, and the shape of a layer."""
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    named = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    shape = {
        name: value
        for name, value in sorted(config.get_text_config().to_dict().items())
        if name in _SHAPE
        or (name.startswith("num_") and name != "num_hidden_layers")
        or name.endswith(("_size", "_dim"))
    }
    return {
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "model": {**shape, "model_type": config.model_type},
        "adapter": dict(adapter),
    }


_SHAPE = ("hidden_act", "attention_bias", "mlp_bias", "sliding_window", "tie_word_embeddings")
"""Beside the numbers and sizes of a configuration, what changes how long a layer takes."""


def _known(kept: Path) -> torch.dtype | None:
    """What a file of the cache says; None where there is none, or it says nothing that can be."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return FORMATS[json.loads(kept.read_text(encoding="utf-8"))["format"]]
    return None


def _keep(kept: Path, found: Mapping[str, Any]) -> None:
    """The first process that has decided does so for all. A cache that cannot be written has it timed again
    next time."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = kept.with_name(f"{kept.name}.{os.getpid()}")
        aside.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
        if _known(kept) is None:  # of what is damaged nothing is to be kept
            kept.unlink(missing_ok=True)
        try:
            os.link(aside, kept)
        except FileExistsError:
            pass
        except OSError:  # no links in this file system
            aside.replace(kept)
        aside.unlink(missing_ok=True)


def one_layer(config: Any, dtype: torch.dtype, adapt: Adapt, *, trains_all: bool) -> DecoderOnly:
    """A policy of one layer with the widths of `config`; no weight of it means anything."""
    import transformers

    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = 1
    text.vocab_size = max(256, min(text.vocab_size, HEAD_WEIGHTS // text.hidden_size))
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if trains_all else dtype
        )
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.fill_(0.01)  # memory as it is found holds numbers that are slow to add
    lean_parts(model)
    adapted = adapt(model)
    return DecoderOnly(
        model=adapted.eval(),
        tokenizer=None,
        stop_ids=frozenset(),
        control=NO_CONTROL,
        moment=datetime.now(),  # nobody asks this one
        device=torch.device("cpu"),
        compute_dtype=dtype,
        context_length=PROMPT + COMPLETION,
        source="",
        adapter=adapted is not model,
    )


Works = tuple[Callable[[], float], Callable[[], float]]
"""Seconds a token of sampling and of training, each time that they are called."""


def _works(policy: DecoderOnly) -> Works:
    fast = policy.fast
    if fast is None:
        raise ValueError(policy.why_plain)
    prompt = tuple(range(PROMPT))
    members = [[m + i for i in range(COMPLETION)] for m in range(MEMBERS)]
    packed, sources, targets = gather([prompt], [members], policy.device)
    parameters = list(policy.trainable().values())
    token = torch.zeros(1, ROWS, dtype=torch.long)

    def sampled() -> float:
        prefill: KeysAndValues = {}
        row = pack([prompt], [[]])
        layout = replace(row.packed, keep=lambda layer, k, v: prefill.update({layer: (k, v)}))
        with torch.no_grad(), policy.precision(), at_rest(policy.model):
            head = fast.rounded(policy.compute_dtype)
            fast.hidden(row.ids, row.positions, layout)
            state = Decoding([prompt], [ROWS], prefill, 1)
            layers = fused(fast.body, policy.compute_dtype)
            angles = layers.angles(PROMPT + 1) if layers else ()
            began = time.thread_time()
            positions = state.positions()
            if layers:
                hidden = layers.hidden(token[0], [angle[positions[0]] for angle in angles], state)
            else:
                hidden = fast.hidden(token, positions, state)
            exponentials(fast.logits(hidden, head)).sum(-1)
            return (time.thread_time() - began) / ROWS

    def trained() -> float:
        with policy.precision():
            began = time.thread_time()
            found = fast.logprobs(packed, sources, targets, 1.0)
            # On a processor the backward pass runs in the calling thread.
            torch.autograd.grad(found.sum(), parameters, allow_unused=True)
            return (time.thread_time() - began) / (MEMBERS * COMPLETION)

    return sampled, trained


def _seconds(formats: list[Works]) -> list[float]:
    """Seconds a token in each format, the shortest of several times in turn; the first is a warm-up."""
    found: list[list[list[float]]] = []
    began = time.perf_counter()
    least, most = TIMES
    while len(found) <= least or (len(found) <= most and time.perf_counter() - began < ENOUGH):
        found.append([[work() for work in works] for works in formats])
    del found[0]
    return [sum(min(times[n][part] for times in found) for part in range(2)) for n, _ in enumerate(formats)]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
