"""A model's sizes and a machine's rates, of which plans are made."""

from __future__ import annotations

from refine_rl.plan.machine import Rates
from refine_rl.policy.size import Size

SIZE = Size(
    parameters=1_000_000,
    linear=800_000,
    adapted=10_000,
    layers=4,
    hidden=100,
    intermediate=400,
    kv=50,
    vocabulary=2000,
    context=8192,
)
RATES = Rates(device="cpu", dtype="float32", train=1e9, decode=5e8, bytes=1e9)
