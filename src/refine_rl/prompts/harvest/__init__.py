"""(function, docstring) pairs from Python source, which is read and never run."""

from refine_rl.prompts.harvest.harvest import Harvest, Pair, Wanted, harvest

__all__ = ["Harvest", "Pair", "Wanted", "harvest"]
