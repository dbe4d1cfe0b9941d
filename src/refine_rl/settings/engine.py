"""[engine]: where the model is, and who computes with it."""

from __future__ import annotations

from typing import ClassVar, Literal

from refine_rl.settings.base import Impossible, Positive, Section


class EngineSettings(Section):
    """[engine]: where the model answers and learns. Task, prompts, reward, evidence and record are the same
    with each."""

    kind: Literal["auto", "local", "processes"] = "auto"
    """"local": in this process. "processes": in several, on one machine or more, each with its share of the
    prompts. "auto": "processes" where `processes` asks for several or a launcher (torchrun, accelerate
    launch) started several, else "local"."""
    processes: Positive = 1
    """Processes that `refine train` starts on this machine, this one included; a launcher's own number counts
    where one started it."""

    impossible: ClassVar[tuple[Impossible[EngineSettings], ...]] = (
        Impossible(
            when=lambda it: it.processes > 1 and it.kind not in ("auto", "processes"),
            why="has `processes`, and its `kind` is {it.kind!r}",
            way_out='use `kind = "processes"`, or leave `processes` out',
        ),
    )
