"""Are its predictions numbers that can be: finite, in range, not all the same, one a row whatever the order?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...core.project import Project
from ...data.problem import Problem, problem_of
from ..judgement import Candidate, Finding, Release

SUM = 1e-6  # of as many rounded numbers as there are classes
SAME = 1e-9  # relative: the order of additions in a batch may differ, another row's value differs by more


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    problem, predicted = problem_of(candidate.project), candidate.predicted
    (low, high), needed = problem.bounds, problem.shape(len(candidate.rows))
    shape, kinds = predicted.shape == needed, len(np.unique(predicted, axis=0))
    order = np.random.default_rng(0).permutation(len(candidate.rows))
    again = candidate.predict(candidate.rows.iloc[order])
    within = f"numbers from {low:g} to {high:g}" if np.isfinite([low, high]).all() else "numbers, none of them infinite"
    return [
        Finding("sanity", "shape", shape, shown(predicted.shape), shown(needed)),
        Finding("sanity", "predictions", possible(candidate.project, predicted), spread(predicted), within),
        *sums(problem, predicted),
        Finding(
            "sanity",
            "distinct predictions",
            kinds > 1,
            f"{kinds:,} different values",
            "2 or more, or it says the same of everybody",
        ),
        Finding(
            "sanity",
            "another order of rows",
            bool(np.allclose(again, predicted[order], rtol=SAME, atol=SAME)),
            f"{np.abs(again - predicted[order]).max():.2g} apart at most",
            f"the same to within {SAME:g}",
        ),
        *(
            Finding("sanity", title, possible(candidate.project, values), spread(values), within)
            for title, values in {
                "odd rows": candidate.predict(candidate.odd()),
                "rows at the ends of SCHEMA": candidate.predict(extremes(candidate)),
            }.items()
        ),
    ]


def sums(problem: Problem, predicted: np.ndarray) -> list[Finding]:
    """Return whether the probabilities of a row add up to 1, of several classes."""
    if not problem.classes:
        return []
    apart = float(np.abs(predicted.sum(axis=-1) - 1).max())
    told = f"{apart:.2g} from it at most"
    return [Finding("sanity", "probabilities of a row add up to 1", apart <= SUM, told, f"within {SUM:g}")]


def possible(project: Project, values: np.ndarray) -> bool:
    low, high = problem_of(project).bounds
    return bool(values.size and np.isfinite(values).all() and low <= values.min() and values.max() <= high)


def spread(values: np.ndarray) -> str:
    lost = int((~np.isfinite(values)).sum())
    return f"{lost} of {values.size} are no finite numbers" if lost else f"{values.min():.4g} to {values.max():.4g}"


def shown(shape: tuple[int, ...]) -> str:
    """Return the SHAPE of predictions in words."""
    each = "one number" if len(shape) == 1 else f"{' x '.join(map(str, shape[1:]))} numbers"
    return f"{each} for each of {shape[0]:,} rows" if shape else "a single number"


def extremes(candidate: Candidate) -> pd.DataFrame:
    """Return rows whose numbers are all the smallest, or all the largest, that SCHEMA allows."""
    base, rules = candidate.some(20)[candidate.columns], candidate.note["columns"]
    ends = [{name: rule[end] for name, rule in rules.items() if end in rule} for end in ("min", "max")]
    return pd.concat([base.assign(**end) for end in ends], ignore_index=True)
