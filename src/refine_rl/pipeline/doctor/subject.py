"""The task that is examined, and what everybody who looks at it needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from refine_rl.errors import quoted
from refine_rl.pipeline.doctor.found import Examination
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The command that looks: how this program is called, `which` task (a file, or `--recipe NAME`), and what
    is overridden."""

    program: str = "refine"
    which: str = "task.toml"
    overrides: tuple[str, ...] = ()

    def again(self, *changes: str, verb: str = "doctor") -> str:
        """The same with `changes` (KEY=VALUE), in the place of earlier ones of the same keys.

        >>> Command(overrides=("grpo.steps=9", "grpo.seed=1")).again("grpo.steps=20", verb="check")
        'refine check task.toml --set grpo.seed=1 --set grpo.steps=20'
        """
        keys = {_key(change) for change in changes}
        kept = [one for one in self.overrides if _key(one) not in keys]
        sets = "".join(f" --set {quoted(one)}" for one in (*kept, *changes))
        return f"{self.program} {verb} {self.which}{sets}"


def _key(change: str) -> str:
    return change.partition("=")[0].strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A task with these settings; what is found goes into `exam`, what is going on to `observer`."""

    exam: Examination
    settings: Settings
    command: Command = field(default_factory=Command)
    observer: Observer = field(default_factory=Quiet)
    pause: Pause = never
