"""From a task to a tuned model with evidence: the table of contents of the product."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from refine_rl.errors import GuardStop, Interrupted
from refine_rl.evaluate.audit import audit
from refine_rl.evaluate.compare import compare
from refine_rl.policy.load import load_policy
from refine_rl.progress import Observer, Pause, Quiet, never
from refine_rl.report.page import render
from refine_rl.rewards import build_reward, check_sanity
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.runs import RunFolder
from refine_rl.stages import Work, begin, read_prompts, settle_prompts
from refine_rl.types import Comparison


def run(
    folder: RunFolder,
    *,
    observer: Observer | None = None,
    pause: Pause = never,
    functions: Sequence[Callable[..., Any]] = (),
) -> Comparison:
    """Everything, from wherever the folder stands: prompts, base, training, tuned, comparison, report.

    A new folder starts at the beginning; one that was stopped goes on exactly where it was. Whatever
    ends it early, the folder can be resumed, and after a guard the report is there.
    """
    observer = observer or Quiet()
    began = time.perf_counter()
    with folder.writing():
        folder.repair()
        folder.require_same_reward()
        settings = folder.settings()
        reward = build_reward(settings, functions)
        check_sanity(reward, settings.reward.sanity)
        read = read_prompts(folder, settings, reward)
        observer.stage(f"Loading {settings.model.name}")
        policy = load_policy(settings.model, seed=settings.grpo.seed, keep_reference=settings.grpo.kl > 0)
        prompts = settle_prompts(folder, settings, policy, read, observer)
        settings = begin(folder, settings, policy, observer)
        try:
            with ScoringLoop(reward) as scoring:
                work = Work(
                    folder=folder,
                    settings=settings,
                    policy=policy,
                    reward=reward,
                    scoring=scoring,
                    observer=observer,
                    pause=pause,
                    began=began,
                )
                base = work.evaluate("base", prompts["held_out"])
                position = work.train(prompts["train"], prompts["validation"])
                work.load_best(position)
                tuned = work.evaluate("tuned", prompts["held_out"])
            comparison = compare(
                base,
                tuned,
                success=reward.success,
                resamples=settings.evaluate.bootstrap,
                seed=settings.grpo.seed,
            )
            folder.save_comparison(comparison)
            for name, text in audit(comparison).items():
                folder.event("warning", name, text, position.step)
                observer.warning(text)
            work.write_model(comparison)
            folder.event("finished", "finished", str(comparison), position.step)
        except GuardStop as stop:
            folder.event("guard", stop.guard, f"{stop.what} {stop.advice}")
            folder.save_report(render(folder))
            raise
        except Interrupted:
            folder.event("interrupted", "interrupted", "Stopped by Ctrl-C; the state was saved.")
            raise
        observer.stage("Writing the report")
        folder.save_report(render(folder))
    return comparison
