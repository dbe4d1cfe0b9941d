"""Where the other processes come from: a launcher has started them, or this process does."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

import torch
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from refine_rl.engines.processes.channel import Channel
from refine_rl.engines.processes.meet import PATIENCE, Hello, board, join, versions
from refine_rl.engines.processes.orders import Join
from refine_rl.engines.processes.place import ADDRESS, PARENT, SECRET, Place, launched
from refine_rl.engines.processes.team import Child, Team
from refine_rl.errors import MachineError, UserError

_THREADS = "OMP_NUM_THREADS"
_GREETING = 60
"""Seconds in which one that connects has to say something."""


@dataclass(eq=False)
class _Here:
    """Of this process: its team, the store, and how many engines need them."""

    team: Team | None = None
    store: Store | None = None
    joined: bool = False
    engines: int = 0


_HERE = _Here()


def gather(place: Place) -> None:
    """In the first process that a launcher started: waits for the others, which stay until it ends. They come
    once; from then on it does nothing."""
    if _HERE.team is not None:
        return
    store, secret = board(place), os.environ.pop(SECRET, "")
    told = "" if secret else secrets.token_hex(32)  # one that all were started with stays off the store
    PrefixStore("words", store).set("secret", told)
    _HERE.team, _HERE.store = _met(place, store, {}, None, secret or told), store
    atexit.register(_HERE.team.close)


def acquire(processes: int, silence: float) -> Team:
    """The other processes, ready for orders; each call is followed by one of `release`. Raises MachineError
    where they do not come."""
    if _HERE.team is None:
        if (place := launched()) is None:
            _start(processes)
        else:
            gather(place)
    team, store = _HERE.team, _HERE.store
    assert team is not None
    assert store is not None
    _HERE.engines += 1
    if not _HERE.joined:
        team.silence = silence
        try:
            if team.threads is not None:
                torch.set_num_threads(team.threads)
            order = Join(seconds=silence, threads=team.threads)
            team.all(order, lambda: join(team.place, store, silence))
        except BaseException:
            release()
            raise
        _HERE.joined = True
    return team


def release() -> None:
    """An engine is closed. Those processes that this one started end with the last."""
    _HERE.engines -= 1
    team = _HERE.team
    if _HERE.engines or team is None or not team.children:
        return
    team.close()
    if team.threads is not None:
        torch.set_num_threads(team.threads_before)
    _HERE.team, _HERE.store, _HERE.joined = None, None, False


def _start(processes: int) -> None:
    """Starts the others on this machine, which share its cores."""
    place = Place(rank=0, size=processes, local_rank=0, local_size=processes)
    secret = secrets.token_hex(32)
    store = _store()
    threads = max(1, torch.get_num_threads() // processes)
    children: dict[int, Child] = {}
    try:
        for rank in range(1, processes):
            own = Place(rank=rank, size=processes, local_rank=rank, local_size=processes)
            children[rank] = _child(own, store.port, threads, secret)
        _HERE.team = _met(place, store, children, threads, secret)
    except BaseException:
        for child in children.values():
            child.end(at_once=True)
        raise
    _HERE.store = store
    atexit.register(_HERE.team.close)


def _store() -> TCPStore:
    """Where the processes of this machine leave word for one another: torch's own would listen to every other
    machine, too."""
    here = socket.create_server(("127.0.0.1", 0))
    port = here.getsockname()[1]
    return TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=PATIENCE,
        master_listen_fd=here.detach(),  # it is the store's from here on
    )


def _child(place: Place, port: int, threads: int, secret: str) -> Child:
    environment = {
        **os.environ,
        **place.environment(),
        **dict(zip(ADDRESS, ("127.0.0.1", str(port)), strict=True)),
        PARENT: str(os.getpid()),
        SECRET: secret,
        _THREADS: str(threads),
    }
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
    process = subprocess.Popen(
        # -P: a file of the folder in which somebody stands is no module of ours.
        [sys.executable, "-P", "-m", "refine_rl.engines.processes.serve"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,  # Ctrl-C is for this process alone
    )
    return Child(process, errors)


def _met(place: Place, store: Store, children: Mapping[int, Child], threads: int | None, secret: str) -> Team:
    """The team, once everybody is here who knows the secret."""
    came: queue.Queue[tuple[Channel, Hello]] = queue.Queue()
    with socket.create_server(("127.0.0.1" if place.one_machine else "0.0.0.0", 0)) as listener:
        listener.settimeout(0.1)
        PrefixStore("words", store).set("port", str(listener.getsockname()[1]))
        channels: dict[int, Channel] = {}
        hosts: dict[int, str] = {}
        until = time.monotonic() + PATIENCE.total_seconds()
        while len(channels) < place.size - 1:
            with contextlib.suppress(OSError):  # nobody, or one that is gone again
                end, _ = listener.accept()
                threading.Thread(target=_welcome, args=(end, secret.encode(), came), daemon=True).start()
            try:
                channel, hello = came.get_nowait()
            except queue.Empty:
                _require_coming(children, channels, place, until)
                continue
            if hello.versions != versions():
                raise UserError(
                    f"Process {hello.rank} on {hello.host} has {', '.join(hello.versions)}; this one has "
                    f"{', '.join(versions())}. All processes of a run need the same."
                )
            channels[hello.rank], hosts[hello.rank] = channel, hello.host
    silence = PATIENCE.total_seconds()
    return Team(place, channels, hosts, silence, children, threads, torch.get_num_threads())


def _require_coming(
    children: Mapping[int, Child], here: Mapping[int, Channel], place: Place, until: float
) -> None:
    """Raises MachineError where somebody will not come."""
    for rank, child in children.items():
        if rank not in here and child.process.poll() is not None:
            raise MachineError(f"Process {rank} of {place.size} {child.ended}, before it could begin.")
    if time.monotonic() > until:
        missing = sorted(set(range(1, place.size)) - here.keys())
        raise MachineError(f"Of {place.size} processes, numbers {missing} did not come within {PATIENCE}.")


def _welcome(end: socket.socket, secret: bytes, came: queue.Queue[tuple[Channel, Hello]]) -> None:
    """One that has come says who it is. A stranger does not know the secret, or says nothing at all."""
    # Not `settimeout`: a Connection reads from the descriptor itself.
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _GREETING, 0))
    connection = Connection(end.detach())
    try:
        deliver_challenge(connection, secret)
        answer_challenge(connection, secret)
        channel = Channel(connection)
        hello = channel.receive().value
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
    except Exception:
        connection.close()
        return
    came.put((channel, hello))
