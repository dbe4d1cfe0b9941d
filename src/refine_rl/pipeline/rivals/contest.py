"""All rivals of a run: made from its training prompts, then asked what base and tuned are asked.

One that was made, or has answered, is taken from the record. One that fails is missing, with the reason; the
rest stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from refine_rl.engines.local import LocalEngine
from refine_rl.engines.processes.engine import place_of
from refine_rl.errors import DiskError, GuardStop, Interrupted, RefineError, SettingsError, UserError, quoted
from refine_rl.evaluate.answer import unscored
from refine_rl.evaluate.rivals import NAMES, Contest, Made
from refine_rl.pipeline.evidence import Sides, examined, hold_as_run, of_tuned
from refine_rl.pipeline.model import run_policy
from refine_rl.pipeline.rivals.best_of_n import BestOfN
from refine_rl.pipeline.rivals.gepa_search import require_gepa
from refine_rl.pipeline.rivals.prompt import BetterPrompt
from refine_rl.pipeline.rivals.rival import Answered, Record, Ring, Rival
from refine_rl.pipeline.rivals.sft import FineTuned
from refine_rl.pipeline.rivals.tries import Tries
from refine_rl.pipeline.work import Work
from refine_rl.policy.protocol import Purpose, Speaker
from refine_rl.settings import Settings
from refine_rl.types import Outcome, Prompt, Took, count_of

ALL: Mapping[str, Rival] = {"prompt": BetterPrompt(), "best_of_n": BestOfN(), "sft": FineTuned()}
Keep = Callable[[str, Callable[[], Answered]], Mapping[str, Any]]
"""Is given a rival's name and what lets it answer: keeps its answers, and asks for none that it has; says
what they cost at use (`use_of`)."""


def use_of(answered: Answered) -> dict[str, Any]:
    """What answers cost at use, as a record."""
    return {"tokens": answered.tokens, "at_use": answered.at_use, "draws": answered.draws}


def require_rivals(settings: Settings) -> None:
    """Raises SettingsError where a rival's package is not installed."""
    if "prompt" in settings.evaluate.rivals and settings.reflects:
        require_gepa()
    if "sft" in settings.evaluate.rivals and place_of(settings.engine) is not None:
        raise SettingsError(
            'evaluate.rivals: "sft" is trained in one process, and a launcher started several: leave it out; '
            "`refine eval RUN --rivals sft` makes it afterwards"
        )


def of_tuned_and_rivals(
    work: Work, train: Sequence[Prompt], held_out: Sequence[Prompt], before: Sides
) -> tuple[Sides, Contest]:
    """All sides on the held-out prompts. Tuned comes first, so that no rival uses up what its scores cost;
    but where scores compare only within a group all are scored together, in the end."""
    relative = work.scorers.exam.relative
    if not relative:
        with work.folder.timed("tuned"):
            before = of_tuned(work, held_out, before)
    if work.settings.evaluate.rivals:
        with work.folder.timed("rivals"):
            rivals, contest = of_rivals(work, train, held_out)
    else:
        rivals, contest = {}, Contest(took=_training(work))
    if not relative:
        return {**before, **rivals}, contest
    with work.folder.timed("tuned"):
        return of_tuned(work, held_out, {**before, **rivals}), contest


def of_rivals(work: Work, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> tuple[Sides, Contest]:
    """The rivals' answers to the held-out prompts, on record like those of base and tuned. Where scores
    compare only within a group they are still missing: `of_tuned` has them given beside the others'."""
    sides: dict[str, Sequence[Outcome]] = {}

    def keep(name: str, answer: Callable[[], Answered]) -> Mapping[str, Any]:
        known, files = work.folder.outcomes(name), work.folder.rival(name)
        used = files.used()
        if known is None or used is None:
            relative = work.scorers.exam.relative
            if relative and work.folder.outcomes("tuned") is not None:
                raise UserError(
                    "Base and tuned were judged without it before, and scores compare only within a group."
                )
            answered = answer()
            said = answered.answers
            used = use_of(answered)
            files.save_use(used)
            known = unscored(said) if relative else list(examined(work, {name: said})[name])
            work.folder.save_outcomes(name, known)
        sides[name] = known
        return used

    contest = hold(work, train, held_out, work.purpose("held_out"), keep)
    return sides, contest


def hold(
    work: Work, train: Sequence[Prompt], prompts: Sequence[Prompt], purpose: Purpose, keep: Keep
) -> Contest:
    """Every rival that the settings name, made and asked."""
    contest = Contest(took=_training(work))
    names = work.settings.evaluate.rivals
    if not names:
        return contest
    with base_speaker(work, [*train, *prompts]) as base:
        for name in names:
            try:
                contest.made[name] = _one(_ring(work, name, base, train), prompts, purpose, keep)
            except (DiskError, Interrupted):
                raise
            except RefineError as error:
                contest.missing[name] = reason(error)
                again = f"refine eval {quoted(work.folder.path)} --rivals {name}"
                text = f"{NAMES[name]} is missing, and the rest stands: {contest.missing[name]}"
                work.journal.warning(f"rival_{name}", f"{text}\nTo try again: {again}")
    return contest


def reason(error: RefineError) -> str:
    """Why a rival is missing; a guard's advice is for a training."""
    return (error.what if isinstance(error, GuardStop) else str(error)).strip()


@contextmanager
def base_speaker(work: Work, prompts: Sequence[Prompt]) -> Iterator[Speaker]:
    """The base model: the run's own without its training where that is at hand, else loaded once more."""
    if work.settings.sft is None and work.speaker.has_reference:
        with work.speaker.reference() as base:
            yield base
        return
    work.journal.stage("Loading the base model once more")
    policy = run_policy(work.folder, keep_reference=False, untouched=True)
    hold_as_run(work, LocalEngine(policy), prompts)
    yield policy


def _ring(work: Work, name: str, base: Speaker, train: Sequence[Prompt]) -> Ring:
    files = work.folder.rival(name)
    files.begin()
    return Ring(work=work, base=base, train=train, files=files, tries=Tries(files))


def _one(ring: Ring, prompts: Sequence[Prompt], purpose: Purpose, keep: Keep) -> Made:
    """A rival, made unless it is on record, and its answers kept."""
    name, files = ring.files.name, ring.files
    rival = ALL[name]
    of, known = rival.of(ring.settings), files.made()
    if known is not None and known["of"] == of:
        record: Record = known["made"]
    else:
        ring.work.journal.stage(f"A rival is made: {NAMES[name]}")
        record = rival.make(ring)
        tries = ring.tries
        record |= {"answers": tries.answers, "calls": tries.calls, "cost_usd": tries.cost_usd}
        record["seconds"] = round(tries.seconds, 2)
        files.save(of, record)

    def answer() -> Answered:
        ring.work.journal.stage(f"It answers {count_of(len(prompts), 'held-out prompt')}: {NAMES[name]}")
        return rival.answer(ring, record, prompts, purpose)

    used = keep(name, answer)
    return Made(**{key: value for key, value in record.items() if key != "tried"}, **used)


def _training(work: Work) -> Took:
    """What the steps of the run took."""
    history = work.folder.history()
    costs = [m.cost_usd for m in history if m.cost_usd is not None]
    paid = work.settings.reward.asks
    known = len(costs) == len(history)
    return Took(
        answers=sum(m.groups for m in history) * work.settings.rollout.group_size,
        cost_usd=sum(costs) if known else None if paid else 0.0,
        seconds=round(sum(m.seconds["total"] for m in history), 2),
    )
