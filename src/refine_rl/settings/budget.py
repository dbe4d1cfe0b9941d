"""[budget]: a hard cap."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from refine_rl.settings.base import Section


class BudgetSettings(Section):
    """[budget]: a hard cap; reaching it saves, reports and ends with exit code 3."""

    dollars: Annotated[float, Field(gt=0)] | None = None
    """Cost of all LLM calls of the run, over all resumes; every model then needs a known price. Calls under
    way when it is reached are still paid. Without it, no cap."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock time up to the end of training, over all resumes, looked at after each step; without it, no
    cap."""
