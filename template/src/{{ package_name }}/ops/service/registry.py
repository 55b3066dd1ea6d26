"""Open models:/NAME@ALIAS and models:/NAME/VERSION: the registry's models for `serve`."""

import re

from .. import ProjectError, tracking
from ..handoff import read_note
from ..score import load
from .servable import Servable

SCHEME = "models"


def resolve(uri: str) -> Servable:
    """Return the registered model that URI names; its note's example must be reproduced by the code that serves it."""
    named = re.fullmatch(r"models:/([\w.-]+)(?:@([\w-]+)|/(\d+))", uri)
    if not named:
        raise ProjectError(f"{uri} names no registered model: give models:/NAME@champion or models:/NAME/4")
    name, alias, version = named.groups()
    _, client = tracking.open_store()
    if alias and not (version := tracking.aliases(client, name).get(alias)):
        raise ProjectError(f"{name} has no {alias} yet: `promote VERSION` makes one the champion")
    folder = tracking.download(client, name, version)
    note = read_note(folder / "HANDOFF.md")
    return Servable(load(folder / note["model_file"]), note, version)
