"""What a call costs, in whole billionths of a dollar, so that sums are exact.

The settings' price counts first, then what the endpoint reports, then the tables of genai-prices (those that
came with it; nothing is fetched). Where none of them knows, the cost is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from refine_rl.llm.endpoints import PRESETS, Endpoint, is_loopback, parse_model
from refine_rl.llm.meter import NANO
from refine_rl.settings import EndpointSettings, PriceSettings
from refine_rl.settings.toml_write import toml_key, toml_value

Price = Callable[[int, int], int]
"""Tokens in, tokens out -> billionths of a dollar."""


def find_price(endpoint: Endpoint, model: str) -> Price | None:
    """The price of `model` ("ENDPOINT/MODEL") from the settings or the tables; None where neither knows.

    A model on this machine has none, unless its endpoint goes by the name of a service that wants a key: then
    it is a gateway to that service, and costs what the service costs.
    """
    name = parse_model(model)[1]
    given = endpoint.price(name)
    if given is not None:
        return _of_settings(given)
    preset = PRESETS.get(endpoint.name)
    is_gateway = endpoint.local and preset is not None and bool(preset.key_env)
    if endpoint.local and not is_gateway:
        return None
    is_service = is_gateway or (preset is not None and preset.base_url == endpoint.base_url)
    return _of_tables(endpoint, name, by_name=is_service)


def price_table(models: Iterable[str], endpoints: Mapping[str, EndpointSettings]) -> str:
    """TOML for the end of a task file that gives every one of `models` a price, and keeps those that their
    endpoints have already. The figures are an example, and rather high: a cap then comes early, not late. A
    model on this machine costs nothing.

    >>> print(price_table(["openrouter/a/b", "openrouter/c/d"], {}))
    [endpoints.openrouter.prices]
    "a/b" = {input = 5.0, output = 25.0}
    "c/d" = {input = 5.0, output = 25.0}
    >>> print(price_table(["ollama/qwen3"], {}))
    [endpoints.ollama.prices]
    qwen3 = {input = 0.0, output = 0.0}
    """
    tables: dict[str, dict[str, Any]] = {}
    for model in models:
        endpoint, name = parse_model(model)
        if endpoint not in tables:
            own = endpoints.get(endpoint, EndpointSettings()).prices
            tables[endpoint] = {known: price.model_dump() for known, price in own.items()}
        free = _here(endpoint, endpoints)
        tables[endpoint][name] = {"input": 0.0, "output": 0.0} if free else {"input": 5.0, "output": 25.0}
    lines = []
    for endpoint, prices in tables.items():
        lines.append(f"[endpoints.{toml_key(endpoint)}.prices]")
        lines += [f"{toml_key(name)} = {toml_value(price)}" for name, price in prices.items()]
    return "\n".join(lines)


def price_advice(models: Iterable[str], endpoints: Mapping[str, EndpointSettings]) -> str:
    """What to do about models without a known price; ends with TOML."""
    named = list(models)
    has_some = any(endpoints.get(parse_model(m)[0], EndpointSettings()).prices for m in named)
    place = "in place of the `prices` that the endpoint has" if has_some else "at its end"
    here = [_here(parse_model(model)[0], endpoints) for model in named]
    figures = "with the right figures (dollars a million tokens; 0 for a model of your own)"
    if all(here):
        figures = "what a model on this machine costs"
    return f"Write into the task file, {place}, {figures}:\n{price_table(named, endpoints)}"


def _here(endpoint: str, endpoints: Mapping[str, EndpointSettings]) -> bool:
    """Whether that endpoint is a server on this machine, and none that passes on to a service with a key."""
    preset, own = PRESETS.get(endpoint), endpoints.get(endpoint, EndpointSettings())
    address = own.base_url or (preset.base_url if preset else None)
    key_env = own.key_env if own.key_env is not None else preset.key_env if preset else ""
    return bool(address) and is_loopback(str(address)) and not key_env


def _of_settings(given: PriceSettings) -> Price:
    # Through str: 0.1 dollars a million tokens is a tenth, not the binary number beside it.
    price_in, price_out = Decimal(str(given.input)), Decimal(str(given.output))

    def cost(tokens_in: int, tokens_out: int) -> int:
        return round((tokens_in * price_in + tokens_out * price_out) * (NANO // 1_000_000))

    return cost


def _of_tables(endpoint: Endpoint, name: str, *, by_name: bool) -> Price | None:
    import genai_prices  # late: a sixth of a second

    where: dict[str, Any] = (
        {"provider_id": endpoint.name} if by_name else {"provider_api_url": endpoint.base_url}
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
