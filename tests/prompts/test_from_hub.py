"""Data sets by their hub ids: the real library `datasets`, asking a hub on the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from hub_server import HubServer, asked_instead
from refine_rl.errors import MachineError, RefineError
from refine_rl.policy.hub import hub_answers
from refine_rl.prompts.rows import held, read_rows
from refine_rl.prompts.sources import load_prompts
from refine_rl.settings.file import settings_from_dict

datasets = pytest.importorskip("datasets")
NAME = "some/rows"
ROWS = [
    {"prompt": f"say {n} things about the {what}", "completion": str(n)}
    for n in range(9)
    for what in ("cat", "sea")
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with that data set in parquet, and empty caches."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "on_hub"
    (folder / "data").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "data" / "train-00000.parquet")
    server = HubServer({f"datasets/{NAME}": folder})
    asked_instead(server, tmp_path / "cache", monkeypatch)
    for name, value in {
        "HF_ENDPOINT": server.address,
        "HUB_DATASETS_URL": server.address + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_HUB_OFFLINE": False,
        "HF_DATASETS_CACHE": str(tmp_path / "datasets"),
    }.items():
        monkeypatch.setattr(datasets.config, name, value)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    yield server
    server.stop()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    hub_answers.cache_clear()


def rows(source: str = f"hub:{NAME}", most: int | None = None) -> list[Any]:
    text = source if most is None else f"{source}[:{most}]"
    return [row for _, row in read_rows(text, Path("/"), key="sft.data").rows]


def refusal(source: str = f"hub:{NAME}") -> str:
    with pytest.raises(RefineError) as error:
        rows(source)
    return str(error.value)


def test_all_rows_and_the_first_of_them(hub: HubServer) -> None:
    assert rows() == ROWS
    assert rows(most=3) == ROWS[:3]
    assert refusal(f"hub:{NAME}@dev").endswith(
        "it has no split `dev`; there are `train`. Name one with @SPLIT."
    )


@pytest.fixture
def tagged(hub: HubServer, tmp_path: Path) -> HubServer:
    """The data set, with a tag that has other rows and a split of its own."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "tagged" / "data"
    folder.mkdir(parents=True)
    for split, some in (("train", ROWS[:2]), ("test", ROWS[5:6])):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some), folder / f"{split}-00000.parquet")
    hub.tags[f"datasets/{NAME}"] = {"v1.0": folder.parent}
    return hub


def test_a_revision_behind_the_name(tagged: HubServer) -> None:
    commit = tagged.commit(f"datasets/{NAME}", "v1.0")
    for revision in ("v1.0", commit):
        assert rows(f"hub:{NAME}@{revision}") == ROWS[:2]
        assert rows(f"hub:{NAME}@{revision}@test") == rows(f"hub:{NAME}@{revision}:default@test") == ROWS[5:6]
        assert rows(f"hub:{NAME}@{revision}@train", most=1) == ROWS[:1]
    assert (
        rows(f"hub:{NAME}@train") == rows(f"hub:{NAME}@main@train") == ROWS
    )  # a split goes before a revision
    assert "it has no split `v2`; there are `train`" in refusal(f"hub:{NAME}@v2")
    assert refusal(f"hub:{NAME}@v2@train").startswith(
        f"hub:{NAME}@v2@train: the hub has no such branch, tag or commit of it "
        f"({tagged.address}/datasets/{NAME})"
    )


def test_a_source_is_held_at_its_commit(tagged: HubServer) -> None:
    main, old = (tagged.commit(f"datasets/{NAME}", name) for name in ("main", "v1.0"))
    for source, wanted in {
        f"hub:{NAME}": f"hub:{NAME}@{main}",
        f"hub:{NAME}:default@train[:5]": f"hub:{NAME}@{main}:default@train[:5]",
        f"hub:{NAME}@v1.0[:1]": f"hub:{NAME}@{old}[:1]",
        f"hub:{NAME}@v1.0@test": f"hub:{NAME}@{old}@test",
    }.items():
        found = held(source, "sft.data")
        assert (found, held(found, "sft.data")) == (wanted, wanted)
        assert rows(found) == rows(source)
    assert [held(s, "x") for s in ("hub:./rows@dev", "file:a.jsonl[:3]", "writer", "")] == [
        "hub:./rows@dev",
        "file:a.jsonl[:3]",
        "writer",
        "",
    ]
    origin = read_rows(held(f"hub:{NAME}@v1.0@test", "x"), Path("/"), key="x").origin
    assert origin == f"hub:{NAME}@{old[:8]}@test"
    with pytest.raises(
        RefineError, match=r"`sft.data`: the hub has no branch, tag or commit 'v2' of some/rows .* v1"
    ):
        held(f"hub:{NAME}@v2@train", "sft.data")
    with pytest.raises(RefineError, match="is a folder, which has no revisions"):
        read_rows("hub:./rows@v1@dev", Path("/"), key="sft.data")


def test_a_revision_may_be_named_where_the_data_set_cannot_be_read_any_more(
    tagged: HubServer, tmp_path: Path
) -> None:
    """Whether `v1.0` is a split is asked of what is there now; nothing is."""
    (tmp_path / "emptied").mkdir()
    (tmp_path / "emptied" / "README.md").write_text("Gone.")
    old = tagged.commit(f"datasets/{NAME}", "v1.0")
    tagged.move(f"datasets/{NAME}", tmp_path / "emptied")
    assert "cannot be read" in refusal()
    assert rows(f"hub:{NAME}@v1.0") == ROWS[:2]
    assert held(f"hub:{NAME}@v1.0", "sft.data") == f"hub:{NAME}@{old}"


def test_a_commit_in_the_cache_needs_no_hub(tagged: HubServer) -> None:
    first, second = held(f"hub:{NAME}@v1.0", "sft.data"), held(f"hub:{NAME}", "sft.data")
    assert rows(first) == ROWS[:2]
    tagged.stop()
    hub_answers.cache_clear()
    assert rows(first) == rows(f"hub:{NAME}@v1.0@train") == ROWS[:2]
    # `datasets` would give what it loaded last in the place of any other commit.
    assert f"{NAME}@{second[-40:-32]}: the hub (http" in refusal(second)
    assert "the data set is not in its cache" in refusal(f"hub:{NAME}@v2@train")


def test_a_run_takes_its_prompts_from_there(hub: HubServer) -> None:
    settings = settings_from_dict(
        {
            "task": "Be short.",
            "model": {"name": "tiny"},
            "prompts": {"source": f"hub:{NAME}", "train": 8, "validation": 2, "held_out": 4},
            "reward": {"rules": [{"rule": "words", "max": 5}]},
        },
        Path("/"),
    )
    prompts, _ = load_prompts(settings)
    assert {p.messages[0]["content"] for p in prompts} <= {row["prompt"] for row in ROWS}
    assert all(p.origin.startswith(f"hub:{NAME}") for p in prompts)


def test_what_is_in_the_cache_needs_no_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows()
    hub.stop()
    hub_answers.cache_clear()
    assert rows() == ROWS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert rows() == ROWS


def test_a_name_that_is_nobodys_and_one_that_is_gated(hub: HubServer) -> None:
    said = refusal("hub:some/nothing")
    assert (
        f"the hub ({hub.address}/datasets/some/nothing) has no data set of that name, or it is private"
        in said
    )
    hub.gated.add(f"datasets/{NAME}")
    said = refusal()
    assert f"it is gated. Accept its terms on its page, {hub.address}/datasets/{NAME}, then" in said
    assert "hf auth login" in said


def test_a_data_set_with_a_program_of_its_own(hub: HubServer) -> None:
    folder = hub.repositories.pop(f"datasets/{NAME}")
    (folder / "data" / "train-00000.parquet").unlink()
    (folder / "script.py").write_text("raise SystemExit('it ran')")
    hub.repositories["datasets/some/script"] = folder
    assert "it is read by a Python program of its own, and no such program is run here" in refusal(
        "hub:some/script"
    )


def test_the_hub_goes_away_in_the_middle(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert hub_answers()
    hub.stop()
    with pytest.raises(MachineError, match="cannot be reached"):
        rows()
