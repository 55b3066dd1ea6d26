"""Rebuild a run from its commit, data version and settings, and say by how much its metrics differ.

python -m {package} reproduce 3f2a1b9c
python -m {package} reproduce 4            # the run of a registered version

It trains in a copy of the commit, away from your files, in the locked environment. On one machine the difference is
zero; exit 3 when it is not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ..core import files
from ..core.errors import ProjectError, Refused
from ..core.progress import say
from ..core.project import Project
from ..core.repository import git
from ..data import versions
from ..data.versions import short
from . import pipeline, recording, tracking


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run by the start of its id, or a version by its number")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if options.run.isdigit() and len(options.run) < 6:  # as `tracking.find` tells a version from a run
        tracking.check(project, version=options.run)


def run(project: Project, options: argparse.Namespace) -> None:
    chosen, client = tracking.open_store(project)
    original = tracking.find(project, client, chosen, options.run)
    name, tags = original.info.run_id[:8], original.data.tags
    if tags.get("dirty") != "false":
        raise Refused(f"run {name} was trained with uncommitted changes: no commit holds its code")
    metrics = rebuild(project, tags, yaml.safe_load(tracking.read_artifact(client, original, "settings.yml")))
    rebuilt = {f"{part}_{key}": value for part, of in metrics["metrics"].items() for key, value in of.items()}
    differences = {key: value - original.data.metrics[key] for key, value in rebuilt.items()}
    line = f"run {name} rebuilt from commit {tags['commit'][:8]} and {short(tags['data'])}"
    if (now := versions.latest(project, version := tags["data"].partition("@")[2])) != version:
        line += f" (now {now[:8]}: rows were forgotten since)"
    if options.json:
        print(json.dumps({"run": original.info.run_id, "differences": differences}))
    if differing := [f"{key} differs by {value:g}" for key, value in differences.items() if value]:
        raise Refused(
            f"{line}: {', '.join(differing)}; the other {len(differences) - len(differing)} metrics are equal"
        )
    if not options.json:
        print(f"{line}: {len(differences)} metrics, no difference")


def rebuild(project: Project, tags: dict[str, str], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of a training at the commit of TAGS, on its data version, with the settings CHOSEN."""
    versions.ensure(project, tags["data"].partition("@")[2])
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "commit"
        added = subprocess.run(
            ["git", "worktree", "add", "--detach", tree, tags["commit"]],
            cwd=project.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if added.returncode:
            raise ProjectError(f"commit {tags['commit'][:8]} is not in this clone: {added.stderr.strip()}")
        try:
            return train_in(project, tree / git(project, "rev-parse", "--show-prefix"), tags, chosen)
        finally:
            subprocess.run(
                ["git", "worktree", "remove", "--force", tree], cwd=project.folder, capture_output=True, check=False
            )


def train_in(project: Project, folder: Path, tags: dict[str, str], chosen: dict[str, Any]) -> dict[str, Any]:
    cache = project.path(".dvc/cache").resolve()
    # its data comes from this clone, whatever its own remote is and whoever has the key to it
    remote = f"[core]\n    remote = clone\n['remote \"clone\"']\n    url = {cache}\n"
    (folder / ".dvc/config.local").write_text(remote, encoding="utf-8")
    chosen["tags"]["purpose"] = "experiment"
    words = [f"--set={key}={json.dumps(value)}" for key, value in chosen.items() if key not in ("data", "tracking_uri")]
    same = tags["lock"] == recording.provenance(project)["lock"]
    python = [sys.executable] if same else ["uv", "run", "--project", str(folder), "--locked", "python"]
    say(f"training at commit {tags['commit'][:8]}" + ("" if same else ", in its own locked environment"))
    kind, _, version = tags["data"].partition("@")
    uri = tracking.open_store(project)[1].tracking_uri  # its champion is measured too; nothing is written there
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder / 'runtime/src'}",
        "MLFLOW_TRACKING_URI": uri,
    }
    done = subprocess.run(
        [
            *python,
            "-m",
            project.package,
            "train",
            "--until",
            "evaluate",
            "--data",
            f"{kind}@{versions.latest(project, version)}",
            *words,
        ],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise ProjectError(f"the training at commit {tags['commit'][:8]} failed: the lines above say why")
    return files.read_json(folder / pipeline.EVALUATION / "metrics.json")
