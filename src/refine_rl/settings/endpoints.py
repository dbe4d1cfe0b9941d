"""[endpoints.NAME]: where LLMs answer, and what they cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from refine_rl.settings.base import Positive, Section


class PriceSettings(Section):
    """What a model costs, in dollars a million tokens."""

    input: Annotated[float, Field(ge=0)]
    """A million tokens that go in."""
    output: Annotated[float, Field(ge=0)]
    """A million tokens that come out, those of its reasoning included."""


class EndpointSettings(Section):
    """[endpoints.NAME]: where LLMs answer. "NAME/model" names one of its models in [writer], [reward] and
    [judge]; openai, openrouter, together, groq, ollama, vllm and lm-studio need no table."""

    base_url: str | None = None
    """The API's address, such as "http://127.0.0.1:8000/v1"; a preset's own without it."""
    key_env: str | None = None
    """The environment variable that holds the key ("" where none is needed); a preset's own without it. Keys
    stand nowhere else."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds that one attempt may take."""
    concurrency: Positive = 8
    """Calls under way at once."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Further attempts after a busy or failing server (429, 5xx, no connection, no answer in time)."""
    prices: dict[str, PriceSettings] = {}
    """By model ("*": all others): {"deepseek/deepseek-r1" = {input = 0.5, output = 2.2}}. Without it, the
    price that the endpoint reports or that the tables of genai-prices know; else the cost is unknown."""
    cache: bool = True
    """Replies are kept on disk, so that what was paid for once is not asked again."""
    record: bool = True
    """What is asked here and what is replied stands in the run's llm_replies.jsonl and in its report."""
