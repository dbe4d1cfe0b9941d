"""The adapter of this process, loaded into the server under a new name whenever it has changed.

A name is never used twice, and neither is a folder: vLLM's prefix cache is keyed by them, and would answer
from the weights that they stood for before.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import torch

from refine_rl.engines.vllm.probe import Probe, why_stale
from refine_rl.engines.vllm.server import Refused, Server
from refine_rl.engines.vllm.start import RUNTIME
from refine_rl.errors import GuardStop, MachineError, UserError, disk_error
from refine_rl.policy.policy import Policy
from refine_rl.types import Trajectory


@dataclass(kw_only=True, eq=False)
class Adapters:
    """`folder` is seen by the server as well, by the same path. `probe` is there once the server is known; a
    name is given away only after it."""

    policy: Policy
    server: Server
    folder: Path
    probe: Probe | None = None
    name: str = ""  # under which the server has the adapter; "": it has none
    _prefix: str = field(default_factory=lambda: f"refine-{uuid.uuid4().hex[:8]}")
    _count: int = 0
    _held: dict[str, torch.Tensor] = field(default_factory=dict)  # the weights of that name
    _seen: list[Trajectory] = field(default_factory=list)  # what the probe saw of that name

    def current(self) -> str:
        """The name of the adapter as it is now. Raises GuardStop where the server has other weights under it,
        MachineError where it does not take them."""
        now = self.policy.trainable()
        if self.name and all(torch.equal(now[n].detach().cpu(), held) for n, held in self._held.items()):
            return self.name
        before = self.name  # it stays the name of what the server has, until another is proved
        name = self.load()
        try:
            self._prove(name)
        except BaseException:
            self.drop(name)
            raise
        self._held = {n: p.detach().cpu().clone() for n, p in now.items()}
        self.name = name
        if before:
            self.drop(before)
        return name

    def forget(self) -> None:
        """The server may have lost what it had."""
        self.name, self._held, self._seen = "", {}, []

    def load(self) -> str:
        """Gives the server the adapter as it is, under a new name."""
        self._count += 1
        name = f"{self._prefix}-{self._count}"
        place = self.folder / name
        try:
            place.mkdir(parents=True)
            self.policy.save_adapter(place)
        except OSError as error:
            raise disk_error(error, place) or UserError(
                f"engine.adapter_folder: {place} cannot be written: {error.strerror or error}."
            ) from None
        try:
            # What vLLM does not like about an adapter comes with status 500.
            self.server.ask("load_lora_adapter", {"lora_name": name, "lora_path": str(place)}, final=True)
        except Refused as error:
            if "already been loaded" not in str(error):  # the answer to the first try was lost
                shutil.rmtree(place, ignore_errors=True)
                raise self._not_loaded(error, place) from None
        return name

    def drop(self, name: str) -> None:
        """The server and the disk let go of what went by a name."""
        with contextlib.suppress(Refused, MachineError):  # then it goes with the server
            self.server.ask("unload_lora_adapter", {"lora_name": name}, once=True)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def let_go(self) -> None:
        """The server keeps nothing, and what it had says nothing about what it will answer."""
        if self.name:
            self.drop(self.name)
        self.forget()

    def close(self) -> None:
        """Lets go of what the server has, and of what is on the disk, whatever became of the server."""
        self.let_go()
        for left in self.folder.glob(f"{self._prefix}-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _prove(self, name: str) -> None:
        """Raises GuardStop where the server has other weights than these under a name."""
        if self.probe is None:
            return
        now = self.probe.seen(name)
        if why := why_stale(self.probe, now, self._seen, self._held):
            raise GuardStop(
                "mismatch",
                f"{self.server.shown} does not answer by the weights that it was given as {name}: {why}.",
                f"Nothing was sampled from them. Does it read {self.folder} itself, and not a copy that lags "
                "behind? Start it anew, then go on.",
            )
        self._seen = now

    def _not_loaded(self, error: Refused, place: Path) -> UserError | MachineError:
        """The error for a server that did not load the adapter in a folder, with the way out."""
        shown, start, said = self.server.shown, self.server.start, str(error)
        if error.status == 404 and "Not Found" in said:
            return UserError(
                f"{shown} takes no adapters while it runs (it has no /v1/load_lora_adapter). Start it with "
                f"{RUNTIME} and --enable-lora, as this command does:\n{start}"
            )
        if "No adapter found" in said or "No such file" in said:
            return UserError(
                f"{shown} does not see {place}. Name a folder in engine.adapter_folder that this process and "
                "the server both see, by the same path (a shared disk; for a container, a volume that is "
                "mounted under its own name)."
            )
        if "max_lora_rank" in said or "LoRA is not enabled" in said:
            return UserError(f"{shown} does not take this adapter: {said}. Start it so:\n{start}")
        return MachineError(
            f"{shown} did not load the adapter: {said}. It takes it when started so:\n{start}"
        )
