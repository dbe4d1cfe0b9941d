"""Passes of several processes in lockstep, as one of them sees them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refine_rl.policy.shard import Lockstep


def test_a_process_without_work_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' work may take longer than a process may be silent."""
    lockstep = Lockstep(nn.Linear(1, 1), torch.device("cpu"))
    others, passes, signs = [True, True, True, False], [], []
    monkeypatch.setattr(lockstep, "_anybody", lambda working: others.pop(0))
    monkeypatch.setattr(lockstep, "_nothing", passes.append)
    lockstep.sign = lambda: signs.append(len(passes))
    with lockstep.together(learns=True):
        assert not signs
    assert passes == [True] * 3
    assert signs == [1, 2, 3]
