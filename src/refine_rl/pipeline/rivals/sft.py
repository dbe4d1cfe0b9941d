"""The base model, fine-tuned on its own best answers: of n answers to each training prompt the one with the
highest reward is imitated, once (best of n distilled; RAFT's first round, Dong et al., arXiv 2304.06767).

How long: three passes, in updates of as many answers as GRPO has prompts a step; a tenth of the answers, up
to 100, chooses the checkpoint. What is trained (adapter, rank, dropout ...) is what GRPO trains. A prompt
whose answers all earn the same shows nothing and is left out, unless they are full successes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from refine_rl.engines.local import LocalEngine
from refine_rl.envs.play import sample
from refine_rl.errors import UserError
from refine_rl.pipeline import sft
from refine_rl.pipeline.evidence import hold_as_run
from refine_rl.pipeline.model import run_policy
from refine_rl.pipeline.rivals.best_of_n import best
from refine_rl.pipeline.rivals.rival import Answered, Record, Ring, tokens_of
from refine_rl.pipeline.rivals.tries import key_of
from refine_rl.policy.protocol import Purpose
from refine_rl.randomness import generator
from refine_rl.run import RunFolder
from refine_rl.settings import EngineSettings, Settings, SFTSettings
from refine_rl.settings.evaluate import PASSES
from refine_rl.training.grpo.setup import sampling_of
from refine_rl.types import Prompt, Score, Trajectory, count_of, same_value


class FineTuned:
    """See the module."""

    def of(self, settings: Settings) -> Record:
        return {"n": settings.best_of, "rival_calls": settings.rival_calls, "seed": settings.grpo.seed}

    def make(self, ring: Ring) -> Record:
        work, settings = ring.work, ring.settings
        rows = [row for row in _best_answers(ring) if row is not None]
        if not rows:
            raise UserError(
                "No training prompt had answers of different reward, so none shows what is better. A larger "
                "evaluate.best_of may find some."
            )
        file = ring.files.save_pairs([{"messages": row["messages"]} for row in rows])
        lengths = [row["tokens"] for row in rows]
        own = RunFolder(ring.files.run)
        if not own.begun:
            batch = max(*lengths, math.ceil(settings.grpo.prompts_per_step * sum(lengths) / len(lengths)), 1)
            RunFolder.create(own.path, _settings(settings, f"file:{file}", batch), kind="sft")
        losses = sft.run(own, observer=work.journal.observer, pause=work.pause)
        ring.tries.add(seconds=sum(m.seconds["total"] for m in own.sft_history()))
        return {
            "how": f"supervised fine-tuning on the best of {settings.best_of} answers to "
            f"{count_of(len(rows), 'training prompt')}; {losses}",
            "folder": f"{own.path.parent.name}/{own.path.name}",
        }

    def answer(
        self, ring: Ring, made: Mapping[str, Any], prompts: Sequence[Prompt], purpose: Purpose
    ) -> Answered:
        own = RunFolder.open(ring.files.run)
        policy = run_policy(own, adapter_from=own.model, keep_reference=False)
        hold_as_run(ring.work, LocalEngine(policy), prompts)
        answers = ring.work.answers(prompts, purpose, speaker=policy)
        return Answered(answers=answers, tokens=tokens_of(answers))


def _best_answers(ring: Ring) -> list[dict[str, Any] | None]:
    """For each training prompt, as many as rival_calls allows: the chat with its best answer and its tokens;
    None where none is shown to be better."""
    settings, n = ring.settings, ring.settings.best_of
    order = generator(settings.grpo.seed, "rival sft").permutation(len(ring.train))
    chosen = [ring.train[i] for i in order[: max(1, settings.rival_calls // n)]]
    at_once = settings.grpo.prompts_per_step
    found: list[dict[str, Any] | None] = []
    for start in range(0, len(chosen), at_once):
        some = chosen[start : start + at_once]
        keys = [key_of("best", n, settings.grpo.seed, p.id, p.messages) for p in some]
        found += ring.tries.each(keys, partial(_best, ring, some), answers=n)
        ring.work.journal.observer.count("prompts answered", len(found), len(chosen))
    return found


def _best(ring: Ring, some: Sequence[Prompt], places: Sequence[int]) -> list[dict[str, Any] | None]:
    prompts = [some[place] for place in places]
    work, scorer = ring.work, ring.work.scorers.validation
    groups = sample(
        ring.base,
        prompts,
        members=ring.settings.best_of,
        sampling=sampling_of(ring.settings),
        purpose=ring.purpose,
        pause=work.pause,
    )
    score = work.scorer(scorer, "The choice of answers to imitate", "missing_in_rival_sft")
    return [
        _row(group, scores, [scorer.success(s) for s in scores if s.value is not None])
        for group, scores in zip(groups, score(prompts, groups), strict=True)
    ]


def _row(
    group: Sequence[Trajectory], scores: Sequence[Score], successes: Sequence[bool]
) -> dict[str, Any] | None:
    values = [s.value for s in scores if s.value is not None]
    if not values or (same_value(values) and not all(successes)):
        return None
    chosen = best(group, scores)
    if not chosen.completion.strip():
        return None
    tokens = sum(len(segment.token_ids) for segment in chosen.segments)
    return {"messages": [dict(m) for m in chosen.messages], "tokens": tokens}


def _settings(settings: Settings, data: str, batch: int) -> Settings:
    """The run's, for the rival's own run: what is trained, and in what form, is the same."""
    table = SFTSettings(
        data=data,
        epochs=PASSES,
        batch_tokens=batch,
        max_tokens=max(batch, SFTSettings.model_fields["max_tokens"].default),
        dropout=settings.model.dropout,
        train_on="last",
        tokens_per_micro_batch=settings.grpo.tokens_per_micro_batch,
        seed=settings.grpo.seed,
    )
    return settings.model_copy(
        update={
            "sft": table,
            "engine": EngineSettings(kind="local"),
            "evaluate": settings.evaluate.model_copy(update={"rivals": []}),
        }
    )
