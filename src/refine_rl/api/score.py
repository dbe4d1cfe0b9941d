"""score_group: the judges alone, on completions from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from refine_rl.api import checks
from refine_rl.api.stops import in_own_words
from refine_rl.api.words import in_python
from refine_rl.errors import MachineError, UserError
from refine_rl.types import Score

if TYPE_CHECKING:
    from refine_rl.llm.client import Connections


async def score_group(
    messages: Sequence[Mapping[str, str]],
    completions: Sequence[str],
    *,
    judge: str | Sequence[str],
    task: str = "",
    rubric: str | Path | None = None,
    base_url: str | None = None,
    key_env: str | None = None,
    repeats: int = 1,
    kind: Literal["ruler", "absolute", "pairwise"] = "ruler",
    connections: Connections | None = None,
) -> list[Score]:
    """An LLM's scores of several completions of one chat, in their order, each from 0 to 1. It is a
    coroutine: `await refine_rl.score_group(...)`.

    Args:
        messages: what was asked, each {"role", "content"}.
        completions: what was answered.
        judge: "ENDPOINT/MODEL", or several as a panel.
        task: what is wanted, in plain words; without it, what the messages ask for.
        rubric: what to judge by, as text, or the `Path` of a text file; without it, a general rubric.
        base_url: the address of the judge's endpoint; any name may then stand for it in `judge`.
        key_env: the environment variable that holds the key of `base_url`, where one is needed.
        repeats: looks of each judge, each in another order; scores are averaged.
        kind: the whole group in one request, each answer alone, or two at a time.
        connections: who asks, in the place of real endpoints (`refine_rl.llm.scripted`).

    What could not be had has the status "missing", with the reason. Raises UserError for what cannot be
    asked, MachineError where the endpoint refuses or does not answer.
    """
    checks.every(
        lambda: checks.chat(messages),
        lambda: checks.texts("completions", completions, "a list of texts, one an answer"),
        lambda: checks.required_judge(judge),
        lambda: checks.text("task", task or None, "a text"),
        lambda: checks.text("base_url", base_url, "an address, as http://127.0.0.1:8000/v1"),
        lambda: checks.text("key_env", key_env, "the name of an environment variable"),
        lambda: checks.number("repeats", repeats, least=1),
    )
    from refine_rl.pipeline.score import Judges, score_one  # late: not everybody judges

    judges = Judges(
        models=(judge,) if isinstance(judge, str) else tuple(judge),
        task=task,
        rubric=rubric,
        base_url=base_url,
        key_env=key_env,
        repeats=repeats,
        kind=kind,
    )
    try:
        return await score_one(messages, completions, judges, connections)
    except UserError as mistake:
        raise in_own_words(mistake) from None
    except MachineError as error:
        raise type(error)(in_python(str(error))) from error
