"""[writer]: the LLM that writes prompts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from refine_rl.settings.base import Positive, Section


class WriterSettings(Section):
    """[writer]: the LLM that writes prompts from the task, and a rubric or questions where asked to."""

    model: str = ""
    """"ENDPOINT/MODEL", such as "openrouter/moonshotai/kimi-k2"."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Of its sampling."""
    batch: Positive = 10
    """Prompts asked for in one call."""
    system: bool = True
    """It writes a system message for the policy too, where prompts.system has none."""
    check: bool = True
    """It is asked once more of each batch which of its prompts are answers in truth; those are refused."""
    max_tokens: Positive = 8192
    """Of one reply."""
