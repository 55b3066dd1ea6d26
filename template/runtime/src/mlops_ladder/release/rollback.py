"""Put the version into use again that was there before, as recorded; nothing is built, copied or downloaded for it.

python -m {package} rollback --env prod --reason "refuses rows without a tail number"
"""

import argparse
import json

from ..core import levels
from ..core.errors import ProjectError, Refused
from ..core.project import Project
from ..training import tracking
from . import deploy, environments, releasing


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", required=True, help="environment, one of conf/environments/")
    parser.add_argument("--reason", required=True, help="why, in a sentence; it is kept")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    environments.require(project, options.env, "rollback")
    if not tracking.champion(project, environments.settings_of(project, options.env)):
        raise Refused(f"nothing is deployed in {options.env}: there is no version before it to go back to")


def run(project: Project, options: argparse.Namespace) -> None:
    by = environments.require(project, options.env, "rollback")
    with releasing.working(project, options.env):
        chosen, client = environments.open_store(project, options.env)
        releasing.close_records(project, client, chosen.model)
        left = environments.in_use(environments.history(project, client, chosen.model))
        if len(left) < 2:
            there = f"version {left[0]['version']} is the first" if left else "nothing is deployed"
            raise Refused(f"{there} in {options.env}: there is no version before it to go back to")
        before = client.get_model_version(chosen.model, left[-2]["copy"])
        for module in levels.modules(project, "verifiers"):  # a service would not open it: better to stay
            module.verify(project, client, before.name, before.version, releasing.fetch(client, before))
        facts = releasing.take_back(project, options.env, client, chosen.model, by, options.reason)
        late = releasing.lagging(project, options.env, facts["version"])
    print(json.dumps(facts) if options.json else deploy.sentence(facts))
    if late:
        raise ProjectError(f"{'; '.join(late)}: restart it, the version in use is {facts['version']}")
