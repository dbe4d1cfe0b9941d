"""How fast a training step is on this machine, and how near to what the machine can do."""

import refine_rl.policy  # noqa: F401 - before torch: it says how threads wait
