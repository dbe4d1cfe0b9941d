"""A step of Re:Fine's supervised fine-tuning against TRL's SFTTrainer; `against_trl.py --sft` calls this.

Both train the same model folder on the same rows: token ids drawn once, of lengths as chats have them (a
long tail, --shortest to --longest tokens, prompt and answer), so many a step, loss on the answers' tokens
alone, their mean over the step; AdamW, gradients clipped at 1, nothing saved. TRL gets the ids and its labels
as they are, so that it tokenises nothing; in turn it may sort the rows of a step by length, which pads least.
First it tries each micro-batch of --micro-batches, in the order of the rows and sorted, padded and
(--padding-free) laid end to end; then its best setting and Re:Fine run in turn. The first step's loss and
gradient norm must be equal. Beside the seconds of a step stand those of the processor, which other work on
the machine does not change: by them TRL's best setting is chosen.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

SAME_LOSS = {"float32": 1e-4, "bfloat16": 2e-2}  # nats a token, of the first step
SAME_NORM = {"float32": 1e-3, "bfloat16": 5e-2}  # share of the gradient's norm

Run = Callable[[list[str], argparse.Namespace], dict[str, Any]]


def row_lengths(count: int, shortest: int, longest: int, numbers: random.Random) -> list[tuple[int, int]]:
    """(tokens of the prompt, of the answer) of each row: log-normal in all, cut to the ends, an answer of a
    tenth to nine tenths of it.

    >>> row_lengths(3, 20, 500, random.Random(0))
    [(42, 44), (35, 19), (16, 77)]
    """
    lengths = []
    middle = math.exp((math.log(shortest) + math.log(longest)) / 2)
    spread = math.log(longest / shortest) / 4
    for _ in range(count):
        total = round(min(longest, max(shortest, numbers.lognormvariate(math.log(middle), spread))))
        answer = max(1, min(total - 1, round(total * numbers.uniform(0.1, 0.9))))
        lengths.append((total - answer, answer))
    return lengths


def draw_rows(a: argparse.Namespace, vocabulary: int) -> list[dict[str, list[int]]]:
    """The rows of all steps, in order."""
    numbers = random.Random(0)
    lengths = row_lengths(a.rows * (a.warm_up + a.steps), a.shortest, a.longest, numbers)
    return [
        {
            "prompt": [numbers.randrange(1, vocabulary) for _ in range(prompt)],
            "answer": [numbers.randrange(1, vocabulary) for _ in range(answer)],
        }
        for prompt, answer in lengths
    ]


# -- both sides ---------------------------------------------------------------------------------------


def compare(model: str, dtype: str, a: argparse.Namespace, run: Run) -> dict[str, Any]:
    """What both sides took in one number format, TRL at its fastest setting."""
    with tempfile.TemporaryDirectory(prefix="against-trl-sft-") as folder:
        rows = Path(folder) / "rows.json"
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        rows.write_text(json.dumps(draw_rows(a, config["vocab_size"])), encoding="utf-8")
        what = {
            "model": model,
            "dtype": dtype,
            "adapter": a.adapter,
            "dropout": a.dropout,
            "rows": str(rows),
            "a_step": a.rows,
            "warm_up": a.warm_up,
            "device": a.device,
        }
        settings = [
            {"micro_batch": int(n), "by_length": by_length, "padding_free": free}
            for n in a.micro_batches.split(",")
            for free in ([False, True] if a.padding_free else [False])
            for by_length in (False, True)
            if int(n) <= a.rows and a.rows % int(n) == 0 and not (free and by_length)
        ]
        if not settings:
            sys.exit(f"--micro-batches: none of {a.micro_batches} divides the {a.rows} rows of a step")

        def trl(setting: dict[str, Any], steps: int) -> dict[str, Any]:
            job = json.dumps({**what, "steps": steps, **setting})
            return say(
                {"side": "trl", "dtype": dtype, "setting": setting}
                | run([a.trl_python, __file__, "trl", job], a)
            )

        def refine() -> dict[str, Any]:
            job = json.dumps({**what, "steps": a.steps, "tokens_at_once": a.tokens_at_once})
            return say({"side": "refine", "dtype": dtype} | run([sys.executable, __file__, "refine", job], a))

        tried = [trl(setting, steps=1) for setting in settings]
        able = [t for t in tried if "failed" not in t]
        if not able:
            sys.exit(f"TRL failed with every setting: {tried[0]['failed']}")
        # By the processor's time: other work on the machine takes none of it.
        best = min(able, key=lambda t: t["processor_per_step"])["setting"]
        sides: dict[str, Any] = {"tried": tried, "trl": [], "refine": []}
        for _ in range(a.repeats):
            sides["trl"].append(trl(best, a.steps))
            sides["refine"].append(refine())
    if failed := [r["failed"] for side in ("trl", "refine") for r in sides[side] if "failed" in r]:
        sys.exit(failed[0])
    if not a.dropout:  # what is dropped at the first step is each side's own
        require_same(sides, dtype, adapter=a.adapter != "none")
    return sides


def require_same(sides: dict[str, Any], dtype: str, *, adapter: bool = False) -> None:
    """Exits where the two did not do the same: their first steps differ in loss or gradient. The gradient of
    a fresh adapter follows from its own random matrices, so it is not compared."""
    trl, refine = sides["trl"][0], sides["refine"][0]
    loss = abs(trl["first_loss"] - refine["first_loss"])
    norm = abs(trl["first_norm"] / refine["first_norm"] - 1)
    if loss > SAME_LOSS[dtype] or (norm > SAME_NORM[dtype] and not adapter):
        sys.exit(
            f"the first steps differ in {dtype}: loss {trl['first_loss']} (TRL) and {refine['first_loss']}, "
            f"gradient norm {trl['first_norm']} and {refine['first_norm']}"
        )


def say(result: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


# -- one side, in its own process ------------------------------------------------------------------------


def refine_steps(
    *,
    model: str,
    dtype: str,
    adapter: str,
    dropout: float,
    rows: str,
    a_step: int,
    warm_up: int,
    steps: int,
    device: str,
    tokens_at_once: int = 0,
) -> dict[str, Any]:
    """Medians over `steps` updates of Re:Fine, as `refine sft` makes them."""
    import numpy as np
    import torch

    from refine_rl.bench.machine import processor, synchronize
    from refine_rl.policy.load import load_policy
    from refine_rl.progress import never
    from refine_rl.settings import ModelSettings, SFTSettings
    from refine_rl.training.check import Check
    from refine_rl.training.local import LocalLearner, adamw
    from refine_rl.training.sft.rows import Tokens, likelihood, rows_of

    chosen = ModelSettings(name=model, adapter=adapter, dtype=dtype, device=device)
    policy = load_policy(chosen, seed=0, keep_reference=False)
    learner = LocalLearner(
        speaker=policy,
        optimizer=adamw(policy),
        check=Check(speaker=policy),
        tokens=tokens_at_once or SFTSettings(data="file:-").at_once,
        dropout=dropout,
        table="sft",
    )
    drawn = json.loads(Path(rows).read_text(encoding="utf-8"))
    tokens = [
        Tokens(
            name=f"{n}",
            ids=np.array(row["prompt"] + row["answer"], dtype=np.int32),
            spans=(len(row["prompt"]), len(row["answer"])),
        )
        for n, row in enumerate(drawn)
    ]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, worked, learned = [], [], []
    for step in range(1, warm_up + steps + 1):
        some = tokens[(step - 1) * a_step : step * a_step]
        synchronize(policy.device)
        began, work = time.perf_counter(), time.process_time()
        learned.append(
            learner.learn(rows_of(some), likelihood, step=step, rate=rate_of(adapter), pause=never)
        )
        synchronize(policy.device)
        seconds.append(time.perf_counter() - began)
        worked.append(time.process_time() - work)
    taken = seconds[warm_up:]
    return {
        "seconds_per_step": median(taken),
        "processor_per_step": median(worked[warm_up:]),
        "each_step": taken,
        "first_loss": learned[0].loss,
        "first_norm": learned[0].grad_norm,
        "peak_device_mb": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None,
        "parameters": policy.share.whole,
        "processor": processor(policy.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def trl_steps(
    *,
    model: str,
    dtype: str,
    adapter: str,
    dropout: float,
    rows: str,
    a_step: int,
    warm_up: int,
    steps: int,
    device: str,
    micro_batch: int,
    by_length: bool,
    padding_free: bool,
) -> dict[str, Any]:
    """Medians over `steps` steps of SFTTrainer."""
    import warnings

    warnings.simplefilter("ignore")
    import datasets
    import torch
    import transformers
    import trl

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    drawn = json.loads(Path(rows).read_text(encoding="utf-8"))[: a_step * (warm_up + steps)]
    if by_length:
        starts = range(0, len(drawn), a_step)
        drawn = [r for s in starts for r in sorted(drawn[s : s + a_step], key=lambda r: -length_of(r))]
    arguments = trl.SFTConfig(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=a_step // micro_batch,
        max_steps=warm_up + steps,
        max_length=None,
        padding_free=padding_free,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=dtype == "bfloat16",
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "bfloat16" if dtype == "bfloat16" and adapter == "lora" else "float32"},
        optim="adamw_torch",
        learning_rate=rate_of(adapter),
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
    )
    clock = _clock(transformers.TrainerCallback)
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(
            {
                "input_ids": [r["prompt"] + r["answer"] for r in drawn],
                "labels": [[-100] * len(r["prompt"]) + r["answer"] for r in drawn],
            }
        ),
        processing_class=transformers.AutoTokenizer.from_pretrained(model),
        callbacks=[clock],
        peft_config=_lora(dropout) if adapter == "lora" else None,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    first = next(line for line in trainer.state.log_history if "loss" in line)
    taken = clock.seconds[warm_up:]
    assert len(taken) == steps
    return {
        "seconds_per_step": median(taken),
        "processor_per_step": median(clock.worked[warm_up:]),
        "each_step": taken,
        "first_loss": float(first["loss"]),
        "first_norm": float(first["grad_norm"]),
        "peak_device_mb": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None,
        "version": importlib.metadata.version("trl"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def rate_of(adapter: str) -> float:
    """The learning rate of both sides."""
    return 1e-4 if adapter == "lora" else 1e-5


def length_of(row: dict[str, list[int]]) -> int:
    return len(row["prompt"]) + len(row["answer"])


def _clock(callback: Any) -> Any:
    class Clock(callback):
        """Seconds from one step's end to the next."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.worked: list[float] = []
            self.last = self.work = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last, self.work = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now, work = time.perf_counter(), time.process_time()
            self.seconds.append(now - self.last)
            self.worked.append(work - self.work)
            self.last, self.work = now, work

    return Clock()


def _lora(dropout: float) -> Any:
    import peft

    # Re:Fine's defaults.
    return peft.LoraConfig(
        r=16, lora_alpha=32, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )


# -- the tables -----------------------------------------------------------------------------------------


def described(found: dict[str, dict[str, Any]], a: argparse.Namespace) -> str:
    """What was measured, on what."""
    some = next(iter(found.values()))
    trl, refine = some["trl"][0], some["refine"][0]
    lengths = row_lengths(a.rows * (a.warm_up + a.steps), a.shortest, a.longest, random.Random(0))
    totals = sorted(p + n for p, n in lengths)
    trained = "all" if a.adapter == "none" else "LoRA"
    if a.dropout:
        trained += f" with dropout {a.dropout:g}"
    return (
        f"{refine['parameters']:,} weights, {trained} trained; {a.rows} rows a step, {totals[0]} to "
        f"{totals[-1]} tokens (median {median(totals):.0f}, "
        f"{sum(n for _, n in lengths) / sum(totals):.0%} of them answers). {refine['processor']}, "
        f"{refine['threads']} threads; torch {refine['torch']}; TRL {trl['version']} with torch "
        f"{trl['torch']}, {trl['threads']} threads. Medians of {a.repeats} processes of {a.steps} steps "
        "each, in turn."
    )


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row a number format; figures as TRL / Re:Fine, ratios above 1 in Re:Fine's favour."""
    lines = [
        markdown(
            [
                "format",
                "TRL's best",
                "seconds a step",
                "faster",
                "processor seconds",
                "faster",
                "peak memory, MB",
                "smaller",
                "first loss",
            ]
        )
    ]
    lines.append("|" + "---|" * 9)
    for dtype, sides in found.items():
        trl, refine = sides["trl"], sides["refine"]
        seconds = [median(r["seconds_per_step"] for r in side) for side in (trl, refine)]
        worked = [median(r["processor_per_step"] for r in side) for side in (trl, refine)]
        peak = [max(r["peak_device_mb"] or r["peak_rss_mb"] for r in side) for side in (trl, refine)]
        lines.append(
            markdown(
                [
                    dtype,
                    named(trl[0]["setting"]),
                    f"{seconds[0]:.2f} / {seconds[1]:.2f}",
                    f"**{seconds[0] / seconds[1]:.2f} x**",
                    f"{worked[0]:.2f} / {worked[1]:.2f}",
                    f"**{worked[0] / worked[1]:.2f} x**",
                    f"{peak[0]:,.0f} / {peak[1]:,.0f}",
                    f"**{peak[0] / peak[1]:.2f} x**",
                    f"{trl[0]['first_loss']:.4f} / {refine[0]['first_loss']:.4f}",
                ]
            )
        )
    return "\n".join(lines)


def tried_table(found: dict[str, dict[str, Any]]) -> str:
    heads = ["format", "TRL's setting", "seconds a step", "processor seconds", "peak memory, MB"]
    lines = [markdown(heads), "|---|---|---|---|---|"]
    for dtype, sides in found.items():
        for t in sides["tried"]:
            figures = ["failed", "-", "-"]
            if "failed" not in t:
                peak = f"{t['peak_device_mb'] or t['peak_rss_mb']:,.0f}"
                figures = [f"{t['seconds_per_step']:.2f}", f"{t['processor_per_step']:.2f}", peak]
            lines.append(markdown([dtype, named(t["setting"]), *figures]))
    return "\n".join(lines)


def named(setting: dict[str, Any]) -> str:
    how = "end to end" if setting["padding_free"] else "by length" if setting["by_length"] else "as they come"
    return f"micro-batch {setting['micro_batch']}, {how}"


def markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    side, job = sys.argv[1:]
    print(json.dumps({"trl": trl_steps, "refine": refine_steps}[side](**json.loads(job))))
