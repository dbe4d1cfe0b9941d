"""A training step of Re:Fine against TRL's GRPOTrainer, each at its best, in processes of their own.

    python benchmarks/against_trl.py [--prompt-tokens 512] [--vocabulary 2048] [--dtype both] ...

Both train the same model folder (by default one of random weights, as `refine bench` makes it) with the same
group size, equally many prompts and tokens a step, AdamW, one update, no KL term, nothing logged or saved.
Prompts are random and have the same number of tokens, checked with TRL's own tokenizer call; nobody stops at
an end token. First TRL tries each micro-batch of --micro-batches; then its best one and Re:Fine run in turn
(A B A B ...). Every process prints a line of JSON to standard error; the table goes to standard output.

"float32" is TRL's bf16=False, "bfloat16" its bf16=True (weights float32 without an adapter, as in Re:Fine;
with LoRA both keep the frozen weights in bfloat16). Gradient checkpointing, on by default in TRL, is off: it
is faster so; --checkpointing tries it as well. Peak memory is what the system counted for the process.

With --sft it is supervised fine-tuning, against SFTTrainer (against_trl_sft.py says how). With --task RECIPE
it is a race to a held-out reward, with options of its own: --seeds, --arms, --steps, --results and others
(against_trl_task.py says how and which).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PARTS = ("sample", "train")


def main() -> None:
    if "--task" in sys.argv:
        import against_trl_task  # beside this file

        against_trl_task.main(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", help="a recipe: a race to a held-out reward (against_trl_task.py)")
    parser.add_argument("--model", help="a folder with a model; without it, one of random weights")
    parser.add_argument("--vocabulary", type=int, default=2048, help="of the random model")
    parser.add_argument("--hidden", type=int, default=256, help="its width")
    parser.add_argument("--layers", type=int, default=4, help="its layers")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--completion-tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=8, help="a step")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "both"], default="both")
    parser.add_argument("--adapter", choices=["lora", "none"], default="none")
    parser.add_argument("--sft", action="store_true", help="supervised fine-tuning, against SFTTrainer")
    parser.add_argument("--dropout", type=float, default=0.0, help="of the adapter, with --sft")
    parser.add_argument("--rows", type=int, default=64, help="of a step of --sft")
    parser.add_argument("--shortest", type=int, default=20, help="row of --sft, in tokens")
    parser.add_argument("--longest", type=int, default=500, help="row of --sft, in tokens")
    parser.add_argument("--tokens-at-once", type=int, default=0, help="of Re:Fine with --sft; 0: its default")
    parser.add_argument("--padding-free", action="store_true", help="try it with TRL's SFTTrainer as well")
    parser.add_argument("--micro-batches", default="8,16,32,64", help="rows a pass that TRL tries")
    parser.add_argument("--checkpointing", action="store_true", help="try it with TRL as well")
    parser.add_argument("--repeats", type=int, default=2, help="processes of each side")
    parser.add_argument("--steps", type=int, default=3, help="timed in each process")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before them")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for Re:Fine")
    parser.add_argument("--trl-python", default=sys.executable, help="a Python that has trl")
    parser.add_argument("--trl-environment", type=Path, help="a folder: installs trl there, if not yet done")
    parser.add_argument("--trl-step", help=argparse.SUPPRESS)  # JSON: be TRL's process
    a = parser.parse_args()
    if a.trl_step:
        print(json.dumps(trl_steps(**json.loads(a.trl_step))))
        return
    # This process stays small: what a child is said to have taken begins with its parent's size.
    if a.trl_environment:
        a.trl_python = str(environment(a.trl_environment))
    with tempfile.TemporaryDirectory(prefix="against-trl-") as folder:
        model = a.model or random_model(Path(folder), a)
        formats = ["float32", "bfloat16"] if a.dtype == "both" else [a.dtype]
        if a.sft:
            import against_trl_sft as tables  # beside this file

            found = {dtype: tables.compare(model, dtype, a, run) for dtype in formats}
        else:
            tables = sys.modules[__name__]
            found = {dtype: compare(model, dtype, a) for dtype in formats}
    print("`" + " ".join(["python", *sys.argv]) + "`\n")
    print(tables.described(found, a) + "\n")
    print(tables.table(found))
    print("\nEvery setting of TRL that was tried:\n")
    print(tables.tried_table(found))


# -- the two sides ----------------------------------------------------------------------------------


def compare(model: str, dtype: str, a: argparse.Namespace) -> dict[str, Any]:
    """What both sides took in one number format, TRL at its fastest setting."""
    rows = a.prompts * a.group_size
    sizes = [int(n) for n in a.micro_batches.split(",")]
    settings = [
        {"micro_batch": n, "checkpointing": c}
        for n in sizes
        if n <= rows and rows % n == 0
        for c in ([False, True] if a.checkpointing else [False])
    ]
    if not settings:
        sys.exit(f"--micro-batches: none of {a.micro_batches} divides the {rows} completions of a step")
    tried = [run_trl(model, dtype, setting, a, steps=1) for setting in settings]
    able = [t for t in tried if "failed" not in t]
    if not able:
        sys.exit(f"TRL failed with every setting: {tried[0]['failed']}")
    best = min(able, key=lambda t: t["seconds_per_step"])["setting"]
    sides: dict[str, Any] = {"tried": tried, "trl": [], "refine": []}
    for _ in range(a.repeats):
        sides["trl"].append(run_trl(model, dtype, best, a, steps=a.steps))
        sides["refine"].append(run_refine(model, dtype, a))
    if failed := [r["failed"] for side in ("trl", "refine") for r in sides[side] if "failed" in r]:
        sys.exit(failed[0])
    return sides


def run_trl(
    model: str, dtype: str, setting: dict[str, Any], a: argparse.Namespace, steps: int
) -> dict[str, Any]:
    """One process of TRL."""
    what = {
        "model": model,
        "dtype": dtype,
        "adapter": a.adapter,
        "prompt_tokens": a.prompt_tokens,
        "completion_tokens": a.completion_tokens,
        "prompts": a.prompts,
        "group_size": a.group_size,
        "steps": steps,
        "warm_up": a.warm_up,
        "device": a.device,
        **setting,
    }
    result = run([a.trl_python, __file__, "--trl-step", json.dumps(what)], a)
    return say({"side": "trl", "dtype": dtype, "setting": setting, **result})


def run_refine(model: str, dtype: str, a: argparse.Namespace) -> dict[str, Any]:
    """One process of Re:Fine."""
    command = [sys.executable, "-m", "refine_rl", "bench", "--json", "--model", model, "--dtype", dtype]
    for name in (
        "adapter",
        "prompt_tokens",
        "completion_tokens",
        "prompts",
        "group_size",
        "steps",
        "warm_up",
    ):
        command += ["--" + name.replace("_", "-"), str(getattr(a, name))]
    for override in [f"model.device={a.device}", *a.set]:
        command += ["--set", override]
    return say({"side": "refine", "dtype": dtype, **run(command, a)})


def run(command: list[str], a: argparse.Namespace) -> dict[str, Any]:
    """The last line of a process as JSON, with the peak memory that the system counted for it; `failed` with
    the end of its messages where it failed."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(a.threads),
        "MKL_NUM_THREADS": str(a.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            messages = err.read().decode(errors="replace").strip()
            return {"failed": f"exit code {process.returncode}: {messages[-2000:]}"}
        result = json.loads(out.read().decode().splitlines()[-1])
    unit = 1 if sys.platform == "darwin" else 1024
    return {**result, "peak_rss_mb": usage.ru_maxrss * unit / 1e6}


def say(result: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def random_model(folder: Path, a: argparse.Namespace) -> str:
    """Written by another process, so that this one does not grow."""
    shape = f"Shape(vocabulary={a.vocabulary}, hidden={a.hidden}, layers={a.layers})"
    context = a.longest if a.sft else a.prompt_tokens + a.completion_tokens
    code = (
        "from pathlib import Path; from refine_rl.bench.random_model import Shape, write_random_model; "
        f"write_random_model(Path({str(folder)!r}), {shape}, context={context})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    return str(folder)


def environment(folder: Path) -> Path:
    """The Python of an environment that has trl, in the version that the tests are held against."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
        subprocess.run([*pip, "trl", "peft"], check=True, stdout=sys.stderr)
    return python


# -- TRL, in its own process --------------------------------------------------------------------------


def trl_steps(
    *,
    model: str,
    dtype: str,
    adapter: str,
    prompt_tokens: int,
    completion_tokens: int,
    prompts: int,
    group_size: int,
    steps: int,
    warm_up: int,
    device: str,
    micro_batch: int,
    checkpointing: bool,
    continuous: bool = False,
    liger: bool = False,
    warm_up_tokens: int | None = None,
) -> dict[str, Any]:
    """Medians over `steps` steps of GRPOTrainer; in those before them completions have `warm_up_tokens`.
    `continuous`: transformers' sampler of continuous batches in place of `generate`."""
    import random
    import warnings

    warnings.simplefilter("ignore")
    import datasets
    import torch
    import transformers
    import trl

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    numbers = random.Random(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side="left")
    needed = prompts * (warm_up + steps)
    texts = exact_prompts(tokenizer, prompt_tokens, needed, numbers)

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [numbers.random() for _ in completions]

    arguments = trl.GRPOConfig(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=prompts * group_size // micro_batch,
        num_generations=group_size,
        max_completion_length=completion_tokens,
        # An id that no token has: nothing ends early, and no processor has to forbid it each token.
        generation_kwargs={"eos_token_id": -1},
        max_steps=warm_up + steps,
        bf16=dtype == "bfloat16",
        gradient_checkpointing=checkpointing,
        use_transformers_continuous_batching=continuous,
        use_liger_kernel=liger,
        model_init_kwargs={"dtype": "bfloat16"} if dtype == "bfloat16" and adapter == "lora" else None,
        beta=0.0,
        num_iterations=1,
        loss_type="grpo",
        optim="adamw_torch",
        learning_rate=1e-4 if adapter == "lora" else 1e-5,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
    )
    clock = _clock(transformers.TrainerCallback)
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        callbacks=[clock],
        peft_config=_lora() if adapter == "lora" else None,
    )
    trainer.eos_token_ids = [-1]  # else what follows a sampled end token would be cut off
    generate = trainer._generate_and_score_completions

    def generate_and_time(*inputs: Any) -> Any:
        warms_up = warm_up_tokens is not None and len(clock.seconds) < warm_up
        length = warm_up_tokens if warms_up else completion_tokens
        trainer.generation_kwargs["max_new_tokens"] = trainer.generation_config.max_new_tokens = length
        began = time.perf_counter()
        made = generate(*inputs)
        clock.sampling[-1] += time.perf_counter() - began
        for what, asked in (("prompt", prompt_tokens), ("completion", length)):
            lengths = set(made[what + "_mask"].sum(dim=1).tolist())
            if lengths != {asked}:
                raise SystemExit(f"TRL's {what}s have {sorted(lengths)} tokens where {asked} were asked for")
        return made

    trainer._generate_and_score_completions = generate_and_time
    trainer.train()
    sampling, totals = clock.sampling[warm_up:-1], clock.seconds[warm_up:]
    assert len(totals) == steps
    return {
        "seconds_per_step": median(totals),
        "seconds": {
            "sample": median(sampling),
            "train": median(t - s for t, s in zip(totals, sampling, strict=True)),
        },
        "peak_device_mb": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None,
        "each_step": totals,
        "version": importlib.metadata.version("trl"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _clock(callback: Any) -> Any:
    class Clock(callback):
        """Seconds from one step's end to the next, and how many of them were sampling."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.sampling: list[float] = [0.0]
            self.last = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.seconds.append(now - self.last)
            self.sampling.append(0.0)
            self.last = now

    return Clock()


def _lora() -> Any:
    import peft

    # Re:Fine's defaults.
    return peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def exact_prompts(tokenizer: Any, tokens: int, count: int, numbers: Any) -> list[str]:
    """Random texts that TRL's call of the tokenizer makes exactly `tokens` tokens of. Exits where the
    tokenizer gives no such texts."""

    def encoded(text: str) -> list[int]:
        return list(tokenizer(text=[text])["input_ids"][0])

    added = len(encoded(""))  # a start token, where it puts one
    words = []
    for token in range(len(tokenizer)):
        twice = tokenizer.decode([token, token])
        # Words with a space between them, which do not melt into other tokens side by side.
        if " " in twice.strip() and encoded(twice)[added:] == [token, token]:
            words.append(token)
        if len(words) == 4096:
            break
    if not words:
        raise SystemExit("this tokenizer has no tokens that are words: TRL's prompts cannot be made exact")
    texts = []
    for _ in range(count):
        texts.append(tokenizer.decode(numbers.choices(words, k=tokens - added)))
        found = len(encoded(texts[-1]))
        if found != tokens:
            raise SystemExit(f"a prompt that was to have {tokens} tokens has {found} for TRL")
    return texts


# -- the tables -----------------------------------------------------------------------------------


def described(found: dict[str, dict[str, Any]], a: argparse.Namespace) -> str:
    """What was measured, on what."""
    some = next(iter(found.values()))
    trl, refine = some["trl"][0], some["refine"][0]
    return (
        f"{refine['parameters']:,} weights, {'LoRA' if a.adapter == 'lora' else 'all'} trained; {a.prompts} "
        f"prompts of {a.prompt_tokens} tokens x {a.group_size} completions of {a.completion_tokens}. "
        f"{refine['processor']}, {refine['device']}, {refine['threads']} threads; torch {refine['torch']}; "
        f"TRL {trl['version']} with torch {trl['torch']}, {trl['threads']} threads. Medians of {a.repeats} "
        f"processes of {a.steps} steps each, in turn."
    )


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row a number format; times and memory as TRL / Re:Fine, ratios above 1 in Re:Fine's favour."""
    heads = ["format", "TRL's best", "seconds a step", "faster", "sampling", "training"]
    lines = [markdown([*heads, "peak memory, MB", "smaller", "of the matrix rate"])]
    lines.append("|" + "---|" * (len(heads) + 3))
    for dtype, sides in found.items():
        trl, refine = sides["trl"], sides["refine"]
        pairs = {name: (middle(trl, "seconds", name), middle(refine, "seconds", name)) for name in PARTS}
        total = middle(trl, "seconds_per_step"), middle(refine, "seconds_per_step")
        peak = [max(r["peak_device_mb"] or r["peak_rss_mb"] for r in side) for side in (trl, refine)]
        share = None if refine[0]["share_of_matmul_rate"] is None else middle(refine, "share_of_matmul_rate")
        lines.append(
            markdown(
                [
                    dtype,
                    named(trl[0]["setting"]),
                    f"{total[0]:.2f} / {total[1]:.2f}",
                    f"**{total[0] / total[1]:.1f} x**",
                    *(f"{t:.2f} / {r:.2f} ({t / r:.1f} x)" for t, r in pairs.values()),
                    f"{peak[0]:,.0f} / {peak[1]:,.0f}",
                    f"**{peak[0] / peak[1]:.1f} x**",
                    "-" if share is None else f"{share:.0%}",
                ]
            )
        )
    return "\n".join(lines)


def tried_table(found: dict[str, dict[str, Any]]) -> str:
    lines = [markdown(["format", "TRL's setting", "seconds a step", "peak memory, MB"]), "|---|---|---|---|"]
    for dtype, sides in found.items():
        for t in sides["tried"]:
            figures = ["failed", "-"]
            if "failed" not in t:
                figures = [f"{t['seconds_per_step']:.2f}", f"{t['peak_device_mb'] or t['peak_rss_mb']:,.0f}"]
            lines.append(markdown([dtype, named(t["setting"]), *figures]))
    return "\n".join(lines)


def named(setting: dict[str, Any]) -> str:
    return f"micro-batch {setting['micro_batch']}" + (", checkpointing" if setting["checkpointing"] else "")


def middle(results: list[dict[str, Any]], *path: str) -> float:
    """The median over processes."""
    values = []
    for value in results:
        for name in path:
            value = value[name]
        values.append(value)
    return float(median(values))


def markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
