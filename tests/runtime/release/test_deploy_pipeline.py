"""The training pipeline is built as a package, installed as one, and runs from there. The template's file."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flight_delays.__main__ import main
from mlops_ladder.release import deploy_pipeline
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT

PROJECT = ROOT
OTHER = "pandas==3.0.0"  # than uv.lock has
Call = Any


def nox(session: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nox", "-s", session, *words], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def built(trained: Path, git: Call, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone of the trained project with its package in dist/, made the current folder; `evaluate` is isolated."""
    folder = tmp_path_factory.mktemp("built") / "project"
    own = {"mlruns", "mlflow.db", "models", "data", ".venv"}
    shutil.copytree(trained, folder, ignore=lambda place, _: own if Path(place) == trained else set())
    shutil.copytree(trained / "data/sample", folder / "data/sample")
    shutil.copy(trained.parent / "empty.db", folder / "mlflow.db")
    for name in ("noxfile.py", "nox_delivery.py", "README.md"):
        shutil.copy(PROJECT / name, folder)
    settled = {"schedule": "17 4 * * 1", "isolated": {"evaluate": [OTHER]}}
    (folder / "conf/pipeline.yml").write_text(yaml.safe_dump(settled), encoding="utf-8")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        git("add", "--all")
        git("commit", "--quiet", "--message", "Isolate the evaluation")
        done = nox("build")
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder


@pytest.fixture(scope="module")
def deployed(built: Path) -> Path:
    """Its pipeline, deployed to test and run once by the line of its schedule."""
    assert main(["deploy-pipeline", "--env", "test"]) == 0
    folder = built / "environments/test/pipeline"
    line = (folder / "crontab").read_text(encoding="utf-8").split(" ", 5)[5]
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "said.txt").write_text(done.stdout, encoding="utf-8")
    return folder


@pytest.mark.practice("pipeline-cd")
def test_what_is_printed_schedules_it_beside_what_is_scheduled_already(tmp_path: Path) -> None:
    folder, table = tmp_path / "a pipeline", tmp_path / "table"
    folder.mkdir()
    (folder / "crontab").write_text("17 4 * * 1 cd new\n")
    table.write_text(f"0 1 * * * backup\n1 2 * * * cd '{folder / 'work'}' && old\n")
    (tmp_path / "crontab").write_text(f'#!/bin/sh\n[ "$1" = -l ] && exec cat {table}\ncat > {table}.new\n')
    (tmp_path / "crontab").chmod(0o755)
    words = deploy_pipeline.scheduling(folder)
    around = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", "-c", words], env=os.environ | around, check=True)
    assert Path(f"{table}.new").read_text() == "0 1 * * * backup\n17 4 * * 1 cd new\n"


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))


@pytest.mark.practice("pipeline-ci")
def test_ci_builds_a_package_that_holds_the_whole_pipeline(built: Path) -> None:
    wheels = list((built / "dist").glob("*.whl"))
    assert {file.name.split("-")[0] for file in wheels} == {"flight_delays", "mlops_ladder"}
    inside = {Path(name).name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    assert {"stages.py", "train.py", "data.py", "features.py", "model.py"} <= inside
    needs = (built / "dist/requirements.txt").read_text(encoding="utf-8")
    listed = tomllib.loads((built / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert all(f"{line.split('>')[0]}==" in needs for line in listed) and "--hash=sha256:" in needs


@pytest.mark.practice("pipeline-cd", "pipeline-as-deployment-unit")
def test_the_deployed_pipeline_trains_on_schedule_and_every_run_names_its_version(deployed: Path, built: Path) -> None:
    installed = facts(deployed)
    assert installed["version"] in (deployed / "said.txt").read_text(encoding="utf-8")
    with contextlib.chdir(built):
        chosen, client = tracking.open_store(FLIGHTS)
        [run] = tracking.search(FLIGHTS, client)
    assert run.data.tags["pipeline"] == installed["version"]
    assert (run.data.tags["commit"], run.data.tags["dirty"]) == (installed["commit"], "false")
    assert [str(one.version) for one in client.search_model_versions(f"name = '{chosen.model}'")] == ["1"]


@pytest.mark.practice("containerised-components")
def test_an_isolated_stage_runs_with_packages_of_its_own(deployed: Path) -> None:
    note = (deployed / "work/models/candidate/evaluation/HANDOFF.md").read_text(encoding="utf-8")
    assert f'"pandas": "{OTHER.partition("==")[2]}"' in note  # what `evaluate` ran with
    main_python = deploy_pipeline.python_of(deployed, facts(deployed))
    words = [main_python, "-c", "import pandas; print(pandas.__version__)"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert said != OTHER.partition("==")[2]


@pytest.mark.practice("pipeline-cd")
def test_deploying_the_same_package_again_changes_nothing(deployed: Path, built: Path, run: Call) -> None:
    before = facts(deployed)
    with contextlib.chdir(built):
        assert run("deploy-pipeline", "--env", "test", "--json") == before


@pytest.mark.practice("pipeline-cd", "pipeline-ci")
def test_a_package_that_this_commit_does_not_build_is_refused(built: Path, run: Call, git: Call) -> None:
    with contextlib.chdir(built):
        file = next(built.glob("src/*/model.py"))
        file.write_text(file.read_text(encoding="utf-8") + "\n# another\n", encoding="utf-8")
        git("commit", "--quiet", "--all", "--message", "Change the model")
        said = run("deploy-pipeline", "--env", "test", exit_code=3)
        git("reset", "--quiet", "--hard", "HEAD~1")
    assert "model.py differs" in said


@pytest.mark.practice("pipeline-cd")
def test_only_who_may_deploy_there_deploys_a_pipeline(built: Path, run: Call) -> None:
    with contextlib.chdir(built):
        roles = built / "conf/roles.yml"
        text = roles.read_text(encoding="utf-8")
        roles.write_text(text.replace("anyone", "somebody@example.org"), encoding="utf-8")
        said = run("deploy-pipeline", "--env", "test", exit_code=3)
        roles.write_text(text, encoding="utf-8")
    assert "may not deploy in test" in said


@pytest.mark.practice("pipeline-as-deployment-unit")
def test_a_schedule_is_five_fields(built: Path, run: Call) -> None:
    with contextlib.chdir(built):
        conf = built / "conf/pipeline.yml"
        text = conf.read_text(encoding="utf-8")
        conf.write_text(yaml.safe_dump({"schedule": "weekly", "isolated": {}}), encoding="utf-8")
        said = run("deploy-pipeline", "--env", "test", exit_code=1)
        conf.write_text(text, encoding="utf-8")
    assert "conf/pipeline.yml: schedule" in said.replace("\\", "/")
