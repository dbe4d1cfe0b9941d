"""What a run's prompts must be, whatever they say: enough of them, with room for an answer. A plan refuses
what the training would refuse."""

from __future__ import annotations

from refine_rl.errors import UserError


def require_enough(*, prompts_per_step: int, train: int, held_out: int, lost: str = "") -> None:
    """Raises UserError where so many prompts do not make a run; `lost` says what became of the others."""
    because = f" ({lost})" if lost else ""
    if train < prompts_per_step:
        only = "there is only 1 training prompt" if train == 1 else f"there are only {train} training prompts"
        raise UserError(
            f"grpo.prompts_per_step = {prompts_per_step}, but {only}{because}. Give more "
            "prompts, or lower it."
        )
    if not held_out:
        raise UserError(
            f"No held-out prompt is left, so nothing could be proved{because}. Give more prompts."
        )


def require_room(room: int, max_tokens: int, context: int) -> int:
    """`room`, the most tokens of a prompt that leave room for an answer of `max_tokens` in a model that reads
    `context` tokens. Raises UserError where there are none."""
    if room < 1:
        raise UserError(
            f"rollout.max_tokens = {max_tokens} leaves no room for a prompt: the model "
            f"reads {context} tokens in all. Lower it."
        )
    return room
