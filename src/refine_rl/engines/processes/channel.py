"""Messages between the first process and another: whole objects over a socket, told apart by a secret.

Not torch's collectives: those wait for everybody, and say nothing of one that died. A socket ends with its
process.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A machine that is gone is noticed after a minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """`about`: the number of the order that it belongs to. From the first process: "order", "cancel", "end".
    From another: "some" (a part of the result), "done", "refused" (an error of ours; it goes on), "failed"
    (it ends), "alive"."""

    kind: str
    about: int = 0
    value: Any = None


class Channel:
    """Sends from any thread; one thread receives."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()
        with socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):  # a system without it has its own pace
                    end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Raises OSError where nobody listens any more."""
        # Not `Connection.send`: torch has taught it to hand tensors over by shared memory.
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._connection.send_bytes(data)

    def receive(self) -> Message:
        """Raises EOFError or OSError once the other end is gone."""
        found = pickle.loads(self._connection.recv_bytes())
        assert isinstance(found, Message)
        return found

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.close()
