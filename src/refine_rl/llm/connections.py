"""All endpoints of a run: clients by "ENDPOINT/MODEL", with one ledger and one cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from refine_rl.errors import SettingsError
from refine_rl.llm.cache import Cache, default_folder
from refine_rl.llm.endpoints import resolve
from refine_rl.llm.ledger import Ledger
from refine_rl.llm.open_ai import EndpointClient, Line, Pace
from refine_rl.llm.prices import find_price, price_advice
from refine_rl.settings import EndpointSettings


class UnknownPriceError(SettingsError):
    """A cap in dollars, and a model of which nobody knows what it costs."""

    def __init__(self, model: str, endpoints: Mapping[str, EndpointSettings]) -> None:
        super().__init__(
            f"budget.dollars needs to know what `{model}` costs. {price_advice([model], endpoints)}"
        )
        self.model = model


class EndpointConnections:
    """Connections to the presets and the endpoints of the settings.

    A server given from outside is a table like any other: {"local": EndpointSettings(base_url=...)} makes
    "local/MODEL" known. One object may be used from several event loops; `close` closes what is open in the
    running one. Every call is written down in `ledger`. `note` hears of what a person should know: an
    endpoint that does not answer, a cache that cannot be used.
    """

    def __init__(
        self,
        endpoints: Mapping[str, EndpointSettings],
        ledger: Ledger,
        *,
        cache_folder: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        note: Callable[[str], None] = lambda text: None,
        pace: Pace = Pace(),  # noqa: B008 - frozen
    ) -> None:
        self._endpoints = endpoints
        self.ledger = ledger
        self._environ = environ
        self._cache = Cache(cache_folder or default_folder(environ), note)
        self._note = note
        self._pace = pace
        self._lock = threading.Lock()
        self._lines: dict[str, Line] = {}
        self._clients: dict[str, EndpointClient] = {}

    def client(self, model: str) -> EndpointClient:
        """The client of "ENDPOINT/MODEL"; one object a model. Raises SettingsError for an endpoint that is
        not known or, with a cap in dollars, a price that is not; UserError for a key that is not there."""
        with self._lock:
            if model not in self._clients:
                self._clients[model] = self._make(model)
            return self._clients[model]

    def _make(self, model: str) -> EndpointClient:
        endpoint = resolve(model, self._endpoints, self._environ)
        line = self._lines.setdefault(endpoint.name, Line(endpoint, self._note))
        price = find_price(endpoint, model)
        if price is None and self.ledger.dollars is not None:
            raise UnknownPriceError(model, self._endpoints)
        return EndpointClient(
            model,
            line,
            self.ledger,
            price=price,
            cache=self._cache if endpoint.settings.cache else None,
            pace=self._pace,
        )

    async def close(self) -> None:
        """Closes every connection of the running event loop."""
        for line in list(self._lines.values()):
            await line.close()
