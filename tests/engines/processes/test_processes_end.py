"""Runs in several processes from the command line, and how they end: killed, interrupted, launched."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Client
from pathlib import Path

import pytest
from torch._C._distributed_c10d import HashStore, PrefixStore

from make import task_toml
from refine_rl.engines.processes import crew, serve
from refine_rl.engines.processes.channel import Channel, Message
from refine_rl.engines.processes.crew import _met, _store
from refine_rl.engines.processes.meet import Hello, versions
from refine_rl.engines.processes.orders import Forget
from refine_rl.engines.processes.place import PARENT, SECRET, Place
from refine_rl.errors import UserError
from refine_rl.pipeline.resume import reopen
from refine_rl.pipeline.train import run as finish
from refine_rl.run import RunFolder

PATIENCE = 250.0  # of a busy machine
RULES = [{"rule": "chars", "max": 12}]


@pytest.fixture
def task(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    words = ["cat", "dog", "tree", "house", "river", "stone"]
    lines = [{"prompt": f"say something about the {a} and a {b}"} for a in words for b in words]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = task_toml(
        make_model("llama"), reward={"rules": RULES}, grpo={"steps": 300, "checkpoint_every": 50}
    )
    (tmp_path / "task.toml").write_text(text)
    return tmp_path / "task.toml"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """started(*command) -> a process in an empty folder; whatever it has started is gone at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        running.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def refine(*words: str) -> list[str]:
    return [sys.executable, "-m", "refine_rl", *words]


def wait_for(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def steps_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child) for child in found if b"processes.serve" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def at_work(
    task: Path, started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> tuple[Path, subprocess.Popen[str], int]:
    """A run of two processes that has trained a step; its first process, and the other's id."""
    run = tmp_path / "run"
    first = started(*refine("train", str(task), "--run", str(run), "--set", "engine.processes=2"))
    wait_for(lambda: steps_of(run) or first.poll() is not None, "a step")
    (other,) = children(first.pid)
    return run, first, other


def goes_on(run: Path) -> None:
    """To a step more than it has, in one process."""
    last = steps_of(run) + 1
    finish(reopen(run, ["engine.processes=1", f"grpo.steps={last}"]))
    assert [m["step"] for m in RunFolder.open(run).metrics()] == list(range(1, last + 1))


AtWork = tuple[Path, "subprocess.Popen[str]", int]


def test_a_process_is_killed(at_work: AtWork) -> None:
    """The run ends within seconds, and says who it was and how to go on; that goes on."""
    run, first, other = at_work
    os.kill(other, signal.SIGKILL)
    out, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 4, out
    assert f"Process 1 of 2 (process id {other}) was killed (signal 9: SIGKILL)." in out
    command = shlex.split(out.rpartition("Go on with: ")[2])
    assert command[-3:] == ["train", "--resume", str(run)]
    goes_on(run)


def test_the_first_is_interrupted(at_work: AtWork) -> None:
    run, first, other = at_work
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    out, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130, out
    assert "The state was saved." in out
    assert not alive(other)
    assert RunFolder.open(run).checkpoints()[-1] == steps_of(run) < 300
    goes_on(run)


def test_the_first_is_killed(at_work: AtWork) -> None:
    """Nobody is left behind."""
    _, first, other = at_work
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: not alive(other), "the other to notice")


def test_under_torchrun(task: Path, started: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """The processes that it starts are used; the first one alone speaks and writes."""
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "--", "refine_rl", "train", str(task), "--run", str(run), "--set", "grpo.steps=2"]
    whole = started(*launcher, *words)
    out, _ = whole.communicate(timeout=PATIENCE)
    assert whole.returncode == 0, out
    assert out.count("report: ") == 1
    assert "2 processes on 1 machine answer and learn together" in out
    assert steps_of(run) == 2


def test_what_the_processes_of_one_machine_say_is_for_it_alone() -> None:
    """Orders are whole objects: who knows the secret may have anything done. It stands where no other user
    reads it, and the store listens to this machine alone."""
    store = _store()
    listening = [
        line.split()[1].partition(":")[0]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{store.port:04X}") and line.split()[3] == "0A"
    ]
    assert listening == ["0100007F"]  # 127.0.0.1
    team = crew.acquire(2, 60)
    try:
        words = PrefixStore("words", crew._HERE.store)
        assert words.check(["port"])
        assert not words.check(["secret"])
        assert team.all(Forget(model=9)) == {0: None, 1: None}
    finally:
        crew.release()


def test_a_stranger_that_says_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of the ports connects and waits; another one talks nonsense."""
    place, store = Place(rank=0, size=2, local_rank=0, local_size=2), _store()
    monkeypatch.setattr(crew, "PATIENCE", timedelta(seconds=30))
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as held:
        met = pool.submit(_met, place, store, {}, None, "secret")
        words = PrefixStore("words", store)
        wait_for(lambda: words.check(["port"]), "the port")  # `get` would keep the store from `set`
        address = ("127.0.0.1", int(words.get("port")))
        strangers = [held.enter_context(socket.create_connection(address)) for _ in range(3)]
        strangers[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        channel = Channel(Client(address, authkey=b"secret"))
        channel.send(Message(kind="here", value=Hello(rank=1, host="there", versions=versions())))
        team = met.result()
        assert team.others == [1]
        team.tell(Forget(model=9))
        assert channel.receive().value == Forget(model=9)
        team.close()
        channel.close()


def test_who_knows_the_secret_has_no_time_limit_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_GREETING", 1)
    came: queue.Queue[tuple[Channel, Hello]] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        threading.Thread(target=lambda: crew._welcome(listener.accept()[0], b"secret", came)).start()
        far = Channel(Client(address, authkey=b"secret"))
        far.send(Message(kind="here", value="hello"))
        near, hello = came.get(timeout=PATIENCE)
        assert hello == "hello"  # type: ignore[comparison-overlap]
        threading.Timer(1.5, lambda: far.send(Message(kind="alive"))).start()
        assert near.receive() == Message(kind="alive")
        threading.Thread(target=lambda: crew._welcome(listener.accept()[0], b"secret", came)).start()
        with socket.create_connection(address) as silent:
            silent.settimeout(PATIENCE)
            while silent.recv(1000):  # until this end is closed
                pass
        near.close()
        far.close()
    assert came.empty()


def test_under_a_launcher_a_secret_of_the_environment_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    place, store = Place(rank=0, size=2, local_rank=0, local_size=2), HashStore()
    used: list[str] = []

    class Met(Exception):  # noqa: N818 - no mistake
        pass

    def met(*args: object) -> None:
        used.append(str(args[-1]))
        raise Met

    monkeypatch.setattr(crew, "_HERE", crew._Here())
    monkeypatch.setattr(crew, "board", lambda place: store)
    monkeypatch.setattr(crew, "_met", met)
    monkeypatch.delenv(PARENT, raising=False)
    other, words = Place(rank=1, size=2, local_rank=1, local_size=2), PrefixStore("words", store)
    for own in ("known to all", ""):
        monkeypatch.setenv(SECRET, own)
        with pytest.raises(Met):
            crew.gather(place)
        monkeypatch.setenv(SECRET, own)
        assert serve._secret(other, words) == used[-1].encode()
        assert SECRET not in os.environ  # no program of the user's gets it
        monkeypatch.setenv(SECRET, "" if own else "known to one")
        alone, without = (0, 1) if own else (1, 0)
        with pytest.raises(UserError, match=f"for process {alone} and not for process {without}"):
            serve._secret(other, words)
    assert used[0] == "known to all"
    assert len(used[1]) == 64
