"""The metrics of a comparison: checked before anything is spent, measured once every model has answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from refine_rl.errors import SettingsError
from refine_rl.evaluate.metrics.likelihood import reference_losses
from refine_rl.evaluate.metrics.measure import (
    Bootstrap,
    Pairs,
    Scale,
    TextMetric,
    bleu,
    chrf,
    measure,
    rouge_f1,
)
from refine_rl.evaluate.metrics.outcomes import Scales, greedy_rewards, lengths, perplexities, wins
from refine_rl.evaluate.metrics.references import NEEDED_BY, controls_of, require_references, text_in
from refine_rl.evaluate.metrics.resample import as_rows
from refine_rl.evaluate.metrics.sacre import require_sacrebleu
from refine_rl.llm.background import all_of
from refine_rl.pipeline.work import Work
from refine_rl.policy.protocol import Speaker
from refine_rl.rewards.base import untokenized
from refine_rl.rewards.judges.duels import Duel, Referee
from refine_rl.rewards.text.encoder import require_encoder, the_encoder
from refine_rl.settings import Settings
from refine_rl.types import Comparison, Outcome, Prompt, Trajectory

Losses = Mapping[str, tuple[float, int] | None]
"""By prompt's id: nats over a reference's tokens, and their number."""
Columns = Mapping[str, Sequence[Outcome]]
"""What models did with the same prompts: "base", "tuned", and further ones by name."""


def require_packages(settings: Settings) -> None:
    """Raises SettingsError where a metric's package is not installed, or its encoder cannot be had."""
    for name in settings.evaluate.metrics:
        if name in ("bleu", "chrf"):
            require_sacrebleu(name)
    if "bertscore" in settings.evaluate.metrics:
        try:
            require_encoder(settings.evaluate.encoder)
        except SettingsError as error:
            raise SettingsError(f'evaluate.metrics: "bertscore": {error}') from error


def require_data(settings: Settings, prompts: Sequence[Prompt]) -> None:
    """Raises UserError where one of the prompts to be compared on lacks the reference that a metric needs, or
    the name that is to be echoed."""
    if needs_references(settings):
        require_references(prompts, settings.evaluate.reference)
        if settings.evaluate.name:
            require_references(prompts, settings.evaluate.name, key="evaluate.name")


def needs_references(settings: Settings) -> bool:
    return not set(settings.evaluate.metrics).isdisjoint(NEEDED_BY)


def note_losses(work: Work, which: str, prompts: Sequence[Prompt]) -> None:
    """Puts on record how likely the policy, as it is now, finds the references: as `which` ("base", "tuned").
    Nothing where no perplexity is wanted, or it is on record."""
    if losses_wanted(work, which):
        work.folder.save_losses(which, losses_of(work, work.speaker, prompts))


def losses_wanted(work: Work, which: str) -> bool:
    """Whether a perplexity is wanted that is not on record."""
    return "perplexity" in work.settings.evaluate.metrics and work.folder.losses(which) is None


def losses_of(work: Work, speaker: Speaker, prompts: Sequence[Prompt]) -> Losses:
    """How likely a speaker finds the references of prompts."""
    work.journal.stage("How likely the references are")
    references = [text_in(prompt, work.settings.evaluate.reference) for prompt in prompts]
    losses = reference_losses(speaker, prompts, references, work.pause)
    return {prompt.id: loss for prompt, loss in zip(prompts, losses, strict=True)}


def measured(
    work: Work,
    comparison: Comparison,
    columns: Columns,
    seed: int,
    losses: Mapping[str, Losses] | None = None,
) -> Comparison:
    """The comparison with the metrics that the settings name, of the greedy answers, and their controls.
    `losses` are the references' by column; without them, those on record."""
    wanted = work.settings.evaluate
    if not wanted.metrics:
        return comparison
    work.journal.stage(f"The answers are measured: {', '.join(wanted.metrics)}")
    prompts = [outcome.prompt for outcome in columns["tuned"]]
    references = [text_in(prompt, wanted.reference) for prompt in prompts]
    answers = {name: [o.greedy[0].completion for o in outcomes] for name, outcomes in columns.items()}
    texts = _text_metrics(work.settings)
    controls: dict[str, Pairs] = {}
    rewards: dict[str, Scale] = {}
    if texts:
        train = [p for p in work.folder.prompts() if p.split == "train"]
        controls = controls_of(
            prompts, answers["tuned"], train, reference=wanted.reference, name=wanted.name, seed=seed
        )
        rewards = _rewards(work, columns["tuned"], controls)
    given: dict[str, Scales] = {}
    if "length" in wanted.metrics:
        given |= lengths(columns)
    if "perplexity" in wanted.metrics:
        given |= _perplexity(work, columns, prompts, losses)
    if "win_rate" in wanted.metrics:
        given |= _win_rates(work, columns, references)
    found = measure(
        texts,
        {name: (said, references) for name, said in answers.items()},
        controls,
        given,
        {"reward": rewards} if rewards else {},
        Bootstrap(resamples=wanted.bootstrap, seed=seed),
    )
    return replace(comparison, metrics=found.metrics, controls=found.controls)


def _text_metrics(settings: Settings) -> list[TextMetric]:
    makers: dict[str, TextMetric] = {"bleu": bleu, "chrf": chrf, "rouge": rouge_f1}
    if "bertscore" in settings.evaluate.metrics:
        makers["bertscore"] = _bertscore(settings.evaluate.encoder)
    return [makers[name] for name in settings.evaluate.metrics if name in makers]


def _bertscore(encoder: str) -> TextMetric:
    """The mean F1, without idf and without a baseline."""
    from refine_rl.rewards.text.bertscore import BertScore

    bert = BertScore(encoder=the_encoder(encoder))

    def measured(answers: Sequence[str], references: Sequence[str], /) -> dict[str, Scale]:
        found = bert.pairs(answers, references)
        cut = sum(match.cut for match in found)
        how = f"{bert.label}, no idf, no baseline"
        if cut:
            how += f"; {cut} of {len(found)} pairs read up to {bert.encoder.limit} tokens"
        return {"bertscore": Scale(rows=as_rows([match.f1 for match in found]), how=how)}

    return measured


def _perplexity(
    work: Work, columns: Columns, prompts: Sequence[Prompt], losses: Mapping[str, Losses] | None
) -> dict[str, Scales]:
    """Of the references under each model; a further one whose losses are not known is left out."""
    known: dict[str, Losses] = {}
    for name in columns:
        found = work.folder.losses(name) if losses is None else losses.get(name)
        if found is not None:
            known[name] = found
    by_prompt = {name: [found.get(p.id) for p in prompts] for name, found in known.items()}
    how = "exp of the mean natural-log loss a token, that which ends an answer included"
    return {"perplexity": perplexities(by_prompt, how)}


# -- the reward of controls -----------------------------------------------------------------------


def _rewards(work: Work, tuned: Sequence[Outcome], controls: Mapping[str, Pairs]) -> dict[str, Scale]:
    """The reward of each control beside that of the tuned model's greedy answers; nothing where scores
    compare only within a group, or cost something. Where other references change no reward, it does not look
    at them, and "shuffled" has none."""
    settings = work.settings
    if work.scorers.exam.relative or settings.reward.asks or settings.evaluate.judge:
        return {}
    own = greedy_rewards(tuned)
    found = {"tuned": own}
    for name, (texts, references) in controls.items():
        if name == "shuffled":
            column = settings.evaluate.reference
            prompts = [
                replace(o.prompt, data={**o.prompt.data, column: reference})
                for o, reference in zip(tuned, references, strict=True)
            ]
            groups = [[o.greedy[0]] for o in tuned]
        else:
            prompts = [o.prompt for o in tuned]
            groups = [untokenized(p, [text]) for p, text in zip(prompts, texts, strict=True)]
        score = work.scorer(work.scorers.exam, f"The control {name!r}", f"missing_in_{name}", stops=False)
        values = [group[0].value for group in score(prompts, groups)]
        if name != "shuffled" or values != [o.greedy[1].value for o in tuned]:
            found[name] = Scale(rows=as_rows(values))
    return found if len(found) > 1 else {}


# -- win rates ------------------------------------------------------------------------------------


def _win_rates(work: Work, columns: Columns, references: Sequence[str]) -> dict[str, Scales]:
    """The tuned model's answers against the base model's, and both against the references, where every prompt
    has one."""
    referee = work.scorers.referee
    if referee is None:
        raise ValueError('the scorers were built without the metric "win_rate"')
    base, tuned = ([o.greedy[0] for o in columns[side]] for side in ("base", "tuned"))
    prompts = [o.prompt for o in columns["tuned"]]
    duels = _duels(work, referee, prompts, tuned, base)
    points = [duel.points for duel in duels]
    how, notes = f"judged by {referee.models}", _notes(duels)
    lost = [None if p is None else 1 - p for p in points]
    found: dict[str, Scales] = {
        "win_rate": {"base": wins(lost, how, notes), "tuned": wins(points, how, notes)}
    }
    if all(references):
        wanted = [untokenized(p, [text])[0] for p, text in zip(prompts, references, strict=True)]
        sides = {
            name: _duels(work, referee, prompts, [o.greedy[0] for o in outcomes], wanted)
            for name, outcomes in columns.items()
        }
        notes = _notes([duel for some in sides.values() for duel in some])
        found["win_rate_reference"] = {
            name: wins([duel.points for duel in some], how, notes) for name, some in sides.items()
        }
    return found


def _duels(
    work: Work,
    referee: Referee,
    prompts: Sequence[Prompt],
    ours: Sequence[Trajectory],
    theirs: Sequence[Trajectory],
) -> list[Duel]:
    """All at the same time, as many as the endpoint takes. One that cannot be had is told, no more."""
    pairs = zip(prompts, ours, theirs, strict=True)
    counted = partial(work.journal.observer.count, "verdicts")
    duels = work.waited_for(all_of([referee.duel(p, one, other) for p, one, other in pairs], counted))
    lost = [duel for duel in duels if duel.points is None]
    if lost:
        which = f"_of_{work.evaluation}" if work.evaluation else ""
        text = (
            f"No verdict on {len(lost)} of {len(duels)} pairs of answers. The first reason: {lost[0].failure}"
        )
        work.journal.warning(f"missing_in_win_rate{which}", text)
    return duels


def _notes(duels: Sequence[Duel]) -> dict[str, float]:
    """How far the order in which answers were shown decided: of the verdicts for one, the share for the first
    (1/2 is fair), and the share of pairs whose verdict turned around with the order."""
    decided, pairs = sum(d.decided for d in duels), sum(d.pairs for d in duels)
    found: dict[str, float] = {"missing": sum(d.points is None for d in duels)}
    if decided:
        found["first_shown"] = sum(d.first for d in duels) / decided
    if pairs:
        found["turned"] = sum(d.turned for d in duels) / pairs
    return found
