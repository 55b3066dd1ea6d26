"""The problem that PROBLEM in data.py names: the one object that decides wherever kinds of problem differ."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import ProjectError
from ..core.project import Project


class Problem(ABC):
    """What follows from the kind of target: what a prediction is, what a label may be, and what a row loses."""

    loss = ""  # what the mean of `losses` is called

    def __init__(self, project: Project) -> None:
        self.project = project
        self.rule: dict[str, Any] = project.data.SCHEMA[project.data.TARGET]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest prediction that can be."""
        return 0.0, 1.0

    @property
    def labels(self) -> list[Any]:
        """The labels that must occur in rows that are learned from or measured on; empty where any number may be one."""
        return []

    def absent(self, truth: pd.Series) -> list[Any]:
        """Return the labels that TRUTH must hold and does not."""
        seen = set(truth.dropna().unique())
        return [label for label in self.labels if label not in seen]

    def answer_schema(self, output: str) -> dict[str, dict[str, Any]]:
        """Return the JSON Schema of each value that is answered for a row; the prediction is called OUTPUT."""
        return {output: {"type": "number"}}

    @abstractmethod
    def losses(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return what each row adds to the mean loss, shape (n_rows,); nan where its TRUTH is."""

    def truths(self, labels: Any) -> pd.Series:
        """Return labels, kept as numbers, as the metrics of model.py know them from training."""
        return pd.Series(np.asarray(labels, dtype="float64"))

    def measurable(self, truth: pd.Series) -> bool:
        """Return whether metrics can be taken on rows of this TRUTH."""
        return True

    def moved(self, truth: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Return the truth of a row like another one whose prediction is higher BY so much."""
        return truth


class Binary(Problem):
    """A yes or no; a prediction is the probability of yes."""

    loss = "Brier score"

    @property
    def labels(self) -> list[Any]:
        return [False, True]

    def answer_schema(self, output: str) -> dict[str, dict[str, Any]]:
        return {output: {"type": "number", "minimum": 0, "maximum": 1}}

    def losses(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return (predicted - truth) ** 2

    def truths(self, labels: Any) -> pd.Series:
        return super().truths(labels).astype(bool)

    def measurable(self, truth: pd.Series) -> bool:
        return truth.nunique() == 2


class Regression(Problem):
    """A number; so is a prediction."""

    loss = "mean absolute error"

    @property
    def bounds(self) -> tuple[float, float]:
        return self.rule.get("min", float("-inf")), self.rule.get("max", float("inf"))

    def losses(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return np.abs(predicted - truth)

    def moved(self, truth: np.ndarray, by: np.ndarray) -> np.ndarray:
        return truth + by


PROBLEMS: dict[str, type[Problem]] = {"classification": Binary, "regression": Regression}


def problem_of(project: Project) -> Problem:
    """Return the problem of PROJECT; raises ProjectError when PROBLEM in data.py is none of PROBLEMS."""
    name = project.data.PROBLEM
    if name not in PROBLEMS:
        raise ProjectError(f"PROBLEM in data.py is {name!r}, must be one of {', '.join(PROBLEMS)}")
    return PROBLEMS[name](project)
