"""Put the version into use again that was there before, as recorded; nothing is built, copied or downloaded for it.

python -m {package} rollback --env prod --reason "refuses rows without a tail number"
"""

import argparse
import json

from . import ProjectError, Refused, deploy, environments, releasing, service


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", required=True, help="environment, one of conf/environments/")
    parser.add_argument("--reason", required=True, help="why, in a sentence; it is kept")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(options: argparse.Namespace) -> None:
    by = environments.require(options.env, "rollback")
    with releasing.working(options.env):
        chosen, client = environments.open_store(options.env)
        releasing.settle(client, chosen.model)
        left = environments.in_use(environments.history(client, chosen.model))
        if len(left) < 2:
            there = f"version {left[0]['version']} is the first" if left else "nothing is deployed"
            raise Refused(f"{there} in {options.env}: there is no version before it to go back to")
        before = client.get_model_version(chosen.model, left[-2]["copy"])
        for module in service.found("def verify("):  # a service would not open it: better to stay
            module.verify(client, before.name, before.version, releasing.fetch(client, before))
        facts = releasing.take_back(options.env, client, chosen.model, by, options.reason)
        late = releasing.lagging(options.env, facts["version"])
    print(json.dumps(facts) if options.json else deploy.sentence(facts))
    if late:
        raise ProjectError(f"{'; '.join(late)}: restart it, the version in use is {facts['version']}")
