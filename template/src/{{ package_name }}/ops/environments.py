"""Who may do what in an environment of conf/environments/*.yml."""

from . import ProjectError, Refused, settings
from .pipeline import git
from .promote import Roles


class Environment(settings.Settings, frozen=True):
    """conf/environments/NAME.yml"""

    may: dict[str, list[str]]


def read(name: str) -> Environment:
    return settings.read(f"environments/{name}", Environment)


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
