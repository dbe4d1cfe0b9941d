"""The life of a process beside the first one: it takes orders until there are no more."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from refine_rl.engines.processes.channel import Channel, Message
from refine_rl.engines.processes.meet import Hello, address, board, versions
from refine_rl.engines.processes.orders import At, Order
from refine_rl.engines.processes.place import PARENT, SECRET, Place, launched
from refine_rl.errors import GuardStop, MachineError, RefineError, UserError

ALIVE_EVERY = 2.0
"""Seconds between two signs of life."""


class TakenBack(Exception):  # noqa: N818 - no mistake
    """The first process wants no more of the order."""


def serve(place: Place) -> None:
    """Takes orders until the first process says that it is over. The process ends, at once and wherever it
    stands, when the first one is gone: nobody is left that it could tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, too, and decides
    try:
        store = board(place)
        words = PrefixStore("words", store)
        listens = (address(place), int(words.get("port")))
        channel = Channel(Client(listens, authkey=_secret(place, words)))
    except (RuntimeError, OSError, EOFError, AuthenticationError) as error:
        raise MachineError(
            f"Process {place.rank} of {place.size} on {socket.gethostname()} did not find the first one "
            f"(MASTER_ADDR={os.environ['MASTER_ADDR']}, MASTER_PORT={os.environ['MASTER_PORT']}): {error}"
        ) from error
    hello = Hello(rank=place.rank, host=socket.gethostname(), versions=versions())
    channel.send(Message(kind="here", value=hello))
    with Path(os.devnull).open("w") as nobody, contextlib.ExitStack() as quiet:
        if PARENT not in os.environ:  # all that a launcher started share a terminal
            quiet.enter_context(contextlib.redirect_stdout(nobody))
            quiet.enter_context(contextlib.redirect_stderr(nobody))
        _Serving(place, channel, store).run()


def _secret(place: Place, words: Store) -> bytes:
    """That of the environment, or of the store where the first process has none there."""
    own = os.environ.pop(SECRET, "")
    told = b"" if PARENT in os.environ else words.get("secret")
    if bool(own) == bool(told):
        with_it, without = (place.rank, 0) if own else (0, place.rank)
        raise UserError(
            f"{SECRET} is set for process {with_it} and not for process {without}: set the same for all of "
            "them, or for none."
        )
    return own.encode() or told


@dataclass(eq=False)
class _Serving:
    place: Place
    channel: Channel
    store: Store
    orders: queue.Queue[Message] = field(default_factory=queue.Queue)
    taken_back: int = 0  # the latest order that was
    now: int = 0
    signs: int = 0

    def run(self) -> None:
        for work in (self._listen, self._live):
            threading.Thread(target=work, daemon=True).start()
        at = At(
            place=self.place, store=self.store, hands={}, say=self._say, pause=self._pause, sign=self._sign
        )
        while (message := self.orders.get()).kind != "end":
            self.now = message.about
            self._carry_out(message.value, at)

    def _carry_out(self, order: Order, at: At) -> None:
        try:
            kind, value = "done", order(at)
        except TakenBack:
            return
        except RefineError as error:
            kind, value = "refused", _told(error, self.place)
        except BaseException as error:
            self._send("lost" if _lost(error) else "failed", _failed(error, self.place))
            raise SystemExit(MachineError.exit_code) from None
        self.signs += 1
        self._send(kind, value)

    def _say(self, value: Any) -> None:
        self.signs += 1
        self._send("some", value)

    def _send(self, kind: str, value: Any) -> None:
        try:
            self.channel.send(Message(kind=kind, about=self.now, value=value))
        except OSError:
            _leave()

    def _sign(self) -> None:
        self.signs += 1

    def _pause(self) -> None:
        self._sign()
        if self.now <= self.taken_back:
            raise TakenBack

    def _listen(self) -> None:
        try:
            while True:
                message = self.channel.receive()
                if message.kind == "cancel":
                    self.taken_back = message.about
                else:
                    self.orders.put(message)
        except (EOFError, OSError):
            _leave()
        except Exception as error:  # unpickling raises anything
            self._send("failed", _failed(error, self.place))
            _leave()

    def _live(self) -> None:
        parent = os.environ.get(PARENT)
        while parent is None or os.getppid() == int(parent):
            self._send("alive", self.signs)
            time.sleep(ALIVE_EVERY)
        _leave()


def _told(error: RefineError, place: Place) -> RefineError:
    """The error as the first process can be sent it."""
    if isinstance(error, GuardStop):
        return error
    kind = UserError if isinstance(error, UserError) else MachineError
    return kind(f"Process {place.rank} of {place.size} on {socket.gethostname()}: {error}")


def _lost(error: BaseException) -> bool:
    """Whether it says no more than that another process is gone."""
    words = ("closed by peer", "reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _failed(error: BaseException, place: Place) -> str:
    """What became of a process, in words."""
    who = f"Process {place.rank} of {place.size} on {socket.gethostname()}"
    no_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if no_memory or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return (
            f"{who} is out of memory. Lower grpo.tokens_per_micro_batch, rollout.group_size or "
            "rollout.max_tokens (--set KEY=VALUE), take fewer processes, or a smaller model."
        )
    return f"{who} failed:\n{''.join(traceback.format_exception(error)).rstrip()}"


def _leave() -> NoReturn:
    """Not sys.exit: another thread may wait for processes that are gone."""
    sys.stderr.flush()
    os._exit(MachineError.exit_code)


def main() -> None:
    """A process that the first one started."""
    place = launched()
    assert place is not None
    serve(place)


if __name__ == "__main__":
    main()
