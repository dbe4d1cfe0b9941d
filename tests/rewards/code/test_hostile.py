"""Programs that want a reward without doing what is asked, or harm: none gets one, none does any.

Each is scored by the real sandbox, in each way of shutting in that this machine has.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from make import prompt, scored
from refine_rl.rewards.code.reward import CodeReward
from refine_rl.rewards.code.sandbox import Limits, Sandbox
from refine_rl.types import Prompt, Score

LINUX = sys.platform.startswith("linux")
LIMITS = Limits(seconds=2.0, cpu=1, memory=200)
ASKED = prompt(tests="import math\nassert f(2) == 4\nassert f(3) == 6\nassert math.sqrt(f(8)) == 4.0")


class NoNamespaces(Sandbox):
    """A sandbox on a machine whose kernel allows no namespaces: what most containers are like."""

    ways = ((False, True), (False, False))


class NoFilter(Sandbox):
    """A sandbox on a machine for which there is no filter of system calls."""

    ways = ((True, False), (False, False))


@pytest.fixture(scope="module", params=[Sandbox, NoNamespaces, NoFilter])
def reward(request: pytest.FixtureRequest) -> Iterator[CodeReward]:
    sandbox = request.param(LIMITS, 2)
    yield CodeReward(tests="tests", grade="share", sandbox=sandbox)
    sandbox.close()


def score(reward: CodeReward, code: str, asked: Prompt = ASKED) -> Score:
    (found,) = scored(reward, asked, f"```python\n{dedent(code)}\n```")
    assert found.status == "scored", found.explanation
    return found


CHEATS = {
    "exit": "import sys\nsys.exit(0)",
    "hard exit": "import os\nos._exit(0)",
    "exit in a call": "import os\ndef f(x):\n    os._exit(0)",
    "SystemExit in a call": "def f(x):\n    raise SystemExit(0)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit",
    "kills itself": "import os\ndef f(x):\n    os.kill(os.getpid(), 9)",
    "kills everybody": "import os\ndef f(x):\n    os.kill(-1, 9)",
    "kills its parent": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)",
    "equals everything": """
        class Always:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return 4
            def __float__(self): return 16.5
        def f(x): return Always()
        """,
    "an int that equals everything": """
        class Always(int):
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        def f(x): return Always(5)
        """,
    "a float that equals everything, in a list": """
        class Always(float):
            def __eq__(self, other): return True
            __hash__ = float.__hash__
        def f(x): return [Always(5)]
        """,
    "patches builtins": """
        import builtins
        builtins.AssertionError = Exception
        builtins.compile = builtins.exec = builtins.eval = lambda *a, **k: None
        def f(x): return None
        """,
    "patches math": """
        import math, sys
        math.sqrt = lambda x: 4.0
        sys.modules["math"].isclose = lambda *a, **k: True
        def f(x): return -1
        """,
    "patches the checker": """
        import sys
        for name, module in list(sys.modules.items()):
            if "jail" in name:
                for key in list(vars(module)):
                    try: setattr(module, key, lambda *a, **k: {"value": 4, "held": True, "to": 1})
                    except Exception: pass
        def f(x): return 0
        """,
    "writes the result itself": """
        import json, os, struct
        said = {"assertions": [{"line": n, "held": True, "why": ""} for n in (2, 3, 4)]}
        for one in (said, {"line": 2, "held": True, "why": ""}, {"value": True, "held": True}):
            body = json.dumps(one).encode()
            for fd in range(64):
                try: os.write(fd, struct.pack(">I", len(body)) + body)
                except OSError: pass
        def f(x): return 0
        """,
    "answers everything at once": """
        import json, os, struct
        def f(x):
            for fd in range(3, 64):
                for n in range(1, 40):
                    body = json.dumps({"value": True, "to": n}).encode()
                    try: os.write(fd, struct.pack(">I", len(body)) + body)
                    except OSError: pass
            return 0
        """,
    "sends what is no value": """
        import json, os, struct
        def f(x):
            for fd in range(3, 64):
                body = b'{"value": ' + b'[' * 100000
                try: os.write(fd, struct.pack(">I", len(body)) + body)
                except OSError: pass
            return 0
        """,
    "looks for the tests in its memory": """
        import gc, sys
        def f(x):
            frame = sys._getframe()
            found = []
            while frame:
                found += [v for v in frame.f_locals.values() if isinstance(v, str)]
                frame = frame.f_back
            found += [o for o in gc.get_objects() if isinstance(o, str)]
            for o in gc.get_objects():
                if isinstance(o, dict):
                    found += [v for v in list(o.values()) if isinstance(v, str)]
            marker = "assert f(" + str(x)
            for text in found:
                if marker + ") ==" in text and "marker" not in text:
                    return int(text.split(marker + ") == ")[1].split()[0])
            return 0
        """,
    "looks for the tests in memory, whole": """
        def f(x):
            found = open("/proc/self/mem", "rb", 0)
            for line in open("/proc/self/maps"):
                start, end = (int(n, 16) for n in line.split()[0].split("-"))
                try:
                    found.seek(start)
                    text = found.read(end - start)
                except (OSError, ValueError, OverflowError):
                    continue
                wanted = b"assert f(" + str(x).encode() + b") == "
                if wanted in text:
                    return int(text.split(wanted)[1][:1])
            return 0
        """,
    "sleeps": "import time\ndef f(x):\n    time.sleep(1000)",
    "computes for ever": "def f(x):\n    while True: pass",
    "runs for ever": "while True: pass",
    "swallows everything": """
        def f(x):
            while True:
                try:
                    while True: pass
                except BaseException: pass
        """,
    "ignores signals": """
        import signal
        for number in range(1, 65):
            try: signal.signal(number, lambda *a: None)
            except (OSError, ValueError): pass
        def f(x):
            while True: pass
        """,
    "a huge text": "def f(x):\n    return 'x' * (10 ** 9)",
    "a long answer": "def f(x):\n    return list(range(10 ** 6))",
    "huge memory": "held = []\ndef f(x):\n    while True: held.append(bytearray(10 ** 7))",
    "a huge number": "def f(x):\n    return 10 ** 10 ** 8",
    "endless output": "def f(x):\n    while True: print('x' * 10000)",
    "endless values": "def f(x):\n    while True: yield x",
    "deep": "def f(x):\n    found = []\n    for _ in range(10 ** 5): found = [found]\n    return found",
    "recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f(x)",
    "a crash": "import ctypes\ndef f(x):\n    ctypes.string_at(0)",
    "threads": """
        import threading
        def spin():
            while True: pass
        def f(x):
            while True: threading.Thread(target=spin, daemon=False).start()
        """,
    "fork bomb": "import os\ndef f(x):\n    while True: os.fork()",
    "processes": "import subprocess, sys\ndef f(x):\n    subprocess.check_call([sys.executable])",
    "hard limits": """
        import resource
        def f(x):
            for which in range(16):
                resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        """,
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_no_cheat_earns_a_reward(reward: CodeReward, cheat: str) -> None:
    if cheat == "fork bomb" and not reward.sandbox.isolation().calls:
        pytest.skip("as many processes as a second allows: `lacks` says so")
    began = time.monotonic()
    assert score(reward, CHEATS[cheat]).value == 0.0
    # ... and the next program is none the worse for it
    assert score(reward, "def f(x): return 2 * x").value == 1.0
    assert time.monotonic() - began < 60


def test_a_checker_in_the_same_interpreter_would_have_been_fooled() -> None:
    """What the cheats are worth where tests and program meet: exit code 0, or no assertion that fails."""
    tests = "assert f(2) == 4\nassert f(3) == 6\n"
    for cheat in ("exit", "hard exit", "atexit", "equals everything", "an int that equals everything"):
        code = dedent(CHEATS[cheat])
        done = subprocess.run([sys.executable, "-I", "-S", "-c", f"{code}\n{tests}"], timeout=60)
        assert done.returncode == 0, cheat


# -- harm ---------------------------------------------------------------------------------------------


def saw(reward: CodeReward, code: str, wanted: str = "seen") -> bool:
    """Whether a program got at what it looked for: it gives "seen" back."""
    return score(reward, code, prompt(tests=f"assert f() == {wanted!r}")).value == 1.0


@pytest.fixture
def shut_in(reward: CodeReward) -> CodeReward:
    """Where files and network are kept away."""
    found = reward.sandbox.isolation()
    if not (found.root or found.calls):
        pytest.skip("this machine isolates nothing but time and memory")
    return reward


def test_files_of_the_machine_are_neither_read_nor_changed(shut_in: CodeReward, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("seen")
    victim.chmod(0o666)
    read = f"def f():\n    return open({str(victim)!r}).read()"
    write = f"def f():\n    open({str(victim)!r}, 'w').write('gone')\n    return 'seen'"
    delete = f"import os\ndef f():\n    os.remove({str(victim)!r})\n    return 'seen'"
    tree = f"import shutil\ndef f():\n    shutil.rmtree({str(tmp_path)!r})\n    return 'seen'"
    link = f"""
        import os
        def f():
            os.symlink({str(victim)!r}, "way")
            return open("way").read()
        """
    climb = f"""
        import os
        def f():
            for _ in range(64): os.chdir("..")
            return open({str(victim)[1:]!r}).read()
        """
    for code in (read, write, delete, tree, link, climb):
        assert not saw(shut_in, code), code
    assert victim.read_text() == "seen"


def test_neither_environment_nor_processes_are_seen(
    shut_in: CodeReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "seen")
    assert not saw(shut_in, "import os\ndef f():\n    return os.environ['MY_KEY']")
    assert not saw(shut_in, f"def f():\n    open('/proc/{os.getpid()}/environ').read()\n    return 'seen'")
    assert not saw(shut_in, f"import os\ndef f():\n    os.kill({os.getpid()}, 0)\n    return 'seen'")
    assert saw(shut_in, "import os\ndef f():\n    return 'seen' if not os.environ else list(os.environ)")


def test_there_is_no_network(shut_in: CodeReward) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not saw(
            shut_in,
            f"""
            import socket
            def f():
                socket.create_connection(("127.0.0.1", {port}), timeout=1)
                return "seen"
            """,
        )


def test_a_program_has_a_folder_of_its_own_that_goes_with_it(shut_in: CodeReward) -> None:
    write = "def f():\n    open('mine.txt', 'w').write('seen')\n    return open('mine.txt').read()"
    if shut_in.sandbox.isolation().root:
        assert saw(shut_in, write)
        assert not saw(shut_in, "def f():\n    return open('mine.txt').read()")
        assert not saw(shut_in, "def f():\n    open('/mine.txt', 'w')\n    return 'seen'")
        fill = """
            def f():
                for n in range(100):
                    open(f"{n}.bin", "wb").write(bytes(10 ** 6))
                return "seen"
            """
        assert not saw(shut_in, fill)
    else:
        assert not saw(shut_in, write)


DAEMON = """
import os, time
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(1000)
def f(x): return 2 * x
"""


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
@pytest.mark.parametrize("code", [DAEMON, CHEATS["threads"], CHEATS["fork bomb"]])
def test_nothing_of_a_program_goes_on(shut_in: CodeReward, code: str) -> None:
    """A grandchild in a session of its own, threads, children: with the score all have ended."""
    if code == CHEATS["fork bomb"] and not shut_in.sandbox.isolation().calls:
        pytest.skip("as many processes as a second allows: `lacks` says so")
    score(shut_in, code)
    workers = [worker.folder.name for worker in shut_in.sandbox.workers]
    assert workers
    until = time.monotonic() + 60
    while (found := sum(len(processes(name)) for name in workers)) > 2 * len(workers):
        assert time.monotonic() < until, found
        time.sleep(0.01)


def processes(name: str) -> list[int]:
    """The processes of the worker whose folder is called that: itself and what was forked from it."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name.encode() in place.read_bytes():
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


RUN = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without it
from refine_rl.rewards.code.sandbox import Limits, Sandbox
sandbox = Sandbox(Limits(seconds=100.0, cpu=100, memory=200), 1)
if sys.argv[1] == "no namespaces":
    sandbox.ways = sandbox.ways[1:2]
sandbox.isolation()
print(*[worker.folder.name for worker in sandbox.workers], flush=True)
try:
    asyncio.run(sandbox.judge("while True: pass", "assert f(2) == 4"))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
@pytest.mark.parametrize("how", ["namespaces", "no namespaces"])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_ends_leaves_no_process(how: str, by: signal.Signals) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, how], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    with run, run.stdout:
        name = run.stdout.readline().strip()
        until = time.monotonic() + 60
        while len(processes(name)) < 4:  # worker, keeper, examiner, program
            assert time.monotonic() < until
            time.sleep(0.01)
        run.send_signal(by)
        if by == signal.SIGINT:
            assert run.stdout.readline() == "interrupted\n"
        run.wait(60)
        while processes(name):
            assert time.monotonic() < until + 60
            time.sleep(0.01)


ORPHAN = """
import os
from refine_rl.rewards.code.jail.keeper import Keeper, Layers
keeper = Keeper.__new__(Keeper)
keeper._layers = Layers(root=False, calls=False)
keeper._become_program(None, keeper=os.getpid() + 1)
"""


@pytest.mark.skipif(not LINUX, reason="the kernel's signal at a parent's end is Linux's")
def test_a_program_whose_keeper_is_gone_already_does_not_begin() -> None:
    """It was killed between the fork and the program's first line: whoever inherits it is no keeper."""
    assert subprocess.run([sys.executable, "-c", ORPHAN], check=False).returncode == 1
