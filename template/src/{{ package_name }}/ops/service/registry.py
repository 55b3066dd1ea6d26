"""Open models:/NAME@ALIAS and models:/NAME/VERSION: the registry's models for `serve`.

A module of this folder that defines, at the start of a line,
- `verify(client, name, version, folder) -> dict` raises Refused when FOLDER, the version's files, must not be opened; what
  it returns stands in /model
- `hasten(servable, client, name, version) -> Servable` may return a faster way of computing a registered version
"""

import hashlib
import re
from typing import Any

from .. import ProjectError, Refused, tracking
from ..handoff import read_note
from ..score import load
from . import found
from .servable import Servable

SCHEME = "models"


def pin(uri: str) -> str:
    """Return models:/NAME/VERSION of the version that URI stands for now."""
    named = re.fullmatch(r"models:/([\w.-]+)(?:@([\w-]+)|/(\d+))", uri)
    if not named:
        raise ProjectError(f"{uri} names no registered model: give models:/NAME@champion or models:/NAME/4")
    name, alias, version = named.groups()
    chosen, client = tracking.open_store()
    if chosen.lost_store:
        raise ProjectError(f"the store {chosen.tracking_uri} is gone: bring its file back")
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
    folder = tracking.download(client, name, version)
    note = read_note(folder / "HANDOFF.md")
    for module in found("def verify("):
        note |= module.verify(client, name, version, folder.parent)
    file = folder / note["model_file"]
    servable = Servable(load(file), note, version)
    if hashlib.sha256(file.read_bytes()).hexdigest() != note.get("sha256"):
        raise Refused(f"{name} version {version} is not the file that its note describes (sha256 differs)")
    for module in found("def hasten("):
        servable = module.hasten(servable, client, name, version)
    return servable
