"""Replay recorded rows in the order of time against a running service, their labels late, and let the loop live through it.

python -m {package} serve --model env:prod --port 8000 &
python -m {package} simulate --url http://127.0.0.1:8000 --from 2013-04-01 --until 2013-10-01 --loop
python -m {package} simulate --url http://127.0.0.1:8000 --from 2013-04-01 --drift temperature=15@2013-05-01 --bad 0.01

With --loop, after every --every simulated days: monitor, experiment step, retrain --if-triggered. What is sent is the same for
the same --seed. What happened is told a line a month on stderr, in full in reports/simulation/loop.log. The summary,
reports/simulation/summary.html and .json, compares month by month the version in use at the start with what the loop answered.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..core import commands, files, pages, progress, settings
from ..core.clock import moment
from ..core.errors import ProjectError, UsageError
from ..core.project import Project
from ..data import feature_tables, split
from ..data.problem import problem_of
from ..data.rows import answered, as_records
from ..release import judgement
from ..training import tracking
from . import charts, experiment, prediction_log, signals, timeline, triggers

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORT = Path("reports/simulation/summary.json")
LOG = REPORT.with_name("loop.log")  # all that the commands of the loop said
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
    project.path(REPORT).parent.mkdir(parents=True, exist_ok=True)
    (project.path(REPORT).parent / ".gitignore").write_text("*\n", encoding="utf-8")
    replay = Replay(project, options, rows, moments)
    try:
        told = replay.run()
    finally:
        timeline.add(project, replay.clock)
        project.path(LOG).write_text("".join(replay.said), encoding="utf-8")
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
        self.problem = problem_of(project)
        self.predicted = np.full(self.problem.shape(len(rows)), np.nan)  # where nothing was answered
        self.versions = np.full(len(rows), None, dtype=object)
        self.counts: Counter[str] = Counter()
        self.turns: list[dict[str, Any]] = []
        self.promotions: list[dict[str, str]] = []
        self.begun: list[tuple[datetime, datetime]] = []  # of each turn: the simulated moment, and the real one
        self.clock: timeline.Moments = []
        self.said: list[str] = []  # by the commands of the loop
        self.months = [*dict.fromkeys(moments.dt.strftime("%Y-%m"))]

    def run(self) -> dict[str, Any]:
        import httpx

        rows, moments, every = self.rows, self.moments, timedelta(days=self.options.every)
        late = timedelta(days=self.options.label_days)
        with (
            httpx.Client(base_url=self.options.url, timeout=30) as client,
            progress.Steps("replay", len(rows)) as steps,
        ):
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
                self.note(start)
                began = time.monotonic()
                for number in rows.index[(moments >= start) & (moments < end)]:
                    self.keep_pace(moments.iloc[number] - start, began)
                    if moments.iloc[number] - self.clock[-1][1] >= timedelta(days=1):
                        self.note(moments.iloc[number])
                    self.ask(client, number, records[number])
                    steps.done(number + 1)
                self.keep_pace(min(end, moments.iloc[-1]) - start, began)
                self.note(end)
                due = int((moments < end - late).sum())
                self.label(client, labelled, due)
                if self.options.loop:
                    steps.done(int((moments < end).sum()), "the loop turns")
                    self.turn(end)
                labelled, start, before = due, end, start
                self.tell_months(before, end)
            self.label(client, labelled, len(rows))
        return self.tell(str(told["version"]))

    def note(self, moment: datetime) -> None:
        """Keep that it is MOMENT for the model now."""
        self.clock.append((datetime.now(UTC).replace(tzinfo=None), pd.Timestamp(moment).to_pydatetime()))

    def tell_months(self, start: datetime, end: datetime) -> None:
        """Say what happened in each month that went by between START and END, or was the last one."""
        over = [month for month in self.months if f"{start:%Y-%m}" <= month < f"{end:%Y-%m}"]
        if end > self.moments.iloc[-1] and self.months[-1] not in over:
            over.append(self.months[-1])
        for month in over:
            progress.say(self.month_line(month))

    def month_line(self, month: str) -> str:
        """Return what happened in MONTH: how good the answers were, who gave them, what fired, what was done and why."""
        mine = (self.moments.dt.strftime("%Y-%m") == month).to_numpy() & ~self.unanswered
        truth, name = self.rows[self.project.data.TARGET][mine], self.project.model.PRIMARY
        parts = [f"{int(mine.sum()):,} rows answered by {by_version(pd.Series(self.versions[mine]))}"]
        if mine.sum() >= FEWEST and self.problem.measurable(truth):
            parts.append(f"{name} {self.project.model.metrics(truth, self.predicted[mine])[name]:.4f}")
        turns = [one for one in self.turns if one["month"] == month]
        looked = [one for one in turns if one["command"] == "monitor"]
        fired = Counter(name for one in looked for name in one["fired"])
        if looked:
            told = ", ".join(f"{signal} in {n} of {len(looked)} reports" for signal, n in fired.items())
            parts.append(f"fired: {told}" if told else f"nothing fired in {len(looked)} reports")
        parts += dict.fromkeys(one["what"] for one in turns if one["what"])
        return f"month {self.months.index(month) + 1} of {len(self.months)}, {month}: {'; '.join(parts)}"

    def keep_pace(self, passed: timedelta, began: float) -> None:
        """Wait until it is so long since BEGAN as it takes for PASSED to go by at the speed that was asked for."""
        if self.options.speed:
            time.sleep(max(0.0, passed / timedelta(days=1) / self.options.speed - (time.monotonic() - began)))

    def ask(self, client: MlflowClient, number: int, record: dict[str, Any]) -> None:
        if self.draw.random() < self.options.bad:
            broken = record | {self.draw.choice([*record]): self.draw.choice(BAD), "unknown": 1}
            self.counts[f"broken requests answered {client.post('/predict', json=broken).status_code}"] += 1
        answer = client.post("/predict", json=record)
        self.counts[f"requests answered {answer.status_code}"] += 1
        if answer.status_code == 200:
            said = answer.json()
            self.predicted[number], self.versions[number] = answered(said)[0], said["model_version"]

    @property
    def unanswered(self) -> np.ndarray:
        return np.isnan(self.predicted).reshape(len(self.rows), -1).any(axis=1)

    def label(self, client: MlflowClient, first: int, last: int) -> None:
        """Send the labels of the rows FIRST to before LAST that were asked about."""
        part = self.rows.iloc[first:last][~self.unanswered[first:last]]
        sent = [
            {"key": str(key), "label": truth if self.problem.classes else float(truth)}
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
        trial = next((one["challenger"] for one in experiment.status(self.project) if one["ended"] is None), None)
        if trial:
            words.insert(1, ["experiment", "step"])
        for one in words:
            code, told, said = command(self.project, *one)
            self.said.append(f"{now} {' '.join(one)}: exit {code}\n{said}")
            if code not in (0, 3):
                raise ProjectError(
                    f"{' '.join(one)} ended with exit code {code} at {now}: {said.strip() or 'it said nothing'}"
                )
            version = trial if one[0] == "experiment" else told.get("version")
            outcome = told.get("result") if one[0] == "experiment" else told.get("outcome")
            if outcome == "promoted" and version:
                self.promotions.append({"at": str(now), "version": version})
            fired = dict.fromkeys(signal["name"] for signal in told.get("signals", []) if signal["fired"])
            month = min(f"{now - timedelta(seconds=1):%Y-%m}", self.months[-1])
            facts = {"fired": [*fired], "what": happened(one[0], version, told), "month": month}
            self.turns.append({"at": str(now), "command": one[0], "exit": code, **facts})

    def tell(self, frozen: str) -> dict[str, Any]:
        """Return what the version FROZEN would have come to in each month, beside what was answered."""
        chosen, client = tracking.open_store(self.project)
        rows = self.rows
        alone = judgement.predict(tracking.open_version(client, chosen.model, frozen), rows)
        names = settings.read(self.project, "release", judgement.Release).quality.over_champion
        there = rows[~self.unanswered]

        def compared(some: pd.DataFrame) -> dict[str, Any] | None:
            truth = some[self.project.data.TARGET]
            if len(some) < FEWEST or truth.nunique() < 2:
                return None
            both = (alone[some.index], self.predicted[some.index])
            then, now = ({name: self.project.model.metrics(truth, values)[name] for name in names} for values in both)
            return {"rows": len(some), "frozen": then, "loop": now}

        months = []
        for month, some in there.groupby(self.moments.dt.strftime("%Y-%m")):
            if facts := compared(some):
                shares = pd.Series(self.versions[some.index]).value_counts(normalize=True).round(3).to_dict()
                months.append({"month": month, **facts, "versions": shares})
        past = triggers.past(triggers.database(self.project)) if self.options.loop else []
        kept = ("began", "outcome", "version", "why", "result")
        return {
            "frozen_version": frozen,
            "every_days": self.options.every,
            "looped": self.options.loop,
            "overall": compared(there),
            "months": months,
            "higher_is_better": {name: self.project.model.HIGHER_IS_BETTER[name] for name in names},
            "promotions": self.promotions,
            "retrainings": [{key: one[key] for key in kept} for one in past],
            "counts": dict(sorted(self.counts.items())),
            "turns": self.turns,
        }


def window(project: Project) -> timedelta:
    """Return how far back `monitor` looks."""

    return timedelta(days=settings.read(project, "monitoring", signals.Monitoring).window_days)


def command(project: Project, *words: str) -> tuple[int, dict[str, Any], str]:
    """Run a command of this project in this process; return its exit code, what it says as JSON, and what else it says."""

    answer, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(answer), contextlib.redirect_stderr(said):
        code = commands.main(project, [*words, "--json"])
    try:
        told = json.loads(answer.getvalue() or "{}")
    except ValueError:
        told, _ = {}, said.write(answer.getvalue())
    return code, told, said.getvalue()


def happened(name: str, version: str | None, told: dict[str, Any]) -> str:
    """Return what command NAME came to, in words; "" where it did nothing. VERSION is the one that it was about."""
    outcome, why = told.get("outcome", told.get("result", "")), told.get("result", "")
    if name == "experiment":
        ended = {"promoted": "promoted", "aborted": "lost its trial"}.get(outcome)
        return f"version {version} {ended}: {told['why']}" if ended else ""
    if name != "retrain" or outcome in ("", "nothing", "busy"):
        return ""
    if outcome in ("blocked", "gave up"):
        return f"not retrained: {told['why']}"
    return (
        f"retraining {told['id']}, because of {told['why']}: version {version or 'none'} {outcome}: {why}"
        if why
        else f"version {version} {outcome}"
    )


def by_version(versions: pd.Series) -> str:
    """Return which versions answered, the most often first."""
    shares = versions.value_counts(normalize=True)
    if len(shares) == 1:
        return f"version {shares.index[0]}"
    return ", ".join(f"version {version} ({share:.0%})" for version, share in shares.items()) or "no version"


def headline(told: dict[str, Any]) -> str:
    """Return what the replay came to: the gain over the frozen version, what was promoted and what refused."""
    frozen, overall = told["frozen_version"], told.get("overall")
    parts = []
    if overall:
        name, before = next(iter(overall["frozen"].items()))
        now, sign = overall["loop"][name], 1 if told["higher_is_better"][name] else -1
        n_better = sum(sign * (one["loop"][name] - one["frozen"][name]) > 0 for one in told["months"])
        how = "better" if sign * (now - before) > 0 else "worse"
        parts.append(
            f"The loop came to {name} {now:.4f} over {overall['rows']:,} rows, {abs(now - before):.4f} {how} than version {frozen} "
            f"alone, which would have come to {before:.4f}; it was better in {n_better} of {len(told['months'])} months"
        )
    outcomes = Counter(one["outcome"] or "not finished" for one in told["retrainings"])
    counted = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())
    parts.append(f"{outcomes.total()} retrainings: {counted}" if counted else "Nothing was retrained")
    return ". ".join(parts) + "."


def summary(told: dict[str, Any]) -> str:
    """Return the same for people: what it came to, a line a month, a line a retraining, how requests were answered."""
    lines = [headline(told), "", f"version {told['frozen_version']} alone -> the loop"]
    for one in told["months"]:
        values = "  ".join(f"{name} {then:.4f} -> {one['loop'][name]:.4f}" for name, then in one["frozen"].items())
        versions = ", ".join(f"{version}: {share:.0%}" for version, share in one["versions"].items())
        lines.append(f"{one['month']}  {one['rows']:>6,} rows  {values}  versions {versions}")
    lines += [""] * bool(told["retrainings"])
    lines += [
        f"{one['began'][:10]}  version {one['version'] or 'none'} {one['outcome'] or 'not finished'}  because of {one['why']}"
        for one in told["retrainings"]
    ]
    return "\n".join([*lines, "", ", ".join(f"{n:,} {name}" for name, n in told["counts"].items())])


def page(told: dict[str, Any]) -> str:
    """Return the same as a page."""

    months, frozen = told["months"], f"version {told['frozen_version']} alone"
    names = list(months[0]["frozen"]) if months else []
    events = {datetime.fromisoformat(one["at"]): f"v{one['version']}" for one in told["promotions"]}
    drawn = [
        (
            f"{name} ({'more' if told['higher_is_better'][name] else 'less'} is better)",
            charts.lines(
                {
                    who: [(middle(one), one[key][name]) for one in months]
                    for who, key in ((frozen, "frozen"), ("the loop", "loop"))
                },
                zero=False,
                events=events,
                name=f"{name} by month",
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
    turn = f"every {told['every_days']:g} days it was monitored and, where conf/retraining.yml says so, trained anew, judged, tried and replaced"
    return pages.page(
        f"V{frozen[1:]}, and the loop",
        pages.lead(headline(told)),
        pages.quiet(
            f"{frozen[0].upper()}{frozen[1:]}: what the version in use at the start would have answered to the same rows, never trained anew."
        ),
        pages.quiet(
            f"The loop: what callers got; {turn if told['looped'] else 'here nothing was done: the loop was off'}."
        ),
        pages.tiles(tiles(told)),
        pages.grid(drawn),
        pages.quiet(f"Upright lines: {', '.join(events.values())} came into use.") if events else "",
        pages.section("Months", pages.table(head, rows, "months")),
        pages.section(
            "Retrainings", pages.table(["began", "version", "outcome", "why", "what came of it"], tried, "retrainings")
        ),
        pages.section("Requests", pages.table(["what", "number"], told["counts"].items(), "requests")),
    )


def tiles(told: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers that the page begins with."""
    outcomes = Counter(one["outcome"] for one in told["retrainings"])
    overall = told.get("overall") or {"rows": 0, "frozen": {}, "loop": {}}
    gains = {
        f"{name}, against {before:.3f} alone": f"{overall['loop'][name]:.3f}"
        for name, before in [*overall["frozen"].items()][:1]
    }
    counts = {"rows answered": overall["rows"], "promoted": outcomes["promoted"]}
    return gains | counts | {"refused, by a gate or on trial": outcomes["refused"] + outcomes["aborted"]}


def middle(month: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(f"{month['month']}-15")
