"""The notebooks on a judge and on a world of one's own: they run, and show what they say."""

from __future__ import annotations

import re

import pytest

from kernels import FOLDER, Notebook, Run, code, run

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

__all__ = ["run"]  # a fixture

NAMES = ["own_judge", "own_world"]
SMALLER = "STEPS = 2\nPROMPTS_PER_STEP = 2\n"


def stored(name: str) -> Notebook:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def said(notebook: Notebook, cell_id: str) -> str:
    """What a cell printed, or shows as text."""
    (cell,) = [cell for cell in notebook.cells if cell.id == f"code-{cell_id}"]
    return "\n".join(o.text if o.output_type == "stream" else o.data["text/plain"] for o in cell.outputs)


def the_judge_teaches(notebook: Notebook) -> None:
    assert [float(line[:4]) for line in said(notebook, "ask").splitlines()] == [1.0, 0.1, 0.2, 0.1]
    assert "\n  better: base 0." in said(notebook, "train")
    after = re.findall(r"after:  (.*)", said(notebook, "after"))
    assert sum("?" in answer for answer in after) >= 3


def the_world_is_won(notebook: Notebook) -> None:
    assert "'Very well, thank you!', 1.0, True" in said(notebook, "hand")
    assert "\n  better: base 0." in said(notebook, "train")
    games = said(notebook, "games")
    before, after = re.findall(r"BEFORE (.*?)AFTER (.*?)(?=BEFORE|$)", games, re.DOTALL)[0]
    assert "Very well" not in before
    assert "Very well" in after
    first, last = [float(n) for n in re.findall(r"([\d.]+) turns a game", said(notebook, "turns"))]
    assert last < first - 1


CLAIMS = {"own_judge": the_judge_teaches, "own_world": the_world_is_won}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_stored_with_its_results(name: str) -> None:
    notebook = stored(name)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {o.output_type for o in outputs} == {"stream", "execute_result"}
    assert all(o.name == "stdout" for o in outputs if o.output_type == "stream")
    assert any("<svg" in o.data.get("text/html", "") for o in outputs if o.output_type == "execute_result")
    CLAIMS[name](notebook)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_read_anywhere(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text) < 60_000
    assert not re.search(r"site-packages|(?<![\w.:])/(home|root|tmp|usr|opt|Users|mnt|work)/", text)
    assert all(set(cell.metadata) == set() for cell in stored(name).cells)
    assert f"jupyter lab notebooks/{name}.ipynb" in text
    pages = re.findall(r"`(docs/\w+\.md)`", text)
    assert pages
    assert [page for page in pages if not (FOLDER.parent / page).is_file()] == []


def test_a_world_is_about_twenty_lines() -> None:
    (cell,) = [cell for cell in stored("own_world").cells if cell.id == "code-world"]
    assert len(cell.source.splitlines()) <= 20


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name: str, run: Run) -> None:
    notebook = stored(name)
    (sizes,) = [cell for cell in code(notebook) if cell.id == "code-sizes"]
    words = re.compile(r"[A-Z_]{2,}")
    assert set(words.findall(SMALLER)) == set(words.findall(re.sub("#.*", "", sizes.source)))
    sizes.source = SMALLER
    done = run(notebook)
    for cell in code(done):
        assert [o.text for o in cell.outputs if o.get("name") == "stderr"] == []
    assert said(done, "train").startswith("Run runs/run\n")
    # What does not depend on training is as it is stored.
    for same in ("ask",) if name == "own_judge" else ("hand",):
        assert said(done, same) == said(stored(name), same)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_of_it(name: str, run: Run) -> None:
    CLAIMS[name](run(stored(name)))
