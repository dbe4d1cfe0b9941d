"""What the sections of the settings share: strictness, types, and how impossible combinations are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
AtOnce = Positive | Literal["auto"]
"""Tokens that go through the model at once in training."""
ON_A_PROCESSOR = 2048
"""What "auto" is for a processor, and wherever nothing better is known."""


def tokens_at_once(asked: AtOnce) -> int:
    """
    >>> tokens_at_once(512), tokens_at_once("auto")
    (512, 2048)
    """
    return ON_A_PROCESSOR if asked == "auto" else asked


S = TypeVar("S", contravariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Impossible(Generic[S]):
    """A combination of settings that is refused.

    Both texts may hold values, such as {it.grpo.flat}; the first `key` that they name is the problem's place.

    >>> Impossible(when=bool, why="`seed` is {it}", way_out="use `seed = 0`").text(7)
    '`seed` is 7: use `seed = 0`'
    """

    when: Callable[[S], bool]
    why: str
    way_out: str = ""

    def text(self, settings: S) -> str:
        """Why these settings cannot be, and the way out."""
        return ": ".join(part for part in (self.why, self.way_out) if part).format(it=settings)


class Section(BaseModel):
    """A table of task.toml: keys of strict types, none but its own, and no impossible combination of them."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    impossible: ClassVar[tuple[Impossible[Any], ...]] = ()
    """The combinations of its keys that are refused."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        problems = [rule.text(self) for rule in self.impossible if rule.when(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self
