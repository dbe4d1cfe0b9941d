"""The command that starts a vLLM server as this engine needs one."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

import torch

from refine_rl.llm.endpoints import is_loopback
from refine_rl.settings.revision import on_hub

RUNTIME = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
PROCESSED = "--logprobs-mode processed_logprobs"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that --max-lora-rank takes (vllm/config/lora.py)."""


def start_command(
    model: str, *, rank: int, dtype: str, base_url: str, temperature: float, key_env: str = ""
) -> str:
    """The command, for a shell, to serve `model` (a hub id, perhaps with a revision behind an @, or a folder)
    with adapters of `rank`.

    >>> command = start_command("a/b", rank=12, dtype="float32", base_url="http://127.0.0.1:8000/v1",
    ...                         temperature=1.0)
    >>> command.partition(" --dtype ")[0]
    'VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve a/b --host 127.0.0.1 --port 8000'
    >>> command.partition(" --dtype ")[2]  # doctest: +ELLIPSIS
    'float32 --enable-lora --max-lora-rank 16 --max-loras 2 --generation-config vllm...'
    >>> start_command("a/b@v1", rank=8, dtype="float32", base_url="http://127.0.0.1:8000/v1",
    ...               temperature=1.0).partition(" --host ")[0].partition("vllm ")[2]
    'serve a/b --revision v1 --tokenizer-revision v1'
    """
    parts = urlsplit(base_url)
    name, at = on_hub(model)
    words = [RUNTIME, "vllm", "serve", shlex.quote(name)]
    for revision in at.values():
        words += ["--revision", shlex.quote(revision), "--tokenizer-revision", shlex.quote(revision)]
    if is_loopback(base_url):
        words += ["--host", "127.0.0.1"]
    words += ["--port", str(parts.port or (443 if parts.scheme == "https" else 80))]
    words += ["--dtype", dtype, "--enable-lora"]
    words += ["--max-lora-rank", str(next((r for r in _RANKS if r >= rank), rank)), "--max-loras", "2"]
    words += ["--generation-config", "vllm"]
    words += [PROCESSED] if temperature != 1.0 else []
    if is_loopback(base_url) and not torch.cuda.is_available():
        # On a processor, vLLM 0.32 ends at a seeded request whose prompt it reads in parts.
        words += ["--no-enable-chunked-prefill"]
    words += ["--api-key", f'"${key_env}"'] if key_env else []
    return " ".join(words)
