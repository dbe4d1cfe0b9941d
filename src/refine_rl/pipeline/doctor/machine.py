"""This machine: versions of what computes, its threads, its card, its number formats."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from refine_rl.errors import RefineError
from refine_rl.pipeline.doctor.found import Examination
from refine_rl.pipeline.doctor.subject import Subject
from refine_rl.pipeline.rivals.contest import require_rivals
from refine_rl.plan.machine import cores
from refine_rl.run.trackers.build import require_trackers

TESTED = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"}
"""The newest versions that the tests of this version were run with."""
_DRIVER = Path("/dev/nvidiactl")  # there where a driver of NVIDIA's is loaded


def look_at_packages(exam: Examination) -> None:
    """Versions outside of what the package asks for are errors; those newer than what it was tested with are
    worth a word."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in requires("refine-rl") or []]
    except PackageNotFoundError:  # run from its source
        asked = []
    wanted = {r.name: r.specifier for r in asked if r.name in TESTED and r.marker is None}
    found, wrong, newer = [f"Python {platform.python_version()}"], [], []
    for name, tested in TESTED.items():
        try:
            here = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        found.append(f"{name} {here}")
        if name in wanted and not wanted[name].contains(here, prereleases=True):
            wrong.append(f"{name} {here} is not {wanted[name]}")
        elif _minor(here) > _minor(tested):
            newer.append(f"{name} (up to {tested})")
    if wrong:
        exam.fail("packages", "; ".join(wrong), 'pip install --upgrade "refine-rl"')
    elif newer:
        exam.warn(
            "packages",
            f"{', '.join(found)}: newer than what this version was tested with: {', '.join(newer)}",
            "Where something breaks: pip install " + " ".join(f'"{n}<={v}"' for n, v in TESTED.items()),
        )
    else:
        exam.ok("packages", ", ".join(found))


def look_at_extras(it: Subject) -> None:
    """Whether what trackers and rivals of the settings need is installed."""
    exam, settings = it.exam, it.settings
    with exam.looking("trackers") as looked:
        require_trackers(settings.track)
    if settings.track.to and not looked.failed:
        exam.ok("trackers", f"installed: {', '.join(settings.track.to)}")
    with exam.looking("rivals"):
        require_rivals(settings)


def _minor(text: str) -> tuple[int, int]:
    """
    >>> _minor("2.13.0+cpu")
    (2, 13)
    """
    from packaging.version import Version

    return Version(text).major, Version(text).minor


def look_at_device(it: Subject) -> None:
    """The device that a run would take and, on a processor, its threads: a card that lies idle, and a number
    format that is slow here."""
    exam, settings, again = it.exam, it.settings, it.command.again
    import torch

    from refine_rl.policy.load import choose_device, choose_dtype

    try:
        device = choose_device(settings.model.device)
    except RefineError as error:
        exam.fail("device", str(error), again("model.device=auto"))
        return
    fast = choose_dtype("auto", device)
    slow = settings.model.dtype == "bfloat16" and fast == torch.float32
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        memory = torch.cuda.get_device_properties(device).total_memory / 1e9
        words = f"{name}, {memory:.0f} GB, {'bfloat16' if fast == torch.bfloat16 else 'no bfloat16: float32'}"
    elif device.type == "cpu":
        bf16 = "bfloat16 in hardware" if fast == torch.bfloat16 else "no bfloat16 in hardware: float32"
        words = f"the processor, {torch.get_num_threads()} of {cores()} cores; {bf16}"
    else:
        words = f"{device.type}, in float32"
    idle = _idle_card(device.type, again("model.device=auto"))
    if idle:
        exam.warn("device", f"{words}. {idle[0]}", idle[1])
    elif slow:
        text = f'{words}. model.dtype = "bfloat16" is emulated here, which is slow'
        exam.warn("device", text, again("model.dtype=auto"))
    elif device.type == "cpu" and torch.get_num_threads() < cores():
        named = os.environ.get("OMP_NUM_THREADS")
        why = f" (OMP_NUM_THREADS={named})" if named else ""
        advice = "unset OMP_NUM_THREADS" if named else f"export OMP_NUM_THREADS={cores()}"
        exam.warn("device", f"{words}. Some cores would lie idle{why}", advice)
    else:
        exam.ok("device", words)


def _idle_card(chosen: str, automatic: str) -> tuple[str, str] | None:
    """That there is a card which a run would not use, and what to do (`automatic`: the command that lets it
    choose); None where there is none."""
    import torch

    if chosen != "cpu":
        return None
    if torch.cuda.is_available():
        text = f"There is a GPU ({torch.cuda.get_device_name(0)}), and model.device keeps the run off it"
        return text, automatic
    if not _DRIVER.exists() and shutil.which("nvidia-smi") is None:
        return None
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    text = f"There is an NVIDIA driver here, and torch {torch.__version__} ({built}) sees no GPU"
    advice = "nvidia-smi" if torch.version.cuda else "pip install --force-reinstall torch"
    return text, f"{advice}\npython -c 'import torch; print(torch.cuda.is_available())'"
