"""A run holds what it takes from the hub at one commit, whatever moves there: the real clients, asking a hub
on the loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from hub_server import HubServer, asked_instead
from make import Told
from refine_rl.errors import MachineError, SettingsError, UserError
from refine_rl.pipeline import commits
from refine_rl.pipeline.commits import hold_as, hold_commits, tell_moved
from refine_rl.pipeline.model import run_policy
from refine_rl.pipeline.players import player_of
from refine_rl.pipeline.serve.opened import base_names
from refine_rl.policy.hub import commit_of, hub_answers
from refine_rl.policy.load import load_policy
from refine_rl.policy.origin import find_origin
from refine_rl.policy.reader import read_folder
from refine_rl.policy.size import model_size
from refine_rl.rewards.text.encoder import the_encoder
from refine_rl.run import RunFolder
from refine_rl.run.journal import Journal
from refine_rl.run.start import begun_from
from refine_rl.settings import ModelSettings, Settings
from refine_rl.settings.file import settings_from_dict
from tiny_encoder import encoder_folder

MakeModel = Callable[..., Path]
NAME, REPOSITORY = "some/model", "models/some/model"


def other_than(model: Path, folder: Path, by: float) -> Path:
    """The same model with other weights."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + by
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def hub(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub whose model has a tag with other weights."""
    model = make_model("llama")
    server = HubServer({REPOSITORY: other_than(model, tmp_path / "main", 0.0)})
    server.tags[REPOSITORY] = {"v1.0": other_than(model, tmp_path / "tagged", 1.0)}
    asked_instead(server, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    yield server
    server.stop()
    hub_answers.cache_clear()


def settings_of(folder: Path, **tables: Any) -> Settings:
    usual: Mapping[str, Any] = {
        "task": "Be brief.",
        "model": {"name": NAME, "dtype": "float32"},
        "prompts": {"source": "file:prompts.jsonl"},
        "reward": {"rules": [{"rule": "words", "max": 3}]},
    }
    return settings_from_dict({**usual, **tables}, folder)


def run_of(folder: Path, name: str = "run", **tables: Any) -> RunFolder:
    return RunFolder.create(folder / name, settings_of(folder, **tables))


def held(run: RunFolder) -> tuple[Settings, list[str]]:
    told = Told()
    return hold_commits(run, Journal(run, told)), told.notes


def norm(policy: Any) -> float:
    """Of the last layer norm: what the models differ in."""
    return float(dict(policy.model.named_parameters())["base_model.model.model.norm.weight"].mean())


@pytest.mark.parametrize("by", ["tag", "commit"])
def test_a_model_at_a_revision(hub: HubServer, by: str) -> None:
    revision = "v1.0" if by == "tag" else hub.commit(REPOSITORY, "v1.0")
    main, tagged = (
        load_policy(ModelSettings(name=name, dtype="float32")) for name in (NAME, f"{NAME}@{revision}")
    )
    assert (norm(main), norm(tagged)) == (1.0, 2.0)
    assert find_origin(f"{NAME}@{revision}").base == f"{NAME}@{revision}"


def test_an_adapter_says_upon_which_revision_it_stands(hub: HubServer, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(name=f"{NAME}@v1.0", dtype="float32"))
    policy.save(tmp_path / "adapter")
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["revision"]) == (NAME, "v1.0")
    assert find_origin(str(tmp_path / "adapter")).base == f"{NAME}@v1.0"
    read = read_folder(tmp_path / "adapter", dtype=torch.float32, device=torch.device("cpu"))
    assert norm(read) == 2.0  # as peft loads it
    # Trained on, it is one for that revision still.
    more = load_policy(ModelSettings(name=str(tmp_path / "adapter"), dtype="float32"))
    more.save(tmp_path / "both")
    assert json.loads((tmp_path / "both" / "adapter_config.json").read_text())["revision"] == "v1.0"


def test_a_revision_that_there_is_not(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"the hub has no branch, tag or commit 'v2' of it \(http.*some/model\)"
    ):
        load_policy(ModelSettings(name=f"{NAME}@v2"))
    run = run_of(tmp_path, model={"name": f"{NAME}@v2"})
    with pytest.raises(SettingsError) as error:
        held(run)
    assert str(error.value) == (
        f"`model.name`: the hub has no branch, tag or commit 'v2' of {NAME} ({hub.address}/{NAME}). "
        "There are main, v1.0."
    )
    with pytest.raises(SettingsError, match=r"`teacher.model`: .*'v3' of some/model "):
        held(run_of(tmp_path, "taught", teacher={"model": f"{NAME}@v3"}))


def test_a_folder_of_the_name_is_not_taken_for_a_revision(
    hub: HubServer, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(make_model("llama"), tmp_path / "here" / NAME)
    monkeypatch.chdir(tmp_path / "here")
    for load in (
        lambda: load_policy(ModelSettings(name=f"{NAME}@v1.0")),
        lambda: the_encoder(f"{NAME}@v1.0"),
        lambda: model_size(ModelSettings(name=f"{NAME}@v1.0")),
    ):
        with pytest.raises(UserError) as error:
            load()
        assert str(error.value) == (
            f"{NAME}@v1.0: there is a folder {NAME} here, and it would be taken for the model of the hub. "
            f"Start from another folder; the folder itself is ./{NAME}."
        )
    assert norm(load_policy(ModelSettings(name=f"./{NAME}", dtype="float32"))) == 1.0


@pytest.mark.parametrize("broken", [UserError("It cannot be read."), MachineError("The hub went away.")])
def test_a_resume_needs_nothing_of_the_hub_that_the_run_has(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    """Whether a data set has moved may be what cannot be told, as its newest commit is damaged."""
    run = run_of(tmp_path)
    run.config.note(hub={"prompts.source": "hub:some/rows@dev"})

    def fails(source: str, key: str) -> str:
        raise broken

    monkeypatch.setattr(commits, "held", fails)
    assert held(run) == (run.settings(), [])


@pytest.mark.parametrize("asked", ["", "@main", "@v1.0"])
def test_a_run_goes_on_with_the_commit_with_which_it_began(
    hub: HubServer, tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = hub.commit(REPOSITORY, asked.removeprefix("@") or "main")
    run = run_of(tmp_path, model={"name": NAME + asked, "dtype": "float32"})
    settings, notes = held(run)
    assert settings.model.name == f"{NAME}@{began}"
    assert settings.model.called == f"{NAME}@{began[:8]}"
    assert run.settings() == settings  # on record: a resume, an evaluation and an export read it there
    assert notes == []
    first = run_policy(run, keep_reference=False).check_sum(whole=True)

    newer = other_than(hub.repositories[REPOSITORY], tmp_path / "newer", 3.0)
    if asked == "@v1.0":
        hub.tags[REPOSITORY] = {"v1.0": newer}
        hub.move(REPOSITORY, tmp_path / "tagged")  # its commit stays, under another name
    else:
        hub.move(REPOSITORY, newer)
    again, notes = held(run)
    assert again == settings
    moved = hub.commit(REPOSITORY, asked.removeprefix("@") or "main")
    assert notes == [
        f"model.name: {NAME}{asked} has moved on the hub since the run began, to {NAME}@{moved[:8]}; the run "
        f"goes on with {NAME}@{began}"
    ]
    assert run_policy(run, keep_reference=False).check_sum(whole=True) == first

    if asked == "@v1.0":
        hub.tags[REPOSITORY] = {}
        assert held(run)[1][0].startswith(
            f"model.name: {NAME}@v1.0 is not on the hub any more; the run goes on"
        )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert run_policy(run, keep_reference=False).check_sum(whole=True) == first
    assert hub.asked == []


def test_what_a_run_brought_is_there_without_the_hub(hub: HubServer, tmp_path: Path) -> None:
    """Files that were asked for by their commit alone leave no note in the cache of what main was."""
    run = run_of(tmp_path)
    held(run)
    first = run_policy(run, keep_reference=False).check_sum(whole=True)
    hub.stop()
    hub_answers.cache_clear()
    assert load_policy(ModelSettings(name=NAME, dtype="float32")).check_sum(whole=True) == first
    assert held(run_of(tmp_path, "later"))[0].model.name == run.settings().model.name


def test_where_nobody_can_be_asked_the_name_stays(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    settings, notes = held(run)
    assert (settings.model.name, notes) == (NAME, [])
    tell_moved(run, Journal(run, Told()))
    assert held(run_of(tmp_path, "tiny", model={"name": "tiny"}))[0].model.name == "tiny"


def test_every_name_in_the_settings_is_held(hub: HubServer, tmp_path: Path) -> None:
    encoder = encoder_folder(tmp_path / "encoder")
    hub.repositories["models/some/encoder"] = encoder
    hub.tags["models/some/encoder"] = {"v2": encoder_folder(tmp_path / "wide", hidden_size=32)}
    commits = {tag: hub.commit("models/some/encoder", tag) for tag in ("main", "v2")}
    rules = [
        {"rule": "words", "max": 3},
        {"rule": "semantic", "data": "answer", "encoder": "some/encoder@v2"},
    ]
    run = run_of(
        tmp_path,
        teacher={"model": f"{NAME}@v1.0"},
        reward={"rules": rules},
        evaluate={"metrics": ["bertscore"], "encoder": "some/encoder"},
    )
    settings, _ = held(run)
    assert settings.teacher is not None
    assert settings.teacher.model == f"{NAME}@{hub.commit(REPOSITORY, 'v1.0')}"
    assert settings.evaluate.encoder == f"some/encoder@{commits['main']}"
    assert settings.reward.rules[1].parameters["encoder"] == f"some/encoder@{commits['v2']}"
    assert run.config.source()["hub"] == {
        "model.name": NAME,
        "teacher.model": f"{NAME}@v1.0",
        "evaluate.encoder": "some/encoder",
        "reward.rules[1].encoder": "some/encoder@v2",
    }
    assert run.settings() == settings
    widths = [the_encoder(f"some/encoder@{c}").read(["a b"])[0].states.shape[1] for c in commits.values()]
    assert widths == [16, 32]
    with pytest.raises(SettingsError, match=r"`encoder`: .* the hub has no branch, tag or commit 'v9' of it"):
        the_encoder("some/encoder@v9")


def test_runs_of_several_seeds_have_one_commit(hub: HubServer, tmp_path: Path) -> None:
    first, second = run_of(tmp_path, "0"), run_of(tmp_path, "1", grpo={"seed": 1})
    settings, _ = held(first)
    hub.move(REPOSITORY, tmp_path / "tagged")
    hold_as(first, second)
    assert held(second)[0].model.name == settings.model.name
    assert second.settings().grpo.seed == 1


@pytest.mark.parametrize("asked", [NAME, f"{NAME}@v1.0"])
def test_a_run_that_begins_with_another_may_name_its_model_as_the_task_did(
    hub: HubServer, tmp_path: Path, asked: str
) -> None:
    run = run_of(tmp_path, model={"name": asked})
    held(run)
    run.write_model(lambda folder: None)
    with pytest.raises(SettingsError, match="leave one out"):
        begun_from(settings_of(tmp_path, model={"start": str(run.path), "name": f"{NAME}@v2"}))
    for name in (NAME, asked, run.settings().model.name):
        found = begun_from(settings_of(tmp_path, model={"start": str(run.path), "name": name}))
        assert found.model.name == run.settings().model.name


def test_whoever_asks_a_served_run_names_its_base_with_and_without_the_commit(tmp_path: Path) -> None:
    commit = "0a" * 20
    assert base_names(settings_of(tmp_path, model={"name": f"{NAME}@{commit}"})) == (
        "base",
        NAME,
        f"{NAME}@{commit}",
    )
    assert base_names(settings_of(tmp_path, model={"name": "tiny"})) == ("base", "tiny")


def test_a_side_of_a_comparison_may_be_a_revision() -> None:
    player = player_of(f"{NAME}@refs/pr/1")
    assert (player.name, player.model) == ("model@refs-pr-1", f"{NAME}@refs/pr/1")


def test_the_commit_of_a_data_set(hub: HubServer, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_text('{"prompt": "a"}\n')
    hub.repositories["datasets/some/rows"] = rows
    assert commit_of("some/rows", None, key="", kind="dataset") == hub.commit("datasets/some/rows")
    assert commit_of("some/nothing", None, key="") is None
