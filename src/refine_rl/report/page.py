"""The report: one HTML page, made from a run's files alone, that asks nothing of the outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refine_rl.errors import quoted
from refine_rl.evaluate import forgotten, looks, power
from refine_rl.evaluate.curves import sharpening
from refine_rl.report import answers, data, exchanges, measured, parts, reviewed, rollouts, turns
from refine_rl.report.asked import asked
from refine_rl.report.fill import fill_page
from refine_rl.report.headline import headline
from refine_rl.report.next_steps import Command, after_verdict, next_steps, over
from refine_rl.report.now import standing_when_made
from refine_rl.report.plots import reward_chart, training_plots
from refine_rl.report.points import SMOOTH_FROM
from refine_rl.report.rivals import contest
from refine_rl.report.sft import render_sft
from refine_rl.report.standing import Json
from refine_rl.report.survey import Seen, survey
from refine_rl.report.time_left import about, left_of
from refine_rl.report.tries import tries
from refine_rl.run import RunFolder
from refine_rl.run.forgotten import back_note, marked
from refine_rl.settings import Settings
from refine_rl.types import MIN_PROMPTS, Comparison

MOST_EVENTS = 200
REST = 450_000  # bytes of a page beside answers, exchanges and rollouts: charts, tables, events


def render(run: RunFolder, *, page_bytes: int = 2_900_000) -> str:
    """The report of a run as HTML, also of one that is unfinished or was stopped.

    It has about `page_bytes` at most: of that, a quarter for answers to the held-out prompts and a tenth for
    what LLMs were asked and replied, where there is so much; rollouts have the rest. What is left out is said
    on it. Every text that a person or a model wrote is escaped; the only script that the page's own policy
    lets run is ours, known by its hash.
    """
    if run.config.kind() == "sft":
        return render_sft(run)
    settings, events, comparison = run.settings(), run.events(), run.comparison()
    groups = survey(run)
    after = [] if comparison is None else after_verdict(run, settings, comparison)
    answered = answers.collect(run, comparison, page_bytes // 4)
    exchanged = exchanges.collect(run, page_bytes // 10)
    left = page_bytes - answered.size if answered is not None else page_bytes
    page: dict[str, Any] = {
        "name": run.name,
        "task": settings.task.strip(),
        "commands": [*after, *next_steps(run, settings)],
        **_evidence(run, settings, comparison),
        **_training(run, settings, events, comparison, groups, after),
        "judged": bool(settings.reward.judges),
        "answers": answered,
        "people": reviewed.collect(run),
        "later": measured.later(run),
        "rivals": measured.rivals(run),
        "prompts": data.prompts(run, events),
        "asked": asked(run, events, groups),
        "exchanges": exchanged,
        "rollouts": rollouts.collect(run, groups, max(page_bytes // 3, left - exchanged.size - REST)),
        "warnings": [e for e in marked(events) if e["kind"] in ("warning", "guard")],
        "events": marked(events)[-MOST_EVENTS:],
        "events_left_out": max(0, len(events) - MOST_EVENTS),
        "settings": data.settings_table(settings),
        "versions": run.config.versions(),
    }
    return fill_page("page.html.j2", page | {"nav": _sections(page)})


def _evidence(run: RunFolder, settings: Settings, comparison: Comparison | None) -> dict[str, Any]:
    """What the page says of the comparison."""
    c = comparison
    return {
        "comparison": c,
        "start": Path(settings.model.start).name,
        "others": [] if c is None else data.others(c.stages),
        "measures": [] if c is None else data.measures(c),
        "contest": None if c is None else contest(c),
        "intervals": c is not None and c.prompts >= MIN_PROMPTS,
        "parts": [] if c is None else parts.by_facet(c),
        "variety": [] if c is None else parts.variety(c),
        "holding": [] if c is None else looks.told(c),
        "tries": [] if c is None else tries(c),
        "sharpening": "" if c is None else sharpening(c),
        "forgotten": "" if c is None else forgotten.told(c),
        "power": "" if c is None else power.told(c),
        "metrics": None if c is None else measured.metrics(c),
        "turns": turns.turns(run) if c is not None and settings.rollout.several_turns else None,
    }


def _training(
    run: RunFolder,
    settings: Settings,
    events: Sequence[Json],
    comparison: Comparison | None,
    groups: Sequence[Seen],
    after: Sequence[Command],
) -> dict[str, Any]:
    """What the page says of the steps."""
    metrics, validation = run.metrics(), run.validation()
    best, back = data.best_step(events), (back_note(events) or {}).get("step")
    facts = data.facts(run, settings, metrics, best)
    if metrics and not over(run) and (left := left_of(run)) is not None:
        facts["Still to do"] = f"{about(left)}, going by what it took so far"
    return {
        "headline": headline(
            comparison,
            events,
            validation,
            steps_done=len(metrics),
            steps=settings.grpo.steps,
            standing=standing_when_made(run),
            after=after,
            again=f"refine eval {quoted(run.path)}",
            eye_chooses=settings.evaluate.on_drift == "rollback",
        ),
        "facts": facts,
        "begun": bool(metrics),
        "best": best,
        "back": back,
        "curve": reward_chart(metrics, validation, comparison, best=best, back=back),
        "families": training_plots(
            metrics, validation, run.pool(), groups, best=best, back=back, steps=settings.grpo.steps
        ),
        "smoothed": len(metrics) >= SMOOTH_FROM,
        "openings": parts.openings(metrics),
        "gains": parts.gains(run),
        "times": data.time_table(metrics, run.times()),
    }


def _sections(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The anchor and the name of each section that is there."""
    names = {
        "curve": ("Reward", page["curve"]),
        "about": ("The run", True),
        "evidence": ("Evidence", page["comparison"]),
        "answers": ("Answers", page["answers"]),
        "people": ("People", page["people"]),
        "turns": ("Turn by turn", page["turns"]),
        "later": ("Later evaluations", page["later"] or page["rivals"]),
        "training": ("Training", page["families"]),
        "rollouts": ("Rollouts", page["rollouts"].groups),
        "prompts": ("Prompts", page["prompts"]),
        "times": ("Times", page["times"]),
        "asked": ("Judges and costs", page["asked"]),
        "events": ("Events", True),
        "settings": ("Settings", True),
    }
    return [(anchor, label) for anchor, (label, there) in names.items() if there]
