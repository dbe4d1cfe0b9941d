"""A run's model as one GGUF file for llama.cpp, and whether that is the tuned model."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from refine_rl.errors import UserError
from refine_rl.export.gguf.check import check_gguf
from refine_rl.export.gguf.convert import convert
from refine_rl.export.gguf.find import OUTTYPES, LlamaCpp
from refine_rl.export.gguf.server import check_served
from refine_rl.export.witness import Witness
from refine_rl.pipeline.export import judge, look, require_new, tell_of, write_model
from refine_rl.pipeline.weights import Weights
from refine_rl.policy.merging import Rounding
from refine_rl.progress import Observer, Quiet
from refine_rl.run import RunFolder


def export_gguf(
    folder: RunFolder,
    file: Path,
    *,
    outtype: str | None = None,
    weights: Weights,
    tools: LlamaCpp,
    check: bool = True,
    observer: Observer | None = None,
) -> float:
    """Writes weights of a run to the new GGUF file `file`, in `outtype` (without one, as the run computed).
    The merged model on the way is kept in float32, so that it is rounded once. Unless `check` is False, that
    model is loaded and compared, then the file's contents, and the answers of llama.cpp where its server is
    there. Returns the share of what training changed that rounding took. Raises UserError where `file` is
    there already or llama.cpp cannot take the model, MachineError where another model came out."""
    observer = observer or Quiet()
    require_new(file)
    with gguf_made(
        folder, file, outtype=outtype, weights=weights, tools=tools, check=check, observer=observer
    ) as made:
        if made.witness is not None:
            ask_llama_cpp(made, tools, file, observer)
        made.file.rename(file)
    return made.lost


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A GGUF file that was made and looked into, not yet under its name."""

    file: Path
    lost: float
    witness: Witness | None


@contextlib.contextmanager
def gguf_made(
    folder: RunFolder,
    file: Path,
    *,
    outtype: str | None,
    weights: Weights,
    tools: LlamaCpp,
    check: bool,
    observer: Observer,
) -> Iterator[Made]:
    """The GGUF file that is to be called `file`, in a folder beside it that is gone afterwards."""
    form = outtype or usual_outtype(folder)
    work = file.with_name(f".{file.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        whole, made = work / "merged", work / file.name
        written = write_model(
            folder,
            whole,
            merged=True,
            dtype="float32",
            weights=weights,
            hear_it=check,
            rounding=_ROUNDINGS[form],
        )
        if check:
            look(whole, file.with_name(f"{file.name}.merged"), written, observer)
        observer.stage(f"llama.cpp's converter writes {file.name} in {form}")
        if told := convert(tools, whole, made, form, folder.settings().name or file.stem):
            observer.note(told)
        if written.witness is not None:
            judge(check_gguf(made, whole, written.witness), made, file, observer)
        tell_of(folder, written, observer, form=_CALLED[form], way_out="--outtype f32 keeps all of it.")
        yield Made(file=made, lost=written.lost, witness=written.witness)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def ask_llama_cpp(made: Made, tools: LlamaCpp, file: Path, observer: Observer) -> None:
    """Has llama.cpp's server answer the prompts, where it is there. Raises MachineError where it answers as
    another model."""
    witness = made.witness
    if witness is None:
        return
    if tools.server is None:
        observer.note("not answered: there is no llama-server on PATH or in llama.cpp's build/bin")
    elif witness.start:
        observer.note("not answered: llama-server takes no encoder-decoder (llama-cli may)")
    else:
        observer.stage("llama.cpp answers")
        judge(check_served(tools.server, made.file, witness), made.file, file, observer)


def usual_outtype(folder: RunFolder) -> str:
    """The format of GGUF in which a run computed."""
    return "bf16" if folder.settings().model.dtype == "bfloat16" else "f32"


def require_outtype(outtype: str | None) -> None:
    if outtype is not None and outtype not in OUTTYPES:
        raise UserError(f"--outtype {outtype}: it is one of {', '.join(OUTTYPES)}.")


def _to(dtype: torch.dtype) -> Rounding:
    return lambda weight: weight.to(dtype)


def q8_0(weight: torch.Tensor) -> torch.Tensor:
    """A matrix as Q8_0 keeps it: 8 bits a value, and a scale in float16 for each 32 of a row
    (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md); float16 where a row is no multiple of 32.

    >>> q8_0(torch.tensor([[127.0, 1.4] + [0.0] * 30]))[0, :2].tolist()
    [127.0, 1.0]
    """
    if weight.shape[-1] % 32:
        return weight.half()
    blocks = weight.float().reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    steps = torch.where(scale > 0, blocks / scale, 0.0).round()
    return (steps * scale.half().float()).reshape(weight.shape)


_CALLED = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "8 bits"}
_ROUNDINGS: dict[str, Rounding] = {
    "f32": _to(torch.float32),
    "f16": _to(torch.float16),
    "bf16": _to(torch.bfloat16),
    "q8_0": q8_0,
}
