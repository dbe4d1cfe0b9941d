"""`python notebooks/run.py FILE`: the notebook in a fresh kernel, top to bottom; what it shows is stored."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs; raises CellExecutionError where a cell fails. The kernel stands in
    `folder`. Times and versions are not kept, so that two runs of the same code differ in their results
    alone."""
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # a warning that others could listen: it is the loopback
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    file = Path(sys.argv[1])
    nbformat.write(run(nbformat.read(file, as_version=4), file.parent), file)
