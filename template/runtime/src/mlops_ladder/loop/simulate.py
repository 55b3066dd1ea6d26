"""Replay recorded rows in the order of time against a running service, their labels late, and let the loop live through it.

python -m {package} serve --model env:prod --port 8000 &
python -m {package} simulate --url http://127.0.0.1:8000 --from 2013-04-01 --until 2013-10-01 --loop
python -m {package} simulate --url http://127.0.0.1:8000 --from 2013-04-01 --drift temperature=15@2013-05-01 --bad 0.01

With --loop, after every --every simulated days: monitor, experiment step, retrain --if-triggered. What is sent is the same for
the same --seed. The summary, reports/simulation/summary.html and .json, compares month by month the version in use at the
start with what the loop answered.
"""

import argparse
import contextlib
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..core import commands, files, settings
from ..core.clock import moment
from ..core.errors import ProjectError, UsageError
from ..core.progress import say
from ..core.project import Project
from ..data import feature_tables, split
from ..data.rows import as_records
from ..release import judgement
from ..training import tracking
from . import charts, experiment, prediction_log, signals, triggers

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORT = Path("reports/simulation/summary.json")
FEWEST = 100  # rows of a month; with fewer a metric says nothing
BAD = [None, "not a number", -1e9, {"nested": 1}, [1, 2]]  # what a broken caller puts into a cell


@dataclass(frozen=True)
class Shift:
    """From WHEN on, AMOUNT is added to a column; or, with column `labels`, that share of the labels is turned round."""

    column: str
    amount: float
    when: datetime


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="where the service answers")
    parser.add_argument(
        "--rows", type=Path, default=Path("data/sample"), help="folder that data.read reads (%(default)s)"
    )
    parser.add_argument("--from", dest="since", type=moment, metavar="TIME", help="first row (default: the oldest)")
    parser.add_argument(
        "--until",
        type=moment,
        metavar="TIME",
        help="moment after the last row (default: to the newest)",
    )
    parser.add_argument(
        "--days", type=float, default=90, help="over which rows without a time are spread (default: %(default)s)"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the rows, drawn by the seed (default: all)")
    parser.add_argument("--label-days", type=float, default=3, help="from a row to its label (default: %(default)s)")
    parser.add_argument(
        "--every", type=float, default=7, metavar="DAYS", help="between turns of the loop (default: %(default)s)"
    )
    parser.add_argument(
        "--speed", type=float, metavar="DAYS", help="replayed in a second (default: as fast as the service answers)"
    )
    parser.add_argument(
        "--loop", action="store_true", help="monitor, experiment step, retrain --if-triggered at each turn"
    )
    parser.add_argument(
        "--drift",
        action="append",
        default=[],
        metavar="COLUMN=AMOUNT@TIME",
        help="what is added to a number from then on, or labels=SHARE@TIME: turned round; may come again",
    )
    parser.add_argument(
        "--outage",
        action="append",
        default=[],
        metavar="TIME/TIME",
        help="nothing is asked or labelled between; may come again",
    )
    parser.add_argument("--bad", type=float, default=0.0, metavar="SHARE", help="of broken requests beside the others")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    positive = [days for days in (options.every, options.days, options.speed) if days is not None]
    if min(positive) <= 0 or options.label_days < 0:
        raise UsageError("--every, --days and --speed must be above 0 days, --label-days 0 or more: time goes on")
    shifts, outages = [shift(project, text) for text in options.drift], [span(text) for text in options.outage]
    rows, moments = read(project, options, shifts, outages)
    told = Replay(project, options, rows, moments).run()
    project.path(REPORT).parent.mkdir(parents=True, exist_ok=True)
    (project.path(REPORT).parent / ".gitignore").write_text("*\n", encoding="utf-8")
    files.replaced(project.path(REPORT), json.dumps(told, indent=1).encode())
    files.replaced(project.path(REPORT).with_suffix(".html"), page(told).encode())
    print(json.dumps(told) if options.json else summary(told))


def shift(project: Project, text: str) -> Shift:
    try:
        column, _, rest = text.partition("=")
        amount, _, when = rest.partition("@")
        if column != "labels" and project.data.SCHEMA[column]["type"] != "number":
            raise ValueError
        return Shift(column, float(amount), moment(when))
    except (KeyError, ValueError):
        raise UsageError(f"--drift {text}: must be like temperature=15@2013-05-01, or labels=0.3@2013-05-01") from None


def span(text: str) -> tuple[datetime, datetime]:
    try:
        first, last = map(moment, text.split("/"))
    except ValueError:
        raise UsageError(f"--outage {text}: must be like 2013-05-03/2013-05-06") from None
    return first, last


def read(
    project: Project, options: argparse.Namespace, shifts: list[Shift], outages: list[tuple[datetime, datetime]]
) -> tuple[pd.DataFrame, pd.Series]:
    """Return the rows to replay, oldest first, as they are sent, and when: drawn, shifted, without those of an outage."""
    rows = feature_tables.Offline.of(project, project.data.SCHEMA).fill(project.data.read(options.rows), cells=True)
    rows = split.oldest_first(project, rows) if split.time_column(project) else split.of(project).ordered(rows)
    moments = moments_of(project, options, rows)
    wanted = (moments >= (options.since or moments.min())) & (moments < (options.until or pd.Timestamp.max))
    for first, last in outages:
        wanted &= (moments < first) | (moments >= last)
    draw = np.random.default_rng(options.seed)
    wanted &= draw.random(len(rows)) < options.share
    rows, moments = (part[wanted].reset_index(drop=True) for part in (rows, moments))
    if rows.empty:
        raise ProjectError(f"no rows of {options.rows} are in that time: mend --from, --until or --share")
    for one in shifts:
        later = moments >= one.when
        if one.column == "labels":
            turned = later & (draw.random(len(rows)) < one.amount)
            truth = rows[project.data.TARGET]
            rows[project.data.TARGET] = truth.where(
                ~turned, ~truth if truth.dtype == bool else truth.mean() * 2 - truth
            )
        else:
            rule = project.data.SCHEMA[one.column]
            moved = rows[one.column] + one.amount
            rows[one.column] = rows[one.column].where(~later, moved.clip(rule.get("min"), rule.get("max")))
    return rows, moments


def moments_of(project: Project, options: argparse.Namespace, rows: pd.DataFrame) -> pd.Series:
    """Return when each row is sent: at its time or, without one, evenly from --from (--days ago) for --days."""
    if time := split.time_column(project):
        return rows[time]
    days = timedelta(days=options.days)
    begin = options.since or datetime.now(UTC).replace(tzinfo=None) - days
    return pd.Series(pd.date_range(begin, begin + days, periods=len(rows) + 1, inclusive="left", unit="us"))


class Replay:
    """One pass over the rows: each is asked about at its time, and labelled some days later."""

    def __init__(self, project: Project, options: argparse.Namespace, rows: pd.DataFrame, moments: pd.Series) -> None:
        self.project, self.moments = project, moments
        self.options, self.rows, self.draw = options, rows, random.Random(options.seed)
        self.predicted = np.full(len(rows), np.nan)  # where nothing was answered
        self.versions = np.full(len(rows), None, dtype=object)
        self.counts: Counter[str] = Counter()
        self.turns: list[dict[str, Any]] = []
        self.begun: list[tuple[datetime, datetime]] = []  # of each turn: the simulated moment, and the real one

    def run(self) -> dict[str, Any]:
        import httpx

        rows, moments, every = self.rows, self.moments, timedelta(days=self.options.every)
        late = timedelta(days=self.options.label_days)
        with httpx.Client(base_url=self.options.url, timeout=30) as client:
            try:
                told = client.get("/model").raise_for_status().json()
            except httpx.HTTPError as error:
                raise ProjectError(f"no service answers at {self.options.url}: {error}") from None
            start, labelled = moments.iloc[0], 0
            known = [
                name
                for name in self.project.data.SCHEMA
                if name not in {self.project.data.TARGET, *self.project.data.LEAKS} and name in rows
            ]
            records = as_records(rows[known])
            while start <= moments.iloc[-1]:
                end = start + every
                self.begun.append((start, datetime.now(UTC)))
                began = time.monotonic()
                for number in rows.index[(moments >= start) & (moments < end)]:
                    self.keep_pace(moments.iloc[number] - start, began)
                    self.ask(client, number, records[number])
                self.keep_pace(min(end, moments.iloc[-1]) - start, began)
                due = int((moments < end - late).sum())
                self.label(client, labelled, due)
                labelled, start = due, end
                if self.options.loop:
                    self.turn(end)
            self.label(client, labelled, len(rows))
        return self.tell(str(told["version"]))

    def keep_pace(self, passed: timedelta, began: float) -> None:
        """Wait until it is so long since BEGAN as it takes for PASSED to go by at the speed that was asked for."""
        if self.options.speed:
            time.sleep(max(0.0, passed / timedelta(days=1) / self.options.speed - (time.monotonic() - began)))

    def ask(self, client: "MlflowClient", number: int, record: dict[str, Any]) -> None:
        if self.draw.random() < self.options.bad:
            broken = record | {self.draw.choice([*record]): self.draw.choice(BAD), "unknown": 1}
            self.counts[f"broken requests answered {client.post('/predict', json=broken).status_code}"] += 1
        answer = client.post("/predict", json=record)
        self.counts[f"requests answered {answer.status_code}"] += 1
        if answer.status_code == 200:
            said = answer.json()
            self.predicted[number], self.versions[number] = said["predictions"][0], said["model_version"]

    def label(self, client: "MlflowClient", first: int, last: int) -> None:
        """Send the labels of the rows FIRST to before LAST that were asked about."""
        part = self.rows.iloc[first:last][~np.isnan(self.predicted[first:last])]
        sent = [
            {"key": str(key), "label": float(truth)}
            for key, truth in zip(part[self.project.data.KEY], part[self.project.data.TARGET], strict=True)
        ]
        for start in range(0, len(sent), 500):
            answer = client.post("/feedback", json=sent[start : start + 500])
            self.counts[f"label deliveries answered {answer.status_code}"] += 1

    def turn(self, now: datetime) -> None:
        """Let the loop turn once, as `nox -s loop` does, at the simulated moment NOW."""
        time.sleep(
            2 * prediction_log.open_log(self.project).conf.flush_s
        )  # until the service has written what it answered
        # the log has the real time: what counts is asked since the turn began that the simulated window begins in
        since = next((real for then, real in self.begun if then >= now - window(self.project)), self.begun[-1][1])
        words = [
            ["monitor", "--since", since.isoformat()],
            ["retrain", "--if-triggered", "--as-of", f"{now:%Y-%m-%dT%H:%M:%S}"],
        ]
        if any(one["ended"] is None for one in experiment.status(self.project)):
            words.insert(1, ["experiment", "step"])
        for one in words:
            code = command(self.project, *one)
            self.turns.append({"at": str(now), "command": one[0], "exit": code})
            if code not in (0, 3):
                raise ProjectError(f"{' '.join(one)} ended with exit code {code} at {now}")

    def tell(self, frozen: str) -> dict[str, Any]:
        """Return what the version FROZEN would have come to in each month, beside what was answered."""
        chosen, client = tracking.open_store(self.project)
        rows, answered = self.rows, ~np.isnan(self.predicted)
        alone = judgement.predict(tracking.open_version(client, chosen.model, frozen), rows)
        names = settings.read(self.project, "release", judgement.Release).quality.over_champion
        months = []
        for month, some in rows[answered].groupby(self.moments.dt.strftime("%Y-%m")):
            truth = some[self.project.data.TARGET]
            if len(some) < FEWEST or truth.nunique() < 2:
                continue
            both = (alone[some.index], self.predicted[some.index])
            then, now = ({name: self.project.model.metrics(truth, values)[name] for name in names} for values in both)
            versions = pd.Series(self.versions[some.index])
            shares = versions.value_counts(normalize=True).round(3).to_dict()
            months.append({"month": month, "rows": len(some), "frozen": then, "loop": now, "versions": shares})

        past = triggers.past(triggers.database(self.project)) if self.options.loop else []
        kept = ("began", "outcome", "version", "why", "result")
        return {
            "frozen_version": frozen,
            "months": months,
            "retrainings": [{key: one[key] for key in kept} for one in past],
            "counts": dict(sorted(self.counts.items())),
            "turns": self.turns,
        }


def window(project: Project) -> timedelta:
    """Return how far back `monitor` looks."""

    return timedelta(days=settings.read(project, "monitoring", signals.Monitoring).window_days)


def command(project: Project, *words: str) -> int:
    """Run a command of this project in this process, what it prints to stderr; return its exit code."""

    say(f"> {' '.join(words)}")
    with contextlib.redirect_stdout(sys.stderr):
        return commands.main(project, list(words))


def summary(told: dict[str, Any]) -> str:
    """Return the same for people: a line a month, a line a retraining, how many requests were answered how."""
    lines = [f"version {told['frozen_version']} alone -> the loop"]
    for one in told["months"]:
        values = "  ".join(f"{name} {then:.4f} -> {one['loop'][name]:.4f}" for name, then in one["frozen"].items())
        versions = ", ".join(f"{version}: {share:.0%}" for version, share in one["versions"].items())
        lines.append(f"{one['month']}  {one['rows']:>6,} rows  {values}  versions {versions}")
    lines += [
        f"{one['began']}  {one['outcome']}: version {one['version']}: {one['why']}" for one in told["retrainings"]
    ]
    return "\n".join([*lines, ", ".join(f"{n:,} {name}" for name, n in told["counts"].items())])


def page(told: dict[str, Any]) -> str:
    """Return the same as a page."""

    months, frozen = told["months"], f"version {told['frozen_version']} alone"
    names = list(months[0]["frozen"]) if months else []
    drawn = [
        (
            name,
            charts.lines(
                {
                    who: [(middle(one), one[key][name]) for one in months]
                    for who, key in ((frozen, "frozen"), ("the loop", "loop"))
                },
                zero=False,
            ),
        )
        for name in names
    ]
    rows = [
        [
            one["month"],
            one["rows"],
            *(one[key][name] for name in names for key in ("frozen", "loop")),
            ", ".join(f"{version} ({share:.0%})" for version, share in one["versions"].items()),
        ]
        for one in months
    ]
    head = ["month", "rows", *(f"{name} {who}" for name in names for who in ("alone", "loop")), "answered by version"]
    tried = [
        [one["began"][:10], one["version"], one["outcome"], one["why"], one["result"]] for one in told["retrainings"]
    ]
    return charts.page(
        f"V{frozen[1:]}, and the loop",
        charts.grid(drawn),
        charts.section("Months", charts.table(head, rows)),
        charts.section("Retrainings", charts.table(["began", "version", "outcome", "why", "result"], tried)),
        charts.section("Requests", charts.table(["what", "number"], told["counts"].items())),
    )


def middle(month: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(f"{month['month']}-15")
