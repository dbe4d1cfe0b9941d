"""Where llama.cpp is on this machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from refine_rl.errors import UserError

CONVERTER = "convert_hf_to_gguf.py"
OUTTYPES = ("f32", "f16", "bf16", "q8_0")
_SERVER = "llama-server"
_HOW = (
    "It comes with llama.cpp's source (nothing has to be compiled): git clone --depth 1 "
    "https://github.com/ggml-org/llama.cpp, then add --llama-cpp llama.cpp (or set LLAMA_CPP to it)."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaCpp:
    """llama.cpp's converter, and its server where there is one."""

    converter: Path
    server: Path | None


def find_llama_cpp(named: Path | None = None) -> LlamaCpp:
    """llama.cpp in the folder `named`, in that of the environment's LLAMA_CPP, or on PATH. Raises UserError
    with the way to it where it is not there, or where the package gguf is not installed."""
    if find_spec("gguf") is None:
        raise UserError('Writing GGUF needs the package gguf: pip install "refine-rl[gguf]"')
    told = "--llama-cpp" if named is not None else "LLAMA_CPP"
    where = named or (Path(os.environ["LLAMA_CPP"]) if os.environ.get("LLAMA_CPP") else None)
    if where is None:
        found = shutil.which(CONVERTER)
        if found is None:
            raise UserError(f"llama.cpp's converter, {CONVERTER}, is not on PATH. {_HOW}")
        folder = Path(found).resolve().parent
        return LlamaCpp(converter=Path(found), server=_server(folder))
    folder = where.expanduser()
    if not (folder / CONVERTER).is_file():
        there = "is no folder" if not folder.is_dir() else f"has no {CONVERTER}"
        raise UserError(f"{told} {where}: {folder} {there}. {_HOW}")
    return LlamaCpp(converter=folder / CONVERTER, server=_server(folder))


def _server(folder: Path) -> Path | None:
    for place in (folder / "build" / "bin" / _SERVER, folder / _SERVER):
        if place.is_file() and os.access(place, os.X_OK):
            return place
    found = shutil.which(_SERVER)
    return None if found is None else Path(found)
