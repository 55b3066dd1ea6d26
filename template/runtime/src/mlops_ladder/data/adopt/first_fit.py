"""A first model of the table, by the modules that are about to be written: what limits and tests of behaviour rest on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from ...core import progress
from ..split import Split
from . import modules
from .files import decide
from .limits import Fit
from .profile import Plan

VALIDATION, TEST = 0.15, 0.25  # as in conf/training.yml


@contextmanager
def imported(source: Path) -> Iterator[dict[str, ModuleType]]:
    """Give data, features and model of the package in SOURCE under a name of their own, which is forgotten afterwards."""
    name, quiet = "_adopting", sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        package = ModuleType(name)
        package.__path__ = [str(source)]
        sys.modules[name] = package
        importlib.invalidate_caches()
        yield {part: importlib.import_module(f"{name}.{part}") for part in ("data", "features", "model")}
    finally:
        sys.dont_write_bytecode = quiet
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
            del sys.modules[loaded]


def split(rows: pd.DataFrame, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to learn from and those held out, as `train` cuts them."""
    chosen = Split(plan.time) if plan.time else Split(plan.key, by="hash")
    parts = chosen.at(rows, VALIDATION, TEST).cut(rows)
    return parts["train"], parts["test"]


def absent(used: dict[str, ModuleType], sample: Path, plan: Plan) -> list[str]:
    """Return the classes that a part of the rows of SAMPLE lacks, with how they are split by default."""
    rows = used["data"].read(sample)
    chosen = Split(plan.time) if plan.time else Split(plan.key, by="hash")
    parts = chosen.at(rows, VALIDATION, TEST).cut(rows).values()
    return [label for label in plan.classes if not all((part[plan.target] == label).any() for part in parts)]


def fit(used: dict[str, ModuleType], sample: Path, plan: Plan) -> Fit:
    """Return what the families of model.py reach on the held-out rows of SAMPLE; what is weak is a warning."""
    data, features, model = used["data"], used["features"], used["model"]
    rows = data.read(sample)
    train, held_out = split(rows, plan)
    truth = held_out[plan.target]
    weak: list[str] = []
    if plan.problem == "classification" and (truth.nunique() < 2 or train[plan.target].nunique() < 2):
        weak.append(
            f"the {'newest' if plan.time else 'held-out'} quarter of the rows has one label only: no limit can be measured"
        )
        rate = float(rows[plan.target].mean())
        flat = {name: 0.5 if name == "roc_auc" else rate * (1 - rate) for name in model.HIGHER_IS_BETTER}
        return Fit(flat, flat, rows[plan.target].astype(float).std(), rate, modules.extremes(plan, rows), warnings=weak)
    trivial = model.metrics(truth, model.baseline(train[plan.target], len(held_out)))
    sign = 1 if model.HIGHER_IS_BETTER[model.PRIMARY] else -1
    fitted: dict[str, Any] = {}
    reached: dict[str, dict[str, float]] = {}
    families: list[str] = []
    for family in progress.Steps("first fit", len(model.SEARCH_SPACE)).over(model.SEARCH_SPACE):
        fitted[family] = model.make(family).fit(features.build(train), train[plan.target])
        reached[family] = model.metrics(truth, model.predict(fitted[family], features.build(held_out)))
        if sign * reached[family][model.PRIMARY] <= sign * trivial[model.PRIMARY]:
            families.append(family)
            weak.append(
                f"{family} is no better than the baseline on held-out rows ({model.PRIMARY} {reached[family][model.PRIMARY]:.3f}, "
                f"baseline {trivial[model.PRIMARY]:.3f}): left out of SEARCH_SPACE"
            )
    if len(families) == len(reached):
        families = []
        weak = [f"no family of model.py is better than the baseline: is {plan.target} known from these columns?"]
    best = next(family for family in model.SEARCH_SPACE if family not in families)
    target = (rows[plan.target] == plan.label if plan.classes else rows[plan.target]).astype("float64")

    def predict(inputs: pd.DataFrame) -> np.ndarray:
        return model.predict(fitted[best], features.build(inputs))

    def likelihood(inputs: pd.DataFrame) -> np.ndarray:
        return predict(inputs)[:, plan.classes.index(plan.label)] if plan.classes else predict(inputs)

    ends = directions(likelihood, held_out, modules.extremes(plan, train))
    first = Fit(reached[best], trivial, float(target.std()), float(target.mean()), ends, warnings=weak, weak=families)
    for name in plan.slices:
        for what, gap in gaps(held_out[name], truth, predict(held_out), model.metrics, plan, first).items():
            worse = min if what == "slice" and plan.problem != "regression" else max
            first.gaps[what] = worse(first.gaps.get(what, gap), gap)
    return first


def directions(
    predict: Any, rows: pd.DataFrame, ends: list[tuple[str, object, object]]
) -> list[tuple[str, object, object]]:
    """Return those of ENDS, at most three, in which the model follows the table, the clearest first; all of them if none."""
    held = []
    for name, low, high in ends[:8]:
        share = float(np.mean(predict(rows.assign(**{name: high})) > predict(rows.assign(**{name: low}))))
        held.append((share, name, low, high))
    clear = [(name, low, high) for share, name, low, high in sorted(held, key=lambda one: -one[0]) if share >= 0.8]
    return clear[:3] or ends[:3]


def gaps(
    groups: pd.Series, truth: pd.Series, predicted: np.ndarray, metrics: Any, plan: Plan, first: Fit
) -> dict[str, float]:
    """Return the largest difference between GROUPS in what the gates `fairness` and `slices` measure, and the worst slice."""
    slice_metric = {"classification": "roc_auc", "multiclass": "macro_f1", "regression": "mae"}[plan.problem]
    differences: dict[str, float] = {}
    for name, is_true, number, positive in compared(truth, predicted, plan, first):
        measured = []
        for at in pd.Series(range(len(truth))).groupby(groups.to_numpy(), observed=True).groups.values():
            if len(at) < max(10, min(200, len(truth) // 6)) or plan.positive and is_true[at].min() == is_true[at].max():
                continue
            error = number[at] - is_true[at]
            values = {"bias": error.mean(), "mean_absolute_error": np.abs(error).mean()}
            if positive is not None:
                rates = {"true_positive_rate": is_true[at] > 0, "false_positive_rate": is_true[at] == 0}
                values |= {rate: positive[at][which].mean() for rate, which in rates.items() if which.any()}
            if not name:
                values["slice"] = metrics(truth.iloc[at], predicted[at])[slice_metric]
            measured.append(values)
        by_group = pd.DataFrame(measured)
        for what in by_group:
            ends = by_group[what].min(), by_group[what].max()
            gap = ends[1] - ends[0] if what != "slice" else ends[0] if plan.problem != "regression" else ends[1]
            differences[str(what)] = max(float(gap), differences.get(str(what), -np.inf))
    return differences


def compared(
    truth: pd.Series, predicted: np.ndarray, plan: Plan, first: Fit
) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Return what is compared between groups: a class, the truth, the prediction and the choice of each row.

    The first has no class: all that is measured of the target at once, of several classes their metrics alone.
    """
    if plan.classes:
        chosen = predicted.argmax(axis=1)
        each = [
            (label, (truth == label).to_numpy().astype(float), predicted[:, at], (chosen == at).astype(float))
            for at, label in enumerate(plan.classes)
        ]
        whole = (truth == plan.label).to_numpy().astype(float)
        return [("", whole, predicted[:, plan.classes.index(plan.label)], None), *each]
    numbers = truth.to_numpy().astype(float)
    return [("", numbers, predicted, (predicted >= decide(first)).astype(float) if plan.positive else None)]
