"""How each signal of conf/monitoring.yml is measured on the predictions of a window, read once and a chunk at a time."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import polars as pl
import pydantic
import scipy

from ..core import settings
from ..core.errors import ProjectError
from ..core.project import Project
from ..data import split
from ..data.problem import problem_of
from ..release.gates import fairness
from ..release.judgement import Release
from . import drift
from .prediction_log import as_sent
from .references import Reference, answered, predicted, primary

N_KEPT = 100_000  # rows of a window, picked at random, on which is measured what cannot be counted
N_DRAWN = 2_000  # rows of each resample; the spread of all rows follows from theirs
NEIGHBOURS = 25  # held-out rows on each side, at most, whose truths stand in for one that is not known yet
NEAR = 1 / 40  # share of the held-out rows that these may be on each side: of few rows, others are unlike
N_TRUTHS = 10  # times that is done
SECONDS = [10 ** (n / 40 - 4) for n in range(241)]  # bounds of the counts of latencies: 6 % apart
Found = list[dict[str, Any]]
Kind = Literal["drift", "decay", "quality", "staleness", "calibration", "latency", "errors", "fairness", "volume"]


class Watched(settings.Settings, frozen=True):
    kind: Kind
    source: str
    threshold: float
    fires: Literal["above", "below"] = "above"
    metric: str | None = None
    window_days: float | None = pydantic.Field(default=None, gt=0)
    owner: str
    runbook: str = pydantic.Field(pattern=r"^docs/runbook\.md#[\w-]+$")
    action: Literal["warn", "retrain"]


class Monitoring(settings.Settings, frozen=True):
    """conf/monitoring.yml"""

    window_days: float = pydantic.Field(gt=0)
    label_delay_days: float = pydantic.Field(ge=0)
    rows: int = pydantic.Field(gt=1)
    confidence: float = pydantic.Field(gt=0.5, lt=1)
    resamples: int = pydantic.Field(ge=10)
    cpu_hour_price: float = pydantic.Field(ge=0)
    currency: str = ""  # of that price; files of before there was such a key name none
    signals: dict[str, Watched] = pydantic.Field(min_length=1)


class Unmeasurable(Exception):
    """There is nothing to measure a signal on; the message says what is missing."""


class Seen:
    """What is known of the answered predictions in a window; only a sample of rows is kept."""

    def __init__(
        self, project: Project, reference: Reference, since: datetime, until: datetime, settled: datetime
    ) -> None:
        self.project, self.problem = project, problem_of(project)
        self.kept = [*dict.fromkeys(["prediction", *self.problem.columns])]
        self.reference, self.since, self.until, self.settled = reference, since, until, settled
        self.inputs, self.predictions = reference.inputs.empty(), reference.predictions.empty()
        self.seconds = np.zeros(len(SECONDS) + 1, dtype=np.int64)
        self.n_rows = self.n_requests = self.n_settled = self.n_labelled = self.n_failed = 0
        self.n_truths = 0  # labelled rows of the version, of which `labelled` is a sample
        self.hours = pl.DataFrame(schema={"hour": pl.Datetime("us"), "len": pl.UInt64})  # rows by the hour they are of
        self.generators = np.random.default_rng(0), np.random.default_rng(1)  # the same rows whatever the chunks
        self.any = self.labelled = pl.DataFrame()

    def add(self, chunk: pl.DataFrame) -> None:
        chunk = chunk.filter(pl.col("answered") & pl.col("at").is_between(self.since, self.until, closed="left"))
        if chunk.is_empty():
            return
        self.n_rows += len(chunk)
        sent = as_sent(self.project, chunk)
        self.inputs.add(sent)
        seconds = chunk.filter(pl.col("row") == 0)["seconds"].to_numpy()
        self.n_requests += len(seconds)
        self.seconds += np.bincount(np.searchsorted(SECONDS, seconds), minlength=len(self.seconds))
        settled = chunk.filter(pl.col("at") < self.settled)["label"]
        self.n_settled, self.n_labelled = self.n_settled + len(settled), self.n_labelled + settled.count()
        moments = [
            rows[name].cast(pl.Datetime("us"))
            for rows, name in ((sent, split.time_column(self.project)), (chunk, "at"))
            if name and name in rows  # a row without a time is of the moment when it was asked
        ]
        hours = pl.select(hour=pl.coalesce(moments).dt.truncate("1h"))
        hours = hours.group_by("hour").len().drop_nulls().cast({"len": pl.UInt64})
        self.hours = pl.concat([self.hours, hours]).group_by("hour").agg(pl.col("len").sum())
        version = chunk["version"] == self.reference.version
        mine = chunk.filter(version)
        self.predictions.add(answered(self.project, mine))
        whole = mine.filter(pl.all_horizontal(pl.col(self.kept).is_not_null()))
        self.any = keep(self.any, whole.select(self.kept), self.generators[0])
        there = version & pl.all_horizontal(pl.col(["label", *self.kept]).is_not_null())
        known = sent.with_columns(chunk[[*self.kept, "label"]]).filter(there)
        self.n_truths += len(known)
        self.labelled = keep(self.labelled, known, self.generators[1])

    @property
    def newest(self) -> datetime | None:
        """The hour of the newest row, but for one in a hundred: a mistyped year is no news."""
        ordered, n_timed = self.hours.sort("hour"), int(self.hours["len"].sum())
        hours = ordered.filter(pl.col("len").cum_sum() > 0.99 * (n_timed - 1))["hour"].to_list()
        return next(iter(hours), None)


def keep(before: pl.DataFrame, new: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    """Return all rows so far or, once they are more, N_KEPT of them, each as likely as any other: those drawn lowest."""
    new = new.with_columns(pl.Series("drawn", generator.random(len(new))))
    if len(before) >= N_KEPT:
        new = new.filter(pl.col("drawn") < before["drawn"].max())
    both = pl.concat([before, new]) if len(before) else new
    return both if len(both) <= N_KEPT else both.bottom_k(N_KEPT, by="drawn")


def evaluate(name: str, watched: Watched, seen: Seen, conf: Monitoring) -> Iterator[dict[str, Any]]:
    """Yield each value of a signal with its interval and whether all of that is beyond the threshold: it fires."""
    if watched.source not in MEASURES:
        raise ProjectError(f"conf/monitoring.yml: {name}: source {watched.source} is none of {', '.join(MEASURES)}")
    try:
        found = MEASURES[watched.source](watched, seen, conf)
    except Unmeasurable as error:
        found = [{"value": None, "why": str(error)}]
    above = watched.fires == "above"
    told = watched.model_dump(include={"kind", "source", "threshold", "owner", "runbook", "action"})
    for one in found:
        full = {"name": name, **told, "low": None, "high": None} | one
        sure = full["value"] if full["low"] is None else full["low" if above else "high"]
        beyond = sure is not None and (sure > watched.threshold if above else sure < watched.threshold)
        yield full | {"fired": bool(one.get("fired", beyond))}


def need(n_rows: int, what: str, conf: Monitoring) -> None:
    if n_rows < conf.rows:
        raise Unmeasurable(f"{n_rows:,} {what}, {conf.rows:,} are needed (rows in conf/monitoring.yml)")


def about(value: float, error: float, comparisons: int, conf: Monitoring) -> dict[str, Any]:
    """Return VALUE with the interval in which it lies, made wider for the number of comparisons."""
    if not np.isfinite(value + error):
        return {"value": None, "why": "cannot be taken from these rows: they are all alike"}
    reach = scipy.stats.norm.isf((1 - conf.confidence) / comparisons) * error
    return {"value": float(value), "low": float(value - reach), "high": float(value + reach)}


def spread(measured: Callable[[pl.DataFrame], float], rows: pl.DataFrame, conf: Monitoring, n_rows: int = 0) -> float:
    """Return the standard error of a measure on ROWS, or N_ROWS like them, by the bootstrap with at most N_DRAWN."""
    generator, n = np.random.default_rng(0), min(len(rows), N_DRAWN)
    values = [measured(rows[generator.integers(len(rows), size=n)]) for _ in range(conf.resamples)]
    return float(np.nanstd(values, ddof=1) * np.sqrt(n / (n_rows or len(rows))))


def inputs(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Return how far each input is from the training rows."""
    need(seen.n_rows, "rows", conf)
    return compare(seen.reference.inputs, seen.inputs, watched, conf)


def predictions(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Return how far the predictions are from those for the held-out rows."""
    need(seen.predictions.n_rows, f"predictions of version {seen.reference.version}", conf)
    before, now = (
        drift.Profile({seen.project.model.OUTPUT: one}) for one in (seen.reference.predictions, seen.predictions)
    )
    return compare(before, now, watched, conf)


def compare(before: drift.Profile, now: drift.Profile, watched: Watched, conf: Monitoring) -> Found:
    found = before.compare(now, watched.threshold, 1 - conf.confidence)
    return [{"column": name, "value": one.pop("psi"), "fired": one.pop("drifted")} | one for name, one in found.items()]


def shares(counted: Callable[[drift.Column], int]) -> Callable[[Watched, Seen, Monitoring], Found]:
    """Return a measure of by how much the share of what is COUNTED in a column has grown since training."""

    def measure(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
        need(seen.n_rows, "rows", conf)
        found = []
        for name, now in seen.inputs.items():
            before = seen.reference.inputs[name]
            then, live = counted(before) / before.n_rows, counted(now) / now.n_rows
            error = np.sqrt(then * (1 - then) / before.n_rows + live * (1 - live) / now.n_rows)
            found.append({"column": name, "now": live} | about(live - then, float(error), len(seen.inputs), conf))
        return found

    return measure


def lost(
    name: str,
    before: pl.DataFrame,
    now: pl.DataFrame,
    comparisons: int,
    seen: Seen,
    conf: Monitoring,
    n_rows: int = 0,
) -> dict[str, Any]:
    """Return by how much the primary metric is worse than BEFORE, the held-out rows of NAME; below 0 it is better."""
    before, now = (rows.select("label", *seen.kept) for rows in (before, now))
    then, live = primary(seen.project, before), primary(seen.project, now)
    known = f"spread of {seen.project.model.PRIMARY}, {name}, {conf.resamples} resamples"
    measured = functools.partial(primary, seen.project)
    then_error = seen.reference.once(known, lambda: spread(measured, before, conf))
    error = np.hypot(then_error, spread(measured, now, conf, n_rows))
    worse = (then - live) * (1 if seen.project.model.HIGHER_IS_BETTER[seen.project.model.PRIMARY] else -1)
    told = about(worse, float(error), comparisons, conf)
    return told if told["value"] is None else told | {"metric": seen.project.model.PRIMARY, "before": then, "now": live}


def decay(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    need(len(seen.labelled), "labelled rows", conf)
    return [{"rows": len(seen.labelled)} | lost("all", seen.reference.held_out, seen.labelled, 1, seen, conf)]


def decay_by_slice(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    if not seen.project.data.SLICES:
        raise Unmeasurable("not declared: SLICES in data.py names none")
    pairs = list(slices(seen, conf))
    if not pairs:
        raise Unmeasurable(f"no slice has {conf.rows:,} labelled rows, then and now")
    return [
        {"slice": name, "rows": len(now)} | lost(name, then, now, len(pairs), seen, conf) for name, then, now in pairs
    ]


def slices(seen: Seen, conf: Monitoring) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    """Yield each slice of data.py that is large enough: its name, its held-out rows and its labelled rows now."""
    for column in seen.project.data.SLICES:
        if column in seen.labelled.columns and column in seen.reference.held_out.columns:
            then, now = (
                {str(value): rows for (value,), rows in table.group_by(column) if len(rows) >= conf.rows}
                for table in (seen.reference.held_out, seen.labelled)
            )
            yield from ((f"{column} {value}", then[value], now[value]) for value in sorted(then.keys() & now.keys()))


def estimate(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Return the decay to expect where truths are as they were for held-out rows with about the same prediction.

    It sees what a shift of the inputs does, not that the same inputs have come to mean something else: only labels show that.
    """
    need(len(seen.any), f"predictions of version {seen.reference.version}", conf)
    before, generator = seen.reference.held_out.sort("prediction"), np.random.default_rng(0)
    live = pl.concat([seen.any.select(seen.kept)] * (N_TRUTHS if len(seen.any) < N_KEPT else 1))
    if seen.problem.classes:
        near = alike(predicted(seen.project, before), predicted(seen.project, live), reach(before), generator)
    else:
        near = np.searchsorted(before["prediction"].to_numpy(), live["prediction"].to_numpy())
        near += generator.integers(-reach(before), reach(before) + 1, len(near))
    twins = before[np.clip(near, 0, len(before) - 1)]
    truth = seen.problem.moved(twins["label"].to_numpy(), (live["prediction"] - twins["prediction"]).to_numpy())
    expected = live.with_columns(label=pl.Series(truth))
    return [
        lost("all", before, expected, 1, seen, conf, len(seen.any))
    ]  # a prediction counts once, however often its truth was drawn


def reach(before: pl.DataFrame) -> int:
    """Return how many of the held-out rows BEFORE, on each side, count as alike."""
    return max(1, min(NEIGHBOURS, int(NEAR * len(before))))


def alike(before: np.ndarray, live: np.ndarray, reach: int, generator: np.random.Generator) -> np.ndarray:
    """Return, for each row of probabilities LIVE, one of the nearest rows of BEFORE, picked at random."""
    from scipy.spatial import cKDTree

    n = min(2 * reach + 1, len(before))
    nearest = cKDTree(before).query(live, k=[*range(1, n + 1)])[1]
    return nearest[np.arange(len(live)), generator.integers(n, size=len(live))]


def calibration(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Return how far the mean prediction is from the mean truth."""
    need(len(seen.labelled), "labelled rows", conf)
    told, came = seen.problem.reliability(predicted(seen.project, seen.labelled), seen.labelled["label"].to_numpy())
    wrong = told - came
    return [{"now": float(wrong.mean())} | about(abs(wrong.mean()), wrong.std() / np.sqrt(len(wrong)), 1, conf)]


def fair(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Return the largest difference of a rate between the groups of behaviour.py, measured as the gate does."""
    decide = settings.read(seen.project, "release", Release).fairness.decide
    if watched.metric not in (known := fairness.measures(decide)):
        raise ProjectError(f"conf/monitoring.yml: metric {watched.metric} is none of {', '.join(known)}")
    need(len(seen.labelled), "labelled rows", conf)
    try:
        groups = fairness.declared(seen.project, seen.labelled.to_pandas())
    except KeyError as error:
        raise Unmeasurable(f"behaviour.py groups by {error}, which is not logged") from None
    if not groups:
        raise Unmeasurable("not declared: groups() in behaviour.py gives none")
    found, truth = [], seen.problem.truths(seen.labelled["label"])
    outcomes = seen.problem.outcomes(truth, predicted(seen.project, seen.labelled), decide)
    for (title, group), outcome in itertools.product(groups.items(), outcomes):
        metric = fairness.measures(outcome.decide)[watched.metric]
        difference = functools.partial(furthest, metric)
        pairs = {"label": outcome.truth, "prediction": fairness.compared(outcome, watched.metric)}
        rows = pl.DataFrame(pairs | {"group": group.astype(str).factorize()[0]})
        rows = rows.filter(pl.len().over("group") >= conf.rows)
        told: dict[str, Any] = {"value": None, "why": f"fewer than two groups with {conf.rows:,} labelled rows"}
        if rows["group"].n_unique() > 1:
            told = about(difference(rows), spread(difference, rows, conf), 1, conf)
        name = f"{title}, {outcome.name}" if outcome.name else str(title)
        found.append({"slice": name, "metric": watched.metric} | told)
    return found


def furthest(metric: fairness.Measure, rows: pl.DataFrame) -> float:
    """Return the largest difference of METRIC between the groups of ROWS."""
    truth, said, group = (rows[name].to_numpy() for name in ("label", "prediction", "group"))
    rates = [metric(truth[group == one], said[group == one]) for one in np.unique(group)]
    known = [rate for rate in rates if not np.isnan(rate)]  # a rate counts some rows only, and a group may have none
    return float(max(known) - min(known)) if len(known) > 1 else float("nan")


def staleness(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Return how many days the newest row is later than what the version has learned."""
    if seen.newest is None:
        raise Unmeasurable("no predictions")
    return [{"value": (seen.newest - seen.reference.trained_before) / timedelta(days=1)}]


def latency(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    return [{"value": quantile(seen.seconds, 0.99), "rows": seen.n_requests}]


def quantile(counts: np.ndarray, share: float) -> float:
    """Return the seconds within which SHARE of the requests that COUNTS counts were answered."""
    if not counts.sum():
        raise Unmeasurable("no requests")
    return float(SECONDS[min(np.searchsorted(counts.cumsum(), share * counts.sum()), len(SECONDS) - 1)])


def failures(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    asked = seen.n_requests + seen.n_failed
    if not asked:
        raise Unmeasurable("no requests")
    return [{"value": seen.n_failed / asked, "rows": asked}]


def traffic(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    return [{"value": seen.n_rows}]


def labelled(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Return the share of predictions, old enough for it, whose truth has come."""
    if not seen.n_settled:
        raise Unmeasurable("no prediction is old enough")
    return [{"value": seen.n_labelled / seen.n_settled, "rows": seen.n_settled}]


MEASURES: dict[str, Callable[[Watched, Seen, Monitoring], Found]] = {
    "inputs": inputs,
    "predictions": predictions,
    "missing": shares(lambda column: int(column.counts[-1])),
    "unseen": shares(lambda column: int(column.counts[-3:-1].sum())),
    "labels": decay,
    "labels by slice": decay_by_slice,
    "estimate": estimate,
    "predictions and labels": calibration,
    "groups": fair,
    "age": staleness,
    "seconds": latency,
    "failures": failures,
    "rows": traffic,
    "labelled share": labelled,
}
