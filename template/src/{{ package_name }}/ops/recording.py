"""What is recorded of a run, what a registered version carries, and what the champion makes of new rows."""

import hashlib
import json
import re
import shutil
import tempfile
import tomllib
from importlib.metadata import version as installed
from pathlib import Path
from platform import python_version
from typing import Any

import pandas as pd

from .. import data, features, model
from . import datasets, pipeline
from .handoff import as_rows, read_note
from .pipeline import EVALUATION, FITTED, SETTINGS, SPLIT, Training, git, read_json
from .tracking import FILES, aliases, connect, contents, digest_of, experiment, happened, library, open_version

TYPES = {"text": "string", "category": "string", "number": "double", "time": "datetime", "boolean": "boolean"}


def record(chosen: Training) -> dict[str, Any]:
    """Track the run at hand and register its model unless it is an experiment; return run, model, version and dirty.

    What a killed run recorded is found again when it is whole, and marked as killed when it is not. A run with
    uncommitted changes is recorded anew once they are committed.
    """
    datasets.publish(pipeline.data_version())
    client = connect(chosen.tracking_uri)
    worth = json.dumps(read_json(EVALUATION / "metrics.json")["metrics"])
    made_of = [read_note(EVALUATION / "HANDOFF.md")["sha256"], pipeline.data_version(), worth]
    candidate = hashlib.sha256("".join(made_of).encode()).hexdigest()
    place = experiment(client, chosen.tags["purpose"])
    done = None
    for run in client.search_runs([place], f"tags.candidate = '{candidate}'"):
        if run.info.status == "FINISHED" and (run.data.tags["dirty"] == "false" or pipeline.dirty()):
            done = run
        elif run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")
    run = done or track(client, chosen, place, candidate)
    result = {"run_id": run.info.run_id, "model": chosen.model, "version": None}
    result["dirty"] = run.data.tags["dirty"] == "true"
    if chosen.tags["purpose"] != "experiment":
        result["version"] = register(client, chosen.model, run)
    return result


def track(client: Any, chosen: Training, place: str, candidate: str) -> Any:
    """Return the finished run that holds all that the candidate was made of."""
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, InputTag

    fit, cut, worth = read_json(FITTED / "fit.json"), read_json(SPLIT), read_json(EVALUATION / "metrics.json")
    name, version = chosen.data.partition("@")[0], pipeline.data_version()
    tags = {**chosen.tags, "candidate": candidate, "data": f"{name}@{version}", "family": chosen.family}
    tags |= {"primary": worth["primary"], **provenance()}
    source = json.dumps({"remote": "dvc", "md5": f"{version}.dir"})
    columns = json.dumps({column: facts["type"] for column, facts in cut["profile"]["columns"].items()})
    dataset = Dataset(name, version, "dvc", source, columns, json.dumps(cut["profile"]))
    with mlflow.start_run(experiment_id=place, run_name=f"{chosen.family}-{candidate[:6]}", tags=tags) as run:
        client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        settled = chosen.model_dump(exclude={"tags", "required_tags", "tracking_uri", "parameters"})
        mlflow.log_params({**settled, **fit["parameters"], "trained_before": cut["cuts"][0]})
        mlflow.log_metrics(
            {f"{part}_{key}": value for part, of in worth["metrics"].items() for key, value in of.items()}
        )
        mlflow.log_metrics({"fit_seconds": fit["seconds"], **{f"{part}_rows": n for part, n in cut["rows"].items()}})
        for file in (SETTINGS, SPLIT, Path("uv.lock"), *Path("data/pipeline").glob("validation.*")):
            mlflow.log_artifact(str(file))
        mlflow.log_artifacts(str(EVALUATION), "evaluation")
        log_model()
    return client.get_run(run.info.run_id)


def log_model() -> None:
    """Log the model file and its note with the package's code, so that raw rows go in wherever it is opened."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    note, package = read_note(EVALUATION / "HANDOFF.md"), Path(data.__file__).parent
    inputs: list[Any] = [
        ColSpec(TYPES[rule["type"]], name, not rule.get("null")) for name, rule in note["columns"].items()
    ]
    example = as_rows(pd.DataFrame([note["example"]["row"]]), note["columns"])
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "code"
        shutil.copytree(package, code, ignore=shutil.ignore_patterns("__pycache__"))
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(package / "ops/registered.py"),
            artifacts={
                "model": str(FITTED / note["model_file"]),
                "note": str(EVALUATION / "HANDOFF.md"),
                "code": str(code),
            },
            signature=ModelSignature(Schema(inputs), Schema([ColSpec("double", note["output"])])),
            input_example=example,
            pip_requirements=requirements(),
        )


def register(client: Any, name: str, run: Any) -> str:
    """Return the version of model NAME that RUN made, registered in one step with its tags, as the challenger."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(
            name, description=f"Predicts {model.OUTPUT} from {len(features.COLUMNS)} columns."
        )
    made = client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")
    if not made:
        tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        [logged] = run.outputs.model_outputs
        folder = library().artifacts.download_artifacts(f"models:/{logged.model_id}", tracking_uri=client.tracking_uri)
        tags[FILES] = digest_of(contents(Path(folder)))
        made = [
            client.create_model_version(
                name, f"models:/{logged.model_id}", run.info.run_id, tags, model_id=logged.model_id
            )
        ]
    version, tags = str(made[0].version), run.data.tags
    if aliases(client, name).get("challenger") != version:
        reason = f"trained for {tags['purpose']}"
        happened("register", client=client, model=name, version=version, by=tags["by"], reason=reason)
        client.set_registered_model_alias(name, "challenger", version)
    return version


def measure_champion(chosen: Training, rows: pd.DataFrame) -> dict[str, Any] | None:
    """Return the champion's version and its metrics on ROWS, prepared by the code it was trained with; None without one."""
    client = connect(chosen.tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        made = client.get_model_version_by_alias(chosen.model, "champion")
    except MlflowException:
        return None
    version = str(made.version)
    try:
        champion = open_version(client, chosen.model, version)
        predicted = champion.predict(rows[champion.metadata.get_input_schema().input_names()])
    except Exception as error:  # noqa: BLE001 - of an older version's code, on columns that may be gone: said, never hidden
        return {"version": version, "error": f"{type(error).__name__}: {error}"}
    learned_until = client.get_run(made.run_id).data.params.get("trained_before", "")
    return {
        "version": version,
        "metrics": model.metrics(rows[data.TARGET], predicted.iloc[:, 0].to_numpy()),
        "saw_rows": learned_until > str(rows[data.TIME].min()),  # it was trained on some of them: flattering
    }


def provenance() -> dict[str, str]:
    """Return who made this run, and where its code and environment come from."""
    origin = re.sub(r"//[^/@]+@", "//", git("remote", "get-url", "origin"))  # without a password
    return {
        "by": git("config", "user.email") or "unknown",
        "commit": git("rev-parse", "HEAD"),
        "dirty": str(pipeline.dirty()).lower(),
        "repository": origin or "none",
        "lock": hashlib.sha256(Path("uv.lock").read_bytes()).hexdigest(),
        "python": python_version(),
    }


def requirements() -> list[str]:
    """Return what a version needs to run, as installed here: the project's own dependencies and MLflow."""
    listed = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = [re.match(r"[\w.-]+", line) for line in listed]
    return [f"{name}=={installed(name)}" for name in (*(found[0] for found in names if found), "mlflow")]
