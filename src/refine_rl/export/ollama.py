"""A model of Ollama: the file that tells it of a GGUF file, `ollama create`, and what it says then."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_rl.errors import MachineError, UserError
from refine_rl.export.asking import ask
from refine_rl.export.check import Check
from refine_rl.export.go_template import Around
from refine_rl.export.witness import Said, Witness

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?")


def require_name(name: str) -> None:
    """Raises UserError for what Ollama takes for no name."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--ollama {name}: a name is letters, digits, - _ and ., with an owner before a / and a tag "
            "behind a : where wanted."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What Ollama is told of a model. `chat`: how a conversation is written (None: as it thinks best);
    `context`: tokens of prompt and answer together; `answer`: of an answer at most; `top_k` 0 and `top_p` 1
    draw from all tokens."""

    chat: Around | None
    system: str
    stop: Sequence[str]
    temperature: float
    top_p: float
    top_k: int
    context: int
    answer: int

    def modelfile(self, gguf: str) -> str:
        """The Modelfile beside the file `gguf`. Raises UserError for a system message that cannot stand in
        one."""
        if '"""' in self.system:
            raise UserError("the system message has three quotes in it, which end it in a Modelfile")
        lines = [f"FROM ./{gguf}"]
        if self.chat is not None:
            lines.append(f'TEMPLATE """{self.chat.text()}"""')
        if self.system:
            lines.append(f'SYSTEM """{self.system}"""')
        values = {
            "temperature": f"{self.temperature:g}",
            "top_p": f"{self.top_p:g}",
            "top_k": str(self.top_k),
            "repeat_penalty": "1",
            "num_ctx": str(self.context),
            "num_predict": str(self.answer),
        }
        lines += [f"PARAMETER {key} {value}" for key, value in values.items()]
        lines += [f'PARAMETER stop "{token}"' for token in self.stop if '"' not in token]
        return "\n".join(lines) + "\n"


def program() -> str | None:
    """Where `ollama` is, if it is."""
    return shutil.which("ollama")


def create(name: str, folder: Path) -> None:
    """Has Ollama take the Modelfile in `folder` as the model `name`. Raises MachineError with its words where
    it does not."""
    command = [program() or "ollama", "create", name, "-f", "Modelfile"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode:
        words = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise MachineError(f"ollama create failed: {words[-1] if words else done.returncode}")


def address() -> str:
    """Where Ollama serves: OLLAMA_HOST, or its own default.

    >>> import os; os.environ["OLLAMA_HOST"] = "0.0.0.0:5000"; address()
    'http://127.0.0.1:5000'
    >>> del os.environ["OLLAMA_HOST"]; address()
    'http://127.0.0.1:11434'
    """
    told = os.environ.get("OLLAMA_HOST", "").strip() or "127.0.0.1"
    scheme, _, rest = told.rpartition("://")
    host, colon, port = rest.rstrip("/").partition(":")
    if host in ("0.0.0.0", ""):  # where it listens, not where it is
        host = "127.0.0.1"
    usual = {"http": "80", "https": "443"}.get(scheme, "11434")
    return f"{scheme or 'http'}://{host}:{port if colon else usual}"


def check_ollama(name: str, witness: Witness) -> Check:
    """What Ollama's model answers to the prompts as chats, through its OpenAI endpoint. Raises MachineError
    where it does not answer."""
    same, parted = 0, ""
    for said in witness.said:
        found = _answer(name, said, witness.max_tokens)
        text = str(found["choices"][0]["message"]["content"])
        if text.strip() == said.text.strip():
            same += 1
        elif not parted:
            asked = found.get("usage", {}).get("prompt_tokens")
            other = "" if asked in (None, len(said.prompt)) else f"{asked} tokens and not {len(said.prompt)}"
            parted = f": it says {text.strip()[:60]!r} and not {said.text.strip()[:60]!r}" + (
                f", and its prompt has {other}" if other else ""
            )
    of = len(witness.said)
    which = "the same" if same == of else f"{same} of {of} the same{parted}"
    return Check(text=f"Ollama's answers: {which}", held=same == of, fatal=same == 0)


def _answer(name: str, said: Said, most: int) -> Any:
    url = f"{address()}/v1/chat/completions"
    asked = {
        "model": name,
        "messages": list(said.messages),
        "temperature": 0,
        "seed": 0,
        "max_tokens": most,
        "stream": False,
    }
    return ask(url, asked, refuses=f"Ollama ({url}) answers", silent=f"Ollama does not answer at {url}")
