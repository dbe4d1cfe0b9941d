"""What vLLM's completions are asked, and what they must answer: token ids in, token ids and log-probs out.

The fields are those of `POST /v1/completions` as vLLM 0.32 has them (vllm/entrypoints/openai/completion/
protocol.py); `token_ids` is there from 0.10.2 on, before that the ids stand in `logprobs.tokens` as
"token_id:17".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.policy.draw import Sampling

_ID = "token_id:"
_POSITIVE = 1e-3  # the most that rounding leaves of a log-prob above 0


class Nonsense(Exception):  # noqa: N818 - of it an error is made that names the server
    """An answer that is not what was asked for; the text says in what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What was sampled for a member: tokens, and a log-prob each."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """`n` continuations of the tokens `ids` by the adapter (or model) `model`, drawn by `seed`, each until a
    token of `stops`. Greedy ones are all the same: then one is asked for."""

    model: str
    ids: tuple[int, ...]
    n: int
    seed: int
    sampling: Sampling
    stops: frozenset[int]
    vocabulary: int

    @property
    def body(self) -> dict[str, Any]:
        """The request. Every default that the server's generation_config.json may set is said."""
        how = self.sampling
        return {
            "model": self.model,
            "prompt": list(self.ids),
            "n": self.n if how.temperature > 0 else 1,
            "seed": self.seed,
            "max_tokens": how.max_tokens,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "top_k": how.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted(self.stops),
            "ignore_eos": True,  # what ends an answer are those alone
            "logprobs": 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }

    def said(self, answer: Any) -> list[Said]:
        """What each of the `n` said. Raises Nonsense where the answer is no answer to this request."""
        wanted = int(self.body["n"])
        said = [self.read(choice) for choice in choices_of(answer, self.model, wanted)]
        return said * (self.n // wanted)

    def read(self, choice: dict[str, Any]) -> Said:
        """One of them. Raises Nonsense."""
        given = choice.get("prompt_token_ids")
        if given is not None and tuple(given) != self.ids:
            raise Nonsense("another prompt than it was sent, in token ids")
        logprobs = choice.get("logprobs")
        if not isinstance(logprobs, dict) or not isinstance(logprobs.get("token_logprobs"), list):
            raise Nonsense("no log-probs, which were asked for")
        tokens, values = _ids(choice, logprobs), logprobs["token_logprobs"]
        if len(values) != len(tokens):
            raise Nonsense(f"{len(tokens)} tokens with {len(values)} log-probs")
        if not tokens or len(tokens) > self.sampling.max_tokens:
            raise Nonsense(f"{len(tokens)} tokens where 1 to {self.sampling.max_tokens} were asked for")
        if odd := [i for i in tokens if not 0 <= i < self.vocabulary]:
            raise Nonsense(f"the token {odd[0]}, and the model has {self.vocabulary}")
        if odd := [x for x in values if not _is_logprob(x)]:
            raise Nonsense(f"the log-prob {odd[0]}")
        self._require_end(tokens, choice.get("finish_reason"))
        return Said(tokens=tokens, logprobs=tuple(min(0.0, float(x)) for x in values))

    def _require_end(self, tokens: Sequence[int], reason: Any) -> None:
        """Raises Nonsense unless the tokens end where they should."""
        if not self.stops.isdisjoint(tokens[:-1]):
            raise Nonsense("tokens behind one that ends an answer")
        if tokens[-1] not in self.stops and len(tokens) < self.sampling.max_tokens:
            raise Nonsense(
                f"an answer of {len(tokens)} tokens that was cut before its end (finish_reason {reason!r})"
            )


def choices_of(answer: Any, model: str, number: int) -> list[dict[str, Any]]:
    """So many completions by `model`, in order. Raises Nonsense where they are others."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Nonsense("no completions")
    if (named := answer.get("model")) != model:
        raise Nonsense(f"{named!r} answered, and {model!r} was asked")
    if [choice.get("index") for choice in choices] != list(range(number)):
        raise Nonsense(f"{len(choices)} completions where {number} were asked for")
    return choices


def _ids(choice: dict[str, Any], logprobs: dict[str, Any]) -> tuple[int, ...]:
    found = choice.get("token_ids")
    if found is None:
        texts = [str(token) for token in logprobs.get("tokens") or ()]
        found = [
            int(text.removeprefix(_ID))
            for text in texts
            if text.startswith(_ID) and text.removeprefix(_ID).isdecimal()
        ]
        if not texts or len(found) < len(texts):
            raise Nonsense(
                "text in place of token ids, of which no reward or update can be made (vLLM gives ids from "
                "version 0.10.2 on)"
            )
    if not isinstance(found, list) or not all(type(i) is int for i in found):
        raise Nonsense("token ids that are no numbers")
    return tuple(found)


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value <= _POSITIVE
