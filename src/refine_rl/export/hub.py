"""Onto the hub, and whether all of it is there. The token is the hub's own affair: HF_TOKEN, or its login; it
goes from its library to its library, and is neither shown nor written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_rl.errors import MachineError, UserError
from refine_rl.export.check import Check
from refine_rl.policy.hub import hub_address, hub_answers
from refine_rl.types import count_of

_ADAPTER, _WHOLE = "adapter_model.safetensors", "model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploaded:
    """A commit on the hub, and where it is seen."""

    commit: str
    url: str


def require_name(name: str) -> None:
    """Raises UserError for what is no name of a repository, or does not say whose."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--hub {name}: {error}") from error
    if "/" not in name:
        raise UserError(f"--hub {name}: say whose it is, OWNER/{name}.")


def require_hub(name: str, *, adapter: bool) -> None:
    """Raises UserError without a token or with one that is not taken, for somebody else's name, and for a
    repository that holds a model of the other kind; MachineError where the hub does not answer. Nothing is
    written there."""
    import huggingface_hub
    from huggingface_hub import constants

    require_name(name)
    owner = name.partition("/")[0]
    if constants.HF_HUB_OFFLINE:
        raise UserError("The hub: HF_HUB_OFFLINE=1 is set, so that nothing can be sent. Unset it.")
    if huggingface_hub.get_token() is None:
        raise UserError(
            "The hub: there is no token for the hub. Log in once (hf auth login), or put a token that may "
            "write into HF_TOKEN."
        )
    if not hub_answers():
        raise MachineError(f"The hub ({hub_address()}) cannot be reached. Check the network.")
    api = huggingface_hub.HfApi()
    try:
        me = api.whoami()
    except Exception as error:  # the library has a dozen of them
        raise _refusal(error, "the token is not taken") from error
    own = [str(me.get("name")), *(str(org.get("name")) for org in me.get("orgs") or [])]
    if owner.lower() not in [n.lower() for n in own]:
        raise UserError(
            f"--hub {name}: the token belongs to {own[0]}, who is not {owner} and not in it. Its own names: "
            f"{', '.join(own)}."
        )
    there = _files(api, name)
    other = _WHOLE if adapter else _ADAPTER
    if other in there:
        kind = "a whole model" if adapter else "an adapter"
        raise UserError(
            f"--hub {name}: {kind} is there ({other}), and beside the other kind programs differ in what "
            "they load. Name another repository, or delete that file first."
        )


def upload(name: str, folder: Path, *, private: bool, message: str) -> Uploaded:
    """Sends the folder as one commit, into a new repository where there is none. Raises UserError where the
    hub refuses, MachineError where it fails."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        info = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except Exception as error:  # the library has a dozen of them
        raise _refusal(error, f"{name} was not written") from error
    return Uploaded(commit=str(info.oid), url=f"{hub_address()}/{name}")


def check_uploaded(name: str, folder: Path, uploaded: Uploaded) -> list[Check]:
    """Whether the commit's files are those of the folder, by size and hash: what the hub says of them."""
    import huggingface_hub

    try:
        there = _files(huggingface_hub.HfApi(), name, uploaded.commit)
    except UserError as error:
        raise MachineError(f"What was sent cannot be looked at: {error}") from error
    own = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    wrong = [f"{path} {fault}" for path, file in own.items() if (fault := _fault(file, there.get(path)))]
    if wrong:
        return [Check(held=False, text=f"on the hub is something else: {'; '.join(wrong)}")]
    found = [
        Check(text=f"hub: {count_of(len(own), 'file')} of commit {uploaded.commit[:8]} are the same there")
    ]
    more = sorted(set(there) - own.keys() - {".gitattributes"})
    if more:
        found.append(
            Check(
                held=False,
                fatal=False,
                text=f"from before there are also {', '.join(more)}: what is not this model's, delete there",
            )
        )
    return found


def _files(api: Any, name: str, commit: str | None = None) -> dict[str, Any]:
    """The files of a repository, by path; none where there is no such one."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = list(api.list_repo_tree(name, recursive=True, revision=commit))
    except RepositoryNotFoundError:
        return {}
    except Exception as error:  # the library has a dozen of them
        raise _refusal(error, f"{name} cannot be looked at") from error
    return {entry.path: entry for entry in found if hasattr(entry, "size")}


def _fault(file: Path, entry: Any) -> str:
    if entry is None:
        return "is not there"
    size = file.stat().st_size
    if entry.size != size:
        return f"has {entry.size} bytes there, and {size} here"
    if entry.lfs is not None:
        return "" if entry.lfs.sha256 == _hash(file, "sha256") else "has another SHA-256 there"
    # What is no large file has the name that git gives its contents.
    return (
        "" if entry.blob_id == _hash(file, "sha1", f"blob {size}\0".encode()) else "has other contents there"
    )


def _hash(file: Path, kind: str, head: bytes = b"") -> str:
    digest = hashlib.new(kind, head, usedforsecurity=False)
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _refusal(error: Exception, what: str) -> UserError | MachineError:
    """The hub's answer in a line; a refusal is the user's affair, all else the machine's."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if status == 401:
        return UserError(f"The hub: {what}: the hub does not know the token. Log in again: hf auth login")
    if status == 403:
        return UserError(
            f"The hub: {what}: the token may not do that. One that may write is made in the hub's settings."
        )
    return MachineError(f"The hub: {what}: {lines[-1]}")
