"""Gate each registered version that was not gated yet, exactly once; exit 3 when one of them is refused.

python -m {package} on-register
python -m {package} on-register --watch 30      # look again every 30 seconds, until it is stopped

Killed, it goes on where it was the next time; two at once share the work.
"""

import argparse
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from ..core import settings
from ..core.errors import Busy, Refused
from ..core.progress import say
from ..core.project import Project
from ..training import tracking
from ..training.pipeline import Training
from . import gate
from .judgement import Release

if TYPE_CHECKING:
    from mlflow import MlflowClient


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="look again and again, this often")
    parser.add_argument("--json", action="store_true", help="print JSON for machines, a line each look")


def run(project: Project, options: argparse.Namespace) -> None:
    chosen, client = tracking.open_store(project)
    while True:
        results = look(project, client, chosen)
        if options.json:
            print(json.dumps(results), flush=True)
        elif results or not options.watch:
            print(
                "\n".join(gate.sentence(project, one) for one in results)
                or "every registered version was gated before",
                flush=True,
            )
        if not options.watch:
            break
        time.sleep(options.watch)
    if refused := [one["version"] for one in results if one["status"] == "refused"]:
        raise Refused(f"refused: version {', '.join(refused)}")


def look(project: Project, client: "MlflowClient", chosen: Training) -> list[dict[str, Any]]:
    """Gate what is not gated, oldest first, but for what another process is gating; return what came of each."""
    results, limits = [], settings.read(project, "release", Release)
    made = client.search_model_versions(f"name = '{chosen.model}'")
    for version in sorted((str(one.version) for one in made if not is_gated(one)), key=int):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(gate.claimed(project, version))
            except Busy as busy:
                say(f"version {version}: {busy}")
                continue
            if is_gated(tracking.find_version(client, chosen.model, version)):  # meanwhile, by another process
                continue
            results.append(gate.judge_version(project, client, chosen, version, limits))
    return results


def is_gated(made: Any) -> bool:
    return "validation_status" in made.tags
