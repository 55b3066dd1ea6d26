"""Open env:NAME, what is in use in an environment, and env:NAME/VERSION, one version that was copied there."""

import re

from .. import ProjectError, environments, releasing
from ..handoff import read_note
from ..score import load
from .servable import Servable

SCHEME = "env"


def resolve(uri: str) -> Servable:
    """Return the model that URI names; it carries the number that its version has in dev, where it was made."""
    named = re.fullmatch(r"env:(\w+)(?:/(\d+))?", uri)
    if not named:
        raise ProjectError(f"{uri} names no environment: give env:prod, or env:prod/4 for one version")
    name, version = named.groups()
    chosen, client = environments.open_store(name)
    there = environments.find_copy(client, chosen.model, version)
    if there is None:
        wanted = f"version {version}" if version else "version in use"
        raise ProjectError(f"there is no {wanted} in {name}: `deploy VERSION --env {name}` puts one there")
    folder = releasing.fetch(client, there) / "artifacts"
    note = read_note(folder / "HANDOFF.md")
    return Servable(load(folder / note["model_file"]), note, there.tags["origin_version"])
