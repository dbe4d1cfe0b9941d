"""Another eye than the reward's: it looks at validation answers, and nothing is trained on what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_rl.errors import SettingsError
from refine_rl.llm.client import Connections
from refine_rl.rewards.combine import CombinedReward
from refine_rl.rewards.judges.build import make_panel
from refine_rl.rewards.judges.rubric import rubric_named
from refine_rl.settings import Settings
from refine_rl.settings.eye import of_eye


@dataclass(frozen=True, kw_only=True, slots=True)
class Eye:
    """A judge of its own (`reward`, with nothing else in it), or the `watched` components of the run's
    reward: those of weight 0."""

    reward: CombinedReward | None = None
    watched: Sequence[str] = ()


def build_eye(
    settings: Settings, reward: CombinedReward, connections: Connections | None, rubric: str
) -> Eye | None:
    """The eye beside `reward`, None where none is asked for: the judges that the settings name for it (see
    settings/eye.py), else what the reward only watches. `rubric` is the reward's. Raises SettingsError where
    nothing is there to look."""
    evaluate = settings.evaluate
    if evaluate.on_drift == "off":
        return None
    alone = of_eye(settings)
    if alone is None:
        watched = [n for n in reward.component_names if reward.weights[n] == 0]
        if not watched:
            raise SettingsError(
                f'evaluate.on_drift: "{evaluate.on_drift}" needs another eye than the reward: name a judge '
                '(`evaluate.judge = "ENDPOINT/MODEL"`), another rubric (`evaluate.rubric`), or let the '
                "reward watch something: a rule or function with `weight = 0`"
            )
        return Eye(watched=watched)
    if connections is None:
        raise SettingsError("evaluate.on_drift: an LLM looks, and no connections to endpoints were given")
    panel = make_panel(
        alone.judge,
        [connections.client(model) for model in alone.reward.judges],
        task=settings.task,
        rubric=rubric_named(evaluate.rubric, settings.folder) if evaluate.rubric else rubric,
        seed=settings.grpo.seed,
    )
    return Eye(reward=CombinedReward(components=(panel,), weights={panel.name: 1.0}))
