"""Before supervised fine-tuning: the rows are read and checked, then the model is loaded, then rows become
tokens, and everything is on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from refine_rl.engines.base import Engine
from refine_rl.engines.build import require_engine
from refine_rl.errors import SettingsError, UserError
from refine_rl.pipeline.begin import begin
from refine_rl.pipeline.commits import hold_commits
from refine_rl.pipeline.model import closed_on_error, run_engine
from refine_rl.policy.hub import downloading
from refine_rl.policy.load import require_model
from refine_rl.policy.origin import model_source
from refine_rl.policy.policy import Policy
from refine_rl.policy.round_trip import lost_text
from refine_rl.progress import Pause, never
from refine_rl.prompts.demonstrations import Shown, load_demonstrations
from refine_rl.run import RunFolder
from refine_rl.run.endpoints import ledger_of
from refine_rl.run.journal import Journal
from refine_rl.run.trackers.build import require_trackers
from refine_rl.settings import Settings, SFTSettings
from refine_rl.training.sft.fitting import fit
from refine_rl.training.sft.rows import Order, Tokens
from refine_rl.types import Demonstration, Prompt, count_of


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What training begins with; `steps` is how many there are to be, `shown` what a few of the validation
    rows are as texts."""

    folder: RunFolder
    settings: Settings
    sft: SFTSettings
    engine: Engine
    rows: Sequence[Tokens]
    validation: Sequence[Tokens]
    shown: Sequence[Demonstration]
    order: Order
    steps: int

    @property
    def policy(self) -> Policy:
        """The model's texts and shape."""
        return self.engine.policy


def prepare_sft(
    folder: RunFolder, journal: Journal, held_out: Sequence[Prompt], pause: Pause = never
) -> Ready:
    """Everything before the first step. Raises UserError for a mistake; rows are read before a model is
    loaded."""
    settings = hold_commits(folder, journal)
    sft = settings.sft
    if sft is None:
        raise SettingsError(
            "There is no [sft] in the task: say where the answers to imitate stand, as in "
            'data = "file:pairs.jsonl".'
        )
    require_engine(settings.engine, settings.model, samples=False)
    require_trackers(settings.track)
    require_model(settings.model)
    journal.stage(f"Reading {sft.data}")
    shown = _read(folder, settings, sft, held_out, pause)
    journal.stage(f"Loading {settings.model.called}")
    source = model_source(settings.sft_model.name, journal.observer.note)
    with downloading(source, partial(journal.observer.count, "MB downloaded")):
        ledger = ledger_of(settings, folder)
        engine = run_engine(folder, keep_reference=False, record=True, ledger=ledger)
    policy = engine.policy
    journal.stage(f"{count_of(len(shown.rows), 'row')} become tokens")
    with closed_on_error(engine):
        fitted = fit(shown.rows, policy, sft, shown.lines, pause)
        rows, validation = fitted.train, fitted.validation
        if policy.moving:
            longest = max(len(t.ids) for t in (*rows, *validation))
            engine.hold_still(longest + settings.rollout.max_tokens)
        order = Order(lengths=tuple(len(t.ids) for t in rows), batch_tokens=sft.batch_tokens, seed=sft.seed)
        steps = sft.steps or order.steps(sft.epochs or 1.0)
        settings = begin(folder, settings, policy, journal)
    lines = [*shown.lines, *fitted.lines]
    folder.config.note(sft_data_sha256=shown.sha256, sft_steps=steps, sft_rows=len(rows))
    told = {e["name"] for e in folder.events()}
    tokens, targets = sum(order.lengths), sum(t.targets for t in rows)
    lines += [
        f"{count_of(len(rows), 'row')} to train on ({tokens:,} tokens, {targets:,} of them in answers), "
        f"{len(validation)} to validate",
        f"{count_of(steps, 'step')} of up to {sft.batch_tokens:,} tokens: {order.epochs(steps):.2f} passes",
        policy.share.text,
    ]
    for line in lines:
        journal.observer.note(line)
    if "rows" not in told:
        _round_trip(shown.rows, policy, journal)
        journal.event("curation", "rows", "\n".join(lines))
    if policy.why_plain:
        why = f"nothing is packed for this model ({policy.why_plain}): the same results, more slowly"
        journal.observer.note(why)
    by_name = {s.name: s for s in shown.rows}
    return Ready(
        folder=folder,
        settings=settings,
        sft=sft,
        engine=engine,
        rows=rows,
        validation=validation,
        shown=[by_name[t.name] for t in (validation or rows)[: sft.examples]],
        order=order,
        steps=steps,
    )


def _read(
    folder: RunFolder, settings: Settings, sft: SFTSettings, held_out: Sequence[Prompt], pause: Pause
) -> Shown:
    """The rows of the source. Raises UserError where they are others than when the run began."""
    shown = load_demonstrations(sft, settings.folder, held_out, pause)
    known = folder.config.source().get("sft_data_sha256")
    if known not in (None, shown.sha256) and folder.recorded_to():
        raise UserError(
            f"The rows of {sft.data} are others than when {folder.path} began: it cannot go on exactly where "
            "it stopped. Put them back as they were, or start a new run."
        )
    return shown


def _round_trip(rows: Sequence[Demonstration], policy: Policy, journal: Journal) -> None:
    """Warns of characters in answers and in what stands before them that the model's tokenizer does not
    know."""
    said = [(m["role"] == "assistant", m["content"]) for row in rows for m in row.messages]
    if lost := lost_text(policy, [text for answer, text in said if answer]):
        journal.warning("lost_answers", f"{lost.text('answer')}. The model cannot write them.", once=True)
    if lost := lost_text(policy, [text for answer, text in said if not answer]):
        journal.warning("lost_text", f"{lost.text('prompt')}. The model cannot see them.", once=True)
