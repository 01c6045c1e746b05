"""Rebuild notebooks from their .md halves: run every cell, keep ids, write clean outputs.

python .ci/execute.py [notebooks/02-dot-product-mf.md ...]     all of them when none is named
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jupytext
import nbformat
from jupytext.combine import combine_inputs_with_outputs
from nbclient import NotebookClient

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(source: Path) -> None:
    """Run the .md and write the .ipynb beside it."""
    target = source.with_suffix(".ipynb")
    notebook = jupytext.read(source)
    if target.exists():  # keeps the ids of cells that stayed
        notebook = combine_inputs_with_outputs(notebook, nbformat.read(target, as_version=4))
    for cell in notebook.cells:
        for key in set(cell.metadata) - {"tags"}:
            del cell.metadata[key]
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    start = time.perf_counter()
    NotebookClient(
        notebook,
        record_timing=False,
        store_widget_state=False,
        kernel_name="python3",
        resources={"metadata": {"path": str(source.parent)}},
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = 5
    nbformat.write(notebook, target)
    print(f"{target}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    pairs = [p for p in sorted(folder.glob("*.md")) if p.read_text("utf-8").startswith("---\njup")]
    for path in [Path(name) for name in sys.argv[1:]] or pairs:
        execute(path)
