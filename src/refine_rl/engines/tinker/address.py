"""Which service, and the SDK that speaks with it."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from refine_rl.errors import MachineError, RefineError, SettingsError, UserError
from refine_rl.settings import EngineSettings

_QUERY = re.compile(r"(https?://[^\s'\"<>?#]+)[?#][^\s'\"<>]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A service and a model of it. `timeout` is how many seconds one answer may take."""

    url: str
    model: str
    key_env: str
    key: str = field(repr=False)
    timeout: float

    def mask(self, text: str) -> str:
        """The text without the key, which services repeat in their errors, and its addresses without their
        queries: whoever has that of a signed one may read what is there."""
        return _QUERY.sub(r"\1", text.replace(self.key, "***"))


def sdk() -> Any:
    """The package `tinker`, which is imported when it is first needed: it takes a second. It reports nothing
    to its makers from here, and prints nothing."""
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    logging.getLogger("tinker").setLevel(logging.CRITICAL + 1)
    import tinker

    return tinker


def address_of(settings: EngineSettings, model: str) -> Address:
    """The service of [engine]; `model` is the name of [model]. Raises SettingsError where the SDK is not
    installed, UserError where the key is not in the environment."""
    if find_spec("tinker") is None:
        raise SettingsError(
            'engine.kind = "tinker" needs the SDK of that name: pip install "refine-rl[tinker]".'
        )
    parts = urlsplit(settings.base_url)
    if settings.base_url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise SettingsError(
            f"engine.base_url = {settings.base_url!r} is no address; write it as in "
            '"http://127.0.0.1:8000" or "https://host/path".'
        )
    if parts.username or parts.password:
        raise SettingsError(
            "engine.base_url has a name or a password in it. Keys come from the environment (engine.key_env)."
        )
    key_env = settings.key_name
    key = os.environ.get(key_env, "")
    if not key:
        raise UserError(
            f"engine.key_env: the service's key is not in the environment variable {key_env}. Set it; a "
            'service of your own that asks for none takes any that begins with "tml-".'
        )
    if not key.startswith(("tml-", "eyJ")):
        raise UserError(
            f"The key in {key_env} (engine.key_env) is none of a Tinker service: those begin with "
            '"tml-", and the SDK takes no other.'
        )
    from tinker.lib.base_url import resolve_base_url

    return Address(
        url=resolve_base_url(settings.base_url or None),
        model=settings.model or model,
        key_env=key_env,
        key=key,
        timeout=settings.timeout,
    )


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status with which a request failed; the SDK hides some behind other errors."""
    while error is not None:
        if isinstance(status := getattr(error, "status_code", None), int):
            return status
        error = error.__cause__
    return None


def told(error: BaseException, address: Address, doing: str) -> RefineError:
    """What a failed request means for a person."""
    status, said = status_of(error), _short(address.mask(str(error)))
    if status in (401, 403):
        return UserError(
            f"{address.url} does not let the key in {address.key_env} (engine.key_env) in ({said}). Set "
            "another one, or another engine.base_url."
        )
    if status == 402:
        return MachineError(f"{address.url} wants the account behind {address.key_env} paid: {said}.")
    return MachineError(f"{doing}: {address.url} failed: {said or type(error).__name__}.")


def _short(text: str) -> str:
    """An error's text on one line, and not endless."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= 300 else f"{line[:300]} ..."
