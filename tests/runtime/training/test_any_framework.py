"""Any framework: whatever `make` of model.py returns is trained, kept and measured."""

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from flight_delays import features, model
from mlops_ladder.training import pipeline


class Nearest:
    """An estimator of no framework at all: the mean target of rows with a similar departure delay."""

    table: dict[str, float]

    def fit(self, inputs: pd.DataFrame, target: pd.Series) -> Self:
        groups = target.astype(float).groupby(self.groups(inputs)).mean()
        self.table = {str(key): float(value) for key, value in groups.items()}
        return self

    def groups(self, inputs: pd.DataFrame) -> pd.Series:
        return inputs[features.CATEGORIES[0]].astype(str)

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        middle = float(np.mean(list(self.table.values())))
        return self.groups(inputs).map(self.table).fillna(middle).to_numpy(dtype=float)


@pytest.mark.practice("multi-framework-support")
def test_an_estimator_of_no_known_framework_is_trained_and_measured(
    workplace: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(file: Path) -> Nearest:
        made = Nearest()
        made.table = json.loads(file.read_text(encoding="utf-8"))
        return made

    def save(made: Nearest, file: Path) -> None:
        file.write_text(json.dumps(made.table), encoding="utf-8")

    monkeypatch.setattr(model, "make", lambda *_, **__: Nearest())
    monkeypatch.setattr(model, "predict", lambda made, inputs: made.predict(inputs))
    monkeypatch.setattr(model, "save", save)
    monkeypatch.setattr(model, "load", load)
    run("train", "--until", "evaluate", "--set", "seed=5")
    measured = json.loads((pipeline.EVALUATION / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    better = max if model.HIGHER_IS_BETTER[model.PRIMARY] else min
    values = [measured[part][model.PRIMARY] for part in ("train", "baseline")]
    assert better(values) == values[0]
