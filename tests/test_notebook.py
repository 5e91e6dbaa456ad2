"""The notebook runs from top to bottom in a kernel of its own, and shows its pictures and its video."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "scripts" / "tutorial.ipynb"


def test_the_notebook_runs_to_its_end(tmp_path, monkeypatch):
    """With two epochs of training instead of twenty; no cell fails; three pictures and a video are in the page."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # nothing is committed that was not made here
    setup = notebook.cells[1]
    assert "EPOCHS = 20 " in setup.source
    setup.source = setup.source.replace("EPOCHS = 20 ", "EPOCHS = 2 ")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 3
    assert any("<video" in output.get("data", {}).get("text/html", "") for output in outputs)
    text = "".join(output.get("text", "") for output in outputs)
    assert "finished: " in text and "XMax" in text and "ClearRate" in text
