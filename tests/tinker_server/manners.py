"""How a server behaves: what it offers, which of the known bad habits it has, and what it is told to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tinker_server.losses import NEEDS


@dataclass(kw_only=True, slots=True)
class Manners:
    """May be changed while the server runs. The defaults are a service that behaves."""

    name: str
    """The model's name among those offered; another than the folder's: another model behind the address."""
    keys: tuple[str, ...] | None = None
    """The keys that are let in; None: all."""
    losses: tuple[str, ...] = tuple(NEEDS)
    """The losses that are not refused."""
    reduction: Literal["sum", "mean"] = "sum"
    """"mean": as SkyRL's JAX backend, each row divided by its weights or positions, the sum by the rows."""
    clips: bool = True
    """False: grad_clip_norm is ignored."""
    sampler: Literal["current", "stale", "base", "other"] = "current"
    """Which weights a sampler gets: the ones asked for, the first that this model ever gave to a sampler,
    the base model's, or those of somebody else's adapter."""
    through_text: bool = False
    """True: tokens are decoded and encoded again, so that others come back under the same log-probs."""
    external: bool = True
    """False: there is no save_weights_external, only the archive of a sampler's weights."""
    modules_named: bool = True
    """False: the adapter's configuration says `target_modules: null`."""
    config: dict[str, Any] = field(default_factory=dict)
    """The flags that the client is given at its start: fwdbwd_max_chunk_len, proto_compress_fwdbwd, ..."""
    patience: float = 20.0
    """Seconds until a question after a promise is answered with "try again"."""


@dataclass(kw_only=True, slots=True)
class Fault:
    """What happens to the next `times` requests of a path, once `after` of them went well."""

    path: str
    times: int
    after: int
    status: int = 0
    """An answer with this status, in place of the request."""
    text: str = ""
    cut: Literal["", "before", "after"] = ""
    """The connection ends without an answer: before the request is carried out, or after."""
    error: str = ""
    """The request is taken, and its promise ends with this error."""
    hold: Callable[[], Any] | None = None
    """Called, and waited for, before the request is looked at."""


class Faults:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def meet(self, path: str) -> Fault | None:
        """The fault that this request meets."""
        with self._lock:
            for fault in self._faults:
                if fault.path != path or not fault.times:
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None
