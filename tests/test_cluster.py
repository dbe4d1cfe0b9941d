"""examples/cluster: what is told to Slurm, SkyPilot and Modal starts a command that we take, at first and
again. Their own programs are stand-ins here."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from test_advice import parsed

yaml = pytest.importorskip("yaml")
FOLDER = Path(__file__).parents[1] / "examples" / "cluster"
SKY = {
    "": "name workdir num_nodes resources envs secrets volumes file_mounts setup run config",
    "resources": "infra accelerators accelerator_args cpus memory instance_type use_spot disk_size disk_tier "
    "network_tier image_id ports labels autostop any_of ordered job_recovery",
    "autostop": "idle_minutes wait_for down hook hook_timeout",
}
"""https://docs.skypilot.co/en/latest/reference/yaml-spec.html, read in November 2026."""


@pytest.fixture
def bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs a script in a folder of its own and gives what it had torchrun do."""
    programs = tmp_path / "programs"
    programs.mkdir()
    tell = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
    own = {"torchrun": tell, "srun": '#!/bin/sh\nexec "$@"\n', "scontrol": "#!/bin/sh\nprintf 'n1\\nn2\\n'\n"}
    for name, text in own.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)

    def run(text: str, *words: str, **env: str) -> list[str]:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", text, "script", *words], capture_output=True, text=True, env={"PATH": path, **env}
        )
        assert done.returncode == 0, done.stderr
        told: list[str] = json.loads(done.stdout)
        return told

    return run


def flags(told: list[str]) -> dict[str, str]:
    """torchrun's own flags, before the module."""
    own = told[: told.index("-m")]
    return dict(flag.split("=", 1) for flag in own)


def refined(told: list[str]) -> str:
    """The command that each process would be, as torchrun itself reads it; our command line takes it."""
    from torch.distributed.run import get_args_parser  # type: ignore[attr-defined,unused-ignore]

    read = get_args_parser().parse_args(told)
    assert (read.module, read.training_script) == (True, "refine_rl")
    command = " ".join(["refine", *read.training_script_args])
    parsed(command)
    return command


SLURM = {
    "SLURM_JOB_NAME": "mine",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_JOB_NODELIST": "n[1-2]",
}


def test_slurm(bash: Callable[..., list[str]], tmp_path: Path) -> None:
    script = FOLDER / "slurm.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text(encoding="utf-8")
    told = bash(text, "my-task/task.toml", **SLURM)
    assert flags(told) == {
        "--nnodes": "2",
        "--nproc-per-node": "4",
        "--rdzv-id": "7",
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": "n1:29500",
    }
    assert refined(told) == "refine train my-task/task.toml --set name=mine"
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert "--resume" not in bash(text, "my-task/task.toml", **SLURM)  # nothing has begun there
    (tmp_path / "runs" / "mine" / "config.toml").touch()
    assert refined(bash(text, "my-task/task.toml", **SLURM)) == "refine train --resume runs/mine"


def test_slurm_takes_its_options_from_the_head() -> None:
    """Behind the first command Slurm reads none."""
    lines = (FOLDER / "slurm.sh").read_text(encoding="utf-8").splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options
    assert max(options) < first
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", lines[n]) for n in options)


def test_skypilot(bash: Callable[..., list[str]], tmp_path: Path) -> None:
    task = yaml.safe_load((FOLDER / "sky.yaml").read_text(encoding="utf-8"))
    assert set(task) <= set(SKY[""].split())
    assert set(task["resources"]) <= set(SKY["resources"].split())
    assert set(task["resources"]["autostop"]) <= set(SKY["autostop"].split())
    assert (FOLDER.parents[1] / task["envs"]["TASK"]).is_file()
    subprocess.run(["bash", "-n", "-c", task["setup"]], check=True)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    there = {
        **task["envs"],
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "4",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    }
    told = bash(task["run"], **there)
    assert flags(told) == {
        "--nnodes": "2",
        "--nproc-per-node": "4",
        "--node-rank": "1",
        "--master-port": "29500",
        "--master-addr": "10.0.0.1",
    }
    assert refined(told) == "refine train examples/short_answers/task.toml --set name=sky"
    (tmp_path / "runs" / "sky").mkdir(parents=True)
    (tmp_path / "runs" / "sky" / "config.toml").touch()
    assert refined(bash(task["run"], **there)) == "refine train --resume runs/sky"


class Modal:
    """As much of the package as the example asks of it; what it is told is kept."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.Volume = SimpleNamespace(from_name=lambda name, create_if_missing: name)
        self.Image = SimpleNamespace(debian_slim=lambda python_version: self)

    def App(self, name: str) -> Modal:  # noqa: N802  its name
        return self

    def add_local_dir(self, local: str, remote: str, *, copy: bool, ignore: list[str]) -> Modal:
        assert (local, remote, copy) == (".", "/refine", True)
        return self

    def run_commands(self, command: str) -> Modal:
        assert command == "pip install /refine"
        return self

    def function(self, **given: Any) -> Callable[[Any], Any]:
        self.told = given
        return lambda made: made

    def local_entrypoint(self) -> Callable[[Any], Any]:
        return lambda made: made


def test_modal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []

    def run(words: list[str], cwd: str) -> SimpleNamespace:
        assert cwd == "/refine"
        begun.append(words)
        return SimpleNamespace(returncode=3)

    modal = Modal()
    monkeypatch.setitem(sys.modules, "modal", modal)  # type: ignore[arg-type]
    monkeypatch.setattr(subprocess, "run", run)
    script = FOLDER / "modal_app.py"
    names: dict[str, Any] = {"__name__": "modal_app"}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), names)  # noqa: S102  it is ours
    assert modal.told["gpu"] == f"H100:{names['GPUS']}"
    assert modal.told["timeout"] <= 24 * 60 * 60  # Modal's most
    monkeypatch.setitem(names, "Path", lambda *parts: tmp_path.joinpath(*(p.lstrip("/") for p in parts)))
    assert names["train"]("my-task/task.toml", "mine") == 3
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.toml").touch()
    names["train"]("my-task/task.toml", "mine")
    first, again = (" ".join(words) for words in begun)
    assert first == f"refine train my-task/task.toml --run /runs/mine --set engine.processes={names['GPUS']}"
    assert again == "refine train --resume /runs/mine"
    parsed(first)
    parsed(again)
