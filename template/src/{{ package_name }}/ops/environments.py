"""Who may do what in an environment of conf/environments/*.yml, and what is in use there."""

from pathlib import Path
from typing import Any

from . import ProjectError, Refused, settings, tracking
from .pipeline import Training, git
from .promote import Roles


class Environment(settings.Settings, frozen=True):
    """conf/environments/NAME.yml"""

    tracking_uri: str
    may: dict[str, list[str]]


def read(name: str) -> Environment:
    return settings.read(f"environments/{name}", Environment)


def open_store(name: str) -> tuple[Training, Any]:
    """Return conf/training.yml with the tracking_uri of environment NAME, and a client of that store."""
    uri = read(name).tracking_uri
    Path(uri.partition(":///")[2]).parent.mkdir(parents=True, exist_ok=True)
    return settings.read("training", Training, {"tracking_uri": uri}), tracking.connect(uri)


def find_copy(client: Any, model: str, version: str | None = None) -> Any:
    """Return the copy of origin version VERSION in an environment's registry, or its champion; None without."""
    number = tracking.aliases(client, model).get("champion")
    for one in client.search_model_versions(f"name = '{model}'"):
        if one.tags.get("origin_version") == version if version else str(one.version) == number:
            return one
    return None


def require(name: str, action: str) -> str:
    """Return who git says works here; raises Refused when none of their roles may do ACTION in environment NAME."""
    person = git("config", "user.email")
    if not person:
        raise ProjectError(f"`{action}` is recorded with who did it: git config user.email you@example.org")
    roles = settings.read("roles", Roles).roles
    people = [one for role in read(name).may.get(action, []) for one in roles[role].people]
    if person not in people and "anyone" not in people:
        raise Refused(f"{person} may not {action} in {name}: no role that conf/environments/{name}.yml lets do it")
    return person
