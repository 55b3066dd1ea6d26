"""Is it good enough, better than no model, and no worse than the champion? All measured afresh on the same held-out rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...core.project import Project
from ...training import success
from ..judgement import Candidate, Finding, Quality, Release

N_RESAMPLED = 20_000  # rows that an interval is taken from; with more it is narrower and takes longer


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    asked, truth, ours = limits.quality, candidate.truth, candidate.predicted
    measured, trivial = (
        candidate.project.model.metrics(truth, ours),
        candidate.project.model.metrics(truth, candidate.baseline),
    )
    criteria = success.read(candidate.project)
    missed = success.missed_criteria(candidate.project, measured, trivial, criteria)
    low, high = intervals(candidate.project, truth, ours, candidate.baseline, asked)[candidate.project.model.PRIMARY]
    return [
        Finding("quality", "held-out rows", len(truth) >= asked.rows, f"{len(truth):,}", enough_rows(asked)),
        Finding(
            "quality",
            "metrics",
            not missed,
            success.measured_beside(measured, trivial, criteria),
            f"{success.asked(criteria)} (conf/success.yml)",
        ),
        Finding(
            "quality",
            f"{candidate.project.model.PRIMARY} over the baseline",
            low > 0,
            f"{gain(candidate.project, candidate.project.model.PRIMARY, measured, trivial):+.4f} ({asked.confidence:.0%} interval {low:+.4f} to {high:+.4f})",
            "above 0 in the whole interval",
        ),
        *against_champion(candidate, asked),
    ]


def against_champion(candidate: Candidate, asked: Quality) -> list[Finding]:
    """Return how the candidate compares with the champion, on the rows that neither was trained on."""
    champion = candidate.champion
    if champion is None:
        return [Finding("quality", "champion", True, "there is none yet", "compared with when there is one")]
    fair = champion.unseen
    title = f"rows that champion {champion.version} has not seen"
    enough = int(fair.sum()) >= asked.rows
    findings = [Finding("quality", title, enough, f"{fair.sum():,}", enough_rows(asked))]
    if not enough:
        return findings
    truth, ours, theirs = candidate.truth[fair], candidate.predicted[fair], champion.predicted[fair]
    measured, other = candidate.project.model.metrics(truth, ours), candidate.project.model.metrics(truth, theirs)
    ranges = intervals(candidate.project, truth, ours, theirs, asked)
    for name, limit in asked.over_champion.items():
        value, (low, high) = gain(candidate.project, name, measured, other), ranges[name]
        findings.append(
            Finding(
                "quality",
                f"{name} over champion {champion.version}",
                value >= limit.measured and low >= limit.surely,
                f"{value:+.4f} ({asked.confidence:.0%} interval {low:+.4f} to {high:+.4f}; {measured[name]:.4f} "
                f"against {other[name]:.4f})",
                f"{limit.measured:+g} or more, its interval from {limit.surely:+g}",
            )
        )
    return findings


def enough_rows(asked: Quality) -> str:
    return f"{asked.rows:,} or more (quality.rows in conf/release.yml)"


def gain(project: Project, name: str, ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Return by how much OURS are better than THEIRS in metric NAME; above 0 is better, whichever way it counts."""
    return (ours[name] - theirs[name]) * (1 if project.model.HIGHER_IS_BETTER[name] else -1)


def intervals(
    project: Project, truth: pd.Series, ours: np.ndarray, theirs: np.ndarray, asked: Quality
) -> dict[str, tuple[float, float]]:
    """Return the interval in which each metric's gain lies: the paired bootstrap, both models on the same drawn rows."""
    generator = np.random.default_rng(0)
    rows = generator.permutation(len(truth))[:N_RESAMPLED]
    gains: dict[str, list[float]] = {name: [] for name in project.model.HIGHER_IS_BETTER}
    for _ in range(asked.resamples):
        drawn = rows[generator.integers(len(rows), size=len(rows))]
        mine, other = (project.model.metrics(truth.iloc[drawn], values[drawn]) for values in (ours, theirs))
        for name, values in gains.items():
            values.append(gain(project, name, mine, other))
    ends = (1 - asked.confidence) / 2, (1 + asked.confidence) / 2
    # of few rows a draw may have one class alone, which some metrics have no value for
    quantiles = {name: np.nanquantile(values, ends) for name, values in gains.items()}
    return {name: (float(low), float(high)) for name, (low, high) in quantiles.items()}
