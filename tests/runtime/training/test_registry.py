"""Runs, registered versions and releases: what is kept of each, and what is served."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from flight_delays import data, features, model
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.data.rows import as_records
from mlops_ladder.serving.servable import pin, resolve
from mlops_ladder.training import stages, tracking
from projects import FLIGHTS


@pytest.fixture
def made(workplace: Path, run: Any) -> Any:
    """Version 1, registered in `workplace`, as the registry has it."""
    result = run("train", "--json")
    _, client = tracking.open_store(FLIGHTS)
    return tracking.find_version(client, result["model"], result["version"])


def promote(run: Any, version: str = "1", **options: Any) -> Any:
    return run("promote", version, "--reason", "agreed with operations", **options)


@pytest.mark.practice("experiment-tracking", "git-provenance-on-runs", "metadata-store", "managed-environment")
def test_a_run_names_data_code_environment_and_settings(workplace: Path, made: Any, git: Any) -> None:
    chosen, client = tracking.open_store(FLIGHTS)
    kept = client.get_run(made.run_id)
    [used] = kept.inputs.dataset_inputs
    assert kept.data.tags["data"] == f"{used.dataset.name}@{used.dataset.digest}"
    assert json.loads(used.dataset.profile)["rows"] == len(data.read("data/raw"))
    assert kept.data.tags["commit"] == git("rev-parse", "HEAD")
    assert (kept.data.tags["dirty"], kept.data.tags["by"]) == ("false", "ada@example.org")
    assert len(kept.data.tags["lock"]) == 64
    assert kept.data.params["seed"] == str(chosen.seed)
    assert {"train", "validation", "test", "baseline"} == {
        name.removesuffix(f"_{model.PRIMARY}") for name in kept.data.metrics if name.endswith(f"_{model.PRIMARY}")
    }
    assert kept.data.metrics["fit_seconds"] > 0


@pytest.mark.practice("asset-capture", "job-specs-as-code")
def test_a_run_keeps_its_settings_lock_file_validation_and_plots(workplace: Path, made: Any) -> None:
    chosen, client = tracking.open_store(FLIGHTS)
    files = {item.path for folder in ("", "evaluation") for item in client.list_artifacts(made.run_id, folder)}
    plots = ["roc", "precision-recall", "calibration"]
    if data.PROBLEM == "regression":
        plots = ["residuals", "predicted"]
    assert {f"evaluation/{name}.png" for name in (*plots, "importance")} < files
    assert {"settings.yml", "split.json", "uv.lock", "validation.html", "evaluation/HANDOFF.md"} < files
    settings = tracking.read_artifact(client, client.get_run(made.run_id), "settings.yml")
    assert yaml.safe_load(settings) == chosen.model_dump()


def test_uncommitted_changes_mark_the_run_until_they_are_committed_and_it_is_trained_again(
    workplace: Path, run: Any, git: Any
) -> None:
    (workplace / "conf/notes.yml").write_text("a: 1\n")
    assert "commit them" in run("train")
    assert "uncommitted changes" in run("runs")
    assert "uncommitted changes" in promote(run, exit_code=3)
    git("add", "--all")
    git("commit", "--quiet", "--message", "Note")
    again = run("train", "--json")
    assert (again["ran"], again["version"]) == (["register"], "2")
    assert "version 2 is champion" in promote(run, "2")


@pytest.mark.practice("model-registry", "model-registry-contents", "model-versioning")
def test_a_version_holds_all_that_judging_and_deploying_need(workplace: Path, made: Any) -> None:
    _, client = tracking.open_store(FLIGHTS)
    kept, logged = client.get_run(made.run_id), mlflow.models.get_model_info(f"models:/{made.name}/{made.version}")
    assert made.tags["data"] == kept.data.tags["data"]
    assert made.tags["family"] in model.SEARCH_SPACE
    assert {f"test_{name}" for name in model.HIGHER_IS_BETTER} < set(kept.data.metrics)
    assert any("learning_rate" in name for name in kept.data.params)
    assert logged.signature.inputs.input_names() == features.COLUMNS
    assert logged.signature.outputs.input_names() == [model.OUTPUT]
    folder = Path(mlflow.artifacts.download_artifacts(logged.model_uri))
    assert logged.saved_input_example_info
    assert "scikit-learn==" in (folder / "requirements.txt").read_text()
    assert (folder / "artifacts/HANDOFF.md").is_file()
    assert not [file for file in folder.rglob("*") if file.suffix in (".pkl", ".pickle", ".joblib", ".cloudpickle")]


@pytest.mark.practice("shared-train-serve-transforms")
def test_a_version_takes_raw_rows_and_prepares_them_as_at_its_training(
    workplace: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = stages.read_splits(FLIGHTS)["test"].head(200)[features.COLUMNS]
    fitted = model.load(Path("models/candidate/fitted/model.skops"))
    expected = model.predict(fitted, features.build(rows))
    monkeypatch.setattr(features, "build", None)  # whatever became of it since
    opened = mlflow.pyfunc.load_model(f"models:/{made.name}/{made.version}")
    np.testing.assert_allclose(opened.predict(rows)[model.OUTPUT], expected, rtol=1e-9)
    for row, value in list(zip(as_records(rows), expected, strict=True))[:20]:
        assert opened.predict(pd.DataFrame([row]).pipe(times))[model.OUTPUT].item() == pytest.approx(value, rel=1e-9)


def times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ROWS with times as MLflow parses them from JSON, missing numbers as NaN."""
    kinds = {"time": "datetime64[us]", "number": "float64"}
    types = {name: kinds.get(data.SCHEMA[name]["type"], "object") for name in rows}
    return rows.astype(types)


@pytest.mark.practice("run-history-comparison")
def test_runs_are_listed_newest_first_and_compared(workplace: Path, made: Any, run: Any) -> None:
    run("train", "--set", "parameters.max_iter=20")
    newest, oldest = run("runs", "--json")
    assert (newest["version"], oldest["version"]) == ("2", "1")
    assert newest["aliases"] == ["challenger"]
    assert "version 2, challenger" in run("runs").splitlines()[0]
    compared = run("runs", "--compare", "1", newest["run"][:8])
    [line] = [line for line in compared.splitlines() if "max_iter" in line]
    assert line.split()[-1] == "20"
    assert "must be one" in run("runs", "--compare", "nothing", exit_code=1)


@pytest.mark.practice("low-friction-manual-release", "model-registry-aliases", "model-release-tracking")
def test_promoting_moves_the_champion_and_keeps_who_when_and_why(workplace: Path, made: Any, run: Any) -> None:
    _, client = tracking.open_store(FLIGHTS)
    assert tracking.aliases(client, made.name) == {"challenger": "1"}, "training alone releases nothing"
    assert "version 1 is champion" in promote(run)
    run("train", "--set", "seed=1")
    assert tracking.aliases(client, made.name) == {"champion": "1", "challenger": "2"}
    promote(run, "2")
    assert tracking.aliases(client, made.name)["champion"] == "2"
    history = run("promote", "--history", "--json")
    assert [(one["version"], one["before"]) for one in history] == [("2", "1"), ("1", "none")]
    assert {(one["by"], one["reason"]) for one in history} == {("ada@example.org", "agreed with operations")}
    assert tracking.find_version(client, made.name, "2").tags["released_by"] == "ada@example.org"


@pytest.mark.practice("low-friction-manual-release")
def test_a_version_below_the_success_criteria_is_not_released(workplace: Path, made: Any, run: Any) -> None:
    bound = "min: 1.01" if model.HIGHER_IS_BETTER[model.PRIMARY] else "max: 0.0"
    Path("conf/success.yml").write_text(f"metrics:\n  {model.PRIMARY}: {{{bound}}}\n")
    assert model.PRIMARY in promote(run, exit_code=3)
    assert "champion" not in tracking.aliases(tracking.open_store(FLIGHTS)[1], made.name)
    assert run("promote", "--history", "--json") == []


def test_the_registry_is_opened_once_and_says_what_the_champion_is_at_each_look(
    workplace: Path, made: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(run)
    assert pin(FLIGHTS, f"models:/{made.name}@champion") == f"models:/{made.name}/1"
    _, client = tracking.open_store(FLIGHTS)
    monkeypatch.setattr(tracking, "connect", None)
    client.set_registered_model_alias(made.name, "other", "1")
    assert pin(FLIGHTS, f"models:/{made.name}@other") == f"models:/{made.name}/1"


@pytest.mark.practice("naming-and-tagging")
def test_a_version_whose_run_lacks_a_required_tag_is_not_released(workplace: Path, made: Any, run: Any) -> None:
    tracking.open_store(FLIGHTS)[1].delete_tag(made.run_id, "owner")
    assert "owner" in promote(run, exit_code=3)


@pytest.mark.practice("role-definitions")
def test_only_who_has_the_role_may_promote(workplace: Path, made: Any, run: Any, git: Any) -> None:
    Path("conf/roles.yml").write_text("roles:\n  engineer:\n    people: [grace@example.org]\n    may: [promote]\n")
    assert "ada@example.org may not promote" in promote(run, exit_code=3)
    git("config", "user.email", "GRACE@example.org")
    assert "conf/roles.yml: roles is not what the last commit says" in promote(run, exit_code=1)
    git("commit", "--quiet", "--all", "--message", "Grace promotes")
    git("config", "user.email", "grace@example.org")
    assert "by grace@example.org" in promote(run)


def test_a_version_that_is_not_there_is_named(workplace: Path, made: Any, run: Any) -> None:
    assert "there are: 1" in promote(run, "7", exit_code=1)
    assert "--reason" in run("promote", "1", exit_code=2)
    near = f"has no model flights; there are: {made.name}"
    assert near in run("serve", "--port", "0", "--model", "models:/flights@champion", exit_code=1)


def test_the_service_takes_the_champion_by_its_alias(workplace: Path, made: Any, run: Any) -> None:
    with pytest.raises(Exception, match="no champion yet"):
        resolve(FLIGHTS, f"models:/{made.name}@champion")
    promote(run)
    served = resolve(FLIGHTS, f"models:/{made.name}@champion")
    assert served.version == "1"
    assert served.compute([served.example_row()])[0] == pytest.approx(served.note["example"]["prediction"])
    with pytest.raises(Exception, match="names no registered model"):
        resolve(FLIGHTS, "models:champion")


def listing(folder: Path) -> dict[str, int]:
    """Return each file of FOLDER and when it was written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


@pytest.mark.practice("model-registry", "reproducible-training")
def test_a_moved_project_reproduces_serves_and_registers_from_its_own_folder(
    workplace: Path, made: Any, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moved = workplace.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    assert resolve(FLIGHTS, f"models:/{made.name}/1").version == "1"
    assert "no difference" in run("reproduce", "1")
    assert run("train", "--set", "seed=1", "--json")["version"] == "2"
    _, client = tracking.open_store(FLIGHTS)
    for version in ("1", "2"):
        assert tracking.download(client, made.name, version).is_relative_to(moved)
    assert not workplace.exists()


@pytest.mark.practice("model-registry")
def test_a_copied_project_serves_and_registers_what_is_its_own(
    workplace: Path, made: Any, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy, before = shutil.copytree(workplace, tmp_path / "copy"), listing(workplace)
    monkeypatch.chdir(copy)
    _, client = tracking.open_store(FLIGHTS)
    with (tracking.download(client, made.name, "1") / "HANDOFF.md").open("a") as note:
        note.write("\nof the copy\n")
    assert run("train", "--set", "seed=1", "--json")["version"] == "2"
    assert listing(workplace) == before
    assert "of the copy" in (tracking.download(client, made.name, "1", checked=False) / "HANDOFF.md").read_text()
    monkeypatch.chdir(workplace)
    _, client = tracking.open_store(FLIGHTS)
    assert "of the copy" not in (tracking.download(client, made.name, "1") / "HANDOFF.md").read_text()


def test_a_store_of_a_server_or_of_a_project_within_this_one_keeps_its_places(
    workplace: Path, made: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree("conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    client = tracking.connect(FLIGHTS, f"sqlite:///{workplace.name}/mlflow.db")
    assert client.get_run(made.run_id).info.artifact_uri.startswith(f"{workplace}/mlruns/")
    other = tmp_path / "other"
    served = tmp_path / "served"
    for folder in (other, served):
        folder.mkdir()
    shutil.copytree(workplace / "mlruns", served / "mlruns")
    shutil.copy(workplace / "mlflow.db", served)
    monkeypatch.chdir(served)
    tracking.connect(FLIGHTS, "sqlite:///mlflow.db")
    shutil.copy("mlflow.db", other)
    monkeypatch.chdir(other)
    client = tracking.connect(FLIGHTS, "sqlite:///mlflow.db")
    assert client.get_run(made.run_id).info.artifact_uri.startswith(f"{served}/mlruns/")


def test_artifacts_that_are_gone_are_named(workplace: Path, made: Any, run: Any) -> None:
    shutil.rmtree("mlruns")
    assert "the artifacts of run " in run("reproduce", "1", exit_code=1)
    with pytest.raises(ProjectError, match=f"artifacts of {made.name} version 1 cannot be read"):
        resolve(FLIGHTS, f"models:/{made.name}/1")


@pytest.mark.practice("model-release-tracking")
def test_the_releases_stand_in_the_order_in_which_they_were_made(
    workplace: Path, made: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(run)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 86_400)
    run("train", "--set", "seed=1")
    promote(run, "2")
    assert [one["version"] for one in run("promote", "--history", "--json")] == ["2", "1"]
