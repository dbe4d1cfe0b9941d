"""Amounts for people: low and high in the unit that the larger one wants."""

from __future__ import annotations

import math

Units = tuple[tuple[float, float, str, str], ...]
"""How a number is shown: up to where, divided by what, in which form, with which unit."""

COUNT: Units = ((1e4, 1, ",.0f", ""), (1e6, 1e3, ".0f", " k"), (math.inf, 1e6, ".2f", " M"))
SECONDS: Units = ((120, 1, ".0f", " s"), (7200, 60, ".0f", " min"), (math.inf, 3600, ".1f", " h"))
"""For a span, and in a column: one number with one unit, which can be set beside another. A time that stands
alone has the form of `long_time`."""
BYTES: Units = ((1e9, 1e6, ".0f", " MB"), (math.inf, 1e9, ".1f", " GB"))


def amount(low: float, high: float, units: Units) -> str:
    """Both numbers in the unit that the larger one wants.

    >>> amount(3, 3, COUNT), amount(0, 12345, COUNT), amount(151_000, 2_330_000, COUNT)
    ('3', '0–12 k', '0.15–2.33 M')
    >>> amount(80, 100, SECONDS), amount(60, 600, SECONDS), amount(3600, 20_000, SECONDS)
    ('80–100 s', '1–10 min', '1.0–5.6 h')
    >>> amount(2.3e7, 2.3e7, BYTES), amount(8.5e8, 1.2e9, BYTES)
    ('23 MB', '0.8–1.2 GB')
    """
    _, by, form, unit = next((u for u in units if high < u[0]), units[-1])
    return f"{_span(low / by, high / by, form)}{unit}"


def dollars(low: float, high: float) -> str:
    """
    >>> dollars(0.0, 0.0), dollars(0.00123, 0.012), dollars(1.5, 12.345)
    ('$0.00', '$0.0012–0.0120', '$1.50–12.35')
    """
    return f"${_span(low, high, '.2f' if high >= 0.1 or not high else '.4f')}"


def price(amount: float) -> str:
    """One sum, of which a small one keeps two digits.

    >>> price(0.0), price(0.00042), price(0.0999), price(1.25)
    ('$0', '$0.00042', '$0.1', '$1.25')
    """
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.2g}"


def long_time(minutes: int) -> str:
    """Whole minutes, up to two days as hours, then as days.

    >>> long_time(1), long_time(60), long_time(66), long_time(2879)
    ('1 min', '1 h', '1 h 6 min', '47 h 59 min')
    >>> long_time(2880), long_time(3330)
    ('2 days', '2 days 7 h')
    """
    hours, minutes = divmod(minutes, 60)
    days, of_day = divmod(hours, 24)
    if hours >= 48:
        return f"{days} days {of_day} h" if of_day else f"{days} days"
    return " ".join(
        [*([f"{hours} h"] if hours else []), *([f"{minutes} min"] if minutes or not hours else [])]
    )


def _span(low: float, high: float, form: str) -> str:
    """Both numbers, or one where they look the same."""
    one, other = format(low, form), format(high, form)
    return one if one == other else f"{one}–{other}"
