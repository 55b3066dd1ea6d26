"""Run a workflow of a rendered project with act, in host mode; actions of other people are small local stand-ins.

What act does not do in this mode (services, environments, tokens, permissions, concurrency, branch and tag filters) is
asserted as YAML in test_workflows.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

RUNNER = "ubuntu-latest"

# What stands in for an action: the artifacts are real files in STORE, so that a job gets what another made.
UPLOAD = """
mkdir -p "$STORE/$NAME"
set -- $FILES
if [ $# = 1 ] && [ -d "$1" ]; then cp -r "$1/." "$STORE/$NAME"; else cp -r "$@" "$STORE/$NAME"; fi
"""
DOWNLOAD = 'mkdir -p "$FILES" && cp -r "$STORE/$NAME/." "$FILES"'
SAVE = '[ ! -d "$FILES" ] || { mkdir -p "$STORE/cache" && cp -r "$FILES/." "$STORE/cache"; }'
RESTORE = '[ ! -d "$STORE/cache" ] || { mkdir -p "$FILES" && cp -r "$STORE/cache/." "$FILES"; }'
STANDINS = {
    "actions/upload-artifact": UPLOAD,
    "actions/download-artifact": DOWNLOAD,
    "actions/cache/save": SAVE,
    "actions/cache/restore": RESTORE,
}
GH = '#!/bin/sh\nprintf "%s\\n" "$@" >> "$STORE/gh.txt"\n'  # writes down what it is asked to do


def run(
    project: Path,
    workflow: str,
    event: str,
    store: Path,
    payload: dict[str, Any] | None = None,
    programs: dict[str, str] | None = None,
    timeout_s: int = 900,
    **more: dict[str, str],
) -> dict[str, str]:
    """Run PROJECT's WORKFLOW for EVENT; return the result of each job that ran: "success" or "failure".

    A job of a matrix is named with its values, as in "check (lint)". A job that did not run is absent. Artifacts and what
    was asked of `gh` are in STORE. `programs` are scripts that stand in for programs; `more` may hold `env`, `var`, `secret` and `input`, each a dict.
    """
    store.mkdir(exist_ok=True)
    (store / "event.json").write_text(json.dumps(payload or {}), encoding="utf-8")
    bin = store / "bin"
    bin.mkdir(exist_ok=True)
    for name, script in {"gh": GH, **(programs or {})}.items():
        (bin / name).write_text(script, encoding="utf-8")
        (bin / name).chmod(0o755)
    words = [tool("act"), event, "--workflows", f".github/workflows/{workflow}.yml", "--json", "--no-cache-server"]
    words += ["--platform", f"{RUNNER}=-self-hosted", "--eventpath", str(store / "event.json")]
    words += ["--action-cache-path", str(store / "act"), "--env", f"STORE={store}"]
    words += ["--env", "NO_COLOR=1", "--env", "UV_NO_PROGRESS=1"]
    for reference, folder in make_standins(uses(project), store / "actions").items():
        words += ["--local-repository", f"{reference}={folder}"]
    for kind, values in more.items():
        for name, value in values.items():
            words += [f"--{kind}", f"{name}={value}"]
    environment = os.environ | {"PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        words, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    (store / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    shutil.rmtree(store / "act", ignore_errors=True)  # a copy of the project and its environment for each job
    results: dict[str, str] = {}
    failed = set()
    for line in done.stdout.splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        values = ", ".join((entry.get("matrix") or {}).values())
        name = f"{entry.get('jobID')} ({values})" if values else entry.get("jobID", "")
        if entry.get("stepResult") == "failure":
            failed.add(name)
        if "jobResult" in entry:  # which, in a matrix, is red for all that end after the first red one
            results[name] = "success" if values and name not in failed else entry["jobResult"]
    assert (done.returncode == 0) == ("failure" not in results.values()), done.stderr
    return results


def said(store: Path) -> str:
    """Return what the steps of the last run printed, to show when a test fails or to look a message up in."""
    lines = [json.loads(line) for line in (store / "log.txt").read_text().splitlines() if line.startswith("{")]
    return "".join(line.get("msg", "") for line in lines if line.get("raw_output") or line.get("level") == "error")


def uses(project: Path) -> set[str]:
    """Return every action that the project's workflows and its own actions take from elsewhere, as owner/name@ref."""
    files = [*project.glob(".github/workflows/*.yml"), *project.glob(".github/actions/*/action.yml")]
    steps = [step for file in files for step in steps_of(yaml.safe_load(file.read_text(encoding="utf-8")))]
    return {step["uses"] for step in steps if "uses" in step and not step["uses"].startswith("./")}


def steps_of(document: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Return the steps of all jobs of a workflow, or those of a composite action."""
    for part in [*document.get("jobs", {}).values(), document.get("runs", {})]:
        yield from part.get("steps", [])


def make_standins(references: set[str], folder: Path) -> dict[str, Path]:
    """Write a composite action for each reference under FOLDER; return the folder of each repository at its commit."""
    made = {}
    for reference in references:
        name, _, commit = reference.partition("@")
        owner, repository, *inner = name.split("/")
        root = folder / f"{owner}-{repository}"
        action = {
            "name": name,
            "description": "stands in for it",
            "inputs": {"name": {"default": "artifact"}, "path": {"default": "."}},
            "runs": {
                "using": "composite",
                "steps": [
                    {
                        "run": STANDINS.get(name, "true"),
                        "shell": "bash",
                        "env": {"NAME": "${{ inputs.name }}", "FILES": "${{ inputs.path }}"},
                    }
                ],
            },
        }
        (root / "/".join(inner)).mkdir(parents=True, exist_ok=True)
        (root / "/".join(inner) / "action.yml").write_text(yaml.safe_dump(action), encoding="utf-8")
        made[f"{owner}/{repository}@{commit}"] = root
    return made


def tool(name: str) -> str:
    """Return the path of a program of this environment; fails, never skips, when it is not installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"no {name} here: install the dependency groups of the template's pyproject.toml"
    return found


def triggers(document: dict[str, Any]) -> dict[str, Any]:
    """Return the events of a workflow and their settings; YAML reads the key `on` as true."""
    events = document[True]
    if isinstance(events, str):
        events = [events]
    return events if isinstance(events, dict) else dict.fromkeys(events)


def pins(text: str) -> list[tuple[str, str]]:
    """Return what stands behind `uses:` in a file and the comment after it."""
    return re.findall(r"^ *(?:- )?uses: (\S+)(.*)$", text, re.MULTILINE)
