"""What the tests ask a Tinker service for, and how results are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinker import types
from torch import Tensor

from tinker_server.server import TinkerServer

PROMPTS = ([7, 30, 31, 9], [12, 80, 5])
ADAM = types.AdamParams(learning_rate=0.02, beta2=0.999, eps=1e-8)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt, a completion, its log-probs when it was sampled, and what to make of each token."""

    prompt: list[int]
    tokens: list[int]
    old: list[float]
    each: list[float]

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.tokens]

    def datum(self, loss: str) -> types.Datum:
        """As a service is given it: nothing is asked of the prompt's positions."""
        given = lambda values: [0.0] * (len(self.prompt) - 1) + values  # noqa: E731
        inputs: dict[str, Any] = {"target_tokens": self.ids[1:]}
        if loss == "cross_entropy":
            inputs["weights"] = given(self.each)
        else:
            inputs |= {"logprobs": given(self.old), "advantages": given(self.each)}
        return types.Datum(model_input=types.ModelInput.from_ints(self.ids[:-1]), loss_fn_inputs=inputs)


def new(server: TinkerServer, **how: Any) -> Any:
    client = server.client()
    return client.create_lora_training_client(server.manners.name, **{"rank": 4, "seed": 3, **how}).result()


def some_rows() -> list[Row]:
    """Log-probs from elsewhere, so that ratios leave the region on both sides."""
    rows = [
        ([7, 30, 31, 9], [40, 2, 77], [-3.0, -5.5, -6.5], [1.0, -0.5, 0.75]),
        ([12, 80, 5], [9, 9, 61, 4, 18], [-6.0, -2.0, -5.5, -7.0, -5.0], [-1.0, 0.5, 2.0, 1.0, -0.25]),
        ([20, 21], [22, 0], [-5.4, -5.95], [0.5, 0.5]),
    ]
    return [Row(prompt=p, tokens=t, old=o, each=e) for p, t, o, e in rows]


def params(**how: Any) -> types.SamplingParams:
    return types.SamplingParams(**{"max_tokens": 12, "temperature": 1.0, "seed": 5, "stop": [], **how})


def sample(sampler: Any, prompt: Sequence[int] = PROMPTS[0], number: int = 3, **how: Any) -> list[Any]:
    asked = sampler.sample(types.ModelInput.from_ints(prompt), number, params(**how))
    return list(asked.result().sequences)


def apart(one: dict[str, Tensor], other: dict[str, Tensor], times: float = 1.0) -> float:
    """|one - times * other| / |one|, over all weights."""
    assert one.keys() == other.keys()
    difference = sum(float((one[name] - times * other[name]).square().sum()) for name in one)
    return math.sqrt(difference / sum(float(value.square().sum()) for value in one.values()))
