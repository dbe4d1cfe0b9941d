"""The lines that a run tells while it goes: a step in one line, however wide the screen is."""

from __future__ import annotations

from rich.text import Text

from refine_rl.types import Metrics, SFTMetrics, StepMetrics, decimals

INDENT = 10  # columns of the clock
_BARS = "▁▂▃▄▅▆▇█"
_FEW_BARS = 8  # of a curve; with fewer, numbers beside it give way


def clock_of(seconds: float) -> str:
    """The seconds since the beginning, in the first column of every line.

    >>> clock_of(12.34)
    '  12.3 s'
    """
    return f"{seconds:6.1f} s"


def spark(values: list[float], bars: int = 16) -> str:
    """A small bar for each of the last `bars` values, between the smallest and the largest of all.

    >>> spark([0.0, 0.5, 1.0]), spark([0.0, 1.0, 0.9, 1.0], bars=2), spark([1.0, 1.0])
    ('▁▅█', '██', '▅▅')
    """
    if not values or not bars:
        return ""
    low, high = min(values), max(values)
    shares = [(v - low) / (high - low) if high > low else 0.5 for v in values[-bars:]]
    return "".join(_BARS[min(7, int(share * 8))] for share in shares)


class StepLines:
    """Makes the line of each step of a training, with the curve so far in it. `width` is that of the screen,
    `narrow` whether it counts: a file takes lines of any length."""

    def __init__(self) -> None:
        self._curve: dict[int, float] = {}  # rewards, or losses, by their step

    def remember(self, m: Metrics) -> None:
        """A step of an earlier process belongs to the curve; where one comes again, training has gone back
        behind it, and what came since counts no more."""
        value = m.loss if isinstance(m, SFTMetrics) else m.reward_mean
        self._curve = {step: v for step, v in self._curve.items() if step < m.step}
        if value is not None:
            self._curve[m.step] = value

    def _spark(self, bars: int) -> str:
        return f"{spark([*self._curve.values()], bars):<{bars}}"

    def __call__(self, m: Metrics, steps: int, clock: str, width: int, *, narrow: bool) -> Text:
        self.remember(m)
        if isinstance(m, SFTMetrics):
            return self._sft(m, steps, clock, width, narrow=narrow)
        return self._grpo(m, steps, clock, width, narrow=narrow)

    def _grpo(self, m: StepMetrics, steps: int, clock: str, width: int, *, narrow: bool) -> Text:
        reward = "   -  " if m.reward_mean is None else f"{decimals(m.reward_mean):>6}"
        number = f"{m.step:>{len(str(steps))}}/{steps}"
        tokens = f"tokens {m.tokens_mean:3.0f}, "
        rest = f"cut {m.clipped_share:4.0%}, no spread {m.groups_zero_variance}/{m.groups}"
        missing = f", missing {m.members_missing}" if m.members_missing else ""
        below = f",\n{' ' * INDENT}{missing[2:]}" if missing else ""
        forms = (  # from a wide screen to a narrow one
            (f"step {number}  reward {reward} ", f" {tokens}{rest}", missing),
            (f"{number}  reward {reward} ", f" {tokens}{rest}", missing),
            (f"{number}  reward {reward} ", f" {rest}", missing),
            (f"{number}  reward {reward} ", f" {rest}", below),
        )
        for head, tail, end in forms if narrow else forms[:1]:
            bars = width - len(f"{clock}  {head}{tail}{end.partition(chr(10))[0]}")
            if bars >= 0:
                break
        bars = max(0, min(16, bars))
        return Text.assemble(f"{clock}  {head}", (self._spark(bars), "cyan"), tail, (end, "yellow"))

    def _sft(self, m: SFTMetrics, steps: int, clock: str, width: int, *, narrow: bool) -> Text:
        head = f"{clock}  {m.step:>{len(str(steps))}}/{steps}  loss {m.loss:.4f} "
        speed = f", {m.tokens / m.seconds['train']:>7,.0f} tokens/s"
        looked = "" if m.validation_loss is None else f", validation {m.validation_loss:.4f}"
        room = len(", validation 10.0000")  # kept on each line, so that columns stand under each other
        tails = (f" epoch {m.epoch:5.2f}{speed}", f" epoch {m.epoch:5.2f}")  # a wide screen, a narrow one
        for tail in tails if narrow else tails[:1]:
            bars = width - len(head) - len(tail) - room
            if bars >= _FEW_BARS:
                break
        bars = max(0, min(16, bars))
        return Text.assemble(head, (self._spark(bars), "cyan"), tail, looked)
