"""The prompts of a task without a run: `refine prompts`, with what their writer cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refine_rl.errors import RefineError, UserError
from refine_rl.llm.kept import keep_in
from refine_rl.llm.meter import meter
from refine_rl.progress import Counted, Pause, never, uncounted
from refine_rl.prompts import CurationReport, load_prompts
from refine_rl.run.endpoints import connect
from refine_rl.settings import Settings
from refine_rl.types import Prompt, count_of
from refine_rl.types.amounts import price


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """Prompts, how they came to be, and the calls to their writer, with the replies that could not be used;
    `cost_usd` is None where the price of one is not known."""

    prompts: tuple[Prompt, ...]
    report: CurationReport
    calls: int
    cost_usd: float | None
    unusable: int = 0

    def cost(self) -> str:
        """What was spent, in words.

        >>> from unittest.mock import Mock
        >>> Gathered(prompts=(), report=Mock(), calls=0, cost_usd=0.0).cost()
        'every reply was in the cache: nothing was spent'
        """
        if not self.calls:
            return "every reply was in the cache: nothing was spent"
        calls = count_of(self.calls, "call")
        cost = "at a price that is not known" if self.cost_usd is None else f"for {price(self.cost_usd)}"
        some = "1 reply" if self.unusable == 1 else f"{self.unusable} replies"
        lost = f", {some} could not be used" if self.unusable else ""
        return f"{calls} {cost}{lost}; `refine train` takes the same prompts from the cache"


def gather_prompts(
    settings: Settings,
    note: Callable[[str], None],
    pause: Pause = never,
    *,
    replies: Path | None = None,
    counted: Counted = uncounted,
) -> Gathered:
    """The prompts that `settings` describe: read, or written by their writer. What it was asked and replied
    goes into the new file `replies`, where one is named; `counted` hears of the prompts that are written.

    Raises what `load_prompts` raises, and SettingsError or UserError where the writer cannot be asked.
    """
    if replies is not None and not settings.writes_prompts:
        raise UserError("--replies: these prompts are read, and no writer is asked; leave it out.")
    connections = None
    if settings.writes_prompts:
        try:
            connect(settings, None, note).client(settings.writer.model)
        except RefineError as error:
            raise type(error)(f"writer.model: {error}") from None
        connections = connect(settings, None, note, keep_in(replies))
    with meter() as spent:
        prompts, report = load_prompts(settings, connections, note, pause, counted)
    return Gathered(
        prompts=tuple(prompts),
        report=report,
        calls=spent.calls,
        cost_usd=spent.cost_usd,
        unusable=spent.unusable,
    )
