"""What one can do with a run now, as commands that work as they stand where the page was made; as calls,
where code of it was given from Python."""

from __future__ import annotations

from dataclasses import dataclass

from refine_rl.errors import quoted
from refine_rl.evaluate.verdict import FEW_PROMPTS
from refine_rl.report.standing import standing
from refine_rl.run import RunFolder
from refine_rl.run.from_python import call
from refine_rl.run.state import end_of
from refine_rl.settings import Settings
from refine_rl.types import Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command or a call, and what it is for."""

    text: str
    what: str


def after_verdict(run: RunFolder, settings: Settings, comparison: Comparison) -> list[Command]:
    """What to try where a comparison did not show that the tuned model is better, or rests on few prompts.
    FILE stands for what a person has, "..." for what a call was given that is on no record."""
    act, c = _Actions(run), comparison
    if c.verdict == "not possible":
        return [Command(text=act.evaluate(), what="Once it is mended, compare again:")]
    found = []
    if c.prompts < FEW_PROMPTS:
        more = act.evaluate(prompts="FILE")
        found.append(Command(text=more, what="Compare on more prompts, of a file:"))
    if c.ship is not None and c.ship.name in c.rivals and (folder := c.rivals[c.ship.name].folder):
        what = "Talk to the model to ship, which `refine export` takes as well:"
        found.append(Command(text=f"refine chat {quoted(run.path / folder)}", what=what))
    match c.verdict:
        case "no signal":
            larger = act.train("rollout", "group_size", 2 * settings.rollout.group_size)
            found += [
                Command(text=act.check(), what="See whether the reward tells answers apart:"),
                Command(text=larger, what="Train anew with larger groups, whose rewards differ more often:"),
            ]
        case "worse":
            slower = act.train("grpo", "learning_rate", settings.learning_rate / 2)
            found.append(Command(text=slower, what="Train anew at half the learning rate:"))
        case "not better":
            if c.prompts >= FEW_PROMPTS:
                again = act.evaluate(samples=4 * c.samples)
                found.append(Command(text=again, what="More answers to each prompt may narrow the interval:"))
            longer = act.train("grpo", "steps", 2 * settings.grpo.steps)
            found.append(
                Command(text=longer, what="More training may move it; a new run of twice as many steps:")
            )
    return found


class _Actions:
    """What can be done with a run, as commands; as calls where code was given from Python, which no command
    finds."""

    def __init__(self, run: RunFolder) -> None:
        self._path, self._config = run.path, run.config
        self._given = run.config.given()

    def evaluate(self, **how: str | int) -> str:
        if own := self._given.arguments:
            return call("evaluate", repr(str(self._path)), own, *(f"{k}={v!r}" for k, v in how.items()))
        return " ".join(["refine eval", quoted(self._path), *(f"--{k} {v}" for k, v in how.items())])

    def check(self) -> str:
        if own := self._given.arguments:
            return call("check", "...", own)
        return f"refine check {quoted(self._config.path)}"

    def train(self, section: str, key: str, value: float) -> str:
        """A new run of the same task, one setting apart."""
        if own := self._given.arguments:
            return call("train", "...", own, f"{section}={{{key!r}: {value:g}}}")
        return f"refine train {quoted(self._config.path)} --set {section}.{key}={value:g}"

    def talk(self, checkpoint: str | None, flags: str) -> str:
        """The reward is not needed for that."""
        if own := self._given.world.arguments:
            return call(
                "chat", repr(str(self._path)), own, f"checkpoint={checkpoint!r}" if checkpoint else ""
            )
        return f"refine chat {quoted(self._path)}{f' --checkpoint {checkpoint}' if checkpoint else ''}{flags}"


def over(run: RunFolder) -> bool:
    """Whether a run is at its end, as its newest event says; the weights are not looked at, which may be
    large."""
    return end_of(run.events()) == "finished"


def _worth_a_look(run: RunFolder) -> str:
    """Which checkpoint of a run without a tuned model to take: behind a guard's stop the one that validation
    chose, where there is one, as the newest may be what the guard stopped for."""
    events = run.events()
    best = standing(events, "best")
    stopped = end_of(events) == "stopped" and bool(best) and best[-1]["step"] in run.checkpoints()
    return "best" if stopped else "last"


def next_steps(run: RunFolder, settings: Settings) -> list[Command]:
    """What to do next with a run, the nearest thing first."""
    path = quoted(run.path)
    sft = run.config.kind() == "sft"
    act, found = _Actions(run), list[Command]()
    model = run.model.is_dir()
    if not over(run):
        found.append(Command(text=run.resume, what="Go on exactly where it stopped."))
    if not model and not run.checkpoints():
        return found
    newest = _worth_a_look(run)
    checkpoint = None if model else newest
    weights = "" if model else f" --checkpoint {newest}"
    which = "tuned model" if model else f"model of the {newest} checkpoint"
    beside = "" if sft else ", the untrained one’s answers beside its own"
    talk = act.talk(checkpoint, "" if sft else " --base")
    found.append(Command(text=talk, what=f"Talk to the {which}{beside}."))
    if settings.rollout.several_turns and not sft and not run.config.given().world.arguments:
        found.append(
            Command(text=f"refine play {path}", what="Play in its world yourself, and watch the model play.")
        )
    if not sft:
        again = act.evaluate(**({} if checkpoint is None else {"checkpoint": checkpoint}))
        fresh = " again, with fresh draws" if run.comparison() is not None else " on the held-out prompts"
        found.append(Command(text=again, what=f"Compare base and tuned{fresh}."))
    out = quoted(run.path.with_name(f"{run.name}-model"))
    found.append(
        Command(
            text=f"refine export {path} --out {out} --merged{weights}",
            what="Write one ordinary model that transformers, vLLM and others load.",
        )
    )
    return found
