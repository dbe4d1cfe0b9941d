"""[evaluate]: base against tuned."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from refine_rl.settings.base import Positive, Section


class EvaluateSettings(Section):
    """[evaluate]: base against tuned on held-out prompts."""

    judge: str = ""
    """"ENDPOINT/MODEL" that judges the comparison in place of reward.judges: an eye that training did not
    please. Only with reward.judges."""
    samples: Positive = 4
    """Sampled answers a prompt, at temperature 1 from the whole distribution, beside one greedy answer."""
    bootstrap: Annotated[int, Field(ge=100)] = 10_000
    """Resamples of the prompts for the intervals."""
