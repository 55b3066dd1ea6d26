"""Watch the version in use on its logged predictions: drift, quality, decay, calibration, fairness; exit 3 when one fires.

python -m {package} monitor
python -m {package} monitor --since 2013-06-01 --until 2013-07-01 --json
python -m {package} notify monitor        # tells the receivers of conf/notify.yml

conf/monitoring.yml says what is watched. A signal whose interval is known fires when all of it is beyond the threshold.
The report, reports/monitoring/TIME.html and .json, names the likeliest causes first; tags of the version sum it up. TIME
is when its window ends: the latest window is what alerts and retrainings go by, whenever another one was looked at.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import sqlalchemy as sql

from ..core import files, pages, settings
from ..core.errors import ProjectError, Refused, UsageError
from ..core.files import write_json
from ..core.project import Project
from ..core.redaction import redact
from ..data.problem import problem_of
from ..release import environments
from ..release.judgement import in_use
from ..training import tracking
from . import charts, prediction_log, references, triggers
from .references import losses, predicted
from .signals import Monitoring, Seen, Watched, evaluate, slices

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORTS = Path("reports/monitoring")
N_CAUSES = 8  # that are named
UNUSED = "no version is in use yet: `promote` or `deploy` one, then there is something to watch"
Signals = list[dict[str, Any]]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", metavar="TIME", help="predictions from then on, UTC (default: conf/monitoring.yml)")
    parser.add_argument("--until", metavar="TIME", help="up to before then (default: now)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def check(project: Project, options: argparse.Namespace) -> None:
    moment(options.since), moment(options.until)
    deployed = environments.settings_of(project, triggers.read(project).environment)
    if not any(tracking.champion(project, chosen) for chosen in (deployed, tracking.read_settings(project))):
        raise ProjectError(UNUSED)


def run(project: Project, options: argparse.Namespace) -> None:
    report = measure(project, moment(options.since), moment(options.until))
    fired, seen = [one for one in report["signals"] if one["fired"]], report["window"]
    span = f"{seen['days']:.3g} days" if seen["days"] >= 1 else f"{seen['days'] * 24:.2g} hours"
    title = f"version {report['version']}, {seen['rows']:,} predictions of {span}: "
    title += f"{len(fired) or 'none'} of {len(report['signals'])} signals fired; {report['file']}"
    if options.json:
        print(json.dumps(report))
    elif not fired:
        print(title)
    if fired:
        told = [f"{title_of(one)} {one['value']:.4g}: {one['owner']}, {one['runbook']}" for one in fired]
        told += [f"likely cause: {cause['what']}, {cause['why']}" for cause in report["causes"][:3]]
        raise Refused("\n  ".join([title, *told]))


def moment(text: str | None) -> datetime | None:
    """Return a time in UTC without a zone."""
    try:
        given = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{text} is no time: write it as 2013-07-01 or 2013-07-01T06:00") from None
    return given.astimezone(UTC).replace(tzinfo=None) if given and given.tzinfo else given


def title_of(one: dict[str, Any]) -> str:
    return f"{one['name']} {one.get('column') or one.get('slice') or ''}".strip()


def measure(
    project: Project, since: datetime | None = None, until: datetime | None = None, log: Any = None
) -> dict[str, Any]:
    """Return the report on the version in use, written to REPORTS and to the version's tags; times in UTC, without a zone."""

    started = time.process_time()
    conf, log = settings.read(project, "monitoring", Monitoring), log or prediction_log.open_log(project)
    present = datetime.now(UTC).replace(tzinfo=None)
    until = min(until or present, present)  # a report on what is to come would be the newest until then
    if since and since >= until:
        raise UsageError(f"--since {since} is not before --until {until}")
    chosen, client = tracking.open_store(project)
    version = in_use(project, triggers.read(project).environment) or tracking.aliases(client, chosen.model).get(
        "champion"
    )
    if not version:
        raise ProjectError(UNUSED)
    reference = references.read(project, client, chosen.model, version)
    reference = reference.without({name for name in reference.inputs if log.hides(name)})
    settled = until - timedelta(days=conf.label_delay_days)
    windows = {
        days: Seen(project, reference, since or until - timedelta(days=days), until, settled)
        for days in {conf.window_days, *(days_of(one, conf) for one in conf.signals.values())}
    }
    for chunk in log.frames(since=min(seen.since for seen in windows.values()), until=until):
        for seen in windows.values():
            seen.add(chunk)
    of = prediction_log.FAILURES.c
    with log.connection() as connection:
        for seen in windows.values():
            wanted = sql.select(sql.func.count()).where(of.at >= seen.since, of.at < until, of.endpoint == "/predict")
            wanted = wanted.where(of.arm == "champion")  # where a version on trial fails the champion answers
            seen.n_failed = int(connection.scalar(wanted) or 0)
    signals = [one for name, of in conf.signals.items() for one in evaluate(name, of, windows[days_of(of, conf)], conf)]
    seen, now = windows[conf.window_days], datetime.now(UTC)
    days, rows = (until - seen.since) / timedelta(days=1), {"rows": seen.n_rows, "labelled": seen.n_truths}
    report: dict[str, Any] = {
        "at": now.isoformat(timespec="milliseconds"),
        "window": {"since": str(seen.since), "until": str(until), "days": days, **rows},
        "model": chosen.model,
        "version": version,
        "signals": signals,
        "causes": causes(project, signals, windows, conf),
        "curve": curve(project, seen.labelled),
        "file": str(project.path(REPORTS) / f"{until:%Y%m%dT%H%M%S}{until.microsecond // 1000:03}Z.html"),
    }
    report["cpu_seconds"] = round(time.process_time() - started, 2)
    write(project, report)
    past = [
        file for file in project.path(REPORTS).glob("*.html") if file.name <= f"{present:%Y%m%dT%H%M%S}~"
    ]  # a clock was ahead
    if max(past) == Path(report["file"]):  # of an earlier window it says nothing about now
        tag_version(client, report)
    return report


def days_of(watched: Watched, conf: Monitoring) -> float:
    return watched.window_days or conf.window_days


def causes(project: Project, signals: Signals, windows: dict[float, Seen], conf: Monitoring) -> Signals:
    """Return what most likely lies behind the signals that fired, the likeliest first, each with its contribution, 0 to 1.

    A column's is how far it has moved times its part of what moves predictions; a slice's is its part of the loss that
    was added, beyond its part of the rows.
    """
    seen, changed = windows[conf.window_days], defaultdict[str, Signals](list)
    found: Signals = []
    for one in signals:
        if one["fired"] and one["source"] in ("inputs", "missing", "unseen"):
            changed[one["column"]].append(one)
    for name, some in changed.items():
        weight, moved = seen.reference.weights[name], max(one.get("effect") or one["value"] for one in some)
        told = [f"{one['name']} {one['value']:.3g}" for one in some]
        why = f"{', '.join(told)}; {weight:.0%} of what moves predictions"
        found.append({"what": f"column {name}", "contribution": weight * moved, "why": why})
    if any(one["fired"] and one["kind"] in ("decay", "calibration") for one in signals) and len(seen.labelled):
        found += slices_to_blame(project, seen, conf)
    return sorted(found, key=lambda one: -one["contribution"])[:N_CAUSES]


def slices_to_blame(project: Project, seen: Seen, conf: Monitoring) -> Iterator[dict[str, Any]]:
    """Yield the slices in which the loss has grown, by more than chance and more than their part of the rows."""
    n_rows = len(seen.labelled)
    whole = losses(project, seen.labelled).sum() - losses(project, seen.reference.held_out).mean() * n_rows
    for name, then, now in slices(seen, conf):
        before, live = losses(project, then), losses(project, now)
        added, error = (
            live.mean() - before.mean(),
            np.hypot(live.std() / len(live) ** 0.5, before.std() / len(then) ** 0.5),
        )
        part, size = added * len(live) / whole if whole > 0 else 0.0, len(live) / n_rows
        if added > 3 * error and part > size:
            why = f"{min(part, 1):.0%} of the added loss on {size:.0%} of the rows, {added:+.3g} a row"
            yield {"what": f"slice {name}", "contribution": float(min(part, 1) - size), "why": why}


def curve(project: Project, rows: pl.DataFrame) -> list[tuple[float, ...]]:
    """Return mean prediction and mean truth of each tenth of the labelled rows, by prediction; of several classes the likeliest."""
    if len(rows) < 10:
        return []
    told, came = problem_of(project).reliability(predicted(project, rows), rows["label"].to_numpy())
    rows = pl.DataFrame({"prediction": told, "label": came})
    tenths = rows.sort("prediction").with_columns(tenth=pl.int_range(pl.len()) * 10 // pl.len())
    return tenths.group_by("tenth", maintain_order=True).mean().select("prediction", "label").rows()


def tag_version(client: MlflowClient, report: dict[str, Any]) -> None:
    """Write the live metrics beside the version: its tags say what holds now, metrics of its run how it came to that."""
    name, version = report["model"], report["version"]
    live = {}
    for one in report["signals"]:
        if one["value"] is not None and not (one.get("column") or one.get("slice")):
            live[f"live_{one['name']}"] = one["value"]
            if one["source"] == "labels":
                live[f"live_{one['metric']}"] = one["now"]
    run_id = tracking.find_version(client, name, version).run_id
    for key, value in live.items():
        client.log_metric(run_id, key, value)
    fired = ", ".join(dict.fromkeys(one["name"] for one in report["signals"] if one["fired"]))
    tags = {"at": report["at"], "rows": str(report["window"]["rows"]), "fired": fired or "none"}
    tags = {f"monitored_{key}": value for key, value in tags.items()}
    for key, value in {**{key: f"{value:.6g}" for key, value in live.items()}, **tags}.items():
        client.set_model_version_tag(name, version, key, value)


def write(project: Project, report: dict[str, Any]) -> None:
    """Write the report as a page and as JSON."""
    file = Path(report["file"])
    file.parent.mkdir(parents=True, exist_ok=True)
    (project.path(REPORTS).parent / ".gitignore").write_text(
        "*\n", encoding="utf-8"
    )  # a report is no change of the code
    with files.whole(file) as part:
        part.write_text(redact(page(project, report)), encoding="utf-8")
    with files.whole(file.with_suffix(".json")) as part:  # last: who finds the JSON finds the page
        write_json(part, report)


def page(project: Project, report: dict[str, Any]) -> str:
    signals, window, points = report["signals"], report["window"], report["curve"]
    fired = [one for one in signals if one["fired"]]
    told = f"{window['since'][:19]} to {window['until'][:19]} UTC, {window['rows']:,} predictions, {window['labelled']:,} with a label"
    measured = [one for one in signals if one["value"] is not None]
    inputs = sorted((one for one in measured if one["source"] == "inputs"), key=lambda one: -one["value"])
    by_slice = [one for one in measured if one["source"] == "labels by slice"]
    drawn = [
        (
            "Drift of each input, PSI (dashed: the threshold)",
            charts.bars({one["column"]: [one["value"]] for one in inputs}, limit=limit(inputs)),
        ),
        (
            f"{project.model.PRIMARY} lost, by slice (dashed: the threshold)",
            charts.bars({one["slice"]: [one["value"]] for one in by_slice}, limit=limit(by_slice)),
        ),
        ("Truth against prediction", charts.lines({"came true": points, "as predicted": [(x, x) for x, _ in points]})),
    ]
    for one in [*(one for one in measured if one["source"] == "predictions"), *inputs[:4]]:
        bins = zip(one["bins"], zip(one["before"], one["now"], strict=True), strict=True)
        drawn.append((f"{one['column']}: share of rows", charts.bars(dict(bins), ["training", "now"])))
    why = pages.table(["cause", "contribution", "why"], (one.values() for one in report["causes"]))
    return pages.page(
        f"{report['model']} version {report['version']}: {len(fired)} of {len(signals)} signals fired",
        pages.quiet(told),
        pages.section("Likely causes", why),
        pages.section("Fired", charts.signals(fired)),
        pages.grid(drawn),
        pages.section("All signals", charts.signals(signals)),
    )


def limit(signals: Signals) -> float | None:
    return signals[0]["threshold"] if signals else None
