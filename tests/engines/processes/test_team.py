"""What the first process learns of the others: results in parts, errors, ends, silence. The others are
threads here, which speak over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Client, Listener
from typing import Any

import pytest
from torch.distributed import HashStore

from refine_rl.engines.base import Loading
from refine_rl.engines.processes import serve
from refine_rl.engines.processes.channel import Channel, Message
from refine_rl.engines.processes.orders import Forget, Load
from refine_rl.engines.processes.place import Place
from refine_rl.engines.processes.team import Asked, Team, ended
from refine_rl.errors import GuardStop, Interrupted, MachineError, UserError
from refine_rl.progress import never
from refine_rl.settings import ModelSettings

ORDER = Forget(model=1)
PATIENT = Load(
    model=1,
    loading=Loading(
        model=ModelSettings(), seed=0, adapter_from=None, keep_reference=False, moment=datetime(2026, 1, 2)
    ),
)


@dataclass
class Other:
    """The far end of a channel."""

    channel: Channel

    def order(self) -> Message:
        message = self.channel.receive()
        assert message.kind == "order"
        return message

    def say(self, kind: str, about: int = 0, value: Any = None) -> None:
        self.channel.send(Message(kind=kind, about=about, value=value))


Pair = tuple[Team, Other]


@pytest.fixture
def pair() -> Iterator[Callable[..., Pair]]:
    """pair(**of the team) -> a team of two, and the other of them."""
    teams: list[Pair] = []

    def make(**how: Any) -> Pair:
        with Listener(("127.0.0.1", 0), authkey=b"x") as listener:
            far: list[Channel] = []
            address = listener.address
            thread = threading.Thread(target=lambda: far.append(Channel(Client(address, authkey=b"x"))))
            thread.start()
            near = Channel(listener.accept())
            thread.join()
        place = Place(rank=0, size=2, local_rank=0, local_size=2)
        teams.append((Team(place, {1: near}, {1: "there"}, **{"silence": 60.0, **how}), Other(far[0])))
        return teams[-1]

    yield make
    for team, other in teams:
        team.close()
        other.channel.close()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def asks(team: Team, meanwhile: Callable[[Asked], Any]) -> dict[int, Any]:
    """What an order came to, while something happens."""
    with team.asked({1: ORDER}) as asked:
        meanwhile(asked)
        return asked.wait()


def test_results_come_in_parts_and_late_ones_are_nobodys(pair: Callable[..., Pair]) -> None:
    team, other = pair()

    def stop(asked: Asked) -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        asks(team, stop)
    number = other.order().about
    assert other.channel.receive() == Message(kind="cancel", about=number)
    other.say("some", number, "too late")
    with team.asked({1: ORDER}) as asked:
        now = other.order().about
        other.say("some", now, "a")
        other.say("some", now, "b")
        other.say("done", now, "whole")
        assert list(asked.rest(never)) == [(1, "a"), (1, "b")]
        assert asked.wait() == {1: "whole"}


@pytest.mark.parametrize(
    "error", [UserError("no such file"), GuardStop("not_finite", "Broken.", "Go back.", limit=2.0)]
)
def test_an_error_of_the_others_is_raised_here(pair: Callable[..., Pair], error: UserError) -> None:
    team, other = pair()
    with pytest.raises(type(error), match=str(error)):
        asks(team, lambda asked: other.say("refused", other.order().about, error))
    assert asks(team, lambda asked: other.say("done", other.order().about, 7)) == {1: 7}


def test_who_is_gone_is_named(pair: Callable[..., Pair]) -> None:
    team, other = pair()
    with pytest.raises(MachineError, match=r"Process 1 of 2 \(there\) is gone"):
        asks(team, lambda asked: other.channel.close())
    with pytest.raises(MachineError, match="is gone"):
        asks(team, lambda asked: None)


def test_the_last_words_of_who_failed_are_told(pair: Callable[..., Pair]) -> None:
    team, other = pair()

    def fails(asked: Asked) -> None:
        other.say("failed", other.order().about, "Process 1 is out of memory.")
        other.channel.close()

    with pytest.raises(MachineError, match="out of memory"):
        asks(team, fails)


def breaks() -> None:
    raise ImportError("no module named there")


class Unreadable:
    patient = True

    def __reduce__(self) -> Any:
        return breaks, ()


def test_what_cannot_be_read_is_told_at_once(pair: Callable[..., Pair]) -> None:
    team, other = pair()
    words = r"Process 1 of 2 \(there\) sent what cannot be read here: ImportError: no module named there"
    with pytest.raises(MachineError, match=words):
        asks(team, lambda asked: other.say("done", other.order().about, Unreadable()))


def test_an_order_that_cannot_be_read_is_told_at_once(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    team, other = pair()
    left = threading.Event()
    monkeypatch.setattr(serve, "_leave", left.set)
    serving = serve._Serving(Place(rank=1, size=2, local_rank=1, local_size=2), other.channel, HashStore())
    threading.Thread(target=serving._listen, daemon=True).start()
    with pytest.raises(MachineError, match=r"(?s)Process 1 of 2 on .* failed:.*no module named there"):
        with team.asked({1: Unreadable()}) as asked:  # type: ignore[dict-item]
            asked.wait()
    assert left.wait(60)


def test_who_went_first_is_the_news(pair: Callable[..., Pair]) -> None:
    """Of one that has lost another the story is told only where there is no better one."""
    team, other = pair()

    def loses(asked: Asked) -> None:
        other.say("lost", other.order().about, "Connection closed by peer")
        threading.Timer(0.3, lambda: team._gone.update({2: "Process 2 was killed."})).start()
        other.channel.close()

    with pytest.raises(MachineError, match="Process 2 was killed"):
        asks(team, loses)


def test_who_is_gone_is_noticed_within_a_process_s_own_share(pair: Callable[..., Pair]) -> None:
    team, other = pair()

    def goes(asked: Asked) -> None:
        other.channel.close()
        until(lambda: asked.pause(never)())  # type: ignore[func-returns-value]

    with pytest.raises(MachineError, match="is gone"):
        asks(team, goes)


def test_what_torch_says_of_a_lost_process_becomes_the_news(pair: Callable[..., Pair]) -> None:
    team, other = pair()
    threading.Timer(0.2, other.channel.close).start()
    with pytest.raises(MachineError, match="is gone"), team.together():
        raise RuntimeError("Connection closed by peer [127.0.0.1]")


@pytest.mark.parametrize("alive", [False, True])
def test_silence_ends_it(pair: Callable[..., Pair], alive: bool) -> None:
    """A process that is not heard; and one that lives, and gets nowhere."""
    now = 0.0
    team, other = pair(silence=10.0, clock=lambda: now)
    with team.asked({1: ORDER}) as asked:
        number = other.order().about
        for now in (8.0, 16.0, 24.0):
            other.say("alive", value=now)  # a sign of work each time
            until(lambda now=now: team.heard(1) == now)
            assert list(asked.come()) == []
        if alive:
            now = 33.0
            other.say("alive", value=24.0)  # none since
            until(lambda: team.heard(1) == 33.0)
        now = 35.0
        words = "is stuck" if alive else "is not heard any more"
        with pytest.raises(MachineError, match=rf"{words}: no sign of life in 10 s \(engine.timeout\)"):
            list(asked.come())
        assert number


def test_what_has_come_is_no_silence(pair: Callable[..., Pair]) -> None:
    """Another process was done long ago, and this one was busy with a share of its own until now."""
    now = 0.0
    team, other = pair(silence=10.0, clock=lambda: now)
    with team.asked({1: ORDER}) as asked:
        other.say("done", other.order().about, 7)
        until(lambda: team._inbox.qsize())
        now = 60.0
        assert asked.wait() == {1: 7}


def test_a_model_may_load_for_long(pair: Callable[..., Pair]) -> None:
    now = 0.0
    team, other = pair(silence=10.0, clock=lambda: now)
    with team.asked({1: PATIENT}) as asked:
        for now in (8.0, 16.0, 24.0):
            other.say("alive", value=0)
            until(lambda now=now: team.heard(1) == now)
            assert list(asked.come()) == []


def test_ends_in_words() -> None:
    assert ended(-15) == "was killed (signal 15: SIGTERM)"
    assert ended(3) == "ended with exit code 3"
