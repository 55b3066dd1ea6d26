"""Do the models that are fed by this one still get what they can work with? Those of conf/endpoints.yml, run on both."""

from __future__ import annotations

import numpy as np

from ...release.judgement import Candidate, Finding, Release, predict
from ...training import tracking
from .. import impact

MOST = 0.5  # of the spread of what a fed model predicted before; more is another model to whoever calls that


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    edges = impact.fed_by_main(candidate.project, candidate.name)
    if not edges:
        return [
            Finding(
                "dependents",
                "models fed by this one",
                True,
                "none",
                "able to work with its predictions, where there are any",
            )
        ]
    findings, champion = [], candidate.champion
    rows = candidate.some(limits.parity.rows)
    for edge in edges:
        after = impact.follow(
            candidate.project, edge, rows, candidate.predict(rows)
        )  # raises where it takes no such value
        whole = bool(np.isfinite(after).all())
        said, near = f"{len(after)} predictions", True
        if champion:
            theirs = tracking.open_version(candidate.client, candidate.name, champion.version)
            before = impact.follow(candidate.project, edge, rows, predict(theirs, rows))
            change = float(np.abs(after - before).mean() / (before.std() or 1))
            said, near = f"its predictions move by {change:.1%} of their spread", change <= MOST
        findings.append(
            Finding("dependents", f"{edge.second} at {edge.endpoint}", whole and near, said, f"{MOST:.0%} or less")
        )
    return findings
