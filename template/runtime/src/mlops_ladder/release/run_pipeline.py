"""Train with the pipeline that is deployed here; its schedule runs this. Every run names the pipeline's version.

cd environments/prod/pipeline/work && ../VERSION/bin/python -m {package} run-pipeline

Stages that conf/pipeline.yml isolates run in a Python of their own, the others in the pipeline's. Otherwise it is `train`.
"""

import argparse
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import ProjectError
from ..core.project import Project
from ..training import pipeline, train
from .deploy_pipeline import FACTS, read, start


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="add version=N to it, for a workflow")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> int:
    folder = project.folder.resolve().parent
    if not (folder / FACTS).is_file():
        raise ProjectError(
            f"no {folder / FACTS}: run this in the work folder of a pipeline, `deploy-pipeline` makes it"
        )
    facts = read(folder)
    with files.locked(folder / ".lock"):  # nobody installs another meanwhile
        for stage, until in parts(facts["isolated"]):
            words = ["train", "--until", until, "--json", *named(facts)]
            done = start(project, folder, facts, words, stage, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                return done.returncode
    result = json.loads(done.stdout)
    if options.output:
        with options.output.open("a", encoding="utf-8") as out:
            out.write(f"version={result['version']}\n")
    if options.json:
        print(json.dumps({**result, "pipeline": facts["version"]}))
    else:
        print(f"{train.sentence(result)}, by pipeline {facts['version']}")
    return 0


def parts(isolated: dict[str, Any]) -> list[tuple[str | None, str]]:
    """Return, for each stretch of stages that one Python runs, the isolated stage it is for and its last stage."""
    stretches = itertools.groupby(pipeline.STAGES, lambda name: name if name in isolated else None)
    return [(stage, list(names)[-1]) for stage, names in stretches]


def named(facts: dict[str, Any]) -> list[str]:
    """Return the words by which a run is told the pipeline that makes it."""
    tags = {"pipeline": facts["version"]}
    if facts["isolated"]:
        tags["isolated"] = ", ".join(f"{stage} ({' '.join(given)})" for stage, given in facts["isolated"].items())
    return [word for key, value in tags.items() for word in ("--set", f"tags.{key}={value}")]
