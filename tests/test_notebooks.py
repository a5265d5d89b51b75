"""Every notebook runs from its first cell to its last on the nano model, and is kept without outputs."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CELL_SECONDS = 300  # on a busy machine; all three together take less than a minute on a quiet one


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    book.cells = [cell for cell in book.cells if not cell.source.startswith("%pip")]
    NotebookClient(
        book, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = [kind for cell in book.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())]
    assert {"image/png", "image/svg+xml"} & set(shown), "a notebook shows a figure"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs_and_installs_in_one_cell(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    assert [source.startswith("%pip install -q ") and "theworld" in source for source in code].count(True) == 1
    assert code[0].startswith("%pip")
    assert not any('"/' in source for source in code), "an absolute path"


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["look_inside", "quick_start", "train_and_evaluate"]
