"""What is published: the source archive has what the README names, the wheel what a run needs; and either is
enough in an environment that has nothing (`make package`, which takes the dependencies from the package
index)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def named_in_the_readme() -> Iterator[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in link:
            yield link.rstrip("/")


def test_the_source_archive_has_what_the_readme_names_and_its_commands_need(built: Path) -> None:
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    wanted = {*named_in_the_readme(), "Makefile", "constraints.txt", "pyproject.toml", ".ci/run"}
    assert "docs/judges.md" in wanted
    assert {w for w in wanted if not any(n == w or n.startswith(w + "/") for n in names)} == set()


def data_files() -> Iterator[str]:
    """What is no code and has to come along, within the package."""
    source = ROOT / "src" / "refine_rl"
    for path in source.rglob("*"):
        if path.is_file() and path.suffix not in (".pyc", ".py"):
            yield path.relative_to(source).as_posix()


def test_the_wheel_has_texts_recipes_and_the_bundled_model(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        metadata = next(n for n in names if n.endswith("METADATA"))
        assert "Requires-Dist: genai-prices" in files.read(metadata).decode()
    data = set(data_files())
    assert "assets/tiny/model.safetensors" in data
    assert {f"refine_rl/{file}" for file in data} <= names


@pytest.mark.network
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("archive", ["*.whl", "*.tar.gz"])
def test_an_environment_that_has_nothing_else_is_enough(built: Path, archive: str, tmp_path: Path) -> None:
    env, elsewhere = tmp_path / "env", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    bare |= {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PATH": f"{env / 'bin'}:/usr/bin:/bin"}
    bare |= {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path / "home")}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=elsewhere, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    [file] = built.glob(archive)
    run("pip", "install", "--quiet", "--disable-pip-version-check", str(file))
    assert run("pip", "check") == "No broken requirements found.\n"
    assert run("refine", "--version") == f"refine {file.name.split('-')[1].removesuffix('.tar.gz')}\n"
    package = Path(run("python", "-c", "import refine_rl; print(refine_rl.__file__)").strip()).parent
    assert package.is_relative_to(env)
    assert [name for name in data_files() if not (package / name).is_file()] == []
    assert "style" in run("refine", "recipes")
    run("refine", "init", "task")
    run("refine", "skills", "--to", "skills")
    assert (elsewhere / "skills" / "refine-rl" / "SKILL.md").is_file()
    small = ["grpo.steps=1", "grpo.prompts_per_step=2", "prompts.held_out=5", "prompts.validation=0"]
    flags = [part for setting in small for part in ("--set", setting)]
    run("refine", "train", "--recipe", "style", "--run", "first", *flags)
    assert (elsewhere / "first" / "report.html").is_file()
    assert (elsewhere / "first" / "model" / "adapter_model.safetensors").is_file()
