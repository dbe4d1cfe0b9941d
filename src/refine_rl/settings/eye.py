"""The settings of the judge that looks at validation answers beside the reward."""

from __future__ import annotations

from refine_rl.settings.whole import Settings


def of_eye(settings: Settings) -> Settings | None:
    """`settings` with that judge in the place of the reward's: `evaluate.judge` (else the reward's own) by
    `evaluate.rubric` (else the reward's). None where no judge looks. It scores every answer by itself,
    whatever `judge.kind` says: values of one step are to be compared with those of another."""
    evaluate, reward = settings.evaluate, settings.reward
    if evaluate.on_drift == "off" or not (evaluate.judge or evaluate.rubric):
        return None
    judges = [evaluate.judge] if evaluate.judge else reward.judges
    alone = {"kind": "absolute", "adaptive": False, "larger": "", "gate": []}
    changed = {
        "reward": reward.model_copy(update={"judges": judges, "rubric": evaluate.rubric or reward.rubric}),
        "judge": settings.judge.model_copy(update=alone),
    }
    return settings.model_copy(update=changed)
