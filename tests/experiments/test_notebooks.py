"""Every notebook runs from a clean kernel in its fast form, and is kept as a reader wants it."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "experiments" / "notebooks"

FAST = {
    "attention": {},
    "dogs_and_cats": {"STEPS, BATCH, SIZE, PHOTOS": (2, 8, 32, 16), "HELD_OUT, SEED": (16, 0)},
    "operations": {"SIDE, FACTOR": (16, 4)},
    "satellite_tags": {"STEPS, BATCH, SIZE, HELD_OUT": (2, 8, 32, 16)},
    "traffic_signs": {"STEPS, BATCH, SIZE, HELD_OUT": (2, 8, 32, 16)},
    "yolo": {
        "STEPS, BATCH, SIZE, GRID": (2, 4, 32, 4),
        "HELD_OUT, BOXES, MOST_OBJECTS, SEED": (8, 3, 30, 0),
    },
}
"""The smaller values of the assignments in a notebook's cell of parameters."""

MOST_BYTES = 600_000


def shortened(notebook, values):
    """Replace assignments in the cell of parameters; each of them has to be there."""
    for names, numbers in values.items():
        (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
        cell.source, found = re.subn(
            rf"^{names} = .*$", f"{names} = {numbers}", cell.source, flags=re.M
        )
        assert found == 1, names
    return notebook


@pytest.mark.parametrize("name", FAST)
def test_the_fast_form_runs(name, monkeypatch):
    # The kernel's processes are found in a clone without an installation, too.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = shortened(nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4), FAST[name])
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    assert warnings_in(notebook) == []


def warnings_in(notebook):
    """What the cells printed on standard error."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.text for output in outputs if output.get("name") == "stderr"]


def test_every_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(FAST)


@pytest.mark.parametrize("name", FAST)
def test_what_is_kept_was_executed_in_order_and_is_small(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert warnings_in(notebook) == []
    assert path.stat().st_size < MOST_BYTES
    # Neither paths of the machine that executed it, nor data that others lack.
    assert not re.search(r"[\"' ]/(home|tmp|work|root|Users|mnt|opt)/", path.read_text())
    pictures = [
        output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert pictures
