"""What the report shows beside the headline, worked out from the files of a run."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from refine_rl.report.asked import bills
from refine_rl.report.asked import total as bill_of
from refine_rl.report.coverage import Coverage, by_split, cover
from refine_rl.report.standing import Json, standing
from refine_rl.run import RunFolder
from refine_rl.run.forgotten import back_note, marked
from refine_rl.settings import Settings
from refine_rl.types import MIN_PROMPTS, Comparison, Contrast, Dialogue, Estimate, Example, Message, Prompt
from refine_rl.types.amounts import long_time
from refine_rl.types.values import settled

GLUE = "\N{NO-BREAK SPACE}"
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
LONGEST_TEXT = 4000  # characters of a prompt or an answer in the examples
PROMPTS_SHOWN = 3  # of each split
VALUES_SHOWN = 40  # of each facet
_LABELS = {
    "greedy": "Reward, greedy answer",
    "success": "Full successes, sampled",
    "success_greedy": "Full successes, greedy",
    "cut": "Cut at the token limit, sampled",
}
_OTHERS = {"sft": "After SFT"}
_PARTS = {  # of a step: label, colour
    "sample": ("Steps: sampling", "sample"),
    "score": ("Steps: waiting for scores", "score"),
    "train": ("Steps: training", "update"),
    "other": ("Steps: the rest", "other"),
}
_STAGES = {
    "prepare": "Loading and preparing",
    "judges": "A look at the judges",
    "base": "The base model’s held-out answers",
    "validation": "Validation",
    "checkpoint": "Checkpoints",
    "report": "This report, made on the way",
    "tuned": "The tuned model’s held-out answers",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A row of the base-against-tuned figure and table; `low` and `high` are the ends of its axis."""

    label: str
    component: bool
    contrast: Contrast
    low: float
    high: float
    others: tuple[tuple[str, Contrast], ...] = ()  # further models by name; each is its contrast's base
    intervals: bool = True  # whether there are prompts enough for them

    @property
    def beside(self) -> dict[str, Contrast]:
        """The further models by name."""
        return dict(self.others)

    def place(self, value: float) -> str:
        """Where a value lies on the row's axis, as a CSS length."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def width(self, estimate: Estimate) -> str:
        """How wide an interval is on the row's axis, as a CSS length."""
        return f"{100 * (estimate.ci95[1] - estimate.ci95[0]) / (self.high - self.low):.2f}%"


def number(value: float | None, *, sign: bool = False) -> str:
    """A number for people: two decimals, and more where two would show next to nothing.

    >>> number(0.825), number(-0.004, sign=True), number(0.5, sign=True), number(None), number(1234.5)
    ('0.82', '−0.004', '+0.50', '–', '1234')
    >>> number(-1.4e-17), number(-1.4e-17, sign=True), number(-3e-10)
    ('0.00', '0.00', '−3e-10')
    """
    if value is None or not math.isfinite(value):
        return "–"
    value = settled(value)
    if abs(value) >= 100:
        text = f"{abs(value):.0f}" if abs(value) < 1e6 else f"{abs(value):.3g}"
    elif value != 0 and abs(value) < 0.01:
        text = f"{abs(value):.3f}" if abs(value) >= 0.001 else f"{abs(value):.2g}"
    else:
        text = f"{abs(value):.2f}"
    before = "−" if value < 0 else "+" if sign and value > 0 else ""
    return before + text


def share(value: float | None) -> str:
    """A share in [0, 1] as a percentage.

    >>> share(0.876), share(None)
    ('88\\xa0%', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.0f}{GLUE}%"


def duration(seconds: float) -> str:
    """A time that was measured, for people.

    >>> duration(7.23), duration(59.97), duration(92), duration(0.066), duration(0.0001)
    ('7.2 s', '1 min', '1 min 32 s', '66 ms', 'under 1 ms')
    >>> duration(3599.7), duration(4000), duration(300_000)
    ('1 h', '1 h 6 min', '3 days 11 h')
    """
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.0005 else "under 1 ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest and minutes < 60 else long_time(minutes)


def measures(comparison: Comparison) -> list[Measure]:
    """Rows of the comparison: reward, the other measures, then the components.

    A row's axis is 0 to 1 where all its means and intervals lie there, else just wide enough for
    them and 0.
    """
    c, enough = comparison, comparison.prompts >= MIN_PROMPTS
    rows = []
    if c.reward is not None:
        tuned = c.reward.tuned
        rewards = {n: Contrast(base=o, tuned=tuned, difference=o.tuned_minus) for n, o in c.stages.items()}
        rows.append(measure("Reward, sampled answers", c.reward, rewards, intervals=enough))
    names = [n for n in _LABELS if n in c.details]
    names += [n for n in c.details if n.startswith("component:")]
    for name in names:
        beside = {n: o.details[name] for n, o in c.stages.items() if name in o.details}
        label = _LABELS.get(name, name.removeprefix("component:"))
        component = name not in _LABELS
        rows.append(measure(label, c.details[name], beside, component=component, intervals=enough))
    return rows


def others(names: Iterable[str]) -> list[tuple[str, str]]:
    """Further models: name and label."""
    return [(name, _OTHERS.get(name, name)) for name in names]


def measure(
    label: str,
    contrast: Contrast,
    beside: Mapping[str, Contrast],
    *,
    component: bool = False,
    intervals: bool = True,
) -> Measure:
    """A row with its axis; `beside` are further models by name."""
    sides = (contrast.base, contrast.tuned, *(c.base for c in beside.values()))
    ends = [x for e in sides for x in (e.mean, *e.ci95)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    if low == 0.0 and high <= 1.0:
        high = 1.0
    return Measure(
        label=label,
        component=component,
        contrast=contrast,
        low=low,
        high=high,
        others=tuple(beside.items()),
        intervals=intervals,
    )


def examples(comparison: Comparison) -> list[Example]:
    """The comparison's examples with overlong texts cut, and the cut said."""
    return [
        replace(
            e,
            prompt=cut(e.prompt, LONGEST_TEXT),
            base=cut(e.base, LONGEST_TEXT),
            tuned=cut(e.tuned, LONGEST_TEXT),
            others={name: cut(text, LONGEST_TEXT) for name, text in e.others.items()},
            dialogues={side: _cut_dialogue(d) for side, d in e.dialogues.items()},
        )
        for e in comparison.examples
    ]


def _cut_dialogue(dialogue: Dialogue) -> Dialogue:
    messages = (Message(role=m["role"], content=cut(m["content"], LONGEST_TEXT)) for m in dialogue.messages)
    return replace(dialogue, messages=tuple(messages))


def plain(text: str) -> str:
    """Text of a model, a judge or a file without what could hide or reverse it on a page: control
    characters and marks of writing direction become their escapes.

    >>> print(plain("a\\x1b[31m\\u202eb"))
    a\\x1b[31m\\u202eb
    """
    return _UNSAFE.sub(lambda unsafe: repr(unsafe[0])[1:-1], text)


def cut(text: str, longest: int) -> str:
    """`text`, or its first `longest` characters and a word on how many are not shown."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]} […] ({len(text) - longest} more characters in the run’s files)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """The prompts of the run: how they came to be, what they cover, and a few of each split. `whole` has the
    combinations that are held out whole, with their numbers of prompts."""

    notes: tuple[str, ...]
    coverage: Coverage
    facets: tuple[tuple[str, tuple[tuple[str, tuple[int, int, int]], ...], int], ...]
    whole: tuple[tuple[str, int], ...]
    examples: tuple[tuple[str, tuple[Prompt, ...]], ...]


def prompts(run: RunFolder, events: Sequence[Json]) -> Prompts | None:
    """What the page shows of the prompts, or None before there are any.

    A facet has its values with their numbers in train, validation and held-out, the most frequent first, and
    how many values are not shown.
    """
    found = run.prompts()
    if not found:
        return None
    coverage = cover(found)
    text = next((e["text"] for e in events if (e["kind"], e["name"]) == ("curation", "prompts")), "")
    facets = tuple(
        (
            facet,
            tuple((v, by_split(n)) for v, n in list(values.items())[:VALUES_SHOWN]),
            max(0, len(values) - VALUES_SHOWN),
        )
        for facet, values in coverage.facets.items()
    )
    examples = (
        (split.replace("_", "-"), tuple([p for p in found if p.split == split][:PROMPTS_SHOWN]))
        for split in ("train", "validation", "held_out")
    )
    return Prompts(
        notes=_before_the_table(text),
        coverage=coverage,
        facets=facets,
        whole=tuple((", ".join(c), number) for c, number in coverage.whole.items()),
        examples=tuple((split, some) for split, some in examples if some),
    )


def _before_the_table(text: str) -> tuple[str, ...]:
    """The lines of a curation report without the terminal's table, which the page draws itself."""
    lines = text.splitlines()
    table = next((n for n, line in enumerate(lines) if re.match(r"facet\s+value\s", line)), len(lines))
    return tuple(lines[:table])


def best_step(events: Sequence[Json]) -> int | None:
    """The step of the checkpoint that validation chose last, or None."""
    best = standing(events, "best")
    return best[-1]["step"] if best else None


def facts(run: RunFolder, settings: Settings, metrics: Sequence[Json], best: int | None) -> dict[str, str]:
    """A few lines on what was trained, on what, and what it took."""
    m, g = settings.model, settings.grpo
    adapter = m.method + (f", alpha {m.alpha:g}" if m.adapted else "")
    prompts = run.prompts()
    splits = Counter(p.split for p in prompts)
    lines = {
        **when_and_where(run),
        "Model": f"{m.name} ({adapter})",
        "Prompts": f"{splits['train']} train, {splits['validation']} validation, "
        f"{splits['held_out']} held-out{_written_by(prompts)}",
        "Training": f"{len(metrics)} of {g.steps} steps, {g.prompts_per_step} prompts × "
        f"{settings.rollout.group_size} completions each",
        "Update": f"{g.loss} loss, learning rate {settings.learning_rate:g}, KL coefficient {g.kl:g}"
        + ("" if g.kl_target is None else f" at first, aiming at a KL of {g.kl_target:g}"),
    }
    if settings.sft is not None and (tuned := next((e for e in run.events() if e["name"] == "sft"), None)):
        page = run.sft.report.relative_to(run.path).as_posix()
        lines["Before it"] = f"{tuned['text']} (its own page: {page})"
    if trained := next((e for e in run.events() if e["name"] == "parameters"), None):
        lines["Model"] += f": {trained['text']}"
    told = [e for e in marked(run.events()) if not e["forgotten"]]
    if done := next((e for e in told if e["name"] == "done_early"), None):
        lines["Training"] += f". {done['text']}"
    if back := back_note(run.events()):
        lines["Gone back"] = back["text"]
    if changed := run.changed_settings():
        lines["Changed on the way"] = "; ".join(map(str, changed))
    if best is not None:
        eye = "by the other eye " if settings.evaluate.on_drift == "rollback" else ""
        lines["Checkpoint"] = f"step {best}, chosen {eye}on the validation prompts"
    seconds = time_spent(metrics)
    if seconds:
        total = sum(seconds.values())
        parts = ", ".join(f"{name} {share(s / total)}" for name, s in seconds.items() if total > 0)
        lines["Time in steps"] = f"{duration(total)} ({parts})" if parts else duration(total)
    if calls := run.calls():
        lines["LLM calls"] = bill_of(bills(calls))
    return lines


def when_and_where(run: RunFolder) -> dict[str, str]:
    """When a run began and ended, on what kind of machine, and with which versions."""
    began, events = run.config.created(), run.events()
    lines = {"Date": f"{began:%Y-%m-%d %H:%M} UTC"}
    if ended := next((e for e in reversed(events) if e["kind"] == "finished"), None):
        lines["Date"] = (
            f"{began:%Y-%m-%d %H:%M} to {_since(began, datetime.fromisoformat(ended['time']))} UTC"
        )
    begun = [e["text"] for e in events if e["kind"] in ("started", "resumed")]
    if on := next((text for text in reversed(begun) if text.startswith("on ")), ""):
        lines["Machine"] = on.removeprefix("on ")
    versions = run.config.versions()
    named = {"refine-rl": "Re:Fine", "torch": "torch", "transformers": "transformers", "python": "Python"}
    if made := [f"{name} {versions[key]}" for key, name in named.items() if key in versions]:
        lines["Made with"] = ", ".join(made)
    return lines


def _since(began: datetime, ended: datetime) -> str:
    """When something ended, without a date that is clear already."""
    return f"{ended:%H:%M}" if ended.date() == began.date() else f"{ended:%Y-%m-%d %H:%M}"


def _written_by(prompts: Sequence[Prompt]) -> str:
    writers = {p.writer for p in prompts}
    writer = writers.pop() if len(writers) == 1 else ""
    return f", written by {writer}" if writer else ""


def time_spent(metrics: Sequence[Json]) -> dict[str, float]:
    """Seconds over all steps in sampling, scoring, training and the rest of the step."""
    spent = {name: sum(m["seconds"].get(name, 0.0) for m in metrics) for name in ("sample", "score", "train")}
    total = sum(m["seconds"].get("total", 0.0) for m in metrics)
    if total <= 0:
        return {}
    return {**spent, "other": max(0.0, total - sum(spent.values()))}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """A row of the table of times: what was done how often, the seconds in all, and their share of all rows.
    `colour` is the CSS variable of the plot's colour, for the parts of a step."""

    label: str
    times: int
    seconds: float
    share: float
    colour: str = ""

    @property
    def each(self) -> str:
        """What one took; "" where there was but one."""
        return duration(self.seconds / self.times) if self.times > 1 else ""


def time_table(metrics: Sequence[Json], times: Sequence[Json]) -> list[Spent]:
    """Where the time of the run went, by its stages in order; those that took none are left out."""
    inside = time_spent(metrics)
    rows = [(label, len(metrics), inside.get(key, 0.0), colour) for key, (label, colour) in _PARTS.items()]
    outside: dict[str, list[float]] = {}
    for line in times:
        outside.setdefault(line["stage"], []).append(line["seconds"])
    around = [(_STAGES.get(s, s), len(spent), sum(spent), "") for s, spent in outside.items()]
    total = sum(seconds for _, _, seconds, _ in (*rows, *around))
    return [
        Spent(label=label, times=count, seconds=seconds, share=seconds / total, colour=colour)
        for label, count, seconds, colour in (*rows, *around)
        if seconds > 0
    ]


def settings_table(settings: Settings) -> dict[str, dict[str, str]]:
    """Every setting in force by section, as text; the task itself stands at the top of the page."""
    sections: dict[str, dict[str, str]] = {"": {}}
    for name, value in settings.model_dump(mode="json").items():
        if name == "task" or value is None:  # a table that is not there
            continue
        if isinstance(value, dict):
            sections[name] = {key: _shown(v) for key, v in value.items()}
        else:
            sections[""][name] = _shown(value)
    return {name: section for name, section in sections.items() if section}


def _shown(value: object) -> str:
    if value is None or value == "":
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
