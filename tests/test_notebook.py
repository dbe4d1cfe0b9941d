"""The notebook runs from top to bottom, and what is stored of it is fit to be read."""

from __future__ import annotations

import re

import pytest

from kernels import FOLDER, Notebook, Run, code, run

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

__all__ = ["run"]  # a fixture

FILE = FOLDER / "tiny_grpo.ipynb"
SMALLER = """\
TRAIN_PROMPTS, HELD_OUT_PROMPTS = 100, 8
STEPS = 2
EXPERIMENT_STEPS = 1
HACK_STEPS, CURE_STEPS = 2, 2
"""  # in place of the notebook's own sizes: every cell runs; what it shows is the slow test's to prove


@pytest.fixture
def stored() -> Notebook:
    return nbformat.read(FILE, as_version=4)


def solutions(notebook: Notebook) -> list[str]:
    """The programs in the last cell, one for each of the things to try."""
    text = notebook.cells[-1].source
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(found) == len(re.findall(r"(?m)^\d\. ", text.partition("Things to try")[2])) == 6
    return found


def said_by(cell: Notebook) -> list[str]:
    """What a cell printed, and the tables that it shows."""
    texts = [o.text if o.output_type == "stream" else o.data.get("text/markdown", "") for o in cell.outputs]
    return list(filter(None, texts))


def said(notebook: Notebook, cell_id: str) -> str:
    [cell] = [cell for cell in notebook.cells if cell.id == cell_id]
    return "\n".join(said_by(cell))


def tuned_wins_and_the_hack_is_stopped(notebook: Notebook) -> None:
    """The claims of the text, read off the outputs."""
    assert said(notebook, "code-compare").startswith("better: base 0.")
    assert said(notebook, "code-hack").splitlines()[-1].startswith("better: base 0.")
    assert "'exact' fell from" in said(notebook, "code-hack-seen")
    assert "the bad completion scores at least as high" in said(notebook, "code-hack-sanity")
    assert said(notebook, "code-hack-after").startswith("better: base 0.")


def knobs_turn_as_told(notebook: Notebook) -> None:
    rows = [line.strip("| ").split(" | ") for line in said(notebook, "code-experiment-plot").splitlines()[2:]]
    tried = {(knob, value): (float(reward[:4]), float(kl)) for knob, value, reward, _, kl in rows}
    assert len(tried) == 9
    assert tried["temperature", "1.6"][0] < tried["temperature", "1"][0]
    assert tried["beta", "3"][0] < tried["beta", "0"][0]
    assert tried["beta", "3"][1] < tried["beta", "0.3"][1] < tried["beta", "0"][1]


def test_is_stored_with_its_results(stored: Notebook) -> None:
    nbformat.validate(stored)
    cells = code(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {o.output_type for o in outputs} <= {"stream", "display_data", "execute_result"}
    assert all(o.name == "stdout" for o in outputs if o.output_type == "stream")
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 8
    assert sum("text/markdown" in o.get("data", {}) for o in outputs) >= 8
    tuned_wins_and_the_hack_is_stopped(stored)
    knobs_turn_as_told(stored)


def test_can_be_read_anywhere(stored: Notebook) -> None:
    text = FILE.read_text()
    assert len(text) < 400_000
    assert not re.search(r"site-packages|(?<![\w.])/(home|root|tmp|usr|opt|Users|mnt|work)/", text)
    assert str(FOLDER.parent) not in text
    assert all(set(cell.metadata) == set() for cell in stored.cells)
    prose = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", prose)
    assert len(links) >= 8
    assert [link for link in links if not (FOLDER / link).exists()] == []
    assert max(len(cell.source.splitlines()) for cell in code(stored)) <= 50


def test_every_cell_runs_and_shows_what_it_says(stored: Notebook, run: Run) -> None:
    [sizes] = [cell for cell in code(stored) if cell.id == "code-sizes"]
    names = re.compile(r"[A-Z_]{2,}")
    assert set(names.findall(SMALLER)) == set(names.findall(re.sub("#.*", "", sizes.source)))
    sizes.source = SMALLER
    cells, found = len(code(stored)), solutions(stored)
    stored.cells += [nbformat.v4.new_code_cell(source) for source in found]
    done = run(stored)
    assert re.match(
        r"(too few to tell|not better|better|worse|no signal): base 0\.", said(done, "code-compare")
    )
    assert "the bad completion scores at least as high" in said(done, "code-hack-sanity")
    for cell in code(done):
        assert [o.text for o in cell.outputs if o.get("name") == "stderr"] == []
    two_updates, no_division, _, brief, dots = ["".join(said_by(c)) for c in code(done)[cells + 1 :]]
    assert re.match(r"update 1: loss [+-]0\.000, 0% ", two_updates)
    assert "update 2: loss -0.0" in two_updates
    assert no_division.splitlines()[1].endswith("['-0.01', '-0.01', '-0.01', '+0.04']")
    assert "the bad completion scores at least as high" in brief
    assert {value for group in eval(dots) for value in group} == {0.0, 1.0}  # noqa: S307


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_of_it(stored: Notebook, run: Run) -> None:
    done = run(stored)
    tuned_wins_and_the_hack_is_stopped(done)
    knobs_turn_as_told(done)
