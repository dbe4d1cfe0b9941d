"""Which proxy an endpoint is reached by, and what is no proxy."""

from __future__ import annotations

import os

import pytest

from refine_rl.errors import UserError
from refine_rl.llm.endpoints import resolve
from refine_rl.llm.proxies import Proxy, find_proxy
from refine_rl.settings import EndpointSettings

OUTSIDE = "https://api.example.com/v1"


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"}, "http://q:1 (https_proxy)"),
        ({"HTTPS_PROXY": "p:1"}, "http://p:1 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": " http://me:secret@p:1/ "}, "http://p:1 (HTTPS_PROXY)"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1 (ALL_PROXY)"),
        ({"ALL_PROXY": "socks4://no", "HTTPS_PROXY": "http://p:1"}, "http://p:1 (HTTPS_PROXY)"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": ""}, "http://a:1 (ALL_PROXY)"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": ""}, None),
    ],
)
def test_the_proxy_of_an_address(environ: dict[str, str], shown: str | None) -> None:
    proxy = find_proxy(OUTSIDE, environ)
    assert (proxy and proxy.shown.removeprefix("the proxy ")) == shown


@pytest.mark.parametrize(
    ("exceptions", "host", "without"),
    [
        ("*", "api.example.com", True),
        ("other.com, example.com", "api.example.com", True),
        ("other.com,.example.com", "api.example.com", True),
        ("*.example.com", "api.example.com", True),
        (".example.com", "example.com", True),
        ("API.Example.com", "api.example.com", True),
        ("ample.com", "api.example.com", False),
        ("other.com,,", "api.example.com", False),
        ("api.example.com:443", "api.example.com", True),
        ("api.example.com:80", "api.example.com", False),
        ("https://example.com", "api.example.com", True),
        ("http://example.com", "api.example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::/8", "[fd00::1]", True),
        ("[fd00::1]", "[fd00::1]", True),
        ("fd00::2", "[fd00::1]", False),
    ],
)
def test_hosts_that_are_reached_without(exceptions: str, host: str, without: bool) -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": exceptions}
    assert (find_proxy(f"https://{host}/v1", environ) is None) is without


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("http://", "what HTTPS_PROXY holds is no proxy"),
        ("http://p:port", "what HTTPS_PROXY holds is no proxy"),
        ("http://p:99999", "what HTTPS_PROXY holds is no proxy"),
        ("http://me:secret@p:1 2", "what HTTPS_PROXY holds is no proxy"),
        ("http://me:sec]ret[@p", "what HTTPS_PROXY holds is no proxy"),
        ("ftp://me:secret@p:1", "of the kind ftp://"),
        ("socks4://p:1", "of the kind socks4://; what can be used are http://, https://, socks5://"),
    ],
)
def test_what_is_no_proxy_names_its_variable_alone(value: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        find_proxy(OUTSIDE, {"HTTPS_PROXY": value})
    assert words in str(error.value)
    assert "HTTPS_PROXY" in str(error.value)
    assert "sec" not in str(error.value)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_socks_needs_its_package(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    environ = {"ALL_PROXY": f"{scheme}://me:secret@p:1080"}
    monkeypatch.setattr("refine_rl.llm.proxies.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{scheme}://p:1080 \(ALL_PROXY\).*pip install socksio"):
        find_proxy(OUTSIDE, environ)
    monkeypatch.setattr("refine_rl.llm.proxies.find_spec", lambda name: name == "socksio")
    assert find_proxy(OUTSIDE, environ) == Proxy(url=environ["ALL_PROXY"], variable="ALL_PROXY")


def test_a_proxy_of_the_system_counts_where_no_variable_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("refine_rl.llm.proxies.getproxies", lambda: {"https": "http://p:1"})
    proxy = find_proxy(OUTSIDE, os.environ)
    assert proxy is not None
    assert proxy.shown == "the proxy http://p:1 (the system's settings)"
    assert find_proxy(OUTSIDE, {}) is None


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "me.localhost"])
def test_this_machine_is_never_reached_by_a_proxy(host: str) -> None:
    settings = {"here": EndpointSettings(base_url=f"http://{host}/v1")}
    environ = {"HTTP_PROXY": "garbage://", "ALL_PROXY": "http://me:secret@p:1"}
    assert resolve("here/m", settings, environ).proxy is None


def test_an_endpoint_hides_its_proxys_password() -> None:
    settings = {"there": EndpointSettings(base_url=OUTSIDE, key_env="")}
    endpoint = resolve("there/m", settings, {"HTTPS_PROXY": "http://me:secret@p:1"})
    assert "secret" not in repr(endpoint)
    assert "secret" not in repr(endpoint.proxy)
    assert endpoint.mask("no secret at all") == "no *** at all"
