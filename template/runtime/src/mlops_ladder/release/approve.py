"""Sign a version off for an environment that asks for it; kept with who, when and why. Not for who trained it.

python -m {package} approve 4 --reason "reviewed the gate report with operations"
"""

import argparse
import enum
import json
import time
from typing import Any

from ..core import files, people
from ..core.errors import Refused, Unmet, UsageError
from ..core.project import Project
from ..core.redaction import redact
from ..training import tracking
from . import environments

WAIT_S = 30  # for another approval


class Kind(enum.StrEnum):
    """Who signed: the tag approved_as says it of a version."""

    PERSON = "person"
    POLICY = "policy"  # level 4's conf/retraining.yml, in the name of its approver; nobody looked at the version


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="number of the version; `runs` lists them")
    parser.add_argument("--reason", required=True, help="why, in a sentence; it is kept")
    parser.add_argument("--env", default="prod", help="whose approvers count (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if not options.reason.strip():
        raise UsageError("--reason is empty: somebody will ask why")
    environments.require(project, options.env, "approve")
    environments.check_version(project, options.version)


def run(project: Project, options: argparse.Namespace) -> None:
    by = environments.require(project, options.env, "approve")
    with environments.reached():
        approved = approve(project, options.env, options.version, options.reason, by)
    told = f"{approved['model']} version {approved['version']} is approved for {options.env} by {by}: {options.reason}"
    print(json.dumps(approved) if options.json else told)


def approve(
    project: Project, name: str, version: str, reason: str, by: str, kind: Kind = Kind.PERSON
) -> dict[str, str]:
    """Tag VERSION as approved for environment NAME by BY, as KIND; raises Refused when that would not count there."""
    chosen, client = environments.open_store(project, "dev")
    made = tracking.find_version(client, chosen.model, version)
    if (status := made.tags.get("validation_status", "nothing")) not in environments.JUDGED:
        raise Refused(f"the gates of version {made.version} say {status}: `gate {made.version}` judges it first")
    signed = {
        "by": by,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "reason": redact(reason),
        "as": kind.value,
    }
    tags = {f"approved_{key}": value for key, value in signed.items()}
    if why := objection(project, name, tags, client.get_run(made.run_id)):
        raise Refused(why)
    with files.locked(project.path("models/.approving.lock"), WAIT_S):  # of two at once one counts, whole
        tracking.announce(project, "approve", environment=name, model=made.name, version=version, by=by, reason=reason)
        for key, value in tags.items():
            client.set_model_version_tag(made.name, str(made.version), key, value)
    return {"model": made.name, "version": str(made.version), **tags}


def objection(project: Project, name: str, tags: dict[str, str], trained: Any) -> str | None:
    """Return why the approval in TAGS does not count in environment NAME, None when it does.

    A tag is easily set, so who it names is looked up again: in the roles, and in the run that trained the version.
    """
    by = tags.get("approved_by")
    if not by:
        return f"nobody approved it: `approve VERSION --reason WHY`, by somebody with that role in {name}"
    if not environments.able(project, name, "approve", by):
        return f"{by} approved it, who may not: conf/environments/{name}.yml and conf/roles.yml say who may"
    trainer = trained.data.tags.get("by")
    if (people.same(trainer, by) or not people.known(trainer)) and not environments.read(project, name).solo:
        alone = f"set solo: true in conf/environments/{name}.yml if you work alone"
        return f"{by} trained it and cannot approve it: ask somebody else, or {alone}"
    try:
        environments.require_committed(project, name)
    except Unmet as error:
        return str(error)
    return None
