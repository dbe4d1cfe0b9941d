"""What gpu.py measured, as Markdown for RESULTS.md: gpu.json -> tables."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


def beside(name: str) -> ModuleType:
    """Another script of this folder."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def page(found: dict[str, Any]) -> str:
    """All tables, and what was left out."""
    items: dict[str, Any] = found["items"]

    def of(part: str) -> dict[str, Any]:
        return {key.partition(": ")[2]: r for key, r in items.items() if key.startswith(f"{part}: ")}

    sections = [
        [machine(found.get("sides", {}))],
        list(steps(of("grpo"))),
        list(tried(of("grpo"))),
        list(fine_tuning(of("sft"))),
        list(sweep(of("sweep"))),
        list(quantised(of("qlora"))),
        list(turns(of("turns"))),
        list(semantic(of("semantic"))),
        list(tests(of("tests"))),
    ]
    if left := found.get("left_out"):
        sections.append([f"Not within the time: {'; '.join(left)}."])
    return "\n\n".join("\n".join(s) for s in sections if s)


def machine(sides: dict[str, Any]) -> str:
    refine, trl = sides.get("refine", {}), sides.get("trl", {})
    words = [refine.get("card", "a processor")]
    if "memory" in refine:
        words.append(f"{refine['memory'] / 1e9:.0f} GB")
    words.append(f"torch {refine.get('torch', '?')}")
    if "trl" in trl:
        words.append(f"TRL {trl['trl']} with transformers {trl['transformers']}")
    return ", ".join(words)


def steps(rows: dict[str, Any]) -> Iterator[str]:
    """Training steps, TRL / Re:Fine; ratios above 1 in Re:Fine's favour."""
    if not rows:
        return
    yield row(
        "weights, prompt + completion, members",
        "seconds a step",
        "faster",
        "sampling",
        "training",
        "peak memory, MB",
        "smaller",
        "at once",
        "of the matrix rate",
    )
    yield row(*["---"] * 9)
    for name, found in rows.items():
        trl, refine = found.get("trl", {}), found["refine"]
        peak = both("peak_device_mb", trl, refine, "{:,.0f}")
        share = refine.get("share_of_matmul_rate")
        yield row(
            name,
            both("seconds_per_step", trl, refine, "{:.2f}"),
            ratio(trl.get("seconds_per_step"), refine.get("seconds_per_step")),
            *(
                both(p, trl.get("seconds", {}), refine.get("seconds", {}), "{:.2f}")
                for p in ("sample", "train")
            ),
            peak,
            ratio(trl.get("peak_device_mb"), refine.get("peak_device_mb")),
            f"{trl.get('micro_batch', '-')} rows / {refine.get('tokens_at_once', 0):,} tokens",
            "-" if share is None else f"{share:.1%}",
        )
        for side, result in (("TRL", trl), ("Re:Fine", refine)):
            if "failed" in result:
                yield row(f"{name}, {side}", f"failed: {result['failed']}", *["-"] * 7)


def tried(rows: dict[str, Any]) -> Iterator[str]:
    """With which settings TRL was tried."""
    for name, found in rows.items():
        if "tried" in found:
            yield f"TRL's settings, tried at {name.partition(',')[0]} with short completions:"
            yield ""
            yield row("setting", "seconds a step")
            yield row("---", "---")
            for t in found["tried"]:
                seconds = t["failed"] if "failed" in t else f"{t['seconds_per_step']:.2f}"
                yield row(", ".join(t["setting"]) or "generate, with its cache", seconds)


def fine_tuning(rows: dict[str, Any]) -> Iterator[str]:
    if not rows:
        return
    yield row("fine-tuning", "setting", "seconds a step", "peak memory, MB", "first loss")
    yield row(*["---"] * 5)
    for name, found in rows.items():
        for r in found.get("trl", []):
            how = beside("against_trl_sft").named(r["setting"])
            yield row(name, f"TRL: {how}", *figures(r, "first_loss", "{:.4f}"))
        for r in found.get("refine", []):
            at_once = f"{r.get('tokens_at_once', 0):,}"
            yield row(name, f"Re:Fine: {at_once} tokens at once", *figures(r, "first_loss", "{:.4f}"))


def figures(result: dict[str, Any], name: str, form: str) -> list[str]:
    if "failed" in result:
        return [f"failed: {result['failed']}", "-", "-"]
    peak = result.get("peak_device_mb")
    return [
        f"{result['seconds_per_step']:.3f}",
        "-" if peak is None else f"{peak:,.0f}",
        form.format(result[name]),
    ]


def sweep(rows: dict[str, Any]) -> Iterator[str]:
    for name, found in rows.items():
        prompt, completion = found["lengths"]
        yield f"{name}, {found['prompts']} prompts x 8 members, {prompt} + {completion} tokens:"
        yield ""
        yield row("tokens at once", "training, s", "peak memory, MB", "reserved, MB")
        yield row(*["---"] * 4)
        for r in found["rows"]:
            if "failed" in r:
                yield row(str(r["asked"]), f"failed: {r['failed']}", "-", "-")
                continue
            asked = "auto: " if r["asked"] == "auto" else ""
            peak = [r.get("peak_device_mb"), r.get("peak_reserved_mb")]
            cells = ["-" if p is None else f"{p:,.0f}" for p in peak]
            yield row(f"{asked}{r['tokens_at_once']:,}", f"{r['seconds']['train']:.2f}", *cells)


def quantised(rows: dict[str, Any]) -> Iterator[str]:
    for name, found in rows.items():
        if "failed" in found:
            yield f"QLoRA: {found['failed']}."
            continue
        yield row(f"{name}, base of", "seconds a step", "peak memory, MB", "trainer - sampler, nats")
        yield row(*["---"] * 4)
        for adapter, r in found["steps"].items():
            base = "4 bits" if adapter == "qlora" else "16 bits"
            yield row(base, *figures(r, "mismatch_mean", "{:.1e}"))


def turns(rows: dict[str, Any]) -> Iterator[str]:
    for found in rows.values():
        if "failed" in found:
            yield f"Several turns: {found['failed']}."
            continue
        yield row("several turns: prompt tokens", "tokens of a trajectory", "anew, s", "kept, s", "faster")
        yield row(*["---"] * 5)
        for r in found["rows"]:
            yield row(
                f"{r['prompt_tokens']:.0f}",
                f"{r['tokens']:.0f}",
                f"{r['anew']:.2f}",
                f"{r['kept']:.2f}",
                f"**{r['faster']:.2f} x**",
            )


def semantic(rows: dict[str, Any]) -> Iterator[str]:
    for found in rows.values():
        if "failed" in found:
            yield f"The rule `semantic`: {found['failed']}."
            continue
        took = ", ".join(f"{seconds:.2f} s on {where}" for where, seconds in found["seconds"].items())
        apart = f"scores at most {found['apart']:.1e} apart"
        yield f"The rule `semantic`, {found['texts']} texts: {took}; {apart}."


def tests(rows: dict[str, Any]) -> Iterator[str]:
    for found in rows.values():
        yield f"`pytest -m gpu`: {found['failed'] if 'failed' in found else found['last'].strip('= ')}."


def both(name: str, trl: dict[str, Any], refine: dict[str, Any], form: str) -> str:
    """A figure as TRL / Re:Fine."""
    cells = ["-" if side.get(name) is None else form.format(side[name]) for side in (trl, refine)]
    return " / ".join(cells)


def ratio(trl: float | None, refine: float | None) -> str:
    return "-" if not trl or not refine else f"**{trl / refine:.1f} x**"


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
