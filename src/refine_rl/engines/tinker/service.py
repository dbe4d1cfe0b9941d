"""A session with a service: what is asked is waited for in bounded time, heeding Ctrl-C, and is billed."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, TypeVar

from refine_rl.engines.tinker.address import Address, sdk, told
from refine_rl.engines.tinker.bill import Bill, Line, Use
from refine_rl.errors import MachineError, RefineError, UserError
from refine_rl.progress import Pause, never

T = TypeVar("T")

EVERY, MISSED = 10.0, 6
"""Seconds between two looks whether anybody answers at the service's address, while something is waited for;
and after how many in vain it is given up."""
GOODBYE = 5.0
"""Seconds that the end of a session may take."""


def in_background(work: Callable[[], T]) -> Future[T]:
    """What `work` gives, from a thread that nobody waits for at the end of the process."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # it cannot be cancelled

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # it is raised where it is waited for
            future.set_exception(error)

    Thread(target=run, daemon=True, name="tinker").start()
    return future


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request under way, what is being done by it in words, and its line in the ledger."""

    future: Future[Any]
    doing: str
    line: Line | None = None

    def give_up(self) -> None:
        """Nobody waits for it any more; nothing happens where it was waited for."""
        self.future.cancel()
        if self.line is not None:
            self.line.lost("cancelled")


@dataclass(kw_only=True, eq=False)
class Service:
    """`client` is the SDK's; `gone`: a request failed for good, so that nothing more is asked of it."""

    address: Address
    bill: Bill
    client: Any
    gone: bool = False
    _pulse: _Pulse = field(init=False)

    def __post_init__(self) -> None:
        self._pulse = _Pulse(self.address.url)

    def ask(self, asked: Any, doing: str, line: Line | None = None) -> Asked:
        """A future of the SDK's, as a request under way."""
        # What the SDK gives for samples is a Future too, which warns of being taken for one.
        future = asked.future() if hasattr(asked, "future") else asked
        return Asked(future=future, doing=doing, line=line)

    def result(self, asked: Asked, pause: Pause = never) -> Any:
        """What a request gave, once it is there. Raises UserError for a key that is not let in, MachineError
        where the service fails or is silent, and whatever `pause` raises."""
        began = time.monotonic()
        self._pulse.begin()
        try:
            while not wait([asked.future], timeout=0.02).done:
                pause()
                if time.monotonic() - began > self.address.timeout:
                    raise self._silent(asked.doing, f"in {self.address.timeout:g} seconds (engine.timeout)")
                if self._pulse.stopped:
                    raise self._silent(asked.doing, "for too long: it cannot be reached any more")
        except BaseException:
            asked.give_up()
            raise
        if (error := asked.future.exception()) is not None:
            raise self._failed(error, asked) from error
        return asked.future.result()

    def billed(self, asked: Asked, use: Use, pause: Pause = never) -> Any:
        """`result` of a request that uses `use` where it goes well."""
        given = self.result(asked, pause)
        if asked.line is not None:
            asked.line.end(use)
        return given

    def _silent(self, doing: str, how: str) -> MachineError:
        self.gone = True
        return MachineError(f"{doing}: {self.address.url} did not answer {how}.")

    def _failed(self, error: BaseException, asked: Asked) -> RefineError:
        found = told(error, self.address, asked.doing)
        self.gone = self.gone or isinstance(found, MachineError)
        if asked.line is not None:
            asked.line.lost("server error", self.address.mask(str(error)))
        return found

    def close(self) -> None:
        """Ends the session; where the service does not listen any more, nobody waits for that."""
        goodbye = in_background(lambda: self.client.close("errored" if self.gone else "success").result())
        wait([goodbye], timeout=0.0 if self.gone else GOODBYE)


class _Pulse:
    """Whether anybody answers at an address: asked beside the requests, some of which take minutes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.begin()

    def begin(self) -> None:
        """From here on somebody waits."""
        self._asked, self._missed = time.monotonic(), 0
        self._probe: Future[Any] | None = None

    @property
    def stopped(self) -> bool:
        """Whether nobody answered several times in a row."""
        if self._probe is not None and self._probe.done():
            self._missed = 0 if self._probe.exception() is None else self._missed + 1
            self._probe = None
        if self._probe is None and time.monotonic() - self._asked > EVERY:
            self._asked, self._probe = time.monotonic(), in_background(self._look)
        return self._missed >= MISSED

    def _look(self) -> None:
        import httpx

        httpx.get(f"{self._url}/api/v1/healthz", timeout=10.0)


def session(address: Address, bill: Bill) -> Service:
    """A session with a service, begun with the first request."""
    client = sdk().ServiceClient(base_url=address.url, api_key=address.key)
    return Service(address=address, bill=bill, client=client)


def offered(address: Address) -> int | None:
    """The most tokens of a text that the service computes with the model; None where it does not say. Raises
    UserError where it does not let us in or has not the model, MachineError where nobody answers; nothing is
    paid for."""
    tinker = sdk()
    import httpx

    try:
        httpx.get(f"{address.url}/api/v1/healthz", timeout=10.0)
    except httpx.HTTPError as error:
        raise MachineError(
            f"engine.base_url: nobody answers at {address.url} ({address.mask(str(error))}). Start the "
            "service, or set the address that it has."
        ) from None

    def ask() -> Any:
        rest = tinker.RestClient(base_url=address.url, api_key=address.key)
        return rest.get_server_capabilities().result()

    service = Service(address=address, bill=Bill(model=address.model), client=None)
    models = service.result(service.ask(in_background(ask), "Asking what the service offers"))
    known = {m.model_name: m for m in models.supported_models}
    if known and address.model not in known:
        raise UserError(_not_offered(address, [str(name) for name in known]))
    found = known.get(address.model)
    if found is not None and found.trainable is False:
        raise UserError(f"{address.url} does not train {address.model}. Set another model.name.")
    return None if found is None else found.max_context_length


def _not_offered(address: Address, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(address.model, names, n=3, cutoff=0.3) or list(names)[:3]
    more = f" and {len(names) - len(near)} others" if len(names) > len(near) else ""
    return (
        f"{address.url} does not offer the model {address.model!r}; it has "
        f"{', '.join(map(repr, near))}{more}. Set model.name, or engine.model where the service has another "
        "name for the same model."
    )
