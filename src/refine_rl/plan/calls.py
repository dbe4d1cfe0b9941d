"""Settings -> the calls to LLMs that a run makes, by purpose. Pure; nothing is asked of anybody.

`low` and `high` count the calls of a run in which all answers of a group differ, every reply can be used
at once and nothing is cached; they differ where the judges' own replies decide (adaptive looks, a larger
judge, a gate), where groups without spread are replaced (grpo.resample: none in `low`, as many as may be in
`high`) or have the steps of their answers graded (none in `low`, all in `high`), or where a writer has to
write more than once. Answers that are alike, and replies from the cache, make it fewer; corrections and
repeated attempts make it more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from refine_rl.plan.counts import Counts, tokens
from refine_rl.settings import Settings

Range = tuple[int, int]

INSTRUCTIONS = 500  # tokens of a judge's or writer's instructions, the default rubric included
MEMBER = 30  # tokens around an answer: its tags, its JSON
VERDICT = (40, 80)  # tokens of a reply for each answer that is scored: a reason and a number
REASONING = 2000  # tokens that a model may spend on thinking first, in the high figure
QUESTION = 50  # tokens of a question with its options
LOOK = "first look"
ANCHORS = "anchors"
FIRST = "first validation"
COMPARISON = "held-out comparison"
STEPS = "steps of wrong answers"
SHOWN_PROMPTS = 20  # prompts there are already, shown to the writer


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """Calls of one purpose (the word that stands in the ledger) at one stage of the run, to one model; with
    the tokens of one call, low and high."""

    purpose: str
    stage: str
    model: str
    low: int
    high: int
    tokens_in: Range
    tokens_out: Range


def calls(settings: Settings, counts: Counts) -> list[Calls]:
    """Every call of a whole run, in the order in which they come."""
    found = [
        *_first_look(settings, counts),
        *_writing(settings, counts),
        *_judging(settings, counts),
        *_quiz(settings, counts),
        *_grading_of_steps(settings, counts),
    ]
    return [c for c in found if c.high]


def validations(settings: Settings, counts: Counts) -> int:
    """How often the validation prompts are scored: before training, at every `validate_every`-th step and
    at the last."""
    every, steps = settings.grpo.validate_every, settings.grpo.steps
    if not counts.validation:
        return 0
    return 1 + (steps // every + (steps % every > 0) if every else 0)


def resampled(settings: Settings, counts: Counts) -> int:
    """Groups that grpo.resample may add to a step: never two of a prompt."""
    return min(settings.grpo.resample, max(0, counts.train - settings.grpo.prompts_per_step))


# -- prompts and rubric ---------------------------------------------------------------------------


def _writing(settings: Settings, counts: Counts) -> Iterator[Calls]:
    w, task = settings.writer, tokens(len(settings.task))

    def one(stage: str, low: int, high: int, tokens_in: int, out: Range, purpose: str = "writer") -> Calls:
        most = min(out[1] + REASONING, w.max_tokens)
        return Calls(
            purpose=purpose,
            stage=stage,
            model=w.model,
            low=low,
            high=high,
            tokens_in=(tokens_in, tokens_in),
            tokens_out=(min(out[0], most), most),
        )

    if settings.writes_prompts:
        if not settings.prompts.facets:
            yield one("facets", 1, 1, INSTRUCTIONS + task, (100, 300))
        batches = -(-counts.total // w.batch)
        seen = SHOWN_PROMPTS * counts.tokens
        each = counts.tokens + MEMBER
        yield one(
            "prompts",
            batches,
            2 * batches,  # near-duplicates and unusable ones are asked for again
            INSTRUCTIONS + task + seen,
            (w.batch * each // 2, w.batch * each * 2),
        )
        if w.check:
            written = INSTRUCTIONS + task + w.batch * each
            yield one("check of the prompts", batches, 2 * batches, written, (20, 10 * w.batch))
        if w.system and not settings.prompts.system:
            yield one("system message", 1, 1, INSTRUCTIONS + task, (60, 200))
    if settings.reward.rubric == "write":
        yield one("rubric", 1, 1, INSTRUCTIONS + task, (150, 500), purpose="rubric")


# -- judges ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Groups of one size that are judged at one stage, and as many `more` as there may be. `gated`: rules
    may spare the judges an answer."""

    stage: str
    groups: int
    answers: int
    gated: bool = True
    more: int = 0


def judged(settings: Settings, counts: Counts) -> list[Judged]:
    """All groups that the judges see. Where scores are relative, the tuned model's answers are judged beside
    the base model's, at validations and in the comparison; else each model's apart."""
    g, samples = settings.grpo, settings.evaluate.samples
    n, later = counts.validation, max(0, validations(settings, counts) - 1)
    relative = is_relative(settings)
    found = [
        Judged(stage="sanity cases", groups=len(settings.reward.sanity), answers=2),
        Judged(stage="probe of the pool", groups=_probed(settings, counts), answers=settings.prompts.probe),
        Judged(stage=FIRST, groups=n, answers=samples),
        Judged(
            stage="training",
            groups=g.steps * g.prompts_per_step,
            more=g.steps * resampled(settings, counts),
            answers=settings.rollout.group_size,
        ),
        Judged(stage="validation", groups=n * later, answers=2 * samples if relative else samples),
        Judged(
            stage=COMPARISON,
            groups=counts.held_out if relative else 2 * counts.held_out,
            answers=(2 if relative else 1) * (samples + 1),  # the greedy answer included
        ),
    ]
    if settings.judge.anchors:
        from refine_rl.rewards.judges.anchors import KINDS  # late: few plans need it

        prompts = min(settings.judge.anchor_prompts, counts.train)
        found.append(
            Judged(
                stage=ANCHORS,
                groups=prompts * (1 + later),
                answers=samples + len(KINDS),
                gated=False,
            )
        )
    return found


def is_relative(settings: Settings) -> bool:
    """Whether scores compare only within a group."""
    r, j = settings.reward, settings.judge
    return bool(r.judges) and j.kind != "absolute" and r.weights.get("judge", j.weight) > 0


def _probed(settings: Settings, counts: Counts) -> int:
    return counts.train if settings.prompts.probe else 0


def requests(kind: str, answers: int) -> int:
    """Requests of one look at a group of that many different answers."""
    if kind == "absolute":
        return answers
    if answers < 2:
        return 0
    return 1 if kind == "ruler" else 2 * _pairs(answers)


def _pairs(answers: int) -> int:
    from refine_rl.rewards.judges.pairwise import pairs_played

    return pairs_played(answers)


def looks(settings: Settings, stage: str = "training") -> list[tuple[str, int, int]]:
    """(model, low, high) looks at a group: every judge `repeats` times in turn; with `adaptive` two, and
    the others only where these disagree; the larger judge only where looks disagree. The judge that is
    named for the comparison looks there alone."""
    j, exam = settings.judge, settings.evaluate.judge
    if stage == COMPARISON and exam:
        return [(exam, j.repeats, j.repeats)]
    order = [model for _ in range(j.repeats) for model in settings.reward.judges]
    sure = Counter(order[:2] if j.adaptive else order)
    found = [(model, sure[model], high) for model, high in Counter(order).items()]
    return [*found, (j.larger, 0, 1)] if j.larger else found


def _first_look(settings: Settings, counts: Counts) -> Iterator[Calls]:
    """Everybody who judges is shown two fixed answers, once in each role, before anything else."""
    from refine_rl.rewards.judges.first_look import FIXED

    reward, judge = settings.reward, settings.judge
    roles = [reward.judges, [judge.larger] if reward.judges else [], [settings.evaluate.judge]]
    once = Counter(model for models in roles for model in dict.fromkeys(models) if model)
    each = requests(judge.kind, len(FIXED))
    tokens_in, tokens_out = _judge_tokens(settings, counts, len(FIXED))
    numbers = {model: roles_of * each for model, roles_of in once.items()}
    steps = list(dict.fromkeys(reward.steps.judges)) if reward.steps is not None else []
    for model in dict.fromkeys([*numbers, *steps]):
        number = numbers.get(model, 0) + (len(FIXED) if model in steps else 0)
        yield Calls(
            purpose="anchor",
            stage=LOOK,
            model=model,
            low=number,
            high=number,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
        )


def _judging(settings: Settings, counts: Counts) -> Iterator[Calls]:
    if not settings.reward.judges:
        return
    for group in judged(settings, counts):
        yield from _judged_groups(settings, counts, group)


def calls_for_groups(settings: Settings, counts: Counts, *, groups: int) -> list[Calls]:
    """The calls that score so many groups of rollouts, their sources' questions included."""
    group = Judged(stage="probe", groups=groups, answers=settings.rollout.group_size)
    found = list(_judged_groups(settings, counts, group)) if settings.reward.judges else []
    answers = groups * group.answers
    return [*found, *_asked_of(settings, counts, {"probe": (answers, answers)}, sources=(groups, groups))]


def _judged_groups(settings: Settings, counts: Counts, group: Judged) -> Iterator[Calls]:
    one = requests(settings.judge.kind, group.answers)
    tokens_in, tokens_out = _judge_tokens(settings, counts, group.answers)
    for model, low, high in looks(settings, group.stage):
        yield Calls(
            purpose="anchor" if group.stage == ANCHORS else "judge",
            stage=group.stage,
            model=model,
            low=0 if settings.judge.gate and group.gated else group.groups * one * low,
            high=(group.groups + group.more) * one * high,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
        )


def _judge_tokens(settings: Settings, counts: Counts, answers: int) -> tuple[Range, Range]:
    """Of one request: half of `rollout.max_tokens` an answer is low, all of it high."""
    shown = {"ruler": answers, "absolute": 1, "pairwise": 2}[settings.judge.kind]
    scored = answers if settings.judge.kind == "ruler" else 1
    goal = len(settings.task) + len(settings.reward.rubric)
    return _looking_tokens(settings, counts, goal=goal, shown=shown, scored=scored)


def _looking_tokens(
    settings: Settings, counts: Counts, *, goal: int, shown: int, scored: int
) -> tuple[Range, Range]:
    """Of a request that says its goal in so many characters, and shows and has scored so many answers."""
    shared = INSTRUCTIONS + tokens(goal) + counts.tokens
    low, high = (shared + shown * (n + MEMBER) for n in _answer(settings))
    most = min(VERDICT[1] * scored + REASONING, settings.judge.max_tokens)
    return (low, high), (min(VERDICT[0] * scored, most), most)


def _grading_of_steps(settings: Settings, counts: Counts) -> Iterator[Calls]:
    """[reward.steps] judges: a call an answer, and only in groups without a right one."""
    table = settings.reward.steps
    if table is None:
        return
    answers = settings.grpo.steps * settings.grpo.prompts_per_step * settings.rollout.group_size
    goal = len(settings.task)  # the rubric is for those who score
    tokens_in, tokens_out = _looking_tokens(settings, counts, goal=goal, shown=1, scored=1)
    for model, times in Counter(table.judges).items():
        yield Calls(
            purpose="steps",
            stage=STEPS,
            model=model,
            low=0,
            high=answers * times * settings.judge.repeats,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
        )


def _answer(settings: Settings) -> Range:
    """Tokens of an answer of the policy."""
    most = settings.rollout.max_tokens
    return -(-most // 2), most


# -- quiz -----------------------------------------------------------------------------------------


def _quiz(settings: Settings, counts: Counts) -> Iterator[Calls]:
    if settings.reward.quiz is None:
        return
    from refine_rl.rewards.judges.first_look import QUIZZED

    samples, cases = settings.evaluate.samples, len(settings.reward.sanity)
    steps, members = settings.grpo.steps, settings.rollout.group_size
    groups = [steps * settings.grpo.prompts_per_step]
    groups.append(groups[0] + steps * resampled(settings, counts))
    used = [counts.train_sources if settings.prompts.probe else min(counts.train_sources, n) for n in groups]
    n, later = counts.validation, max(0, validations(settings, counts) - 1)
    # Beside a relative judge the base model's answers come up again; their replies are in the cache.
    again = 2 if is_relative(settings) else 1
    probed = _probed(settings, counts) * settings.prompts.probe
    compared = 2 * counts.held_out * (samples + 1)
    answers = {
        # One source is tried, two more where its questions cannot be used; a writer's prompts have none.
        LOOK: (1, QUIZZED),
        "sanity cases": (2 * cases, 2 * cases),
        "probe of the pool": (probed, probed),
        FIRST: (n * samples, n * samples),
        "training": (groups[0] * members, groups[1] * members),
        "validation": (n * later * samples, n * later * samples * again),
        COMPARISON: (compared, compared),
    }
    low, high = (number + counts.other_sources + cases for number in used)
    yield from _asked_of(settings, counts, answers, sources=(low, high))


def _asked_of(
    settings: Settings, counts: Counts, answers: dict[str, Range], *, sources: Range
) -> Iterator[Calls]:
    """A source: one call that writes the questions, two that check them (with the source, and without any
    text). Then one call an answer; `sources` and `answers`, by stage, are their numbers, low and high."""
    q = settings.reward.quiz
    if q is None:
        return
    writer = q.writer or settings.writer.model
    reader = q.reader or next(iter(settings.reward.judges), writer)
    source, asked = tokens(counts.source_chars), q.questions * QUESTION
    low, high = _answer(settings)
    chosen = (8 * q.questions, 16 * q.questions + REASONING)

    def one(stage: str, model: str, number: Range, tokens_in: Range, out: Range) -> Calls:
        return Calls(
            purpose="quiz",
            stage=stage,
            model=model,
            low=number[0],
            high=number[1],
            tokens_in=tokens_in,
            tokens_out=out,
        )

    writing, checking = INSTRUCTIONS + source, INSTRUCTIONS + asked + source // 2  # one check has no source
    yield one("questions", writer, sources, (writing, writing), (asked, 2 * asked + REASONING))
    twice = 2 * sources[0], 2 * sources[1]
    yield one("check of the questions", reader, twice, (checking, checking), chosen)
    answering = (INSTRUCTIONS + asked + low, INSTRUCTIONS + asked + high)
    for stage, number in answers.items():
        yield one(stage, reader, number, answering, chosen)
