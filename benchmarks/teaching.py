"""Next-token teaching for the bundled model: what a benchmark's model can do before GRPO begins."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refine_rl.policy.origin import model_source

TINY = Path(model_source("tiny"))

Example = Callable[[random.Random], tuple[str, str]]
"""What is asked, and what is answered."""


def teach(folder: Path, example: Example, *, updates: int, batch: int = 32) -> None:
    """Saves the bundled model after so many updates, each on a batch of new examples; the loss is that of the
    answers' tokens."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model: Any = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    rng = random.Random("teach")
    model.train()
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (update + 1) / 20, 2 * (updates - update) / updates)
        rows = [_tokens(tokenizer, *example(rng)) for _ in range(batch)]
        width = -(-max(len(ids) for ids, _ in rows) // 8) * 8
        ids_B_T = torch.zeros(batch, width, dtype=torch.long)
        targets_B_T = torch.full((batch, width), -100)
        for row, (ids, start) in enumerate(rows):
            ids_B_T[row, : len(ids)] = torch.tensor(ids)
            targets_B_T[row, start : len(ids)] = torch.tensor(ids[start:])
        wanted = targets_B_T[:, 1:] != -100
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(ids_B_T[:, :-1]).last_hidden_state
            logits = model.lm_head(hidden[wanted])
        loss = torch.nn.functional.cross_entropy(logits.float(), targets_B_T[:, 1:][wanted])
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if update % 20 == 0:
            print(f"teaching, update {update}: {loss.item():.3f} nats a token", file=sys.stderr, flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokens(tokenizer: Any, asked: str, answered: str) -> tuple[list[int], int]:
    """The ids of a whole chat, and how many stand before the answer."""
    messages = [{"role": "user", "content": asked}]
    head = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before = tokenizer(head, add_special_tokens=False)["input_ids"]
    answer = tokenizer(answered, add_special_tokens=False)["input_ids"]
    return [*before, *answer, tokenizer.eos_token_id], len(before)
