"""Several projects at once: what each uses, how it is, what it cost, and one command for all."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from mlops_ladder.release import environments
from mlops_ladder.training import tracking
from projects import FLIGHTS


@pytest.fixture
def projects(trained: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three projects: trams at level 4, trains at 2, buses at 0; and one of something else."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, level in (("trams", 4), ("trains", 2), ("buses", 0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / ".copier-answers.yml").write_text(f"_commit: v1.0\nlevel: {level}\npackage_name: {name}\n")
        if level:
            shutil.copytree(trained / "conf", folder / "conf")
            shutil.copy(trained / "mlflow.db", folder)
            with monkeypatch.context() as patch:
                patch.chdir(folder)
                chosen, client = tracking.open_store(FLIGHTS)
                client.set_registered_model_alias(chosen.model, "champion", "1")
                if level == 4:
                    shutil.copytree(trained.parent, folder / "environments/prod", ignore=lambda *_: ["project"])
                    Path("environments/prod/empty.db").rename("environments/prod/mlflow.db")
                    chosen, client = environments.open_store(FLIGHTS, "prod")
                    client.create_registered_model(chosen.model)
                    client.create_model_version(chosen.model, "nowhere", tags={"origin_version": "7"})
                    client.set_registered_model_alias(chosen.model, "champion", "1")
        else:
            shutil.copytree(models, folder / "models")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.practice("ai-factory-scale")
def test_each_project_tells_its_level_what_it_uses_and_its_cost(projects: Path, run: Any) -> None:
    trams, trains, buses = run("portfolio", "trams", "trains", "buses", "photos", "--price", "3600", "--json")
    assert [one["level"] for one in (trams, trains, buses)] == [4, 2, 0]
    assert (trams["in_use"], trains["in_use"]) == ({"prod": "7"}, {"dev": "1"})
    assert len(buses["in_use"]["hand-off"]) == 12
    assert trains["cost"] == pytest.approx(3600 * trains["trained_hours"], abs=0.01) and trains["cost"] > 0
    assert {one["health"] for one in (trams, trains, buses)} == {"well"}
    assert not (projects / "trams/environments/test").exists(), "to look makes nothing"
    assert "is a project" in run("portfolio", "photos", exit_code=2)


@pytest.mark.practice("ai-factory-scale")
def test_one_that_is_not_well_is_named_and_the_others_are_told_all_the_same(projects: Path, run: Any) -> None:
    (projects / "trains/mlflow.db").write_bytes(b"no database" * 1000)
    reports = projects / "trams/reports/monitoring"
    reports.mkdir(parents=True)
    (reports / "20260101T000000Z.json").write_text('{"signals": [{"name": "psi distance", "fired": true}]}')
    said = run("portfolio", "trams", "trains", "buses", exit_code=3)
    assert "2 of 3 projects need a person: trams, trains" in said
    assert "1 signals fired: psi distance" in said and "cannot be read" in said
    assert "buses" in said
    (reports / "20260102T000000Z.json").write_text('{"signals": [')
    assert "2 of 3 projects need a person" in run("portfolio", "trams", "trains", "buses", exit_code=3)


@pytest.mark.practice("ai-factory-scale")
def test_one_command_runs_in_every_project(projects: Path, run: Any) -> None:
    code = "import os, pathlib, sys; pathlib.Path('ran').write_text('{package}'); sys.exit(os.path.exists('models'))"
    said = run("portfolio", "trams", "trains", "buses", "--run", sys.executable, "-c", code, exit_code=3)
    assert all((projects / name / "ran").read_text() == name for name in ("trams", "trains", "buses"))
    assert "1 of 3 projects need a person: buses" in said and "exit code 1" in said
