"""List, compare and bring back the data versions that models were trained on.

python -m {package} datasets
python -m {package} datasets --compare raw@1a2b3c4d raw@5e6f7a8b
python -m {package} datasets --fetch raw@1a2b3c4d --to /tmp/flights
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ..core.errors import ProjectError, UsageError
from ..core.project import Project
from ..data.versions import restore
from . import tracking


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compare", nargs=2, metavar="VERSION", help="print how two versions differ")
    parser.add_argument("--fetch", metavar="VERSION", help="write the files of a version, byte by byte, into --to")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="an empty or new folder")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.fetch:
        if options.to is None or (options.to.is_dir() and any(options.to.iterdir())):
            raise UsageError("--fetch needs --to FOLDER, empty or new: data that is there is never overwritten")
        restore(project, find(project, options.fetch)["version"], options.to)
        return print(f"{sum(1 for _ in options.to.rglob('*.*'))} files of {options.fetch} are in {options.to}")
    if options.compare:
        found = compare(*(find(project, text) for text in options.compare))
        return print(json.dumps(found) if options.json else table(found))
    versions = known(project)
    if options.json:
        return print(json.dumps(versions))
    for one in versions:
        times = f"{one['profile']['from'][:10]} to {one['profile']['to'][:10]}" if one["profile"]["from"] else "no time"
        print(
            f"{one['name']}@{one['version'][:8]}  {one['profile']['rows']:>11,} rows  {times}  {one['runs']:>4} runs  first {one['first']}"
        )


def known(project: Project) -> list[dict[str, Any]]:
    """Return each data version that a run names, newest first: name, version, profile, how many runs, the first's day."""

    _, client = tracking.open_store(project)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in tracking.search(project, client):
        for used in one.inputs.dataset_inputs:
            dataset, day = used.dataset, tracking.moment(one.info.start_time)
            entry = {"name": dataset.name, "version": dataset.digest, "profile": json.loads(dataset.profile), "runs": 0}
            entry = found.setdefault((dataset.name, dataset.digest), entry)
            entry |= {"runs": entry["runs"] + 1, "first": day}
    return list(found.values())


def find(project: Project, text: str) -> dict[str, Any]:
    """Return the one known version that NAME@VERSION, or the start of it, names."""
    name, _, start = text.rpartition("@")
    versions = known(project)
    fits = [one for one in versions if one["version"].startswith(start) and one["name"] == (name or one["name"])]
    if len(fits) != 1:
        there = ", ".join(f"{one['name']}@{one['version'][:8]}" for one in versions) or "none yet"
        raise ProjectError(f"{text} names {len(fits)} data versions, must be one of: {there}")
    return fits[0]


def compare(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return what differs between two versions: {"rows": [60000, 65000], "temperature max": [98.1, 99.0]}."""
    flat = []
    for one in (old, new):
        facts = {key: one["profile"][key] for key in ("rows", "from", "to") if key in one["profile"]}
        for name, column in one["profile"]["columns"].items():
            facts |= {f"{name} {key}": value for key, value in column.items()}
        flat.append(facts)
    return {
        key: [flat[0].get(key), flat[1].get(key)]
        for key in {**flat[0], **flat[1]}
        if flat[0].get(key) != flat[1].get(key)
    }


def table(differences: dict[str, Any]) -> str:
    if not differences:
        return "no difference in rows, columns, missing values or ranges"
    width = max(map(len, differences))
    return "\n".join(f"{key:<{width}}  {old}  ->  {new}" for key, (old, new) in differences.items())
