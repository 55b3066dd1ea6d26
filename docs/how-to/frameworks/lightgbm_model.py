"""The estimator, its search space, its metrics and its file: gradient boosting by LightGBM."""

import json
from pathlib import Path
from typing import Any, Self

import lightgbm
import numpy as np
import pandas as pd
from sklearn import metrics as sk

from .features import CATEGORIES, NUMBERS

OUTPUT = "late_probability"
PRIMARY = "roc_auc"
HIGHER_IS_BETTER = {"roc_auc": True, "brier": False, "accuracy": True, "precision": True}
DEFAULT = "lightgbm"
SIMPLE = "lightgbm"
SEARCH_SPACE: dict[str, dict[str, Any]] = {
    "lightgbm": {"learning_rate": (0.02, 0.3, "log"), "num_leaves": (8, 64), "min_child_samples": (10, 200, "log")},
}


class Boosted:
    """LightGBM on the columns of features.py; an unseen category counts as missing."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.levels = settings, {}

    def fit(self, inputs: pd.DataFrame, target: pd.Series) -> Self:
        self.levels = {name: sorted(inputs[name].unique()) for name in CATEGORIES}
        settings = {"objective": "binary", "verbosity": -1, "deterministic": True, "num_threads": 1, **self.settings}
        rows = lightgbm.Dataset(self.encode(inputs), target.astype(float), categorical_feature=CATEGORIES)
        self.booster = lightgbm.train(settings, rows, num_boost_round=100)
        return self

    def predict_proba(self, inputs: pd.DataFrame) -> np.ndarray:
        late = np.asarray(self.booster.predict(self.encode(inputs)))
        return np.column_stack([1 - late, late])

    def encode(self, inputs: pd.DataFrame) -> pd.DataFrame:
        codes = {name: pd.Categorical(inputs[name], self.levels[name]).codes for name in CATEGORIES}
        return inputs[NUMBERS].assign(**codes)


def make(family: str = DEFAULT, seed: int = 0, **parameters: Any) -> Boosted:
    """Return an unfitted estimator of FAMILY, one of SEARCH_SPACE; `parameters` override its defaults."""
    if family not in SEARCH_SPACE:
        raise ValueError(f"family is {family!r}, must be one of {', '.join(SEARCH_SPACE)}")
    return Boosted(seed=seed, **parameters)


def predict(model: Any, inputs: pd.DataFrame) -> np.ndarray:
    """Return the probability that the target is true, shape (n_rows,), 0 to 1."""
    return model.predict_proba(inputs)[:, 1]


def metrics(truth: pd.Series, predicted: np.ndarray) -> dict[str, float]:
    """Return the metrics of HIGHER_IS_BETTER for predictions on rows whose target is known."""
    positive = predicted >= 0.5
    return {
        "roc_auc": float(sk.roc_auc_score(truth, predicted)),
        "brier": float(sk.brier_score_loss(truth, predicted)),
        "accuracy": float(sk.accuracy_score(truth, positive)),
        "precision": float(sk.precision_score(truth, positive, zero_division=0)),
    }


def baseline(truth: pd.Series, n_rows: int) -> np.ndarray:
    """Return the trivial prediction to beat, shape (n_rows,): the rate of the training rows, 0 to 1."""
    return np.full(n_rows, truth.mean())


def save(model: Boosted, file: Path) -> None:
    """Write the model to FILE as JSON: LightGBM's own text format, and the categories it knows."""
    content = {"booster": model.booster.model_to_string(), "levels": model.levels, "settings": model.settings}
    file.write_text(json.dumps(content), encoding="utf-8")


def load(file: Path) -> Boosted:
    """Return the model in FILE; there is no code in it to run."""
    content = json.loads(file.read_text(encoding="utf-8"))
    model = Boosted(**content["settings"])
    model.levels = content["levels"]
    model.booster = lightgbm.Booster(model_str=content["booster"])
    return model
