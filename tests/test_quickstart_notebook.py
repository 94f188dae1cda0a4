"""The notebook of the documentation runs from its first cell to its last, and is kept clean."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from shipped import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_notebook_has_no_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


@pytest.mark.ray
@pytest.mark.slow
def test_notebook_searches_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel is started anew, and imports this segtune.
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "docs").mkdir()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "docs")}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    (table,) = (output for output in outputs if output.output_type == "execute_result")
    assert table.data["text/plain"].count("completed") > 1
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "runs" / "notebook" / "best.yaml").exists()
