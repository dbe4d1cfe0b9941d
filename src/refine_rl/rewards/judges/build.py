"""The judges of the settings as one reward, the component "judge"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refine_rl.errors import SettingsError
from refine_rl.llm.client import Client, Connections
from refine_rl.rewards.judges.looks import Judging
from refine_rl.rewards.judges.panel import Panel
from refine_rl.settings import JudgeSettings, Settings

JUDGE = "judge"
"""The component's name in breakdowns, weights and plots, whatever the kind."""


def build_panel(settings: Settings, connections: Connections, rubric: str = "") -> Panel:
    """The panel that [reward] and [judge] describe. `rubric` is the text to judge by; without it, the one
    that the settings name (the general one as long as the writer has not written it).

    Raises SettingsError for a model that cannot be reached from the settings, or for a rubric that cannot
    be read.
    """
    from refine_rl.rewards.judges.rubric import default_rubric, load_rubric

    judge = settings.judge
    if not rubric:
        rubric = default_rubric() if settings.reward.rubric == "write" else load_rubric(settings)
    return make_panel(
        judge,
        [connections.client(model) for model in settings.reward.judges],
        task=settings.task,
        rubric=rubric,
        seed=settings.grpo.seed,
        larger=connections.client(judge.larger) if judge.larger else None,
    )


def make_panel(
    judge: JudgeSettings,
    clients: Sequence[Client],
    *,
    task: str,
    rubric: str,
    seed: int = 0,
    larger: Client | None = None,
) -> Panel:
    """A panel of the given clients."""
    if not clients:
        raise SettingsError('a panel needs a judge: `reward.judges = ["ENDPOINT/MODEL"]`')
    return Panel(
        name=JUDGE,
        judging=_judging(judge, task, rubric, seed),
        judges=tuple(clients),
        repeats=judge.repeats,
        adaptive=judge.adaptive,
        larger=larger,
        agree=judge.agree,
    )


def _judging(judge: JudgeSettings, task: str, rubric: str, seed: int) -> Judging:
    return _kind(judge.kind)(
        task=task,
        rubric=rubric,
        seed=seed,
        temperature=judge.temperature,
        max_tokens=judge.max_tokens,
        corrections=judge.corrections,
    )


def _kind(name: str) -> Callable[..., Judging]:
    if name == "absolute":
        from refine_rl.rewards.judges.absolute import Absolute

        return Absolute
    if name == "pairwise":
        from refine_rl.rewards.judges.pairwise import Pairwise

        return Pairwise
    from refine_rl.rewards.judges.ruler import Ruler

    return Ruler
