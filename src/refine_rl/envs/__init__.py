"""Worlds: where a policy's trajectories take place. `play.py` is the only loop over turns."""
