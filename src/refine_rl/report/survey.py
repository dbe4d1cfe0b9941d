"""What can be read off a run's groups in one pass: numbers alone, so that memory holds none of the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from refine_rl.evaluate.traits import TRAITS, traits_of
from refine_rl.report.standing import Json
from refine_rl.run import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A group: `rewards` of its members (None where a score is missing), the judges' `agreement` (None where
    nobody looked twice), about how many bytes it is on the page, and what its answers are like, by trait."""

    step: int
    prompt: str
    rewards: tuple[float | None, ...]
    agreement: float | None
    size: int
    traits: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def survey(run: RunFolder) -> list[Seen]:
    """The groups of a run in their order."""
    return [seen(group) for group in run.groups.lines()]


def seen(group: Json) -> Seen:
    """What can be read off a group as it is on record."""
    members = group["trajectories"]
    return Seen(
        step=group["step"],
        prompt=group["prompt_id"],
        rewards=tuple(t["reward"] for t in members),
        agreement=next((t["agreement"] for t in members if t.get("agreement") is not None), None),
        size=sum(len(t["explanation"]) + sum(len(m["content"]) for m in t["messages"]) for t in members),
        traits=_traits([t["messages"] for t in members]),
    )


def _traits(conversations: Sequence[Sequence[Json]]) -> dict[str, tuple[float, ...]]:
    """Of what each member said, beside what all were asked."""
    shared = shared_messages(conversations)
    if not conversations:
        return {}
    asked = "\n".join(m["content"] for m in conversations[0][:shared] if m["role"] != "assistant")
    said = [
        "\n".join(m["content"] for m in some[shared:] if m["role"] == "assistant") for some in conversations
    ]
    each = [traits_of(asked, text) for text in said]
    return {name: tuple(values[name] for values in each) for name in TRAITS}


def shared_messages(conversations: Sequence[Sequence[Json]]) -> int:
    """How many first messages all members share; each keeps its last one for itself."""
    most = min((len(c) - 1 for c in conversations), default=0)
    return next(
        (i for i in range(most) if any(c[i] != conversations[0][i] for c in conversations)), max(most, 0)
    )
