"""Deploy a version to test or prod: checked, copied, tried in the service, put into use, and watched as it arrives.

python -m {package} deploy 4 --env test
python -m {package} deploy 4 --env prod --reason "better on winter flights"
python -m {package} deploy --history --env prod --at 2026-03-01T12:00

It is refused, exit 3, while the version has not passed its gates, breaks the environment's policy or lacks its
approval, or when the service does not answer with it as it should. An endpoint that does not take it up within
answer_s has the version taken back, exit 1. Nothing is built again: what was judged is copied, byte by byte.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..core.errors import ProjectError, Refused, UsageError
from ..core.progress import say
from ..core.project import Project
from ..data import data_sets, versions
from ..training import stages, tracking
from . import approve, environments, policy, releasing

if TYPE_CHECKING:
    from mlflow import MlflowClient


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", nargs="?", help="number of the version; `runs` lists them")
    parser.add_argument("--env", required=True, help="environment, one of conf/environments/")
    parser.add_argument("--reason", help="why; it is kept (default: the reason of the approval)")
    parser.add_argument("--history", action="store_true", help="print what was deployed when, by whom and why")
    parser.add_argument(
        "--at", type=datetime.fromisoformat, metavar="TIME", help="with --history: what was in use then"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if options.history:
        environments.read(project, options.env)
        return
    if not options.version:
        raise UsageError("deploy needs a VERSION, or --history")
    allowed(project, options.env)
    environments.check_version(project, options.version)


def allowed(project: Project, name: str) -> str:
    """Return who git says works here; raises when they may not deploy to environment NAME, or nobody may."""
    if name == "dev":
        raise UsageError("versions are made in dev: deploy them to another environment")
    return environments.require(project, name, "deploy")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.history:
        chosen, client = environments.open_store(project, options.env)
        with environments.reached():
            told = environments.history(project, client, chosen.model)
        if options.at:
            told = in_use_at(told, options.at)
        nothing = f"nothing was in use in {options.env} then" if options.at else f"nothing is deployed in {options.env}"
        return print(json.dumps(told) if options.json else "\n".join(map(sentence, told)) or nothing)
    facts = deploy(project, options.env, options.version, options.reason)
    print(json.dumps(facts) if options.json else sentence(facts))


def deploy(project: Project, name: str, version: str, reason: str | None = None) -> dict[str, str]:
    """Put origin version VERSION into use in environment NAME; return the record of it.

    Run again after it was killed, it goes on; when the version is in use already only the endpoints are asked.
    """
    by = allowed(project, name)
    with releasing.working(project, name):
        chosen, origin = environments.open_store(project, "dev")
        stores = {other: environments.read(project, other).tracking_uri for other in environments.names(project)}
        if shared := [other for other in stores if other != name and stores[other] == stores[name]]:
            raise ProjectError(
                f"conf/environments/{name}.yml: tracking_uri is that of {shared[0]}, must be one of its own"
            )
        made = tracking.find_version(origin, chosen.model, version)
        trained = origin.get_run(made.run_id)
        digest = releasing.digest_of(releasing.gather(origin, made))
        if missed := shortcomings(project, name, made, trained, digest):
            raise Refused("\n  ".join([f"version {version} is not deployed to {name}:", *missed]))
        _, client = environments.open_store(project, name)
        releasing.close_records(project, client, chosen.model)
        told = environments.history(project, client, chosen.model)
        there, facts = releasing.copy(project, name, client, origin, made), now(told)
        number = tracking.aliases(client, chosen.model).get(environments.ALIAS)
        if not number == facts.get("copy") == str(there.version):
            say(f"starting the service on version {version} as {name} has it")
            if wrong := releasing.try_service(project, name, there, client, held_out(project, origin, trained)):
                raise Refused("\n  ".join([f"version {version} fails its release tests in {name}:", *wrong]))
            reason = reason or made.tags.get("approved_reason") or f"gates: {made.tags['validation_status']}"
            given = {"before": facts.get("version", "none"), "by": by, "reason": reason, "left": "none"}
            facts = releasing.facts_of(name, chosen.model, there, kind="deploy", **given)
            releasing.move(project, client, facts)
        if late := releasing.lagging(project, name, version):
            reason = "; ".join(late)
            back = releasing.take_back(project, name, client, chosen.model, by, f"automatic: {reason}")
            raise ProjectError(f"{reason}: taken back, version {back['version']} is in use in {name} again")
    return facts


def shortcomings(project: Project, name: str, made: Any, trained: Any, digest: str, approval: bool = True) -> list[str]:
    """Return why version MADE, trained by run TRAINED, must not come to environment NAME, one sentence each.

    Without APPROVAL nobody need have signed it off: for one that answers nobody.
    """
    env, tags = environments.read(project, name), made.tags
    missed = policy.misplaced(project, policy.read(project), name)
    if tags.get("validation_status") not in environments.JUDGED:
        missed.append(f"its gates say {tags.get('validation_status', 'nothing')}: `gate {made.version}` judges it")
    for key, allowed in env.policy.items():
        if not tags.get(key):
            missed.append(f"it has no tag {key}, which conf/environments/{name}.yml asks for")
        elif allowed and tags[key] not in allowed:
            missed.append(f"its tag {key} is {tags[key]}, conf/environments/{name}.yml lets in {', '.join(allowed)}")
    if approval and env.approval and (why := approve.objection(project, name, tags, trained)):
        missed.append(why)
    if env.after:
        chosen, client = environments.open_store(project, env.after)
        told = [
            one for one in environments.history(project, client, chosen.model) if digest in (one["digest"], one["left"])
        ]
        if not told or told[0]["digest"] != digest:
            rolled = "it was rolled back in" if told else "these bytes were never deployed to"
            missed.append(f"{rolled} {env.after}, which comes first: `deploy {made.version} --env {env.after}`")
    return missed


def held_out(project: Project, client: MlflowClient, trained: Any) -> pd.DataFrame:
    """Return the test rows of a run, of the data version that it was trained on."""

    facts = json.loads(tracking.read_artifact(client, trained, "split.json"))
    with tempfile.TemporaryDirectory() as folder:
        versions.restore(project, trained.data.tags["data"].partition("@")[2], Path(folder))
        return stages.cut(project, data_sets.read(project, Path(folder)), facts)["test"]


def now(told: list[dict[str, str]]) -> dict[str, str]:
    """Return the deploy of a history whose version is in use, {} when there is none."""
    return next(reversed(environments.in_use(told)), {})


def in_use_at(told: list[dict[str, str]], moment: datetime) -> list[dict[str, str]]:
    """Return the record by which a version was in use at MOMENT (UTC unless it has a zone), in a list; [] for none."""
    text = f"{moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return [one for one in [one for one in told if one["at"] <= text][:1] if one["version"] != "none"]


def sentence(facts: dict[str, str]) -> str:
    approved = f", approved by {facts['approved_by']}" if facts["approved_by"] != "none" else ""
    done = {"deploy": "deployed", "rollback": "rolled back to"}[facts["kind"]]
    return (
        f"{facts['at']}  {facts['environment']}: {facts['model']} version {facts['version']} {done} "
        f"(before: {facts['before']}), by {facts['by']}: {facts['reason']}{approved}"
    )
