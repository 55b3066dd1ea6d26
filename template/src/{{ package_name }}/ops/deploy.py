"""Deploy a version to test or prod: checked, copied, tried in the service, put into use, and watched as it arrives.

python -m {package} deploy 4 --env test
python -m {package} deploy 4 --env prod --reason "better on winter flights"
python -m {package} deploy --history --env prod --at 2026-03-01T12:00

It is refused, exit 3, while the version has not passed its gates, breaks the environment's policy or lacks its
approval, or when the service does not answer with it as it should. An endpoint that does not take it up within
answer_s has the version taken back, exit 1. Nothing is built again: what was judged is copied, byte by byte.
"""

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from . import ProjectError, Refused, UsageError, approve, environments, policy, releasing, tracking
from .pipeline import say


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", nargs="?", help="number of the version; `runs` lists them")
    parser.add_argument("--env", required=True, help="environment, one of conf/environments/")
    parser.add_argument("--reason", help="why; it is kept (default: the reason of the approval)")
    parser.add_argument("--history", action="store_true", help="print what was deployed when, by whom and why")
    parser.add_argument(
        "--at", type=datetime.fromisoformat, metavar="TIME", help="with --history: what was in use then"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(options: argparse.Namespace) -> None:
    if options.history:
        chosen, client = environments.open_store(options.env)
        with environments.reached():
            told = environments.history(client, chosen.model)
        if options.at:
            told = in_use_at(told, options.at)
        nothing = f"nothing was in use in {options.env} then" if options.at else f"nothing is deployed in {options.env}"
        return print(json.dumps(told) if options.json else "\n".join(map(sentence, told)) or nothing)
    if not options.version:
        raise UsageError("deploy needs a VERSION, or --history")
    facts = deploy(options.env, options.version, options.reason)
    print(json.dumps(facts) if options.json else sentence(facts))


def deploy(name: str, version: str, reason: str | None = None) -> dict[str, str]:
    """Put origin version VERSION into use in environment NAME; return the record of it.

    Run again after it was killed, it goes on; when the version is in use already only the endpoints are asked.
    """
    if name == "dev":
        raise UsageError("versions are made in dev: deploy them to another environment")
    by = environments.require(name, "deploy")
    with releasing.working(name):
        chosen, origin = environments.open_store("dev")
        stores = {other: environments.read(other).tracking_uri for other in environments.names()}
        if shared := [other for other in stores if other != name and stores[other] == stores[name]]:
            raise ProjectError(
                f"conf/environments/{name}.yml: tracking_uri is that of {shared[0]}, must be one of its own"
            )
        made = tracking.find_version(origin, chosen.model, version)
        trained = origin.get_run(made.run_id)
        digest = releasing.digest_of(releasing.gather(origin, made))
        if missed := shortcomings(name, made, trained, digest):
            raise Refused("\n  ".join([f"version {version} is not deployed to {name}:", *missed]))
        _, client = environments.open_store(name)
        releasing.settle(client, chosen.model)
        told = environments.history(client, chosen.model)
        there, facts = releasing.copy(name, client, origin, made), now(told)
        number = tracking.aliases(client, chosen.model).get(environments.ALIAS)
        if not number == facts.get("copy") == str(there.version):
            say(f"starting the service on version {version} as {name} has it")
            if wrong := releasing.check(name, there, client, held_out(origin, trained)):
                raise Refused("\n  ".join([f"version {version} fails its release tests in {name}:", *wrong]))
            reason = reason or made.tags.get("approved_reason") or f"gates: {made.tags['validation_status']}"
            given = {"before": facts.get("version", "none"), "by": by, "reason": reason, "left": "none"}
            facts = releasing.facts_of(name, chosen.model, there, kind="deploy", **given)
            releasing.move(client, facts)
        if late := releasing.lagging(name, version):
            reason = "; ".join(late)
            back = releasing.take_back(name, client, chosen.model, by, f"automatic: {reason}")
            raise ProjectError(f"{reason}: taken back, version {back['version']} is in use in {name} again")
    return facts


def shortcomings(name: str, made: Any, trained: Any, digest: str) -> list[str]:
    """Return why version MADE, trained by run TRAINED, must not come to environment NAME, one sentence each."""
    env, tags = environments.read(name), made.tags
    missed = policy.misplaced(policy.read(), name)
    if tags.get("validation_status") not in environments.JUDGED:
        missed.append(f"its gates say {tags.get('validation_status', 'nothing')}: `gate {made.version}` judges it")
    for key, allowed in env.policy.items():
        if not tags.get(key):
            missed.append(f"it has no tag {key}, which conf/environments/{name}.yml asks for")
        elif allowed and tags[key] not in allowed:
            missed.append(f"its tag {key} is {tags[key]}, conf/environments/{name}.yml lets in {', '.join(allowed)}")
    if env.approval and (why := approve.objection(name, tags, trained)):
        missed.append(why)
    if env.after:
        chosen, client = environments.open_store(env.after)
        told = [one for one in environments.history(client, chosen.model) if digest in (one["digest"], one["left"])]
        if not told or told[0]["digest"] != digest:
            rolled = "it was rolled back in" if told else "these bytes were never deployed to"
            missed.append(f"{rolled} {env.after}, which comes first: `deploy {made.version} --env {env.after}`")
    return missed


def held_out(client: Any, trained: Any) -> pd.DataFrame:
    """Return the test rows of a run, of the data version that it was trained on."""
    from .. import data
    from . import datasets, stages

    split = json.loads(tracking.read_artifact(client, trained, "split.json"))
    with tempfile.TemporaryDirectory() as folder:
        datasets.restore(trained.data.tags["data"].partition("@")[2], Path(folder))
        rows = datasets.read(Path(folder)).sort_values(data.TIME, kind="stable", ignore_index=True)
    return stages.cut(stages.sample(rows, split["sample"]), split["cuts"])["test"]


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
