"""As llama.cpp's converter, for small Llamas in float32 alone: the same command line, and the same words
where FAULT in the environment asks for a fault. It stands in for the real one where only what is around it is
tested; test_gguf.py runs the real one where LLAMA_CPP names it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

FAULTS = {
    "architecture": "ERROR:hf-to-gguf:Model WarpForCausalLM is not supported",
    "package": "ModuleNotFoundError: No module named 'sentencepiece'",
    "tensor": "ValueError: Can not map tensor 'decoder.block.2.k.weight'",
    "other": "KeyError: 'hidden_size'",
}


class ModelBase:
    def get_vocab_base_pre(self, tokenizer: object) -> str:
        raise NotImplementedError("BPE pre-tokenizer was not recognized - update get_vocab_base_pre()")


class LlamaModel(ModelBase):
    pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--outfile", type=Path)
    parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0"])
    parser.add_argument("--model-name")
    asked = parser.parse_args()
    if fault := os.environ.get("FAULT"):
        sys.exit(FAULTS[fault])
    pre = LlamaModel().get_vocab_base_pre(None)
    sys.path.insert(0, str(Path(__file__).parent))
    from written import write_llama

    write_llama(asked.model, asked.outfile, pre, json.loads((asked.model / "config.json").read_text()))


if __name__ == "__main__":
    main()
