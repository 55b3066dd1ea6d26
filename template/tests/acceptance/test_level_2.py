"""Each practice of level 2 that runs, once, by the command or the service as people use it, on the sample. The template's file."""

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import mlflow
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from nbclient import NotebookClient

PROJECT = Path(__file__).parents[2]
STAGES = ["validate", "split", "train", "evaluate", "register"]
REASON = ["--reason", "agreed with operations"]


def store(folder: Path) -> mlflow.MlflowClient:
    """Return a client of the store of runs and versions in FOLDER."""
    return mlflow.MlflowClient(f"sqlite:///{folder.resolve() / 'mlflow.db'}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Data: checked, and kept in versions.


@pytest.mark.practice("data-validation")
def test_good_rows_pass_and_bad_ones_train_nothing(
    workplace: Path, run: Any, data: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "expectations hold on" in run("validate")
    file = max((workplace / "data/raw").iterdir())
    half = workplace / f"half{file.suffix}"
    half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert f"fails on {half}" in run("validate", "--file", str(half), exit_code=3)
    before = [run("datasets", "--json"), run("runs", "--json")]
    rows = data.read("data/raw")
    doubled = shutil.copytree(workplace / "data/raw", workplace / "data/doubled")
    shutil.copy(doubled / file.name, doubled / f"{file.stem}-again{file.suffix}")
    # Three keys stand twice; by the file alone a key that data.read makes might tell them apart.
    monkeypatch.setattr(data, "read", lambda *_: pd.concat([rows, rows.tail(3)]))
    assert f"{data.KEY} must be unique" in run("train", "--data", "doubled", exit_code=3)
    assert [run("datasets", "--json"), run("runs", "--json")] == before
    assert ">must be unique</td>" in Path("data/pipeline/validation.html").read_text("utf-8")


@pytest.mark.practice("data-versioning", "multi-dataset-training")
def test_another_data_set_is_another_version_and_each_comes_back_as_it_was(
    workplace: Path, run: Any, result: dict[str, Any], data: ModuleType
) -> None:
    (workplace / "data/part").mkdir()
    for file in sorted((workplace / "data/raw").iterdir())[1:]:
        shutil.copy2(file, workplace / "data/part")
    other = run("train", "--data", "part", "--json")
    assert (other["data"].partition("@")[0], other["version"]) == ("part", "2")
    assert [one["version"] for one in run("datasets", "--json")] == [
        version.partition("@")[2] for version in (other["data"], result["data"])
    ]
    found = run("datasets", "--compare", result["data"], other["data"], "--json")
    assert found["rows"] == [len(data.read("data/raw")), len(data.read("data/part"))]
    for folder in (".dvc/cache", "data/snapshot"):
        shutil.rmtree(folder)  # what is left is the remote
    run("datasets", "--fetch", result["data"], "--to", "back")
    assert contents(Path("back")) == contents(Path("data/raw"))
    assert "never overwritten" in run("datasets", "--fetch", result["data"], "--to", "data/raw", exit_code=2)


# Training: one command, the same everywhere, repeatable.


@pytest.mark.practice("automated-training-pipeline", "pipeline-orchestration", "managed-environment")
def test_one_command_takes_raw_rows_to_a_version_and_does_only_what_is_stale(
    workplace: Path, run: Any, result: dict[str, Any], data: ModuleType
) -> None:
    assert (result["ran"], result["version"]) == (STAGES, "1")
    assert sum(result["rows"].values()) == len(data.read("data/raw"))
    again = run("train", "--json")
    assert (again["ran"], again["version"]) == ([], "1")
    changed = run("train", "--set", "seed=1001", "--json")
    assert (changed["ran"], changed["version"]) == (["train", "evaluate", "register"], "2")
    Path("uv.lock").unlink()
    assert "uv lock" in run("train", exit_code=1), "its environment could not be named"


@pytest.mark.practice("experiment-operations-symmetry", "job-specs-as-code", "modular-components")
def test_dvc_runs_the_stages_by_the_same_command(workplace: Path, run: Any, package: str) -> None:
    declared = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert list(declared) == ["ingest", *STAGES]
    for name, stage in declared.items():
        assert stage["cmd"] == f"python -m {package} train --stage {name}"
    [made] = [Path(out) for out in declared["split"]["outs"]]
    before = made.read_bytes()
    made.unlink()
    run("train", "--stage", "split")
    assert made.read_bytes() == before
    assert "there are: ingest" in run("train", "--stage", "fit", exit_code=2)


@pytest.mark.practice("sampled-ci-build", "train-in-ci")
def test_a_sample_is_an_experiment_that_is_compared_and_registers_nothing(
    workplace: Path, run: Any, result: dict[str, Any]
) -> None:
    part = run("train", "--sample", "0.2", "--report", "comment.md", "--json")
    assert part["version"] is None
    assert 0.1 < sum(part["rows"].values()) / sum(result["rows"].values()) < 0.3
    newest, _ = run("runs", "--json")
    assert (newest["run"], newest["tags"]["purpose"], newest["version"]) == (part["run_id"], "experiment", None)
    comment = Path("comment.md").read_text(encoding="utf-8")
    assert f"**{part['primary']}**" in comment and "nothing is registered" in comment


@pytest.mark.practice("same-cli-in-automation", "scheduled-training", "train-in-ci")
def test_the_workflows_train_by_the_command_that_a_person_types_and_release_nothing(run: Any) -> None:
    folder = PROJECT / ".github/workflows"
    if not folder.is_dir():
        pytest.skip("nothing trains by itself: this project answered `ci: none`")
    training = yaml.safe_load((folder / "train.yml").read_text(encoding="utf-8"))
    [schedule] = training[True]["schedule"]  # YAML reads the key `on` as true
    assert re.fullmatch(r"\d+ \d+ (\*|\d+) (\*|\d+) (\*|\d)", schedule["cron"])
    assert training["concurrency"] == {"group": "train", "cancel-in-progress": False}, "the queue"
    assert lines_of(training)[0].startswith("uv run nox -s run -- notify train")
    sample = yaml.safe_load((folder / "train-sample.yml").read_text(encoding="utf-8"))
    assert lines_of(sample)[0].startswith("uv run nox -s run -- train --sample")
    for file in folder.glob("*.yml"):
        released = [line for line in lines_of(yaml.safe_load(file.read_text(encoding="utf-8"))) if "promote" in line]
        assert not released, file.name


def lines_of(workflow: dict[Any, Any]) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job.get("steps", []) if "run" in step]


@pytest.mark.practice("reproducible-training")
def test_a_run_is_rebuilt_from_its_commit_and_data_whatever_was_edited_since(
    workplace: Path, run: Any, git: Any, package: str, result: dict[str, Any]
) -> None:
    max((workplace / "data/raw").iterdir()).unlink()
    file = workplace / f"src/{package}/features.py"
    file.write_text(file.read_text("utf-8") + "\nraise RuntimeError('edited since')\n", "utf-8")
    git("commit", "--quiet", "--all", "--message", "Edit")
    store(workplace).log_metric(result["run_id"], f"test_{result['primary']}", 0.123)  # as if measured elsewhere
    said = run("reproduce", "1", exit_code=3)
    assert f"test_{result['primary']} differs" in said
    assert f"the other {4 * len(result['metrics']['test']) - 1} metrics are equal" in said


@pytest.mark.practice("multi-framework-support")
def test_an_estimator_of_no_known_framework_is_trained_and_measured(
    workplace: Path, run: Any, data: ModuleType, model: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = model.CLASSES if data.PROBLEM == "multiclass" else None

    class Means:
        """What the training rows with the same inputs came to, on the mean; of other inputs all of them."""

        table: dict[str, list[float]]

        def fit(self, inputs: pd.DataFrame, target: pd.Series) -> Self:
            truth = pd.get_dummies(target)[classes] if classes else target.to_frame()
            means = truth.astype(float).groupby(alike(inputs)).mean()
            self.table = dict(zip(means.index, means.to_numpy().tolist(), strict=True))
            self.table["other"] = truth.astype(float).mean().tolist()
            return self

        def predict(self, inputs: pd.DataFrame) -> np.ndarray:
            means = np.array([self.table.get(key, self.table["other"]) for key in alike(inputs)])
            return means if classes else means[:, 0]

    def alike(inputs: pd.DataFrame) -> pd.Series:
        return inputs.map(str).agg("|".join, axis=1)

    def load(file: Path) -> Means:
        made = Means()
        made.table = json.loads(file.read_text(encoding="utf-8"))
        return made

    monkeypatch.setattr(model, "make", lambda *_, **__: Means())
    monkeypatch.setattr(model, "predict", lambda made, inputs: made.predict(inputs))
    monkeypatch.setattr(model, "save", lambda made, file: file.write_text(json.dumps(made.table), encoding="utf-8"))
    monkeypatch.setattr(model, "load", load)
    run("train", "--until", "evaluate", "--set", "seed=1002")
    measured = json.loads(Path("models/candidate/evaluation/metrics.json").read_text(encoding="utf-8"))["metrics"]
    better = max if model.HIGHER_IS_BETTER[model.PRIMARY] else min
    values = [measured[part][model.PRIMARY] for part in ("train", "baseline")]
    assert better(values) == values[0] != values[1]


# The trail: runs, versions, releases.


@pytest.mark.practice("asset-capture", "experiment-tracking", "git-provenance-on-runs", "metadata-store")
@pytest.mark.practice("managed-environment", "job-specs-as-code", "naming-and-tagging")
def test_a_run_names_its_data_code_environment_and_settings_and_keeps_its_files(
    workplace: Path, run: Any, git: Any, result: dict[str, Any], data: ModuleType
) -> None:
    [kept] = run("runs", "--json")
    tags = kept["tags"]
    assert (kept["run"], kept["version"], kept["status"]) == (result["run_id"], "1", "FINISHED")
    assert (tags["data"], tags["commit"], tags["dirty"]) == (result["data"], git("rev-parse", "HEAD"), "false")
    assert (tags["by"], tags["purpose"], len(tags["lock"])) == ("ada@example.org", "training", 64)
    for part, metrics in result["metrics"].items():
        assert {name: kept["metrics"][f"{part}_{name}"] for name in metrics} == pytest.approx(metrics)
    client = store(workplace)
    [used] = client.get_run(result["run_id"]).inputs.dataset_inputs
    assert json.loads(used.dataset.profile)["rows"] == len(data.read("data/raw"))
    files = {item.path for place in ("", "evaluation") for item in client.list_artifacts(result["run_id"], place)}
    assert {"settings.yml", "uv.lock", "validation.html", "evaluation/HANDOFF.md", "evaluation/importance.png"} < files
    settings = yaml.safe_load(Path(client.download_artifacts(result["run_id"], "settings.yml")).read_text("utf-8"))
    assert settings["seed"] == int(kept["parameters"]["seed"])

    assert "owner" in run("train", "--set", "tags.owner=", exit_code=1)
    assert len(run("runs", "--json")) == 1, "a run without a required tag is refused"
    retrained = run("train", "--set", "tags.purpose=retraining", "--set", "tags.ticket=ML-12", "--json")
    other = client.get_run(retrained["run_id"])
    assert other.data.tags["ticket"] == "ML-12"
    assert client.get_experiment(other.info.experiment_id).name.endswith("/retraining")


@pytest.mark.practice("model-registry", "model-registry-contents", "model-versioning", "shared-train-serve-transforms")
def test_a_version_holds_all_it_needs_and_answers_raw_rows_as_at_its_training(
    workplace: Path,
    run: Any,
    serve: Any,
    result: dict[str, Any],
    data: ModuleType,
    features: ModuleType,
    model: ModuleType,
    close: Any,
) -> None:
    name, client = result["model"], store(workplace)
    version = client.get_model_version(name, "1")
    assert version.run_id == result["run_id"] and version.tags["family"] in model.SEARCH_SPACE
    uri = client.get_model_version_download_uri(name, "1")
    folder = Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=f"sqlite:///{workplace / 'mlflow.db'}"))
    signature = mlflow.models.Model.load(str(folder)).signature
    assert signature.inputs.input_names() == features.COLUMNS
    assert "pandas==" in (folder / "requirements.txt").read_text("utf-8")
    assert [*folder.rglob("HANDOFF.md")]
    assert not [file for file in folder.rglob("*") if file.suffix in (".pkl", ".pickle", ".joblib", ".cloudpickle")]

    rows = data.read("data/raw").tail(20)[features.COLUMNS].reset_index(drop=True)
    fitted = model.load(Path("models/candidate/fitted/model.skops"))
    predicted = np.asarray(model.predict(fitted, features.build(rows)))
    labels = sorted(data.SCHEMA[data.TARGET]["values"]) if predicted.ndim > 1 else []  # of several classes
    assert signature.outputs.input_names() == [model.OUTPUT, *(f"{model.OUTPUT}_{label}" for label in labels)]
    answers = [labels[at] for at in predicted.argmax(axis=1)] if labels else list(predicted)
    expected = close(answers)
    assert list(mlflow.pyfunc.load_model(str(folder)).predict(rows)[model.OUTPUT]) == expected
    run("promote", "1", *REASON)
    with serve(workplace, "--model", f"models:/{name}@champion") as (service, _):
        records = json.loads(rows.to_json(orient="records", date_format="iso", double_precision=15))
        answer = service.post("/predict", json=records)
        assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")
        assert answer.json()["predictions"] == expected


@pytest.mark.practice("low-friction-manual-release", "model-registry-aliases", "model-release-tracking")
@pytest.mark.practice("role-definitions", "naming-and-tagging")
def test_a_version_is_released_by_who_may_when_it_meets_the_criteria_and_it_is_kept_why(
    workplace: Path, run: Any, git: Any, configure: Any, result: dict[str, Any], model: ModuleType
) -> None:
    def aliases() -> dict[str, str]:
        return {name: one["version"] for one in run("runs", "--json") for name in one["aliases"]}

    assert aliases() == {"challenger": "1"}, "training alone releases nothing"
    configure("success", metrics={model.PRIMARY: {"margin": 99}})
    assert model.PRIMARY in run("promote", "1", *REASON, exit_code=3)
    configure("success", metrics={model.PRIMARY: {"margin": 0}})
    configure("roles", roles={"engineer": {"people": ["grace@example.org"], "may": ["promote"]}})
    assert "ada@example.org may not promote" in run("promote", "1", *REASON, exit_code=3)
    store(workplace).delete_tag(result["run_id"], "owner")
    git("config", "user.email", "grace@example.org")
    assert "is not what the last commit says" in run("promote", "1", *REASON, exit_code=1), "an edit lets nobody in"
    git("commit", "--quiet", "--all", "--message", "Grace promotes")
    assert "owner" in run("promote", "1", *REASON, exit_code=3)
    assert aliases() == {"challenger": "1"} and run("promote", "--history", "--json") == []
    store(workplace).set_tag(result["run_id"], "owner", "data-science")
    assert "version 1 is champion" in run("promote", "1", *REASON)
    [release] = run("promote", "--history", "--json")
    assert (release["version"], release["before"]) == ("1", "none")
    assert (release["by"], release["reason"]) == ("grace@example.org", REASON[1])
    assert aliases() == {"challenger": "1", "champion": "1"}


@pytest.mark.practice("baseline-comparison", "continuous-experimentation", "run-history-comparison")
def test_a_new_idea_is_compared_with_baseline_champion_and_earlier_runs(
    workplace: Path, run: Any, result: dict[str, Any]
) -> None:
    assert result["champion"] is None and set(result["metrics"]["baseline"]) == set(result["metrics"]["test"])
    run("promote", "1", *REASON)
    idea = run("train", "--set", "seed=1001", "--report", "comment.md", "--json")
    assert idea["champion"]["version"] == "1"
    assert idea["champion"]["metrics"] == pytest.approx(result["metrics"]["test"])
    comment = Path("comment.md").read_text(encoding="utf-8")
    assert f"**{idea['primary']}**" in comment and f"{result['metrics']['test'][idea['primary']]:.4f}" in comment
    newest, oldest = run("runs", "--json")
    assert (newest["version"], oldest["version"]) == ("2", "1")
    assert (newest["aliases"], oldest["aliases"]) == (["challenger"], ["champion"])
    [line] = [
        line for line in run("runs", "--compare", "1", newest["run"][:8]).splitlines() if line.startswith("seed ")
    ]
    assert line.split()[-1] == "1001"
    assert "must be one" in run("runs", "--compare", "nothing", exit_code=1)


@pytest.mark.practice("scoring-script-tests")
def test_score_predicts_a_file_as_the_note_says_and_names_what_it_cannot_score(
    handed_over: Path, run: Any, close: Any
) -> None:
    note = json.loads(Path("models/HANDOFF.md").read_text("utf-8").partition("```json")[2].partition("```")[0])
    row = note["example"]["row"]
    pd.DataFrame([row] * 2).to_csv("rows.csv", index=False)
    run("score", "rows.csv", "--output", "scored.parquet")
    predicted = pd.read_parquet("scored.parquet")[note["output"]]
    assert list(predicted) == close([note["example"]["prediction"]] * 2)
    for name, rule in note["columns"].items():
        wrong = {"number": ["far"], "time": ["yesterday"], "boolean": ["perhaps"]}.get(rule["type"], [])
        for value in [*wrong, *([] if rule.get("null") else [""])]:
            pd.DataFrame([row, row | {name: value}]).to_csv("rows.csv", index=False)
            assert f"row 1: {name} is " in run("score", "rows.csv", exit_code=1)
    pd.DataFrame([row]).drop(columns=next(iter(row))).to_csv("rows.csv", index=False)
    assert "is missing" in run("score", "rows.csv", exit_code=1)


@pytest.mark.practice("pipeline-failure-alerts")
def test_a_failing_command_tells_the_operators_and_one_that_works_tells_nobody(
    workdir: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = []

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NOTIFY_URL", f"json://127.0.0.1:{server.server_port}/hook")
        run("notify", "maturity", "--list")
        assert messages == []
        Path(".copier-answers.yml").unlink()
        assert "no .copier-answers.yml" in run("notify", "maturity", "--list", exit_code=1)
        server.shutdown()
    [message] = messages
    assert "maturity: exit code 1" in message["title"] and message["type"] == "failure"
    assert "no .copier-answers.yml" in message["message"]


# Search, on this machine and on several.


@pytest.mark.practice("automl", "hyperparameter-tuning")
def test_tune_tries_every_family_and_trains_the_best_by_the_same_pipeline(
    workplace: Path, run: Any, model: ModuleType
) -> None:
    words = ["tune", "--sample", "0.3", "--trials", str(len(model.SEARCH_SPACE))]
    said = run(*words)
    trials = re.findall(r"^trial \d+ of \d+: (\S+)", said, re.MULTILINE)
    assert sorted(trials) == sorted(model.SEARCH_SPACE)
    found = run(*words, "--no-train", "--json")  # it goes on where it was, and no trial is left
    better = max if model.HIGHER_IS_BETTER[model.PRIMARY] else min
    assert found["value"] == better(found["value"], found["simple"]["value"], found["baseline"])
    trained, first = [one for one in run("runs", "--json") if f"test_{model.PRIMARY}" in one["metrics"]]
    assert (trained["tags"]["family"], trained["tags"]["purpose"]) == (found["family"], "experiment")
    assert first["version"] == "1" and trained["version"] is None, "of a sample nothing is registered"
    assert "must be one of" in run("tune", "--family", "magic", exit_code=2)


@pytest.mark.practice("early-termination")
def test_a_trial_that_cannot_win_ends_early_and_one_that_fails_does_not_end_the_search(
    workplace: Path, run: Any, configure: Any, model: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("compute", together=1, workers=1)  # one worker computes in this process, where `make` is another
    whole = model.make

    def make(family: str = "good", seed: int = 0, case: str = "good") -> Any:
        if family == "failing":
            raise ValueError("it diverges")
        made = whole(model.SIMPLE, seed)
        if case == "hopeless":  # it learns from other rows' targets
            fit = made.fit
            made.fit = lambda inputs, target: fit(inputs, target.sample(frac=1, random_state=1).set_axis(target.index))
        return made

    monkeypatch.setattr(model, "SEARCH_SPACE", {model.SIMPLE: {"case": ["good", "hopeless"]}, "failing": {}})
    monkeypatch.setattr(model, "make", make)
    # of the first ten trials the seed alone decides what is tried: this one tries what is good often enough to compare with
    found = run("tune", "--sample", "0.3", "--set", "seed=0", "--trials", "12", "--no-train", "--json")
    assert found["family"] == model.SIMPLE
    assert found["failed"] >= 1 and found["stopped_early"] >= 1


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Iterator[str]:
    """Give the address of a scheduler with a worker, each a process, speaking TCP."""
    told, processes = folder / "scheduler.json", []
    options = ["--host", "127.0.0.1", "--no-dashboard"]
    try:
        for words in (
            ["scheduler", "--port", "0", "--scheduler-file", str(told), *options],
            ["worker", "--scheduler-file", str(told), "--nthreads", "1", "--no-nanny", *options],
        ):
            with (folder / f"{words[0]}.log").open("w") as log:
                command = [sys.executable, "-m", "dask", *words]
                processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))
            while not told.is_file() or not told.read_text("utf-8"):
                assert processes[0].poll() is None, (folder / "scheduler.log").read_text()
                time.sleep(0.05)
        yield json.loads(told.read_text("utf-8"))["address"]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.mark.practice("distributed-training", "managed-compute")
def test_a_cluster_finds_the_same_as_this_machine_and_one_that_is_away_is_named(
    workplace: Path, run: Any, configure: Any, data: ModuleType, model: ModuleType, tmp_path: Path
) -> None:
    share = str(min(1.0, max(0.15, 750 / len(data.read("data/raw")))))  # of a small table more, or a part lacks a class
    words = ["tune", "--sample", share, "--trials", "2", "--no-train", "--family", model.SIMPLE, "--json"]
    with dask_cluster(tmp_path) as address:
        local = run(*words)
        Path("models/tuning.db").unlink()
        configure("compute", backend="dask", address=address)
        spread = run(*words)
    outcome = ("family", "parameters", "value", "trials", "stopped_early")
    assert [spread[key] for key in outcome] == [local[key] for key in outcome]
    configure("compute", backend="dask", address="tcp://127.0.0.1:9", timeout_s=1)
    assert "no Dask cluster" in run("tune", "--sample", share, "--trials", "1", exit_code=1)


# People look.


@pytest.mark.practice("tracked-notebooks", "manual-model-analysis")
def test_the_analysis_runs_top_to_bottom_and_is_tracked(workplace: Path) -> None:
    notebook = nbformat.read("notebooks/analyse.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": os.fspath(workplace)}}).execute()
    client = store(workplace)
    [place] = [one for one in client.search_experiments() if one.name.endswith("/exploration")]
    [kept] = client.search_runs([place.experiment_id])
    assert kept.info.status == "FINISHED"
    assert {"runs.csv", "slices.csv"} <= {file.path for file in client.list_artifacts(kept.info.run_id)}
