"""Write one page about the model in production: traffic, latency, quality, drift, versions, experiments, cost.

python -m {package} dashboard
python -m {package} dashboard --days 90 --with ../churn ../pricing    # and a line each about the models of these projects

The page, reports/dashboard.html, needs nothing from outside; reports/dashboard.json says the same to machines. After a replay
(`simulate`) its days are those that the rows are of, not the minutes that it took.
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

from ..core import files, pages, settings
from ..core.errors import ProjectError, UsageError
from ..core.files import write_json
from ..core.project import Project
from ..core.redaction import redact
from ..data.problem import problem_of
from ..release import environments
from ..release.judgement import in_use
from ..serving import uptime
from ..training import tracking
from . import charts, experiment, prediction_log, references, timeline, triggers
from .monitor import REPORTS, moment
from .prediction_log import FAILURES
from .signals import SECONDS, Monitoring, quantile

PAGE = REPORTS.parent / "dashboard.html"
N_REPORTS = 400  # of `monitor`, the newest, that are drawn
Points = list[tuple[datetime, float]]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=float, default=60, help="how far back it looks (default: %(default)g)")
    parser.add_argument(
        "--until", metavar="TIME", help="the last moment that it looks at, UTC (default: now, after a replay its end)"
    )
    parser.add_argument("--with", dest="others", nargs="+", default=[], metavar="FOLDER", help="other projects")
    parser.add_argument("--json", action="store_true", help="print what it shows as JSON")


def run(project: Project, options: argparse.Namespace) -> None:
    if not 0 < options.days < 36_525:
        raise UsageError(f"--days is {options.days:g}, must be above 0 and less than a century")
    told = gather(project, moment(options.until), options.days)
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


def gather(project: Project, until: datetime | None, days: float) -> dict[str, Any]:
    """Return all that the page shows, in the model's time; the first of `models` is this project's."""

    present, clock = datetime.now(UTC).replace(tzinfo=None), timeline.read(project)
    until = until or clock.at(present)
    since = until - timedelta(days=days)

    def within(moment: datetime) -> bool:
        return since <= moment <= until

    chosen, client = tracking.open_store(project)
    conf = settings.read(project, "monitoring", Monitoring)
    deployed = in_use(project)
    version = deployed or tracking.aliases(client, chosen.model).get("champion")
    daily = by_day(project, prediction_log.open_log(project), since, until, clock)
    reports = [read_report(file) for file in sorted(project.path(REPORTS).glob("*.json"))[-N_REPORTS:]]
    for one in reports:
        one["at"] = clock.at(datetime.fromisoformat(one["window"]["until"]))
    reports = [one | {"at": str(one["at"])} for one in reports if since < one["at"] <= until]
    runs = tracking.describe(client, chosen, tracking.search(project, client))
    for one in runs:
        one["started"] = str(clock.at(datetime.fromisoformat(one["started"])))[:16]
    retrainings = [
        one for one in triggers.past(triggers.database(project)) if within(datetime.fromisoformat(one["began"]))
    ]
    # before, there is nothing to try a version against
    experiments = [in_model_time(one, clock) for one in experiment.status(project)] if deployed else []
    budget = triggers.read(project).budget
    spent = {
        "training": sum(one["metrics"].get("fit_seconds", 0) for one in runs if one["started"] >= str(since)[:16]),
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
        "loss": next((day["loss"] for day in reversed(daily) if day["loss"] is not None), None),
        "fired": sorted({one["name"] for one in reports[-1]["signals"] if one["fired"]}) if reports else None,
        "cost": sum(spent.values()) / 3600 * conf.cpu_hour_price,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    recent = sum(until - datetime.fromisoformat(one["began"]) < timedelta(days=budget.days) for one in retrainings)
    return {
        "since": str(since),
        "until": str(until),
        "replayed": clock.here(since, until) != (since, until),
        "models": [line],
        "daily": daily,
        "reports": [{key: one[key] for key in ("at", "window", "version", "signals")} for one in reports],
        "versions": states(
            project, client, chosen.model, version, experiments, [one for one in runs if one["version"]]
        ),
        "experiments": experiments,
        "retrainings": retrainings,
        "budget": budget.model_dump() | {"begun": recent},
        "uptime": uptime.report(project),
        "spent_seconds": spent,
        "cpu_hour_price": conf.cpu_hour_price,
        "currency": conf.currency,
    }


def in_model_time(state: dict[str, Any], clock: timeline.Timeline) -> dict[str, Any]:
    """Return the experiment STATE, its times as they were for the model."""
    times = {
        name: prediction_log.naive(datetime.fromisoformat(state[name])) for name in ("started", "ended") if state[name]
    }
    return state | {name: str(clock.at(moment)) for name, moment in times.items()}


def states(
    project: Project,
    client: Any,
    name: str,
    version: str | None,
    experiments: list[dict[str, Any]],
    runs: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return RUNS, one a registered version, each with its `state`: the last thing that happened to it, one for all pages."""
    tags = {str(one.version): one.tags for one in client.search_model_versions(f"name = '{name}'")}
    tried = {one["challenger"]: one["result"] for one in reversed(experiments)}  # the newest experiment of each
    used = {
        one.get("version")
        for one in environments.history(project, *deployed_where(project, client, name))
        if one.get("kind", "deploy") == "deploy"  # `promote` records no kind
    }
    known = []
    for one in runs:
        number, gates = one["version"], json.loads(tags[one["version"]].get("gates", "{}"))
        refused = [gate for gate, kind in gates.items() if kind == "refused"]
        verdict = tags[number].get("validation_status", "not run")
        if number == version:
            state = "in use"
        elif number in tried and tried[number] not in experiment.OVER:
            state = "on trial"
        elif number in used or tried.get(number) == "promoted":
            state = "was in use"
        elif verdict == "refused":
            state = "refused"
        elif tried.get(number) == "aborted":
            state = "lost its trial"
        else:
            state = "not judged" if verdict == "not run" else "not released"
        known.append(one | {"gates": verdict, "refused_by": refused, "state": state})
    return known


def deployed_where(project: Project, client: Any, name: str) -> tuple[Any, str]:
    """Return the store that keeps what was deployed where the loop watches, and the model's name there."""
    env = triggers.read(project).environment
    if in_use(project, env) is None:
        return client, name
    chosen, there = environments.open_store(project, env)
    return there, chosen.model


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


def by_day(
    project: Project, log: Any, since: datetime, until: datetime, clock: timeline.Timeline | None = None
) -> list[dict[str, Any]]:
    """Return what is told of each day on which somebody asked, oldest first, in the model's time by CLOCK."""

    found: dict[Any, Day] = defaultdict(lambda: Day(project))
    clock = clock or timeline.Timeline([])
    first, last = clock.here(since, until)
    for chunk in log.frames(since=first, until=last):
        moments = pl.Series(clock.shift(chunk["at"].dt.epoch("us").to_numpy() / 1e6) * 1e6).round().cast(pl.Int64)
        chunk = chunk.with_columns(at=moments.cast(pl.Datetime("us")))
        chunk = chunk.filter(pl.col("at").is_between(since, until, closed="left"))
        for (day,), rows in chunk.group_by(pl.col("at").dt.date()):
            found[day].add(rows)
    of = FAILURES.c
    with log.connection() as connection:
        seen = sql.select(of.at).where(of.at >= first, of.at < last, of.arm == "champion")  # what callers saw fail
        for at in map(clock.at, connection.execute(seen).scalars()):
            if since <= at < until:
                found[at.date()].failures += 1
    return [{"day": str(day), **found[day].told()} for day in sorted(found)]


def page(project: Project, told: dict[str, Any]) -> str:
    first, reports = told["models"][0], told["reports"]
    fired = [one for one in reports[-1]["signals"] if one["fired"]] if reports else []
    watched = f"Signals that fired in the newest report, {reports[-1]['at'][:16]}" if reports else "Signals that fired"
    days = f"{told['since'][:10]} to {told['until'][:10]}{' in the time of the replay' * told['replayed']}"
    models = [
        "project",
        "model",
        "version",
        "predictions",
        "requests failed",
        "p99, ms",
        "loss",
        "signals fired",
        "cost",
        "written",
    ]
    tried = {
        "started": "began",
        "mode": "mode",
        "challenger": "version",
        "champion": "against",
        "result": "outcome",
        "why": "why it ended so",
        "reason": "why it was tried",
    }
    trained = {
        "began": "began",
        "why": "why",
        "version": "version",
        "outcome": "outcome",
        "result": "what came of it",
        "seconds": "processor, s",
    }
    return pages.page(
        f"{first['model']} in production",
        pages.lead(conclusion(told)),
        pages.quiet(f"{days}; written {first['at'][:16].replace('T', ' ')} UTC"),
        pages.tiles(tiles(project, told, len(fired))),
        *(
            [pages.section("Models", pages.table(models, map(shown, told["models"]), "models"))]
            if len(told["models"]) > 1
            else []
        ),
        pages.section(watched, charts.signals(fired) if reports else pages.quiet("no report yet: run `monitor`")),
        pages.grid(drawn(project, told)),
        pages.section("Availability", availability(told["uptime"])),
        pages.section("Versions", pages.table(*versions(project, told), "versions")),
        pages.section("Experiments", picked(told["experiments"], tried)),
        pages.section("Retrainings", picked(told["retrainings"], trained)),
    )


def conclusion(told: dict[str, Any]) -> str:
    """Return how it is, in a sentence for people."""
    first = told["models"][0]
    if not first["version"]:
        return "No version is in use yet."
    outcomes = Counter(one["outcome"] or "under way" for one in told["retrainings"])
    parts = [f"Version {first['version']} is in use and answered {first['predictions']:,} rows"]
    if first["fired"] is not None:
        fired = ", ".join(name.replace("_", " ") for name in first["fired"])
        parts.append(f"the newest report found {fired}" if fired else "the newest report found nothing wrong")
    counted = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())
    parts.append(f"{sum(outcomes.values())} retrainings ({counted})" if counted else "nothing was retrained")
    return "; ".join(parts) + "."


def drawn(project: Project, told: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the charts, each with its title."""
    daily, reports, primary = told["daily"], told["reports"], f"{project.model.PRIMARY}"
    hours = {name: [seconds / 3600] for name, seconds in told["spent_seconds"].items()}
    loss = f"{loss_name(project)}{unit_of(project)}"
    arms = by_key(daily, "arms")
    latency = {"p99": each(daily, "p99_ms"), "median": each(daily, "p50_ms")}
    events = released(told)
    charted: list[tuple[str, Any, dict[str, Any]]] = [
        ("Traffic: predictions a day, by version", of_version(by_key(daily, "versions")), {"events": events}),
        *([("Traffic: predictions a day, by who answers", arms, {})] if len(arms) > 1 else []),
        (
            f"Quality: {loss} a day, by version (less is better)",
            of_version(by_key(daily, "losses")),
            {"zero": False, "events": events},
        ),
        (
            f"Quality: {primary} by report",
            {primary: by_report(reports, "decay", "now")},
            {"zero": False, "events": events},
        ),
        (
            "Drift of inputs: PSI by report, the six largest",
            drifting(reports),
            {"limit": limit_of(reports, "input_drift")},
        ),
        (
            "Drift of predictions: PSI by report",
            {"PSI": by_report(reports, "prediction_drift")},
            {"limit": limit_of(reports, "prediction_drift")},
        ),
        ("Latency of a request, ms", latency, {}),
        ("Requests that failed, a day", {"failures": each(daily, "failures")}, {}),
    ]
    return [
        *((title, charts.lines(series, name=title, **how)) for title, series, how in charted),
        (
            f"Cost of compute: processor hours, {money(told, told['cpu_hour_price'])} each",
            charts.bars(hours, name="Cost of compute"),
        ),
    ]


def availability(looks: list[dict[str, Any]]) -> str:
    if not looks:
        return pages.quiet("not watched: have `uptime URL` run each minute")
    return pages.table(["service", "looks", "ready", "last down"], (one.values() for one in looks), "availability")


def released(told: dict[str, Any]) -> dict[datetime, str]:
    """Return when a version that was tried came into use."""
    return {
        datetime.fromisoformat(one["ended"]): f"v{one['challenger']}"
        for one in told["experiments"]
        if one["result"] == "promoted" and one["ended"]
    }


def limit_of(reports: list[dict[str, Any]], signal: str) -> float | None:
    return next(
        (one["threshold"] for report in reversed(reports) for one in report["signals"] if one["name"] == signal), None
    )


def unit_of(project: Project) -> str:
    """Return the unit of the loss to put behind its name, "" for a probability or where model.py names none."""
    unit = getattr(project.model, "UNIT", "")
    return f", {unit}" if unit else ""


def money(told: dict[str, Any], amount: float) -> str:
    """Return AMOUNT with its currency, to three digits."""
    return f"{amount:.3g} {told['currency']}".strip()


def tiles(project: Project, told: dict[str, Any], n_fired: int) -> dict[str, Any]:
    first, allowed = told["models"][0], told["budget"]
    numbers: dict[str, tuple[Any, ...]] = {
        "requests failed": (first["failed"], ".2%"),
        "99th percentile of a request, last day": (first["p99_ms"], ".0f", " ms"),
        f"{loss_name(project)}{unit_of(project)}, last day with labels": (first["loss"], ".3f"),
    }
    return {
        "version in use": first["version"] or "none",
        "predictions": first["predictions"],
        **{
            name: "-" if value is None else f"{value:{how}}{''.join(unit)}"
            for name, (value, how, *unit) in numbers.items()
        },
        f"cost of compute{'' if told['currency'] else ', in your currency'}": money(told, first["cost"]),
        "signals fired": "no report" if first["fired"] is None else pages.mark(str(n_fired), n_fired > 0),
        f"retrainings in the last {allowed['days']:g} days, of those allowed": f"{allowed['begun']} of {allowed['retrainings']}",
    }


def shown(line: dict[str, Any]) -> list[Any]:
    fired = line["fired"]
    state = "no report" if fired is None else pages.mark(", ".join(fired) or "none", bool(fired))
    failed = None if line["failed"] is None else f"{line['failed']:.2%}"
    return list((line | {"fired": state, "failed": failed, "at": line["at"][:16].replace("T", " ")}).values())


def versions(project: Project, told: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    primary = project.model.PRIMARY
    head = ["version", "state", "gates", "made", "by", "data", "trained before", primary, f"live {primary}"]
    rows = []
    for one in told["versions"]:
        tags, measured, known = one["tags"], one["metrics"], one["parameters"]
        gates = f"refused: {', '.join(one['refused_by'])}" if one["refused_by"] else one["gates"]
        state = pages.mark(one["state"]) if one["state"] == "in use" else one["state"]
        made = [one["version"], state, gates, one["started"], tags.get("by"), tags.get("data", "")[:16]]
        quality = [measured.get(f"{kind}_{primary}") for kind in ("test", "live")]
        rows.append([*made, known.get("trained_before", "")[:10], *quality])
    return head, rows


def picked(told: list[dict[str, Any]], names: dict[str, str]) -> str:
    """Return a table of what is called NAMES in TOLD, under these titles; a time to the minute."""
    times = {"started", "began"}
    rows = [
        [str(one[name])[:16].replace("T", " ") if name in times else one.get(name) for name in names] for one in told
    ]
    return pages.table([*names.values()], rows, "what was tried")


def each(daily: list[dict[str, Any]], name: str) -> Points:
    return [(noon(day["day"]), day[name]) for day in daily if day[name] is not None]


def by_key(daily: list[dict[str, Any]], name: str) -> dict[str, Points]:
    keys = sorted({key for day in daily for key in day[name]})
    return {key: [(noon(day["day"]), day[name][key]) for day in daily if key in day[name]] for key in keys}


def of_version(series: dict[str, Points]) -> dict[str, Points]:
    return {f"version {number}": points for number, points in series.items()}


def by_report(reports: list[dict[str, Any]], signal: str, field: str = "value", column: str | None = None) -> Points:
    return [
        (datetime.fromisoformat(report["at"]), one[field])
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
