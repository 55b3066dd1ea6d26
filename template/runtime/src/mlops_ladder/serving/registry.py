"""Open models:/NAME@ALIAS and models:/NAME/VERSION: the registry's models for `serve`."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import levels, settings
from ..core.errors import ProjectError, Refused
from ..core.project import Project
from ..data.rows import read_note
from ..training import tracking
from ..training.pipeline import Training
from .score import load
from .servable import Servable

if TYPE_CHECKING:
    from mlflow import MlflowClient


def which(project: Project, chosen: Training) -> tuple[int, int] | None:
    """Return which file an SQLite store is, whatever its name; raises ProjectError when it is gone."""
    scheme, _, name = tracking.absolute(project, settings.expand(chosen.tracking_uri)).partition(":///")
    if scheme != "sqlite":
        return None
    if not (file := Path(name)).is_file():
        raise ProjectError(f"the store {chosen.tracking_uri} is gone: bring its file back")
    return file.stat().st_dev, file.stat().st_ino


@contextlib.contextmanager
def at_hand(
    project: Project, open_store: Callable[..., tuple[Training, Any]], *words: str, conf: str = "training"
) -> "Iterator[tuple[Training, MlflowClient]]":
    """Give what OPEN_STORE(PROJECT, *WORDS) does, opened again only when its settings changed: a service asks several times a second."""
    files = [project.path(settings.CONF) / "training.yml", project.path(settings.CONF) / f"{conf}.yml"]
    changed = [file.stat().st_mtime_ns if file.is_file() else 0 for file in files]

    def opened() -> tuple[Training, Any, tuple[int, int] | None]:
        chosen, client = open_store(project, *words)
        return chosen, client, which(project, chosen)

    store = ("store", conf), os.environ.get("MLFLOW_TRACKING_URI"), *changed
    chosen, client, file = project.once(store, opened)
    if which(project, chosen) != file:  # the one that is open would be read on, though it is deleted
        raise ProjectError(f"the store {chosen.tracking_uri} was replaced by another file: start this process again")
    try:
        yield chosen, client
    except tracking.library().MlflowException as error:
        reason = settings.hide(str(error), chosen.tracking_uri).partition("\n")[0]
        raise ProjectError(f"the store of runs does not answer: {reason}") from None


def parts(uri: str) -> tuple[str, str | None, str | None]:
    """Return name, alias and version of models:/NAME@ALIAS or models:/NAME/VERSION: one of the latter two is None."""
    named = re.fullmatch(r"models:/([\w.-]+)(?:@([\w-]+)|/(\d+))", uri)
    if not named:
        raise ProjectError(f"{uri} names no registered model: give models:/NAME@champion or models:/NAME/4")
    return named[1], named[2], named[3]


def check(project: Project, uri: str) -> None:
    """Raise ProjectError when the registry has nothing by that URI, as far as SQLite says it at once."""
    tracking.check(project, *parts(uri))


def pin(project: Project, uri: str) -> str:
    """Return models:/NAME/VERSION of the version that URI stands for now."""
    name, alias, version = parts(uri)
    with at_hand(project, tracking.open_store) as (_, client):
        if alias:
            try:  # not tracking.aliases: the service asks several times a second, and this takes a third of the time
                version = client.get_model_version_by_alias(name, alias).version
            except tracking.library().MlflowException:
                if alias in tracking.aliases(client, name):
                    raise
                there = [model.name for model in client.search_registered_models()]
                raise ProjectError(tracking.absent(name, alias, there)) from None
    return f"models:/{name}/{version}"


def resolve(project: Project, uri: str) -> Servable:
    """Return the registered model that URI names."""
    name, version = pin(project, uri).removeprefix("models:/").split("/")
    return open_version(project, tracking.open_store(project)[1], name, version)


def open_version(project: Project, client: "MlflowClient", name: str, version: str) -> Servable:
    """Return a registered version; its note's example must be reproduced by the code that serves it."""
    folder = tracking.download(client, name, version, checked=False)
    note = read_note(folder / "HANDOFF.md")
    for module in levels.modules(project, "verifiers"):
        note |= module.verify(project, client, name, version, folder.parent)
    note |= {"digest": tracking.unchanged(client.get_model_version(name, version), folder.parent)}
    file = folder / note["model_file"]
    servable = Servable(project, load(project, file), note, version)
    if hashlib.sha256(file.read_bytes()).hexdigest() != note.get("sha256"):
        raise Refused(f"{name} version {version} is not the file that its note describes (sha256 differs)")
    for module in levels.modules(project, "hasteners"):
        servable = module.hasten(servable, client, name, version)
    return servable
