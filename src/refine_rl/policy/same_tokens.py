"""Whether two models write the same texts in the same tokens: only then can one be told how likely the other
would have written a token of its own."""

from __future__ import annotations

from refine_rl.errors import UserError
from refine_rl.policy.encoder_decoder import EncoderDecoder
from refine_rl.policy.policy import Policy

_WORDS = "The quick brown fox jumps over 13 lazy dogs."


def require_same_tokens(policy: Policy, teacher: Policy) -> None:
    """Raises UserError where the teacher has other tokens than the policy, or reads prompts otherwise."""
    both = f"the teacher {teacher.source} and the policy {policy.source}"
    if isinstance(policy, EncoderDecoder) != isinstance(teacher, EncoderDecoder):
        raise UserError(
            f"teacher.model: of {both} one is an encoder-decoder and the other is not. Take two of a kind."
        )
    own, other = (dict(model.tokenizer.get_vocab()) for model in (policy, teacher))
    if own != other:
        unlike = sorted(
            {*own, *other}, key=lambda token: (own.get(token) == other.get(token), own.get(token, -1), token)
        )
        first = unlike[0]
        ids = ["no token" if first not in known else f"token {known[first]}" for known in (other, own)]
        raise UserError(
            f"teacher.model: {both} do not have the same tokens ({len(other):,} and {len(own):,}; {first!r} "
            f"is {ids[0]} of the teacher and {ids[1]} of the policy). A teacher must have the policy's "
            "tokenizer: take a larger model of the same family."
        )
    if policy.encode_words(_WORDS) != teacher.encode_words(_WORDS):
        raise UserError(
            f"teacher.model: {both} have the same tokens and cut texts into others of them. Take a larger "
            "model of the same family."
        )
