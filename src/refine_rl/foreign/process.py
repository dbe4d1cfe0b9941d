"""The process around foreign code: what it may not do to the run that it works for.

Two things. `World` is the state that every part of the process shares (the current folder, number formats,
filters of warnings ...), noted before foreign code runs and put back after it. `foreign` marks code as
foreign and bars it from what would end the process or change what the model computes meanwhile.

Random seeds are not put back: nothing of ours draws from the generators that `random`, numpy and torch share,
and a function whose seed were put back after each call would draw the same numbers for ever.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

_here = threading.local()  # .foreign: whether this thread runs foreign code
_guard = threading.Lock()
_holders = 0
_originals: list[tuple[Any, str, Any]] = []


class World:
    """The state of the process that foreign code may change, as it is now.

    >>> before = World()
    >>> os.chdir("/")
    >>> warnings.simplefilter("ignore")
    >>> before.put_back()
    >>> before.folder == os.getcwd()
    True
    """

    def __init__(self) -> None:
        self.folder = _folder()
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._filters = warnings.filters[:]
        root = logging.root
        self._logging = (root.level, root.handlers[:], root.manager.disable)
        self._limits = (sys.getrecursionlimit(), socket.getdefaulttimeout(), gc.isenabled())
        self._torch = _torch_state(sys.modules.get("torch"))

    def put_back(self) -> None:
        """As it was; what did not change is not touched."""
        if self.folder is not None and _folder() != self.folder:
            with contextlib.suppress(OSError):  # it may be gone
                os.chdir(self.folder)
        if (sys.stdin, sys.stdout, sys.stderr) != self._streams:
            sys.stdin, sys.stdout, sys.stderr = self._streams
        if warnings.filters != self._filters:
            warnings.filters[:] = self._filters  # type: ignore[index]
            warnings._filters_mutated()  # type: ignore[attr-defined]  # else what was seen is remembered
        root = logging.root
        if (root.level, root.handlers, root.manager.disable) != self._logging:
            level, root.handlers[:], root.manager.disable = self._logging
            root.setLevel(level)
        self._put_limits_back()
        self._put_torch_back()

    def _put_limits_back(self) -> None:
        depth, timeout, collecting = self._limits
        if sys.getrecursionlimit() != depth:
            sys.setrecursionlimit(depth)
        if socket.getdefaulttimeout() != timeout:
            socket.setdefaulttimeout(timeout)
        if gc.isenabled() != collecting:
            (gc.enable if collecting else gc.disable)()

    def _put_torch_back(self) -> None:
        """Torch's own; where foreign code was the first to import it, as a fresh torch has it."""
        torch: Any = sys.modules.get("torch")
        if not _is_whole(torch):
            return
        before = self._torch or _fresh_torch(torch)
        now = _torch_state(torch)
        for name, value in before.items():
            if now is not None and now[name] != value:
                _TORCH[name][1](torch, value)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  a fifth of the time
    except OSError:  # it was removed
        return None


def _set_deterministic(torch: Any, value: Any) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _set_cudnn(torch: Any, value: Any) -> None:
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic = value


_TORCH: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    "grad": (lambda t: t.is_grad_enabled(), lambda t, v: t._C._set_grad_enabled(v)),
    "dtype": (lambda t: t.get_default_dtype(), lambda t, v: t.set_default_dtype(v)),
    "threads": (lambda t: t.get_num_threads(), lambda t, v: t.set_num_threads(v)),
    "deterministic": (
        lambda t: (
            t.are_deterministic_algorithms_enabled(),
            t.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _set_deterministic,
    ),
    "matmul": (
        lambda t: t._C._get_float32_matmul_precision(),
        lambda t, v: t._C._set_float32_matmul_precision(v),
    ),
    "cudnn": (lambda t: (t.backends.cudnn.benchmark, t.backends.cudnn.deterministic), _set_cudnn),
    "device": (
        lambda t: getattr(getattr(t, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None) is not None,
        lambda t, v: None if v else t.set_default_device(None),
    ),
}  # name -> how it is read, how it is set


def _is_whole(module: Any) -> bool:
    """Whether the module is there, and not still being imported by another thread."""
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _torch_state(torch: Any) -> dict[str, Any] | None:
    if not _is_whole(torch):
        return None
    return {name: read(torch) for name, (read, _) in _TORCH.items()}


def _fresh_torch(torch: Any) -> dict[str, Any]:
    return {"grad": True, "dtype": torch.float32, "deterministic": (False, False), "device": False}


@contextlib.contextmanager
def foreign() -> Iterator[None]:
    """The code inside is foreign: what is barred (see `barred`) raises in this thread."""
    before = getattr(_here, "foreign", False)
    _here.foreign = True
    try:
        yield
    finally:
        _here.foreign = before


@contextlib.contextmanager
def barred() -> Iterator[None]:
    """While this lasts, code that is `foreign` gets an error from what would end the process, bring a signal
    on it or change the number format in which the model samples beside it, and cannot set torch's threads;
    other code does not notice."""
    global _holders
    with _guard:
        _holders += 1
        if _holders == 1:
            _bar()
    try:
        yield
    finally:
        with _guard:
            _holders -= 1
            if _holders == 0:
                while _originals:
                    owner, name, original = _originals.pop()
                    setattr(owner, name, original)


@contextlib.contextmanager
def foreign_import() -> Iterator[None]:
    """The code inside is foreign, bears the bars, and leaves the process as it was."""
    world = World()
    try:
        with barred(), foreign():
            yield
    finally:
        world.put_back()


_ENDS = "would end the whole run"
_ALARM = "acts on the whole process; a call has a limit of its own"
_SAMPLES = "changes what the model computes meanwhile; give `dtype=` to the tensors that need it"


def _bar() -> None:
    for name in ("_exit", "abort", "execv", "execve"):
        _replace(os, name, _ENDS)
    for name in ("kill", "killpg"):
        if hasattr(os, name):
            _replace(os, name, _ENDS, when=_reaches_the_run)
    _replace(_thread, "interrupt_main", _ENDS)
    _replace(signal, "raise_signal", _ENDS)
    _replace(signal, "signal", _ALARM)
    if hasattr(signal, "alarm"):  # not on Windows; 0 takes an alarm back
        _replace(signal, "alarm", _ALARM, when=lambda seconds: seconds != 0)
        _replace(signal, "setitimer", _ALARM, when=lambda which, seconds, *_: seconds != 0)
    torch: Any = sys.modules.get("torch")
    for name in ("set_default_dtype", "set_default_tensor_type"):
        if hasattr(torch, name):
            _replace(torch, name, _SAMPLES)
    if hasattr(torch, "set_num_threads"):
        _replace(torch, "set_num_threads", "")


def _replace(owner: Any, name: str, why: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """Foreign code gets an error from `owner.name`, where `when` holds of its arguments; nothing at all
    without a `why`."""
    original, home = getattr(owner, name), os.getpid()

    @functools.wraps(original)
    def refused(*arguments: Any, **options: Any) -> Any:
        # A child that foreign code forked may end itself: multiprocessing does.
        if getattr(_here, "foreign", False) and os.getpid() == home and when(*arguments):
            if not why:
                return None
            kind = ValueError if owner is signal else RuntimeError  # as signals outside of the main thread
            raise kind(f"{owner.__name__.lstrip('_')}.{name} {why}")
        return original(*arguments, **options)

    _originals.append((owner, name, original))
    setattr(owner, name, refused)


def _reaches_the_run(process: int, number: int) -> bool:
    group = os.getpgrp() if hasattr(os, "getpgrp") else 0
    return number != 0 and process in (0, -1, os.getpid(), group, -group)
