"""The report: one HTML page, made from a run's files alone, that asks nothing of the outside."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from markupsafe import Markup

from refine_rl.report import data, exchanges, measured, parts, rollouts, turns
from refine_rl.report.asked import asked
from refine_rl.report.fill import file_of, fill
from refine_rl.report.headline import headline
from refine_rl.report.sft import render_sft
from refine_rl.run import RunFolder
from refine_rl.types import MIN_PROMPTS

MOST_EVENTS = 200


def render(run: RunFolder, *, rollout_bytes: int = 4_000_000, exchange_bytes: int = 600_000) -> str:
    """The report of a run as HTML, also of one that is unfinished or was stopped.

    About `rollout_bytes` of rollouts, and `exchange_bytes` of what LLMs were asked and replied, are put into
    the page; what is left out is said on it. Every
    text that a person or a model wrote is escaped; the only script that the page's own policy lets
    run is ours, known by its hash.
    """
    if run.config.kind() == "sft":
        return render_sft(run)
    from refine_rl.report.plots import SMOOTH_FROM, training_plots  # imports matplotlib

    settings, metrics, validation = run.settings(), run.metrics(), run.validation()
    events, comparison = run.events(), run.comparison()
    best = data.best_step(events)
    script = file_of("page.js")
    page: dict[str, Any] = {
        "name": run.name,
        "task": settings.task.strip(),
        "headline": headline(
            comparison, events, validation, steps_done=len(metrics), steps=settings.grpo.steps
        ),
        "facts": data.facts(run, settings, metrics, best),
        "comparison": comparison,
        "others": data.others(comparison.others) if comparison is not None else [],
        "start": Path(settings.model.start).name,
        "measures": data.measures(comparison) if comparison is not None else [],
        "intervals": comparison is not None and comparison.prompts >= MIN_PROMPTS,
        "parts": parts.by_facet(comparison) if comparison is not None else [],
        "variety": parts.variety(comparison) if comparison is not None else [],
        "openings": parts.openings(metrics),
        "metrics": measured.metrics(comparison) if comparison is not None else None,
        "turns": turns.turns(run) if comparison is not None and settings.rollout.environment else None,
        "later": measured.later(run),
        "examples": data.examples(comparison) if comparison is not None else [],
        "prompts": data.prompts(run, events),
        "asked": asked(run, events),
        "exchanges": exchanges.collect(run, exchange_bytes),
        "plots": [
            (plot, Markup(plot.svg)) for plot in training_plots(metrics, validation, run.pool(), best=best)
        ],
        "smoothed": len(metrics) >= SMOOTH_FROM,
        "best": best,
        "times": data.time_table(metrics, run.times()),
        "rollouts": rollouts.collect(run, rollout_bytes),
        "warnings": [e for e in events if e["kind"] in ("warning", "guard")],
        "events": events[-MOST_EVENTS:],
        "events_left_out": max(0, len(events) - MOST_EVENTS),
        "settings": data.settings_table(settings),
        "versions": run.config.versions(),
        "style": Markup(file_of("page.css")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return fill("page.html.j2", page)
