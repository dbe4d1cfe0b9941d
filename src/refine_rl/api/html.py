"""A run, an evaluation or prompts below a notebook's cell: plain tables and a small curve, without script,
readable on white and on black. All text is escaped: it may come from a model."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from refine_rl.report.data import number
from refine_rl.run import RunFolder
from refine_rl.types import MIN_PROMPTS, Comparison, Contrast, Prompt

_GREEN, _GREY = "#2a9d5c", "#808080"  # both to be seen on white and on black
_WIDTH, _HEIGHT, _PAD = 420, 110, 4
_SHOWN = 3  # prompts of each split
_LABELS = {
    "reward": "reward",
    "greedy": "reward, greedy",
    "success": "full successes",
    "success_greedy": "full successes, greedy",
}

Points = list[tuple[int, float]]


def run(folder: RunFolder, comparison: Comparison) -> str:
    """A finished GRPO run: the verdict, base against tuned, the rewards of training."""
    rewards = [(int(m["step"]), m["reward_mean"]) for m in folder.metrics() if m["reward_mean"] is not None]
    looks = [(int(v["step"]), float(v["reward"]["mean"])) for v in folder.validation() if "reward" in v]
    return _box(
        _head(folder, str(comparison)),
        _measures(comparison),
        curve(rewards, looks, "reward"),
        _links(folder),
    )


def sft_run(folder: RunFolder, verdict: str) -> str:
    """A finished run of supervised fine-tuning: its losses."""
    losses = [(int(m["step"]), float(m["loss"])) for m in folder.metrics()]
    looks = [(int(v["step"]), float(v["loss"])) for v in folder.validation() if "loss" in v]
    return _box(_head(folder, verdict), curve(losses, looks, "loss"), _links(folder))


def evaluation(folder: RunFolder, comparison: Comparison, file: Path) -> str:
    """A comparison made again."""
    return _box(_head(folder, str(comparison)), _measures(comparison), f"<div>{_code(str(file))}</div>")


def prompts(found: Sequence[Prompt], summary: Sequence[str]) -> str:
    """What became of the source's rows, and the first prompts of each split."""
    rows = [
        (split, _cut(prompt.text))
        for split in ("train", "validation", "held_out")
        for prompt in [p for p in found if p.split == split][:_SHOWN]
    ]
    said = "".join(f"<div>{html.escape(line)}</div>" for line in summary)
    return _box(said, _table(("split", "prompt"), rows, text=2))


def curve(training: Points, looks: Points, what: str) -> str:
    """The points of training as a line, those of validation as dots; "" with fewer than two of training."""
    if len(training) < 2:
        return ""
    steps = [step for step, _ in (*training, *looks)]
    values = [value for _, value in (*training, *looks)]
    low, high = min(values), max(values)
    room = (high - low) or 1.0
    first, last = min(steps), max(steps)

    def place(step: int, value: float) -> tuple[float, float]:
        x = _PAD + (_WIDTH - 2 * _PAD) * (step - first) / max(1, last - first)
        return x, _HEIGHT - _PAD - (_HEIGHT - 2 * _PAD) * (value - low) / room

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in training))
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_GREY}"/>'
        for x, y in (place(*point) for point in looks)
    )
    began, ended = training[0], training[-1]
    told = f"{what} of training, step {began[0]}: {number(began[1])}; step {ended[0]}: {number(ended[1])}"
    beside = ", validation as dots" if looks else ""
    return (
        f'<figure style="margin:8px 0"><svg width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" style="max-width:100%"><title>{told}</title>'
        f'<polyline points="{line}" fill="none" stroke="{_GREEN}" stroke-width="2" '
        f'stroke-linejoin="round"/>{dots}</svg>'
        f'<figcaption style="font-size:90%;opacity:.8">{told}{beside}; from {number(low)} to {number(high)}'
        "</figcaption></figure>"
    )


def _measures(c: Comparison) -> str:
    if c.reward is None:
        return ""
    rows = [
        (_label(name), *_numbers(contrast, c.prompts >= MIN_PROMPTS))
        for name, contrast in {"reward": c.reward, **c.details}.items()
        if name in _LABELS or name.startswith("component:")
    ]
    return _table(("", "base", "tuned", "difference", "95 % interval"), rows, text=1)


def _label(name: str) -> str:
    return _LABELS.get(name, name.removeprefix("component:"))


def _numbers(m: Contrast, intervals: bool) -> tuple[str, str, str, str]:
    low, high = m.difference.ci95
    interval = f"{number(low, sign=True)} to {number(high, sign=True)}" if intervals else "too few prompts"
    return number(m.base.mean), number(m.tuned.mean), number(m.difference.mean, sign=True), interval


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text: int) -> str:
    """The first `text` columns hold words, the others numbers."""

    def cell(kind: str, column: int, value: str) -> str:
        align = "left" if column < text else "right"
        return f'<{kind} style="text-align:{align};padding:2px 10px">{html.escape(value)}</{kind}>'

    head = "".join(cell("th", n, name) for n, name in enumerate(header))
    body = "".join(f"<tr>{''.join(cell('td', n, v) for n, v in enumerate(row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _head(folder: RunFolder, verdict: str) -> str:
    said, colon, rest = verdict.partition(":")
    return f"<div><b>{html.escape(said)}</b>{colon}{html.escape(rest)} ({_code(str(folder.path))})</div>"


def _links(folder: RunFolder) -> str:
    """The report as a link, seen from where the notebook runs."""
    report = f"<code>{html.escape(str(folder.report))}</code>"
    if folder.report.is_file():
        where = quote(os.path.relpath(folder.report.resolve()).replace(os.sep, "/"))
        report = f'<a href="{where}" target="_blank" rel="noopener">{report}</a>'
    return f"<div>report: {report} &nbsp; model: {_code(str(folder.model))}</div>"


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _cut(text: str) -> str:
    line = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    return line if len(line) <= 120 else line[:119] + "…"


def _box(*parts: str) -> str:
    return f"<div>{''.join(parts)}</div>"
