"""A program of its own: runs llama.cpp's converter and tells it how a tokenizer that it does not know cuts
texts.

    python launch.py CONVERTER NAME ARGUMENTS...

The converter has a method that knows tokenizers by a check-sum, and raises where it finds none. Here it
answers NAME then. Whether that is right is looked at before (pre.py) and afterwards (check.py, server.py).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_METHOD = "get_vocab_base_pre"


def _heirs(kind: Any) -> Iterator[Any]:
    yield kind
    for heir in kind.__subclasses__():
        yield from _heirs(heir)


def _told(known: Any, name: str) -> Any:
    def answer(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            return name

    return answer


def main() -> None:
    converter, name, *arguments = sys.argv[1:]
    file = Path(converter).resolve()
    sys.path.insert(0, str(file.parent))
    sys.argv = [converter, *arguments]
    module = importlib.import_module(file.stem)
    base = getattr(module, "ModelBase", None) or module.Model
    for kind in _heirs(base):
        if _METHOD in vars(kind):
            setattr(kind, _METHOD, _told(vars(kind)[_METHOD], name))
    module.main()


if __name__ == "__main__":
    main()
