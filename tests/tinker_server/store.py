"""What a service keeps: folders of safetensors, by their tinker:// paths; they outlive the server."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tinker_server.lora import WrongRequestError

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TYPES = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(
        self,
        path: str,
        state: dict[str, Tensor],
        config: Mapping[str, Any],
        info: Mapping[str, Any],
        optimizer: dict[str, Any] | None,
        *,
        overwrite: bool,
    ) -> str:
        """Writes an adapter as peft reads it; gives `path` back."""
        folder = self._folder(path)
        if (folder / "info.json").exists() and not overwrite:
            raise WrongRequestError(f"there is a checkpoint {path} already")
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))
        if optimizer is not None:
            torch.save(optimizer, folder / "optimizer.pt")
        (folder / "info.json").write_text(json.dumps(info))  # last: with it, the checkpoint is there
        return path

    def info(self, path: str) -> dict[str, Any]:
        """base_model, is_lora, lora_rank, train_attn, train_mlp, train_unembed."""
        folder = self._folder(path)
        if not (folder / "info.json").exists():
            raise WrongRequestError(f"no checkpoint {path}")
        return dict(json.loads((folder / "info.json").read_text()))

    def weights(self, path: str) -> dict[str, Tensor]:
        return dict(load_file(self._folder(path) / "adapter_model.safetensors"))

    def optimizer(self, path: str) -> dict[str, Any]:
        file = self._folder(path) / "optimizer.pt"
        if not file.exists():
            raise WrongRequestError(f"{path} was saved without its optimizer")
        return dict(torch.load(file, weights_only=True))

    def files(self, path: str) -> dict[str, Path]:
        """The adapter's files by their names."""
        self.info(path)
        return {name: self._folder(path) / name for name in ADAPTER}

    def archive(self, path: str) -> bytes:
        """The adapter's files as tar.gz."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name, file in self.files(path).items():
                archive.add(file, name)
        return out.getvalue()

    def forget(self, path: str) -> None:
        """Deletes a checkpoint."""
        self.info(path)
        shutil.rmtree(self._folder(path))

    def listed(self, model_id: str) -> list[dict[str, Any]]:
        found = []
        for file in sorted(self.folder.glob(f"{model_id}/*/*/info.json")):
            kind, name = file.parts[-3:-1]
            found.append(
                {
                    "checkpoint_id": f"{kind}/{name}",
                    "checkpoint_type": TYPES[kind],
                    "time": "2026-01-01T00:00:00Z",
                    "tinker_path": f"tinker://{model_id}/{kind}/{name}",
                }
            )
        return found

    def _folder(self, path: str) -> Path:
        parts = re.fullmatch(rf"tinker://([\w:-]+)/({'|'.join(TYPES)})/([\w][\w.-]*)", path)
        if parts is None:
            raise WrongRequestError(f"{path!r} is no path of a checkpoint")
        return self.folder.joinpath(*parts.groups())
