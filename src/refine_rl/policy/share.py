"""How much of a model training changes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Numbers that training changes, and all that the model has, an adapter's included. A quantised weight
    counts as one, however it is packed."""

    trained: int
    whole: int

    @property
    def text(self) -> str:
        """
        >>> Share(trained=540_672, whole=494_573_440).text
        '540,672 of 494,573,440 parameters are trained (0.11 %)'
        """
        part = 100 * self.trained / self.whole
        digits = 0 if part in (0, 100) else 2 if part < 1 else 1
        return f"{self.trained:,} of {self.whole:,} parameters are trained ({part:.{digits}f} %)"
