"""The notebook runs from its first cell to its last, on the results of the test environment."""

import shutil

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NAME = "01_first_look.ipynb"


@pytest.fixture
def execute(project_root, monkeypatch):
    """Run the notebook in a project, with its folder as the kernel's."""

    def run(project) -> nbformat.NotebookNode:
        folder = project.path / "notebooks"
        folder.mkdir()
        shutil.copy(project_root / "notebooks" / NAME, folder)
        notebook = nbformat.read(folder / NAME, as_version=4)
        monkeypatch.setenv("KEDRO_ENV", "test")
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
        return notebook

    return run


def test_it_runs_on_what_the_graph_made(done, execute) -> None:
    notebook = execute(done)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "\n".join(output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    # a prompt, a table with its columns, the means of every method, and a figure
    for part in ("[user]", "gain", "untrained", "warmed_up", "item_mean", "ndcg_at_5"):
        assert part in text, part
    assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)


def test_without_results_it_says_what_to_do(fresh, execute) -> None:
    with pytest.raises(CellExecutionError, match="run `make run` first"):
        execute(fresh)


def test_it_is_kept_without_outputs(project_root) -> None:
    notebook = nbformat.read(project_root / "notebooks" / NAME, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
