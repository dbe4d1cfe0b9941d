"""What LLMs were asked and what they replied, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refine_rl.errors import UserError
from refine_rl.llm.client import Exchange

Keep = Callable[[Exchange], None]
"""Whoever keeps what was asked and replied."""


def exchange_record(exchange: Exchange) -> dict[str, Any]:
    """`id` is that of the call's line in the ledger; `error` says why a reply was not used, or none came."""
    call = exchange.call
    return {
        "id": call.id,
        "purpose": call.purpose,
        "about": call.about,
        "model": f"{call.endpoint}/{call.model}",
        "outcome": call.outcome,
        "error": call.extra.get("error", ""),
        "form": exchange.form,
        "messages": list(exchange.messages),
        "reply": exchange.reply,
    }


def forget(exchange: Exchange) -> None:
    """Keeps nothing."""


def keep_in(path: Path | None) -> Keep:
    """Keeps in a new file, a line a call; nowhere without one. Raises UserError where the file exists, or
    cannot be made."""
    if path is None:
        return forget
    try:
        path.open("x").close()
    except FileExistsError:
        raise UserError(f"{path} exists already; name a new file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None

    def keep(exchange: Exchange) -> None:
        line = json.dumps(exchange_record(exchange), ensure_ascii=False) + "\n"
        with path.open("ab") as file:
            file.write(line.encode("utf-8", "backslashreplace"))

    return keep
