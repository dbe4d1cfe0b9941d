"""The proxy by which an endpoint is reached, as HTTP clients read it from the environment.

HTTPS_PROXY, HTTP_PROXY   by the scheme of the endpoint's address; small letters come first
ALL_PROXY                 for both
NO_PROXY                  hosts that are reached without: a name means its subdomains too, "*" all, and IP
                          networks may be given as 10.0.0.0/8
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from refine_rl.errors import UserError

_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it.

    >>> Proxy(url="http://me:secret@proxy:3128", variable="HTTPS_PROXY").shown
    'the proxy http://proxy:3128 (HTTPS_PROXY)'
    """

    url: str = field(repr=False)
    variable: str

    @property
    def shown(self) -> str:
        """It in an error, without the name and the password."""
        parts = urlsplit(self.url)
        return f"the proxy {parts.scheme}://{parts.netloc.rpartition('@')[2]} ({self.variable})"

    @property
    def secret(self) -> str:
        return urlsplit(self.url).password or ""


def find_proxy(base_url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for an address; None where there is none. Raises UserError for one that cannot be used."""
    parts = urlsplit(base_url)
    named = _named(parts.scheme, environ) or _named("all", environ)
    if named is None or _goes_without(parts, _value("no", environ)[1]):
        return None
    variable, value = named
    url = value if "://" in value else f"http://{value}"
    _check(variable, url)
    return Proxy(url=url, variable=variable)


def _named(scheme: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    variable, value = _value(scheme, environ)
    if value:
        return variable, value
    if environ is os.environ and variable not in environ and (found := getproxies().get(scheme)):
        return "the system's settings", found
    return None


def _value(scheme: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable and what it holds."""
    small = f"{scheme}_proxy"
    name = small if small in environ else small.upper()
    return name, environ.get(name, "").strip()


def _check(variable: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is none raises here
    except ValueError:
        host = None
    if not host or any(sign.isspace() or not sign.isprintable() for sign in url):
        raise UserError(
            f"what {variable} holds is no proxy; write it like http://proxy.example:3128, or unset {variable}"
        )
    if parts.scheme not in _SCHEMES:
        raise UserError(
            f"{variable} names a proxy of the kind {parts.scheme}://; what can be used are "
            f"{', '.join(f'{scheme}://' for scheme in _SCHEMES)}"
        )
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        shown = Proxy(url=url, variable=variable).shown
        raise UserError(f"{shown} speaks SOCKS, which needs a package: pip install socksio")


def _goes_without(parts: SplitResult, exceptions: str) -> bool:
    host, port = (parts.hostname or "").casefold(), parts.port or (443 if parts.scheme == "https" else 80)
    return any(_covers(entry.strip().casefold(), parts.scheme, host, port) for entry in exceptions.split(","))


def _covers(entry: str, scheme: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means this host."""
    if "://" in entry:
        wanted, _, entry = entry.partition("://")
        if wanted not in (scheme, "all"):
            return False
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    if entry.count(":") == 1 or entry.startswith("["):
        entry, _, of_port = entry.rpartition(":") if not entry.endswith("]") else (entry, "", "")
        if of_port and of_port != str(port):
            return False
    name = entry.strip("[]").removeprefix("*").lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))
