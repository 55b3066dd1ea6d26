"""What a candidate is worth: metrics on each split, beside the baseline and the champion, and plots."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn import metrics as sk

from .. import data, features, model
from . import handoff, recording
from .pipeline import EVALUATION, FITTED, read_settings, write_json

N_DRAWN = 20_000  # points a curve or cloud is drawn from; more only makes the file larger
N_PERMUTED = 2_000  # rows that importance is measured on: it varies by less than what a person reads from a bar


def write(fitted: Any, splits: dict[str, pd.DataFrame]) -> None:
    """Write metrics.json, HANDOFF.md and the plots into models/candidate/evaluation."""
    EVALUATION.mkdir(parents=True, exist_ok=True)
    predicted = {name: model.predict(fitted, features.build(rows[features.COLUMNS])) for name, rows in splits.items()}
    train, test = splits["train"], splits["test"]
    measured = {name: model.metrics(rows[data.TARGET], predicted[name]) for name, rows in splits.items()}
    measured["baseline"] = model.metrics(test[data.TARGET], model.baseline(train[data.TARGET], len(test)))
    importance = permuted(fitted, test, measured["test"][model.PRIMARY])
    champion = recording.measure_champion(read_settings(), test)
    result = {"primary": model.PRIMARY, "metrics": measured, "champion": champion, "importance": importance}
    write_json(EVALUATION / "metrics.json", result)
    handoff.write_note(FITTED / "model.skops", fitted, train, test, folder=EVALUATION)
    some = np.random.default_rng(0).permutation(len(test))[:N_DRAWN]
    drawings = classified if data.PROBLEM == "classification" else regressed
    drawings(test[data.TARGET].to_numpy()[some], predicted["test"][some])
    figure = Figure(figsize=(6, 4), layout="constrained")
    figure.subplots().barh(list(importance)[::-1], list(importance.values())[::-1])
    save(figure, "importance", f"{model.PRIMARY} lost when the column is shuffled", "")


def permuted(fitted: Any, rows: pd.DataFrame, _: float) -> dict[str, float]:
    """Return what the primary metric loses when a column is shuffled, largest first; works for any estimator."""
    generator = np.random.default_rng(0)
    rows = rows.iloc[np.sort(generator.permutation(len(rows))[:N_PERMUTED])]
    inputs = features.build(rows[features.COLUMNS])
    sign = 1 if model.HIGHER_IS_BETTER[model.PRIMARY] else -1

    def value(inputs: pd.DataFrame) -> float:
        return sign * model.metrics(rows[data.TARGET], model.predict(fitted, inputs))[model.PRIMARY]

    order, whole = generator.permutation(len(rows)), value(inputs)
    lost = {name: whole - value(inputs.assign(**{name: inputs[name].to_numpy()[order]})) for name in inputs.columns}
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def classified(truth: np.ndarray, predicted: np.ndarray) -> None:
    false, true, _ = sk.roc_curve(truth, predicted)
    line("roc", false, true, "false positive rate", "true positive rate", [0, 1])
    precision, recall, _ = sk.precision_recall_curve(truth, predicted)
    line("precision-recall", recall, precision, "recall", "precision")
    tenth = np.argsort(np.argsort(predicted)) * 10 // len(predicted)
    means = [[values[tenth == i].mean() for i in range(10)] for values in (predicted, truth)]
    line("calibration", means[0], means[1], "predicted rate", "rate that came true", [0, max(map(max, means))])


def regressed(truth: np.ndarray, predicted: np.ndarray) -> None:
    for name, values, label in (
        ("residuals", truth - predicted, "truth minus prediction"),
        ("predicted", truth, "truth"),
    ):
        figure = Figure(figsize=(5, 4), layout="constrained")
        figure.subplots().hexbin(predicted, values, gridsize=40, bins="log", cmap="Blues")
        save(figure, name, "prediction", label)


def line(name: str, x: Any, y: Any, x_label: str, y_label: str, diagonal: list[float] | None = None) -> None:
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, marker="o" if len(x) < 20 else "")
    if diagonal:
        axes.plot(diagonal, diagonal, color="grey", linestyle=":")
    save(figure, name, x_label, y_label)


def save(figure: Figure, name: str, x_label: str, y_label: str) -> None:
    figure.axes[0].set(xlabel=x_label, ylabel=y_label)
    figure.savefig(EVALUATION / f"{name}.png", dpi=100)
