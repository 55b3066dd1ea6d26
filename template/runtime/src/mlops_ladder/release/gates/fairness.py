"""Does it treat the groups that behaviour.py names alike? Differences between groups, measured with fairlearn."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ...core.errors import ProjectError
from ...core.project import Project
from ...data.problem import Outcome, problem_of
from ..judgement import Candidate, Finding, Release

Measure = Callable[..., float]  # of truth and prediction, one number each a row
RATES = ("selection_rate", "true_positive_rate", "false_positive_rate")  # of decisions, not of predictions


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    from fairlearn.metrics import MetricFrame

    asked, findings = limits.fairness, []
    known, problem = measures(asked.decide), problem_of(candidate.project)
    if unknown := [name for name in asked.differences if name not in known]:
        raise ProjectError(f"conf/release.yml: fairness.differences: {unknown[0]} is none of {', '.join(known)}")
    groups = declared(candidate.project, candidate.rows)
    if not groups:
        return [Finding.not_declared("fairness", "groups() in behaviour.py")]
    outcomes = problem.outcomes(candidate.truth, candidate.predicted, asked.decide)
    for title, group in groups.items():
        counts = group.value_counts()
        large = group.isin(counts.index[counts >= asked.rows]).to_numpy()
        if group[large].nunique() < 2:
            told = f"{group[large].nunique()} with {asked.rows} rows or more"
            findings.append(
                Finding(
                    "fairness",
                    f"groups by {title}",
                    False,
                    told,
                    "2 or more to compare (fairness.rows in conf/release.yml)",
                )
            )
            continue
        for outcome, (name, limit) in itertools.product(outcomes, asked.differences.items()):
            frame = MetricFrame(
                metrics=measures(outcome.decide)[name],
                y_true=outcome.truth[large],
                y_pred=compared(outcome, name)[large],
                sensitive_features=group[large].astype(str).to_numpy(),
            )
            of, difference = frame.by_group.dropna(), float(frame.difference())
            what = f"{name} of {outcome.name} by {title} differs" if outcome.name else f"{name} by {title} differs"
            if len(of) < 2:  # the rate counts rows that are in one group at most, such as the positive ones
                findings.append(Finding("fairness", what, True, "fewer than two groups have such rows", "2 to compare"))
                continue
            told = f"{difference:.3f} ({of.idxmin()} {of.min():.3f}, {of.idxmax()} {of.max():.3f})"
            findings.append(Finding("fairness", what, difference <= limit, told, f"{limit:g} or less"))
    return findings


def declared(project: Project, rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the groups of behaviour.py by title: to which each of ROWS belongs; {} where none are declared."""
    groups = getattr(project.behaviour, "groups", None)
    return {str(title): group for title, group in groups(rows).items()} if groups else {}


def compared(outcome: Outcome, name: str) -> Any:
    """Return what measure NAME takes for the prediction: of a rate what was decided."""
    return outcome.chosen if name in RATES else outcome.predicted


def measures(decide: float) -> dict[str, Measure]:
    """Return what can be compared between groups: functions of truth and prediction. From DECIDE on counts as yes."""
    from fairlearn import metrics as fair
    from sklearn.metrics import mean_absolute_error

    def on_decisions(rate: Callable, among: bool | None = None) -> Measure:
        """Return RATE of decisions, NaN where none of the rows that it counts AMONG, those that are or are not, is there."""

        def measure(truth: Any, predicted: Any) -> float:
            known = np.asarray(truth) >= decide
            counted = among is None or (known == among).any()
            return float(rate(known, predicted >= decide, pos_label=True)) if counted else float("nan")

        return measure

    return {
        "bias": lambda truth, predicted: float((predicted - truth).mean()),
        "mean_absolute_error": mean_absolute_error,
        "selection_rate": on_decisions(fair.selection_rate),
        "true_positive_rate": on_decisions(fair.true_positive_rate, among=True),
        "false_positive_rate": on_decisions(fair.false_positive_rate, among=False),
    }
