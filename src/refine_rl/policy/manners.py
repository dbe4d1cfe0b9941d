"""How a model is spoken to, looked at from outside: whether a prompt ends where an answer begins, and which
tokens end an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from refine_rl.errors import UserError
from refine_rl.policy.encoder_decoder import EncoderDecoder
from refine_rl.policy.policy import Policy
from refine_rl.policy.template import end_of_turn
from refine_rl.types import Message

_ASKED, _ANSWERED = "hello", "refine"
_SHOWN = 40  # characters of the end of a prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """`end` is the end of a prompt as the model reads it. `gap` is what the template writes between a prompt
    and its answer and a prompt of a run would lack: "" where it ends where the answer begins. `stops` are the
    tokens that end an answer, by number; `beyond` those that are none of the model's. `turn_ends` says
    whether the template puts one of them behind an answer, `named` whether the model's own configuration
    names it (None: there is no template, as of an encoder-decoder)."""

    end: str
    gap: str
    stops: Mapping[int, str]
    beyond: tuple[int, ...]
    turn_ends: bool | None
    named: bool | None


def manners_of(policy: Policy) -> Manners:
    """How the policy is spoken to. Raises UserError where its template refuses a plain question."""
    words = {i: str(policy.tokenizer.decode([i])) for i in sorted(policy.stop_ids)}
    beyond = tuple(i for i in sorted(policy.stop_ids) if i >= policy.vocabulary)
    asked: Message = {"role": "user", "content": _ASKED}
    whole = policy.render([asked])
    end = whole if len(whole) <= _SHOWN else f"…{whole[-_SHOWN:]}"
    if isinstance(policy, EncoderDecoder):
        return Manners(end=end, gap="", stops=words, beyond=beyond, turn_ends=None, named=None)
    turn = end_of_turn(policy.tokenizer)
    return Manners(
        end=end,
        gap=_gap(policy, asked),
        stops=words,
        beyond=beyond,
        turn_ends=turn is not None,
        named=None if turn is None else turn in _named(policy),
    )


def _gap(policy: Policy, asked: Message) -> str:
    """What the template writes before an answer and not behind a prompt, though it is asked for that."""
    ready, bare = policy.render([asked]), policy.render([asked], answer=False)
    if ready != bare:
        return ""  # it writes something where an answer is to come
    answer: Message = {"role": "assistant", "content": _ANSWERED}
    try:
        whole = policy.render([asked, answer], answer=False)
    except UserError:  # a template of its own ways
        return ""
    if not whole.startswith(bare) or _ANSWERED not in whole[len(bare) :]:
        return ""
    between = whole[len(bare) : whole.rindex(_ANSWERED)]
    return between if between.strip() else ""


def _named(policy: Policy) -> set[int]:
    """The stop tokens that the model's generation settings name, by which other programs go."""
    model = policy.model.get_base_model() if policy.adapter else policy.model
    value = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {value} if isinstance(value, int) else set(value or ())
