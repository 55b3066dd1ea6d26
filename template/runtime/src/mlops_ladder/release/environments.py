"""The environments of conf/environments/*.yml: their stores, who may do what there, and what was in use there when."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from ..core import people, repository, settings
from ..core.errors import ProjectError, Refused, Unmet, UsageError
from ..core.project import Project
from ..training import tracking
from ..training.pipeline import Training
from ..training.roles import Roles

if TYPE_CHECKING:
    from mlflow import MlflowClient

Action = Literal["approve", "deploy", "rollback", "override", "replicate"]
GUARDS = ("may", "approval", "solo", "after", "policy")  # keys of an environment that count as committed, not as edited
ALIAS = "champion"  # what is in use in an environment
JUDGED = ("passed", "overridden")  # what `gate` leaves as validation_status of a version that may go on


class Environment(settings.Settings, frozen=True):
    """conf/environments/NAME.yml; dev.yml explains each key."""

    tracking_uri: str | None
    artifacts: str | None
    data: str
    masked: list[str]
    endpoints: list[str]
    answer_s: float = pydantic.Field(gt=0)
    may: dict[Action, list[str]]
    approval: bool
    solo: bool
    after: str | None
    policy: dict[str, list[str]]


def names(project: Project) -> list[str]:
    return sorted(file.stem for file in (project.path(settings.CONF) / "environments").glob("*.yml"))


def read(project: Project, name: str) -> Environment:
    """Return the environment NAME; its tracking_uri is never empty."""
    if name not in names(project):
        there = ", ".join(names(project)) or "none, no conf/environments here"
        raise UsageError(f"no environment {name!r}; there are: {there}")
    found = settings.read(project, f"environments/{name}", Environment)
    if found.tracking_uri:
        return found
    uri = os.environ.get("MLFLOW_TRACKING_URI") or settings.read(project, "training", Training).tracking_uri
    return found.model_copy(update={"tracking_uri": uri})


def settings_of(project: Project, name: str) -> Training:
    """Return conf/training.yml with the tracking_uri of environment NAME."""
    return settings.read(project, "training", Training, {"tracking_uri": str(read(project, name).tracking_uri)})


def check_version(project: Project, version: str) -> None:
    """Raise ProjectError when dev, where versions are made, has none of that number; it takes no slow library."""
    tracking.check(project, version=version, uri=read(project, "dev").tracking_uri)


def open_store(project: Project, name: str) -> "tuple[Training, MlflowClient]":
    """Return conf/training.yml with the tracking_uri of environment NAME, and a client of that store."""
    chosen = settings_of(project, name)
    scheme, _, file = chosen.tracking_uri.partition(":///")
    if scheme == "sqlite" and not (folder := project.path(file).parent).exists():
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")  # what stands in an environment is not code
    return chosen, tracking.connect(project, chosen.tracking_uri, named_in=f"conf/environments/{name}.yml")


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Say what a store's failure within the block means to a person, as a ProjectError."""
    library = tracking.library()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (library.MlflowException, SQLAlchemyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ProjectError(f"a store failed: {reason}; mend that and run this again, it goes on from there") from error


def require(project: Project, name: str, action: Action) -> str:
    """Return who git says works here; raises Refused when none of their roles may do ACTION in environment NAME."""
    person = people.current(project)
    if not people.known(person):
        raise Unmet(f"`{action}` is recorded with who did it: git config user.email you@example.org")
    if not able(project, name, action, person):
        roles = ", ".join(read(project, name).may.get(action, [])) or "no role"
        raise Refused(
            f"{person} may not {action} in {name}: conf/environments/{name}.yml lets {roles} do it, "
            "conf/roles.yml says who that is"
        )
    require_committed(project, name)
    return person


def require_committed(project: Project, name: str) -> None:
    """Raise Unmet while what decides who may do what in environment NAME is not what the last commit says."""
    repository.require_committed(project, "roles")
    repository.require_committed(project, f"environments/{name}", GUARDS)


def able(project: Project, name: str, action: Action, person: str) -> bool:
    """Return whether a role of PERSON may do ACTION in environment NAME."""
    known, allowed = settings.read(project, "roles", Roles).roles, read(project, name).may.get(action, [])
    if absent := [role for role in allowed if role not in known]:
        raise ProjectError(
            f"conf/environments/{name}.yml: may.{action} names {absent[0]}, which is no role of conf/roles.yml"
        )
    return any(people.among(person, known[role].people) for role in allowed)


def find_copy(client: "MlflowClient", model: str, version: str | None = None) -> Any:
    """Return the newest copy of origin version VERSION in an environment's registry, or its champion; None without."""
    made = client.search_model_versions(f"name = '{model}'")
    number = tracking.aliases(client, model).get(ALIAS)
    fits = [
        one for one in made if (one.tags.get("origin_version") == version if version else str(one.version) == number)
    ]
    return max(fits, key=lambda one: int(one.version), default=None)


def records(project: Project, client: "MlflowClient", model: str) -> list[Any]:
    """Return the runs that record what was released in an environment, newest first: each deploy and each rollback.

    One that was killed counts when it had put its version into use.
    """
    number = tracking.aliases(client, model).get(ALIAS, "none")
    return [
        run
        for run in tracking.search(project, client, releases=True)
        if run.info.status == "FINISHED" or (run.info.status == "RUNNING" and run.data.tags["copy"] == number)
    ]


def history(project: Project, client: "MlflowClient", model: str) -> list[dict[str, str]]:
    """Return the same as facts: kind, version, before, by, reason, at, approved_by and what else was recorded."""
    return [
        {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        for run in records(project, client, model)
    ]


def in_use(told: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the deploys of a history that no rollback took back, oldest first: the last one's version is in use."""
    left: list[dict[str, str]] = []
    for one in reversed(told):
        if one["kind"] == "deploy" and one["copy"] not in (last["copy"] for last in left[-1:]):
            left.append(one)
        while left and left[-1]["copy"] != one["copy"]:
            left.pop()
    return left
