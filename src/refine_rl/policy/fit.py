"""Whether a model, its tokenizer and its chat template belong together, asked before anything is spent."""

from __future__ import annotations

from typing import Any

import torch

from refine_rl.errors import UserError
from refine_rl.policy.decoder_only import DecoderOnly
from refine_rl.policy.encoder_decoder import EncoderDecoder
from refine_rl.policy.fast import MEAN, TOLERANCE
from refine_rl.policy.fetch import refusal
from refine_rl.policy.tokens import token_batch
from refine_rl.types import Message, Segment, Trajectory

_LEAK = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Parts of the largest logit that rounding may move, where experts are given other tokens beside."""
_ASKED, _ANSWERED = "hello", "refine"


def require_words(model: Any, tokenizer: Any, name: str) -> None:
    """Raises UserError for a tokenizer that knows no words or has some that the model does not know, and for
    a template that leaves out what was said."""
    words = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    if not set(words.values()) - special:
        raise UserError(
            f"The tokenizer of {name} knows no words: its vocabulary is missing. Copy tokenizer.json and "
            "tokenizer_config.json of the model beside the weights."
        )
    talk = _talk(tokenizer, name)
    rows = model.get_input_embeddings().weight.shape[0]
    # A published model may have a special token too many that nothing uses (Gemma 3 1B's image token).
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, *talk}
    beyond = sorted(
        (i, word)
        for word, i in words.items()
        if i >= rows and (i in used or i not in special or _plain(tokenizer, i))
    )
    if beyond:
        shown = ", ".join(f"{word!r} ({i})" for i, word in beyond[:3])
        raise UserError(
            f"The tokenizer of {name} has {len(beyond)} tokens that the model does not know: its embedding "
            f"has {rows} rows, and {shown} would need more. Take the tokenizer that the model came with; or "
            "where tokens were added to it, the model as it was after resize_token_embeddings."
        )


def require_causal(policy: DecoderOnly) -> None:
    """Raises UserError for a model whose forward pass fails, or lets a token see what follows it."""
    rows = policy.model.get_input_embeddings().weight.shape[0]
    length = min(4, policy.context_length)
    ids = torch.arange(2 * length, device=policy.device).reshape(2, length) % rows
    ids[1, :-1] = ids[0, :-1]  # the rows differ in the last token alone
    kind = policy.model.config.model_type
    try:
        with torch.no_grad():
            first, second = (
                policy.forward(input_ids=row[None], use_cache=False).logits[0].float() for row in ids
            )
    except Exception as error:  # whatever an architecture makes of four tokens
        raise refusal(error, policy.source) from error
    if (
        length > 1
        and (first[:-1] - second[:-1]).abs().max() > _LEAK[policy.compute_dtype] * first.abs().max()
    ):
        raise UserError(
            f"{policy.source} ({kind}) lets a token see what follows it: it is no causal language model, and "
            "cannot write. Decoder-only models and encoder-decoders are trained here."
        )


@torch.no_grad()
def require_listening(policy: EncoderDecoder) -> None:
    """Raises UserError for an encoder-decoder whose own forward pass fails, or gives other log-probs for an
    answer than come of encoding its prompt once (some architectures keep no keys and values of it, or
    attend in a way of their own)."""
    kind = policy.model.config.model_type
    try:
        found = _difference(policy)
    except UserError:
        raise
    except Exception as error:  # whatever an architecture makes of a few tokens
        raise refusal(error, policy.source) from error
    mean, largest = float(found.mean()), float(found.max())
    if not (largest <= TOLERANCE[policy.compute_dtype] and mean <= MEAN[policy.compute_dtype]):
        raise UserError(
            f"{policy.source} ({kind}) computes other log-probs where a prompt is encoded once for several "
            f"answers than where each is computed alone (by {mean:.2g} nats a token on average). Such models "
            "are not trained here."
        )


def _difference(policy: EncoderDecoder) -> torch.Tensor:
    """|log-prob of two answers to each of three prompts - that of the model's own forward pass|, [n]. Two of
    them are of nearly the same length, and go through the encoder together, one with padding."""
    generator = torch.Generator().manual_seed(0)

    def some(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, policy.vocabulary, (n,), generator=generator).tolist())

    longest = min(9, policy.context_length)
    prompts = (some(longest), some(max(1, longest - 1)), some(4))
    rows = [(prompt, some(n)) for prompt in prompts for n in (min(6, longest - 1), 2)]
    given = [
        Trajectory(
            prompt_id="",
            member=0,
            messages=(),
            stop_reason="stop",
            segments=(
                Segment(token_ids=prompt, trainable=False),
                Segment(token_ids=answer, trainable=True, logprobs=(0.0,) * len(answer)),
            ),
        )
        for prompt, answer in rows
    ]
    batch = token_batch(given)
    got = policy.logprobs(batch)[batch.trainable.to(policy.device)]
    start = policy.halves.start
    want = []
    for prompt, answer in rows:
        with policy.precision():
            logits = policy.model(
                input_ids=torch.tensor([prompt], device=policy.device),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=policy.device),
                decoder_input_ids=torch.tensor([[*start, *answer[:-1]]], device=policy.device),
                use_cache=False,
            ).logits[0, len(start) - 1 :]
        chosen = torch.tensor(answer, device=policy.device)[:, None]
        want.append(logits.float().log_softmax(-1).gather(1, chosen)[:, 0])
    return (got - torch.cat(want)).abs()


def _talk(tokenizer: Any, name: str) -> list[int]:
    """Token ids of a question and an answer in the template; raises UserError where one is left out."""
    question: Message = {"role": "user", "content": _ASKED}
    answer: Message = {"role": "assistant", "content": _ANSWERED}
    ids: list[int] = []
    for messages, said in (([question], _ASKED), ([question, answer], _ANSWERED)):
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=messages[-1] is question
            )
        except Exception:  # a template of its own ways: it is asked again with the task's prompts
            continue
        if said not in text:
            roles = ", ".join(m["role"] for m in messages)
            raise UserError(
                f"The chat template of {name} leaves out the {messages[-1]['role']}'s words: a conversation "
                f"of {roles} becomes {text[:60]!r}. Mend chat_template.jinja beside the weights "
                "(or chat_template in tokenizer_config.json), or take it away: then a plain one is used."
            )
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _plain(tokenizer: Any, i: int) -> bool:
    """Whether an added token is found in any text: it is no special one."""
    added = tokenizer.added_tokens_decoder.get(i)
    return added is not None and not added.special
