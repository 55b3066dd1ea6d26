"""Whether to train anew: conf/retraining.yml held against the monitoring reports, the labels and what was tried before."""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pydantic
import sqlalchemy as sql

from ..core import files, notify, settings
from ..core.clock import days, moment
from ..core.errors import Busy, ProjectError
from ..core.progress import say
from ..core.project import Project
from ..core.redaction import redact
from .prediction_log import HAS_PREDICTION, LABELS, PREDICTIONS, open_log

REPORTS = Path("reports/monitoring")  # what `monitor` writes
ISSUES = Path("reports/issues")
TABLES = sql.MetaData()
RETRAININGS = sql.Table(  # beside the predictions, so that every machine which retrains sees what others did
    "retrainings",
    TABLES,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("began", sql.Text, nullable=False),  # what counted as now, UTC
    sql.Column("until", sql.Text, nullable=False),  # labels that came by then are learned from
    sql.Column("triggers", sql.Text, nullable=False),  # names, as JSON; by_hand alone when a person asked
    sql.Column("why", sql.Text, nullable=False),
    sql.Column("before", sql.Text),  # version in use when it began
    sql.Column("tries", sql.Integer, nullable=False, default=1),
    sql.Column("data", sql.Text),  # version of its data set
    sql.Column("version", sql.Text),
    sql.Column("outcome", sql.Text),  # null: not finished
    sql.Column("result", sql.Text),  # in a sentence
    sql.Column("seconds", sql.Float, nullable=False, default=0.0),  # of the processor, all tries together
)
MARKS = sql.Table(  # a table of its own: a database that was made before it only gains it
    "retraining_marks",
    TABLES,
    sql.Column("retraining", sql.Integer, primary_key=True),
    sql.Column("mark", sql.Text, primary_key=True),  # a Mark
)
FAILED = ("refused", "aborted", "failed")
LOCK = 7402  # a number of its own in the database
Held = Callable[[], None]  # raises ProjectError when this process is no longer the only one that retrains
APART = 0.01  # of its window, by which a report must end later to confirm another: 7 hours of the 30 days by default


class Mark(enum.StrEnum):
    """What became of a retraining beside its outcome."""

    AWAITS_SIGN_OFF = "awaits sign-off"  # a person must approve its version
    PEOPLE_WERE_ASKED = "people were asked"  # an issue was written because the last ones did not help


class Hysteresis(settings.Settings, frozen=True):
    at_least: pydantic.PositiveInt
    of: pydantic.PositiveInt
    then: Literal["retrain", "warn"]


class Rows(settings.Settings, frozen=True):
    rows: pydantic.PositiveInt


class Days(settings.Settings, frozen=True):
    days: pydantic.PositiveFloat


class Budget(settings.Settings, frozen=True):
    retrainings: pydantic.PositiveInt
    days: pydantic.PositiveFloat


class Stable(settings.Settings, frozen=True):
    share: float = pydantic.Field(gt=0, lt=0.5)
    worse: dict[str, pydantic.NonNegativeFloat] = pydantic.Field(min_length=1)


class Risk(settings.Settings, frozen=True):
    mean_shift: pydantic.NonNegativeFloat
    fewer_rows: float = pydantic.Field(ge=0, le=1)


class Policy(settings.Settings, frozen=True):
    """conf/retraining.yml"""

    environment: str
    owner: str
    runbook: str
    signals: dict[str, Hysteresis]
    new_data: Rows | None
    age: Days | None
    schedule: Days | None
    least_rows: pydantic.PositiveInt
    cooldown_h: pydantic.NonNegativeFloat
    budget: Budget
    give_up_after: pydantic.PositiveInt
    tries: pydantic.PositiveInt
    training: dict[str, Any]
    stable: Stable
    sign_off: Literal["required", "on_risk", "none"]
    approver: str
    risk: Risk
    release: Literal["canary", "ab", "blue-green", "direct"]


@dataclass(frozen=True)
class Trigger:
    """A reason to train anew, and who owns it."""

    name: str
    why: str
    owner: str
    runbook: str


@dataclass(frozen=True)
class Situation:
    """All that the policy is held against; `past` and `reports` oldest first, times in UTC without a zone."""

    now: datetime
    version: str | None
    trained: datetime
    learned_until: datetime
    newest_row: datetime
    new_rows: int
    reports: list[dict[str, Any]] = field(default_factory=list)
    past: list[dict[str, Any]] = field(default_factory=list)
    on_trial: str | None = None  # version that an experiment is judging
    alerts: list[Trigger] = field(default_factory=list)  # what Alertmanager held against its own rules
    forgotten: list[Trigger] = field(
        default_factory=list
    )  # rows that the version in use learned from and must not know


@dataclass(frozen=True)
class Verdict:
    fired: list[Trigger]
    warned: list[Trigger]
    blocked: str | None  # why nothing is done although something fired
    gave_up: bool = False

    @property
    def go(self) -> bool:
        return bool(self.fired) and not self.blocked


def read(project: Project) -> Policy:
    return settings.read(project, "retraining", Policy)


def decide(project: Project, policy: Policy, now: Situation) -> Verdict:
    """Return what fired, what is only a warning, and what speaks against training now."""
    fired, warned = [*now.alerts, *now.forgotten], list[Trigger]()
    for name, rule in policy.signals.items():
        for signal in confirmed(policy, now, name):
            (fired if rule.then == "retrain" else warned).append(signal)
    last = moment(now.past[-1]["began"]) if now.past else now.trained
    unlearned, rested = days(now.newest_row - now.learned_until), days(now.now - last)
    amounts: list[tuple[str, float, float | None, str]] = [
        (
            "new_data",
            now.new_rows,
            policy.new_data.rows if policy.new_data else None,
            "labelled rows since the last retraining",
        ),
        ("age", unlearned, policy.age.days if policy.age else None, "days of rows not learned from"),
        ("schedule", rested, policy.schedule.days if policy.schedule else None, "days since the last training"),
    ]
    for name, found, limit, what in amounts:
        if limit is not None and found >= limit:
            fired.append(Trigger(name, f"{found:,.0f} {what}, {limit:,.0f} or more", policy.owner, policy.runbook))
    against = objections(policy, now)
    n_fruitless = fruitless(now.past, now.version)
    gave_up = bool(fired) and n_fruitless >= policy.give_up_after
    if gave_up:
        against.insert(0, f"the last {n_fruitless} did not help: a person decides, see {ISSUES}")
    return Verdict(fired, warned, against[0] if against else None, gave_up)


def confirmed(policy: Policy, now: Situation, name: str) -> Iterator[Trigger]:
    """Yield each signal of NAME that fired often enough in the reports on the version in use, and in the newest.

    NAME is that of a signal or of a kind, which then stands for all signals of that kind that have no rule of their own.
    """
    rule = policy.signals[name]
    recent = apart(now.reports, now.version)[-rule.of :]
    for signal in recent[-1]["signals"] if recent else []:
        times = sum(any(same(one, signal) and one["fired"] for one in report["signals"]) for report in recent)
        mine = name == (signal["name"] if signal["name"] in policy.signals else signal["kind"])
        if mine and signal["fired"] and times >= rule.at_least:
            place = next((f" of {signal[key]}" for key in ("column", "slice") if signal.get(key)), "")
            why = f"{signal['value']:.4g}, beyond the threshold {signal['threshold']:g} in {times} of {len(recent)} reports"
            title = signal["name"] if signal["name"] == signal["kind"] else f"{signal['kind']}: {signal['name']}"
            yield Trigger(f"{title}{place}", why, signal["owner"], signal["runbook"])


def apart(reports: list[dict[str, Any]], version: str | None) -> list[dict[str, Any]]:
    """Return the newest of REPORTS on VERSION and each before it that saw other rows: its window ends clearly earlier."""
    kept: list[tuple[datetime, dict[str, Any]]] = []
    for one in reversed([one for one in reports if str(one.get("version")) == version]):
        since, until = (moment(one["window"][name]) for name in ("since", "until"))
        if not kept or kept[0][0] - until >= APART * (until - since):
            kept.insert(0, (until, one))
    return [one for _, one in kept]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("name", "kind", "column", "slice"))


def objections(policy: Policy, now: Situation) -> list[str]:
    """Return what speaks against a retraining that nobody asked for by hand, a sentence each."""
    against = []
    if now.on_trial:
        against.append(f"version {now.on_trial} is on trial: first its experiment ends")
    if now.new_rows < policy.least_rows and not now.forgotten:  # then fewer rows are the point
        against.append(
            f"{now.new_rows:,} labelled rows since the last retraining, {policy.least_rows:,} or more teach something"
        )
    began = [moment(one["began"]) for one in now.past]
    if began and now.now - began[-1] < timedelta(hours=policy.cooldown_h):
        against.append(f"the last one began {now.now - began[-1]} ago, the next may after {policy.cooldown_h:g} h")
    spent = sum(now.now - one < timedelta(days=policy.budget.days) for one in began)
    if spent >= policy.budget.retrainings:
        against.append(f"{spent} in {policy.budget.days:g} days is what the budget allows")
    return against


def fruitless(past: list[dict[str, Any]], version: str | None) -> int:
    """Return how many retrainings in a row, to the last, were triggered and did not replace VERSION, which is in use."""
    n = 0
    for one in reversed(past):
        if one["outcome"] not in FAILED or one["before"] != version or json.loads(one["triggers"]) == ["by_hand"]:
            break
        n += 1
    return n


def read_reports(project: Project, policy: Policy, version: str, trained: datetime) -> list[dict[str, Any]]:
    """Return the newest monitoring reports on VERSION that saw other rows, oldest first, as many as POLICY looks at.

    Those from before it was TRAINED, as their names tell, are not read, nor those of what is to come. Raises ProjectError where one cannot be read: it
    might have fired.
    """
    n_reports, found = max((rule.of for rule in policy.signals.values()), default=0), list[dict[str, Any]]()
    for file in sorted(project.path(REPORTS).glob("*.json"), reverse=True):
        if len(found) == n_reports or file.name < f"{trained:%Y%m%dT%H%M%S}":
            break
        if file.name > f"{datetime.now(UTC):%Y%m%dT%H%M%S}~":  # a clock was ahead: it would be the newest until then
            continue
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            report["signals"]
            found = apart([report, *found], version)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ProjectError(f"{file} is no monitoring report: delete it and run `monitor` again") from None
    return found


def database(project: Project) -> sql.Engine:
    """Return the database of the prediction log, with the table of retrainings in it."""

    log = open_log(project)
    with log.connection():  # makes what is missing, and says when it is away
        TABLES.create_all(log.engine)
    sql.event.listen(log.engine, "handle_error", gone)
    return log.engine


@contextlib.contextmanager
def alone(engine: sql.Engine) -> Iterator[Held]:
    """Hold the retrainings of a database that machines share; raises Busy when another process holds them.

    PostgreSQL lets go when this session ends, however that comes about; what is given tells. A SQLite file is of one
    machine, where a file lock is enough.
    """
    if engine.dialect.name != "postgresql":
        yield lambda: None
        return
    mine = sql.text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :n AND pid = pg_backend_pid() AND granted"
    )

    def held() -> None:
        try:
            lost = "" if connection.scalar(mine, {"n": LOCK}) else "another session answers"
        except sql.exc.SQLAlchemyError as error:
            lost = str(error.__cause__ or error).partition("\n")[0]
        if lost:
            raise ProjectError(
                f"the lock of the retrainings in the prediction log is lost ({lost}), another process may hold it: "
                "nothing is handed over; run this again, it goes on from there"
            )

    # a session of its own, which ends when it is closed; a transaction open for hours would keep dead rows
    own = sql.create_engine(engine.url, poolclass=sql.NullPool, isolation_level="AUTOCOMMIT")
    with own.connect() as connection:
        # a machine that is gone must not keep the lock for the two hours that systems wait by default
        for name, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
            connection.execute(sql.text(f"SET tcp_keepalives_{name} = {seconds}"))
        if not connection.scalar(sql.select(sql.func.pg_try_advisory_lock(LOCK))):
            raise Busy(
                "the prediction log's retrainings are being written by another process, here or on another machine: "
                "wait until it ends and run this again"
            )
        yield held


def gone(happened: sql.engine.ExceptionContext) -> None:
    """Raise ProjectError in place of an error of the database: it went away in the midst of a retraining."""
    wrong_rows = isinstance(happened.sqlalchemy_exception, sql.exc.DataError | sql.exc.IntegrityError)
    if not wrong_rows and not happened.is_pre_ping:  # a connection that was lost before it is used is opened again
        said = str(happened.original_exception).partition("\n")[0]
        raise ProjectError(f"the retrainings in the prediction log: {said}; run this again, it goes on from there")


def labels(engine: sql.Engine, since: datetime, time: str | None) -> tuple[int, datetime | None]:
    """Return how many predictions got their label after SINCE, and the newest time, by column TIME, of rows that have one.

    Without such a column a row is of the moment when it was asked.

    A label that no prediction has, as of rows that nobody asked about, teaches nothing. Later than the newest time may
    be one row in a hundred: a mistyped year is no news.
    """

    arrived = sql.select(sql.func.count()).select_from(LABELS).where(LABELS.c.received > since, HAS_PREDICTION)
    asked, at = PREDICTIONS.c.inputs, PREDICTIONS.c.at
    latest = sql.select(asked, at).join(LABELS, LABELS.c.key == PREDICTIONS.c.key).order_by(at.desc()).limit(1000)
    with engine.connect() as connection:
        found = sorted(
            moment(str((time and json.loads(inputs).get(time)) or when)) for inputs, when in connection.execute(latest)
        )
        newest = found[int(0.99 * (len(found) - 1))] if found else None
        return connection.execute(arrived).scalar() or 0, newest


def past(engine: sql.Engine) -> list[dict[str, Any]]:
    """Return all retrainings, oldest first, each with its "marks"."""
    with engine.connect() as connection:
        marks = connection.execute(sql.select(MARKS.c.retraining, MARKS.c.mark)).all()
        rows = connection.execute(sql.select(RETRAININGS).order_by("id")).mappings()
        return [{**row, "marks": [Mark(name) for number, name in marks if number == row["id"]]} for row in rows]


def begin(engine: sql.Engine, **facts: Any) -> dict[str, Any]:
    """Return a new retraining, which is open until it has an outcome."""
    with engine.begin() as connection:
        [number] = connection.execute(sql.insert(RETRAININGS).values(**facts)).inserted_primary_key or [None]
    return next(one for one in past(engine) if one["id"] == number)


def note(engine: sql.Engine, attempt: dict[str, Any], **facts: Any) -> None:
    """Keep FACTS of a retraining, here and in the database."""
    with engine.begin() as connection:
        connection.execute(sql.update(RETRAININGS).where(RETRAININGS.c.id == attempt["id"]).values(**facts))
    attempt |= facts


def mark(engine: sql.Engine, attempt: dict[str, Any], what: Mark) -> None:
    """Keep WHAT of a retraining, here and in the database; once is as often as twice."""
    if what not in attempt["marks"]:
        with engine.begin() as connection:
            connection.execute(sql.insert(MARKS).values(retraining=attempt["id"], mark=what.value))
        attempt["marks"].append(what)


def ask_people(project: Project, policy: Policy, title: str, lines: list[str]) -> Path:
    """Write an issue for people and tell the receivers of conf/notify.yml; return its file."""

    text = redact("\n".join([f"# {title}", "", f"Owner: {policy.owner}. What to do: {policy.runbook}", "", *lines, ""]))
    project.path(ISSUES).mkdir(parents=True, exist_ok=True)
    (project.path(ISSUES) / ".gitignore").write_text("*\n", encoding="utf-8")  # an open issue is no change of the code
    file = project.path(ISSUES) / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.md"  # two in a second are two
    files.replaced(file, text.encode())
    try:
        notify.tell(settings.read(project, "notify", notify.Notify).receivers, title, text)
    except ProjectError as error:
        say(f"{file} is written, {error}")
    return file
