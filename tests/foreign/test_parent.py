"""What ends with the process that began it, when that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from refine_rl.foreign.parent import LINUX, bound

PARENT = """
import subprocess, sys
from refine_rl.foreign.parent import bound
subprocess.Popen(bound([sys.executable, "-SEc", sys.argv[1]])).wait()
"""
CHILD = "import time; print('begun', flush=True); time.sleep(60); print('survived')"


@pytest.mark.skipif(not LINUX, reason="Linux tells a process that its parent has ended")
def test_a_killed_parent_takes_its_program_along() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == ""  # until nobody has the pipe any more


def test_a_bound_command_is_the_command() -> None:
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = subprocess.run(bound([sys.executable, "-SEc", code, "a b", "--c"]), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "['a b', '--c']\n")
