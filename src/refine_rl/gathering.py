"""The prompts of a task without a run: `refine prompts`, with what their writer cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from refine_rl.config import Settings
from refine_rl.connecting import connect
from refine_rl.errors import RefineError
from refine_rl.llm.meter import meter
from refine_rl.progress import Pause, never
from refine_rl.prompts import CurationReport, load_prompts
from refine_rl.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """Prompts, how they came to be, and the calls to their writer; `cost_usd` is None where the price of one
    is not known."""

    prompts: tuple[Prompt, ...]
    report: CurationReport
    calls: int
    cost_usd: float | None

    def cost(self) -> str:
        """What was spent, in words.

        >>> from unittest.mock import Mock
        >>> Gathered(prompts=(), report=Mock(), calls=0, cost_usd=0.0).cost()
        'every reply was in the cache: nothing was spent'
        """
        if not self.calls:
            return "every reply was in the cache: nothing was spent"
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        cost = "at a price that is not known" if self.cost_usd is None else f"for ${self.cost_usd:.4f}"
        return f"{calls} {cost}; `refine train` takes the same prompts from the cache"


def gather_prompts(settings: Settings, note: Callable[[str], None], pause: Pause = never) -> Gathered:
    """The prompts that `settings` describe: read, or written by their writer.

    Raises what `load_prompts` raises, and SettingsError or UserError where the writer cannot be asked.
    """
    connections = connect(settings, None, note) if settings.writes_prompts else None
    if connections is not None:
        try:
            connections.client(settings.writer.model)
        except RefineError as error:
            raise type(error)(f"writer.model: {error}") from None
    with meter() as spent:
        prompts, report = load_prompts(settings, connections, note, pause)
    return Gathered(prompts=tuple(prompts), report=report, calls=spent.calls, cost_usd=spent.cost_usd)
