"""Tell what the prediction log holds, forget what must be forgotten, delete what is older than it may be.

python -m {package} prediction-log
python -m {package} prediction-log --forget 4f1c09 --by request_id
python -m {package} prediction-log --prune

`serve` writes it, `feedback` adds the labels; conf/prediction_log.yml says where it is and what never gets into it.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic
import sqlalchemy as sql
from pydantic_core import to_json
from sqlalchemy.dialects import postgresql, sqlite

from ..core import files, settings
from ..core.errors import ProjectError
from ..core.project import Project
from ..data import rows, split
from ..data.feature_tables import text
from ..data.problem import problem_of

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Row = dict[str, Any]
COLUMNS = [
    "request_id",
    "row",
    "at",
    "endpoint",
    "version",
    "arm",
    "answered",
    "entity",
    "key",
    "prediction",
    "seconds",
]
NAMES = [*COLUMNS, "label", "labelled_at"]  # of what `frames` gives beside the inputs
PORTION = 10_000  # rows deleted, or labels added, in one transaction: the service waits that long to write

KNOWN = sql.MetaData()
_number = sql.BigInteger().with_variant(sql.Integer, "sqlite")
PREDICTIONS = sql.Table(
    "predictions",
    KNOWN,
    sql.Column("number", _number, primary_key=True),  # in the order of the commits: a reader goes on where it ended
    sql.Column("request_id", sql.String(64), nullable=False),
    sql.Column("row", sql.Integer, nullable=False),
    sql.Column("at", sql.DateTime, nullable=False, index=True),
    sql.Column("endpoint", sql.Text, nullable=False),
    sql.Column("version", sql.Text, nullable=False),
    sql.Column("arm", sql.String(16), nullable=False),
    sql.Column("answered", sql.Boolean, nullable=False),
    sql.Column("entity", sql.Text),
    sql.Column("key", sql.Text, nullable=False, index=True),
    sql.Column("prediction", sql.Double, nullable=False),
    sql.Column("seconds", sql.Double, nullable=False),
    sql.Column("inputs", sql.Text, nullable=False),
    sql.Column("probabilities", sql.Text),  # of several classes, JSON; the likeliest one's number is `prediction`
    sql.UniqueConstraint("request_id", "row", "arm"),
    sqlite_autoincrement=True,
)
WRITTEN = [one.name for one in PREDICTIONS.columns if one.name != "number"]
ONE, MANY = f"({', '.join('?' * len(WRITTEN))})", 500  # as SQLite's driver writes a row, and how many in one statement
LABELS = sql.Table(
    "labels",
    KNOWN,
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("at", sql.DateTime, nullable=False),
    sql.Column("label", sql.Double, nullable=False),
    sql.Column("source", sql.Text, nullable=False),
    sql.Column("received", sql.DateTime, nullable=False),
    sql.Column("confirmed", sql.DateTime, nullable=False),  # the latest `at` of the same label
    sql.Index("labels_by_source", "source", "received"),
)
ASIDE = sql.Table(
    "label_conflicts",
    KNOWN,
    sql.Column("number", _number, primary_key=True),
    sql.Column("key", sql.Text, nullable=False),
    sql.Column("at", sql.DateTime, nullable=False),
    sql.Column("label", sql.Text),
    sql.Column("source", sql.Text, nullable=False),
    sql.Column("received", sql.DateTime, nullable=False),
    sql.Column("why", sql.Text, nullable=False),
    sql.Index("conflicts_by_source", "source", "received"),
)
FAILURES = sql.Table(
    "failures",
    KNOWN,
    sql.Column("number", _number, primary_key=True),
    sql.Column("at", sql.DateTime, nullable=False, index=True),
    sql.Column("endpoint", sql.Text, nullable=False),
    sql.Column("version", sql.Text, nullable=False),
    sql.Column("arm", sql.String(16), nullable=False),
    sql.Column("status", sql.Integer, nullable=False),
)
COUNTS = sql.Table(  # of labels, by what became of them
    "label_counts",
    KNOWN,
    sql.Column("outcome", sql.String(16), primary_key=True),
    sql.Column("n", sql.BigInteger, nullable=False),
)
WRITERS = sql.Table(  # a row a run of a service: what it took over, and what of that is not in the log
    "writers",
    KNOWN,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("seen", sql.DateTime, nullable=False),
    sql.Column("handled", sql.BigInteger, nullable=False),
    sql.Column("dropped", sql.BigInteger, nullable=False),
    sql.Column("lost", sql.BigInteger, nullable=False),
)

# A label given by request id before the prediction was written stands under that, any other under the row's key.
_by_key, _by_id = LABELS.alias("by_key"), LABELS.alias("by_id")
_id = PREDICTIONS.c.request_id + "/" + sql.cast(PREDICTIONS.c.row, sql.String)
TRUTH = sql.func.coalesce(_by_key.c.label, _by_id.c.label)
JOINED = sql.select(
    PREDICTIONS.c.number,
    *(PREDICTIONS.c[name] for name in COLUMNS),
    TRUTH,
    sql.func.coalesce(_by_key.c.at, _by_id.c.at),
    PREDICTIONS.c.probabilities,
    PREDICTIONS.c.inputs,
).select_from(PREDICTIONS.outerjoin(_by_key, _by_key.c.key == PREDICTIONS.c.key).outerjoin(_by_id, _by_id.c.key == _id))
_asked = sql.func.rtrim(sql.func.rtrim(LABELS.c.key, "0123456789"), "/")  # of REQUEST_ID/ROW: an index finds it
HAS_PREDICTION = sql.or_(
    sql.exists().where(PREDICTIONS.c.key == LABELS.c.key),
    sql.exists().where(PREDICTIONS.c.request_id == _asked, _id == LABELS.c.key),
)


class Believed(settings.Settings, frozen=True):
    min_flips: pydantic.PositiveInt
    max_flip_share: float = pydantic.Field(ge=0, le=1)
    window_h: pydantic.PositiveFloat
    against: float = pydantic.Field(gt=0, le=1)


class OutOfRange(settings.Settings, frozen=True):
    requests: pydantic.PositiveInt
    share: float = pydantic.Field(ge=0, lt=1)
    window_s: pydantic.PositiveFloat


class Conf(settings.Settings, frozen=True):
    """conf/prediction_log.yml"""

    url: str
    entity: str | None
    never_logged: list[str]
    keep_days: pydantic.PositiveInt
    flush_rows: pydantic.PositiveInt
    flush_s: pydantic.PositiveFloat
    queue_rows: pydantic.PositiveInt
    queue_bytes: pydantic.PositiveInt = 200_000_000
    flush_bytes: pydantic.PositiveInt = 20_000_000
    when_full: Literal["drop", "refuse"]
    labels: Believed
    out_of_range: OutOfRange


class Away(ProjectError):
    """The store cannot be reached or does not take anything at the moment."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--forget", nargs="+", metavar="VALUE", help="delete the predictions of these, and their labels"
    )
    parser.add_argument("--by", choices=["request_id", "entity", "key"], default="request_id", help="what VALUE is")
    parser.add_argument("--prune", action="store_true", help="delete what is older than keep_days")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    log = open_log(project)
    if options.forget or options.prune:
        n_rows = log.forget(options.forget, options.by) if options.forget else 0
        n_rows += sum(iter(log.prune, 0)) if options.prune else 0
        return print(json.dumps({"deleted": n_rows}) if options.json else f"deleted {n_rows:,} predictions")
    told = log.status()
    if options.json:
        return print(json.dumps(told, default=str))
    labels = ", ".join(f"{n:,} {outcome}" for outcome, n in told["labels"].items()) or "none"
    print(
        f"{told['predictions']:,} predictions from {told['from']} to {told['to']}, {told['failures']:,} failed requests"
    )
    print(
        f"{told['dropped']:,} were dropped while the store was away, {told['lost']:,} at most lost by killed services"
    )
    print(f"labels: {labels}; {told['without_prediction']:,} have no prediction yet")


def open_log(project: Project) -> PredictionLog:
    """Return the log that conf/prediction_log.yml describes."""
    return PredictionLog(project, settings.read(project, "prediction_log", Conf))


class PredictionLog:
    """The log's tables in an SQL database; raises Away when it cannot be reached. Times are UTC, without a zone."""

    def __init__(self, project: Project, conf: Conf) -> None:
        self.project = project
        if settings.PASSWORD.search(conf.url):
            raise ProjectError("conf/prediction_log.yml: url holds a password: write ${NAME} and set NAME outside")
        self.conf, self.made, self.problem = conf, False, problem_of(project)
        try:
            address = sql.make_url(settings.anchored(project, settings.expand(conf.url)))
            kind = address.get_backend_name()
            # a fresh connection each time: an open one would go on writing to a database file that is no longer there
            pool: dict[str, Any] = {"poolclass": sql.NullPool} if kind == "sqlite" else {"pool_pre_ping": True}
            self.engine = sql.create_engine(address, **pool)
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            raise ProjectError(
                f"conf/prediction_log.yml: url {conf.url}: {settings.hide(str(error), conf.url)}"
            ) from None
        if kind not in ("sqlite", "postgresql"):
            raise ProjectError(f"conf/prediction_log.yml: url is {conf.url}, must be of SQLite or PostgreSQL")
        self.insert: Callable[..., Any] = sqlite.insert if kind == "sqlite" else postgresql.insert
        self.file = Path(address.database or "") if kind == "sqlite" else None
        self.lock = "BEGIN IMMEDIATE" if self.file else "SELECT pg_advisory_xact_lock(7401)"  # a number of its own
        once = self.insert(PREDICTIONS).on_conflict_do_nothing()
        self.add = str(once.compile(dialect=self.engine.dialect, column_keys=WRITTEN))
        if self.file:
            sql.event.listen(self.engine, "connect", prepare)
        self.columns = {
            name: rule
            for name, rule in project.data.SCHEMA.items()
            if name not in {project.data.TARGET, *project.data.LEAKS} and not self.hides(name)
        }
        self.entity = conf.entity if conf.entity in self.columns else None
        if conf.entity and self.hides(conf.entity):
            raise ProjectError(f"conf/prediction_log.yml: entity {conf.entity} is kept and never_logged: choose one")

    @functools.cache  # noqa: B019 - there is one log a process
    def hides(self, name: str) -> bool:
        """Return whether column NAME is never written down."""
        return any(fnmatch.fnmatch(name.lower(), pattern.lower()) for pattern in self.conf.never_logged)

    def key_of(self, row: Mapping[str, Any]) -> str | None:
        """Return the text that ROW's label comes under, None where data.KEY is missing or not to be kept."""
        cell = None if self.hides(self.project.data.KEY) else row.get(self.project.data.KEY)
        return None if cell is None else text(cell)

    def as_written(self, column: str | None, given: str) -> str:
        """Return what stands in the log for GIVEN, a cell of COLUMN as people write it: 5.0 for 5."""
        kind = self.project.data.SCHEMA[column]["type"] if column else "text"
        with contextlib.suppress(ValueError):  # it is none of these: nothing in the log is like it
            if kind == "number":
                return text(float(given))
            if kind == "time":
                return str(datetime.fromisoformat(given))
        return plain(given)

    @contextlib.contextmanager
    def connection(self, write: bool = False) -> Iterator[sql.Connection]:
        """Give a connection; to WRITE, a transaction that no other writer interrupts: numbers are in order."""
        try:
            if not self.made:
                if self.file:
                    files.private(self.file)
                with self.engine.connect() as connection:
                    connection.exec_driver_sql(self.lock)  # two that start at once would both make the tables
                    KNOWN.create_all(connection)
                    if "probabilities" not in {
                        one["name"] for one in sql.inspect(connection).get_columns("predictions")
                    }:
                        connection.exec_driver_sql("ALTER TABLE predictions ADD COLUMN probabilities TEXT")
                    connection.commit()
                self.made = True
            elif self.file and not self.file.is_file():
                raise Away(f"{self.file} is gone: bring it back, or start the service again for an empty log")
            with self.engine.connect() as connection:
                if write:
                    connection.exec_driver_sql(self.lock)
                yield connection
                if write:
                    connection.commit()
        except (sql.exc.DataError, sql.exc.IntegrityError):
            raise
        except (sql.exc.SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
            raise Away(f"the prediction log {self.conf.url}: {settings.hide(reason, self.conf.url)}") from None

    def write(self, rows: Iterable[Row], failures: Iterable[Row] = (), writer: Row | None = None) -> int:
        """Add predictions; return how many are new: of a request id each row is logged once, by arm.

        `inputs` is the row, a dict. Left out: row 0, at now, endpoint /predict, version "", arm champion, its key.
        """
        complete = map(self.complete, rows)
        full: list[Any] = [tuple(row.values()) for row in complete] if self.file else list(complete)
        failed = [{"at": now(), "endpoint": "/predict", "version": "", "arm": "champion"} | one for one in failures]
        with self.connection(write=True) as connection:
            new = self.add_to(connection, full) if full else 0
            if failed:
                connection.execute(FAILURES.insert(), failed)
            if writer:
                self.put(connection, WRITERS, [{"seen": now(), "lost": 0} | writer])
        return new

    def add_to(self, connection: sql.Connection, full: list[Any]) -> int:
        """Insert predictions and return how many are new; SQLite's driver holds the service up at each statement."""
        if not self.file:
            return connection.exec_driver_sql(self.add, full).rowcount
        new = 0
        for start in range(0, len(full), MANY):
            part = full[start : start + MANY]
            many = self.add.replace(ONE, ", ".join([ONE] * len(part)))
            new += connection.exec_driver_sql(many, tuple(itertools.chain(*part))).rowcount
        return new

    def complete(self, row: Row) -> Row:
        """Return ROW as the database takes it, in the order of WRITTEN."""
        inputs, at = row.get("inputs", {}), row.get("at") or now()
        if isinstance(inputs, dict):
            key = self.key_of(inputs)
            if not inputs.keys() <= self.columns.keys():
                inputs = {name: cell for name, cell in inputs.items() if not self.hides(name)}
            inputs = to_json(inputs, inf_nan_mode="null").decode()
        else:
            key = None
        arm, number = row.get("arm", "champion"), row.get("row", 0)
        return {
            "request_id": row["request_id"],
            "row": number,
            "at": at.isoformat(" ", "microseconds") if self.file else at,
            "endpoint": row.get("endpoint", "/predict"),
            "version": row.get("version", ""),
            "arm": arm,
            "answered": row.get("answered", arm != "shadow"),
            "entity": plain(row["request_id"] if row.get("entity") is None else row["entity"]),
            "key": plain(row.get("key") or key or by_id(row["request_id"], number)),
            "prediction": row["prediction"],
            "seconds": row.get("seconds", 0.0),
            "inputs": inputs,
            "probabilities": to_json(row["probabilities"]).decode() if "probabilities" in row else None,
        }

    def put(self, connection: sql.Connection, table: sql.Table, rows: Sequence[Row]) -> None:
        """Insert ROWS, or update those that are there."""
        if rows:
            new = self.insert(table)
            keys = [one.name for one in table.primary_key]
            changed = {name: new.excluded[name] for name in rows[0] if name not in keys}
            connection.execute(new.on_conflict_do_update(index_elements=keys, set_=changed), rows)

    def frames(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        arm: str | None = None,
        labelled: bool | None = None,
        chunk_rows: int = 10_000,  # as fast as more, and half of the memory
        endpoint: str | None = "/predict",
    ) -> Iterator[pl.DataFrame]:
        """Yield the predictions from SINCE to before UNTIL, oldest first, with their labels, CHUNK_ROWS at a time.

        Columns: COLUMNS, label and labelled_at (missing as long as there is none) and one a logged input, as in SCHEMA;
        an input of the same name as one of these is called `input_NAME`. ENDPOINT None: of all models.
        """
        of = PREDICTIONS.c
        wanted = [of.at >= naive(since)] if since else []
        wanted += [of.at < naive(until)] if until else []
        wanted += [of.arm == arm] if arm else []
        wanted += [of.endpoint == endpoint] if endpoint else []
        if labelled is not None:
            wanted.append(TRUTH.is_not(None) if labelled else TRUTH.is_(None))
        for _, frame in self.read(JOINED.where(*wanted).order_by(of.at, of.number), chunk_rows):
            yield frame

    def after(self, number: int, chunk_rows: int = 10_000) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield what was committed after prediction NUMBER, in that order, each chunk with the number of its last."""
        of = PREDICTIONS.c
        wanted = JOINED.where(of.number > number, of.endpoint == "/predict")
        yield from self.read(wanted.order_by(of.number), chunk_rows)

    def read(self, query: sql.Select[Any], chunk_rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
        with self.connection() as connection:
            for rows in connection.execution_options(yield_per=chunk_rows).execute(query).partitions():
                yield rows[-1][0], self.frame(rows)

    def frame(self, rows: Sequence[Any]) -> pl.DataFrame:
        import polars as pl

        kinds: dict[str, Any] = {"number": pl.Float64, "boolean": pl.Boolean, "time": pl.Datetime("us")}
        types = {"row": pl.Int64, "answered": pl.Boolean} | dict.fromkeys(["at", "labelled_at"], pl.Datetime("us"))
        types |= dict.fromkeys(["prediction", "seconds", "label"], pl.Float64)
        _, *columns, probabilities, inputs = zip(*rows, strict=True)
        given: dict[str, Any] = dict(zip(NAMES, columns, strict=True))
        if names := self.problem.classes:
            place = {number: at for at, number in enumerate(self.problem.stored.values())}
            given |= {name: [place.get(one) for one in given[name]] for name in ("prediction", "label")}
            each = [json.loads(one) if one else {} for one in probabilities]
            given |= {
                column: [one.get(str(name), 0.0) if one else None for one in each]
                for column, name in zip(self.problem.columns, names, strict=True)
            }
            types |= dict.fromkeys(self.problem.columns, pl.Float64)
        told = [pl.Series(name, column, types.get(name, pl.String)) for name, column in given.items()]
        shape = pl.Struct({name: kinds.get(rule["type"], pl.String) for name, rule in self.columns.items()})
        logged = pl.Series("inputs", inputs, pl.String).str.json_decode(shape).struct.unnest()
        taken = {*NAMES, *self.problem.columns}
        return pl.DataFrame(told).hstack(logged.rename({one: f"input_{one}" for one in logged.columns if one in taken}))

    def forget(self, values: Iterable[str], by: str = "request_id") -> int:
        """Delete the predictions of VALUES, and labels that no other prediction has; return how many predictions."""
        n_rows = self.erase(values, by)["predictions"]
        if held := self.held():
            left = f"but their bytes stay in {held} while somebody reads the log: run this again later"
            raise ProjectError(f"{n_rows:,} predictions are deleted, {left}")
        return n_rows

    def erase(self, values: Iterable[str], by: str) -> Counter[str]:
        """Do the same and return how many predictions and how many labels; `held` says whether their bytes are gone."""
        done, of = Counter[str](), PREDICTIONS.c
        for value in [self.as_written(self.column(by), one) for one in values]:
            with self.connection(write=True) as connection:
                found = of[by] == value
                rows = connection.execute(sql.select(of.key, of.request_id, of.row).where(found)).all()
                done["predictions"] += connection.execute(PREDICTIONS.delete().where(found)).rowcount
                keys = {key for row in rows for key in (row.key, by_id(row.request_id, row.row))}
                for key in keys | ({value} if by == "key" else set()):
                    if not connection.scalar(sql.select(sql.exists().where(of.key == key))):
                        for table in (LABELS, ASIDE):
                            done["labels"] += connection.execute(table.delete().where(table.c.key == key)).rowcount
        return done

    def column(self, by: str) -> str | None:
        """Return the column of SCHEMA that the log has as BY, None where it is made up."""
        return {"key": self.project.data.KEY, "entity": self.entity}.get(by)

    def keys(self, value: str, by: str) -> set[str]:
        """Return the keys of the predictions whose BY is VALUE."""
        of = PREDICTIONS.c
        with self.connection() as connection:
            return set(connection.scalars(sql.select(of.key).where(of[by] == self.as_written(self.column(by), value))))

    def held(self) -> str | None:
        """Return the file in which what was deleted still stands as somebody reads the log, None when it is gone."""
        if not self.file:
            return None
        with self.connection() as connection:  # what was deleted must not stand in the file of what was written
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        return f"{self.file}-wal" if busy else None

    def labelled_by(self, source: str) -> list[str]:
        """Return the keys whose label is SOURCE's."""
        with self.connection() as connection:
            return [*connection.scalars(sql.select(LABELS.c.key).where(LABELS.c.source == source))]

    def withdraw(self, source: str) -> int:
        """Delete the labels of SOURCE, those kept aside too; return how many."""
        with self.connection(write=True) as connection:
            return sum(
                connection.execute(one.delete().where(one.c.source == source)).rowcount for one in (LABELS, ASIDE)
            )

    def prune(self, days: int | None = None) -> int:
        """Delete a portion of what is older than DAYS or keep_days; return how many predictions, 0 when all is done."""
        of, end = PREDICTIONS.c, now() - timedelta(days=days or self.conf.keep_days)
        with self.connection(write=True) as connection:
            old = sql.select(of.number).where(of.at < end).order_by(of.at).limit(PORTION)
            n_rows = connection.execute(PREDICTIONS.delete().where(of.number.in_(old))).rowcount
            if n_rows < PORTION:
                connection.execute(FAILURES.delete().where(FAILURES.c.at < end))
                connection.execute(ASIDE.delete().where(ASIDE.c.received < end))
                connection.execute(LABELS.delete().where(LABELS.c.received < end, ~HAS_PREDICTION))
        return n_rows

    def older_than(self, days: int) -> int:
        """Return how many predictions, labels and failures `prune` would delete."""
        end, count = now() - timedelta(days=days), sql.func.count()
        wanted = [
            sql.select(count).where(PREDICTIONS.c.at < end),
            sql.select(count).where(FAILURES.c.at < end),
            sql.select(count).where(ASIDE.c.received < end),
            sql.select(count).where(LABELS.c.received < end, ~HAS_PREDICTION),
        ]
        with self.connection() as connection:
            return sum(connection.scalar(one) or 0 for one in wanted)

    def status(self) -> Row:
        """Return how much the log holds, and how much it does not."""
        of, count, total = PREDICTIONS.c, sql.func.count(), lambda one: sql.func.coalesce(sql.func.sum(one), 0)
        with self.connection() as connection:
            n_rows, first, last = connection.execute(sql.select(count, sql.func.min(of.at), sql.func.max(of.at))).one()
            gone = connection.execute(sql.select(total(WRITERS.c.dropped), total(WRITERS.c.lost))).one()
            return {
                "predictions": n_rows,
                "from": first,
                "to": last,
                "dropped": int(gone[0]),
                "lost": int(gone[1]),
                "failures": connection.scalar(sql.select(count).select_from(FAILURES)),
                "labels": dict(
                    connection.execute(sql.select(COUNTS.c.outcome, COUNTS.c.n).order_by(COUNTS.c.n.desc())).all()
                ),
                "without_prediction": connection.scalar(sql.select(count).select_from(LABELS).where(~HAS_PREDICTION)),
            }


def prepare(connection: Any, _: Any) -> None:
    """Make an SQLite connection fit: readers do not hold up the writer, and what is deleted is overwritten."""
    connection.isolation_level = None  # transactions begin where `connection` begins them
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA secure_delete = ON")


def by_id(request_id: str, row: int) -> str:
    """Return what a label stands under when its row has no key; a request id holds no slash."""
    return f"{request_id}/{row}"


def as_raw(project: Project, found: pl.DataFrame) -> pd.DataFrame:
    """Return predictions of the log (`frames`) as data.read would give their rows, without the target.

    Whoever did not send TIME asked about the moment of asking. A cell that is not as SCHEMA has it is missing, a required
    column that nobody sent is not there.
    """
    import pandas as pd

    table = pd.DataFrame({project.data.KEY: found["key"].to_list()})
    for name, rule in project.data.SCHEMA.items():
        place = f"input_{name}" if f"input_{name}" in found.columns else name
        sent = place in found.columns and (rule.get("null") or found[place].null_count() < len(found))
        if sent and name not in (project.data.TARGET, project.data.KEY):
            table[name] = found[place].to_pandas()
    if time := split.time_column(project):
        at = found["at"].dt.replace_time_zone(None).to_pandas()
        table[time] = table[time].fillna(at) if time in table else at
    rules = {name: rule for name, rule in project.data.SCHEMA.items() if name in table}
    return pd.DataFrame({name: rows.as_kind(table[name], rule) for name, rule in rules.items()})


def as_sent(project: Project, found: pl.DataFrame) -> pl.DataFrame:
    """Return predictions of the log (`frames`) with what callers sent under its own names, over the log's own columns."""
    theirs = {
        f"input_{name}": name
        for name in dict.fromkeys([*NAMES, *problem_of(project).columns])
        if name in project.data.SCHEMA and f"input_{name}" in found.columns
    }
    return found.drop(theirs.values()).rename(theirs)


def plain(given: Any) -> str:
    """Return GIVEN as text that PostgreSQL takes."""
    return str(given).replace("\0", "\ufffd")


def now() -> datetime:
    return naive(datetime.now(UTC))


def naive(moment: datetime) -> datetime:
    """Return MOMENT in UTC without a zone; one without a zone is in UTC."""
    with contextlib.suppress(OverflowError):  # in the first hours of year 1, or the last of 9999
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return moment.replace(tzinfo=None)
