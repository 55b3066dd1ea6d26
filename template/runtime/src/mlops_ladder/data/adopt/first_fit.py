"""A first model of the table, by the modules that are about to be written: what limits and tests of behaviour rest on."""

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

from ..split import Split
from . import modules
from .files import Fit
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
        return Fit(flat, flat, rows[plan.target].astype(float).std(), rate, modules.extremes(plan, rows), weak)
    trivial = model.metrics(truth, model.baseline(train[plan.target], len(held_out)))
    sign = 1 if model.HIGHER_IS_BETTER[model.PRIMARY] else -1
    fitted: dict[str, Any] = {}
    reached = {}
    for family in model.SEARCH_SPACE:
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
    return Fit(reached[model.DEFAULT], trivial, float(target.std()), float(target.mean()), ends, weak)


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
