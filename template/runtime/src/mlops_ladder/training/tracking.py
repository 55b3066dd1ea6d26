"""The store of runs, versions and releases, in MLflow: how it is opened, and how things in it are found."""

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from ..core import files, levels, settings
from ..core.errors import ProjectError, Refused
from ..core.files import files_in
from ..core.nearest import nearest
from ..core.progress import say
from ..core.project import Project
from ..core.redaction import redacted
from ..data import store
from .pipeline import Training

if TYPE_CHECKING:
    from mlflow import MlflowClient

PLACES = {  # where MLflow 3 keeps the places of artifacts, {table: columns}; each is absolute
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "logged_models": ["artifact_location"],
    "model_versions": ["source", "storage_location"],
}
NUMBER = "number"  # tag of a release: which one it is, as a clock may be set back
FILES = "files_sha256"  # tag of a version: the digest of its files as they were registered
FAST = "fast_sha256"  # tag of a version: that of its faster form, as its gates judged it
WAIT_S = 30  # for another process that opens the same store; it takes milliseconds


def library() -> Any:
    """Return MLflow, imported on first use as it takes seconds, its telemetry off."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # a command's JSON alone stands there
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own 7 take minutes to say "not there"
    import mlflow.pyfunc

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def connect(project: Project, uri: str, named_in: str = "conf/training.yml, or MLFLOW_TRACKING_URI") -> Any:
    """Return an MLflow client of the store at URI (tracking_uri in NAMED_IN), which is made when it is new."""
    named, uri, mlflow = uri, absolute(project, settings.expand(uri)), library()
    try:
        follow(project, uri)
        if file := file_of(uri):
            files.private(file)
        client = mlflow.MlflowClient(uri)
        from mlflow.tracking._tracking_service import utils

        # MLflow remembers the place of a run's artifacts by the run alone: of a copied store it would be the original's
        getattr(utils, "_artifact_repos_cache", {}).clear()
        client.search_experiments(max_results=1)  # a server is not asked before
    except (mlflow.MlflowException, OSError, sqlite3.Error) as error:
        raise ProjectError(
            f"the store of runs cannot be opened: {settings.hide(str(error), named)}; mend tracking_uri in {named_in}"
        ) from error
    return client


def absolute(project: Project, uri: str) -> str:
    """Return the address of an SQLite store as it is called from any folder."""
    scheme, marked, file = uri.partition(":///")
    return f"{scheme}:///{project.path(file).resolve()}" if marked and scheme == "sqlite" else uri


def file_of(uri: str) -> Path | None:
    """Return the file of the SQLite store at URI, as `absolute` gives it; None of any other store."""
    scheme, _, name = uri.partition(":///")
    return Path(name) if scheme == "sqlite" else None


def follow(project: Project, uri: str) -> None:
    """Have an SQLite store in this folder name the artifacts that lie here, where it was moved or copied from elsewhere.

    MLflow keeps their places absolute and has no call that changes them. A store outside this folder is left alone.
    """
    file = file_of(uri)
    if not file or not file.is_file() or not file.is_relative_to(project.folder.resolve()):
        return
    with contextlib.closing(sqlite3.connect(file, timeout=WAIT_S, isolation_level=None)) as database:
        if not (left := roots(project, database, file)):
            return
        database.execute("BEGIN IMMEDIATE")
        for table, columns in PLACES.items():
            known = {column[1] for column in database.execute(f"PRAGMA table_info({table})")}
            for column in known.intersection(columns):
                rows = database.execute(f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL").fetchall()
                moved = [(new, row) for row, place in rows if (new := moved_here(project, place, left)) != place]
                database.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", moved)
        database.execute("COMMIT")
    say(f"{file.name} came from {', '.join(sorted(left))}: from now on it names the artifacts that are here")


def roots(project: Project, database: sqlite3.Connection, file: Path) -> set[str]:
    """Return the folders of other places in which a store's artifacts were made, as it writes them."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return set()
    found = set()
    for number, name, place in database.execute("SELECT experiment_id, name, artifact_location FROM experiments"):
        root = (place or "").removesuffix(f"/mlruns/{number}").removesuffix(f"/mlruns/{name}")
        if root in ("", place, here(project, root)):
            continue
        folder = local(root)
        # a project within this one, or the folder of a server
        nested = folder.is_relative_to(project.folder.resolve()) and file.is_relative_to(folder)
        served = folder.is_dir() and not (folder / "conf").is_dir() and not project.path("mlruns").is_dir()
        if not (nested or served):
            found.add(root)
    return found


def moved_here(project: Project, place: str, left: set[str]) -> str:
    """Return PLACE, that of an artifact, with this folder in place of the one of LEFT that it lies in, if it does."""
    inside = [root for root in (*left, here(project, place)) if place.startswith(f"{root}/")]
    root = max(inside, key=len, default="")
    return here(project, root) + place.removeprefix(root) if root else place


def here(project: Project, like: str) -> str:
    """Return the project's folder, as a URL where LIKE is one."""
    folder = project.folder.resolve()
    return folder.as_uri() if like.startswith("file:") else str(folder)


def local(place: str) -> Path:
    return Path(url2pathname(urlsplit(place).path) if place.startswith("file:") else place)


def open_store(project: Project) -> "tuple[Training, MlflowClient]":
    """Return conf/training.yml and a client of the store that it, or MLFLOW_TRACKING_URI, names."""
    chosen = read_settings(project)
    return chosen, connect(project, chosen.tracking_uri)


def read_settings(project: Project) -> Training:
    """Return conf/training.yml, with the store that MLFLOW_TRACKING_URI names where it does."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return settings.read(project, "training", Training, {"tracking_uri": given} if given else None)


def experiment(project: Project, client: "MlflowClient", purpose: str) -> str:
    """Return the id of the experiment WORKSPACE/PURPOSE, made when it is new: what serves another purpose stays apart."""
    name = f"{store.read(project).workspace}/{purpose}"
    found = client.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    # MLflow would keep the files of an SQLite store's runs in the current folder; those of a server are the server's.
    return client.create_experiment(name, str(project.path(f"mlruns/{name}").resolve()) if is_local(client) else None)


def is_local(client: "MlflowClient") -> bool:
    """Whether CLIENT's store is a file of this machine, and its artifacts with it; else a server keeps both."""
    return client.tracking_uri.startswith("sqlite:")


def search(
    project: Project, client: "MlflowClient", filter_string: str = "", limit: int = 50_000, releases: bool = False
) -> list[Any]:
    """Return this workspace's training runs, or its releases, newest first: releases by their number, not by a clock."""
    workspace = store.read(project).workspace
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
    return sorted(found, key=number, reverse=True) if releases else found[:limit]


def number(record: Any) -> int:
    """Return which release of its store a record is, counted from 1; 0 for one from before they were counted."""
    return int(record.data.tags.get(NUMBER, 0))


def find(project: Project, client: "MlflowClient", chosen: Training, text: str) -> Any:
    """Return the run that TEXT names: the start of its id, or the number of the version that it made."""
    if text.isdigit() and len(text) < 6:
        return client.get_run(find_version(client, chosen.model, text).run_id)
    fits = [run for run in search(project, client) if text and run.info.run_id.startswith(text)]
    if len(fits) != 1:
        raise ProjectError(f"{len(fits)} runs begin with {text}, must be one: `runs` lists them")
    return fits[0]


def find_version(client: "MlflowClient", name: str, version: str) -> Any:
    """Return version VERSION of model NAME."""
    made = client.search_model_versions(f"name = '{name}'")
    for one in made:
        if str(one.version) == version:
            return one
    raise ProjectError(no_version(name, version, [str(one.version) for one in made]))


def no_version(name: str, version: str, there: list[str]) -> str:
    return f"{name} has no version {version}; there are: {nearest(version, there, 'none yet')}"


def absent(name: str, alias: str, there: list[str]) -> str:
    """Return what to say where no version of model NAME has ALIAS, and THERE are these models."""
    if name in there or not there:
        return f"{name} has no {alias} yet: `promote VERSION` makes one the champion"
    return f"the registry has no model {name}; there are: {nearest(name, there)}"


def check(
    project: Project,
    name: str | None = None,
    alias: str | None = None,
    version: str | None = None,
    uri: str | None = None,
) -> None:
    """Raise ProjectError when the registry at URI has no model NAME, or not with that ALIAS or VERSION.

    URI and NAME are the project's own where they are None. An SQLite store is asked directly, as to import MLflow takes
    seconds; any other is asked where it is used.
    """
    chosen = read_settings(project)
    store = file_of(absolute(project, settings.expand(uri or chosen.tracking_uri)))
    if not store:
        return
    named = name or chosen.model
    models = registry_rows(store, "SELECT name FROM registered_models")
    aliases_of = "SELECT 1 FROM registered_model_aliases WHERE name = ? AND alias = ?"
    versions_of = "SELECT version FROM model_versions WHERE name = ? AND current_stage != 'Deleted_Internal'"
    if alias and not registry_rows(store, aliases_of, named, alias):
        raise ProjectError(absent(named, alias, models))
    if version and version not in (there := registry_rows(store, versions_of, named)):
        other = name and models and name not in models  # without a NAME it is the project's, which may be to come
        raise ProjectError(absent(named, "version", models) if other else no_version(named, version, there))


def registry_rows(file: Path, query: str, *words: str) -> list[str]:
    """Return the first column of a query of the SQLite store in FILE, as text; empty where there is no such store yet."""
    if not file.is_file():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=WAIT_S)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'registered_model_aliases'").fetchone():
            return []
        return [str(row[0]) for row in database.execute(query, words)]


def aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    """Return the version behind each alias of model NAME, such as {"champion": "4"}."""
    found = [model for model in client.search_registered_models(f"name = '{name}'") if model.name == name]
    return {alias: str(version) for alias, version in found[0].aliases.items()} if found else {}


def champion(project: Project, chosen: Training) -> str | None:
    """Return the version that is champion now, None without one.

    An SQLite store is asked directly: to import MLflow takes longer than all else of a training that has nothing to do.
    """
    file = file_of(absolute(project, settings.expand(chosen.tracking_uri)))
    if not file:
        return aliases(connect(project, chosen.tracking_uri), chosen.model).get("champion")
    query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = 'champion'"
    return next(iter(registry_rows(file, query, chosen.model)), None)


def describe(client: "MlflowClient", chosen: Training, runs: list[Any]) -> list[dict[str, Any]]:
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


def download(client: "MlflowClient", name: str, version: str, checked: bool = True) -> Path:
    """Return a folder that holds the model file and HANDOFF.md of a registered version.

    Raises Refused when its files are not those that were registered, unless the caller looks at that itself.
    """
    made = find_version(client, name, version)
    with artifacts_of(f"{name} version {version}"):
        folder = folder_of(client, made)
    if checked:
        unchanged(made, folder)
    return folder / "artifacts"


def open_version(client: "MlflowClient", name: str, version: str) -> Any:
    """Return a registered version as training/registered.py opens it: its model and note, and the code it came with.

    Raises Refused when a file of it was changed.
    """
    return library().pyfunc.load_model(str(download(client, name, version).parent)).unwrap_python_model()


def folder_of(client: "MlflowClient", made: Any) -> Path:
    """Return a folder with the files of a registered version, to read."""
    uri = client.get_model_version_download_uri(made.name, str(made.version))
    return Path(library().artifacts.download_artifacts(uri, tracking_uri=client.tracking_uri))


def unchanged(made: Any, folder: Path) -> str:
    """Return the digest of version MADE's files in FOLDER; raises Refused when it is not the one that the registry has.

    One that was registered before there was a digest, or not by `train`, has none to be compared with.
    """
    found = digest_of(contents(folder))
    known = made.tags.get("digest") or made.tags.get(FILES)  # of a copy in an environment, of the version itself
    if known not in (None, found):
        raise Refused(
            f"{made.name} version {made.version} is not opened: its files are not those that were registered "
            f"(digest {found[:12]}, the registry has {known[:12]}); put them back, or deploy or train anew"
        )
    return found


def unchanged_fast(made: Any, file: Path) -> None:
    """Raise Refused when FILE is not the faster form of version MADE that its gates judged."""
    if made.tags.get(FAST) not in (None, files.sha256(file)):
        raise Refused(
            f"{made.name} version {made.version} is not opened: {file.name} is not the one that its gates judged; "
            f"`gate {made.version}` makes it anew"
        )


def contents(folder: Path) -> dict[str, Path]:
    """Return the files of a version in FOLDER, {path: file}, without what reading one there left behind."""
    return {
        file.relative_to(folder).as_posix(): file
        for file in files_in(folder)
        if file.name != "registered_model_meta" and "__pycache__" not in file.parts
    }


def digest_of(found: dict[str, Path]) -> str:
    """Return one hash for all files of a version: two versions with the same digest are the same bytes."""
    return hashlib.sha256(json.dumps(hashes(found), sort_keys=True).encode()).hexdigest()


def hashes(found: dict[str, Path]) -> dict[str, str]:
    return {path: files.sha256(file) for path, file in found.items()}


def read_artifact(client: "MlflowClient", run: Any, name: str) -> str:
    with artifacts_of(f"run {run.info.run_id[:8]}"):
        return Path(client.download_artifacts(run.info.run_id, name)).read_text(encoding="utf-8")


@contextlib.contextmanager
def artifacts_of(owner: str) -> Iterator[None]:
    """Say whose artifacts cannot be read within the block, and why, as a ProjectError."""
    try:
        yield
    except (OSError, library().MlflowException) as error:
        reason = str(error).partition("\n")[0]
        raise ProjectError(
            f"the artifacts of {owner} cannot be read: {reason}; bring them back, or train anew"
        ) from error


@contextlib.contextmanager
def release(project: Project, client: "MlflowClient", facts: dict[str, str]) -> Iterator[None]:
    """Record a release around the block that makes it. A record is a run, so nobody edits it away by the next one."""
    earlier = search(project, client, releases=True)
    facts = redacted(facts) | {NUMBER: str(1 + max([len(earlier), *map(number, earlier)]))}
    run = client.create_run(
        experiment(project, client, "release"), tags=facts, run_name=f"{facts['model']}-{facts['version']}"
    )
    announce(project, facts.get("kind", "promote"), **facts)
    yield
    client.set_terminated(run.info.run_id)


def announce(project: Project, action: str, **facts: Any) -> None:
    """Tell each listener that a level registered, just before ACTION is done; what it raises stops that.

    Actions: register, gate, approve, promote, deploy, rollback; facts: at least model, version, by and reason.
    """
    for listener in levels.modules(project, "listeners"):
        listener.heard(project, action, facts)


def releases(project: Project, client: "MlflowClient") -> list[dict[str, str]]:
    """Return the releases of this workspace, newest first."""
    return [
        {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        for run in search(project, client, releases=True)
        if run.info.status == "FINISHED"
    ]
