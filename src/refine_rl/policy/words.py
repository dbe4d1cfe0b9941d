"""How many tokens texts have in a model's own tokenizer; its weights are not loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refine_rl.policy.fetch import fetch
from refine_rl.policy.origin import find_origin

_AT_ONCE = 1000  # texts whose tokens are in memory together


def token_counter(name: str) -> Callable[[Sequence[str]], list[int]]:
    """What counts the tokens of texts as the model `name` reads them, without the template of a chat around
    them. Raises UserError and MachineError where its tokenizer cannot be had."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = fetch(transformers.AutoTokenizer, find_origin(name).tokenizer)
    tokenizer.model_max_length = 10**12  # or it warns of texts that are longer than the model reads

    def count(texts: Sequence[str]) -> list[int]:
        found: list[int] = []
        for start in range(0, len(texts), _AT_ONCE):
            batch = list(texts[start : start + _AT_ONCE])
            found += map(len, tokenizer(batch, add_special_tokens=False)["input_ids"])
        return found

    return count
