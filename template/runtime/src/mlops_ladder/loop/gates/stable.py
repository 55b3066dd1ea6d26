"""Does it still know what was known? Judged on rows that no retraining learns from, the same ones each time."""

from typing import Any

import pandas as pd

from ...core.project import Project
from ...data import versions
from ...release.gates.quality import gain
from ...release.judgement import Candidate, Finding, Release, predict
from ...training import recording, tracking
from .. import retrain, triggers


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    rows, retrained = read(candidate.project, candidate.run), candidate.run.data.tags.get("purpose") == "retraining"
    if rows is None or candidate.champion is None:
        told = "none in its data version" if rows is None else "there is no champion yet"
        return [Finding("stable", "rows kept aside", not retrained, told, "there when it is a retraining")]
    version = candidate.champion.version
    run = candidate.client.get_run(tracking.find_version(candidate.client, candidate.name, version).run_id)
    if run.data.tags["data"].partition("@")[0] != retrain.DATASET:  # it may have learned from them
        rows = rows[
            recording.split_of(candidate.project, candidate.client, run).unseen(rows, *candidate.splits.values())
        ]
    enough = len(rows) >= limits.slices.rows
    title = f"rows kept aside that champion {version} has not seen"
    findings = [Finding("stable", title, enough, f"{len(rows):,}", f"{limits.slices.rows:,} or more")]
    if not enough:
        return findings
    ours, theirs = (
        candidate.project.model.metrics(rows[candidate.project.data.TARGET], predict(opened, rows))
        for opened in (candidate.opened, tracking.open_version(candidate.client, candidate.name, version))
    )
    for name, worse in triggers.read(candidate.project).stable.worse.items():
        value, told = gain(candidate.project, name, ours, theirs), f"{ours[name]:.4f} against {theirs[name]:.4f}"
        findings.append(
            Finding(
                "stable",
                f"{name} over champion {version}",
                value >= -worse,
                f"{value:+.4f} ({told})",
                f"{-worse:+g} or more",
            )
        )
    return findings


def read(project: Project, run: Any) -> pd.DataFrame | None:
    """Return the rows kept aside in the data version of RUN, None without."""
    files = versions.ensure(project, run.data.tags["data"].partition("@")[2])
    aside = [file for path, file in sorted(files.items()) if path.parts[0] == retrain.ASIDE]
    return pd.concat([pd.read_parquet(file) for file in aside], ignore_index=True) if aside else None
