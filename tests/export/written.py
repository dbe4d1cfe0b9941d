"""A small Llama as a GGUF file, written by the package gguf."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_llama(
    folder: Path,
    file: Path,
    pre: str,
    config: dict[str, Any],
    change: Callable[[str, np.ndarray], np.ndarray] = lambda name, values: values,
    **head: Any,
) -> None:
    """`change` spoils a tensor by name; `head` are `eos`, `tokens`, `template` to be others."""
    import gguf
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = [own.id_to_token(i) for i in range(own.get_vocab_size())]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(head.get("tokens", names))
    writer.add_eos_token_id(head.get("eos", config["eos_token_id"]))
    writer.add_chat_template(head.get("template", (folder / "chat_template.jinja").read_text()))
    for name, values in load_file(folder / "model.safetensors").items():
        bare = name.removesuffix(".weight")
        block = bare.removeprefix("model.layers.").partition(".")
        short = f"blk.{block[0]}.{_NAMES[block[2]]}" if bare.startswith("model.layers.") else _NAMES[bare]
        if short.endswith(("attn_q", "attn_k")):
            heads = config["num_attention_heads" if short.endswith("q") else "num_key_value_heads"]
            rows = np.arange(values.shape[0]).reshape(heads, 2, -1)
            values = values[rows.transpose(0, 2, 1).reshape(-1)]
        writer.add_tensor(f"{short}.weight", change(short, np.ascontiguousarray(values)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
