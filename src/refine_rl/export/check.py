"""Whether a folder holds the tuned model: read anew, as its readers do, and held against what that said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from refine_rl.export.witness import Witness, mean_apart
from refine_rl.policy.reader import Reader, read_folder
from refine_rl.types import count_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at, in a sentence. `held`: it is as in the tuned model; where it is not,
    `fatal` says whether this is another model, or the tuned one with something to know."""

    text: str
    held: bool = True
    fatal: bool = True


def check_folder(
    folder: Path, witness: Witness, *, dtype: torch.dtype, device: torch.device, rounded: bool, adapter: bool
) -> list[Check]:
    """What was found in an exported folder. `dtype`: the model computes in it; `rounded`: its weights were
    rounded when they were merged. Raises UserError where transformers or peft cannot load it."""
    reader = read_folder(
        folder, dtype=dtype, device=device, bits=witness.bits if adapter else 0, start=witness.start
    )
    return [
        *_stops(reader, witness),
        _prompts(reader, witness),
        *_heads(reader),
        *_answers(reader, witness, rounded=rounded, packed=adapter and witness.bits > 0),
        *_manners(reader),
    ]


def failed(checks: Sequence[Check]) -> list[Check]:
    """Those that say that it is another model."""
    return [c for c in checks if not c.held and c.fatal]


def _prompts(reader: Reader, witness: Witness) -> Check:
    """Whether the folder's tokenizer and template make the ids that training saw."""
    asked = count_of(len(witness.said), "held-out prompt") + (" gets" if len(witness.said) == 1 else " get")
    for said in witness.said:
        found = reader.encode(replace(witness.texts, tokenizer=reader.tokenizer).render(said.messages))
        if found != said.prompt:
            at = next(
                (n for n, (a, b) in enumerate(zip(found, said.prompt, strict=False)) if a != b),
                min(len(found), len(said.prompt)),
            )
            return Check(
                held=False,
                text=f"a prompt gets other token ids through the exported tokenizer and template: they "
                f"differ from place {at} on ({list(found[at : at + 3])} in the place of "
                f"{list(said.prompt[at : at + 3])})",
            )
    aside = (
        f" ({witness.left_out} with control tokens in their words passed over)" if witness.left_out else ""
    )
    return Check(text=f"prompts: {asked} the same token ids{aside}")


def _stops(reader: Reader, witness: Witness) -> list[Check]:
    names = ", ".join(f"{reader.tokenizer.convert_ids_to_tokens(i)} ({i})" for i in sorted(witness.stop_ids))
    if reader.stop_ids == witness.stop_ids:
        return [Check(text=f"ends: generation_config.json ends an answer where training did: {names}")]
    return [
        Check(
            held=False,
            text=f"generation_config.json ends an answer at {sorted(reader.stop_ids)}, and training ended it "
            f"at {names}",
        )
    ]


def _heads(reader: Reader) -> list[Check]:
    """Embedding and head: one as config.json says, or two, and then it says that."""
    tied, model = reader.tied, reader.model
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    if tied is None or words is None or head is None:
        return []
    same = words.weight is head.weight or torch.equal(words.weight, head.weight)
    if tied != same and tied:
        return [Check(held=False, text="config.json ties embedding and head, and their weights are two")]
    if same:
        return []
    return [Check(text="head: its weights are not the embedding's, and config.json says so")]


def _answers(reader: Reader, witness: Witness, *, rounded: bool, packed: bool) -> list[Check]:
    """The most likely answers, token by token, and the log-probs of the tuned model's answers."""
    same, parted, pairs = 0, "", []
    for said in witness.said:
        found, likeliest = reader.logprobs(said.prompt, said.answer)
        pairs.append((said.logprobs, found))
        spoken = reader.greedy(said.prompt, witness.max_tokens)
        if spoken == said.answer:
            same += 1
        elif not parted:
            at = next(
                (n for n, (a, b) in enumerate(zip(likeliest, said.answer, strict=True)) if a != b), None
            )
            parted = _where(reader, said.answer, spoken, at)
    apart, moved = mean_apart(pairs), witness.moved
    numbers = f"log-probs {apart:.1g} nats a token apart; training moved them by {moved:.2g}"
    asked = len(witness.said)
    which = "the same" if same == asked else f"{same} of {asked} the same"
    text = f"answers: {which}, {count_of(witness.tokens, 'token')}; {numbers}"
    coarse = rounded or packed
    if apart <= (witness.rounded if coarse else witness.exact):
        return [Check(text=text + (f" ({parted}: a tie)" if parted else ""))]
    if coarse and apart < moved:
        return [Check(held=False, fatal=False, text=f"{text}. {parted}".rstrip(". "))]
    return [Check(held=False, text=f"{text}. {parted}".rstrip(". "))]


def _where(reader: Reader, answer: Sequence[int], spoken: Sequence[int], at: int | None) -> str:
    """Where an answer goes another way."""
    if at is None:
        at = next(
            (n for n, (a, b) in enumerate(zip(spoken, answer, strict=False)) if a != b),
            min(len(spoken), len(answer)),
        )
    names = reader.tokenizer.convert_ids_to_tokens([*answer[at : at + 1], *spoken[at : at + 1]])
    return f"one goes another way at token {at + 1}" + (f" ({' / '.join(map(repr, names))})" if names else "")


def _manners(reader: Reader) -> list[Check]:
    """What would change the answers of who reads the folder without a word."""
    if not reader.odd:
        return []
    said = ", ".join(f"{k} = {v}" for k, v in reader.odd.items())
    return [
        Check(
            held=False,
            fatal=False,
            text=f"generation_config.json asks for {said}, as the base model's does. Training and the report "
            "sampled without: say otherwise where you generate, or answers differ from those of the report",
        )
    ]
