"""Pretraining of the bundled model: next-token loss on the answers, Muon for matrices, AdamW for the rest."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from refine_rl.assets.make_tiny.corpus import Document, documents
from refine_rl.assets.make_tiny.tokenizer import CONTEXT

CHUNK = 32
"""Batches that are drawn together and sorted by length, so that little padding is computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the model is pretrained. The defaults are those of the bundled model."""

    seed: int = 0
    steps: int = 1000
    batch: int = 96
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    warmup: int = 40
    flat: float = 0.4  # share of the steps before the rates fall, linearly, to 0


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """A Qwen3 of about 3.7M parameters with random weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def encode(tokenizer: PreTrainedTokenizerFast, chats: list[Document]) -> list[tuple[list[int], int]]:
    """Token ids of each whole chat, its stop token last, and the number of those before the answer."""
    heads = []
    for chat in chats:
        messages = [{"role": "system", "content": chat.system}] if chat.system else []
        messages.append({"role": "user", "content": chat.request})
        heads.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    before = tokenizer(heads, add_special_tokens=False)["input_ids"]
    answers = tokenizer([chat.answer for chat in chats], add_special_tokens=False)["input_ids"]
    stop = tokenizer.eos_token_id
    return [(head + answer + [stop], len(head)) for head, answer in zip(before, answers, strict=True)]


def batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids (B, T), padded on the right, and the mask (B, T) of the answers' tokens; without end."""
    source = documents(recipe.seed)
    order = random.Random(f"order/{recipe.seed}")
    while True:
        chunk = encode(tokenizer, list(itertools.islice(source, CHUNK * recipe.batch)))
        chunk.sort(key=lambda item: len(item[0]))
        groups = [chunk[i : i + recipe.batch] for i in range(0, len(chunk), recipe.batch)]
        order.shuffle(groups)
        for group in groups:
            # Few widths: each new shape makes the matrix library compile, and keep, another kernel.
            width = -(-max(len(ids) for ids, _ in group) // 8) * 8
            tokens = torch.full((len(group), width + 1), tokenizer.pad_token_id)
            mask = torch.zeros((len(group), width + 1), dtype=torch.bool)
            for row, (ids, start) in enumerate(group):
                tokens[row, : len(ids)] = torch.tensor(ids)
                mask[row, start : len(ids)] = True
            yield tokens, mask


def pretrain(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    report: Callable[[int, float], None],
) -> None:
    """Train the model in place. `report` gets the step and the loss in nats a token of the answers."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
        for optimizer in optimizers
    ]
    model.train()
    for step, (tokens, mask) in enumerate(itertools.islice(batches(tokenizer, recipe), recipe.steps)):
        places, targets = _answer_places(tokens, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            # Causal attention needs no mask where the padding is on the right.
            hidden = model.model(tokens[:, :-1]).last_hidden_state.flatten(0, 1)
            logits = model.lm_head(hidden[places])
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        torch.autograd.backward(loss)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        report(step, loss.item())
    model.eval()


def _answer_places(tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in the flat inputs (B, T - 1) an answer's token comes next, and that token.

    Filled up to a multiple of 512 with targets that the loss leaves out.
    """
    places = mask[:, 1:].flatten().nonzero().squeeze(1)
    targets = tokens[:, 1:].flatten()[places]
    missing = -len(places) % 512
    pad = torch.nn.functional.pad
    return pad(places, (0, missing)), pad(targets, (0, missing), value=-100)


def _rate(step: int, recipe: Recipe) -> float:
    """The learning rates' factor: a linear rise, then flat, then a linear fall to 0."""
    rise = min(1.0, (step + 1) / recipe.warmup)
    falling = (1 - recipe.flat) * recipe.steps
    return min(rise, max(0.0, (recipe.steps - step) / falling))
