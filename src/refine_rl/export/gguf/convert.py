"""llama.cpp's converter, run on a merged model; and what it complains about, in plain words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from refine_rl.errors import MachineError, RefineError, UserError, disk_error
from refine_rl.export.gguf import launch
from refine_rl.export.gguf.find import LlamaCpp
from refine_rl.export.gguf.pre import pre_tokenizer_of

_UNKNOWN_TOKENIZER = "pre-tokenizer was not recognized"


def convert(tools: LlamaCpp, folder: Path, file: Path, outtype: str, name: str) -> str:
    """Has the converter write the merged model in `folder` as `file`, under `name`. Returns what a person
    should know of it, or "". Raises UserError for what llama.cpp cannot take, MachineError for all else."""
    _as_the_converter_reads(folder / "config.json")
    options = [str(folder), "--outfile", str(file), "--outtype", outtype, "--model-name", name]
    said = _run([str(tools.converter), *options], file)
    if said is None:
        return ""
    if _UNKNOWN_TOKENIZER not in said:
        raise _refusal(said, tools, file)
    pre = pre_tokenizer_of(folder)
    if not pre:
        raise UserError(
            "llama.cpp's converter does not know this model's tokenizer: it knows tokenizers one by one, and "
            "this one cuts texts before its merges in a way that has no name there. transformers and vLLM "
            "take the model as it is: export with --merged. A newer llama.cpp may know the tokenizer."
        )
    said = _run([launch.__file__, str(tools.converter), pre, *options], file)
    if said is not None:
        raise _refusal(said, tools, file)
    return (
        f'the converter does not know this tokenizer; tokenizer.json says that it cuts texts as "{pre}" '
        "does, and so it was called"
    )


def _as_the_converter_reads(config: Path) -> None:
    """Adds what transformers 5 does not write any more and the converter asks for: GPT-2's `n_ctx`."""
    said = json.loads(config.read_text(encoding="utf-8"))
    if said.get("model_type") == "gpt2" and "n_ctx" not in said:
        said["n_ctx"] = said["n_positions"]
        config.write_text(json.dumps(said, indent=2), encoding="utf-8")


def _run(command: list[str], file: Path) -> str | None:
    """None where all went well, else what was said on the way."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, errors="replace")
    if done.returncode == 0 and file.is_file():
        return None
    file.unlink(missing_ok=True)
    return (done.stdout + done.stderr) or f"it ended with exit code {done.returncode} and wrote nothing"


def _refusal(said: str, tools: LlamaCpp, file: Path) -> RefineError:
    """What a person is told of the converter's words."""
    if found := re.search(r"Model (\w+) is not supported|Architecture '(\w+)' not supported", said):
        return UserError(
            f"llama.cpp's converter does not know the architecture {found[1] or found[2]}. A newer llama.cpp "
            f"may (this one is {tools.converter.parent}); transformers and vLLM take the model as it is: "
            "export with --merged."
        )
    if found := re.search(r"No module named '(\w+)'", said):
        return UserError(
            f"llama.cpp's converter needs the Python package {found[1]}, which is not installed: "
            f"pip install {found[1]}"
        )
    if found := re.search(r"Can not map tensor '([^']+)'", said):
        return UserError(
            f"llama.cpp has no place for the weight {found[1]} of this model: it knows the architecture in "
            "another shape (a T5 with more layers in its decoder than in its encoder is one such). "
            "transformers takes the model as it is: export with --merged."
        )
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    if disk := disk_error(OSError(last) if "[Errno" not in last else RuntimeError(last), file):
        return disk
    return MachineError(
        f"llama.cpp's converter ({tools.converter}) failed: {last.strip()} Its own words come with: "
        f"python {tools.converter} MERGED_FOLDER --outfile {file.name}"
    )
