"""The store of runs, versions and releases, in MLflow: how it is opened, and how things in it are found."""

import contextlib
import importlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import ProjectError, settings, store
from .pipeline import Training


def library() -> Any:
    """Return MLflow, imported on first use as it takes seconds, its telemetry off."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # a command's JSON alone stands there
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own 7 take minutes to say "not there"
    import mlflow.pyfunc

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def connect(uri: str, named_in: str = "conf/training.yml, or MLFLOW_TRACKING_URI") -> Any:
    """Return an MLflow client of the store at URI (tracking_uri in NAMED_IN), which is made when it is new."""
    named, uri, mlflow = uri, absolute(settings.expand(uri)), library()
    given = os.environ.pop("MLFLOW_TRACKING_URI", None)
    mlflow.set_tracking_uri(uri)
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it: the next command here would take it for a wish
    os.environ |= {"MLFLOW_TRACKING_URI": given} if given else {}
    try:
        client = mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)  # a server is not asked before
    except (mlflow.MlflowException, OSError) as error:
        raise ProjectError(
            f"the store of runs cannot be opened: {settings.hide(str(error), named)}; mend tracking_uri in {named_in}"
        ) from error
    return client


def absolute(uri: str) -> str:
    """Return the address of an SQLite store as it is called from any folder."""
    scheme, marked, file = uri.partition(":///")
    return f"{scheme}:///{Path(file).resolve()}" if marked and scheme == "sqlite" else uri


def open_store() -> tuple[Training, Any]:
    """Return conf/training.yml and a client of the store that it, or MLFLOW_TRACKING_URI, names."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    chosen = settings.read("training", Training, {"tracking_uri": given} if given else None)
    return chosen, connect(chosen.tracking_uri)


def experiment(client: Any, purpose: str) -> str:
    """Return the id of the experiment WORKSPACE/PURPOSE, made when it is new: what serves another purpose stays apart."""
    name = f"{store.read().workspace}/{purpose}"
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)


def search(client: Any, filter_string: str = "", limit: int = 50_000, releases: bool = False) -> list[Any]:
    """Return this workspace's training runs, or its releases, newest first."""
    workspace = store.read().workspace
    places = client.search_experiments(filter_string=f"name LIKE '{workspace}/%'")
    ids = [one.experiment_id for one in places if (one.name == f"{workspace}/release") == releases]
    found: list[Any] = []
    token = None
    while ids and len(found) < limit:
        page = client.search_runs(ids, filter_string, max_results=min(1000, limit), page_token=token)
        found += page
        token = page.token
        if not token:
            break
    return found[:limit]


def find(client: Any, chosen: Training, text: str) -> Any:
    """Return the run that TEXT names: the start of its id, or the number of the version that it made."""
    if text.isdigit() and len(text) < 6:
        return client.get_run(find_version(client, chosen.model, text).run_id)
    fits = [run for run in search(client) if text and run.info.run_id.startswith(text)]
    if len(fits) != 1:
        raise ProjectError(f"{len(fits)} runs begin with {text}, must be one: `runs` lists them")
    return fits[0]


def find_version(client: Any, name: str, version: str) -> Any:
    """Return version VERSION of model NAME."""
    made = client.search_model_versions(f"name = '{name}'")
    for one in made:
        if str(one.version) == version:
            return one
    numbers = sorted(int(one.version) for one in made)
    raise ProjectError(f"{name} has no version {version}; there are: {', '.join(map(str, numbers)) or 'none yet'}")


def aliases(client: Any, name: str) -> dict[str, str]:
    """Return the version behind each alias of model NAME, such as {"champion": "4"}."""
    found = [model for model in client.search_registered_models(f"name = '{name}'") if model.name == name]
    return {alias: str(version) for alias, version in found[0].aliases.items()} if found else {}


def champion(chosen: Training) -> str | None:
    """Return the version that is champion now, None without one.

    An SQLite store is asked directly: to import MLflow takes longer than all else of a training that has nothing to do.
    """
    scheme, _, file = absolute(chosen.tracking_uri).partition(":///")
    if scheme != "sqlite":
        return aliases(connect(chosen.tracking_uri), chosen.model).get("champion")
    if not Path(file).is_file():
        return None
    with contextlib.closing(sqlite3.connect(f"file:{quote(file)}?mode=ro", uri=True)) as database:
        asked = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = 'champion'"
        found = database.execute(asked, [chosen.model]).fetchone()
    return str(found[0]) if found else None


def describe(client: Any, chosen: Training, runs: list[Any]) -> list[dict[str, Any]]:
    """Return what there is to say of each run: id, start, tags, parameters, metrics, version and its aliases."""
    versions = {one.run_id: str(one.version) for one in client.search_model_versions(f"name = '{chosen.model}'")}
    names = aliases(client, chosen.model)
    return [
        {
            "run": run.info.run_id,
            "started": moment(run.info.start_time),
            "status": run.info.status,
            "version": versions.get(run.info.run_id),
            "aliases": sorted(name for name, version in names.items() if version == versions.get(run.info.run_id)),
            "tags": {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
            "parameters": run.data.params,
            "metrics": run.data.metrics,
        }
        for run in runs
    ]


def moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"


def download(client: Any, name: str, version: str) -> Path:
    """Return a folder that holds the model file and HANDOFF.md of a registered version."""
    made = find_version(client, name, version)
    return Path(library().artifacts.download_artifacts(f"models:/{name}/{made.version}")) / "artifacts"


def read_artifact(client: Any, run: Any, name: str) -> str:
    return Path(client.download_artifacts(run.info.run_id, name)).read_text(encoding="utf-8")


@contextlib.contextmanager
def release(client: Any, facts: dict[str, str]) -> Iterator[None]:
    """Record a release around the block that makes it. A record is a run, so nobody edits it away by the next one."""
    run = client.create_run(experiment(client, "release"), tags=facts, run_name=f"{facts['model']}-{facts['version']}")
    happened(facts.get("kind", "promote"), **facts)
    yield
    client.set_terminated(run.info.run_id)


def happened(action: str, **facts: Any) -> None:
    """Call `heard(action, facts)` of each module here that has one, just before ACTION is done; what it raises stops that.

    Actions: register, gate, approve, promote, deploy, rollback; facts: at least model, version, by and reason.
    """
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if "\ndef heard(" in file.read_text(encoding="utf-8"):
            importlib.import_module(f".{file.stem}", __package__).heard(action, facts)


def releases(client: Any) -> list[dict[str, str]]:
    """Return the releases of this workspace, newest first."""
    return [
        {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        for run in search(client, releases=True)
        if run.info.status == "FINISHED"
    ]
