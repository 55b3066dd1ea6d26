"""What live traffic is compared with: the rows that a version was trained on, and what it made of those held out.

Gathered once a version, then kept beside the data, as the rows of a data version never change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl

from ..core import files
from ..core.project import Project
from ..data.joined import as_rows
from ..data.problem import problem_of
from ..release.judgement import Candidate
from ..training import tracking
from .drift import CHUNK_ROWS, Column, Profile

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEPT = Path("data/monitoring")
N_PERMUTED = 1_000  # held-out rows on which it is measured how much a prediction hangs on a column
WAIT_S = 600  # for another process that gathers the same version; a large one takes minutes
FORMAT = 1  # of what is kept; another one is gathered anew


@dataclass(frozen=True)
class Reference:
    version: str
    trained_before: datetime
    inputs: Profile  # of the rows that it was trained on
    predictions: Column  # of held-out rows: of those it has learned it is more certain
    held_out: pl.DataFrame  # inputs, `prediction` and `label`
    weights: dict[str, float]  # by how much predictions move when a column is shuffled, as a share of all columns
    kept: Path  # JSON of what `once` measured

    def once(self, name: str, measure: Callable[[], float]) -> float:
        """Return what MEASURE gives for the held-out rows, which do not change: measured once a version."""
        known = json.loads(self.kept.read_text(encoding="utf-8")) if self.kept.is_file() else {}
        if name not in known:
            measured = measure()
            with files.locked(self.kept.with_name(".lock"), WAIT_S):  # others keep what they measured there too
                known = json.loads(self.kept.read_text(encoding="utf-8")) if self.kept.is_file() else {}
                known.setdefault(name, measured)
                files.replaced(self.kept, json.dumps(known).encode())
        return float(known[name])

    def without(self, hidden: set[str]) -> Reference:
        """Return the same but for the inputs HIDDEN: what is never logged can neither drift nor stand in a report."""
        return replace(self, inputs=Profile({name: one for name, one in self.inputs.items() if name not in hidden}))


def read(project: Project, client: MlflowClient, name: str, version: str) -> Reference:
    """Return the reference of a registered version, gathered on the first call."""
    folder = project.path(KEPT) / name / version
    with files.locked(folder / ".lock", WAIT_S):
        return kept(project, client, name, version, folder)


def kept(project: Project, client: MlflowClient, name: str, version: str, folder: Path) -> Reference:
    facts, rows = folder / "reference.json", folder / "held_out.parquet"
    known = json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else {}
    run_id = tracking.find_version(client, name, version).run_id
    if (known.get("format"), known.get("run")) != (FORMAT, run_id) or not rows.is_file():
        candidate = Candidate(project, client, name, version)
        held_out, known = gather(candidate)
        known |= {"format": FORMAT, "run": run_id}
        (folder / "measured.json").unlink(missing_ok=True)
        with files.whole(rows) as part:
            held_out.write_parquet(part)
        files.replaced(facts, json.dumps(known).encode())  # last: a reference that is there is whole
    return Reference(
        version,
        datetime.fromisoformat(known["trained_before"]).replace(tzinfo=None),
        Profile.from_dict(known["inputs"]),
        Column(**known["predictions"]),
        pl.read_parquet(rows),
        known["weights"],
        folder / "measured.json",
    )


def gather(candidate: Candidate) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the held-out rows with predictions, and all else that is kept of a version."""
    learned = as_table(candidate, candidate.splits["train"])
    profile = Profile.of(lambda: learned.iter_slices(CHUNK_ROWS))
    problem = problem_of(candidate.project)
    held_out = as_table(candidate, candidate.rows).with_columns(
        *(pl.Series(name, values, pl.Float64) for name, values in problem.logged(candidate.predicted).items()),
        label=pl.Series(problem.numbers(candidate.truth)),
    )
    answers = answered(candidate.project, held_out)
    predictions = Column.of(answers)
    predictions.add(answers)
    return held_out, {
        "trained_before": candidate.run.data.params["trained_before"],
        "inputs": profile.as_dict(),
        "predictions": predictions.as_dict(),
        "weights": weigh(candidate),
    }


def as_table(candidate: Candidate, rows: pd.DataFrame) -> pl.DataFrame:
    """Return the inputs of ROWS in the types in which the prediction log gives them."""
    kinds: dict[str, Any] = {"number": pl.Float64, "boolean": pl.Boolean, "time": pl.Datetime("us")}
    rules = candidate.note["columns"]
    table = as_rows(candidate.project, rows.reset_index(drop=True)[list(rules)], rules)
    return pl.DataFrame(
        {
            name: pl.Series(
                name, table[name].to_list() if rule["type"] not in ("number", "time") else table[name].to_numpy()
            ).cast(kinds.get(rule["type"], pl.String))
            for name, rule in rules.items()
        }
    )


def weigh(candidate: Candidate) -> dict[str, float]:
    """Return how much the predictions move on average when a column is shuffled, as a share of all columns' sum."""
    rows, generator = candidate.some(N_PERMUTED), np.random.default_rng(0)
    before, moved = candidate.predict(rows), {}
    for name in candidate.columns:
        shuffled = rows.assign(**{name: rows[name].to_numpy()[generator.permutation(len(rows))]})
        moved[name] = float(np.abs(candidate.predict(shuffled) - before).mean())
    whole = sum(moved.values()) or 1.0
    return {name: value / whole for name, value in moved.items()}


def answered(project: Project, rows: pl.DataFrame) -> pl.Series:
    """Return the predictions of logged ROWS as their drift is measured: numbers, or the names of classes."""
    names = [str(name) for name in problem_of(project).classes]
    if not names:
        return rows["prediction"]
    return pl.Series("prediction", [None if at is None else names[int(at)] for at in rows["prediction"]], pl.String)


def predicted(project: Project, rows: pl.DataFrame) -> np.ndarray:
    """Return the predictions of logged ROWS as the metrics of model.py take them, shape (n_rows,) or (n_rows, n_classes)."""
    problem = problem_of(project)
    return rows[problem.columns].to_numpy() if problem.classes else rows["prediction"].to_numpy()


def losses(project: Project, rows: pl.DataFrame) -> np.ndarray:
    """Return what each labelled row adds to the mean loss: of probabilities the squared, of numbers the plain distance."""
    return problem_of(project).losses(predicted(project, rows), rows["label"].to_numpy())


def primary(project: Project, rows: pl.DataFrame) -> float:
    """Return the primary metric on labelled rows; nan where it cannot be taken."""
    problem = problem_of(project)
    truth = problem.truths(rows["label"])
    if not problem.measurable(truth):
        return float("nan")
    return project.model.metrics(truth, predicted(project, rows))[project.model.PRIMARY]
