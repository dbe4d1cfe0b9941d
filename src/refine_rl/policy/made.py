"""Untrained models that a task brings along: "recipe:NAME" or "file:PATH.py" as `model.name`.

The file (a recipe's is its `model.py`) has a function

    make(folder: Path, seed: int) -> None

which writes a model into the empty `folder`: configuration, safetensors with random weights, and a
tokenizer, as save_pretrained writes them. It is called once, when the model is first asked for, and what it
wrote is kept in the user's cache ($REFINE_CACHE, else refine-rl in $XDG_CACHE_HOME or ~/.cache) for as long
as neither the files beside it, nor the seed, nor a package that makes models is another one. So it has to
write the same for the same seed. It may import the files beside it. "#2" behind the name gives it the seed
2; else it gets 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata, resources
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from refine_rl.errors import MachineError, UserError
from refine_rl.policy.cache import cache_folder
from refine_rl.policy.files import as_other_files

MODEL_FILE = "model.py"
"""The file of a recipe that makes its model."""
_NAME = re.compile(r"(recipe|file):(.+?)(?:#(\d+))?")
_NOT_READ = re.compile(r"task.*\.toml|.*\.md|\..*")  # of the files beside it: no model depends on them
_WORDS = 512  # so many tokens of a tokenizer are tried, spread over all
_PACKAGES = ("refine-rl", "torch", "transformers", "tokenizers", "safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Maker:
    """The file that makes a model, and the seed that it gets."""

    file: Path
    seed: int = 0

    @property
    def called(self) -> str:
        """The recipe's or the task's folder: what its model is called."""
        return self.file.parent.name


def maker_of(name: str) -> Maker | None:
    """Who makes the model that the settings call `name`; None where it is a model that is there already.
    Raises UserError where there is no such file, or no such recipe."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    kind, place, seed = found.groups()
    file = _of_recipe(name, place) if kind == "recipe" else Path(place).expanduser().resolve()
    if not file.is_file() or file.suffix != ".py":
        raise UserError(
            f'model.name = "{name}": there is no Python file {file}. It has to be there, with a function '
            "make(folder, seed) that writes an untrained model; or name a model on the hub, or a folder."
        )
    return Maker(file=file, seed=int(seed or 0))


def made_folder(maker: Maker, note: Callable[[str], None] = lambda text: None) -> Path:
    """The folder of the model, made first where it is not there yet; `note` hears of that.

    Whoever asks at the same time makes it too, and one of them is kept; it is never half there. Raises
    UserError where the file fails or writes no model, MachineError where the cache cannot be written.
    """
    folder = cache_folder("models") / f"{maker.called}-{maker.seed}-{_key(maker)}"
    if folder.is_dir():
        return folder
    note(f"Making the untrained model of {maker.called} (once; it is kept in {folder})")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise _not_written(folder, error) from error
    try:
        _make(maker, aside)
        as_other_files(aside)
        aside.chmod(0o755)
        try:
            aside.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # nobody else was quicker
                raise _not_written(folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def made_again(folder: Path) -> Path | None:
    """A made model's folder that is gone, as an adapter names it: made again, where it is a bundled recipe's
    and comes out under the same name."""
    recipe, _, rest = folder.name.rpartition("-")[0].rpartition("-")
    if folder.parent.name != "models" or not rest.isdigit() or recipe not in _recipes():
        return None
    found = made_folder(Maker(file=_recipes()[recipe], seed=int(rest)))
    return found if found.name == folder.name else None


def _recipes() -> dict[str, Path]:
    above = Path(str(resources.files("refine_rl") / "recipes"))
    return {file.parent.name: file for file in sorted(above.glob(f"[!_]*/{MODEL_FILE}"))}


def _of_recipe(name: str, recipe: str) -> Path:
    known = _recipes()
    if recipe not in known:
        near = get_close_matches(recipe, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"such recipes are {', '.join(known)}"
        raise UserError(
            f'model.name = "{name}": there is no recipe {recipe!r} with a model of its own; {hint}'
        )
    return known[recipe]


def _key(maker: Maker) -> str:
    """Of all that the model may depend on: the file and those beside it, the seed, the packages."""
    digest = hashlib.sha256(f"{maker.file.name} {maker.seed}".encode())
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            digest.update(f"{package} {metadata.version(package)}\n".encode())
    for file in sorted(maker.file.parent.iterdir()):
        if file.is_file() and not _NOT_READ.fullmatch(file.name):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.name} {content}\n".encode())
    return digest.hexdigest()[:16]


def _make(maker: Maker, folder: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        with _beside(maker.file), torch.random.fork_rng(devices=[]):
            make = getattr(_load(maker.file), "make", None)
            if not callable(make):
                raise UserError(f"{maker.file} has no function make(folder, seed), which writes the model")
            make(folder, maker.seed)
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == maker.file]
        line = f":{frames[-1].lineno}" if frames else ""
        raise UserError(f"{maker.file}{line} makes no model: {type(error).__name__}: {error}") from error
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise UserError(
            f"{maker.file}: make(folder, seed) wrote no {', no '.join(missing)}: call "
            "save_pretrained(folder) of the model and of its tokenizer"
        )
    _require_words(maker, folder)


def _require_words(maker: Maker, folder: Path) -> None:
    """Raises UserError where the tokenizer that transformers reads in the folder is not the one that was
    written there: for some kinds of models it makes another of the same vocabulary."""
    import tokenizers
    import transformers

    file = folder / "tokenizer.json"
    if not file.is_file():
        return
    written: Any = tokenizers.Tokenizer.from_file(str(file))
    read: Any = transformers.AutoTokenizer.from_pretrained(folder)
    ids = range(written.get_vocab_size())
    for token in ids[:: -(-len(ids) // _WORDS) or 1]:
        text = written.decode([token], skip_special_tokens=False)
        made = written.encode(text, add_special_tokens=False).ids
        found = read.encode(text, add_special_tokens=False)
        back = read.decode(made, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if found != made or back != written.decode(made, skip_special_tokens=False):
            raise UserError(
                f"{maker.file}: the tokenizer that make(folder, seed) wrote is read as another one, a "
                f"{type(read).__name__}: {text!r} becomes the tokens {found}, and was {made}. For this kind "
                "of model, transformers builds a tokenizer of its own from the vocabulary; take another one "
                "(LlamaConfig reads what was saved), or a tokenizer as this kind has it."
            )


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Inside, the files beside `file` can be imported; after it none of them is left, so that another
    folder's file of the same name is not taken for it."""
    before = set(sys.modules)
    sys.path.insert(0, str(file.parent))
    try:
        yield
    finally:
        sys.path.remove(str(file.parent))
        for name in set(sys.modules) - before:
            place = getattr(sys.modules[name], "__file__", None)
            if place and Path(place).parent == file.parent:
                del sys.modules[name]


def _load(file: Path) -> Any:
    spec = spec_from_file_location(f"refine_model_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _not_written(folder: Path, error: OSError) -> MachineError:
    return MachineError(
        f"{folder.parent} cannot be written ({error.strerror}), where models that a recipe makes are kept. "
        "Make room, or name another folder in the environment: REFINE_CACHE=FOLDER"
    )
