"""Explain one prediction: how much each column of the row moves it from the average prediction.

python -m {package} explain row.json                  # by the version in use, else the champion, else the newest one
python -m {package} explain row.json --version 4

Shapley values over the columns that a caller sends, by sampling (Strumbelj and Kononenko 2014): any model, the same
numbers each time, adding up to the prediction. They say what the model does, not what causes what.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import ProjectError, UsageError
from ..core.project import Project
from ..data import data_sets, versions
from ..data.joined import as_rows
from ..data.rows import as_records
from ..training import stages, tracking
from . import judgement

N_ROWS = 250  # training rows that stand for the average; the standard error falls with its root and is printed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", type=Path, help="JSON file with one row, as the service takes it")
    parser.add_argument("--version", help="number of the version (default: the one in use, else the newest)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    try:
        row = json.loads(options.row.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ProjectError(f"{options.row} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UsageError(f"{options.row} must hold one row, an object of columns and values")
    told = explain(project, row, options.version)
    print(json.dumps(told) if options.json else sentences(told))


def explain(project: Project, row: dict[str, Any], version: str | None = None) -> dict[str, Any]:
    """Return the prediction of a version for ROW, the average one, and the share of each column in the difference."""
    chosen, client = tracking.open_store(project)
    newest = max((int(one.version) for one in client.search_model_versions(f"name = '{chosen.model}'")), default=0)
    version = (
        version or judgement.in_use(project) or tracking.aliases(client, chosen.model).get("champion") or str(newest)
    )
    made = tracking.find_version(client, chosen.model, version)
    own = tracking.open_version(client, chosen.model, version)  # the version's own code and note
    note = own.note
    facts = json.loads(tracking.read_artifact(client, client.get_run(made.run_id), "split.json"))
    background = as_rows(project, typical(project, made.tags["data"], own.features.__package__, facts), note["columns"])

    def predict(rows: pd.DataFrame) -> np.ndarray:
        return own.predict(None, rows).iloc[:, 0].to_numpy()

    given = as_rows(project, pd.DataFrame([row]), note["columns"])
    shares, errors = shapley(predict, given, background)
    order = sorted(shares, key=lambda name: -abs(shares[name]))
    return {
        "version": version,
        "row": as_records(given)[0],
        "output": note["output"],
        "prediction": float(predict(given)[0]),
        "average": float(predict(background).mean()),
        "shares": {name: shares[name] for name in order},
        "standard_errors": {name: errors[name] for name in order},
        "rows": len(background),
    }


def typical(project: Project, name: str, package: str, facts: dict[str, Any]) -> pd.DataFrame:
    """Return N_ROWS training rows of a data version, picked evenly, read by the version's own data.py."""
    source = import_module(f"{package}.data")
    with tempfile.TemporaryDirectory() as folder:
        versions.restore(project, name.partition("@")[2], Path(folder))
        rows = stages.cut(project, data_sets.read(project, Path(folder), source), facts, source)["train"]
    return rows.iloc[np.linspace(0, len(rows) - 1, min(N_ROWS, len(rows))).astype(int)].reset_index(drop=True)


def shapley(
    predict: Callable[[pd.DataFrame], np.ndarray], row: pd.DataFrame, background: pd.DataFrame, seed: int = 0
) -> tuple[dict[str, float], dict[str, float]]:
    """Return each column's share of predict(ROW) less the mean of predict(BACKGROUND), and its standard error.

    For each background row the columns become those of ROW one by one, in a random order and in the reverse of it
    (antithetic: less noise for as many predictions); a column's share is what the prediction moves by at its turn.
    """
    n, width = len(background), row.shape[1]
    ahead = np.random.default_rng(seed).permuted(np.tile(np.arange(width), (n, 1)), axis=1)
    orders = np.concatenate([ahead, ahead[:, ::-1]])  # (2n, width): which column has which turn
    turns = np.argsort(orders, axis=1)  # (2n, width): at which turn a column comes
    taken = turns[:, None, :] < np.arange(width + 1)[None, :, None]  # (2n, width + 1, width): after so many turns
    start = np.tile(np.arange(n), 2)[:, None]
    mixed = pd.DataFrame(
        {
            name: pd.concat([background[name], row[name]], ignore_index=True)
            .take(np.where(taken[:, :, at], n, start).ravel())
            .array
            for at, name in enumerate(row.columns)
        }
    )
    moved = np.diff(np.asarray(predict(mixed), dtype=float).reshape(2 * n, width + 1), axis=1)
    by_column = np.take_along_axis(moved, turns, axis=1)  # (2n, width)
    pairs = (by_column[:n] + by_column[n:]) / 2
    errors = pairs.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(width, np.nan)
    return (
        dict(zip(row.columns, pairs.mean(axis=0).tolist(), strict=True)),
        dict(zip(row.columns, errors.tolist(), strict=True)),
    )


def sentences(told: dict[str, Any]) -> str:
    first = f"{told['output']} {told['prediction']:.4f} by version {told['version']}, average {told['average']:.4f}"
    width = max(map(len, told["shares"]))
    lines = [
        f"{share:>+9.4f} +- {told['standard_errors'][name]:.4f}  {name:<{width}}  {json.dumps(told['row'][name])}"
        for name, share in told["shares"].items()
    ]
    return "\n".join([first, *lines])
