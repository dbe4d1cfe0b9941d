"""The other processes, as the first one sees them: whom it gives orders, and what becomes of them."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import torch.distributed as dist

from refine_rl.engines.processes.channel import Channel, Message
from refine_rl.engines.processes.orders import Order
from refine_rl.engines.processes.place import Place
from refine_rl.errors import MachineError
from refine_rl.progress import Pause, never

LAST_WORDS = 5.0
"""Seconds in which a process that is gone may still be heard, and leave its exit code."""

Came = tuple[int, Message]
"""Whose, and what."""


@dataclass(eq=False)
class Team:
    """`threads` are those of each process on this machine, where they share it; `children` the processes that
    this one started, by rank. `silence` is how many seconds a process may give no sign of life."""

    place: Place
    channels: Mapping[int, Channel]
    hosts: Mapping[int, str]
    silence: float
    children: Mapping[int, Child] = field(default_factory=dict)
    threads: int | None = None
    threads_before: int = 0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        now = self.clock()
        self._inbox: queue.Queue[Came] = queue.Queue()
        self._heard = dict.fromkeys(self.channels, now)  # when each was last heard
        self._moved = dict.fromkeys(self.channels, (0, now))  # its signs, and since when there are so many
        self._gone: dict[int, str] = {}  # what became of those that are gone
        self._lost: dict[int, str] = {}  # said by those that have lost another one
        self._number = 0
        self._over = False
        for rank in self.channels:
            threading.Thread(target=self._listen, args=(rank,), daemon=True, name=f"rank {rank}").start()

    @property
    def others(self) -> list[int]:
        """The ranks of all processes but this one."""
        return sorted(self.channels)

    @contextlib.contextmanager
    def asked(self, orders: Mapping[int, Order]) -> Iterator[Asked]:
        """Orders, by rank, that are carried out while this process does its own share in the block. What is
        not done at its end is taken back. Raises MachineError where a process is gone."""
        self.require()
        self._number += 1
        asked = Asked(self, self._number, dict(orders))
        now = self.clock()
        for rank, order in orders.items():
            self._moved[rank] = (self._moved[rank][0], now)
            self.send(rank, Message(kind="order", about=self._number, value=order))
        try:
            yield asked
        finally:
            asked.take_back()

    def all(
        self, order: Order, own: Callable[[], Any] = lambda: None, pause: Pause = never
    ) -> dict[int, Any]:
        """The same order for everybody, and what came of it; this process does its `own` part."""
        with self.asked(dict.fromkeys(self.others, order)) as asked:
            with self.together():
                mine = own()
            return {0: mine, **asked.wait(pause)}

    def tell(self, order: Order) -> None:
        """An order that nobody waits for, to those that are there."""
        self._number += 1
        for rank in self.channels:
            self.send(rank, Message(kind="order", about=self._number, value=order))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block with collectives: what torch raises there because a process is gone becomes the news of
        that."""
        try:
            yield
        except RuntimeError as error:
            self._wait_for_news()
            self.require()
            if isinstance(error, dist.DistError):
                raise MachineError(f"The processes lost one another: {error}") from error
            raise

    def require(self) -> None:
        """Raises MachineError where a process is gone."""
        if self._gone and not self._over:
            raise MachineError(next(iter(self._gone.values())))

    def heard(self, rank: int) -> float:
        """When a process was last heard, by the clock."""
        return self._heard[rank]

    def come(self, orders: Mapping[int, Order], *, seconds: float) -> Came | None:
        """The next message within that time. Raises MachineError where a process is gone, or silent for too
        long."""
        # What is here counts before any silence: this process may have been busy for long.
        with contextlib.suppress(queue.Empty):
            return self._inbox.get_nowait()
        self._require_signs(orders)
        try:
            return self._inbox.get(timeout=seconds) if seconds else None
        except queue.Empty:
            self.require()
            return None

    def close(self) -> None:
        """Everybody may go home. It may be called twice."""
        if self._over:
            return
        self._over = True
        for rank, channel in self.channels.items():
            if rank not in self._gone:
                with contextlib.suppress(OSError):
                    channel.send(Message(kind="end"))
        for child in self.children.values():
            child.end(at_once=bool(self._gone))
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    def send(self, rank: int, message: Message) -> None:
        with contextlib.suppress(OSError):  # it is gone: whoever listens to it says how
            self.channels[rank].send(message)

    def _require_signs(self, orders: Mapping[int, Order]) -> None:
        now = self.clock()
        for rank, order in orders.items():
            silent = now - self._heard[rank] > self.silence
            stuck = not order.patient and now - self._moved[rank][1] > self.silence
            if (silent or stuck) and rank not in self._gone:
                does = "is not heard any more" if silent else "is stuck"
                self._gone[rank] = (
                    f"{self._who(rank)} {does}: no sign of life in {self.silence:.0f} s (engine.timeout)."
                )
        self.require()

    def _listen(self, rank: int) -> None:
        channel = self.channels[rank]
        try:
            while True:
                message = channel.receive()
                self._heard[rank] = self.clock()
                if message.kind == "alive":
                    if message.value != self._moved[rank][0]:
                        self._moved[rank] = (message.value, self.clock())
                elif message.kind == "failed":
                    self._gone.setdefault(rank, message.value)
                elif message.kind == "lost":
                    self._lost[rank] = message.value
                else:
                    self._moved[rank] = (self._moved[rank][0], self.clock())
                    self._inbox.put((rank, message))
        except (EOFError, OSError):
            if rank in self._lost:  # whoever went first is the news
                self._wait_for_news()
                self._gone.setdefault(rank, self._lost[rank])
            elif not self._over:
                self._gone.setdefault(rank, f"{self._who(rank)} {self._end_of(rank)}.")
        except Exception as error:  # unpickling raises anything
            self._gone.setdefault(
                rank, f"{self._who(rank)} sent what cannot be read here: {type(error).__name__}: {error}"
            )
        channel.close()

    def _wait_for_news(self) -> None:
        until = time.monotonic() + LAST_WORDS
        while not self._gone and time.monotonic() < until:
            time.sleep(0.05)

    def _who(self, rank: int) -> str:
        where = f"process id {child.pid}" if (child := self.children.get(rank)) else self.hosts[rank]
        return f"Process {rank} of {self.place.size} ({where})"

    def _end_of(self, rank: int) -> str:
        """How a process ended, in words."""
        child = self.children.get(rank)
        if child is None:
            return "is gone: it was killed, or its machine is lost"
        return child.ended or "does not answer any more"


@dataclass(frozen=True, slots=True)
class Child:
    """A process that this one started, and the file that has its error output."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> str:
        """How it ended, and what it said last; "" where it goes on."""
        try:
            code = self.process.wait(timeout=LAST_WORDS)
        except subprocess.TimeoutExpired:
            return ""
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip()
        return f"{ended(code)}:\n{said}" if said else ended(code)

    def end(self, *, at_once: bool) -> None:
        """Waits for its end, for a while."""
        if at_once:
            self.process.kill()
        try:
            self.process.wait(timeout=LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


def ended(code: int) -> str:
    """
    >>> ended(-9), ended(1)
    ('was killed (signal 9: SIGKILL)', 'ended with exit code 1')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed (signal {-code}: {signal.Signals(-code).name})"


@dataclass(eq=False)
class Asked:
    """Orders under way; `waiting` are those that are not done."""

    team: Team
    number: int
    waiting: dict[int, Order]
    done: dict[int, Any] = field(default_factory=dict)

    def pause(self, pause: Pause) -> Pause:
        """For this process's own share: it also hears of a process that is gone."""

        def both() -> None:
            try:
                pause()
                self.team.require()
            except BaseException:
                self.take_back()  # before this process waits for the others to end
                raise

        return both

    def take_back(self) -> None:
        """What is not done is no longer wanted."""
        for rank in self.waiting:
            self.team.send(rank, Message(kind="cancel", about=self.number))

    def come(self) -> Iterator[tuple[int, Any]]:
        """The parts of results that are here."""
        while self.waiting and (came := self.team.come(self.waiting, seconds=0)) is not None:
            yield from self._taken(*came)

    def rest(self, pause: Pause) -> Iterator[tuple[int, Any]]:
        """The parts that are still to come, until all is done."""
        while self.waiting:
            if (came := self.team.come(self.waiting, seconds=0.05)) is not None:
                yield from self._taken(*came)
            pause()

    def wait(self, pause: Pause = never) -> dict[int, Any]:
        """What all orders came to, by rank. Raises what an order raised."""
        for _ in self.rest(pause):
            pass
        return self.done

    def _taken(self, rank: int, message: Message) -> Iterator[tuple[int, Any]]:
        if message.about != self.number:  # of an order that was taken back
            return
        if message.kind == "some":
            yield rank, message.value
            return
        self.waiting.pop(rank)
        if message.kind == "refused":
            raise message.value
        self.done[rank] = message.value
