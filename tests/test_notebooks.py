"""Every notebook runs, is stored with the outputs of such a run, and calls public names only."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.one_dtype

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
PRIVATE = r"\b(?:ct|ctrnn_jax)(?:\.\w+)*\._|from\s+ctrnn_jax\S*\s+import\b[^#\n]*\b_"
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words(notebook):
    """What was printed, whatever the numbers."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    texts = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs]
    return re.findall("[A-Za-z]{2,}", " ".join(texts))


def troubles(notebook):
    """Errors and whatever went to stderr: warnings, progress bars."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_stored_with_clean_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not troubles(notebook)
    texts = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs]
    assert not re.search(r"(?<!\w)/(tmp|home|root|work|Users)/|site-packages", "".join(texts))
    assert path.stat().st_size < 1536 * 1024


@each_notebook
def test_calls_public_names_only(path):
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    assert re.findall(PRIVATE, source) == []


@pytest.mark.slow
@pytest.mark.sampled(5)  # each takes a minute or two
@each_notebook
def test_runs(path, tmp_path):
    notebook, stored = (nbformat.read(path, as_version=4) for _ in range(2))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert not troubles(notebook)
    assert words(notebook) == words(stored)
    assert list(tmp_path.iterdir()) == []
