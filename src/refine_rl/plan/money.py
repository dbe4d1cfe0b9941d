"""Calls -> dollars. A price that nobody knows stays unknown; it is never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine_rl.llm.endpoints import Endpoint, resolve
from refine_rl.llm.meter import NANO
from refine_rl.llm.prices import find_price, price_advice
from refine_rl.plan.calls import Calls
from refine_rl.settings import EndpointSettings

Endpoints = Mapping[str, EndpointSettings]

SERVICE = "tinker"
"""Stands in the place of an endpoint's name, as in the ledger, before a model that a service trains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Dollars of all calls whose model has a known price; `unknown` are the models without one. What goes
    through a service's model counts as calls."""

    low: float
    high: float
    unknown: tuple[str, ...]


def endpoint_of(model: str, endpoints: Endpoints) -> Endpoint:
    """The endpoint of "ENDPOINT/MODEL", whether or not its key is in the environment. Raises SettingsError
    where it is not known."""
    return resolve(model, endpoints, _EveryKey())


def dollars(calls: Calls, endpoints: Endpoints) -> tuple[float, float] | None:
    """What the calls cost, low and high; None where the price is unknown."""
    price = find_price(endpoint_of(calls.model, endpoints), calls.model)
    if price is None:
        return None
    return (
        calls.low * price(calls.tokens_in[0], calls.tokens_out[0]) / NANO,
        calls.high * price(calls.tokens_in[1], calls.tokens_out[1]) / NANO,
    )


def cost(planned: Sequence[Calls], endpoints: Endpoints) -> Cost:
    """Of all calls together."""
    low = high = 0.0
    unknown: dict[str, None] = {}
    for calls in planned:
        found = dollars(calls, endpoints)
        if found is None:
            unknown[calls.model] = None
        else:
            low, high = low + found[0], high + found[1]
    return Cost(low=low, high=high, unknown=tuple(unknown))


def advice(unknown: Sequence[str], endpoints: Endpoints) -> str:
    """What to do about models without a known price."""
    trained = [m for m in unknown if m.partition("/")[0] == SERVICE and SERVICE not in endpoints]
    asked = [m for m in unknown if m not in trained]
    words = [
        "Write `prices = {prefill = 0.1, sample = 0.3, train = 0.3}`, with the service's figures (dollars a "
        "million tokens; 0 for a service of your own), into [engine]."
    ]
    return "\n".join([*(words if trained else []), *([price_advice(asked, endpoints)] if asked else [])])


def missing_keys(
    models: Sequence[str], endpoints: Endpoints, environ: Mapping[str, str], others: Sequence[str] = ()
) -> list[str]:
    """Environment variables that a run will need and that are not set; `others` are not of an endpoint."""
    names = dict.fromkeys([*(endpoint_of(model, endpoints).key_env for model in models), *others])
    return [name for name in names if name and not environ.get(name, "").strip()]


class _EveryKey(dict[str, str]):
    """An environment in which every key is there: a plan is made before the person has one."""

    def get(self, name: str, default: object = None) -> str:
        return "none"
