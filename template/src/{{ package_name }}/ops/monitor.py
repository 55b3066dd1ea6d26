"""Watch the version in use on its logged predictions: drift, quality, decay, calibration, fairness; exit 3 when one fires.

python -m {package} monitor
python -m {package} monitor --since 2013-06-01 --until 2013-07-01 --json

conf/monitoring.yml says what is watched. A signal whose interval is known fires when all of it is beyond the threshold.
The report, reports/monitoring/TIME.html and .json, names the likeliest causes first; tags of the version sum it up.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pydantic
from scipy import stats

from .. import behaviour, data, model
from . import ProjectError, Refused, UsageError, drift, references, settings, store, tracking
from .gates import Release, fairness, in_use
from .pipeline import say, write_json
from .references import Reference, losses, primary

REPORTS = Path("reports/monitoring")
N_KEPT = 100_000  # labelled rows of a window, picked at random, from which what cannot be counted is measured
N_DRAWN = 2_000  # rows of each resample; the spread of all rows follows from theirs
NEIGHBOURS = 25  # held-out rows on each side whose truths stand in for one that is not known yet
SECONDS = np.geomspace(1e-4, 100, 241)  # bounds of the counts of latencies: 6 % apart
GATHERED_AT_MOST = 8  # causes named
Found = Iterator[dict[str, Any]]
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
    signals: dict[str, Watched] = pydantic.Field(min_length=1)


class Seen:
    """What is known of the predictions in a window, gathered a chunk at a time; only a sample of rows is kept."""

    def __init__(self, reference: Reference, since: datetime, until: datetime, settled: datetime) -> None:
        self.reference, self.since, self.until, self.settled = reference, since, until, settled
        self.inputs, self.predictions = reference.inputs.empty(), reference.predictions.empty()
        self.seconds = np.zeros(len(SECONDS) + 1, dtype=np.int64)
        self.n_rows = self.n_requests = self.n_settled = self.n_labelled = self.n_failed = 0
        self.newest: datetime | None = None
        self.generators = np.random.default_rng(0), np.random.default_rng(1)  # the same rows whatever the chunks
        self.labelled, self.any = pl.DataFrame(), pl.DataFrame()

    def add(self, chunk: pl.DataFrame) -> None:
        chunk = chunk.filter(pl.col("answered") & pl.col("at").is_between(self.since, self.until, closed="left"))
        if chunk.is_empty():
            return
        self.n_rows += len(chunk)
        self.inputs.add(chunk)
        requests = chunk.filter(pl.col("row") == 0)["seconds"].to_numpy()
        self.n_requests += len(requests)
        self.seconds += np.bincount(np.searchsorted(SECONDS, requests), minlength=len(self.seconds))
        settled = chunk.filter(pl.col("at") < self.settled)["label"]
        self.n_settled, self.n_labelled = self.n_settled + len(settled), self.n_labelled + settled.count()
        moment = chunk[data.TIME if data.TIME in chunk.columns else "at"].max()
        self.newest = max(filter(None, (self.newest, moment)), default=None)
        mine = chunk.filter(pl.col("version") == self.reference.version)
        self.predictions.add(mine["prediction"])
        self.any = kept(self.any, mine.select("prediction"), self.generators[0])
        self.labelled = kept(self.labelled, mine.filter(pl.col("label").is_not_null()), self.generators[1])


def kept(before: pl.DataFrame, new: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    """Return a random N_KEPT of all rows so far, or up to twice as many."""
    new = new.with_columns(pl.Series("drawn", generator.random(len(new))))
    both = pl.concat([before, new]) if len(before) else new
    return both if len(both) <= 2 * N_KEPT else both.bottom_k(N_KEPT, by="drawn")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", metavar="TIME", help="predictions from then on, UTC (default: conf/monitoring.yml)")
    parser.add_argument("--until", metavar="TIME", help="up to before then (default: now)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> None:
    report = measure(moment(options.since), moment(options.until))
    fired = [one for one in report["signals"] if one["fired"]]
    title = (
        f"version {report['version']}, {report['window']['rows']:,} predictions of {report['window']['days']:.3g} days"
    )
    if options.json:
        print(json.dumps(report))
    if not fired:
        return (
            None
            if options.json
            else print(f"{title}: none of {len(report['signals'])} signals fired; {report['file']}")
        )
    told = [
        f"{one['name']}{where(one)} {one['value']:.4g} (threshold {one['threshold']:g}): {one['owner']}, {one['runbook']}"
        for one in fired
    ]
    causes = [f"likely cause: {cause['what']}, {cause['why']}" for cause in report["causes"][:3]]
    lines = [f"{title}: {len(fired)} of {len(report['signals'])} signals fired; {report['file']}", *told, *causes]
    raise Refused("\n  ".join(lines))


def moment(text: str | None) -> datetime | None:
    try:
        given = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{text} is no time: write it as 2013-07-01 or 2013-07-01T06:00") from None
    return given.astimezone(UTC).replace(tzinfo=None) if given and given.tzinfo else given


def where(one: dict[str, Any]) -> str:
    place = one.get("column") or one.get("slice")
    return f" of {place}" if place else ""


def measure(since: datetime | None = None, until: datetime | None = None, log: Any = None) -> dict[str, Any]:
    """Return the report on the version in use, written to REPORTS and to the version's tags; times in UTC, without a zone."""
    from . import prediction_log

    started = time.process_time()
    conf, log = settings.read("monitoring", Monitoring), log or prediction_log.open_log()
    until = until or datetime.now(UTC).replace(tzinfo=None)
    if since and since >= until:
        raise UsageError(f"--since {since} is not before --until {until}")
    chosen, client = tracking.open_store()
    version = in_use() or tracking.aliases(client, chosen.model).get("champion")
    if not version:
        raise ProjectError("no version is in use yet: `promote` or `deploy` one, then there is something to watch")
    reference = references.read(client, chosen.model, version)
    settled = until - timedelta(days=conf.label_delay_days)
    windows = {days_of(one, conf): Seen(reference, since or until - timedelta(days=days_of(one, conf)), until, settled)
               for one in conf.signals.values()}  # fmt: skip
    oldest = min(seen.since for seen in windows.values())
    for chunk in log.frames(since=oldest, until=until):
        for seen in windows.values():
            seen.add(chunk)
    for seen in windows.values():
        seen.n_failed = count_failures(log, seen.since, until)
    signals = [one for name, of in conf.signals.items() for one in judge(name, of, windows[days_of(of, conf)], conf)]
    seen = (
        windows[days_of(None, conf)]
        if days_of(None, conf) in windows
        else max(windows.values(), key=lambda one: one.n_rows)
    )
    now = datetime.now(UTC)
    report = {
        "at": now.isoformat(timespec="milliseconds"),
        "window": {
            "since": str(seen.since),
            "until": str(until),
            "days": (until - seen.since) / timedelta(days=1),
            "rows": seen.n_rows,
            "labelled": len(seen.labelled),
        },
        "model": chosen.model,
        "version": version,
        "signals": signals,
        "causes": causes(signals, windows, conf),
        "curve": curve(seen.labelled),
        "file": str(REPORTS / f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z.html"),
    }
    report["cpu_seconds"] = round(time.process_time() - started, 2)
    write(report)
    tell(client, report)
    return report


def days_of(watched: Watched | None, conf: Monitoring) -> float:
    return (watched and watched.window_days) or conf.window_days


def count_failures(log: Any, since: datetime, until: datetime) -> int:
    import sqlalchemy as sql

    from .prediction_log import FAILURES

    of = FAILURES.c
    with log.connection() as connection:
        wanted = sql.select(sql.func.count()).where(of.at >= since, of.at < until, of.endpoint == "/predict")
        return int(connection.scalar(wanted) or 0)


def judge(name: str, watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Yield each value of a signal with its interval and whether it fires."""
    if watched.source not in MEASURES:
        raise ProjectError(f"conf/monitoring.yml: {name}: source {watched.source} is none of {', '.join(MEASURES)}")
    for found in MEASURES[watched.source](watched, seen, conf):
        value, low, high = (found.get(key) for key in ("value", "low", "high"))
        sure = low if watched.fires == "above" else high
        sure = value if sure is None else sure
        beyond = sure is not None and (
            sure > watched.threshold if watched.fires == "above" else sure < watched.threshold
        )
        told = watched.model_dump(include={"kind", "source", "threshold", "owner", "runbook", "action"})
        yield (
            {"name": name, **told, "value": value, "low": low, "high": high}
            | found
            | {"fired": bool(found.get("fired", beyond))}
        )


def absent(why: str) -> dict[str, Any]:
    return {"value": None, "why": why}


def about(value: float, spread: float, comparisons: int, conf: Monitoring) -> dict[str, Any]:
    """Return VALUE with the interval in which it lies, corrected for the number of comparisons; missing where it is nan."""
    if not np.isfinite(value):
        return absent("cannot be taken from these rows: they are all alike")
    reach = stats.norm.isf((1 - conf.confidence) / max(comparisons, 1)) * spread
    return {"value": float(value), "low": float(value - reach), "high": float(value + reach)}


def spread(measured: Callable[[pl.DataFrame], float], rows: pl.DataFrame, conf: Monitoring) -> float:
    """Return the standard error of a measure on ROWS, by the bootstrap on at most N_DRAWN of them."""
    generator, n = np.random.default_rng(0), min(len(rows), N_DRAWN)
    values = np.array([measured(rows[generator.integers(len(rows), size=n)]) for _ in range(conf.resamples)])
    return float(np.nanstd(values, ddof=1) * np.sqrt(n / len(rows)))


def of_inputs(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    yield from compared(seen.reference.inputs, seen.inputs, watched, seen.n_rows, conf)


def of_predictions(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    before, now = (
        drift.Profile({model.OUTPUT: seen.reference.predictions}),
        drift.Profile({model.OUTPUT: seen.predictions}),
    )
    yield from compared(before, now, watched, seen.predictions.n_rows, conf)


def compared(before: drift.Profile, now: drift.Profile, watched: Watched, n_rows: int, conf: Monitoring) -> Found:
    if n_rows < conf.rows:
        yield absent(f"{n_rows:,} rows, {conf.rows:,} are needed")
        return
    for name, found in before.compare(now, watched.threshold, 1 - conf.confidence).items():
        yield {"column": name, "value": found.pop("psi"), "fired": found.pop("drifted")} | found


def missing(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    yield from shares(seen, conf, lambda column: int(column.counts[-1]))


def unseen(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    yield from shares(seen, conf, lambda column: int(column.counts[-3:-1].sum()))


def shares(seen: Seen, conf: Monitoring, counted: Callable[[drift.Column], int]) -> Found:
    """Yield for each column by how much the share of what is COUNTED has grown since training."""
    if seen.n_rows < conf.rows:
        yield absent(f"{seen.n_rows:,} rows, {conf.rows:,} are needed")
        return
    for name, now in seen.inputs.items():
        before = seen.reference.inputs[name]
        then, share = counted(before) / max(before.n_rows, 1), counted(now) / now.n_rows
        error = np.sqrt(then * (1 - then) / max(before.n_rows, 1) + share * (1 - share) / now.n_rows)
        yield {"column": name, "share": share} | about(share - then, float(error), len(seen.inputs), conf)


def decay(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    yield lost(seen.reference.held_out, seen.labelled, 1, conf)


def decay_by_slice(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    before, now = seen.reference.held_out, seen.labelled
    pairs = [(name, then, live) for name, then, live in slices(before, now) if min(len(then), len(live)) >= conf.rows]
    for name, then, live in pairs:
        yield {"slice": name, "rows": len(live)} | lost(then, live, len(pairs), conf)
    if not pairs:
        yield absent(f"no slice has {conf.rows:,} labelled rows, then and now")


def lost(before: pl.DataFrame, now: pl.DataFrame, comparisons: int, conf: Monitoring) -> dict[str, Any]:
    """Return by how much the primary metric is worse than on the held-out rows; below 0 it is better."""
    if len(now) < conf.rows:
        return absent(f"{len(now):,} labelled rows, {conf.rows:,} are needed")
    then, live = primary(before), primary(now)
    error = np.hypot(spread(primary, before, conf), spread(primary, now, conf))
    told = {"metric": model.PRIMARY, "before": then, "now": live, "rows": len(now)}
    return told | about(worse(then, live), float(error), comparisons, conf)


def worse(before: float, now: float) -> float:
    return (before - now) * (1 if model.HIGHER_IS_BETTER[model.PRIMARY] else -1)


def slices(before: pl.DataFrame, now: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    """Yield each slice of data.py that is in both: its name, its rows before and its rows now."""
    for column in data.SLICES:
        if column in before.columns and column in now.columns:
            then = {str(value): rows for (value,), rows in before.group_by(column)}
            live = {str(value): rows for (value,), rows in now.group_by(column)}
            yield from ((f"{column} {value}", then[value], live[value]) for value in sorted(then.keys() & live.keys()))


def estimate(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Yield the decay to expect where truths are as they were for held-out rows with about the same prediction.

    It sees what a shift of the inputs does, not that the same inputs have come to mean something else: only labels show that.
    """
    before, generator = seen.reference.held_out.sort("prediction"), np.random.default_rng(0)
    if len(seen.any) < conf.rows:
        yield absent(f"{len(seen.any):,} predictions, {conf.rows:,} are needed")
        return
    values = seen.any["prediction"].to_numpy()
    near = np.searchsorted(before["prediction"].to_numpy(), values)
    drawn = []
    for _ in range(10):
        twin = before[np.clip(near + generator.integers(-NEIGHBOURS, NEIGHBOURS + 1, len(near)), 0, len(before) - 1)]
        off = 0 if data.PROBLEM == "classification" else values - twin["prediction"].to_numpy()
        drawn.append(seen.any.select("prediction").with_columns(label=twin["label"] + off))
    then, live = primary(before), float(np.mean([primary(rows) for rows in drawn]))
    error = np.hypot(spread(primary, before, conf), spread(primary, drawn[0], conf))
    yield {"metric": model.PRIMARY, "before": then, "now": live} | about(worse(then, live), float(error), 1, conf)


def calibration(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Yield how far the mean prediction is from the mean truth."""
    rows = seen.labelled
    if len(rows) < conf.rows:
        yield absent(f"{len(rows):,} labelled rows, {conf.rows:,} are needed")
        return
    wrong = (rows["prediction"] - rows["label"]).to_numpy()
    yield {"mean": float(wrong.mean())} | about(
        abs(float(wrong.mean())), float(wrong.std() / np.sqrt(len(wrong))), 1, conf
    )


def staleness(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Yield how many days the newest row is later than what the version has learned."""
    if seen.newest is None:
        yield absent("no predictions")
        return
    yield {"value": (seen.newest - seen.reference.trained_before) / timedelta(days=1)}


def latency(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    if not seen.n_requests:
        yield absent("no requests")
        return
    place = int(np.searchsorted(seen.seconds.cumsum(), 0.99 * seen.n_requests))
    yield {"value": float(SECONDS[min(place, len(SECONDS) - 1)]), "rows": seen.n_requests}


def errors(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    asked = seen.n_requests + seen.n_failed
    yield {"value": seen.n_failed / asked, "rows": asked} if asked else absent("no requests")


def rows(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    yield {"value": seen.n_rows}


def labels(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Yield the share of predictions, old enough for it, whose truth has come."""
    yield (
        {"value": seen.n_labelled / seen.n_settled, "rows": seen.n_settled}
        if seen.n_settled
        else absent("none is old enough")
    )


def fair(watched: Watched, seen: Seen, conf: Monitoring) -> Found:
    """Yield the largest difference of a rate between the groups of behaviour.py, as the gate measures it."""
    from fairlearn.metrics import MetricFrame

    known = fairness.measures(settings.read("release", Release).fairness.decide)
    if watched.metric not in known:
        raise ProjectError(f"conf/monitoring.yml: metric {watched.metric} is none of {', '.join(known)}")
    if len(seen.labelled) < conf.rows:
        yield absent(f"{len(seen.labelled):,} labelled rows, {conf.rows:,} are needed")
        return
    for title, group in behaviour.groups(seen.labelled.to_pandas()).items():
        table = seen.labelled.select("prediction", "label").with_columns(group=pl.Series(group.astype(str).to_list()))
        table = table.filter(pl.len().over("group") >= conf.rows)
        if table["group"].n_unique() < 2:
            yield {"slice": str(title)} | absent(f"fewer than two groups with {conf.rows:,} labelled rows")
            continue

        def difference(some: pl.DataFrame) -> float:
            truth, predicted, group = (some[name].to_numpy() for name in ("label", "prediction", "group"))
            frame = MetricFrame(
                metrics=known[str(watched.metric)], y_true=truth, y_pred=predicted, sensitive_features=group
            )
            return float(frame.difference())

        yield {"slice": str(title), "metric": watched.metric} | about(
            difference(table), spread(difference, table, conf), 1, conf
        )


MEASURES: dict[str, Callable[[Watched, Seen, Monitoring], Found]] = {
    "inputs": of_inputs,
    "predictions": of_predictions,
    "missing": missing,
    "unseen": unseen,
    "labels": decay,
    "labels by slice": decay_by_slice,
    "estimate": estimate,
    "predictions and labels": calibration,
    "age": staleness,
    "seconds": latency,
    "failures": errors,
    "rows": rows,
    "labelled share": labels,
    "groups": fair,
}


def causes(signals: list[dict[str, Any]], windows: dict[float, Seen], conf: Monitoring) -> list[dict[str, Any]]:
    """Return what most likely lies behind the signals that fired, the likeliest first, each with its contribution, 0 to 1.

    A column's is its change times what the predictions hang on it, as a share of all columns that changed; a slice's is its
    part of the loss that was added, beyond its part of the rows.
    """
    found: list[dict[str, Any]] = []
    fired = [one for one in signals if one["fired"]]
    weights = next(iter(windows.values())).reference.weights
    changed: dict[str, list[dict[str, Any]]] = {}
    for one in fired:
        if one["source"] in ("inputs", "missing", "unseen"):
            changed.setdefault(one["column"], []).append(one)
    moved = {one["column"]: one["value"] for one in signals if one["source"] == "inputs" and "column" in one}
    scores = {
        name: weights.get(name, 0) * max(moved.get(name, 0), *(abs(one["value"]) for one in some))
        for name, some in changed.items()
    }
    for name, score in scores.items():
        why = ", ".join(f"{one['name']} {one['value']:.3g}" for one in changed[name])
        why += f", {weights.get(name, 0):.0%} of what moves predictions"
        found.append({"what": f"column {name}", "contribution": score / (sum(scores.values()) or 1), "why": why})
    for watched in (one for one in conf.signals.values() if one.source == "labels by slice"):
        seen = windows[days_of(watched, conf)]
        if any(one["kind"] in ("decay", "calibration") for one in fired) and len(seen.labelled) >= conf.rows:
            found += slices_to_blame(seen, conf)
    return sorted(found, key=lambda one: -one["contribution"])[:GATHERED_AT_MOST]


def slices_to_blame(seen: Seen, conf: Monitoring) -> Iterator[dict[str, Any]]:
    now, before = seen.labelled, seen.reference.held_out
    whole = losses(now).sum() - losses(before).mean() * len(now)
    for name, then, live in slices(before, now):
        added = losses(live).mean() - losses(then).mean()
        error = np.hypot(losses(live).std() / np.sqrt(len(live)), losses(then).std() / np.sqrt(len(then)))
        part = min(added * len(live) / whole, 1.0) if whole > 0 else 0.0
        if len(live) >= conf.rows and added > 3 * error and part > len(live) / len(now):
            why = f"{part:.0%} of the added loss on {len(live) / len(now):.0%} of the rows, {added:+.3g} a row"
            yield {"what": f"slice {name}", "contribution": float(part - len(live) / len(now)), "why": why}


def curve(rows: pl.DataFrame) -> list[list[float]]:
    """Return mean prediction and mean truth of each tenth of the labelled rows, by prediction."""
    ordered = rows.sort("prediction") if len(rows) else rows
    tenths = [ordered[len(rows) * i // 10 : len(rows) * (i + 1) // 10] for i in range(10)] if len(rows) >= 10 else []
    return [[float(part[name].mean() or 0) for name in ("prediction", "label")] for part in tenths]


def tell(client: Any, report: dict[str, Any]) -> None:
    """Write the live metrics beside the version: tags say what holds now, the metrics of its run how it came to that."""
    name, version = report["model"], report["version"]
    run_id = tracking.find_version(client, name, version).run_id
    live = {
        f"live_{one['metric']}": one["now"]
        for one in report["signals"]
        if one["source"] == "labels" and one.get("now") is not None
    }
    live |= {
        f"live_{one['name']}": one["value"]
        for one in report["signals"]
        if not (one.get("column") or one.get("slice")) and one["value"] is not None
    }
    for key, value in live.items():
        client.log_metric(run_id, key, value)
    fired = ", ".join(dict.fromkeys(one["name"] for one in report["signals"] if one["fired"]))
    tags = {
        "monitored_at": report["at"],
        "monitored_rows": report["window"]["rows"],
        "monitored_fired": fired or "none",
    }
    for key, value in {**tags, **{key: f"{value:.6g}" for key, value in live.items()}}.items():
        client.set_model_version_tag(name, version, key, str(value))


def write(report: dict[str, Any]) -> None:
    """Write the report as JSON and as a page."""
    file = Path(report["file"])
    file.parent.mkdir(parents=True, exist_ok=True)
    (REPORTS.parent / ".gitignore").write_text("*\n", encoding="utf-8")  # a report is no change of the code
    with store.whole(file) as part:
        part.write_text(page(report), encoding="utf-8")
    with store.whole(file.with_suffix(".json")) as part:  # last: who finds the JSON finds the page
        write_json(part, report)
    say(f"{file}")


def page(report: dict[str, Any]) -> str:
    from . import charts

    signals, window = report["signals"], report["window"]
    fired = [one for one in signals if one["fired"]]
    parts = [
        charts.quiet(
            f"{window['since']} to {window['until']} UTC, {window['rows']:,} predictions, {window['labelled']:,} with a label"
        ),
        charts.tiles(
            {
                "signals": len(signals),
                "fired": len(fired),
                "not measurable": sum(one["value"] is None for one in signals),
            }
        ),
        charts.section(
            "Likely causes",
            charts.table(
                ["cause", "contribution", "why"],
                [[one["what"], one["contribution"], one["why"]] for one in report["causes"]],
            )
            if report["causes"]
            else charts.quiet("none: no signal that has one fired"),
        ),
        charts.section("Signals that fired", signal_table(fired) if fired else charts.quiet("none")),
    ]
    inputs = sorted(
        (one for one in signals if one["source"] == "inputs" and "bins" in one), key=lambda one: -one["value"]
    )
    by_slice = [one for one in signals if one["source"] == "labels by slice" and one["value"] is not None]
    drawn = [
        charts.section(
            "Drift of each input (PSI)",
            charts.bars(
                {one["column"]: [one["value"]] for one in inputs}, limit=inputs[0]["threshold"] if inputs else None
            ),
        ),
        charts.section(
            f"{model.PRIMARY} lost, by slice",
            charts.bars(
                {str(one["slice"]): [one["value"]] for one in by_slice},
                limit=by_slice[0]["threshold"] if by_slice else None,
            ),
        ),
        charts.section(
            "Truth against prediction",
            charts.lines(
                {
                    "came true": [tuple(point) for point in report["curve"]],
                    "as predicted": [(point[0], point[0]) for point in report["curve"]],
                }
            ),
        ),
    ]
    changed = [*(one for one in signals if one["source"] == "predictions" and "bins" in one), *inputs[:4]]
    for one in changed:
        told = dict(zip(one["bins"], zip(one["before"], one["now"], strict=True), strict=True))
        drawn.append(charts.section(f"{one['column']}: share of rows", charts.bars(told, ["training", "now"])))
    return charts.page(f"{report['model']} version {report['version']}: {len(fired)} of {len(signals)} signals fired",
                       *parts, charts.grid(*drawn), charts.section("All signals", signal_table(signals)))  # fmt: skip


def signal_table(signals: list[dict[str, Any]]) -> str:
    from . import charts

    head = ["signal", "of", "value", "from", "to", "threshold", "", "owner", "what to do"]
    lines = []
    for one in signals:
        state = (
            charts.mark("fired", True)
            if one["fired"]
            else charts.mark("fine", False)
            if one["value"] is not None
            else one.get("why", "not measured")
        )
        place = one.get("column") or one.get("slice") or ""
        numbers = [None if one[key] is None else float(one[key]) for key in ("value", "low", "high", "threshold")]
        lines.append([one["name"], place, *numbers, state, one["owner"], f"{one['runbook']} ({one['action']})"])
    return charts.table(head, lines)
