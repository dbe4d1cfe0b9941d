"""What ends a call early: Ctrl-C or a kernel's interrupt, a guard, a machine that fails, a mistake; each with
the call that goes on.

What is raised here is new and comes from nothing: the error that it stands for holds on to everything that
was at work (in a notebook, as long as it is the last one), the model on its device among it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from refine_rl.api.words import in_python, ways_on
from refine_rl.errors import DiskError, GuardStop, Interrupted, MachineError, RefineError, UserError
from refine_rl.llm.client import changed_endpoint
from refine_rl.pipeline.given import resume_call
from refine_rl.progress import Pause, never
from refine_rl.run import RunFolder
from refine_rl.run.seeds import SeedsFolder

T = TypeVar("T")


def training(folder: RunFolder, work: Callable[[Pause], T]) -> T:
    """Does a training's work in its folder. What is raised says how to go on: Interrupted, GuardStop,
    MachineError (DiskError); and UserError, where nothing was done."""
    told: RefineError
    try:
        with interruptible() as pause:
            return work(pause)
    except Interrupted:
        told = Interrupted(f"Interrupted. The state was saved. Go on with: {resume_call(folder)}")
    except KeyboardInterrupt:
        told = Interrupted(f"Stopped at once. Go on from what was saved: {resume_call(folder)}")
    except GuardStop as stop:
        rest = f"The state was saved. Report: {folder.report}\n{ways_on(stop, folder)}"
        told = GuardStop(stop.guard, stop.what, f"{in_python(stop.advice)}\n{rest}", limit=stop.limit)
    except DiskError as error:
        told = DiskError(f"{in_python(str(error))}\nWhat was saved stands. Go on: {resume_call(folder)}")
    except MachineError as error:
        lines = [in_python(str(error)), f"The state was saved. Go on with: {resume_call(folder)}"]
        told = type(error)("\n".join([*lines, *_elsewhere(error, folder)]))
    except UserError as mistake:
        raise in_own_words(mistake) from None
    raise told


def once(work: Callable[[Pause], T]) -> T:
    """Does work that is not gone on with: it is asked for again. What is raised says so."""
    told: RefineError
    try:
        with interruptible() as pause:
            return work(pause)
    except (Interrupted, KeyboardInterrupt):
        told = Interrupted("Interrupted. Call it again: what LLMs were paid for is in the cache.")
    except GuardStop as stop:
        more = ', with more: set={"budget.dollars": ...}' if stop.guard == "budget" else ""
        advice = f"Call it again{more}; what LLMs were paid for is in the cache."
        told = GuardStop(stop.guard, stop.what, advice, limit=stop.limit)
    except UserError as mistake:
        raise in_own_words(mistake) from None
    raise told


@contextlib.contextmanager
def of_seeds(home: SeedsFolder) -> Iterator[None]:
    """Trainings under several seeds: what one of them raises says how all go on, too. A first one that was
    refused before it began leaves no folder."""
    told: RefineError
    call = home.call_to_resume
    rest = f"All seeds together go on with: {call}"
    try:
        yield
        return
    except GuardStop as stop:
        if home.resume in stop.advice:  # of all of them already
            advice = stop.advice.replace(home.resume, call)
        else:
            advice = f"{stop.advice}\n{rest}"
        told = GuardStop(stop.guard, stop.what, advice, limit=stop.limit)
    except (Interrupted, MachineError) as error:
        told = type(error)(f"{error}\n{rest}")
    except UserError:
        home.abandon()
        raise
    raise told


def in_own_words(mistake: UserError) -> UserError:
    """The same error, which speaks of arguments in the place of flags."""
    mistake.args = (in_python(str(mistake)), *mistake.args[1:])
    return mistake


def _elsewhere(error: MachineError, folder: RunFolder) -> list[str]:
    """How to go on with an endpoint at another address, or with a key."""
    if (change := changed_endpoint(error)) is None:
        return []
    when, key, value = change
    return [f"{when}: {resume_call(folder, f'set={{{key!r}: {value!r}}}')}"]


@contextlib.contextmanager
def interruptible() -> Iterator[Pause]:
    """Long work: gives the Pause that raises Interrupted after the first SIGINT; the second is an ordinary
    KeyboardInterrupt. Where this is not the main thread, or the program has an answer of its own to the
    signal, that is left as it is."""
    if threading.current_thread() is not threading.main_thread() or not _is_usual():
        yield never
        return
    from refine_rl.report import stopping  # late: rich

    with stopping.interruptible(KeyboardInterrupt, "interrupt again") as pause:
        yield pause


def _is_usual() -> bool:
    """Whether an interrupt is Python's own affair, or a kernel's (whose cells that await have another)."""
    now: Any = signal.getsignal(signal.SIGINT)
    return now is signal.default_int_handler or str(getattr(now, "__module__", "")).startswith("ipykernel")
