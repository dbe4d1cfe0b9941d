"""Make the bundled model again: `python -m refine_rl.assets.make_tiny --out FOLDER`."""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch

from refine_rl.assets.make_tiny.corpus import documents
from refine_rl.assets.make_tiny.pretrain import Recipe, new_model, pretrain
from refine_rl.assets.make_tiny.tokenizer import train_tokenizer

TOKENIZER_DOCUMENTS = 40_000


def main() -> None:
    """Train the tokenizer and the model and write both to a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model; made where missing")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    arguments = parser.parse_args()
    recipe = Recipe(seed=arguments.seed, steps=arguments.steps)

    started = time.perf_counter()
    chats = itertools.islice(documents(recipe.seed), TOKENIZER_DOCUMENTS)
    tokenizer = train_tokenizer(f"{chat.system}\n{chat.request}\n{chat.answer}" for chat in chats)
    model = new_model(tokenizer, recipe.seed)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)

    def report(step: int, loss: float) -> None:
        if step % 50 == 0 or step == recipe.steps - 1:
            print(f"step {step:5d}  loss {loss:.3f}  {time.perf_counter() - started:.0f} s", flush=True)

    pretrain(model, tokenizer, recipe, report)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    print(f"written to {arguments.out} after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
