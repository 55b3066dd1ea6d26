"""What a candidate is worth: metrics on each split, beside the baseline and the champion, and plots."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..core.files import read_json, write_json
from ..core.project import Project
from ..data import split
from . import handoff, recording
from .pipeline import EVALUATION, FITTED, SPLIT, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_DRAWN = 20_000  # points a curve or cloud is drawn from; more only makes the file larger
N_PERMUTED = 2_000  # rows that importance is measured on: it varies by less than what a person reads from a bar


def write(project: Project, fitted: Any, splits: dict[str, pd.DataFrame]) -> None:
    """Write metrics.json, HANDOFF.md and the plots into models/candidate/evaluation."""
    project.path(EVALUATION).mkdir(parents=True, exist_ok=True)
    predicted = {
        name: project.model.predict(fitted, project.features.build(rows[project.features.COLUMNS]))
        for name, rows in splits.items()
    }
    train, test = splits["train"], splits["test"]
    measured = {
        name: project.model.metrics(rows[project.data.TARGET], predicted[name]) for name, rows in splits.items()
    }
    measured["baseline"] = project.model.metrics(
        test[project.data.TARGET], project.model.baseline(train[project.data.TARGET], len(test))
    )
    importance = permuted(project, fitted, test, measured["test"][project.model.PRIMARY])
    champion = recording.measure_champion(project, read_settings(project), splits)
    result = {"primary": project.model.PRIMARY, "metrics": measured, "champion": champion, "importance": importance}
    write_json(project.path(EVALUATION) / "metrics.json", result)
    how = split.read(project, read_json(project.path(SPLIT)))
    handoff.write_note(
        project, project.path(FITTED) / "model.skops", fitted, train, test, folder=project.path(EVALUATION), how=how
    )
    some = np.random.default_rng(0).permutation(len(test))[:N_DRAWN]
    drawings = classified if project.data.PROBLEM == "classification" else regressed
    drawings(project, test[project.data.TARGET].to_numpy()[some], predicted["test"][some])
    figure = new_figure(6, 4)
    figure.subplots().barh(list(importance)[::-1], list(importance.values())[::-1])
    save(project, figure, "importance", f"{project.model.PRIMARY} lost when the column is shuffled", "")


def permuted(project: Project, fitted: Any, rows: pd.DataFrame, _: float) -> dict[str, float]:
    """Return what the primary metric loses when a column is shuffled, largest first; works for any estimator."""
    generator = np.random.default_rng(0)
    rows = rows.iloc[np.sort(generator.permutation(len(rows))[:N_PERMUTED])]
    inputs = project.features.build(rows[project.features.COLUMNS])
    sign = 1 if project.model.HIGHER_IS_BETTER[project.model.PRIMARY] else -1

    def value(inputs: pd.DataFrame) -> float:
        return (
            sign
            * project.model.metrics(rows[project.data.TARGET], project.model.predict(fitted, inputs))[
                project.model.PRIMARY
            ]
        )

    order, whole = generator.permutation(len(rows)), value(inputs)
    lost = {name: whole - value(inputs.assign(**{name: inputs[name].to_numpy()[order]})) for name in inputs.columns}
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def classified(project: Project, truth: np.ndarray, predicted: np.ndarray) -> None:
    from sklearn import metrics as sk

    false, true, _ = sk.roc_curve(truth, predicted)
    line(project, "roc", false, true, "false positive rate", "true positive rate", [0, 1])
    precision, recall, _ = sk.precision_recall_curve(truth, predicted)
    line(project, "precision-recall", recall, precision, "recall", "precision")
    tenth = np.argsort(np.argsort(predicted)) * 10 // len(predicted)
    means = [[values[tenth == i].mean() for i in range(10)] for values in (predicted, truth)]
    line(project, "calibration", means[0], means[1], "predicted rate", "rate that came true", [0, max(map(max, means))])


def regressed(project: Project, truth: np.ndarray, predicted: np.ndarray) -> None:
    for name, values, label in (
        ("residuals", truth - predicted, "truth minus prediction"),
        ("predicted", truth, "truth"),
    ):
        figure = new_figure(5, 4)
        figure.subplots().hexbin(predicted, values, gridsize=40, bins="log", cmap="Blues")
        save(project, figure, name, "prediction", label)


def line(
    project: Project, name: str, x: Any, y: Any, x_label: str, y_label: str, diagonal: list[float] | None = None
) -> None:
    figure = new_figure(5, 4)
    axes = figure.subplots()
    axes.plot(x, y, marker="o" if len(x) < 20 else "")
    if diagonal:
        axes.plot(diagonal, diagonal, color="grey", linestyle=":")
    save(project, figure, name, x_label, y_label)


def save(project: Project, figure: "Figure", name: str, x_label: str, y_label: str) -> None:
    figure.axes[0].set(xlabel=x_label, ylabel=y_label)
    figure.savefig(project.path(EVALUATION) / f"{name}.png", dpi=100)


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, WIDTH times HEIGHT in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
