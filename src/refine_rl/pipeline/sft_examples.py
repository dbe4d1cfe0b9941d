"""A few prompts of the validation rows, answered greedily before and after."""

from __future__ import annotations

from collections.abc import Sequence

from refine_rl.envs.play import sample
from refine_rl.pipeline.sft_prepare import Ready
from refine_rl.policy.draw import Sampling
from refine_rl.policy.protocol import Purpose
from refine_rl.progress import Pause
from refine_rl.run.journal import Journal
from refine_rl.types import Demonstration, Prompt, count_of


def answer_before(ready: Ready, journal: Journal, pause: Pause) -> None:
    """The untrained model's answers, put on record beside those of the data."""
    shown = [s for s in ready.shown if _fits(ready, s)]
    if ready.folder.examples.exists() or not shown:
        return
    journal.stage(f"The untrained model answers {count_of(len(shown), 'example')}")
    answers = _answers(ready, shown, pause)
    ready.folder.examples.replace(
        {"name": s.name, "prompt": list(s.asked), "answer": s.answer, "before": before}
        for s, before in zip(shown, answers, strict=True)
    )


def answer_after(ready: Ready, journal: Journal, pause: Pause) -> None:
    """The tuned model's answers to the same prompts, put beside them."""
    records = ready.folder.examples()
    by_name = {s.name: s for s in ready.shown}
    shown = [by_name[r["name"]] for r in records if r["name"] in by_name]
    if not shown:
        return
    journal.stage(f"The tuned model answers {count_of(len(shown), 'example')}")
    after = dict(zip([s.name for s in shown], _answers(ready, shown, pause), strict=True))
    ready.folder.examples.replace({**r, "after": after.get(r["name"], "")} for r in records)


def _fits(ready: Ready, shown: Demonstration) -> bool:
    room = ready.policy.prompt_room(ready.settings.rollout.max_tokens)
    return len(ready.policy.encode(shown.asked)) <= room


def _answers(ready: Ready, shown: Sequence[Demonstration], pause: Pause) -> list[str]:
    prompts = [Prompt(id=s.name, split="validation", messages=s.asked) for s in shown]
    groups = sample(
        ready.engine.speaker,
        prompts,
        members=1,
        sampling=Sampling(max_tokens=ready.settings.rollout.max_tokens, temperature=0.0),
        purpose=Purpose(seed=ready.sft.seed, step=0, name="examples"),
        pause=pause,
    )
    return [group[0].completion for group in groups]
