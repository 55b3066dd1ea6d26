"""Measure what changes when version B answers in place of version A: predictions, decisions, slices, and models it feeds.

python -m {package} impact 4 5
python -m {package} impact 4 5 --json
python -m {package} impact --graph          # which model feeds which, out of conf/endpoints.yml

On the held-out rows of B, the later ones of the two. Nothing is refused: the gates do that; `dependents` is one of them.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..core import settings
from ..core.errors import ProjectError, UsageError
from ..core.project import Project
from ..data.problem import problem_of
from ..data.rows import as_records
from ..release import judgement
from ..release.gates import quality
from ..release.judgement import Candidate, Release
from ..serving.contract import Unanswerable
from ..serving.servable import resolve
from ..training import tracking

MAIN = "the main model"  # what `serve --model` names


@dataclass(frozen=True)
class Edge:
    """One model that is fed by another: SECOND gets what FIRST predicts in COLUMN; endpoints and model URIs."""

    endpoint: str
    first: str
    second: str
    column: str


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="A and B: in use now, and what would follow")
    parser.add_argument("--graph", action="store_true", help="print which model feeds which")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if len(options.versions) != (0 if options.graph else 2):
        raise UsageError("impact takes two versions, A and B, or --graph alone")
    for version in options.versions:
        tracking.check(project, version=version)


def run(project: Project, options: argparse.Namespace) -> None:
    if options.graph:
        edges = graph(project)
        lines = [f"{one.first} -> {one.second} as {one.column}, at {one.endpoint}" for one in edges]
        told: Any = [vars(one) for one in edges]
    else:
        told = measure(project, *options.versions)
        lines = sentences(project, told)
    print(json.dumps(told) if options.json else "\n".join(lines) or "no model feeds another (conf/endpoints.yml)")


def graph(project: Project) -> list[Edge]:
    """Return which model feeds which; an endpoint without a URI of its own in conf/endpoints.yml is the service's main."""
    from ..serving.endpoints import Endpoints  # and FastAPI with it

    conf = settings.read(project, "endpoints", Endpoints)
    return [
        Edge(prefix, conf.models.get(link.first, MAIN), conf.models.get(link.second, MAIN), link.column)
        for prefix, link in conf.chains.items()
    ]


def fed_by_main(project: Project, name: str) -> list[Edge]:
    """Return the chains in which a version of model NAME, this project's, comes first."""
    return [
        one
        for one in graph(project)
        if one.first == MAIN or one.first.startswith("env:") or name in re.split("[@/]", one.first)[1:2]
    ]


def measure(project: Project, before: str, after: str) -> dict[str, Any]:
    """Return how the predictions of version AFTER differ from those of BEFORE, and where that is better or worse."""
    chosen, client = tracking.open_store(project)
    limits = settings.read(project, "release", Release)
    old = tracking.open_version(client, chosen.model, before)
    candidate = Candidate(project, client, chosen.model, after)
    rows, truth = candidate.rows, candidate.truth
    theirs, ours = judgement.predict(old, rows), candidate.predicted
    decide = limits.fairness.decide
    problem, moved = problem_of(project), np.abs(ours - theirs)
    otherwise = problem.decided(ours, decide) != problem.decided(theirs, decide)
    told: dict[str, Any] = {
        "before": before,
        "after": after,
        "rows": len(rows),
        "mean_change": float(moved.mean()),
        "largest_change": float(moved.max()),
        "churn": float(otherwise.mean()),
        "decided_at": decide,
        "gain": gains(project, truth, ours, theirs),
        "slices": [],
        "fed": [],
    }
    for column in project.data.SLICES:
        for value, where in rows.groupby(column, dropna=False).indices.items():
            if len(where) >= limits.slices.rows:
                gain = gains(project, truth.iloc[where], ours[where], theirs[where])[project.model.PRIMARY]
                churn = float(otherwise[where].mean())
                told["slices"].append({"slice": f"{column} {value}", "rows": len(where), "gain": gain, "churn": churn})
    told["slices"].sort(key=lambda one: one["gain"])
    for edge in fed_by_main(project, chosen.model):
        fed = {name: follow(project, edge, rows, values) for name, values in (("before", theirs), ("after", ours))}
        change = np.abs(fed["after"] - fed["before"])
        told["fed"].append(
            {"endpoint": edge.endpoint, "model": edge.second, "mean_change": float(change.mean())}
            | {"relative_change": float(change.mean() / (np.std(fed["before"]) or 1))}
        )
    return told


def gains(project: Project, truth: pd.Series, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Return by how much OURS are better than THEIRS in each metric; below 0 is worse."""
    measured = [project.model.metrics(truth, values) for values in (ours, theirs)]
    return {name: quality.gain(project, name, *measured) for name in project.model.HIGHER_IS_BETTER}


def follow(project: Project, edge: Edge, rows: pd.DataFrame, fed: np.ndarray) -> np.ndarray:
    """Return what the second model of EDGE predicts for ROWS when it is fed FED, as the service would.

    Left out are rows that it takes from nobody; what callers send beside this project's columns is as in its example.
    """

    second = resolve(project, edge.second)
    columns = second.contract.columns
    absent = {name: second.example[name] for name in columns if name not in rows and name != edge.column}
    given = rows.assign(**absent, **{edge.column: problem_of(project).fed(fed)})[[*columns]]
    given = given.dropna(subset=[name for name in columns if not columns[name].get("null") and name != edge.column])
    try:
        parsed = second.contract.parse(json.dumps(as_records(given)).encode())
    except Unanswerable as error:
        raise ProjectError(f"{edge.second} does not take what it is fed at {edge.endpoint}: {error}") from None
    return np.asarray(second.compute(parsed), "float64")


def sentences(project: Project, told: dict[str, Any]) -> list[str]:
    gained = ", ".join(f"{name} {value:+.4f}" for name, value in told["gain"].items())
    first = (
        f"version {told['after']} in place of {told['before']}, on {told['rows']:,} held-out rows: predictions move by "
        f"{told['mean_change']:.4f} on average, {told['largest_change']:.4f} at most; {told['churn']:.1%} are decided "
        f"otherwise at {told['decided_at']:g}"
    )
    lines = [first, f"better by: {gained}"]
    for one in told["slices"]:
        lines.append(
            f"  {one['slice']:<24}{project.model.PRIMARY} {one['gain']:+.4f}, {one['churn']:.1%} decided otherwise, "
            f"{one['rows']:,} rows"
        )
    for one in told["fed"]:
        moved = f"{one['mean_change']:.4f} on average, {one['relative_change']:.1%} of their spread"
        lines.append(f"feeds {one['model']} at {one['endpoint']}: what that predicts moves by {moved}")
    return lines
