"""What a call costs, in whole billionths of a dollar, so that sums are exact.

The settings' price counts first, then what the endpoint reports, then the tables of genai-prices (where that
extra is installed; its own data, nothing is fetched). Where none of them knows, the cost is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from refine_rl.config import PriceSettings
from refine_rl.llm.endpoints import PRESETS, Endpoint, parse_model
from refine_rl.llm.meter import NANO

Price = Callable[[int, int], int]
"""Tokens in, tokens out -> billionths of a dollar."""


def find_price(endpoint: Endpoint, model: str) -> Price | None:
    """The price of `model` ("ENDPOINT/MODEL") from the settings or the tables; None where neither knows."""
    name = parse_model(model)[1]
    given = endpoint.price(name)
    if given is not None:
        return _of_settings(given)
    return None if endpoint.local else _of_tables(endpoint, name)


def _of_settings(given: PriceSettings) -> Price:
    # Through str: 0.1 dollars a million tokens is a tenth, not the binary number beside it.
    price_in, price_out = Decimal(str(given.input)), Decimal(str(given.output))

    def cost(tokens_in: int, tokens_out: int) -> int:
        return round((tokens_in * price_in + tokens_out * price_out) * (NANO // 1_000_000))

    return cost


def _of_tables(endpoint: Endpoint, name: str) -> Price | None:
    try:
        import genai_prices
    except ImportError:
        return None
    preset = PRESETS.get(endpoint.name)
    known = preset is not None and preset.base_url == endpoint.base_url
    where: dict[str, Any] = (
        {"provider_id": endpoint.name} if known else {"provider_api_url": endpoint.base_url}
    )

    def cost(tokens_in: int, tokens_out: int) -> int:
        usage = genai_prices.Usage(input_tokens=tokens_in, output_tokens=tokens_out)
        dollars: Decimal = genai_prices.calc_price(usage, name, **where).total_price
        return round(dollars * NANO)

    try:
        cost(1, 1)
    except (LookupError, ValueError):
        return None
    return cost
