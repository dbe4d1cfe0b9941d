"""Names, addresses and keys of endpoints."""

from __future__ import annotations

import pytest

from refine_rl.errors import SettingsError, UserError
from refine_rl.llm.endpoints import PRESETS, Endpoint, is_loopback, parse_model, resolve
from refine_rl.settings import EndpointSettings


def test_a_models_own_slashes_stay() -> None:
    assert parse_model("openrouter/moonshotai/kimi-k2:free") == ("openrouter", "moonshotai/kimi-k2:free")


@pytest.mark.parametrize("model", ["", "gpt-4o", "openai/", "/gpt", " /x", "openai/ "])
def test_a_name_without_endpoint_or_model_is_refused(model: str) -> None:
    with pytest.raises(SettingsError, match="ENDPOINT/MODEL"):
        parse_model(model)


@pytest.mark.parametrize("name", ["openai", "openrouter", "together", "groq"])
def test_presets_take_their_key_from_their_variable(name: str) -> None:
    variable = PRESETS[name].key_env
    endpoint = resolve(f"{name}/m", {}, {variable: " sk-secret\n"})
    assert (endpoint.base_url, endpoint.key) == (PRESETS[name].base_url, "sk-secret")
    assert "secret" not in repr(endpoint)


@pytest.mark.parametrize("name", ["ollama", "vllm", "lm-studio"])
def test_local_presets_need_no_key(name: str) -> None:
    endpoint = resolve(f"{name}/m", {}, {})
    assert endpoint.local
    assert endpoint.key == ""


@pytest.mark.parametrize(("environ", "state"), [({}, "is not set"), ({"GROQ_API_KEY": " "}, "is empty")])
def test_a_missing_key_names_the_variable(environ: dict[str, str], state: str) -> None:
    with pytest.raises(UserError) as error:
        resolve("groq/llama", {}, environ)
    assert f"GROQ_API_KEY {state}" in str(error.value)
    assert "export GROQ_API_KEY=..." in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("key", ["sk secret", "sk-secret\x00", "sk-sécret"])
def test_a_key_that_is_none_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(UserError, match="GROQ_API_KEY") as error:
        resolve("groq/llama", {}, {"GROQ_API_KEY": key})
    assert "cret" not in str(error.value)


def test_an_unknown_endpoint_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError) as error:
        resolve("openruter/x", {"mine": EndpointSettings(base_url="http://127.0.0.1:1/v1")}, {})
    assert "did you mean `openrouter`?" in str(error.value)
    assert "mine" in str(error.value)
    assert "[endpoints.openruter]" in str(error.value)


def test_local_is_no_preset() -> None:
    with pytest.raises(SettingsError, match="no endpoint `local`"):
        resolve("local/m", {}, {})
    settings = EndpointSettings(base_url="http://localhost:9/v1")
    assert resolve("local/m", {"local": settings}, {}).key == ""


def test_a_table_of_ones_own_needs_an_address_and_says_its_key() -> None:
    with pytest.raises(SettingsError, match="base_url"):
        resolve("mine/m", {"mine": EndpointSettings(key_env="K")}, {"K": "k"})
    with pytest.raises(SettingsError, match=r"endpoints\.mine.*key_env"):
        resolve("mine/m", {"mine": EndpointSettings(base_url="https://example.com/v1")}, {})
    free = EndpointSettings(base_url="https://example.com/v1", key_env="")
    assert resolve("mine/m", {"mine": free}, {}).key == ""


def test_a_loopback_address_needs_a_key_only_where_it_is_asked_for() -> None:
    here = "http://127.0.0.1:1/v1"
    assert resolve("openai/m", {"openai": EndpointSettings(base_url=here)}, {"OPENAI_API_KEY": "k"}).key == ""
    with pytest.raises(UserError, match="MINE"):
        resolve("openai/m", {"openai": EndpointSettings(base_url=here, key_env="MINE")}, {})


def test_a_presets_table_keeps_its_address_and_variable() -> None:
    endpoint = resolve("groq/m", {"groq": EndpointSettings(concurrency=3)}, {"GROQ_API_KEY": "k"})
    assert (endpoint.base_url, endpoint.key, endpoint.settings.concurrency) == (
        "https://api.groq.com/openai/v1",
        "k",
        3,
    )


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "ftp://x/v1", "http://", "http://x:port/v1", "https://user:sk-secret@x/v1"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match=r"endpoints\.mine\.base_url") as error:
        resolve("mine/m", {"mine": EndpointSettings(base_url=address, key_env="")}, {})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://x/v1?key=sk-secret", "must end before the `?`.*key_env"),
        ("https://x/v1?", "must end before the `?`"),
        ("https://x/v1#sk-secret", "must end before the `#`"),
        ("user:sk-secret@x/v1", "holds a name or password"),
        ("https://sk-secret@x/v1", "holds a name or password"),
        (" https://x/v1", 'has blanks in it, unlike "https://x/v1"'),
        ("https://x/v1\n", "has blanks in it"),
        ("https://x /v1", "has blanks in it"),
        ("https://x/v1/chat/completions/", '/chat/completions: "https://x/v1"'),
    ],
)
def test_an_address_that_would_never_answer_is_refused_at_once(address: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words.replace("?", "[?]")) as error:
        resolve("mine/m", {"mine": EndpointSettings(base_url=address, key_env="")}, {})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://localhost/v1", True),
        ("http://[::1]:8/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://192.168.0.1/v1", False),
        ("http://localhost.example.com/v1", False),
        ("https://127.0.0.1.example.com", False),
    ],
)
def test_loopback(address: str, local: bool) -> None:
    assert is_loopback(address) is local


def test_mask() -> None:
    assert Endpoint(name="x", base_url="", key="sk-1").mask("bad key sk-1!") == "bad key ***!"
    assert Endpoint(name="x", base_url="").mask("nothing") == "nothing"
