"""Write one page about the model in production: traffic, latency, quality, drift, versions, experiments, cost.

python -m {package} dashboard
python -m {package} dashboard --days 90 --with ../churn ../pricing    # and a line each about the models of these projects

The page, reports/dashboard.html, needs nothing from outside; reports/dashboard.json says the same to machines.
"""

import argparse
import json
from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .. import data, model
from . import ProjectError, charts, settings, store, tracking, uptime
from .gates import in_use
from .monitor import REPORTS, SECONDS, Monitoring, moment, where
from .pipeline import write_json

PAGE = REPORTS.parent / "dashboard.html"
N_REPORTS = 400  # the newest, drawn over time


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=float, default=60, help="how far back it looks (default: %(default)g)")
    parser.add_argument("--until", metavar="TIME", help="the last moment that it looks at, UTC (default: now)")
    parser.add_argument(
        "--with", dest="others", nargs="+", type=Path, default=[], metavar="FOLDER", help="other projects"
    )
    parser.add_argument("--json", action="store_true", help="print what it shows as JSON")


def run(options: argparse.Namespace) -> None:
    told = gather(moment(options.until) or datetime.now(UTC).replace(tzinfo=None), options.days)
    told["models"] = [told["models"][0], *(line for folder in options.others for line in read_other(folder))]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    (PAGE.parent / ".gitignore").write_text("*\n", encoding="utf-8")  # a page about the state is no change of the code
    with store.whole(PAGE) as part:
        part.write_text(page(told), encoding="utf-8")
    with store.whole(PAGE.with_suffix(".json")) as part:
        write_json(part, told)
    print(
        json.dumps(told)
        if options.json
        else f"{PAGE}: {len(told['models'])} models, {told['days']:g} days to {told['until']}"
    )


def read_other(folder: Path) -> list[dict[str, Any]]:
    """Return the models that the dashboard of another project is about."""
    file = folder / PAGE.with_suffix(".json")
    try:
        return json.loads(file.read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError) as error:
        raise ProjectError(f"{file} cannot be read ({error}): run `dashboard` in {folder} first") from None


def gather(until: datetime, days: float) -> dict[str, Any]:
    """Return all that the page shows."""
    from . import experiment, prediction_log, triggers

    since = until - timedelta(days=days)
    chosen, client = tracking.open_store()
    conf, version = (
        settings.read("monitoring", Monitoring),
        in_use() or tracking.aliases(client, chosen.model).get("champion"),
    )
    daily = by_day(prediction_log.open_log(), since, until)
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(REPORTS.glob("*.json"))[-N_REPORTS:]]
    reports = [one for one in reports if str(since) < one["window"]["until"] <= str(until)]
    runs = tracking.describe(client, chosen, tracking.search(client))
    retrainings = [one for one in triggers.past(triggers.database()) if str(since) <= one["began"] <= str(until)]
    spent = {
        "training": sum(one["metrics"].get("fit_seconds", 0) for one in runs if one["started"] >= str(since)),
        "retraining": sum(one["seconds"] for one in retrainings),
        "monitoring": sum(one["cpu_seconds"] for one in reports),
        "answering": sum(day["busy_seconds"] for day in daily),
    }
    requests, failures = (sum(day[name] for day in daily) for name in ("requests", "failures"))
    newest = reports[-1] if reports else None
    line = {
        "project": Path.cwd().name,
        "model": chosen.model,
        "version": version,
        "predictions": sum(day["rows"] for day in daily),
        "failed": failures / (requests + failures) if requests + failures else None,
        "p99_ms": daily[-1]["p99_ms"] if daily else None,
        "loss": daily[-1]["loss"] if daily else None,
        "fired": sorted({one["name"] for one in newest["signals"] if one["fired"]}) if newest else None,
        "cost": sum(spent.values()) / 3600 * conf.cpu_hour_price,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {
        "since": str(since),
        "until": str(until),
        "days": days,
        "models": [line],
        "daily": daily,
        "reports": [
            {
                "until": one["window"]["until"],
                "version": one["version"],
                "file": one["file"],
                "signals": [
                    {
                        key: signal.get(key)
                        for key in (
                            "name",
                            "kind",
                            "column",
                            "slice",
                            "value",
                            "now",
                            "threshold",
                            "fired",
                            "owner",
                            "runbook",
                        )
                    }
                    for signal in one["signals"]
                ],
            }
            for one in reports
        ],
        "versions": [one for one in runs if one["version"]],
        "in_use": version,
        "experiments": experiment.status(),
        "retrainings": retrainings,
        "budget": triggers.read().budget.model_dump(),
        "uptime": uptime.report(),
        "spent_seconds": spent,
        "cpu_hour_price": conf.cpu_hour_price,
    }


def by_day(log: Any, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return for each day with traffic how many rows and requests, how fast, which versions and arms, and the mean loss."""
    import sqlalchemy as sql

    from .prediction_log import FAILURES

    found: dict[date, dict[str, Any]] = defaultdict(
        lambda: {
            "rows": 0,
            "requests": 0,
            "seconds": np.zeros(len(SECONDS) + 1, dtype=np.int64),
            "busy": 0.0,
            "versions": {},
            "arms": {},
            "losses": {},
        }
    )
    off = pl.col("prediction") - pl.col("label")
    loss = off**2 if data.PROBLEM == "classification" else off.abs()
    for chunk in log.frames(since=since, until=until):
        chunk = chunk.with_columns(loss=loss)
        for (day,), rows in chunk.group_by(pl.col("at").dt.date()):
            one = found[day]  # type: ignore[index]
            answered = rows.filter("answered")
            seconds = answered.filter(pl.col("row") == 0)["seconds"].to_numpy()
            one["rows"] += len(answered)
            one["requests"] += len(seconds)
            one["busy"] += float(seconds.sum())
            one["seconds"] += np.bincount(np.searchsorted(SECONDS, seconds), minlength=len(one["seconds"]))
            for kind, column in (("versions", "version"), ("arms", "arm")):
                for value, n in answered.group_by(column).len().iter_rows():
                    one[kind][value] = one[kind].get(value, 0) + n
            for value, total, n in (
                rows.group_by("version").agg(pl.col("loss").sum(), pl.col("loss").count().alias("n")).iter_rows()
            ):
                before = one["losses"].get(value, (0.0, 0))
                one["losses"][value] = (before[0] + total, before[1] + n)
    of = FAILURES.c
    with log.connection() as connection:
        failed = connection.execute(sql.select(of.at).where(of.at >= since, of.at < until)).scalars().all()
    failures: dict[date, int] = defaultdict(int)
    for at in failed:
        failures[at.date()] += 1
    return [
        {
            "day": str(day),
            "rows": one["rows"],
            "requests": one["requests"],
            "failures": failures[day],
            "p50_ms": quantile(one["seconds"], 0.5),
            "p99_ms": quantile(one["seconds"], 0.99),
            "busy_seconds": one["busy"],
            "versions": one["versions"],
            "arms": one["arms"],
            "loss": ratio(sum(total for total, _ in one["losses"].values()), sum(n for _, n in one["losses"].values())),
            "losses": {version: ratio(*pair) for version, pair in sorted(one["losses"].items()) if pair[1]},
        }
        for day in sorted(found.keys() | failures.keys())
        for one in [found[day]]
    ]


def quantile(counts: np.ndarray, share: float) -> float | None:
    place = int(np.searchsorted(counts.cumsum(), share * counts.sum()))
    return float(SECONDS[min(place, len(SECONDS) - 1)] * 1000) if counts.sum() else None


def ratio(total: float, n: int) -> float | None:
    return total / n if n else None


def page(told: dict[str, Any]) -> str:
    daily, reports, first = told["daily"], told["reports"], told["models"][0]

    def over_days(name: str) -> list[tuple[datetime, float]]:
        return [(noon(day["day"]), day[name]) for day in daily if day[name] is not None]

    def by_key(name: str) -> dict[str, list[tuple[datetime, float]]]:
        keys = sorted({key for day in daily for key in day[name]})
        return {
            key: [(noon(day["day"]), day[name][key]) for day in daily if day[name].get(key) is not None] for key in keys
        }

    def over_reports(**wanted: str) -> list[tuple[datetime, float]]:
        told = [(datetime.fromisoformat(one["until"]), signal) for one in reports for signal in one["signals"]]
        return [
            (at, s["value"]) for at, s in told if s["value"] is not None and all(s[k] == v for k, v in wanted.items())
        ]

    drifting: dict[str, float] = {}
    for one in reports:
        for signal in one["signals"]:
            if signal["name"] == "input_drift" and signal["value"] is not None:
                drifting[signal["column"]] = max(drifting.get(signal["column"], 0), signal["value"])
    worst = sorted(drifting, key=lambda name: -drifting[name])[:6]
    primary = [(datetime.fromisoformat(one["until"]), signal["now"]) for one in reports for signal in one["signals"]
               if signal["name"] == "decay" and signal["now"] is not None]  # fmt: skip
    fired = [signal for one in reports[-1:] for signal in one["signals"] if signal["fired"]]
    loss = "Brier score" if data.PROBLEM == "classification" else "mean absolute error"
    versions, spent = {str(name): rows for name, rows in by_key("versions").items()}, told["spent_seconds"]
    hours = {name: seconds / 3600 for name, seconds in spent.items()}
    parts = [
        charts.quiet(f"{told['since'][:16]} to {told['until'][:16]} UTC, written {first['at']}"),
        charts.tiles({
            "version in use": told["in_use"] or "none",
            "predictions": first["predictions"],
            "of requests failed": "-" if first["failed"] is None else f"{first['failed']:.2%}",
            "p99, last day": "-" if first["p99_ms"] is None else f"{first['p99_ms']:.0f} ms",
            f"{loss}, last day": "-" if first["loss"] is None else f"{first['loss']:.3f}",
            "signals fired": "no report" if first["fired"] is None else charts.mark(str(len(fired)), bool(fired)),
            "retrainings": f"{len(told['retrainings'])} ({told['budget']['retrainings']} allowed in {told['budget']['days']:g} days)",
            "cost of compute": f"{first['cost']:.2f}",
        }),
        charts.section("Models", charts.table(
            ["project", "model", "version", "predictions", "failed", "p99 ms", "loss", "fired", "cost", "as of"],
            [[m["project"], m["model"], m["version"], m["predictions"], m["failed"], m["p99_ms"], m["loss"],
              "no report" if m["fired"] is None else charts.mark(", ".join(m["fired"]) or "none", bool(m["fired"])), m["cost"], m["at"]]
             for m in told["models"]])),
        charts.section("Fired in the newest report", charts.table(
            ["signal", "of", "value", "threshold", "owner", "what to do"],
            [[s["name"], where(s).removeprefix(" of "), s["value"], s["threshold"], s["owner"], s["runbook"]] for s in fired])
            if fired else charts.quiet("nothing" if reports else "there is no monitoring report in these days")),
        charts.grid(
            charts.section("Traffic, predictions a day by version", charts.lines(versions)),
            charts.section("Latency of a request, ms", charts.lines({"p99": over_days("p99_ms"), "median": over_days("p50_ms")})),
            charts.section("Requests that failed, a day", charts.lines({"failures": over_days("failures")})),
            charts.section("Predictions a day by arm", charts.lines(by_key("arms"))),
            charts.section(f"Quality: {loss} a day by version, lower is better", charts.lines(by_key("losses"), zero=False)),
            charts.section(f"Quality: {model.PRIMARY} in each monitoring window", charts.lines({model.PRIMARY: primary}, zero=False)),
            charts.section("Drift of the inputs that drift most, PSI", charts.lines({name: over_reports(name="input_drift", column=name) for name in worst}, limit=0.2 if worst else None)),
            charts.section("Drift of the predictions, PSI", charts.lines({"predictions": over_reports(name="prediction_drift")})),
        ),
        charts.section("Versions", charts.table(
            ["version", "made", "in use", "by", "data", "trained before", model.PRIMARY, f"live {model.PRIMARY}", "gates"],
            [[one["version"], one["started"], "in use" if one["version"] == told["in_use"] else ", ".join(one["aliases"]), one["tags"].get("by"),
              one["tags"].get("data", "")[:16], one["parameters"].get("trained_before", "")[:10],
              one["metrics"].get(f"test_{model.PRIMARY}"), one["metrics"].get(f"live_{model.PRIMARY}"), one["tags"].get("validation_status")]
             for one in told["versions"]])),
        charts.section("Experiments", charts.table(
            ["started", "mode", "challenger", "against", "result", "why"],
            [[str(one["started"])[:16], one["mode"], one["challenger"], one["champion"], one["result"] or "going on", one["why"] or one["reason"]]
             for one in told["experiments"]]) if told["experiments"] else charts.quiet("there was none")),
        charts.section("Retrainings", charts.table(
            ["began", "why", "version", "outcome", "result", "CPU s"],
            [[one["began"][:16], one["why"], one["version"], one["outcome"] or "going on", one["result"], one["seconds"]]
             for one in told["retrainings"]]) if told["retrainings"] else charts.quiet("there was none")),
        charts.grid(
            charts.section(f"Cost of compute, processor hours ({told['cpu_hour_price']:g} each)", charts.bars({name: [value] for name, value in hours.items()})),
            charts.section("Availability", charts.table(["service", "looks", "ready", "last down"],
                [[one["url"], one["looks"], f"{one['share']:.2%}", one["last_down"]] for one in told["uptime"]])
                if told["uptime"] else charts.quiet("nobody looked: `uptime URL` each minute does")),
        ),
    ]  # fmt: skip
    return charts.page(f"{first['model']} in production", *parts)


def noon(day: str) -> datetime:
    return datetime.combine(date.fromisoformat(day), time(12))
