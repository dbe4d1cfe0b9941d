"""A policy with another mouth: whatever is not speech comes from the policy, with all that was asked."""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import Mock

import pytest

from refine_rl.policy.protocol import Speaker
from refine_rl.policy.spoken_for import SpokenFor

ITS_OWN = {"speak", "memory", "logprobs", "reference", "tolerance"}
ASKED = {name for name in vars(Speaker) if not name.startswith("_")}
THE_POLICYS = sorted(ASKED - ITS_OWN)


def test_all_that_a_speaker_is_asked_for_but_speech_is_there() -> None:
    assert ITS_OWN <= ASKED
    assert sorted(name for name in vars(SpokenFor) if not name.startswith("_")) == THE_POLICYS


@pytest.mark.parametrize("name", THE_POLICYS)
def test_the_policy_is_asked_the_same(name: str) -> None:
    policy: Any = Mock()
    mouth = SpokenFor(policy=policy)
    if isinstance(vars(Speaker)[name], property):
        assert getattr(mouth, name) is getattr(policy, name)
        return
    _, *parameters = inspect.signature(getattr(Speaker, name)).parameters.values()
    given = [object() for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = {p.name: object() for p in parameters if p.kind is p.KEYWORD_ONLY}
    answer = getattr(mouth, name)(*given, **named)
    asked = getattr(policy, name)
    asked.assert_called_once_with(*given, **named)
    if inspect.signature(getattr(Speaker, name)).return_annotation != "None":
        assert answer is asked.return_value
