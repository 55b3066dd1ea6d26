"""The notebook for looking at runs works on a trained project, and what it finds is tracked."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from mlops_ladder.training import tracking
from nbclient import NotebookClient
from projects import FLIGHTS, ROOT

NOTEBOOK = ROOT / "notebooks/analyse.ipynb"


@pytest.mark.practice("tracked-notebooks", "manual-model-analysis")
def test_the_analysis_runs_top_to_bottom_and_is_tracked(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": os.fspath(folder)}}).execute()
    _, client = tracking.open_store(FLIGHTS)
    place = tracking.experiment(FLIGHTS, client, "exploration")
    [kept] = client.search_runs([place])
    assert kept.info.status == "FINISHED"
    assert {"runs.csv", "slices.csv"} <= {file.path for file in client.list_artifacts(kept.info.run_id)}
