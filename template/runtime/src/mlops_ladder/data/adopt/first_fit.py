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
from .files import Fit, decide
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


def fit(used: dict[str, ModuleType], sample: Path, plan: Plan) -> Fit:
    """Return what the families of model.py reach on the held-out rows of SAMPLE; what is weak is a warning."""
    data, features, model = used["data"], used["features"], used["model"]
    rows = data.read(sample)
    train, held_out = split(rows, plan)
    truth = held_out[plan.target]
    weak = []
    if plan.positive and (truth.nunique() < 2 or train[plan.target].nunique() < 2):
        weak.append(
            f"the {'newest' if plan.time else 'held-out'} quarter of the rows has one label only: no limit can be measured"
        )
        rate = float(rows[plan.target].mean())
        flat = {name: 0.5 if name == "roc_auc" else rate * (1 - rate) for name in model.HIGHER_IS_BETTER}
        return Fit(flat, flat, rows[plan.target].astype(float).std(), rate, modules.extremes(plan, rows), warnings=weak)
    trivial = model.metrics(truth, model.baseline(train[plan.target], len(held_out)))
    sign = 1 if model.HIGHER_IS_BETTER[model.PRIMARY] else -1
    fitted: dict[str, Any] = {}
    reached = {}
    for family in progress.Steps("first fit", len(model.SEARCH_SPACE)).over(model.SEARCH_SPACE):
        fitted[family] = model.make(family).fit(features.build(train), train[plan.target])
        reached[family] = model.metrics(truth, model.predict(fitted[family], features.build(held_out)))
        if sign * reached[family][model.PRIMARY] <= sign * trivial[model.PRIMARY]:
            weak.append(
                f"{family} is no better than the baseline on held-out rows ({model.PRIMARY} {reached[family][model.PRIMARY]:.3f}, "
                f"baseline {trivial[model.PRIMARY]:.3f}): take it out of SEARCH_SPACE, or out of the question"
            )
    target = rows[plan.target].astype("float64")

    def predict(inputs: pd.DataFrame) -> np.ndarray:
        return model.predict(fitted[model.DEFAULT], features.build(inputs))

    ends = directions(predict, held_out, modules.extremes(plan, train))
    first = Fit(reached[model.DEFAULT], trivial, float(target.std()), float(target.mean()), ends, warnings=weak)
    for name in plan.slices:
        for what, gap in gaps(held_out[name], truth, predict(held_out), model.metrics, plan, first).items():
            worse = min if what == "slice" and plan.positive else max
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
    table = pd.DataFrame({"truth": truth.to_numpy(), "predicted": predicted, "group": groups.to_numpy()})
    measured = []
    for _, part in table.groupby("group", observed=True):
        if len(part) < max(10, min(200, len(table) // 6)) or plan.positive and part["truth"].nunique() < 2:
            continue
        error = part["predicted"] - part["truth"].astype(float)
        values = {"bias": error.mean(), "mean_absolute_error": error.abs().mean()}
        if plan.positive:
            positive, true = part["predicted"] >= decide(first), part["truth"].astype(bool)
            values |= {"true_positive_rate": positive[true].mean(), "false_positive_rate": positive[~true].mean()}
        slice_metric = "roc_auc" if plan.positive else "mae"
        measured.append(values | {"slice": metrics(part["truth"], part["predicted"].to_numpy())[slice_metric]})
    if not measured:
        return {}
    by_group = pd.DataFrame(measured)
    differences = by_group.max() - by_group.min()
    differences["slice"] = by_group["slice"].min() if plan.positive else by_group["slice"].max()
    return {str(name): float(value) for name, value in differences.items()}
