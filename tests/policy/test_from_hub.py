"""Models by their hub ids: the real clients, asking a hub on the loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants

from hub_server import HubServer, asked_instead
from refine_rl.errors import MachineError, RefineError
from refine_rl.policy.fingerprint import fingerprint
from refine_rl.policy.hub import hub_answers
from refine_rl.policy.load import load_policy
from refine_rl.policy.origin import find_origin
from refine_rl.settings import ModelSettings

MakeModel = Callable[..., Path]
NAME = "some/model"


@pytest.fixture(scope="module")
def model(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's files, as they lie on the hub."""
    return Path(shutil.copytree(make_model("llama"), tmp_path_factory.mktemp("on_hub") / "model"))


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with that model, and an empty cache."""
    server = HubServer({f"models/{NAME}": Path(shutil.copytree(model, tmp_path / "model"))})
    asked_instead(server, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    yield server
    server.stop()
    hub_answers.cache_clear()


def settings(name: str = NAME) -> ModelSettings:
    return ModelSettings(name=name, dtype="float32")


def refusal(name: str = NAME) -> str:
    with pytest.raises(RefineError) as error:
        load_policy(settings(name))
    return str(error.value)


def test_a_model_by_its_id_is_the_one_in_the_folder(hub: HubServer, model: Path) -> None:
    loaded, folder = load_policy(settings()), load_policy(settings(str(model)))
    ids = loaded.encode([{"role": "user", "content": "hello there"}])
    assert ids == folder.encode([{"role": "user", "content": "hello there"}])
    for (name, weight), (_, other) in zip(
        loaded.model.named_parameters(), folder.model.named_parameters(), strict=True
    ):
        assert torch.equal(weight, other), name
    assert fingerprint(find_origin(NAME)) == fingerprint(find_origin(str(model)))
    assert not [path for _, path in hub.asked if path.endswith((".py", ".bin", ".pt"))]


def test_what_is_in_the_cache_needs_no_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    load_policy(settings())
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_policy(settings())
    assert hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.stop()
    hub_answers.cache_clear()
    load_policy(settings())


def test_a_name_that_is_nearly_one(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my-model").mkdir()
    assert refusal("tinny").endswith(' Did you mean "tiny"?')
    assert refusal("my-modle").endswith(' Did you mean "my-model"?')
    assert "Did you mean" not in refusal("somebody/tinny")


def test_without_a_cache_and_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert (
        "HF_HUB_OFFLINE=1 is set, and the model is not in the local cache. Check the name, and unset"
        in refusal()
    )
    assert hub.asked == []


def test_without_a_cache_and_a_hub(hub: HubServer) -> None:
    hub.stop()
    with pytest.raises(
        MachineError, match=r"the hub \(http://127.*\) cannot be reached, and the model is not"
    ):
        load_policy(settings())


def test_who_has_not_accepted_the_terms_is_told_how(hub: HubServer) -> None:
    hub.gated.add(f"models/{NAME}")
    said = refusal()
    assert "it is gated. Accept its terms" in said
    assert "hf auth login" in said
    assert f"on its page, {hub.address}/{NAME}, then" in said


def test_a_name_that_is_nobodys(hub: HubServer) -> None:
    hub.repositories.clear()
    said = refusal()
    assert f"there is no model of that name on the hub, or it is private ({hub.address}/{NAME})" in said
    assert "hf auth login" in said


def downloads(hub: HubServer, file: str) -> int:
    return sum(asked == "GET" and path.endswith(f"/{file}") for asked, path in hub.asked)


def test_a_download_that_was_cut_is_asked_for_again(hub: HubServer, model: Path) -> None:
    hub.cut["model.safetensors"] = 1000
    policy, folder = load_policy(settings()), load_policy(settings(str(model)))
    assert policy.check_sum(whole=True) == folder.check_sum(whole=True)
    assert downloads(hub, "model.safetensors") == 2


class Always(dict[str, int]):
    """A cut of every answer."""

    def pop(self, name: str, *_: object) -> int:  # type: ignore[override]
        return self[name]


def test_half_a_model_is_never_taken(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut = Always({"model.safetensors": 10})
    said = refusal()
    assert f"the download from {hub.address} broke off (" in said
    hub.cut = {}
    whole = load_policy(settings(str(model))).check_sum(whole=True)
    assert load_policy(settings()).check_sum(whole=True) == whole


def other(hub: HubServer, name: str) -> Path:
    """The folder of a further model (the clients remember which commit a model had)."""
    folder = hub.repositories[f"models/{NAME}"]
    hub.repositories = {f"models/{name}": folder}
    return folder


def test_weights_that_would_have_to_be_unpickled(hub: HubServer) -> None:
    folder = other(hub, "some/pickle")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refusal("some/pickle")
    assert "it has no weights in safetensors files, and no others are taken" in said
    assert downloads(hub, "pytorch_model.bin") == 0
    assert not [path for _, path in hub.asked if "commits" in path or "discussions" in path]


def test_code_beside_the_weights(hub: HubServer) -> None:
    file = other(hub, "some/code") / "config.json"
    config = json.loads(file.read_text())
    config.update(
        model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
    )
    file.write_text(json.dumps(config))
    (file.parent / "own.py").write_text("raise SystemExit('it ran')")
    said = refusal("some/code")
    assert "it needs Python code that lies beside its weights, and no such code is run here" in said
    assert downloads(hub, "own.py") == 0
