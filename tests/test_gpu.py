"""What only an accelerator can show; run with `pytest -m gpu`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from make import prompts
from refine_rl.envs.play import sample
from refine_rl.errors import Interrupted
from refine_rl.pipeline.train import run
from refine_rl.policy.draw import Sampling
from refine_rl.policy.load import load_policy
from refine_rl.policy.logprobs import logprobs
from refine_rl.policy.protocol import Purpose
from refine_rl.policy.tokens import token_batch
from refine_rl.run import RunFolder
from refine_rl.settings import ModelSettings
from refine_rl.settings.file import settings_from_dict

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
PROMPTS = prompts("hi", "say something about the cat", "the dog and the cat and the dog")


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_cuda_agrees_with_the_cpu(make_model: Callable[..., Path], kind: str) -> None:
    name = str(make_model(kind))
    cpu = load_policy(ModelSettings(name=name, dtype="float32", device="cpu"))
    gpu = load_policy(ModelSettings(name=name, dtype="float32", device="cuda"))
    groups = sample(
        gpu,
        PROMPTS,
        members=4,
        sampling=Sampling(max_tokens=16),
        purpose=Purpose(seed=0, step=1, name="rollout"),
    )
    batch = token_batch([t for g in groups for t in g])
    on_gpu = logprobs(gpu, batch).detach().cpu()
    torch.testing.assert_close(on_gpu, logprobs(cpu, batch).detach(), rtol=0, atol=2e-4)
    recorded = torch.tensor([x for g in groups for t in g for x in t.segments[1].logprobs])
    torch.testing.assert_close(on_gpu[batch.trainable], recorded, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_is_the_same_to_the_bit(
    make_model: Callable[..., Path], tmp_path: Path, dtype: str
) -> None:
    words = ["cat", "dog", "tree", "house", "river", "stone", "cloud", "fish"]
    lines = [{"prompt": f"say something about the {a} and a {b}"} for a in words for b in words if a < b]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = settings_from_dict(
        {
            "task": "Be short.",
            "model": {"name": str(make_model("llama")), "device": "cuda", "dtype": dtype},
            "prompts": {"source": "file:prompts.jsonl", "validation": 2, "held_out": 4},
            "reward": {"rules": [{"rule": "chars", "max": 12}]},
            "rollout": {"group_size": 4, "max_tokens": 10},
            "grpo": {"steps": 6, "prompts_per_step": 3, "all_cut_patience": 99},
            "evaluate": {"samples": 2},
        },
        tmp_path,
    )
    weights = []
    for name, at in (("whole", 10**9), ("stopped", 70)):
        left = at

        def pause() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Interrupted("stop")

        folder = RunFolder.create(tmp_path / name, settings)
        try:
            run(folder, pause=pause)
        except Interrupted:
            run(folder)
        weights.append((folder.checkpoint(6) / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]
