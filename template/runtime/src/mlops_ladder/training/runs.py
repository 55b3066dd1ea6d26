"""List the tracked runs, newest first, or compare some of them.

python -m {package} runs
python -m {package} runs --compare 3f2a1b9c 71d0c8e2     # a run by the start of its id, a version by its number
"""

import argparse
import json
from typing import Any

from ..core.errors import UsageError
from ..core.project import Project
from ..data.versions import short
from . import tracking


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="print what differs between these, side by side")
    parser.add_argument("--limit", type=int, default=20, help="list this many (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.limit < 1:
        raise UsageError(f"--limit is {options.limit}, must be 1 or more")
    chosen, client = tracking.open_store(project)
    compared = [tracking.find(project, client, chosen, text) for text in options.compare or []]
    told = tracking.describe(client, chosen, compared or tracking.search(project, client, limit=options.limit))
    if options.json:
        print(json.dumps(told, indent=2))
    elif options.compare:
        print(side_by_side(told))
    else:
        print("\n".join(map(sentence, told)) or "no run yet: `train` makes one")


def sentence(one: dict[str, Any]) -> str:
    tags, metrics = one["tags"], one["metrics"]
    name = tags.get("primary", "")
    worth = one["status"].lower()
    if f"test_{name}" in metrics:
        worth = f"{name} {metrics[f'test_{name}']:.3f} (baseline {metrics[f'baseline_{name}']:.3f})"
    marks = [f"version {one['version']}"] * bool(one["version"]) + one["aliases"]
    marks += ["uncommitted changes"] * (tags.get("dirty") == "true")
    words = [
        one["run"][:8],
        one["started"],
        *(tags.get(key, "-") for key in ("purpose", "family")),
        short(tags.get("data", "-")),
    ]
    return "  ".join([*words, worth, ", ".join(marks)]).rstrip()


def side_by_side(told: list[dict[str, Any]]) -> str:
    """Return a table of the parameters, metrics and tags that are not the same in all of them, a column a run."""
    flat = [
        {**one["tags"], **one["parameters"], **{key: f"{value:.6g}" for key, value in one["metrics"].items()}}
        for one in told
    ]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if len({one.get(key) for one in flat}) > 1]
    rows = [["", *(one["run"][:8] for one in told)], *([key, *(one.get(key, "-") for one in flat)] for key in keys)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
