"""Where LLMs answer: the endpoints known by name, those of the settings, and their keys.

A key comes from an environment variable and goes into the request's header; it stands in no repr, log or
error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import urlsplit

from refine_rl.errors import SettingsError, UserError
from refine_rl.llm.proxies import Proxy, find_proxy
from refine_rl.settings import EndpointSettings, PriceSettings
from refine_rl.settings.toml_write import toml_key

PRESETS: Mapping[str, EndpointSettings] = {
    "openai": EndpointSettings(base_url="https://api.openai.com/v1", key_env="OPENAI_API_KEY"),
    "openrouter": EndpointSettings(base_url="https://openrouter.ai/api/v1", key_env="OPENROUTER_API_KEY"),
    "together": EndpointSettings(base_url="https://api.together.xyz/v1", key_env="TOGETHER_API_KEY"),
    "groq": EndpointSettings(base_url="https://api.groq.com/openai/v1", key_env="GROQ_API_KEY"),
    "ollama": EndpointSettings(base_url="http://127.0.0.1:11434/v1", key_env=""),
    "vllm": EndpointSettings(base_url="http://127.0.0.1:8000/v1", key_env=""),
    "lm-studio": EndpointSettings(base_url="http://127.0.0.1:1234/v1", key_env=""),
}
"""The endpoints that need no table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An endpoint as calls need it. `key` is "" where none is sent, `proxy` None where none is between.

    >>> Endpoint(name="vllm", base_url="http://127.0.0.1:8000/v1", key="secret")
    Endpoint(name='vllm', base_url='http://127.0.0.1:8000/v1')
    """

    name: str
    base_url: str
    key: str = field(default="", repr=False)
    key_env: str = field(default="", repr=False)
    settings: EndpointSettings = field(default=EndpointSettings(), repr=False)
    proxy: Proxy | None = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(self.base_url)

    def price(self, model: str) -> PriceSettings | None:
        """What the settings say that a model of this endpoint costs."""
        return self.settings.prices.get(model) or self.settings.prices.get("*")

    def mask(self, text: str) -> str:
        """The text without the key, and without the proxy's password."""
        secrets = (self.key, self.proxy.secret if self.proxy else "")
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        return text


def parse_model(model: str) -> tuple[str, str]:
    """The endpoint's name and its model's, which may have slashes of its own.

    >>> parse_model("openrouter/moonshotai/kimi-k2")
    ('openrouter', 'moonshotai/kimi-k2')
    """
    endpoint, _, name = model.partition("/")
    if not endpoint.strip() or not name.strip():
        raise SettingsError(
            f'`{model}` does not name a model of an endpoint; write "ENDPOINT/MODEL", such as '
            '"openrouter/moonshotai/kimi-k2" or "ollama/qwen3"'
        )
    return endpoint, name


def resolve(model: str, endpoints: Mapping[str, EndpointSettings], environ: Mapping[str, str]) -> Endpoint:
    """The endpoint of "ENDPOINT/MODEL". Raises SettingsError where it is not known, UserError without its
    key, or behind a proxy that cannot be used. An endpoint on this machine is reached without a proxy."""
    name, _ = parse_model(model)
    if name not in PRESETS and name not in endpoints:
        raise SettingsError(_unknown(name, model, endpoints))
    preset, settings = (known.get(name, EndpointSettings()) for known in (PRESETS, endpoints))
    base_url = settings.base_url or preset.base_url
    if not base_url:
        raise SettingsError(
            f"endpoints.{name} needs its address, since `{name}` is none of the known endpoints: "
            'base_url = "http://.../v1"'
        )
    _check_address(f"endpoints.{name}", base_url)  # before a word about its key
    key_env = settings.key_env
    if key_env is None and settings.base_url is not None and is_loopback(base_url):
        key_env = ""
    elif key_env is None:
        key_env = preset.key_env
    if key_env is None:
        raise SettingsError(
            f"endpoints.{name} must say which environment variable holds its key: "
            '`key_env = "NAME_OF_THE_VARIABLE"` (`""` where no key is needed)'
        )
    return endpoint_at(base_url, key_env, settings, environ, name=name, table=f"endpoints.{name}")


def endpoint_at(
    base_url: str,
    key_env: str,
    settings: EndpointSettings,
    environ: Mapping[str, str],
    *,
    name: str,
    table: str,
) -> Endpoint:
    """The endpoint at an address that stands in the table `table` of the settings. Raises what `resolve`
    raises."""
    _check_address(table, base_url)
    key = _key(name, key_env, environ)
    proxy = None if is_loopback(base_url) else find_proxy(base_url, environ)
    return Endpoint(name=name, base_url=base_url, key=key, key_env=key_env, settings=settings, proxy=proxy)


def is_loopback(base_url: str) -> bool:
    """Whether an address leads to this machine.

    >>> is_loopback("http://localhost:8000/v1"), is_loopback("http://127.0.0.1.example.com/v1")
    (True, False)
    """
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unknown(name: str, model: str, endpoints: Mapping[str, EndpointSettings]) -> str:
    known = sorted({*PRESETS, *endpoints})
    near = get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean `{near[0]}`? Known" if near else "known"
    return (
        f"`{model}`: there is no endpoint `{name}`; {hint} are {', '.join(known)}. Another one is given by a "
        f'table:\n[endpoints.{toml_key(name)}]\nbase_url = "https://.../v1"\n'
        'key_env = "NAME_OF_THE_VARIABLE"  # "" where no key is needed'
    )


def _check_address(table: str, base_url: str) -> None:
    """Raises SettingsError for what is no address of an API; what may be a key is never shown."""
    where = f"{table}.base_url"
    from_variable = "keys come from the environment variable that key_env names"
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # a port that is none raises here
    except ValueError:
        raise SettingsError(f"{where} is not an address") from None
    if "@" in (parts.netloc if parts.scheme in ("http", "https") else base_url):
        raise SettingsError(f"{where} holds a name or password; {from_variable}")
    if parts.query or parts.fragment or base_url.endswith(("?", "#")):
        raise SettingsError(
            f"{where} must end before the `{'#' if '?' not in base_url else '?'}`: paths are put behind it; "
            f"{from_variable}"
        )
    if any(sign.isspace() or not sign.isprintable() for sign in base_url):
        raise SettingsError(f'{where} has blanks in it, unlike "{"".join(base_url.split())}"')
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            f"{where} must begin with http:// or https:// and a host, as in "
            f'"http://127.0.0.1:8000/v1", unlike "{base_url}"'
        )
    if (path := parts.path.rstrip("/")).endswith("/chat/completions"):
        end = base_url.index(path) + len(path) - len("/chat/completions")
        raise SettingsError(f'{where} must end before /chat/completions: "{base_url[:end]}"')


def _key(name: str, key_env: str, environ: Mapping[str, str]) -> str:
    if not key_env:
        return ""
    key = environ.get(key_env, "").strip()
    if not key:
        state = "is empty" if key_env in environ else "is not set"
        raise UserError(
            f"the endpoint `{name}` needs a key, and the environment variable {key_env} {state}: "
            f"export {key_env}=..."
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"what the environment variable {key_env} holds is no key for the endpoint `{name}`: "
            "it has blanks or signs that no key has"
        )
    return key
