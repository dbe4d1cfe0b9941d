"""[judge] -> the judges as one reward, the component "judge"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from refine_rl.errors import SettingsError
from refine_rl.llm.client import Client
from refine_rl.rewards.judges.looks import Judging
from refine_rl.rewards.judges.panel import Panel
from refine_rl.settings import JudgeSettings

if TYPE_CHECKING:
    from refine_rl.rewards.judges.duels import Referee

JUDGE = "judge"
"""The component's name in breakdowns, weights and plots, whatever the kind."""

J = TypeVar("J", bound=Judging)


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
        judging=make_judging(_kind(judge.kind), judge, task=task, seed=seed, rubric=rubric),
        judges=tuple(clients),
        repeats=judge.repeats,
        adaptive=judge.adaptive,
        larger=larger,
        agree=judge.agree,
    )


def make_referee(
    judge: JudgeSettings, clients: Sequence[Client], *, task: str, rubric: str, seed: int = 0
) -> Referee:
    """The given clients as judges of two answers at a time, whatever kind they judge by elsewhere."""
    from refine_rl.rewards.judges.duels import PURPOSE, Referee
    from refine_rl.rewards.judges.pairwise import Pairwise

    judging = make_judging(Pairwise, judge, task=task, seed=seed, rubric=rubric, purpose=PURPOSE)
    return Referee(judging=judging, judges=tuple(clients))


def make_judging(kind: Callable[..., J], judge: JudgeSettings, *, task: str, seed: int, **own: Any) -> J:
    """A way of judging, sampled as [judge] says; `own` is what this kind alone needs."""
    return kind(
        task=task,
        seed=seed,
        temperature=judge.temperature,
        max_tokens=judge.max_tokens,
        corrections=judge.corrections,
        **own,
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
