"""What a GGUF file holds (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from refine_rl.errors import UserError

_ENDS = ("eos", "eot", "eom")


@dataclass(frozen=True, kw_only=True, eq=False)
class GgufFile:
    """A file that was opened. Its tensors stay on the disk until they are asked for."""

    path: Path
    reader: Any

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the file's head."""
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    @property
    def architecture(self) -> str:
        return str(self.get("general.architecture", ""))

    @property
    def tokens(self) -> list[str]:
        return list(self.get("tokenizer.ggml.tokens", []))

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that it says end an answer."""
        found = (self.get(f"tokenizer.ggml.{end}_token_id") for end in _ENDS)
        return frozenset(int(i) for i in found if i is not None)

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self.reader.tensors}

    @property
    def names(self) -> list[str]:
        """Of its tensors."""
        return list(self._tensors)

    def form(self, name: str) -> str:
        """The number format of a tensor: "F32", "Q8_0"."""
        return str(self._tensors[name].tensor_type.name)

    def values(self, name: str) -> np.ndarray:
        """A tensor in float32, rows first as in torch."""
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        found = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        return found.reshape([int(n) for n in reversed(tensor.shape)])


def read_gguf(path: Path) -> GgufFile:
    """Raises UserError where it is none."""
    from gguf import GGUFReader

    try:
        return GgufFile(path=path, reader=GGUFReader(path))
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no GGUF file that can be read: {error}") from error
