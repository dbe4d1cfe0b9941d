"""A run's folder: the only code that knows its files."""

from refine_rl.run.folder import RunFolder, free_name, new_run

__all__ = ["RunFolder", "free_name", "new_run"]
