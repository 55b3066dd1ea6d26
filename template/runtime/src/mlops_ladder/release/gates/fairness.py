"""Does it treat the groups that behaviour.py names alike? Differences between groups, measured with fairlearn."""

import itertools
from collections.abc import Callable

import numpy as np
from sklearn.metrics import mean_absolute_error

from ...core.errors import ProjectError
from ...data.problem import Outcome, problem_of
from ..judgement import Candidate, Finding, Release

Measure = Callable[[np.ndarray, np.ndarray], float]
RATES = ("selection_rate", "true_positive_rate", "false_positive_rate")  # of decisions, not of predictions


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    from fairlearn.metrics import MetricFrame

    asked, findings = limits.fairness, []
    known, problem = measures(asked.decide), problem_of(candidate.project)
    if unknown := [name for name in asked.differences if name not in known]:
        raise ProjectError(f"conf/release.yml: fairness.differences: {unknown[0]} is none of {', '.join(known)}")
    outcomes = problem.outcomes(candidate.truth, candidate.predicted, asked.decide)
    for title, group in candidate.project.behaviour.groups(candidate.rows).items():
        counts = group.value_counts()
        large = group.isin(counts.index[counts >= asked.rows]).to_numpy()
        if group[large].nunique() < 2:
            told = f"{group[large].nunique()} with {asked.rows} rows or more"
            findings.append(Finding("fairness", f"groups by {title}", False, told, "2 or more to compare"))
            continue
        for outcome, (name, limit) in itertools.product(outcomes, asked.differences.items()):
            frame = MetricFrame(
                metrics=measures(outcome.decide)[name],
                y_true=outcome.truth[large],
                y_pred=compared(outcome, name)[large],
                sensitive_features=group[large].astype(str).to_numpy(),
            )
            of, difference = frame.by_group, float(frame.difference())
            told = f"{difference:.3f} ({of.idxmin()} {of.min():.3f}, {of.idxmax()} {of.max():.3f})"
            what = f"{name} of {outcome.name} by {title} differs" if outcome.name else f"{name} by {title} differs"
            findings.append(Finding("fairness", what, difference <= limit, told, f"{limit:g} or less"))
    return findings


def compared(outcome: Outcome, name: str) -> np.ndarray:
    """Return what measure NAME takes for the prediction: of a rate what was decided."""
    return outcome.chosen if name in RATES else outcome.predicted


def measures(decide: float) -> dict[str, Measure]:
    """Return what can be compared between groups: functions of truth and prediction. From DECIDE on counts as yes."""
    from fairlearn import metrics as fair

    def on_decisions(rate: Callable) -> Measure:
        return lambda truth, predicted: rate(truth >= decide, predicted >= decide, pos_label=True)

    return {
        "bias": lambda truth, predicted: float((predicted - truth).mean()),
        "mean_absolute_error": mean_absolute_error,
        "selection_rate": on_decisions(fair.selection_rate),
        "true_positive_rate": on_decisions(fair.true_positive_rate),
        "false_positive_rate": on_decisions(fair.false_positive_rate),
    }
