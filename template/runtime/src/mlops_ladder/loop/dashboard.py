"""Write one page about the model in production: traffic, latency, quality, drift, versions, experiments, cost.

python -m {package} dashboard
python -m {package} dashboard --days 90 --with ../churn ../pricing    # and a line each about the models of these projects

The page, reports/dashboard.html, needs nothing from outside; reports/dashboard.json says the same to machines.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sql

from ..core import files, settings
from ..core.errors import ProjectError, UsageError
from ..core.files import write_json
from ..core.project import Project
from ..core.redaction import redact
from ..data.problem import problem_of
from ..release.judgement import in_use
from ..serving import uptime
from ..training import tracking
from . import charts, experiment, prediction_log, references, triggers
from .monitor import REPORTS, moment
from .prediction_log import FAILURES
from .signals import SECONDS, Monitoring, quantile

PAGE = REPORTS.parent / "dashboard.html"
N_REPORTS = 400  # of `monitor`, the newest, that are drawn
Points = list[tuple[datetime, float]]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=float, default=60, help="how far back it looks (default: %(default)g)")
    parser.add_argument("--until", metavar="TIME", help="the last moment that it looks at, UTC (default: now)")
    parser.add_argument("--with", dest="others", nargs="+", default=[], metavar="FOLDER", help="other projects")
    parser.add_argument("--json", action="store_true", help="print what it shows as JSON")


def run(project: Project, options: argparse.Namespace) -> None:
    if not 0 < options.days < 36_525:
        raise UsageError(f"--days is {options.days:g}, must be above 0 and less than a century")
    told = gather(project, moment(options.until) or datetime.now(UTC).replace(tzinfo=None), options.days)
    told["models"] += [line for folder in options.others for line in read_other(Path(folder))]
    target = project.path(PAGE)
    target.parent.mkdir(parents=True, exist_ok=True)
    (target.parent / ".gitignore").write_text(
        "*\n", encoding="utf-8"
    )  # a page about the state is no change of the code
    with files.whole(target) as part:
        part.write_text(redact(page(project, told)), encoding="utf-8")
    with files.whole(target.with_suffix(".json")) as part:
        write_json(part, told)
    n_models = len(told["models"])
    line = f"{PAGE}: {n_models} model{'s' * (n_models > 1)}, {options.days:g} days to {told['until'][:16]}"
    print(json.dumps(told) if options.json else line)


def read_other(folder: Path) -> list[dict[str, Any]]:
    """Return what the dashboard of another project says of its own model."""
    file = folder / PAGE.with_suffix(".json")
    try:
        return json.loads(file.read_text(encoding="utf-8"))["models"][:1]
    except (OSError, ValueError, KeyError) as error:
        raise ProjectError(f"{file} cannot be read ({error}): run `dashboard` in {folder} first") from None


def gather(project: Project, until: datetime, days: float) -> dict[str, Any]:
    """Return all that the page shows; the first of `models` is this project's."""

    since = until - timedelta(days=days)
    chosen, client = tracking.open_store(project)
    conf = settings.read(project, "monitoring", Monitoring)
    deployed = in_use(project)
    version = deployed or tracking.aliases(client, chosen.model).get("champion")
    daily = by_day(project, prediction_log.open_log(project), since, until)
    reports = [read_report(file) for file in sorted(project.path(REPORTS).glob("*.json"))[-N_REPORTS:]]
    reports = [one for one in reports if str(since) < one["window"]["until"] <= str(until)]
    runs = tracking.describe(client, chosen, tracking.search(project, client))
    registered = {str(one.version): one.tags for one in client.search_model_versions(f"name = '{chosen.model}'")}
    past = triggers.past(
        triggers.database(project)
    )  # `began` may be the time of a replay, `until` is when it began here
    retrainings = [one for one in past if since <= datetime.fromisoformat(one["until"]) <= until]
    spent = {
        "training": sum(one["metrics"].get("fit_seconds", 0) for one in runs if one["started"] >= str(since)),
        "retraining": sum(one["seconds"] for one in retrainings),
        "monitoring": sum(one["cpu_seconds"] for one in reports),
        "answering": sum(day["busy_seconds"] for day in daily),
    }
    failed, asked = sum(day["failures"] for day in daily), sum(day["requests"] for day in daily)
    last = daily[-1] if daily else {"p99_ms": None, "loss": None}
    line = {
        "project": project.folder.resolve().name,
        "model": chosen.model,
        "version": version,
        "predictions": sum(day["rows"] for day in daily),
        "failed": failed / (asked + failed) if asked + failed else None,
        "p99_ms": last["p99_ms"],
        "loss": last["loss"],
        "fired": sorted({one["name"] for one in reports[-1]["signals"] if one["fired"]}) if reports else None,
        "cost": sum(spent.values()) / 3600 * conf.cpu_hour_price,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {
        "since": str(since),
        "until": str(until),
        "models": [line],
        "daily": daily,
        "reports": [{key: one[key] for key in ("window", "version", "signals")} for one in reports],
        "versions": [
            one | {"gates": registered[one["version"]].get("validation_status", "not run")}
            for one in runs
            if one["version"]
        ],
        "experiments": experiment.status(project)
        if deployed
        else [],  # before, there is nothing to try a version against
        "retrainings": retrainings,
        "budget": triggers.read(project).budget.model_dump(),
        "uptime": uptime.report(project),
        "spent_seconds": spent,
        "cpu_hour_price": conf.cpu_hour_price,
    }


def read_report(file: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ProjectError(f"{file} is no monitoring report: delete it and run `monitor` again") from None
    return report


class Day:
    """The predictions of a day, counted."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.versions: Counter[str] = Counter()
        self.arms: Counter[str] = Counter()
        self.seconds, self.busy, self.failures = np.zeros(len(SECONDS) + 1, dtype=np.int64), 0.0, 0
        self.lost: Counter[str] = Counter()  # sum of the losses by version
        self.known: Counter[str] = Counter()  # and the number of labels
        self.loss, self.n_known = 0.0, 0  # the same over what callers got: a shadow answers nobody

    def add(self, rows: pl.DataFrame) -> None:
        answered = rows.filter("answered")
        seconds = answered.filter(pl.col("row") == 0)["seconds"].to_numpy()
        self.busy += float(seconds.sum())
        self.seconds += np.bincount(np.searchsorted(SECONDS, seconds), minlength=len(self.seconds))
        self.versions.update(dict(answered.group_by("version").len().iter_rows()))
        self.arms.update(dict(answered.group_by("arm").len().iter_rows()))
        lost = references.losses(self.project, rows)
        rows = rows.with_columns(loss=pl.Series(lost, nan_to_null=True))
        answered, loss = rows.filter("answered"), pl.col("loss")
        for version, total, n in rows.group_by("version").agg(loss.sum(), loss.count().alias("n")).iter_rows():
            self.lost[version] += total
            self.known[version] += n
        total, n = answered.select(loss.sum(), loss.count().alias("n")).row(0)
        self.loss, self.n_known = self.loss + total, self.n_known + n

    def told(self) -> dict[str, Any]:
        n_requests = int(self.seconds.sum())
        return {
            "rows": self.versions.total(),
            "requests": n_requests,
            "failures": self.failures,
            "p50_ms": quantile(self.seconds, 0.5) * 1000 if n_requests else None,
            "p99_ms": quantile(self.seconds, 0.99) * 1000 if n_requests else None,
            "busy_seconds": self.busy,
            "versions": dict(self.versions),
            "arms": dict(self.arms),
            "loss": self.loss / self.n_known if self.n_known else None,
            "losses": {version: self.lost[version] / n for version, n in self.known.items() if n},
        }


def by_day(project: Project, log: Any, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return what is told of each day on which somebody asked, oldest first."""

    found: dict[Any, Day] = defaultdict(lambda: Day(project))
    for chunk in log.frames(since=since, until=until):
        for (day,), rows in chunk.group_by(pl.col("at").dt.date()):
            found[day].add(rows)
    of = FAILURES.c
    with log.connection() as connection:
        seen = sql.select(of.at).where(of.at >= since, of.at < until, of.arm == "champion")  # what callers saw fail
        for at in connection.execute(seen).scalars():
            found[at.date()].failures += 1
    return [{"day": str(day), **found[day].told()} for day in sorted(found)]


def page(project: Project, told: dict[str, Any]) -> str:
    first, daily, reports = told["models"][0], told["daily"], told["reports"]
    fired = [one for one in reports[-1]["signals"] if one["fired"]] if reports else []
    hours = {name: [seconds / 3600] for name, seconds in told["spent_seconds"].items()}
    primary = f"{project.model.PRIMARY}"
    return charts.page(
        f"{first['model']} in production",
        charts.quiet(f"{told['since'][:16]} to {told['until'][:16]} UTC, written {first['at'][:16].replace('T', ' ')}"),
        charts.tiles(tiles(project, told, len(fired))),
        charts.section("Models", charts.table(list(first), (shown(one) for one in told["models"]))),
        charts.section("Fired in the newest report", charts.signals(fired)),
        charts.grid(
            [
                ("Traffic: predictions a day by version", charts.lines(by_key(daily, "versions"))),
                ("Traffic: predictions a day by arm", charts.lines(by_key(daily, "arms"))),
                (
                    "Latency of a request, ms",
                    charts.lines({"p99": each(daily, "p99_ms"), "median": each(daily, "p50_ms")}),
                ),
                ("Requests that failed, a day", charts.lines({"failures": each(daily, "failures")})),
                (f"Quality: {loss_name(project)} a day by version", charts.lines(by_key(daily, "losses"), zero=False)),
                (
                    f"Quality: {primary} by report",
                    charts.lines({primary: by_report(reports, "decay", "now")}, zero=False),
                ),
                ("Drift of inputs, PSI by report", charts.lines(drifting(reports))),
                ("Drift of predictions, PSI by report", charts.lines({"PSI": by_report(reports, "prediction_drift")})),
                (f"Cost of compute, processor hours at {told['cpu_hour_price']:g}", charts.bars(hours)),
                (
                    "Availability",
                    charts.table(["service", "looks", "ready", "last down"], (one.values() for one in told["uptime"]))
                    if told["uptime"]
                    else charts.quiet("nobody looks: have `uptime URL` run each minute"),
                ),
            ]
        ),
        charts.section("Versions", charts.table(*versions(project, told))),
        charts.section(
            "Experiments", picked(told["experiments"], "started mode challenger champion result why reason")
        ),
        charts.section("Retrainings", picked(told["retrainings"], "began why version outcome result seconds")),
    )


def tiles(project: Project, told: dict[str, Any], n_fired: int) -> dict[str, Any]:
    first, allowed = told["models"][0], told["budget"]
    numbers = {"of requests failed": (first["failed"], ".2%"), "ms p99, last day": (first["p99_ms"], ".0f")}
    numbers |= {f"{loss_name(project)}, last day": (first["loss"], ".3f"), "cost of compute": (first["cost"], ".3g")}
    return {
        "version in use": first["version"] or "none",
        "predictions": first["predictions"],
        **{name: "-" if value is None else f"{value:{how}}" for name, (value, how) in numbers.items()},
        "signals fired": "no report" if first["fired"] is None else charts.mark(str(n_fired), n_fired > 0),
        f"retrainings, {allowed['retrainings']} in {allowed['days']:g} days allowed": len(told["retrainings"]),
    }


def shown(line: dict[str, Any]) -> list[Any]:
    fired = line["fired"]
    state = "no report" if fired is None else charts.mark(", ".join(fired) or "none", bool(fired))
    return list((line | {"fired": state, "at": line["at"][:16].replace("T", " ")}).values())


def versions(project: Project, told: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    head = [
        "version",
        "made",
        "",
        "by",
        "data",
        "trained before",
        project.model.PRIMARY,
        f"live {project.model.PRIMARY}",
        "gates",
    ]
    rows = []
    for one in told["versions"]:
        tags, measured, known = one["tags"], one["metrics"], one["parameters"]
        state = "in use" if one["version"] == told["models"][0]["version"] else ", ".join(one["aliases"])
        made = [one["version"], one["started"], state, tags.get("by"), tags.get("data", "")[:16]]
        quality = [measured.get(f"{kind}_{project.model.PRIMARY}") for kind in ("test", "live")]
        rows.append([*made, known.get("trained_before", "")[:10], *quality, one["gates"]])
    return head, rows


def picked(told: list[dict[str, Any]], names: str) -> str:
    times = {"started", "began"}  # to the minute
    rows = [
        [str(one[name])[:16].replace("T", " ") if name in times else one.get(name) for name in names.split()]
        for one in told
    ]
    return charts.table(names.split(), rows)


def each(daily: list[dict[str, Any]], name: str) -> Points:
    return [(noon(day["day"]), day[name]) for day in daily if day[name] is not None]


def by_key(daily: list[dict[str, Any]], name: str) -> dict[str, Points]:
    keys = sorted({key for day in daily for key in day[name]})
    return {key: [(noon(day["day"]), day[name][key]) for day in daily if key in day[name]] for key in keys}


def by_report(reports: list[dict[str, Any]], signal: str, field: str = "value", column: str | None = None) -> Points:
    return [
        (datetime.fromisoformat(report["window"]["until"]), one[field])
        for report in reports
        for one in report["signals"]
        if one["name"] == signal and one.get(field) is not None and column in (None, one.get("column"))
    ]


def drifting(reports: list[dict[str, Any]]) -> dict[str, Points]:
    """Return the PSI over time of the six inputs that have drifted most."""
    columns = {
        one["column"]
        for report in reports
        for one in report["signals"]
        if one["name"] == "input_drift" and one.get("column")
    }
    found = {column: by_report(reports, "input_drift", column=column) for column in columns}
    return dict(sorted(found.items(), key=lambda item: -max(value for _, value in item[1]))[:6])


def noon(day: str) -> datetime:
    return datetime.combine(date.fromisoformat(day), time(12))


def loss_name(project: Project) -> str:
    """Return what the loss is called that is drawn: the mean of `references.losses`."""
    return problem_of(project).loss
