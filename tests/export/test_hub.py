"""Onto the hub: the real library against a server that speaks as much of the hub as an upload needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_rl.errors import MachineError, UserError
from refine_rl.export.hub import check_uploaded, require_hub, upload
from refine_rl.policy.hub import hub_answers

sys.path.insert(0, str(Path(__file__).parent))
from upload_server import TOKEN, UploadServer

# The library sends a large file in a way that its own client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadServer]:
    from huggingface_hub import constants

    server = UploadServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its chunks go to another service
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub_answers.cache_clear()
    yield server
    hub_answers.cache_clear()
    server.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# A model\n")
    return folder


def test_what_was_sent_is_there(hub: UploadServer, model: Path) -> None:
    require_hub("me/model", adapter=False)
    assert hub.files is None  # nothing was written before
    sent = upload("me/model", model, private=True, message="a model")
    assert sent.url == f"{hub.address}/me/model"
    assert hub.made["visibility"] == "private"
    assert hub.files is not None
    assert {name: kept[0] for name, kept in hub.files.items()} == {
        file.name: file.read_bytes() for file in model.iterdir()
    }
    (check,) = check_uploaded("me/model", model, sent)
    assert (check.held, check.text) == (True, "hub: 3 files of commit cccccccc are the same there")
    hub.files["old.bin"] = (b"x", False)
    _, more = check_uploaded("me/model", model, sent)
    assert (more.held, more.fatal) == (False, False)
    assert "from before there are also old.bin" in more.text


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("model.safetensors", "another SHA-256"),
        ("config.json", "other contents"),
        ("README.md", "is not there"),
    ],
)
def test_what_is_another_there_is_found(hub: UploadServer, model: Path, file: str, fault: str) -> None:
    hub.spoil = file
    sent = upload("me/model", model, private=False, message="a model")
    if fault == "is not there":
        assert hub.files is not None
        del hub.files[file]
    (check,) = check_uploaded("me/model", model, sent)
    assert not check.held
    assert f"{file} " in check.text
    assert fault in check.text


def test_refused_before_anything_is_made(hub: UploadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in (
        ("model", "say whose it is, OWNER/model"),
        ("me/a model", "--hub me/a model: "),
        ("you/model", "belongs to me, who is not you and not in it. Its own names: me, team"),
    ):
        with pytest.raises(UserError, match=words):
            require_hub(name, adapter=True)
    require_hub("team/model", adapter=True)
    hub.files = {"model.safetensors": (b"x", True)}
    with pytest.raises(UserError, match="a whole model is there"):
        require_hub("me/model", adapter=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="does not know the token") as told:
        require_hub("me/model", adapter=False)
    assert "hf_wrong" not in str(told.value)
    assert not [asked for _, asked in hub.asked if "create" in asked or "commit" in asked]


def test_without_a_token_or_a_network(
    hub: UploadServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    hub.stop()
    with pytest.raises(MachineError, match="cannot be reached"):
        require_hub("me/model", adapter=True)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "neither"))
    with pytest.raises(UserError, match=r"no token .*hf auth login"):
        require_hub("me/model", adapter=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1"):
        require_hub("me/model", adapter=True)


def test_a_token_that_may_not_write(hub: UploadServer, model: Path) -> None:
    hub.status = 403
    with pytest.raises(UserError, match="the token may not do that") as told:
        upload("me/model", model, private=False, message="a model")
    assert TOKEN not in str(told.value)
