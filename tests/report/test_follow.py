"""What is said of a run while it goes: in lines where nothing moves, and in a notebook's block."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import make
from refine_rl.report.moment import Counted, Moment, line_of
from refine_rl.report.notebook import LINES, Block
from refine_rl.report.screen import Screen
from refine_rl.report.showing import places
from refine_rl.report.time_left import Part
from refine_rl.run import RunFolder
from refine_rl.settings import Settings


@dataclass
class Clock:
    """Stands still but for what a test adds."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of 20 steps without validation, whose base model took 40 seconds."""
    settings = {
        "task": "Be brief.",
        "model": {"name": "tiny"},
        "reward": {"rules": [{"rule": "words", "max": 3}]},
        "grpo": {"steps": 20, "validate_every": 0},
    }
    run = RunFolder.create(tmp_path / "run", Settings.model_validate(settings))
    run.times.append({"stage": "base", "step": None, "seconds": 40.0})
    run.save_prompts(make.prompts("Say hi."))
    return run


def step(run: RunFolder, screen: Screen | Block, clock: Clock, seconds: float) -> None:
    """A step that took so long, on record and told."""
    clock.now += seconds
    metrics = make.metrics(len(run.metrics()) + 1, seconds={"total": seconds})
    run.metrics.append(metrics)
    screen.step(metrics, 20)


# -- lines ------------------------------------------------------------------------------------


def test_lines_say_now_and_then_how_long_it_will_take(
    run: RunFolder, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Screen(run, clock=clock) as screen:
        screen.stage("Training, steps 1 to 20")
        for _ in range(6):
            step(run, screen, clock, 12.0)
    lines = [line.partition("no spread 0/4")[2] for line in capsys.readouterr().err.splitlines()[1:]]
    # 20 steps of 12 seconds and the answers of 40; said at first, and whenever 30 seconds have passed
    assert lines == [", about 4 min left", "", "", ", about 4 min left", "", ""]


def test_a_long_part_speaks_up_in_a_file(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(clock=clock) as screen:
        screen.stage("The base model answers 64 held-out prompts")
        for done in range(0, 320, 32):
            screen.count("answers", done, 320)
            clock.now += 10.0
        screen.count("answers", 320, 320)
    assert [line.strip() for line in capsys.readouterr().err.splitlines()[1:]] == [
        "answers 96/320, about 70 s for this part",
        "answers 192/320, about 40 s for this part",
        "answers 288/320, about 10 s for this part",
    ]


def test_a_resumed_run_draws_the_whole_curve_and_knows_its_time(
    run: RunFolder, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for reward in (0.0, 0.5):
        run.metrics.append(make.metrics(len(run.metrics()) + 1, reward_mean=reward, seconds={"total": 30.0}))
    metrics = make.metrics(3, reward_mean=1.0, seconds={"total": 30.0})
    screen = Screen(run, clock=clock)
    run.metrics.append(metrics)
    screen.step(metrics, 20)
    line = capsys.readouterr().err.splitlines()[0]
    assert "▁▅█" in line
    assert line.endswith(", about 9 min left")  # 17 steps of 30 seconds and 40


def test_steps_that_were_gone_back_on_leave_the_curve(
    run: RunFolder, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(run, clock=clock)
    for number, reward in ((1, 0.0), (2, 0.5), (3, 9.0), (4, -9.0), (3, 1.0)):  # back to the end of step 2
        screen.step(make.metrics(number, reward_mean=reward), 20)
    lines = capsys.readouterr().err.splitlines()
    assert "▁▅█ " in lines[-1]
    missing = make.metrics(2, reward_mean=None)  # a step without a reward has no bar, and none of before
    screen.step(missing, 20)
    assert "▅ " in capsys.readouterr().err


def test_a_record_that_cannot_be_read_ends_nothing(
    run: RunFolder, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    run.metrics.append(make.metrics(1))
    (run.path / "metrics.jsonl").write_text("no JSON\n")
    screen = Screen(run, clock=clock)
    screen.step(make.metrics(2), 20)
    assert capsys.readouterr().err.rstrip().endswith("no spread 0/4")


def test_a_dear_record_is_not_read_at_every_step(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, reads = Clock(), 0

    def slow(run: RunFolder) -> list[Part]:
        nonlocal reads
        reads += 1
        clock.now += 1.0
        return [Part(to_come=20 - reads, took=(10.0,))]

    monkeypatch.setattr("refine_rl.report.follow.parts_of", slow)
    screen = Screen(run, clock=clock)
    left = []
    for number in range(1, 8):
        clock.now += 10.0
        screen.step(make.metrics(number), 20)
        left.append(screen.now.left(screen.seconds))
    # read once in 50 seconds, as it takes one; a step less is counted in between
    assert reads == 2
    assert left[:3] == ["about 3 min left", "about 3 min left", "about 3 min left"]
    assert [part.to_come for part in screen.now.parts] == [17]


def test_where_a_run_can_be_looked_at(run: RunFolder) -> None:
    folder = run.path
    assert places(run).splitlines() == [
        f"Run: {folder}",
        f"Report: {folder}/report.html (renewed while it runs)",
        f"Live: refine watch {folder}",
    ]


# -- what goes on now -------------------------------------------------------------------------


def test_a_part_has_its_own_pace() -> None:
    now = Moment().begins("Answers").counted("answers", 0, 40, 10.0)
    assert now.left(12.0) == ""
    now = now.counted("answers", 10, 40, 30.0)
    assert now.count == Counted(what="answers", done=10, of=40, began=10.0)
    assert now.left(30.0) == "about 60 s for this part"
    assert now.counted("prompts scored", 1, 9, 31.0).left(32.0) == ""  # another part, of unknown pace
    assert now.counted("answers", 40, 40, 31.0).count is None
    assert now.begins("Another").count is None


def test_the_runs_time_goes_before_the_parts() -> None:
    parts = [Part(to_come=10, took=(30.0,)), Part(to_come=1, took=(60.0,))]
    now = Moment(parts=parts, known=100.0).counted("steps", 5, 15, 100.0).counted("groups", 1, 8, 100.0)
    assert now.left(100.0) == "about 6 min left"
    assert now.left(400.0) == "about 6 min left"  # a step that takes longer than its like
    assert line_of(now, 100.0, 200).plain.split("  ")[-2:] == ["groups 1/8", "about 6 min left"]
    assert now.share == 5 / 15


@pytest.mark.parametrize(
    ("columns", "end"),
    [
        (120, "groups sampled 3/8  about 6 min left"),
        (70, "groups sampled 3/8  about 6 min left"),
        (60, "about 6 min left"),
        (47, "about 6 min left"),
        (40, "groups sampled 3/8"),
    ],
)
def test_what_gives_way_on_a_narrow_screen(columns: int, end: str) -> None:
    parts = [Part(to_come=10, took=(36.0,))]
    now = Moment(parts=parts).counted("steps", 5, 15, 0.0).counted("groups sampled", 3, 8, 0.0)
    line = line_of(now, 0.0, columns).plain
    if columns > 45:
        assert re.split("[─━]  ", line)[-1] == end
    assert line.startswith("   0.0 s  step 5/15  ━")
    assert len(line) <= columns


# -- a notebook -------------------------------------------------------------------------------


@pytest.fixture
def shown() -> list[dict[str, str]]:
    """The block as it was shown, again and again."""
    return []


def test_a_notebook_has_one_block(run: RunFolder, clock: Clock, shown: list[dict[str, str]]) -> None:
    with Block(run, show=shown.append, clock=clock) as block:
        block.head("Run: runs/mine")
        block.stage("Training, steps 1 to 20")
        block.warning("Step 1: <b>odd</b>")
        for _ in range(15):
            step(run, block, clock, 12.0)
        newest = shown[-1]
    plain = newest["text/plain"].splitlines()
    assert len(plain) == 1 + LINES + 2
    assert plain[0] == "Run: runs/mine"  # it stays, as warnings do
    assert plain[-2].startswith(" 180.0 s  step 15/20  ━")
    assert plain[-2].endswith("  about 2 min left")  # 5 steps of 12 seconds and 40
    assert plain[-1] == "warning   Step 1: <b>odd</b>"  # it stays, however many lines come
    assert '<progress value="0.7500" aria-label="step 15/20, about 2 min left"' in newest["text/html"]
    assert "&lt;b&gt;odd&lt;/b&gt;" in newest["text/html"]
    assert "<b>odd" not in newest["text/html"]
    assert shown[-1]["text/plain"].splitlines()[-2] == " 180.0 s  done"
    assert "<progress" not in shown[-1]["text/html"]


def test_where_the_run_is_is_said_once_there_is_one(
    tmp_path: Path, run: RunFolder, clock: Clock, shown: list[dict[str, str]]
) -> None:
    new = RunFolder.create(tmp_path / "new", run.settings())
    with Block(new, show=shown.append, clock=clock) as block:
        block.head("Run: runs/new")
        block.stage("Loading no/model")
        assert "Run: " not in shown[-1]["text/plain"]  # where that fails, the folder is gone
        new.save_prompts(make.prompts("Say hi."))
        for stage in ("The base model answers", "Training"):
            clock.now += 1.0
            block.stage(stage)
    assert [line for line in shown[-1]["text/plain"].splitlines() if "Run" in line] == ["Run: runs/new"]


def test_a_notebook_is_not_flooded(clock: Clock, shown: list[dict[str, str]]) -> None:
    block = Block(show=shown.append, clock=clock)
    for done in range(80):
        clock.now += 0.125
        block.count("answers", done, 200)
    assert len(shown) == 20  # 10 seconds, twice a second


def test_a_block_that_ends_early_says_so(clock: Clock, shown: list[dict[str, str]]) -> None:
    def stopped() -> None:
        with Block(show=shown.append, clock=clock) as block:
            block.stage("Training")
            clock.now += 7.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert shown[-1]["text/plain"].splitlines()[-1] == "   7.0 s  stopped: KeyboardInterrupt"


def test_a_notebook_that_cannot_show_it_ends_nothing(clock: Clock) -> None:
    def gone(forms: dict[str, str]) -> None:
        raise RuntimeError("no kernel")

    with Block(show=gone, clock=clock) as block:
        block.stage("Training")
        block.step(make.metrics(1), 9)


KERNEL = """
import make
from refine_rl.report.showing import showing

with showing() as shown:
    print(type(shown).__name__)
    for number in range(1, 9):
        shown.step(make.metrics(number), 8)
"""


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The outputs of a cell in a fresh kernel that leaves nothing in anybody's home."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", f"{Path(make.__file__).parent}:{Path(__file__).parents[2] / 'src'}")

    def execute(source: str) -> Any:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
        return notebook.cells[0].outputs

    return execute


def test_in_a_real_kernel_the_block_stands_once(executed: Callable[[str], Any]) -> None:
    kind, block = executed(KERNEL)
    assert kind.text == "Block\n"
    assert block.output_type == "display_data"
    assert block.data["text/plain"].splitlines()[-1].endswith(" s  done")
    assert block.data["text/plain"].count("/8  reward") == 8
