"""Settings -> the calls to LLMs that a run makes, by purpose. Pure; nothing is asked of anybody.

`low` and `high` count the calls of a run in which all answers of a group differ, every reply can be used
at once and nothing is cached; they differ where the judges' own replies decide (adaptive looks, a larger
judge, a gate), where a short thought makes a small group (rollout.behind), where groups without spread are
replaced (grpo.resample: none in `low`, as many as may be in `high`) or have the steps of their answers graded
(none in `low`, all in `high`), where a drift may lead back (rollback.py), or where a writer has to write more
than once. Answers that are alike, and replies from the cache, make it fewer; corrections and repeated
attempts make it more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from refine_rl.plan.call import Calls as Calls
from refine_rl.plan.call import Range
from refine_rl.plan.call import made as _calls
from refine_rl.plan.counts import Counts, tokens
from refine_rl.plan.rivals import rival_groups, thoughts
from refine_rl.plan.rollback import repeated
from refine_rl.settings import (
    GRPOSettings,
    JudgeSettings,
    PromptSettings,
    RewardSettings,
    Settings,
    StepSettings,
    WriterSettings,
)
from refine_rl.settings.evaluate import MINIBATCH, TRIED_EACH
from refine_rl.settings.eye import of_eye

INSTRUCTIONS = 500  # tokens of a judge's or writer's instructions, the default rubric included
MEMBER = 30  # tokens around an answer: its tags, its JSON
VERDICT = (40, 80)  # tokens of a reply for each answer that is scored: a reason and a number
REASONING = 2000  # tokens that a model may spend on thinking first, in the high figure
QUESTION = 50  # tokens of a question with its options
LOOK = "first look"
ANCHORS = "anchors"
FIRST = "first validation"
COMPARISON = "held-out comparison"
WIN_RATE = "win rate"
RIVAL = "rival"
EYE = "validation, another eye"
STEPS = "steps of wrong answers"
SHOWN_PROMPTS = 20  # prompts there are already, shown to the writer


def calls(settings: Settings, counts: Counts, *, second: bool = False) -> list[Calls]:
    """Every call of a whole run, in their order; a `second` one has prompts, rubric and base's answers of a
    first, and does without its first looks."""
    s, reward = settings, settings.reward
    judges, quiz = judges_of(s, counts), quiz_of(s, counts)
    found: list[Calls] = [] if second else [*_first_look(judges, reward.steps)]
    if s.writes_prompts and not second:
        found += _writing(s.task, s.prompts, s.writer, counts)
    if reward.rubric == "write" and not second:
        tokens_in = INSTRUCTIONS + tokens(len(s.task))
        found.append(_of_writer(s.writer, "rubric", (1, 1), tokens_in, (150, 500), purpose="rubric"))
    if reward.judges:
        found += [call for group in judged(s, counts, second) for call in judges.calls(group)]
    if (eye := of_eye(s)) is not None:
        looks, more = (
            counts.validation * n for n in (validations(s.grpo, counts), repeated(s, counts).looks)
        )
        seen = Judged(stage=EYE, groups=looks, more=more, answers=s.evaluate.samples)
        found += judges_of(eye, counts).calls(seen)
    found += _reflections(s, counts)
    if "win_rate" in s.evaluate.metrics:
        found += _duels(judges, counts.held_out, compared(s))
    if quiz is not None:
        found += quiz.calls(*_quizzed(s, counts, second))
    if reward.steps is not None:
        steps = s.grpo.steps + repeated(s, counts).steps
        answers = steps * s.grpo.prompts_per_step * s.rollout.group_size
        found += _grading_of_steps(judges, reward.steps, answers)
    return [c for c in found if c.high]


def examined(settings: Settings, second: bool = False) -> int:
    """Answers to a held-out prompt that are scored in the comparison, those of rivals among them; the best of
    n has no greedy one."""
    samples, rivals = settings.evaluate.samples, settings.evaluate.rivals
    return (samples + 1) * (sides(settings, second) + len(rivals)) - ("best_of_n" in rivals)


def sides(settings: Settings, second: bool) -> int:
    """The models whose answers the comparison scores; a `second` run has base's, unless all are compared."""
    return compared(settings) - (second and not is_relative(settings.reward, settings.judge))


def calls_for_groups(
    settings: Settings,
    counts: Counts,
    *,
    groups: int,
    answers: int | None = None,
    stage: str = "probe",
) -> list[Calls]:
    """The calls that score so many groups of rollouts (of `answers`, where they are not as large as in
    training), their sources' questions included. Those of the `stage` COMPARISON are judged as there."""
    group = Judged(stage=stage, groups=groups, answers=answers or settings.rollout.group_size)
    found = [*judges_of(settings, counts).calls(group)] if settings.reward.judges else []
    if (quiz := quiz_of(settings, counts)) is not None:
        answered = groups * group.answers
        found += quiz.calls({stage: (answered, answered)}, (groups, groups))
    return found


def compared(settings: Settings) -> int:
    """The models of the comparison: base and tuned, and between them the one after supervised fine-tuning."""
    return 2 if settings.sft is None else 3


def validations(grpo: GRPOSettings, counts: Counts) -> int:
    """How often the validation prompts are scored: before training, at every `validate_every`-th step and
    at the last."""
    every, steps = grpo.validate_every, grpo.steps
    if not counts.validation:
        return 0
    return 1 + (steps // every + (steps % every > 0) if every else 0)


def resampled(grpo: GRPOSettings, counts: Counts) -> int:
    """Groups that grpo.resample may add to a step: never two of a prompt."""
    return min(grpo.resample, max(0, counts.train - grpo.prompts_per_step))


# -- prompts and rubric ---------------------------------------------------------------------------


def _writing(task: str, prompts: PromptSettings, writer: WriterSettings, counts: Counts) -> Iterator[Calls]:
    asked = INSTRUCTIONS + tokens(len(task))
    if not prompts.facets:
        yield _of_writer(writer, "facets", (1, 1), asked, (100, 300))
    batches = -(-counts.total // writer.batch)
    twice = (batches, 2 * batches)  # near-duplicates and unusable ones are asked for again
    each = writer.batch * (counts.tokens + MEMBER)
    yield _of_writer(writer, "prompts", twice, asked + SHOWN_PROMPTS * counts.tokens, (each // 2, each * 2))
    if writer.check:
        yield _of_writer(writer, "check of the prompts", twice, asked + each, (20, 10 * writer.batch))
    if writer.system and not prompts.system:
        yield _of_writer(writer, "system message", (1, 1), asked, (60, 200))


def _of_writer(
    writer: WriterSettings, stage: str, number: Range, tokens_in: int, out: Range, purpose: str = "writer"
) -> Calls:
    most = min(out[1] + REASONING, writer.max_tokens)
    return _calls(purpose, stage, writer.model, number, ((tokens_in, tokens_in), (min(out[0], most), most)))


# -- judges ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Groups of one size that are judged at one stage, and as many `more` as there may be. `gated`: rules
    may spare the judges an answer. Some groups may have but the `fewest` answers."""

    stage: str
    groups: int
    answers: int
    gated: bool = True
    more: int = 0
    fewest: int | None = None


def judged(settings: Settings, counts: Counts, second: bool = False) -> list[Judged]:
    """All groups that the judges see. Where scores are relative, the tuned model's answers are judged beside
    the base model's, at validations and in the comparison; else each model's apart."""
    g, samples = settings.grpo, settings.evaluate.samples
    n, later = counts.validation, max(0, validations(g, counts) - 1)
    relative = is_relative(settings.reward, settings.judge)
    probe, again = settings.prompts.probe, repeated(settings, counts)
    resamples = resampled(g, counts)
    found = [
        Judged(stage="sanity cases", groups=len(settings.reward.sanity), answers=2),
        Judged(stage="probe of the pool", groups=counts.train if probe else 0, answers=probe),
        Judged(stage=FIRST, groups=n, answers=samples),
        Judged(
            stage="training",
            groups=g.steps * g.prompts_per_step,
            more=g.steps * resamples + again.steps * (g.prompts_per_step + resamples),
            answers=settings.rollout.group_size,
            fewest=None if settings.rollout.behind is None else 1,
        ),
        Judged(
            stage="validation",
            groups=n * later,
            more=n * again.looks,
            answers=2 * samples if relative else samples,
        ),
        _compared(settings, counts, relative=relative, second=second),
        *_of_rivals(settings, counts),
    ]
    if settings.judge.anchors:
        from refine_rl.rewards.judges.anchors import KINDS  # late: few plans need it

        prompts = min(settings.judge.anchor_prompts, counts.train)
        found.append(
            Judged(
                stage=ANCHORS,
                groups=prompts * (1 - second + later),
                more=prompts * again.looks,
                answers=samples + len(KINDS),
                gated=False,
            )
        )
    return found


def _compared(settings: Settings, counts: Counts, *, relative: bool, second: bool) -> Judged:
    """The groups of the comparison, the greedy answers among them."""
    samples, rivals = settings.evaluate.samples, settings.evaluate.rivals
    if relative or (rivals and settings.judge.kind == "absolute"):  # which is asked of each answer alone
        return Judged(stage=COMPARISON, groups=counts.held_out, answers=examined(settings, second))
    groups = counts.held_out * (sides(settings, second) + len(rivals))
    return Judged(stage=COMPARISON, groups=groups, answers=samples + 1)


def _of_rivals(settings: Settings, counts: Counts) -> list[Judged]:
    relative = is_relative(settings.reward, settings.judge)
    return [
        Judged(
            stage=f"{RIVAL} {one.rival}",
            groups=one.groups[0],
            more=one.groups[1] - one.groups[0],
            answers=one.answers,
        )
        for one in rival_groups(settings, counts, relative=relative)
    ]


def _reflections(settings: Settings, counts: Counts) -> list[Calls]:
    """An LLM that reads answers and writes another system prompt."""
    number = thoughts(settings, counts, relative=is_relative(settings.reward, settings.judge))
    each = counts.tokens + MEMBER + TRIED_EACH * VERDICT[0]
    read = INSTRUCTIONS + tokens(len(settings.task)) + MINIBATCH * each
    low, high = (read + MINIBATCH * TRIED_EACH * n for n in _answer(settings.rollout.most_tokens))
    out = (100, min(400 + REASONING, settings.writer.max_tokens))
    return [_calls("rival prompt", f"{RIVAL} prompt", settings.reflects, number, ((low, high), out))]


def is_relative(reward: RewardSettings, judge: JudgeSettings) -> bool:
    """Whether scores compare only within a group."""
    return bool(reward.judges) and judge.kind != "absolute" and reward.weights.get("judge", judge.weight) > 0


def requests(kind: str, answers: int) -> int:
    """Requests of one look at a group of that many different answers."""
    if kind == "absolute":
        return answers
    if kind == "ruler":
        return int(answers > 1)
    from refine_rl.rewards.judges.pairwise import pairs_played  # late: few plans need it

    return 2 * pairs_played(answers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judges:
    """Who judges and how, with the lengths of what is shown: characters of the `task` and of the `rubric`,
    tokens of a `prompt` and of an `answer`. `exam` is the judge that is named for the comparison."""

    models: Sequence[str]
    how: JudgeSettings
    exam: str
    task: int
    rubric: int
    prompt: int
    answer: Range

    def looks(self, stage: str = "training") -> list[tuple[str, int, int]]:
        """(model, low, high) looks at a group: every judge `repeats` times in turn; with `adaptive` two, and
        the others only where these disagree; the larger judge only where looks disagree. The judge of the
        exam looks there alone."""
        j = self.how
        if stage == COMPARISON and self.exam:
            return [(self.exam, j.repeats, j.repeats)]
        order = [model for _ in range(j.repeats) for model in self.models]
        sure = Counter(order[:2] if j.adaptive else order)
        found = [(model, sure[model], high) for model, high in Counter(order).items()]
        return [*found, (j.larger, 0, 1)] if j.larger else found

    def calls(self, group: Judged) -> Iterator[Calls]:
        """Those that such groups take."""
        one = requests(self.how.kind, group.answers)
        least_one = one if group.fewest is None else requests(self.how.kind, group.fewest)
        purpose = "anchor" if group.stage == ANCHORS else "judge"
        for model, low, high in self.looks(group.stage):
            least = 0 if self.how.gate and group.gated else group.groups * least_one * low
            most = (group.groups + group.more) * one * high
            yield _calls(purpose, group.stage, model, (least, most), self.tokens(group.answers))

    def tokens(self, answers: int) -> tuple[Range, Range]:
        """Of one request: half of `rollout.max_tokens` an answer is low, all of it high."""
        shown = {"ruler": answers, "absolute": 1, "pairwise": 2}[self.how.kind]
        scored = answers if self.how.kind == "ruler" else 1
        return self.looking(goal=self.task + self.rubric, shown=shown, scored=scored)

    def looking(self, *, goal: int, shown: int, scored: int) -> tuple[Range, Range]:
        """Tokens of a request that says its goal in so many characters, and shows and has scored so many
        answers."""
        shared = INSTRUCTIONS + tokens(goal) + self.prompt
        low, high = (shared + shown * (n + MEMBER) for n in self.answer)
        most = min(VERDICT[1] * scored + REASONING, self.how.max_tokens)
        return (low, high), (min(VERDICT[0] * scored, most), most)


def judges_of(settings: Settings, counts: Counts) -> Judges:
    """The judges of these settings, before prompts of these lengths."""
    return Judges(
        models=settings.reward.judges,
        how=settings.judge,
        exam=settings.evaluate.judge,
        task=len(settings.task),
        rubric=len(settings.reward.rubric),
        prompt=counts.tokens,
        answer=_answer(settings.rollout.most_tokens),
    )


def _answer(most: int) -> Range:
    """Tokens of an answer of the policy."""
    return -(-most // 2), most


def _first_look(judges: Judges, graders: StepSettings | None) -> Iterator[Calls]:
    """Everybody who judges is shown two fixed answers, once in each role, before anything else."""
    from refine_rl.rewards.judges.first_look import FIXED

    roles = [judges.models, [judges.how.larger] if judges.models else [], [judges.exam]]
    once = Counter(model for models in roles for model in dict.fromkeys(models) if model)
    # Where only a win rate is judged, it is judged by pairs.
    each = requests(judges.how.kind if judges.models else "pairwise", len(FIXED))
    numbers = {model: roles_of * each for model, roles_of in once.items()}
    steps = list(dict.fromkeys(graders.judges)) if graders is not None else []
    for model in dict.fromkeys([*numbers, *steps]):
        number = numbers.get(model, 0) + (len(FIXED) if model in steps else 0)
        yield _calls("anchor", LOOK, model, (number, number), judges.tokens(len(FIXED)))


def _duels(judges: Judges, prompts: int, columns: int) -> Iterator[Calls]:
    """The metric "win_rate": base against tuned for each prompt, and each of the `columns` models against its
    reference where there is one; by each judge in both orders."""
    from refine_rl.rewards.judges.duels import PURPOSE

    looking = judges.looking(goal=judges.task + judges.rubric, shown=2, scored=1)
    models = [judges.exam] if judges.exam else judges.models
    for model, times in Counter(models).items():
        low = 2 * prompts * times
        yield _calls(PURPOSE, WIN_RATE, model, (low, low * (1 + columns)), looking)


def _grading_of_steps(judges: Judges, table: StepSettings, answers: int) -> Iterator[Calls]:
    """[reward.steps] judges: a call an answer, and only in groups without a right one."""
    looking = judges.looking(goal=judges.task, shown=1, scored=1)  # they see no rubric
    for model, times in Counter(table.judges).items():
        yield _calls("steps", STEPS, model, (0, answers * times * judges.how.repeats), looking)


# -- quiz -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Quiz:
    """Who writes and who answers so many `questions`, about a `source` of so many tokens and an `answer`."""

    writer: str
    reader: str
    questions: int
    source: int
    answer: Range

    def calls(self, answers: Mapping[str, Range], sources: Range) -> Iterator[Calls]:
        """A source: one call that writes the questions, two that check them (with the source, and without
        any text). Then one call an answer; `sources` and `answers`, by stage, are their numbers, low and
        high."""
        asked = self.questions * QUESTION
        chosen = (8 * self.questions, 16 * self.questions + REASONING)

        writing = INSTRUCTIONS + self.source
        checking = INSTRUCTIONS + asked + self.source // 2  # one of the two checks has no source
        made = ((writing, writing), (asked, 2 * asked + REASONING))
        yield _calls("quiz", "questions", self.writer, sources, made)
        twice = 2 * sources[0], 2 * sources[1]
        checked = ((checking, checking), chosen)
        yield _calls("quiz", "check of the questions", self.reader, twice, checked)
        answering = (INSTRUCTIONS + asked + self.answer[0], INSTRUCTIONS + asked + self.answer[1])
        for stage, number in answers.items():
            yield _calls("quiz", stage, self.reader, number, (answering, chosen))


def quiz_of(settings: Settings, counts: Counts) -> Quiz | None:
    """The quiz of these settings, where they have one."""
    q = settings.reward.quiz
    if q is None:
        return None
    writer = q.writer or settings.writer.model
    return Quiz(
        writer=writer,
        reader=q.reader or next(iter(settings.reward.judges), writer),
        questions=q.questions,
        source=tokens(counts.source_chars),
        answer=_answer(settings.rollout.most_tokens),
    )


def _quizzed(settings: Settings, counts: Counts, second: bool) -> tuple[dict[str, Range], Range]:
    """The answers that a quiz is put to, by stage, and the sources that it is about; low and high."""
    from refine_rl.rewards.judges.first_look import QUIZZED

    g, samples, cases = settings.grpo, settings.evaluate.samples, len(settings.reward.sanity)
    members, probe = settings.rollout.group_size, settings.prompts.probe
    back = repeated(settings, counts)
    groups = [g.steps * g.prompts_per_step]
    groups.append((g.steps + back.steps) * (g.prompts_per_step + resampled(g, counts)))
    used = [counts.train_sources if probe else min(counts.train_sources, n) for n in groups]
    n, later = counts.validation, max(0, validations(g, counts) - 1)
    # Beside a relative judge the base model's answers come up again; their replies are in the cache.
    again = 2 if is_relative(settings.reward, settings.judge) else 1
    probed = counts.train * probe
    exam = counts.held_out * examined(settings, second)
    rivals = {
        g.stage: (g.groups * g.answers, (g.groups + g.more) * g.answers) for g in _of_rivals(settings, counts)
    }
    low, high = (number + counts.other_sources + cases for number in used)
    return {
        # One source is tried, two more where its questions cannot be used; a writer's prompts have none.
        LOOK: (0, 0) if second else (1, QUIZZED),
        "sanity cases": (2 * cases, 2 * cases),
        "probe of the pool": (probed, probed),
        FIRST: (n * samples, n * samples),
        "training": (groups[0] * (members if settings.rollout.behind is None else 1), groups[1] * members),
        "validation": (n * later * samples, n * (later + back.looks) * samples * again),
        COMPARISON: (exam, exam),
        **rivals,
    }, (low, high)
