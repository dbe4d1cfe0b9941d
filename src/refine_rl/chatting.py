"""One answer to one message."""

from __future__ import annotations

from refine_rl.errors import UserError
from refine_rl.policy.draw import Sampling
from refine_rl.policy.policy import Policy
from refine_rl.policy.sample import Purpose, sample
from refine_rl.types import Message, Prompt


def reply(policy: Policy, text: str, system: str, temperature: float, max_tokens: int, turn: int) -> str:
    """The policy's answer to a user's message that stands alone. `turn` varies the draws.

    Raises UserError where message and answer together are longer than the model reads.
    """
    messages: list[Message] = [{"role": "user", "content": text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    prompt = Prompt(id="chat", split="held_out", messages=tuple(messages))
    length = len(policy.encode(prompt.messages))
    if length + max_tokens > policy.context_length:
        raise UserError(
            f"This message takes {length} tokens and the answer up to {max_tokens}, but the model reads "
            f"{policy.context_length} in all: shorten it, or lower --max-tokens."
        )
    groups = sample(
        policy,
        [prompt],
        members=1,
        sampling=Sampling(max_tokens=max_tokens, temperature=temperature),
        purpose=Purpose(seed=0, step=turn, name="chat"),
    )
    return groups[0][0].completion
