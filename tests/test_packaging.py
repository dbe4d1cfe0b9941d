"""What is published: the source archive has what the README names, the wheel what a run needs."""

from __future__ import annotations

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


def test_the_wheel_has_texts_recipes_and_the_bundled_model(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        metadata = next(n for n in names if n.endswith("METADATA"))
        assert "Requires-Dist: genai-prices" in files.read(metadata).decode()
    source = ROOT / "src" / "refine_rl"
    data = [p for p in source.rglob("*") if p.is_file() and p.suffix not in (".pyc", ".py")]
    assert source / "assets" / "tiny" / "model.safetensors" in data
    assert {f"refine_rl/{p.relative_to(source).as_posix()}" for p in data} <= names
