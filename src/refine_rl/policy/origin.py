"""Where a model's files are: a hub id, a folder, "tiny" (bundled), "recipe:NAME" or "file:PATH.py" (made
here); or an adapter and its base model.

A name may stand for an adapter, whose adapter_config.json names the base model. Then the base model with the
adapter merged in is what training starts from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.policy.hub import hub_answers
from refine_rl.policy.made import made_again, made_folder, maker_of
from refine_rl.settings.revision import on_hub

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Hub ids (with a revision behind an @, where one is asked for) or folders: of the configuration and
    weights, of the tokenizer, and of an adapter that is merged into the weights before anything else (None:
    there is none)."""

    base: str
    tokenizer: str
    adapter: str | None = None

    @property
    def local(self) -> bool:
        """Whether the base model is a folder."""
        return Path(self.base).is_dir()


def find_origin(name: str, *, local_only: bool = False) -> Origin:
    """What `name` of [model] stands for. Raises UserError where it is a folder that is not there, or an
    adapter whose base model cannot be told. `local_only`: the hub is not asked."""
    source = model_source(name)
    found = _adapter_config(source, local_only)
    if found is None:
        return Origin(base=source, tokenizer=source)
    if Path(source).is_dir() and _has_weights(Path(source)):
        raise UserError(
            f"{name} holds a model and an adapter ({ADAPTER_CONFIG}), and programs differ in what they "
            "load. Give the adapter a folder of its own, with this command:\n"
            f'{split_command(source)}\nThen take model.name = "{source}-adapter" for both, or "{source}" '
            "for the model without the adapter."
        )
    base = _base_of(found, source)
    if _adapter_config(base, local_only) is not None:
        raise UserError(
            f"{name} is an adapter on an adapter: its base model {base} has an {ADAPTER_CONFIG} itself. "
            f'Merge that one into its own base model first, with the command below, and name "merged" as the '
            f"base in {found}:\n{merge_command(base)}"
        )
    own = found.parent
    has_tokenizer = any((own / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    return Origin(base=base, tokenizer=source if has_tokenizer else base, adapter=source)


def model_source(name: str, note: Callable[[str], None] = lambda text: None) -> str:
    """What from_pretrained is given: the bundled folder for "tiny", that of a model made here (made first
    where it is not there yet, which `note` hears of), else the name itself."""
    if name == "tiny":
        return str(resources.files("refine_rl") / "assets" / "tiny")
    if maker := maker_of(name):
        return str(made_folder(maker, note))
    looks_like_path = name.startswith((".", "/", "~")) or on_hub(name)[0].count("/") > 1
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if looks_like_path:
        raise UserError(f"model.name = {name!r}: there is no such folder.")
    return name


def merge_command(adapter: str, task: str | None = None) -> str:
    """A command for the shell that makes an ordinary model of an adapter, of peft's `task`."""
    kind = "Seq2SeqLM" if task == "SEQ_2_SEQ_LM" else "CausalLM"
    name, at = on_hub(adapter)
    which = ", ".join([f"'{name}'", *(f"{key}='{value}'" for key, value in at.items())])
    return (
        f'python -c "from peft import AutoPeftModelFor{kind} as M; from transformers import AutoTokenizer '
        f"as T; M.from_pretrained({which}).merge_and_unload().save_pretrained('merged'); "
        f"T.from_pretrained({which}).save_pretrained('merged')\""
    )


def split_command(both: str) -> str:
    """A command for the shell that gives an adapter, which lies beside a model, a folder of its own."""
    return (
        f"python -c \"import json, pathlib, shutil; a = pathlib.Path('{both}'); "
        "b = a.with_name(a.name + '-adapter'); b.mkdir(); [shutil.move(f, b) for f in a.glob('adapter_*')]; "
        "c = b / 'adapter_config.json'; c.write_text(json.dumps({**json.loads(c.read_text()), "
        "'base_model_name_or_path': str(a)}))\""
    )


def _adapter_config(source: str, local_only: bool) -> Path | None:
    """An adapter's configuration in a folder, or in a repository of the hub."""
    if Path(source).is_dir():
        file = Path(source) / ADAPTER_CONFIG
        return file if file.is_file() else None
    from transformers.utils import find_adapter_config_file

    try:
        name, at = on_hub(source)
        found = find_adapter_config_file(name, local_files_only=local_only or not hub_answers(), **at)
    except (OSError, ValueError):  # no network, no such repository: loading the model says so
        return None
    return None if found is None else Path(found)


def _has_weights(folder: Path) -> bool:
    """Whether a model is there beside the adapter. Some trainers put the base model's config.json beside an
    adapter; that alone is no model."""
    weights = (*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin"))
    return (folder / "config.json").is_file() and bool(weights)


def _base_of(config: Path, source: str) -> str:
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
        base, revision = said.get("base_model_name_or_path"), said.get("revision")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config} is not a JSON object: {error}") from error
    if not base or not isinstance(base, str):
        raise UserError(
            f"{source} is an adapter, and its {ADAPTER_CONFIG} does not say of which model: write the base "
            'model\'s folder or hub id into it, as "base_model_name_or_path".'
        )
    if Path(base).parts[-3:] == ("refine_rl", "assets", "tiny"):  # of another installation, perhaps
        return model_source("tiny")
    if not Path(base).is_dir() and (again := made_again(Path(base))):
        return str(again)
    beside = config.parent / base
    if not Path(base).expanduser().is_dir() and beside.is_dir():
        return str(beside)
    try:
        found = model_source(base)
        return f"{found}@{revision}" if revision and found == base and not Path(base).is_dir() else found
    except UserError:
        raise UserError(
            f"{source} is an adapter of the model {base}, and there is no such folder. Write where that "
            f'model is into {config}, as "base_model_name_or_path".'
        ) from None
