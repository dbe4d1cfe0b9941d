"""Functions that hang, end the process, change it, or change what they are given."""

from __future__ import annotations

import asyncio
import io
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from make import attempts, prompt
from refine_rl.errors import SettingsError
from refine_rl.foreign import process, seats
from refine_rl.rewards.functions.own import function_reward, load_function
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.types import Score

PROMPT = prompt(words=["b", "a"], deep={"list": [1]})


def scores(function: Callable[..., Any], *texts: str, timeout: float = 60.0, **how: Any) -> list[Score]:
    reward = function_reward(function, timeout=timeout, **how)
    with ScoringLoop() as loop:
        return loop.start(reward.score_group(PROMPT, attempts(PROMPT, *texts))).result(timeout=60)


def values(function: Callable[..., Any], *texts: str, **how: Any) -> list[float | None]:
    return [score.value for score in scores(function, *texts, **how)]


# -- time -----------------------------------------------------------------------------------------


class Clock:
    """The time that calls have. It stands still but while one that does not come back is under way: others
    are in time, however slow the machine."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._since: float | None = None
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            return self._passed + (time.monotonic() - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        with self._lock:
            self._since = self._since or time.monotonic()

    def stop(self) -> None:
        passed = self.now()
        with self._lock:
            self._passed, self._since = passed, None


CLOCK = Clock()


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    call, look = seats.Seat.call, seats.Seat.look

    def called(seat: seats.Seat, *arguments: Any) -> Any:
        try:
            return call(seat, *arguments)
        finally:
            if not seat.lost:
                CLOCK.stop()

    def looked(seat: seats.Seat) -> Any:
        failure = look(seat)
        if failure is not None:
            CLOCK.stop()
        return failure

    monkeypatch.setattr(seats.Seat, "call", called)
    monkeypatch.setattr(seats.Seat, "look", looked)
    monkeypatch.setattr(seats, "time", SimpleNamespace(monotonic=CLOCK.now))
    CLOCK.stop()


def endless(completion: str) -> float:
    if completion == "bad":
        CLOCK.start()
    while completion == "bad":
        pass
    return 1.0


def stubborn(completion: str) -> float:
    """Swallows whatever is raised in it."""
    while completion == "bad":
        try:
            while True:
                pass
        except BaseException:
            continue
    return 1.0


def endless_list(completions: list[str]) -> Any:
    while True:
        yield 1.0


class Slow(float):
    def __float__(self) -> float:
        while True:
            pass


@pytest.mark.usefixtures("_clock")
def test_an_endless_loop_costs_its_own_member_alone() -> None:
    good, bad, other = scores(endless, "good", "bad", "good", timeout=0.2)
    assert (good.value, bad.value, other.value) == (1.0, None, 1.0)
    what, where = bad.explanation.split("\n", 1)
    assert what == "did not come back within 0.2 s (reward.timeout)"
    assert 'in endless\n    while completion == "bad":' in where
    assert "rewards/seats.py" not in where


@pytest.mark.usefixtures("_clock")
def test_what_cannot_be_stopped_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "TRIES", 2)
    free = threading.Event()
    waits: list[threading.Thread] = []

    def waiting(completion: str) -> float:
        if completion == "bad":
            waits.append(threading.current_thread())
            CLOCK.start()
            free.wait()  # stands in C: nothing can be raised in it
        return 1.0

    bad, good = scores(waiting, "bad", "good", timeout=0.2)
    assert good.value == 1.0
    assert "and could not be stopped; its thread is left behind" in bad.explanation
    assert "free.wait()" in bad.explanation
    free.set()
    waits[0].join(timeout=60)
    assert not waits[0].is_alive()


def test_a_loop_that_swallows_everything_is_left_behind() -> None:
    # In a process of its own: the loop goes on until that ends, which it must not hold up.
    assert elsewhere("t.values(t.stubborn, 'bad', 'good', timeout=1.0)") == "[None, 1.0]\n"


def elsewhere(expression: str) -> str:
    """What a fresh process prints of an expression in which `t` is this module."""
    here = Path(__file__).parent
    code = (
        "import sys, threading\n"
        "from refine_rl.foreign import seats\n"
        "seats.TRIES = 2\n"
        f"sys.path[:0] = {[str(here), str(here.parent)]!r}\n"
        "import test_workers as t\n"
        f"print({expression})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("function", [endless_list, lambda completion: Slow(1)])
def test_reading_an_answer_belongs_to_the_call(function: Callable[..., Any]) -> None:
    (score,) = scores(function, "x", timeout=0.3)
    if function is endless_list:
        assert score.explanation == "returned more than 1 numbers for 1 completions"
    else:
        assert score.explanation.startswith("did not come back")


@pytest.mark.usefixtures("_clock")
def test_a_function_that_never_comes_back_is_given_up() -> None:
    found = scores(lambda completion: endless("bad"), *"x" * 6, timeout=0.1)
    assert [score.explanation.split("\n")[0] for score in found] == [
        *["did not come back within 0.1 s (reward.timeout)"] * 3,
        *["not called again: of its first 3 calls none came back (reward.timeout)"] * 3,
    ]
    # One that came back once goes on to be called.
    assert values(endless, "good", *["bad"] * 4, "good", timeout=0.1) == [1.0, *[None] * 4, 1.0]


async def sleeps(completion: str) -> float:
    await asyncio.sleep(100 if completion == "bad" else 0)
    return 1.0


async def sleeps_on(completion: str) -> float:
    while completion == "bad":
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            continue
    return 1.0


async def blocks(completion: str) -> float:
    await asyncio.sleep(0)
    return endless(completion)


@pytest.mark.parametrize("function", [sleeps, blocks])
def test_async_functions_have_their_time_too(function: Callable[..., Any]) -> None:
    good, bad = scores(function, "good", "bad", timeout=1.0)
    assert good.value == 1.0
    assert bad.explanation.startswith("did not come back within 1 s (reward.timeout)")


def test_an_async_function_that_will_not_be_cancelled() -> None:
    assert values(sleeps_on, "good", "bad", timeout=1.0) == [1.0, None]


def test_an_async_function_that_blocks_its_loop_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "TRIES", 2)
    free = threading.Event()

    async def waiting(completion: str) -> float:
        if completion == "bad":
            free.wait()
        return 1.0

    reward = function_reward(waiting, timeout=1.0)
    with ScoringLoop() as loop:
        (bad,) = loop.start(reward.score_group(PROMPT, attempts(PROMPT, "bad"))).result(timeout=60)
        assert "could not be stopped" in bad.explanation
        again = loop.start(reward.score_group(PROMPT, attempts(PROMPT, "good")))  # in another loop
        (good,) = again.result(timeout=60)
        assert good.value == 1.0
        free.set()


def test_calls_that_come_back_in_time_are_never_stopped() -> None:
    def late(completion: str) -> float:
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass
        return 1.0

    # Each near its limit, many in a row: a stop that comes late would hit the next call, or our own code.
    found = scores(late, *"x" * 40, timeout=0.06)
    assert {s.value for s in found} <= {1.0, None}
    assert all(s.explanation.startswith("did not come back") for s in found if s.value is None)
    assert values(late, *"x" * 5, timeout=30.0) == [1.0] * 5


# -- escapes --------------------------------------------------------------------------------------


def raises(error: BaseException) -> Callable[..., float]:
    def function(completion: str) -> float:
        raise error

    return function


class Own(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Own("no"), asyncio.CancelledError()]
)
def test_what_is_no_exception_is_a_missing_score(error: BaseException) -> None:
    async def later(completion: str) -> float:
        await asyncio.sleep(0)
        raise error

    for function in (raises(error), later):
        for score in scores(function, "a", "b"):
            assert score.status == "missing"
            assert type(error).__name__ in score.explanation


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (lambda: os._exit(1), "RuntimeError: os._exit would end the whole run"),
        (lambda: os.abort(), "would end the whole run"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "would end the whole run"),
        (lambda: os.kill(0, signal.SIGTERM), "would end the whole run"),
        (lambda: os.execv(sys.executable, ["python", "-c", ""]), "would end the whole run"),
        (lambda: signal.raise_signal(signal.SIGINT), "would end the whole run"),
        (lambda: signal.alarm(1), "signal.alarm acts on the whole process; a call has a limit of its own"),
        (lambda: signal.setitimer(signal.ITIMER_REAL, 1.0), "acts on the whole process"),
        (lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN), "acts on the whole process"),
    ],
)
def test_a_function_cannot_end_the_process(leave: Callable[[], Any], words: str) -> None:
    def function(completion: str) -> float:
        leave()
        return 1.0

    (score,) = scores(function, "x")
    assert score.status == "missing"
    assert words in score.explanation.splitlines()[0]  # a later line may be one of this very file


def test_the_bars_are_for_foreign_code_alone() -> None:
    own = os._exit
    with ScoringLoop():
        assert os._exit is not own
        os.kill(os.getpid(), 0)
    assert os._exit is own


def _seven() -> None:
    os._exit(7)


def forks(completion: str) -> float:
    child = multiprocessing.get_context("fork").Process(target=_seven)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads
        child.start()
    child.join()
    return float(child.exitcode or 0)


def test_a_child_of_a_function_may_end_itself() -> None:
    # In a process of its own: with all that the other tests have loaded, and its threads, a fork may crash.
    assert elsewhere("t.values(t.forks, 'x')") == "[7.0]\n"


# -- the process ----------------------------------------------------------------------------------


def restless(completion: str) -> float:
    import torch

    os.chdir("/")
    sys.stdout = sys.stderr = io.StringIO()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    logging.root.addHandler(logging.NullHandler())
    logging.root.setLevel(logging.DEBUG)
    sys.setrecursionlimit(500)
    np.seterr(all="raise")
    torch.set_grad_enabled(False)
    torch.set_num_threads(7)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    return float(len(completion))


def process_now() -> list[Any]:
    import torch

    return [
        Path.cwd(),
        sys.stdout,
        sys.stderr,
        warnings.filters[:],
        logging.root.manager.disable,
        logging.root.handlers[:],
        logging.root.level,
        sys.getrecursionlimit(),
        np.geterr(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
    ]


def test_the_process_is_put_back_after_each_call() -> None:
    before, seen = process_now(), []

    def looks(completion: str) -> float:
        import torch

        seen.append((process_now(), torch.is_grad_enabled()))
        return restless(completion)

    assert values(looks, "a", "bc") == [1.0, 2.0]
    assert process_now() == before
    assert [state for state, _ in seen] == [before, before]
    assert [grad for _, grad in seen] == [True, True]


def test_an_async_function_leaves_no_more_behind() -> None:
    async def later(completion: str) -> float:
        await asyncio.sleep(0)
        return restless(completion)

    before = process_now()
    assert values(later, "a", "bc") == [1.0, 2.0]
    assert process_now() == before


def test_a_call_that_is_left_behind_is_cleaned_up_after_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "TRIES", 2)
    free = threading.Event()

    def waiting(completion: str) -> float:
        os.chdir("/")
        free.wait()
        return 1.0

    before = Path.cwd()
    assert values(waiting, "x", timeout=0.2) == [None]
    assert Path.cwd() == before
    free.set()


def test_the_number_format_in_which_the_model_samples_meanwhile_is_barred() -> None:
    import torch

    def double(completion: str) -> float:
        torch.set_default_dtype(torch.float64)
        return 1.0

    (score,) = scores(double, "x")
    assert (
        "torch.set_default_dtype changes what the model computes meanwhile; give `dtype=`"
        in score.explanation
    )
    assert torch.get_default_dtype() is torch.float32


def test_the_threads_of_the_model_stay_while_it_samples() -> None:
    import torch

    def sets(completion: str) -> float:
        torch.set_num_threads(torch.get_num_threads() + 3)
        return float(torch.get_num_threads())

    assert values(sets, "x") == [torch.get_num_threads()]


def test_seeds_are_a_function_s_own() -> None:
    """Not put back: it would draw the same numbers for ever. Nothing of ours draws from these generators."""
    drawn = values(lambda completion: random.random(), *"abcd")
    assert len(set(drawn)) == 4


def test_a_file_that_changes_the_process_while_it_is_loaded(tmp_path: Path) -> None:
    body = "import os, sys, warnings, torch\nos.chdir('/')\nwarnings.simplefilter('ignore')\n"
    body += "torch.set_grad_enabled(False)\ntorch.set_num_threads(5)\nsys.setrecursionlimit(400)\n"
    (tmp_path / "r.py").write_text(body + "def f(completion): return 1.0\n")
    import torch

    before = process_now()
    assert values(load_function("r.py:f", tmp_path, {}), "x") == [1.0]
    assert process_now() == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "line", ["os._exit(3)", "raise GeneratorExit", "signal.alarm(5)", "raise SystemExit"]
)
def test_a_file_that_leaves_while_it_is_loaded_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.py").write_text(f"import os, signal\n{line}\ndef f(completion): return 1.0\n")
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_function("r.py:f", tmp_path, {})


def test_a_torch_that_comes_with_a_function_is_as_it_comes() -> None:
    code = (
        "from refine_rl.foreign.process import foreign_import\n"
        "with foreign_import():\n"
        "    import torch; torch.set_grad_enabled(False); torch.set_default_dtype(torch.float64)\n"
        "print(torch.is_grad_enabled(), torch.get_default_dtype())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True torch.float32\n"


# -- copies ---------------------------------------------------------------------------------------


def changes_one(completion: str, words: list[str], deep: dict[str, Any]) -> float:
    words.sort()
    words.append(completion)
    deep["list"].append(len(words))
    return float(len(words) + len(deep["list"]))


def changes_all(completions: list[str], words: list[list[str]], deep: Any, **kwargs: Any) -> list[float]:
    for text, row, other in zip(completions, words, deep, strict=True):
        row.append(text)
        other["list"].append(1)
    kwargs["trainer_state"].global_step = 99
    kwargs["prompts"].clear()
    return [float(len(row) + len(other["list"])) for row, other in zip(words, deep, strict=True)]


async def changes_later(completion: str, words: list[str]) -> float:
    words.append(completion)
    return float(len(words))


def changes_messages(prompt: list[dict[str, str]], completion: list[dict[str, str]]) -> float:
    prompt.append({"role": "user", "content": "more"})
    completion[0]["content"] += "!"
    return float(len(prompt) + len(completion[0]["content"]))


@pytest.mark.parametrize(
    ("function", "messages", "expected"),
    [
        (changes_one, False, [5.0, 5.0]),
        (changes_all, False, [5.0, 5.0]),
        (changes_later, False, [3.0, 3.0]),
        (changes_messages, True, [4.0, 4.0]),
    ],
)
def test_every_call_gets_copies(function: Callable[..., Any], messages: bool, expected: list[float]) -> None:
    before = repr(PROMPT)
    for _ in range(2):
        assert values(function, "a", "b", messages=messages) == expected
    assert repr(PROMPT) == before


def test_what_a_call_costs_beside_its_function() -> None:
    """A bound that no machine reaches by being busy for a while, far above the 60 microseconds it takes."""
    began = time.process_time()
    assert len(values(lambda completion: 1.0, *"x" * 1000)) == 1000
    assert time.process_time() - began < 1.0


def test_worlds_are_noted_whatever_became_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    before = process.World()
    os.chdir("/")
    before.put_back()
    assert before.folder is None
