"""The problem that PROBLEM in data.py names: the one object that decides wherever kinds of problem differ."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import ProjectError
from ..core.project import Project
from .rows import probability_of


@dataclass(frozen=True)
class Outcome:
    """Truth and prediction of each row, numbers, shape (n_rows,). Where `chosen` is `decide` or more, the answer is yes."""

    name: str
    truth: np.ndarray
    predicted: np.ndarray
    chosen: np.ndarray
    decide: float


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
    def classes(self) -> list[Any]:
        """The labels to which a prediction gives a probability each, in the order of its columns; empty where it is one number."""
        return []

    @property
    def labels(self) -> list[Any]:
        """The labels that must occur in rows that are learned from or measured on; empty where any number may be one."""
        return []

    def absent(self, truth: pd.Series) -> list[Any]:
        """Return the labels that TRUTH must hold and does not."""
        seen = set(truth.dropna().unique())
        return [label for label in self.labels if label not in seen]

    def shape(self, n_rows: int) -> tuple[int, ...]:
        """Return the shape of the predictions for N_ROWS."""
        return (n_rows, len(self.classes)) if self.classes else (n_rows,)

    def checked(self, predicted: Any, n_rows: int) -> np.ndarray:
        """Return what `predict` of model.py gave for N_ROWS; raises ProjectError when that is of another shape."""
        given = np.asarray(predicted)
        if given.shape != self.shape(n_rows):
            each = f"a probability for each of {', '.join(map(str, self.classes))}" if self.classes else "a number"
            raise ProjectError(
                f"predict in model.py gives shape {given.shape} for {n_rows:,} rows, must be {self.shape(n_rows)}: "
                f"{each}, a row"
            )
        return given

    @property
    def columns(self) -> list[str]:
        """The columns of the prediction log, as it is read, from which a row is measured."""
        return [f"probability_{at}" for at in range(len(self.classes))] or ["prediction"]

    @property
    def stored(self) -> dict[Any, float]:
        """The number by which the prediction log stores each class: the same whatever other classes there are."""
        return {name: number_of(name) for name in self.classes}

    def logged(self, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Return PREDICTED as the prediction log, read, has it: a column `prediction` and those of `columns`."""
        return {"prediction": predicted.astype("float64")}

    def numbers(self, truth: pd.Series) -> np.ndarray:
        """Return labels as the prediction log, read, has them: numbers, or places among the classes; nan where there is none."""
        return truth.astype("float64").to_numpy()

    def drawn(self, truth: pd.Series) -> pd.Series:
        """Return labels as numbers to draw the mean of: of several classes, whether it is the commonest."""
        return truth.astype("float64")

    def targets(self, labels: pd.Series) -> pd.Series:
        """Return labels as the prediction log, read, has them in the type that the target has in training."""
        return labels

    def reliability(self, predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each row what was predicted and what came true, which are the same on average where predictions are right."""
        return predicted, truth

    def agreement(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        """Return how well the stored predictions and labels go together, -1 to 1: 0 is by chance."""
        return float(np.corrcoef(predicted, truth)[0, 1])

    def means(self, predicted: np.ndarray) -> dict[str, float]:
        """Return the mean prediction or, by name, that of each class."""
        return {"mean prediction": float(predicted.mean())}

    def decided(self, predicted: np.ndarray, decide: float) -> np.ndarray:
        """Return what each prediction leads to, shape (n_rows,): whether it is DECIDE or more, or which class it is."""
        return predicted >= decide

    def fed(self, predicted: np.ndarray) -> np.ndarray:
        """Return PREDICTED as the column that a model which is fed by this one gets."""
        return predicted

    def outcomes(self, truth: pd.Series, predicted: np.ndarray, decide: float) -> list[Outcome]:
        """Return what is compared between groups: the target or, of several classes, each of them against all others."""
        return [Outcome("", truth.astype("float64").to_numpy(), predicted, predicted, decide)]

    def noted(self, predicted: Any) -> dict[str, Any]:
        """Return the prediction for one row as a hand-off note keeps it."""
        return {"prediction": float(predicted)}

    def measured(self, truth: pd.Series, predicted: np.ndarray) -> dict[str, Any] | None:
        """Return what there is to tell beside the metrics of model.py: of several classes, what holds of each."""
        return None

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

    def absent(self, truth: pd.Series) -> list[Any]:
        return super().absent(truth) if truth.nunique() < 2 else []  # however a yes and a no are written

    def answer_schema(self, output: str) -> dict[str, dict[str, Any]]:
        return {output: {"type": "number", "minimum": 0, "maximum": 1}}

    def losses(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return (predicted - truth) ** 2

    def truths(self, labels: Any) -> pd.Series:
        return super().truths(labels).astype(bool)

    def targets(self, labels: pd.Series) -> pd.Series:
        return labels >= 0.5 if self.rule["type"] == "boolean" else labels

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


class Multiclass(Problem):
    """One of several labels; a prediction is the probability of each, in the order in which they sort, as scikit-learn has them."""

    loss = "log loss"

    def __init__(self, project: Project) -> None:
        """Raises ProjectError when SCHEMA does not list the labels."""
        super().__init__(project)
        if self.rule["type"] not in ("category", "text") or len(set(self.rule.get("values", []))) < 2:
            raise ProjectError(
                f"SCHEMA in data.py: {project.data.TARGET} is the target of several classes: give it type category and, "
                "in values, the labels that there are"
            )

    @property
    def classes(self) -> list[Any]:
        return sorted(set(self.rule["values"]))

    @property
    def labels(self) -> list[Any]:
        return self.classes

    def logged(self, predicted: np.ndarray) -> dict[str, np.ndarray]:
        each = {name: predicted[:, at] for at, name in enumerate(self.columns)}
        return {"prediction": predicted.argmax(axis=1).astype("float64"), **each}

    def numbers(self, truth: pd.Series) -> np.ndarray:
        codes = self.codes(truth).astype("float64")
        return np.where(codes < 0, np.nan, codes)

    def drawn(self, truth: pd.Series) -> pd.Series:
        return (truth == truth.mode().iloc[0]).astype("float64")

    def targets(self, labels: pd.Series) -> pd.Series:
        return labels.map(dict(enumerate(self.classes)))

    def reliability(self, predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The probability of the likeliest class, and whether it was that."""
        return predicted.max(axis=1), (predicted.argmax(axis=1) == truth).astype("float64")

    def agreement(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        """Cohen's kappa."""
        known = np.unique([predicted, truth])
        chance = sum(float((predicted == one).mean() * (truth == one).mean()) for one in known)
        return (float((predicted == truth).mean()) - chance) / (1 - chance) if chance < 1 else 0.0

    def means(self, predicted: np.ndarray) -> dict[str, float]:
        return {f"mean probability of {name}": float(predicted[:, at].mean()) for at, name in enumerate(self.classes)}

    def decided(self, predicted: np.ndarray, decide: float) -> np.ndarray:
        return predicted.argmax(axis=1)

    def fed(self, predicted: np.ndarray) -> np.ndarray:
        return np.array(self.classes, dtype="object")[predicted.argmax(axis=1)]

    def outcomes(self, truth: pd.Series, predicted: np.ndarray, decide: float) -> list[Outcome]:
        """Each class against all others; what is chosen is the likeliest, whatever DECIDE is."""
        codes, chosen = self.codes(truth), predicted.argmax(axis=1)
        return [
            Outcome(str(name), (codes == at).astype(float), predicted[:, at], (chosen == at).astype(float), 0.5)
            for at, name in enumerate(self.classes)
        ]

    def codes(self, truth: Any) -> np.ndarray:
        """Return the place of each label among the classes; -1 where it is none."""
        return pd.Index(self.classes).get_indexer(pd.Index(np.asarray(truth, dtype="object")))

    def noted(self, predicted: Any) -> dict[str, Any]:
        output = self.project.model.OUTPUT
        each = {probability_of(output, name): float(value) for name, value in zip(self.classes, predicted, strict=True)}
        return {"prediction": self.classes[int(np.argmax(predicted))], "probabilities": each}

    def answer_schema(self, output: str) -> dict[str, dict[str, Any]]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        return {output: {"enum": self.classes}} | {probability_of(output, name): probability for name in self.classes}

    def losses(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        at = np.nan_to_num(truth, nan=0).astype(int)
        lost = -np.log(np.clip(predicted[np.arange(len(at)), at], np.finfo(float).eps, None))
        return np.where(np.isnan(truth), np.nan, lost)

    def truths(self, labels: Any) -> pd.Series:
        """Return LABELS, kept as their places among the classes, as they were in training."""
        return pd.Series(np.array(self.classes, dtype="object")[np.asarray(labels, dtype="float64").astype(int)])

    def measured(self, truth: pd.Series, predicted: np.ndarray) -> dict[str, Any]:
        """Return macro metrics, those of each class against all others, and the confusion matrix (rows: truth)."""
        codes, chosen, k = self.codes(truth), predicted.argmax(axis=1), len(self.classes)
        confusion = np.zeros((k, k), dtype=int)
        np.add.at(confusion, (codes, chosen), 1)
        each = {
            str(name): of_class(codes == at, chosen == at, predicted[:, at]) for at, name in enumerate(self.classes)
        }
        aucs = [one["roc_auc"] for one in each.values()]
        macro = {
            "log_loss": float(self.losses(predicted, codes.astype(float)).mean()),
            "macro_f1": float(np.mean([one["f1"] for one in each.values()])),
            "macro_roc_auc": None if None in aucs else float(np.mean(aucs)),
            "accuracy": float(np.mean(codes == chosen)),
        }
        return {"labels": list(each), "macro": macro, "each": each, "confusion": confusion.tolist()}


def number_of(name: Any) -> float:
    """Return the number by which the prediction log stores class NAME."""
    return float(zlib.crc32(str(name).encode()))


def of_class(truth: np.ndarray, chosen: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    """Return how well one class is told from all others; the AUC is None where TRUTH is all alike."""
    hits, n_rows = int((truth & chosen).sum()), int(truth.sum())
    ranks = pd.Series(probability).rank().to_numpy()[truth].sum()
    pairs = n_rows * (len(truth) - n_rows)
    return {
        "rows": n_rows,
        "precision": hits / max(int(chosen.sum()), 1),
        "recall": hits / max(n_rows, 1),
        "f1": 2 * hits / max(n_rows + int(chosen.sum()), 1),
        "brier": float(np.mean((probability - truth) ** 2)),
        "roc_auc": float((ranks - n_rows * (n_rows + 1) / 2) / pairs) if pairs else None,
    }


PROBLEMS: dict[str, type[Problem]] = {"classification": Binary, "multiclass": Multiclass, "regression": Regression}


def problem_of(project: Project) -> Problem:
    """Return the problem of PROJECT; raises ProjectError when PROBLEM in data.py is none of PROBLEMS."""
    name = project.data.PROBLEM
    if name not in PROBLEMS:
        raise ProjectError(f"PROBLEM in data.py is {name!r}, must be one of {', '.join(PROBLEMS)}")
    return PROBLEMS[name](project)
