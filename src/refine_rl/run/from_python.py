"""What of a run was given from Python, by its names, and the calls in which it is given again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

PLACE = "python:"
"""Where a file or a module would stand in a setting that names code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The names of what was given.

    >>> Names(rewards=("brevity",), environment="Guess").arguments
    'rewards=[brevity], environment=Guess'
    """

    rewards: tuple[str, ...] = ()
    environment: str = ""
    tools: tuple[str, ...] = ()

    @property
    def arguments(self) -> str:
        """As they stand in a call; "" where nothing was given."""
        lists = {"rewards": self.rewards, "tools": self.tools}
        listed = {name: f"{name}=[{', '.join(names)}]" for name, names in lists.items() if names}
        world = {"environment": f"environment={self.environment}"} if self.environment else {}
        found = {**listed, **world}
        return ", ".join(found[name] for name in ("rewards", "environment", "tools") if name in found)

    @property
    def world(self) -> Names:
        """Those without which the model cannot answer: its reward apart."""
        return replace(self, rewards=())


def call(name: str, *arguments: str) -> str:
    """A call of ours; an empty argument is left out.

    >>> call("evaluate", "'runs/a'", "", "samples=3")
    "refine_rl.evaluate('runs/a', samples=3)"
    """
    return f"refine_rl.{name}({', '.join(filter(None, arguments))})"


def call_to_resume(verb: str, path: Path | str, *arguments: str) -> str:
    """The call that does what `refine VERB --resume PATH` does."""
    return call("resume_sft" if verb == "sft" else "resume", repr(str(path)), *arguments)
