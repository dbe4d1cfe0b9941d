"""Settings -> the endpoints of a run, with its ledger and its cap."""

from __future__ import annotations

from collections.abc import Callable

from refine_rl.errors import RefineError, SettingsError, Together
from refine_rl.llm.client import Connections
from refine_rl.llm.connections import EndpointConnections, UnknownPriceError
from refine_rl.llm.kept import Keep, forget
from refine_rl.llm.ledger import Ledger, already_spent, last_id
from refine_rl.llm.prices import price_advice
from refine_rl.run import RunFolder
from refine_rl.settings import Settings


def models_in(settings: Settings) -> dict[str, str]:
    """The setting's key -> "ENDPOINT/MODEL", for every LLM that the settings name.

    >>> models_in(Settings(task="Be brief."))
    {}
    """
    reward, quiz = settings.reward, settings.reward.quiz
    named = {
        "writer.model": settings.writer.model,
        **{f"reward.judges, entry {n}": model for n, model in enumerate(reward.judges, start=1)},
        "judge.larger": settings.judge.larger if reward.judges else "",
        "evaluate.judge": settings.evaluate.judge,
        **{
            f"reward.steps.judges, entry {n}": m
            for n, m in enumerate(reward.steps.judges if reward.steps else (), 1)
        },
        "reward.quiz.writer": quiz.writer if quiz else "",
        "reward.quiz.reader": quiz.reader if quiz else "",
    }
    return {key: model for key, model in named.items() if model}


def check_models(settings: Settings, connections: Connections) -> None:
    """Raises an error that names every setting whose LLM cannot be asked: its endpoint is not known, its
    key is not in the environment, or its price is not known under a cap in dollars."""
    together = Together()
    unpriced: dict[str, str] = {}
    for key, model in models_in(settings).items():
        with together:
            try:
                connections.client(model)
            except UnknownPriceError:
                unpriced[key] = model
            except RefineError as error:
                raise type(error)(f"{key}: {error}") from None
    with together:
        if unpriced:
            models = list(dict.fromkeys(unpriced.values()))
            costs = f"{' and '.join(f'`{m}`' for m in models)} cost{'s' if len(models) == 1 else ''}"
            raise SettingsError(
                f"{', '.join(unpriced)}: budget.dollars needs to know what {costs}. "
                f"{price_advice(models, settings.endpoints)}"
            )
    together.tell()


def connect(
    settings: Settings, folder: RunFolder | None, note: Callable[[str], None], keep: Keep = forget
) -> EndpointConnections:
    """The endpoints that the settings name; every call goes into the run's ledger, and what the run has
    spent before counts towards `budget.dollars`. Without a run, calls are only counted, and what was asked
    and replied is given to `keep`."""
    if folder is None:
        ledger = Ledger(lambda call: None, dollars=settings.budget.dollars, keep=keep)
    else:
        ledger = ledger_of(settings, folder)
    return EndpointConnections(settings.endpoints, ledger, note=note)


def ledger_of(settings: Settings, folder: RunFolder) -> Ledger:
    """The ledger of a run, which goes on where earlier processes left it."""
    calls = folder.calls()
    spent, unknown = already_spent(calls)
    return Ledger(
        folder.calls.append,
        dollars=settings.budget.dollars,
        spent=spent,
        unknown=unknown,
        sent=folder.under_way.sent,
        done=folder.under_way.done,
        keep=folder.exchanges.append,
        first=last_id(calls),
    )


def spending(settings: Settings, ledger: Ledger) -> Callable[[], float | None]:
    """A function that says how many dollars the calls since it was last asked have cost; None where the
    settings name nobody who is paid, or where the price of a call is not known."""
    seen = (ledger.known_usd, ledger.unknown_calls)

    def since() -> float | None:
        nonlocal seen
        before, seen = seen, (ledger.known_usd, ledger.unknown_calls)
        paid = models_in(settings) or settings.engine.kind == "tinker"
        if not paid or seen[1] > before[1]:
            return None
        return seen[0] - before[0]

    return since
