"""A run's folder: the only code that knows its files."""

from refine_rl.run.folder import RunFolder, new_run

__all__ = ["RunFolder", "new_run"]
