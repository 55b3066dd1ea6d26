"""Make a registered version the champion, the one that is served, when it meets conf/success.yml. A person decides.

python -m {package} promote 4 --reason "better on winter flights, agreed with operations"
python -m {package} promote --history
"""

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from ..core import files, people, repository, settings
from ..core.errors import ProjectError, Refused, UsageError
from ..core.project import Project
from . import success, tracking
from .pipeline import Training
from .roles import Roles

if TYPE_CHECKING:
    from mlflow import MlflowClient

WAIT_S = 30  # for another promotion; each takes a second


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", nargs="?", help="number of the version; `runs` lists them")
    parser.add_argument("--reason", help="why, in a sentence; it is kept")
    parser.add_argument("--history", action="store_true", help="print what was released when, by whom and why")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if not options.history:
        if not options.version or not options.reason:
            raise UsageError("promote needs a VERSION and --reason: somebody will ask why")
        tracking.check(project, version=options.version)


def run(project: Project, options: argparse.Namespace) -> None:
    chosen, client = tracking.open_store(project)
    if options.history:
        told = tracking.releases(project, client)
        return print(json.dumps(told) if options.json else "\n".join(map(sentence, told)) or "nothing was released yet")
    with files.locked(
        project.path("models/.promoting.lock"), WAIT_S
    ):  # two at once would both name what was there before them
        release = promote(project, client, chosen, options.version, options.reason, who(project))
    print(json.dumps(release) if options.json else sentence(release))


def promote(
    project: Project, client: "MlflowClient", chosen: Training, version: str, reason: str, by: str
) -> dict[str, Any]:
    """Move the alias champion to VERSION and record it; raises Refused when it must not be released."""
    candidate = tracking.find_version(client, chosen.model, version)
    made_by = client.get_run(candidate.run_id)
    if missed := shortcomings(project, chosen, made_by):
        raise Refused("\n  ".join([f"{chosen.model} version {version} is not released:", *missed]))
    before = tracking.aliases(client, chosen.model).get("champion")
    release = {
        "model": chosen.model,
        "version": version,
        "before": before or "none",
        "by": by,
        "reason": reason,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with tracking.release(project, client, release):
        client.set_registered_model_alias(chosen.model, "champion", version)
        for key in ("by", "at", "reason"):
            client.set_model_version_tag(chosen.model, version, f"released_{key}", release[key])
    return release


def shortcomings(project: Project, chosen: Training, made_by: Any) -> list[str]:
    """Return why the version of a run must not be released, one sentence each; an empty list means that it may."""
    tags, measured = made_by.data.tags, made_by.data.metrics
    missed = [f"its run has no tag {name}" for name in (*chosen.required_tags, "data", "commit") if not tags.get(name)]
    if made_by.info.status != "FINISHED":
        missed.append(f"its run is {made_by.info.status}")
    if tags.get("dirty") != "false":
        missed.append("it was trained with uncommitted changes and cannot be reproduced: commit them and train again")
    of = {
        part: {n: measured.get(f"{part}_{n}", float("nan")) for n in project.model.HIGHER_IS_BETTER}
        for part in ("test", "baseline")
    }
    return missed + success.missed_criteria(project, of["test"], of["baseline"], success.read(project))


def who(project: Project) -> str:
    """Return who git says works here; raises Refused when conf/roles.yml does not let them promote."""
    person = people.current(project)
    if not people.known(person):
        raise ProjectError("a release names who made it: git config user.email you@example.org")
    roles = settings.read(project, "roles", Roles).roles
    able = [role for role in roles.values() if "promote" in role.may]
    if not any(people.among(person, role.people) for role in able):
        raise Refused(f"{person} may not promote: no role in conf/roles.yml with `promote` names them")
    repository.require_committed(project, "roles")
    return person


def sentence(release: dict[str, Any]) -> str:
    return (
        f"{release['at']}  {release['model']} version {release['version']} is champion (before: {release['before']}), "
        f"by {release['by']}: {release['reason']}"
    )
