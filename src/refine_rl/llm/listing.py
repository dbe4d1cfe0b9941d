"""Which models an endpoint says that it has: a question that costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from refine_rl.llm.endpoints import Endpoint
from refine_rl.llm.failures import Failure, failure_of_status, read_json
from refine_rl.llm.wire import open_wire

_KEY_REFUSED = (401, 402, 403)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What came of asking. `models` is empty where an endpoint does not list any; `failure` says why it would
    answer nothing else either ("" where it may), and `reached` whether it said that itself."""

    models: tuple[str, ...] = ()
    failure: str = ""
    reached: bool = True

    def lacks(self, model: str) -> str:
        """The nearest name that is listed, where `model` is not; "" where it is, or nothing is like it.

        >>> Listing(models=("org/judge", "org/writer")).lacks("org/jugde")
        'org/judge'
        >>> Listing(models=("org/judge",)).lacks("org/judge"), Listing().lacks("org/judge")
        ('', '')
        """
        if model in self.models:
            return ""
        near = get_close_matches(model, self.models, n=1, cutoff=0.7)
        return near[0] if near else ""


async def list_models(endpoint: Endpoint) -> Listing:
    """Asks the endpoint once. Raises UserError for a proxy that cannot be used."""
    wire = await open_wire(endpoint)
    try:
        came = await wire.send("models")
    finally:
        await wire.close()
    if isinstance(came, Failure):
        return Listing(failure=endpoint.mask(came.text), reached=False)
    if came.status in _KEY_REFUSED:
        return Listing(failure=endpoint.mask(failure_of_status(came.status, {}, came.body, "text").text))
    return Listing(models=tuple(_names(read_json(came.body)))) if came.status == 200 else Listing()


def _names(value: Any) -> Sequence[str]:
    """The ids in a list of models, in one of the forms that endpoints give it.

    >>> _names({"object": "list", "data": [{"id": "a"}, {"name": "b"}]}), _names("nonsense")
    (['a'], [])
    """
    rows = value.get("data", value.get("models")) if isinstance(value, dict) else value
    found = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [name for name in found if isinstance(name, str)]
