"""Open models:/NAME@ALIAS and models:/NAME/VERSION: the registry's models for `serve`.

A module of this folder that defines, at the start of a line,
- `verify(client, name, version, folder) -> dict` raises Refused when FOLDER, the version's files, must not be opened; what
  it returns stands in /model
- `hasten(servable, client, name, version) -> Servable` may return a faster way of computing a registered version
"""

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import ProjectError, Refused, settings, tracking
from ..handoff import read_note
from ..pipeline import Training
from ..score import load
from . import found
from .servable import Servable

SCHEME = "models"


@functools.lru_cache(maxsize=8)
def opened(open_store: Callable[..., tuple[Training, Any]], words: tuple[str, ...], *_: Any) -> tuple[Any, ...]:
    chosen, client = open_store(*words)
    return chosen, client, which(chosen)


def which(chosen: Training) -> tuple[int, int] | None:
    """Return which file an SQLite store is, whatever its name; raises ProjectError when it is gone."""
    scheme, _, name = tracking.absolute(settings.expand(chosen.tracking_uri)).partition(":///")
    if scheme != "sqlite":
        return None
    if not (file := Path(name)).is_file():
        raise ProjectError(f"the store {chosen.tracking_uri} is gone: bring its file back")
    return file.stat().st_dev, file.stat().st_ino


@contextlib.contextmanager
def at_hand(
    open_store: Callable[..., tuple[Training, Any]], *words: str, conf: str = "training"
) -> Iterator[tuple[Training, Any]]:
    """Give what OPEN_STORE(*WORDS) does, opened again only when its settings changed: a service asks several times a second."""
    files = [settings.CONF / "training.yml", settings.CONF / f"{conf}.yml"]
    changed = [file.stat().st_mtime_ns if file.is_file() else 0 for file in files]
    chosen, client, file = opened(open_store, words, Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI"), *changed)
    if which(chosen) != file:  # the one that is open would be read on, though it is deleted
        raise ProjectError(f"the store {chosen.tracking_uri} was replaced by another file: start this process again")
    try:
        yield chosen, client
    except tracking.library().MlflowException as error:
        reason = settings.hide(str(error), chosen.tracking_uri).partition("\n")[0]
        raise ProjectError(f"the store of runs does not answer: {reason}") from None


def pin(uri: str) -> str:
    """Return models:/NAME/VERSION of the version that URI stands for now."""
    named = re.fullmatch(r"models:/([\w.-]+)(?:@([\w-]+)|/(\d+))", uri)
    if not named:
        raise ProjectError(f"{uri} names no registered model: give models:/NAME@champion or models:/NAME/4")
    name, alias, version = named.groups()
    with at_hand(tracking.open_store) as (_, client):
        if alias:
            try:  # not tracking.aliases: the service asks several times a second, and this takes a third of the time
                version = client.get_model_version_by_alias(name, alias).version
            except tracking.library().MlflowException:
                if alias in tracking.aliases(client, name):
                    raise
                raise ProjectError(f"{name} has no {alias} yet: `promote VERSION` makes one the champion") from None
    return f"models:/{name}/{version}"


def resolve(uri: str) -> Servable:
    """Return the registered model that URI names."""
    name, version = pin(uri).removeprefix("models:/").split("/")
    return open_version(tracking.open_store()[1], name, version)


def open_version(client: Any, name: str, version: str) -> Servable:
    """Return a registered version; its note's example must be reproduced by the code that serves it."""
    folder = tracking.download(client, name, version, checked=False)
    note = read_note(folder / "HANDOFF.md")
    for module in found("def verify("):
        note |= module.verify(client, name, version, folder.parent)
    note |= {"digest": tracking.unchanged(client.get_model_version(name, version), folder.parent)}
    file = folder / note["model_file"]
    servable = Servable(load(file), note, version)
    if hashlib.sha256(file.read_bytes()).hexdigest() != note.get("sha256"):
        raise Refused(f"{name} version {version} is not the file that its note describes (sha256 differs)")
    for module in found("def hasten("):
        servable = module.hasten(servable, client, name, version)
    return servable
