"""What is recorded of a run, what a registered version carries, and what the champion makes of new rows."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
import tempfile
import tomllib
from importlib.metadata import version as installed
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..core import errors, people, repository
from ..core.errors import ProjectError
from ..core.files import read_json
from ..core.project import Project
from ..core.redaction import redacted
from ..core.repository import git
from ..data import rows, split, versions
from ..data.problem import problem_of
from ..data.rows import as_predictions, probability_of, read_note, typed
from . import pipeline, tracking
from .pipeline import EVALUATION, FITTED, SETTINGS, SPLIT, Training
from .tracking import FILES, aliases, announce, connect, contents, digest_of, experiment, is_local, open_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

NOT_CARRIED = ("__main__.py", "commands", "gates")  # of the user's package: no part in an answer
RUNTIME = "_runtime"  # folder of the carried code: what it needs of the runtime
TYPES = {"text": "string", "category": "string", "number": "double", "time": "datetime", "boolean": "boolean"}


def record(project: Project, chosen: Training) -> dict[str, Any]:
    """Track the run at hand and register its model unless it is an experiment; return run, model, version and dirty.

    What a killed run recorded is found again when it is whole, and marked as killed when it is not. A run with
    uncommitted changes is recorded anew once they are committed.
    """
    versions.publish(project, pipeline.data_version(project))
    client = connect(project, chosen.tracking_uri)
    worth = json.dumps(read_json(project.path(EVALUATION) / "metrics.json")["metrics"])
    made_of = [read_note(project.path(EVALUATION) / "HANDOFF.md")["sha256"], pipeline.data_version(project), worth]
    candidate = hashlib.sha256("".join(made_of).encode()).hexdigest()
    place = experiment(project, client, chosen.tags["purpose"])
    done = None
    for run in client.search_runs([place], f"tags.candidate = '{candidate}'"):
        if run.info.status == "FINISHED" and (run.data.tags["dirty"] == "false" or repository.dirty(project)):
            done = run
        elif run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")
    run = done or track(project, client, chosen, place, candidate)
    result = {"run_id": run.info.run_id, "model": chosen.model, "version": None}
    result["dirty"] = run.data.tags["dirty"] == "true"
    if chosen.tags["purpose"] != "experiment":
        result["version"] = register(project, client, chosen.model, run)
    return result


def track(project: Project, client: MlflowClient, chosen: Training, place: str, candidate: str) -> Run:
    """Return the finished run that holds all that the candidate was made of; one that is cut off stays unfinished."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput

    evaluation, fitted = project.path(EVALUATION), project.path(FITTED)
    fit, cut, worth = (
        read_json(fitted / "fit.json"),
        read_json(project.path(SPLIT)),
        read_json(evaluation / "metrics.json"),
    )
    name, version = chosen.data.partition("@")[0], pipeline.data_version(project)
    tags = {**chosen.tags, "candidate": candidate, "data": f"{name}@{version}", "family": chosen.family}
    tags |= {"primary": worth["primary"], **provenance(project)}
    source = json.dumps({"remote": "dvc", "md5": f"{version}.dir"})
    columns = json.dumps({column: facts["type"] for column, facts in cut["profile"]["columns"].items()})
    dataset = Dataset(name, version, "dvc", source, columns, json.dumps(cut["profile"]))
    run_id = client.create_run(place, tags=redacted(tags), run_name=f"{chosen.family}-{candidate[:6]}").info.run_id
    try:
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        settings = chosen.model_dump(exclude={"tags", "required_tags", "tracking_uri", "parameters"})
        settings |= {"trained_before": trained_before(project, cut)}
        for key, value in {**settings, **fit["parameters"]}.items():
            client.log_param(run_id, key, redacted(value))
        measured = {f"{part}_{key}": value for part, of in worth["metrics"].items() for key, value in of.items()}
        measured |= {"fit_seconds": fit["seconds"], **{f"{part}_rows": n for part, n in cut["rows"].items()}}
        for name, facts in worth.get("classes", {}).get("each", {}).items():
            plain = re.sub(r"[^\w. :/-]", "_", name)
            measured |= {f"test_{key}/{plain}": value for key, value in facts.items() if value is not None}
        for key, value in measured.items():
            client.log_metric(run_id, key, value)
        reports = project.path("data/pipeline").glob("validation.*")
        for file in (project.path(SETTINGS), project.path(SPLIT), project.path("uv.lock"), *reports):
            client.log_artifact(run_id, str(file))
        client.log_artifacts(run_id, str(evaluation), "evaluation")
        logged = client.create_logged_model(place, name="model", source_run_id=run_id)
        with tempfile.TemporaryDirectory() as folder:
            client.log_model_artifacts(logged.model_id, str(save_model(project, logged, Path(folder))))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    return client.get_run(run_id)


def save_model(project: Project, logged: LoggedModel, folder: Path) -> Path:
    """Return a folder in FOLDER with the model file, its note and the code that they need: raw rows go in wherever it is opened.

    It names LOGGED and its run, so that whoever opens it with MLflow alone sees where it came from. The code is the user's
    package as it is now and, of the runtime, what turns any rows into those of the note.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    evaluation = project.path(EVALUATION)
    note, code, saved = read_note(evaluation / "HANDOFF.md"), folder / "code", folder / "model"
    inputs: list[Any] = [
        ColSpec(TYPES[rule["type"]], name, not rule.get("null")) for name, rule in note["columns"].items()
    ]
    labels = note.get("classes", [])
    outputs: list[Any] = [ColSpec(label_type(labels) if labels else "double", note["output"])]
    outputs += [ColSpec("double", probability_of(note["output"], name)) for name in labels]
    example = typed(pd.DataFrame([note["example"]["row"]]), note["columns"])
    shutil.copytree(project.source, code, ignore=shutil.ignore_patterns("__pycache__", *NOT_CARRIED))
    for module in (rows, errors):
        inside = code / RUNTIME / Path(*module.__name__.split(".")[1:]).with_suffix(".py")
        inside.parent.mkdir(parents=True)
        inside.write_text(inspect.getsource(module), encoding="utf-8")
    mlflow.pyfunc.save_model(
        path=str(saved),
        mlflow_model=Model(run_id=logged.source_run_id, model_uuid=logged.model_id, model_id=logged.model_id),
        python_model=str(Path(__file__).with_name("registered.py")),
        artifacts={
            "model": str(project.path(FITTED) / note["model_file"]),
            "note": str(evaluation / "HANDOFF.md"),
            "code": str(code),
        },
        signature=ModelSignature(Schema(inputs), Schema(outputs)),
        input_example=example,
        pip_requirements=requirements(project),
    )
    return saved


def label_type(labels: list[Any]) -> str:
    """Return MLflow's type of LABELS."""
    return "string" if all(isinstance(label, str) for label in labels) else "double"


def register(project: Project, client: MlflowClient, name: str, run: Any) -> str:
    """Return the version of model NAME that RUN made, registered in one step with its tags, as the challenger."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(
            name, description=f"Predicts {project.model.OUTPUT} from {len(project.features.COLUMNS)} columns."
        )
    made = client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")
    if not made:
        tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        [made_model] = run.outputs.model_outputs
        logged = client.get_logged_model(made_model.model_id)
        folder = tracking.library().artifacts.download_artifacts(
            logged.artifact_location, tracking_uri=client.tracking_uri
        )
        tags[FILES] = digest_of(contents(Path(folder)))
        # Of a file MLflow would look models:/ID up in the store of the process, not in this client's.
        source = logged.artifact_location if is_local(client) else f"models:/{logged.model_id}"
        made = [client.create_model_version(name, source, run.info.run_id, tags, model_id=logged.model_id)]
    version, tags = str(made[0].version), run.data.tags
    if aliases(client, name).get("challenger") != version:
        reason = f"trained for {tags['purpose']}"
        announce(project, "register", client=client, model=name, version=version, by=tags["by"], reason=reason)
        client.set_registered_model_alias(name, "challenger", version)
    return version


def trained_before(project: Project, cut: dict[str, Any]) -> str:
    """Return the moment that all rows of training are from before; without a time all of them had come by now."""
    by_time = split.read(project, cut).by_time
    return cut["cuts"][0] if by_time else str(pd.Timestamp.now("UTC").tz_localize(None).floor("s"))


def split_of(project: Project, client: MlflowClient, run: Run) -> split.Split:
    """Return how the rows of RUN were split."""
    return split.read(project, json.loads(tracking.read_artifact(client, run, "split.json")))


def measure_champion(project: Project, chosen: Training, splits: dict[str, pd.DataFrame]) -> dict[str, Any] | None:
    """Return the champion's version and its metrics on the test of SPLITS, prepared by the code it was trained with.

    None without one.
    """
    client, held_out = connect(project, chosen.tracking_uri), splits["test"]
    from mlflow.exceptions import MlflowException

    try:
        made = client.get_model_version_by_alias(chosen.model, "champion")
    except MlflowException:
        return None
    version = str(made.version)
    try:
        champion = open_version(client, chosen.model, version)
        if (known := champion.note.get("classes", [])) != problem_of(project).classes:
            raise ProjectError(f"it chooses between {', '.join(map(str, known)) or 'no classes'}")
        predicted = as_predictions(champion.note, champion.predict(None, held_out[list(champion.note["columns"])]))
        learned_by = split_of(project, client, client.get_run(made.run_id))
    except Exception as error:  # noqa: BLE001 - of an older version's code, on columns that may be gone: said, never hidden
        return {"version": version, "error": f"{type(error).__name__}: {error}"}
    return {
        "version": version,
        "metrics": project.model.metrics(held_out[project.data.TARGET], predicted),
        # it was trained on some of them: flattering
        "saw_rows": not learned_by.unseen(held_out, *splits.values()).all(),
    }


def provenance(project: Project) -> dict[str, str]:
    """Return who made this run, and where its code and environment come from."""
    origin = re.sub(r"//[^/@]+@", "//", git(project, "remote", "get-url", "origin"))  # without a password
    return {
        "by": people.current(project) or people.UNKNOWN,
        "commit": git(project, "rev-parse", "HEAD"),
        "dirty": str(repository.dirty(project)).lower(),
        "repository": origin or "none",
        "lock": hashlib.sha256(project.path("uv.lock").read_bytes()).hexdigest(),
        "python": python_version(),
    }


def requirements(project: Project) -> list[str]:
    """Return what a version needs to run, as installed here: the project's own dependencies and MLflow."""
    listed = tomllib.loads(project.path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = [re.match(r"[\w.-]+", line) for line in listed]
    return [f"{name}=={installed(name)}" for name in (*(found[0] for found in names if found), "mlflow")]
