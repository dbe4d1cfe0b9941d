"""A run's model in one of the forms that other programs read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.export.gguf.find import OUTTYPES
from refine_rl.pipeline.weights import Weights
from refine_rl.progress import Observer
from refine_rl.run import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What is to be written, as the flags of `refine export` say."""

    out: Path | None = None
    merged: bool = False
    dtype: str | None = None
    gguf: Path | None = None
    ollama: str | None = None
    outtype: str | None = None
    llama_cpp: Path | None = None
    hub: str | None = None
    private: bool = False

    def require_possible(self) -> None:
        """Raises UserError for flags that do not go together."""
        forms = {"--gguf": self.gguf, "--ollama": self.ollama, "--hub": self.hub}
        asked = [name for name, value in forms.items() if value is not None]
        if len(asked) > 1:
            raise UserError(f"{' and '.join(asked)}: one at a time.")
        if not asked and self.out is None:
            raise UserError(
                "Where to? --out FOLDER, --gguf FILE, --ollama NAME or --hub OWNER/NAME says what to write."
            )
        ours = self.gguf is not None or self.ollama is not None
        if ours and (self.merged or self.dtype):
            raise UserError(
                f"{asked[0]} merges the adapter anyway: leave --merged and --dtype out; --outtype says the "
                "number format."
            )
        for name, value in (("--outtype", self.outtype), ("--llama-cpp", self.llama_cpp)):
            if value is not None and not ours:
                raise UserError(f"{name} goes with --gguf or --ollama.")
        if self.outtype is not None and self.outtype not in OUTTYPES:
            raise UserError(f"--outtype {self.outtype}: it is one of {', '.join(OUTTYPES)}.")
        if self.private and self.hub is None:
            raise UserError("--private goes with --hub.")
        if self.out is not None and asked and self.ollama is None:
            raise UserError(f"--out names a folder to write, and {asked[0]} where to write: leave --out out.")
        if self.dtype is not None and not self.merged:
            raise UserError("--dtype goes with --merged: an adapter by itself is float32 always.")
        if self.dtype not in (None, "float32", "bfloat16"):
            raise UserError(f"--dtype {self.dtype}: it is float32 or bfloat16.")


def export_as(
    folder: RunFolder, form: Form, *, weights: Weights, check: bool = True, observer: Observer | None = None
) -> str:
    """Writes weights of a run in that form, and looks at what was written unless `check` is False. Returns
    where it is. Raises what the form's own function raises."""
    if form.gguf is not None:
        from refine_rl.export.gguf.find import find_llama_cpp
        from refine_rl.pipeline.export_gguf import export_gguf

        tools = find_llama_cpp(form.llama_cpp)
        export_gguf(
            folder,
            form.gguf,
            outtype=form.outtype,
            weights=weights,
            tools=tools,
            check=check,
            observer=observer,
        )
        return str(form.gguf)
    if form.ollama is not None:
        from refine_rl.export.gguf.find import find_llama_cpp
        from refine_rl.pipeline.export_ollama import export_ollama

        return export_ollama(
            folder,
            form.ollama,
            out=form.out,
            outtype=form.outtype,
            weights=weights,
            tools=find_llama_cpp(form.llama_cpp),
            check=check,
            observer=observer,
        )
    if form.hub is not None:
        from refine_rl.pipeline.export_hub import export_hub

        return export_hub(
            folder,
            form.hub,
            merged=form.merged,
            dtype=form.dtype,
            private=form.private,
            weights=weights,
            check=check,
            observer=observer,
        )
    from refine_rl.pipeline.export import export_model

    if form.out is None:
        raise UserError("Where to? --out FOLDER.")
    export_model(
        folder,
        form.out,
        merged=form.merged,
        dtype=form.dtype,
        weights=weights,
        check=check,
        observer=observer,
    )
    return str(form.out)
