"""Open env:NAME, what is in use in an environment, and env:NAME/VERSION, one version that was copied there."""

import re

from ..core.errors import ProjectError
from ..core.project import Project
from ..serving import registry
from ..serving.servable import Servable
from ..training import tracking
from . import environments


def pin(project: Project, uri: str) -> str:
    """Return env:NAME@NUMBER of the copy that URI stands for now; NUMBER is that of the environment's own registry."""
    named = re.fullmatch(r"env:(\w+)(?:/(\d+)|@(\d+))?", uri)
    if not named:
        raise ProjectError(f"{uri} names no environment: give env:prod, or env:prod/4 for one version")
    name, version, number = named.groups()
    if number:
        return uri
    with registry.at_hand(project, environments.open_store, name, conf=f"environments/{name}") as (chosen, client):
        if version:
            there = environments.find_copy(client, chosen.model, version)
        else:
            try:  # not at once by find_copy, which reads all versions
                there = client.get_model_version_by_alias(chosen.model, environments.ALIAS)
            except tracking.library().MlflowException:
                there = environments.find_copy(client, chosen.model)
    if there is None:
        wanted = f"version {version}" if version else "version in use"
        raise ProjectError(f"there is no {wanted} in {name}: `deploy VERSION --env {name}` puts one there")
    return f"env:{name}@{there.version}"


def resolve(project: Project, uri: str) -> Servable:
    """Return the model that URI names; it carries the number that its version has in dev, where it was made."""
    name, number = pin(project, uri).removeprefix("env:").split("@")
    chosen, client = environments.open_store(project, name)
    servable = registry.open_version(project, client, chosen.model, number)
    servable.version = client.get_model_version(chosen.model, number).tags["origin_version"]
    return servable
