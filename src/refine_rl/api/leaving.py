"""export: the tuned model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

from refine_rl.api import checks
from refine_rl.api.observing import showing
from refine_rl.api.records import Run, SFTRun
from refine_rl.api.runs import folder_of, opened_run
from refine_rl.api.stops import once
from refine_rl.progress import Observer, Pause

Checkpoint = int | Literal["best", "last"]


@overload
def export(
    run: str | Path | Run | SFTRun,
    out: str | Path | None = ...,
    *,
    merged: bool = ...,
    dtype: Literal["float32", "bfloat16"] | None = ...,
    gguf: str | Path | None = ...,
    ollama: str | None = ...,
    outtype: Literal["f32", "f16", "bf16", "q8_0"] | None = ...,
    llama_cpp: str | Path | None = ...,
    checkpoint: Checkpoint | None = ...,
    check: bool = ...,
    observer: Observer | None = ...,
) -> Path: ...
@overload
def export(
    run: str | Path | Run | SFTRun,
    *,
    hub: str,
    merged: bool = ...,
    dtype: Literal["float32", "bfloat16"] | None = ...,
    private: bool = ...,
    checkpoint: Checkpoint | None = ...,
    check: bool = ...,
    observer: Observer | None = ...,
) -> str: ...
def export(
    run: str | Path | Run | SFTRun,
    out: str | Path | None = None,
    *,
    merged: bool = False,
    dtype: Literal["float32", "bfloat16"] | None = None,
    gguf: str | Path | None = None,
    ollama: str | None = None,
    outtype: Literal["f32", "f16", "bf16", "q8_0"] | None = None,
    llama_cpp: str | Path | None = None,
    hub: str | None = None,
    private: bool = False,
    checkpoint: Checkpoint | None = None,
    check: bool = True,
    observer: Observer | None = None,
) -> str | Path:
    """Writes the tuned model for other programs: to the new folder `out`, as transformers and peft load it,
    or in one of the other forms. Returns where it is: the folder or file; of `hub`, the address. What was
    written is loaded as its readers load it, and compared with the tuned model; each finding is a note.

    Args:
        run: a run with a tuned model; one without with `checkpoint`.
        out: the folder to write; it must not exist yet.
        merged: one ordinary model, the adapter merged in.
        dtype: with `merged`: the weights' number format; without it, the run's.
        gguf: the file to write for llama.cpp.
        ollama: the name of a model of Ollama; its files are in `out`, or else in NAME-ollama.
        outtype: with `gguf` and `ollama`: the weights' number format; without it, the run's.
        llama_cpp: the folder of llama.cpp, whose converter writes GGUF; without it, that which LLAMA_CPP in
            the environment names, or the converter on PATH.
        hub: "OWNER/NAME" of the hub, as an adapter or merged. The token is HF_TOKEN, or that of the hub's
            login.
        private: with `hub`: a repository that is made is private.
        checkpoint: "best", "last" or a step, in the place of the tuned model.
        check: False writes without looking at what was written, as for a model that fits in memory once.
        observer: hears what was found; without it, it is shown.

    Raises UserError for what the arguments or the run do not allow; MachineError where what was written is
    not the tuned model, and where a program or the hub failed. Warns where rounding takes a good part of what
    training changed.
    """
    path = folder_of(run)
    asked: dict[str, Any] = {
        "out": out,
        "merged": merged,
        "dtype": dtype,
        "gguf": gguf,
        "ollama": ollama,
        "outtype": outtype,
        "llama_cpp": llama_cpp,
        "hub": hub,
        "private": private,
    }
    _require(asked, checkpoint, check, observer)
    folder = opened_run(path)
    from refine_rl.pipeline.export_forms import Form, export_as  # late: torch
    from refine_rl.pipeline.weights import choose_weights

    form = Form(**{**asked, **{n: _path(asked[n]) for n in ("out", "gguf", "llama_cpp")}})

    def work(pause: Pause) -> str | Path:
        form.require_possible()
        weights = choose_weights(folder, None if checkpoint is None else str(checkpoint))
        with showing(None, observer) as shown:
            where = export_as(folder, form, weights=weights, check=check, observer=shown)
        return where if hub is not None else Path(where)

    return once(work)


def _require(asked: dict[str, Any], checkpoint: object, check: object, observer: object) -> None:
    """Raises UserError for arguments of a wrong kind, all of them at once."""
    checks.every(
        lambda: checks.path("out", asked["out"], "a new folder", none=True),
        lambda: checks.flag("merged", asked["merged"]),
        lambda: checks.dtype(asked["dtype"], asked["merged"]),
        lambda: checks.path("gguf", asked["gguf"], "a new file", none=True),
        lambda: checks.text("ollama", asked["ollama"], "the name that Ollama's model is to have"),
        lambda: checks.outtype(asked["outtype"]),
        lambda: checks.path("llama_cpp", asked["llama_cpp"], "llama.cpp's folder", none=True),
        lambda: checks.text("hub", asked["hub"], '"OWNER/NAME"'),
        lambda: checks.flag("private", asked["private"]),
        lambda: checks.checkpoint(checkpoint),
        lambda: checks.flag("check", check),
        lambda: checks.observer(observer),
    )


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value).expanduser()
