"""A model's sizes, a machine's rates and rows to imitate, of which plans are made."""

from __future__ import annotations

from refine_rl.plan.machine import Rates
from refine_rl.plan.supervised import Rows
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
ROWS = Rows(
    train=100,
    validation=10,
    tokens=20_000,
    targets=5000,
    looked=1000,
    prompt=150,
    longest=400,
    steps=40,
    epochs=3.0,
    guessed=False,
    lines=(),
)
