"""A vLLM server over HTTP: so many calls under way at once, each repeated where that may help."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any

from refine_rl.errors import MachineError
from refine_rl.llm.endpoints import Endpoint, endpoint_at
from refine_rl.llm.failures import Failure, failure_of_status, read_json, what_came
from refine_rl.llm.wire import Answered, Wire, open_wire
from refine_rl.progress import Pause, never, wait
from refine_rl.settings import EndpointSettings, EngineSettings, TeacherSettings
from refine_rl.types import count_of

Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """So many `retries` after a call that may succeed when it is made again, `unknown` of a server that has
    never answered, `late` after one that did not in its time; seconds before the first of them, doubled each
    time up to `longest`."""

    retries: int = 6
    unknown: int = 2
    late: int = 1
    base: float = 0.5
    longest: float = 30.0

    def most(self, failure: Failure, answered: bool) -> int:
        """Retries after such failures."""
        most = self.retries if answered else self.unknown
        return min(self.late, most) if failure.outcome == "timeout" else most

    def wait(self, attempt: int) -> float:
        """Seconds behind the attempt of that number, from 0 on."""
        return float(min(self.longest, self.base * 2.0**attempt))


PACE = Pace()


class Refused(Exception):  # noqa: N818 - an answer, of which who asked makes an error
    """The server answered, and with an error that comes again when it is asked again."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def endpoint_of(settings: EngineSettings | TeacherSettings, *, name: str, table: str) -> Endpoint:
    """The server that a table of the settings names, of the run's model or of its teacher. Raises what
    `endpoint_at` raises."""
    return endpoint_at(
        settings.base_url,
        settings.key_env,
        EndpointSettings(timeout=settings.timeout, concurrency=settings.concurrency),
        os.environ,
        name=name,
        table=table,
    )


class Server:
    """`start` is the command that starts such a server, and `table` that of the settings which names it, for
    words. Calls run in a thread of their own."""

    def __init__(self, endpoint: Endpoint, start: str, table: str = "engine") -> None:
        self.endpoint = endpoint
        self.start = start
        self.table = table
        self._loop = asyncio.new_event_loop()
        self._wire: Wire | None = None
        self._answered = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

    @property
    def shown(self) -> str:
        """It in a sentence."""
        return f"the vLLM server at {self.endpoint.base_url}"

    def ask(self, path: str, body: Body | None = None, *, final: bool = False, once: bool = False) -> Any:
        """The value of the JSON that comes back, or the text where it is none; without a body, of what is
        there to be got. Raises Refused (where answers are `final`, for an error of any kind), and
        MachineError where nothing comes; asked `once`, at once."""
        text = wait(self._begin(self._call(path, body, final or once, once)), never)
        value = read_json(text)
        return text if value is None else value

    def ask_each(self, path: str, bodies: Sequence[Body], pause: Pause) -> Iterator[tuple[int, Any]]:
        """The place of each body and what comes back, as soon as it does. Raises what `ask` raises; where it
        is left early, so are the calls under way."""
        places = {self._begin(self._call(path, body)): n for n, body in enumerate(bodies)}
        waiting: set[Future[str]] = set(places)
        try:
            while waiting:
                done, waiting = wait_for(waiting, timeout=0.05, return_when=FIRST_COMPLETED)
                pause()
                for future in sorted(done, key=places.__getitem__):
                    text = future.result()
                    if (value := read_json(text)) is None:
                        raise self.nonsense(what_came(text))
                    yield places[future], value
        finally:
            for future in places:
                future.cancel()

    def nonsense(self, what: str) -> MachineError:
        """The error for an answer that is no completion as vLLM gives one."""
        return MachineError(
            f"{self.shown} answered otherwise than vLLM does: {what}. Nothing was learned from it. Is that "
            f"server vLLM, and no other program stands before it? This command starts one:\n{self.start}"
        )

    def close(self) -> None:
        """Ends its calls, and the thread; a second time does nothing."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(Exception):  # whoever closes has done with the server
            self._begin(self._end()).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(self, call: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._wire is not None:
            await self._wire.close()

    async def _call(self, path: str, body: Body | None, final: bool = False, once: bool = False) -> str:
        if self._wire is None:
            self._wire = await open_wire(self.endpoint)
        async with self._wire.slots:
            attempt = 0
            while True:
                answer = await self._wire.send(path, body)
                if isinstance(answer, Answered) and answer.status < 300:
                    self._answered = True
                    return answer.body
                failure = self._failure(answer)
                if failure.kind != "retry" or (final and failure.status is not None):
                    raise Refused(failure.status or 0, failure.text)
                if once or attempt >= PACE.most(failure, self._answered):
                    raise self._gone(failure, attempt + 1)
                seconds = PACE.wait(attempt) if failure.wait is None else min(failure.wait, 60.0)
                await asyncio.sleep(seconds)
                attempt += 1

    def _failure(self, answer: Answered | Failure) -> Failure:
        if isinstance(answer, Failure):
            return answer
        return failure_of_status(answer.status, answer.headers, self.endpoint.mask(answer.body), "text")

    def _gone(self, failure: Failure, attempts: int) -> MachineError:
        tried = f"{failure.text} ({count_of(attempts, 'attempt')})"
        if failure.outcome == "timeout":
            table = self.table
            advice = f"A higher {table}.timeout gives it more time, a lower {table}.concurrency less to do."
        elif self._answered:
            advice = f"It answered before. Start it again with this command, then go on:\n{self.start}"
        else:
            advice = f"Is it running, and {self.table}.base_url right? This command starts it:\n{self.start}"
        return MachineError(f"{self.shown} gives no reply: {tried}. {advice}")
