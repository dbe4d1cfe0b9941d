"""What `refine doctor` says of a broken copy of each kind.

    python benchmarks/doctor.py [--only weights,endpoint]

Each copy is the recipe `style` on the bundled model with one thing spoiled, in a folder of its own, and is
looked at by the command as a person calls it. A row of the table, in Markdown, has the lines that are no
tick: what was found, and the advice below it. The first copy is whole, and has no such line. LLMs and the
vLLM server are those of the tests (tests/llm_server.py, tests/vllm_server.py), on the loopback; nobody else
is asked. Threads, disk and time of this machine are left out; addresses that differ from one call to the
next are URL.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from safetensors.torch import load_file, save_file

from llm_server import LlmServer
from refine_rl import assets, cli
from refine_rl.recipes import recipe_folder
from vllm_server import VllmServer

SMALL = {'name = "tiny"': 'name = "my-task/model"', "group_size = 8": "group_size = 4"}
JUDGED = (
    'reward.judges=["local/judge"]',
    "reward.functions=[]",
    "reward.sanity=[]",
    "endpoints.local={base_url = 'URL', prices = {judge = {input = 1.0, output = 2.0}}}",
)
SERVED = ('engine.kind="vllm"', 'engine.base_url="URL"', "model.dtype=float32", "model.device=cpu")
MACHINE = ("device", "disk", "time")
FORGETFUL = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ENDLESS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A task.toml in a folder with a model beside it, and the settings with which it is looked at."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def weights(self, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
        file = self.model / "model.safetensors"
        whole = load_file(file)
        change(whole)
        save_file(whole, file, metadata={"format": "pt"})

    def reward(self, body: str) -> None:
        (self.folder / "own.py").write_text(f"def own(prompt, completion):\n    return {body}\n")

    def write(self, name: str, text: str) -> None:
        (self.model / name).write_text(text)


Spoil = Callable[[Copy], object]
Serve = Callable[[Copy], AbstractContextManager[str]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is broken, in words; how a copy is spoiled, and with which settings; who answers at URL."""

    what: str
    spoil: Spoil = lambda copy: None
    settings: tuple[str, ...] = ()
    serve: Serve = lambda copy: contextlib.nullcontext("")


@contextlib.contextmanager
def judge(copy: Copy, said: str) -> Iterator[str]:
    server = LlmServer(brain=lambda body: said, models=["judge"])
    try:
        yield server.base_url
    finally:
        server.stop()


@contextlib.contextmanager
def nobody(copy: Copy) -> Iterator[str]:
    """An address at which nobody listens, as long as nobody else takes it."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{kept.getsockname()[1]}/v1"


@contextlib.contextmanager
def sampler(copy: Copy, wrong: str) -> Iterator[str]:
    server = VllmServer(copy.model, names=(str(copy.model),), logprobs_mode="raw_logprobs")
    server.wrong = wrong
    try:
        yield server.base_url
    finally:
        server.stop()


def function(body: str) -> Case:
    """Of a reward function with this body; `what` is put in by its name."""
    return Case(
        what=f"a reward function that says `{body}`",
        spoil=lambda copy: copy.reward(body),
        settings=('reward.functions=["own.py:own"]', "reward.sanity=[]"),
    )


CASES: dict[str, Case] = {
    "whole": Case(what="nothing"),
    "weights": Case(
        what="one matrix is missing in the model's file",
        spoil=lambda c: c.weights(lambda w: w.__delitem__("model.layers.1.mlp.up_proj.weight")),
    ),
    "unexpected": Case(
        what="one matrix too many in it",
        spoil=lambda c: c.weights(lambda w: w.update({"model.layers.9.mlp.up_proj.weight": torch.ones(2)})),
    ),
    "cut": Case(
        what="half of the file, as after a copy that broke off",
        spoil=lambda c: os.truncate(
            c.model / "model.safetensors", (c.model / "model.safetensors").stat().st_size // 2
        ),
    ),
    "turn": Case(
        what="a template that forgets whose turn it is",
        spoil=lambda c: c.write("chat_template.jinja", FORGETFUL),
    ),
    "endless": Case(
        what="a template that puts no stop token behind an answer",
        spoil=lambda c: c.write("chat_template.jinja", ENDLESS),
    ),
    "stop": Case(
        what="a stop token that the model does not have",
        spoil=lambda c: c.write("generation_config.json", json.dumps({"eos_token_id": [90000]})),
    ),
    "targets": Case(what="LoRA on layers that are not there", settings=('model.targets=["q_prog"]',)),
    "half": Case(what="LoRA in one block alone", settings=('model.targets=["0.self_attn.q_proj"]',)),
    "adapter": Case(
        what="a vLLM server that takes the adapter and answers without it",
        settings=SERVED,
        serve=lambda copy: sampler(copy, "base"),
    ),
    "half adapter": Case(
        what="one that answers with half of it", settings=SERVED, serve=lambda copy: sampler(copy, "half")
    ),
    "server": Case(what="a vLLM server that is not there", settings=SERVED, serve=nobody),
    "endpoint": Case(what="a judge's endpoint that is not there", settings=JUDGED, serve=nobody),
    "prose": Case(
        what="a judge that answers in prose",
        settings=JUDGED,
        serve=lambda copy: judge(copy, "I like the first one best."),
    ),
    "flat": function("0.5"),
    "raises": function("1 / 0"),
    "limit": Case(what="answers of at most 2 tokens", settings=("rollout.max_tokens=2",)),
    "memory": Case(
        what="a micro-batch that is larger than the memory",
        settings=(
            "rollout.group_size=8",
            "grpo.prompts_per_step=480",
            "grpo.tokens_per_micro_batch=200000",
        ),
    ),
    "name": Case(what="a model's name with a letter too many", settings=('model.name="tinny"',)),
    "settings": Case(what="settings that cannot be", settings=("grpo.kl_in=reward",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES))
    os.environ["HF_HUB_OFFLINE"] = "1"
    print("| what is broken | what the doctor says | and advises |")
    print("|---|---|---|")
    for name in parser.parse_args().only.split(","):
        for row in rows(CASES[name]):
            print(f"| {' | '.join(row)} |", flush=True)


def rows(case: Case) -> list[tuple[str, str, str]]:
    """Of the table; the first has the case's name."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        copy = Copy(folder=Path("my-task"))
        shutil.copytree(recipe_folder("style"), copy.folder)
        task = copy.folder / "task.toml"
        text = task.read_text()
        for old, new in SMALL.items():
            assert old in text
            text = text.replace(old, new)
        task.write_text(text)
        shutil.copytree(Path(assets.__file__).parent / "tiny", copy.model)
        case.spoil(copy)
        with case.serve(copy) as url:
            found = looked_at(copy, [setting.replace("URL", url) for setting in case.settings])

        def cell(text: str) -> str:
            """A text in a table's cell; what differs from one call to the next has a name."""
            text = re.sub(r"--port \d+", "--port PORT", text.replace(url, "URL") if url else text)
            text = text.replace(f"{place}/", "").replace("<", "&lt;")
            return re.sub(r"([|~])", r"\\\1", text).replace("\n", "<br>")

    said = [one for one in found["checks"] if one["status"] != "ok" and one["check"] not in MACHINE]
    lines = [(f"{SIGNS[one['status']]} `{one['check']}`: {cell(one['text'])}", one) for one in said]
    if not lines:
        return [(case.what, "✓ all", "")]
    return [(case.what if n == 0 else "", text, cell(one["advice"])) for n, (text, one) in enumerate(lines)]


SIGNS = {"warning": "!", "error": "✗", "skipped": "–"}


def looked_at(copy: Copy, settings: list[str]) -> dict[str, Any]:
    """What `refine doctor my-task --yes --json` prints."""
    out = io.StringIO()
    arguments = ["doctor", str(copy.folder), "--yes", "--json"]
    for change in settings:
        arguments += ["--set", change]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        cli.app(arguments, prog_name="refine", standalone_mode=False)
    return json.loads(out.getvalue())  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
