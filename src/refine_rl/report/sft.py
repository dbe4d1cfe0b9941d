"""The report of supervised fine-tuning: the loss on rows that it trained on and on others, and answers before
and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_rl.report import data
from refine_rl.report.fill import fill_page
from refine_rl.report.headline import Headline, claim_of
from refine_rl.report.next_steps import next_steps
from refine_rl.report.now import Standing, standing_when_made
from refine_rl.report.plots import sft_loss_chart, sft_plots
from refine_rl.report.points import SMOOTH_FROM
from refine_rl.report.standing import Json
from refine_rl.run import RunFolder
from refine_rl.run.forgotten import marked
from refine_rl.run.state import turn_of
from refine_rl.settings import Settings
from refine_rl.types import count_of

MOST_EVENTS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A look at the validation rows; `best`: its weights were kept."""

    step: int
    loss: float
    perplexity: float
    training: float | None
    best: bool


def render_sft(run: RunFolder) -> str:
    """The page as HTML, also of a run that is unfinished or was stopped."""
    settings, metrics, events = run.settings(), run.metrics(), run.events()
    validation = run.validation()
    best = data.best_step(events)
    page: dict[str, Any] = {
        "name": run.name,
        "task": settings.task.strip(),
        "headline": _headline(
            events, metrics, validation, best, run.planned_steps(), standing_when_made(run)
        ),
        "facts": _facts(run, settings, metrics, best),
        "notes": next((e["text"] for e in events if e["name"] == "rows"), "").splitlines(),
        "looks": _looks(metrics, validation, best),
        "curve": sft_loss_chart(metrics, validation, best=best),
        "families": sft_plots(metrics),
        "commands": next_steps(run, settings),
        "begun": bool(metrics),
        "smoothed": len(metrics) >= SMOOTH_FROM,
        "best": best,
        "examples": run.examples(),
        "times": data.time_table(metrics, run.times()),
        "warnings": [e for e in marked(events) if e["kind"] in ("warning", "guard")],
        "events": marked(events)[-MOST_EVENTS:],
        "events_left_out": max(0, len(events) - MOST_EVENTS),
        "settings": data.settings_table(settings),
        "versions": run.config.versions(),
    }
    return fill_page("sft.html.j2", page | {"nav": _sections(page)})


def _sections(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The anchor and the name of each section that is there."""
    names = {
        "curve": ("Loss", page["curve"]),
        "about": ("The run", True),
        "training": ("Training", page["looks"] or page["families"]),
        "examples": ("Examples", page["examples"]),
        "rows": ("Rows", page["notes"]),
        "times": ("Times", page["times"]),
        "events": ("Events", True),
        "settings": ("Settings", True),
    }
    return [(anchor, label) for anchor, (label, there) in names.items() if there]


def _headline(
    events: Sequence[Json],
    metrics: Sequence[Json],
    validation: Sequence[Json],
    best: int | None,
    steps: int,
    standing: Standing,
) -> Headline:
    """What came of it, or how far it came and what to do next."""
    turn, end = turn_of(events), standing.state
    done = f"{len(metrics)} of {count_of(steps, 'step')} trained."
    notes = [turn["text"]] if turn is not None and end in ("stopped", "interrupted") else []
    losses = {v["step"]: v["loss"] for v in validation}
    if 0 in losses and best in losses:
        before, after = losses[0], losses[best]
        lower = after < before
        claim = (
            "The loss on answers that it was not trained on fell:"
            if lower
            else "The validation loss did not fall:"
        )
        numbers = (
            f"{before:.3f} → {after:.3f} nats a token at step {best} (perplexity "
            f"{data.number(math.exp(min(700, before)))} → {data.number(math.exp(min(700, after)))})."
        )
        if end == "finished":
            notes.append(
                "These rows chose the checkpoint, so the number is a little too good. Whether answers are "
                "better for their purpose, a loss does not say: read them below, or compare by a reward."
            )
            return Headline(
                tone="better" if lower else "not better", claim=claim, numbers=numbers, notes=tuple(notes)
            )
        done = f"{done} Validation loss so far: {numbers}"
    if end == "finished":
        last = metrics[-1]["loss"] if metrics else None
        numbers = f"training loss {data.number(last)} in the last step; no rows were kept for validation."
        return Headline(tone="open", claim="Trained:", numbers=numbers, notes=tuple(notes))
    if end == "stopped":
        return Headline(tone="stopped", claim=f"{standing.said}:", numbers=done, notes=tuple(notes))
    if standing.more:
        notes.append(standing.more)
    return Headline(tone="open", claim=claim_of(standing), numbers=done, notes=tuple(notes))


def _facts(run: RunFolder, settings: Settings, metrics: Sequence[Json], best: int | None) -> dict[str, str]:
    """A few lines on what was trained, on what, and what it took."""
    sft, m = settings.sft, settings.sft_model
    assert sft is not None
    whole = m.adapter == "none"
    adapter = (
        "all weights" if whole else f"{m.adapter}, rank {m.rank}, alpha {m.alpha:g}, dropout {m.dropout:g}"
    )
    lines = {
        **data.when_and_where(run),
        "Model": f"{m.name} ({adapter})",
        "Data": sft.data,
        "Update": f"up to {sft.batch_tokens:,} tokens a step, learning rate {settings.sft_learning_rate:g}, "
        f"{sft.schedule} after {sft.warmup:.0%} of warm-up",
    }
    if metrics:
        tokens, targets = (sum(line[key] for line in metrics) for key in ("tokens", "targets"))
        lines["Training"] = (
            f"{count_of(len(metrics), 'step')}, {metrics[-1]['epoch']:.2f} passes: {tokens:,} tokens, "
            f"{targets:,} of them in answers"
        )
        seconds = sum(line["seconds"]["total"] for line in metrics)
        lines["Time in steps"] = f"{data.duration(seconds)} ({tokens / seconds:,.0f} tokens a second)"
    if done := next((e for e in run.events() if e["name"] == "done_early"), None):
        lines["Ended early"] = done["text"]
    if changed := run.changed_settings():
        lines["Changed on the way"] = "; ".join(map(str, changed))
    if best is not None:
        lines["Checkpoint"] = f"step {best}, chosen on the validation rows"
    return lines


def _looks(metrics: Sequence[Json], validation: Sequence[Json], best: int | None) -> list[Look]:
    """Each look with the training loss of its step."""
    training = {m["step"]: m["loss"] for m in metrics}
    return [
        Look(
            step=v["step"],
            loss=v["loss"],
            perplexity=v["perplexity"],
            training=training.get(v["step"]),
            best=v["step"] == best,
        )
        for v in validation
    ]
