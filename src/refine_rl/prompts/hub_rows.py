"""Data sets of the Hugging Face hub, and folders laid out as these are, by the library `datasets`."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from refine_rl.errors import MachineError, SettingsError, UserError, disk_error, path_from
from refine_rl.prompts.json_rows import RowError
from refine_rl.prompts.table_rows import HUB_EXTRA, plain_rows
from refine_rl.prompts.text_rows import Rows, Wrong
from refine_rl.settings.revision import is_commit

_NAME = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+|[./~][^:@\[\]]*)(?:@(?P<revision>\w[\w./-]*))?"
    r"(?::(?P<config>[^:@\[\]]+))?(?:@(?P<split>[\w.-]+))?"
)
_MEDIA = ("Image", "Audio", "Video", "Pdf", "Nifti", "Mesh")  # types of columns that no text model reads


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """What stands behind "hub:": a data set (or a folder), its revision, its configuration and its split."""

    name: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.name[0] in "./~"

    @property
    def written(self) -> str:
        """As it stands in a setting, without [:ROWS]."""
        revision, config, split = (
            f"{sign}{part}" if part else ""
            for sign, part in (("@", self.revision), (":", self.config), ("@", self.split))
        )
        return f"hub:{self.name}{revision}{config}{split}"

    def __str__(self) -> str:
        """For a person: of a commit, its first signs."""
        short = self.revision[:8] if self.revision and is_commit(self.revision) else self.revision
        return replace(self, revision=short).written


def hub_source(name: str, key: str, written: str) -> HubSource:
    """The parts of a data set's name; `key` is the setting in which it stands as `written`. What stands alone
    behind an @ is a split, unless only a revision can be written so. Raises SettingsError.

    >>> hub_source("google/code_x_glue_ct_code_to_text:python@train", "sft.data", "")
    HubSource(name='google/code_x_glue_ct_code_to_text', revision=None, config='python', split='train')
    >>> hub_source("some/rows@v1.0@dev", "sft.data", "").revision
    'v1.0'
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise SettingsError(
            f"`{key}` = {written!r} names no data set. It must be OWNER/NAME, perhaps with @REVISION, "
            ":CONFIG, @SPLIT and [:ROWS] behind it, such as "
            '"hub:trl-lib/tldr@train[:2000]", or "hub:./folder"'
        )
    source = HubSource(**found.groupdict())
    alone = source.revision if not source.config and not source.split else None
    if alone and (source.is_folder or not ("/" in alone or is_commit(alone))):
        return replace(source, revision=None, split=alone)
    if source.is_folder and source.revision:
        raise SettingsError(
            f"`{key}` = {written!r} is a folder, which has no revisions: hub:./folder:CONFIG@SPLIT"
        )
    return source


def at_commit(wanted: HubSource, key: str) -> HubSource:
    """The data set at the commit at which it is now; as it is where that cannot be told. Raises SettingsError
    for a revision that there is not; `key` names the source."""
    from refine_rl.policy.hub import commit_of

    if wanted.is_folder:
        return wanted
    if _is_revision(wanted):
        with _told(str(wanted)):
            wanted, _ = _meant(wanted, Path(), 1)
    commit = commit_of(wanted.name, wanted.revision, key=key, kind="dataset")
    return wanted if commit is None else replace(wanted, revision=commit)


def _meant(wanted: HubSource, folder: Path, most: int | None) -> tuple[HubSource, Mapping[str, Any]]:
    """What is meant, and its splits: what was taken for a split is a revision where the data set, as it is
    now, has no split of that name (or cannot be read as it is now), and the hub knows such a revision."""
    try:
        splits = _splits(wanted, folder, most)
        if wanted.split in (None, *splits) or not _is_revision(wanted):
            return wanted, splits
    except (MachineError, MemoryError):
        raise
    except Exception:  # whatever the library raises
        if not _is_revision(wanted):
            raise
    wanted = replace(wanted, revision=wanted.split, split=None)
    return wanted, _splits(wanted, folder, most)


def _is_revision(wanted: HubSource) -> bool:
    """Whether the hub knows what was taken for a split as a branch, tag or commit of the data set."""
    from refine_rl.policy.hub import commit_of

    if wanted.is_folder or wanted.revision or not wanted.split:
        return False
    try:
        return commit_of(wanted.name, wanted.split, key="", kind="dataset") is not None
    except SettingsError:
        return False


def hub_rows(wanted: HubSource, folder: Path, wrong: Wrong, *, most: int | None = None) -> Rows:
    """The first `most` rows of a data set (None: all), numbered from 1; `wrong` as in `read_rows`.

    Columns of images, sound and the like are left out. With `most`, and from a folder, no more is read than
    is asked for; else the whole data set goes into the cache of `datasets` on this machine first. Code of a
    data set's own is never run.

    Raises UserError where there is no such data set, configuration or split, or where `datasets` is not
    installed, MachineError where the hub cannot be reached.
    """
    source = str(wanted)
    with _told(source):
        wanted, splits = _meant(wanted, folder, most)
        split = _chosen(splits, wanted.split, source)
        features = split.features or {}
        media = [name for name, kind in features.items() if type(kind).__name__ in _MEDIA]
        if media:
            split = split.remove_columns(media)
        columns = split.column_names
    if columns and (problem := wrong(columns)):
        yield "1", RowError(problem)
        return
    for number, row in enumerate(islice(_rows(split, source), most), 1):
        yield from plain_rows([row], first=number)


def _rows(split: Any, source: str) -> Iterator[Mapping[str, Any]]:
    rows = iter(split)
    while True:
        with _told(source):
            row = next(rows, None)
        if row is None:
            return
        yield row


def _splits(wanted: HubSource, folder: Path, most: int | None) -> Mapping[str, Any]:
    """The data set's splits by name."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"Data sets of the hub need the library `datasets`: {HUB_EXTRA}") from None

    if wanted.is_folder:
        return _of_folder(datasets, path_from(folder, wanted.name), wanted.config)
    if Path(wanted.name).is_dir():
        raise UserError(
            f"hub:{wanted.name}: there is a folder of that name here, and `datasets` would take it for the "
            f"data set. Start from another folder; the folder itself is hub:./{wanted.name}."
        )
    from refine_rl.policy.hub import hub_answers

    with _bars_for_people(datasets), _offline(datasets, not hub_answers()) as offline:
        found = datasets.load_dataset(
            wanted.name,
            name=wanted.config,
            revision=wanted.revision,
            streaming=most is not None and not offline,
            trust_remote_code=False,  # of old versions of the library; newer ones run none
        )
        if offline and wanted.revision and not _is_of(found, wanted):
            raise _unreachable(str(wanted))  # `datasets` takes what it loaded last, whatever is asked for
    return dict(found)


def _is_of(found: Mapping[str, Any], wanted: HubSource) -> bool:
    """Whether what came from the cache of `datasets` is of the revision: its folder has the commit's name."""
    from refine_rl.policy.hub import commit_of

    commit = commit_of(wanted.name, wanted.revision, key="", kind="dataset")
    files = [Path(file["filename"]) for split in found.values() for file in split.cache_files]
    return commit is not None and all(commit in file.parts for file in files)


def _of_folder(datasets: Any, path: Path, config: str | None) -> Mapping[str, Any]:
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    if (path / "dataset_dict.json").is_file():  # of save_to_disk
        return dict(datasets.load_from_disk(str(path)))
    if (path / "state.json").is_file():
        return {"train": datasets.load_from_disk(str(path))}
    return dict(datasets.load_dataset(str(path), name=config, streaming=True, trust_remote_code=False))


def _chosen(splits: Mapping[str, Any], wanted: str | None, source: str) -> Any:
    """The split that is named, else `train`, else the only one."""
    name = wanted or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if name not in splits:
        there = ", ".join(f"`{split}`" for split in splits)
        raise UserError(f"{source}: it has no split `{name}`; there are {there}. Name one with @SPLIT.")
    return splits[name]


@contextlib.contextmanager
def _offline(datasets: Any, offline: bool) -> Iterator[bool]:
    """Inside, `datasets` asks nobody where `offline` says so, and takes what is in its cache. Gives whether
    it is so in any case."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield datasets.config.HF_HUB_OFFLINE
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _bars_for_people(datasets: Any) -> Iterator[None]:
    """Inside, progress of a download is drawn on a terminal alone."""
    hide = not sys.stderr.isatty() and datasets.is_progress_bar_enabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _told(source: str) -> Iterator[None]:
    """What `datasets` raises, in plain words."""
    try:
        yield
    except (UserError, MachineError, MemoryError):
        raise
    except Exception as error:
        if (disk := disk_error(error)) is not None:
            raise disk from error
        raise _refusal(error, source) from error


def _refusal(error: Exception, source: str) -> UserError | MachineError:
    text = str(error)
    line = next(iter(text.strip().splitlines()), type(error).__name__).rstrip(".")
    if isinstance(error, ConnectionError) or "OfflineMode" in type(error).__name__:
        return _unreachable(source)
    if found := re.search(r"pick one among the available configs: (\[.*?\])", text):
        return UserError(f"{source}: it has several configurations, {found[1]}; name one behind a colon")
    if found := re.search(r"BuilderConfig '(.*?)' not found. Available: (\[.*?\])", text):
        return UserError(f"{source}: it has no configuration {found[1]!r}; there are {found[2]}")
    if (page := _page(error, source)) and "gated" in text.lower():
        return UserError(
            f"{source}: it is gated. Accept its terms on its page, {page}, then log in: hf auth login"
        )
    if page and re.match("Revision .* doesn't exist", text):
        return UserError(
            f"{source}: the hub has no such branch, tag or commit of it ({page}). Check what stands behind "
            "the @."
        )
    if page and isinstance(error, FileNotFoundError):  # datasets' DatasetNotFoundError is one
        return UserError(
            f"{source}: the hub ({page}) has no data set of that name, or it is private. Check the name; "
            "where it is private, log in: hf auth login"
        )
    if "scripts are no longer supported" in text or "trust_remote_code" in text:
        return UserError(
            f"{source}: it is read by a Python program of its own, and no such program is run here. Take a "
            "data set in parquet or JSON; many have such a copy on the hub."
        )
    return UserError(f"{source}: it cannot be read ({type(error).__name__}: {line})")


def _page(error: Exception, source: str) -> str:
    """Where the hub shows a data set that it did not give; "" where the error is about something else."""
    from refine_rl.policy.hub import hub_address

    if type(error).__name__ != "DatasetNotFoundError":
        return ""
    name = source.removeprefix("hub:").partition("@")[0].partition(":")[0]
    return f"{hub_address()}/datasets/{name}"


def _unreachable(source: str) -> UserError | MachineError:
    from huggingface_hub import constants

    from refine_rl.policy.hub import hub_address

    if constants.HF_HUB_OFFLINE:
        return UserError(
            f"{source}: it is not in the cache of this machine, and HF_HUB_OFFLINE=1 is set. Unset it, or "
            "take a file."
        )
    return MachineError(
        f"{source}: the hub ({hub_address()}) cannot be reached, and the data set is not in its cache on "
        "this machine. Check the network, or take a file."
    )
