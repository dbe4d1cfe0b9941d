"""What ends a call early, and what it says: in a program, and in a kernel."""

from __future__ import annotations

import ast
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import refine_rl as refine
from refine_rl.api import stops
from refine_rl.api.words import in_python
from refine_rl.errors import DiskError, GuardStop, Interrupted, MachineError, RefineError, UserError
from refine_rl.llm.client import EndpointDown, EndpointRefused
from refine_rl.llm.endpoints import resolve
from refine_rl.progress import Quiet
from refine_rl.run import RunFolder
from refine_rl.settings.file import settings_from_dict

Small = Callable[..., dict[str, Any]]
WORDS = ["cat", "dog", "tree", "house", "river", "stone", "cloud"]
PROMPTS = [f"say something about the {a} and a {b}" for a in WORDS for b in WORDS if a < b]


def brevity(prompt: str, completion: str) -> float:
    return 1.0 / (1 + len(completion))


class Interrupting(Quiet):
    """Presses Ctrl-C at the end of a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, metrics: Any, steps: int) -> None:
        if metrics.step == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def usual_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "my run", settings_from_dict({"task": "t"}, tmp_path))


@pytest.mark.usefixtures("usual_handler")
def test_an_interrupt_saves_and_says_how_to_go_on(
    small: Small, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    grpo = {"steps": 4, "prompts_per_step": 2, "all_cut_patience": 99, "validate_every": 0}
    given = {**small(grpo=grpo), "prompts": PROMPTS, "rewards": [brevity]}
    whole = refine.train("Be brief.", run="whole", **given)
    with pytest.raises(Interrupted) as stop:
        refine.train("Be brief.", run="mine", **{**given, "observer": Interrupting(2)})
    assert str(stop.value) == (
        "Interrupted. The state was saved. Go on with: refine_rl.resume('mine', rewards=[brevity])"
    )
    assert stop.value.__context__ is None  # nothing of what was at work is held on to
    assert "interrupt again: at once" in capfd.readouterr().err
    assert RunFolder(Path("mine")).recorded_to() == 2
    run = eval(str(stop.value).partition("Go on with: ")[2], {"refine_rl": refine, "brevity": brevity})  # noqa: S307
    assert run.comparison == whole.comparison


@pytest.mark.usefixtures("usual_handler")
def test_a_second_interrupt_leaves_at_once(run: RunFolder) -> None:
    def work(pause: Callable[[], None]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=r"^Stopped at once. Go on from what was saved: refine_rl.resume\("):
        stops.training(run, work)


def test_another_answer_to_the_signal_is_left_as_it_is(run: RunFolder) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        stops.training(run, lambda pause: (signal.raise_signal(signal.SIGINT), pause()))
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_outside_of_the_main_thread_nothing_is_caught(run: RunFolder) -> None:
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(stops.training(run, lambda pause: "done")))
    thread.start()
    thread.join(60)
    assert done == ["done"]


def raising(error: BaseException) -> Callable[[Any], None]:
    def work(pause: Any) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            GuardStop("budget", "budget.hours = 1 is spent.", "Raise it."),
            GuardStop,
            "To go on with twice the budget: {resume}, set={{'budget.hours': 2}})",
        ),
        (
            GuardStop("not_finite", "The loss is nan.", "Lower it."),
            GuardStop,
            "To go back, and on at half the rate: {resume}, step=0, set={{'grpo.learning_rate': 5e-05}})",
        ),
        (
            DiskError("The disk is full."),
            DiskError,
            "The disk is full.\nWhat was saved stands. Go on: {resume})",
        ),
        (MachineError("Gone."), MachineError, "Gone.\nThe state was saved. Go on with: {resume})"),
        (
            EndpointDown("Gone.", unreached="mine"),
            EndpointDown,
            "Where it is at another address: {resume}, set={{'endpoints.mine.base_url': 'ADDRESS'}})",
        ),
        (
            EndpointRefused("Wrong key.", keyless="mine"),
            EndpointRefused,
            "the variable that holds it: {resume}, set={{'endpoints.mine.key_env': 'NAME'}})",
        ),
        (
            UserError("There are no prompts (--prompts x.jsonl)."),
            UserError,
            "There are no prompts (prompts='x.jsonl').",
        ),
    ],
)
def test_errors_say_how_to_go_on(
    run: RunFolder, error: RefineError, kind: type[RefineError], said: str
) -> None:
    resume = f"refine_rl.resume({str(run.path)!r}"
    with pytest.raises(kind) as raised:
        stops.training(run, raising(error))
    assert str(raised.value).endswith(said.format(resume=resume))
    assert raised.value.__context__ is None or isinstance(error, UserError)


def test_work_that_is_not_gone_on_with_is_asked_for_again() -> None:
    for error in (Interrupted("Interrupted."), KeyboardInterrupt()):
        with pytest.raises(Interrupted, match=r"^Interrupted\. Call it again: what LLMs were paid for"):
            stops.once(raising(error))
    with pytest.raises(GuardStop, match=r"Call it again, with more: set=\{\"budget.dollars\": \.\.\.\}"):
        stops.once(raising(GuardStop("budget", "Spent.", "--set")))


def test_what_ipython_shows_is_the_callers_line_and_the_message(tmp_path: Path) -> None:
    code = "def mine():\n    refine.train(5)\n\nmine()\n"
    file = tmp_path / "cell.py"
    file.write_text(code)
    try:
        exec(compile(code, str(file), "exec"), {"refine": refine})  # noqa: S102  ours
    except UserError as error:
        lines = error._render_traceback_()
    assert lines[0].startswith("UserError: task=5: say in plain words")
    assert [line.strip() for line in lines[-2:]] == ["at: mine()", "at: refine.train(5)"]
    assert not any("arguments.py" in line for line in lines)


def test_every_flag_of_our_advice_becomes_an_argument() -> None:
    """Those of the commands that Python has as well, as they stand in the house's messages."""
    source = Path(refine.__file__).parent
    rooms = ("pipeline", "run", "settings", "training", "prompts", "rewards", "recipes")
    flags = {
        flag
        for room in rooms
        for path in (source / room).rglob("*.py")
        for flag in re.findall(r"[\"'(` ](--[a-z][a-z-]+)", path.read_text(encoding="utf-8"))
    }
    cli_only = {"--out", "--probe", "--yes", "--replies", "--recipe", "--task", "--writer", "--model"}
    cli_only |= {"--answer", "--dropped", "--force", "--prompt", "--sort"}  # of data, replay, runs
    cli_only |= {"--port", "--host", "--with", "--offline", "--seeds"}  # of serve, doctor and train
    cli_only |= {"--calibrate", "--reviewer", "--votes", "--reasons"}
    cli_only |= {"--served-model-name", "--lora-modules", "--tokenizer", "--logdir", "--project"}  # of others
    cli_only |= {"--upgrade", "--force-reinstall"}
    left = {flag for flag in flags - cli_only if "--" in in_python(f"Say {flag} X.")}
    assert left <= {"--dollars", "--price", "--concurrency"}, left


# -- in a kernel ------------------------------------------------------------------------------------

CELL = """
import refine_rl as refine

def brevity(prompt, completion):
    return 1.0 / (1 + len(completion))

prompts = {prompts!r}
refine.train("Be brief.", prompts=prompts, rewards=[brevity], run="mine", **{given!r})
"""


class Kernel:
    """A kernel, and what its cells show."""

    def __init__(self, folder: Path) -> None:
        manager = pytest.importorskip("jupyter_client.manager")
        self.manager, self.client = manager.start_new_kernel(
            cwd=str(folder), extra_arguments=["--log-level=ERROR"], startup_timeout=120
        )

    def run(
        self, code: str, until: Callable[[dict[str, Any]], bool] = lambda said: False
    ) -> list[dict[str, Any]]:
        """The messages of a cell; the kernel is interrupted once `until` holds of one."""
        asked = self.client.execute(code)
        heard: list[dict[str, Any]] = []
        deadline, pressed = time.monotonic() + 240, False
        while time.monotonic() < deadline:
            try:
                said = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if said["parent_header"].get("msg_id") != asked:
                continue
            heard.append({"type": said["msg_type"], **said["content"]})
            if not pressed and until(heard[-1]):
                self.manager.interrupt_kernel()
                pressed = True
            if said["msg_type"] == "status" and said["content"]["execution_state"] == "idle":
                return heard
        raise AssertionError(heard)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(Path(refine.__file__).parents[1]))
    running = Kernel(tmp_path)
    yield running
    running.close()


def test_a_kernels_interrupt(kernel: Kernel, small: Small) -> None:
    grpo = {"steps": 2000, "prompts_per_step": 2, "all_cut_patience": 9999, "validate_every": 0}
    given = small(grpo=grpo)
    del given["observer"]

    def trains(said: dict[str, Any]) -> bool:
        return "reward" in str(said.get("text", "")) or "reward" in str(said.get("data", ""))

    heard = kernel.run(CELL.format(prompts=PROMPTS, given=given), until=trains)
    (error,) = [said for said in heard if said["type"] == "error"]
    assert error["ename"] == "Interrupted"
    shown = "\n".join(error["traceback"])
    assert "Go on with: refine_rl.resume('mine', rewards=[brevity])" in shown
    assert len(shown.splitlines()) < 14, shown  # no flood
    assert "/refine_rl/" not in shown
    assert any("Stopping at the next safe place" in str(said.get("text", "")) for said in heard)
    ended = kernel.run(
        "run = refine_rl = refine\n"
        "run = refine_rl.resume('mine', rewards=[brevity], set={'grpo.steps': 1 + "
        "len(open('mine/metrics.jsonl').readlines())}, observer=refine.Quiet())\nrun"
    )
    (shown_run,) = [said["data"] for said in ended if said["type"] == "execute_result"]
    assert shown_run["text/plain"].startswith("Run mine\n  ")
    assert '<a href="mine/report.html"' in shown_run["text/html"]


def test_a_programs_interrupt_ends_with_the_message(small: Small, tmp_path: Path) -> None:
    grpo = {"steps": 2000, "prompts_per_step": 2, "all_cut_patience": 9999, "validate_every": 0}
    given = small(grpo=grpo)
    del given["observer"]
    script = tmp_path / "mine.py"
    script.write_text(CELL.format(prompts=PROMPTS, given=given))
    with subprocess.Popen(
        [sys.executable, script],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores it, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            said.append(line)
            if "reward" in line and "step" in line:
                break
        running.send_signal(signal.SIGINT)
        said += list(running.stderr)
        assert running.wait(120) == 1
    last = said[-1]
    assert last.startswith("refine_rl.errors.Interrupted: Interrupted. The state was saved. Go on with: ")
    assert "During handling" not in "".join(said)
    assert sum(line.startswith("Traceback") for line in said) == 1


def test_an_endpoint_of_ones_own_is_an_argument() -> None:
    with pytest.raises(UserError) as caught:
        refine.plan("Be brief.", prompts=PROMPTS, judge="olama/x")
    text = str(caught.value)
    assert "there is no endpoint `olama`; did you mean `ollama`?" in text
    written = re.search(r"given by endpoints=(\{.*\}) \(\"\" where no key is needed\)$", text)
    assert written is not None
    own = ast.literal_eval(written[1])
    own["olama"]["key_env"] = ""
    settings = settings_from_dict({"task": "Be brief.", "endpoints": own}, Path())
    assert resolve("olama/x", settings.endpoints, {}).base_url == "https://.../v1"
