"""Compute the feature tables of tables.py once: versioned files to learn from, a database to look them up in.

python -m {package} feature-tables
python -m {package} train --data featured      # the gathered rows with the columns of the tables

A value is joined to a row by its key as it was known at the row's time, never later; offline and online alike. A table
whose values change with rows from after their moment is refused with exit 3. `serve` fills in, by key, what a caller
leaves out, and `score-batch` what its input has not. Where the tables are kept: conf/features.yml.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic

from ..core import files, settings
from ..core.errors import ProjectError, Refused
from ..core.project import Project
from . import split, store
from .rows import as_kind

DATASET = "featured"  # the data set that `make` makes
WAIT_S = 600  # for another process that computes the same tables
CUTS = (0.5, 0.75, 0.95)  # shares of a table's moments at which it is computed again from what was known by then


class Features(settings.Settings, frozen=True):
    """conf/features.yml."""

    offline: Path
    online: str


class Declared(settings.Settings, frozen=True):
    """One table of TABLES in tables.py."""

    key: list[str] = pydantic.Field(min_length=1)
    features: list[str] = pydantic.Field(min_length=1)
    known_after: timedelta
    max_age: timedelta
    build: Callable[..., Any]  # the table, of rows

    @pydantic.field_validator("known_after", "max_age", mode="before")
    @classmethod
    def as_duration(cls, given: Any) -> timedelta:
        return pd.Timedelta(given)


class Table(settings.Settings, frozen=True):
    """What the stores say of a table: all that it takes to look a value up, for a project that does not compute it."""

    name: str
    key: list[str]
    features: list[str]
    max_age_s: float
    made_of: str
    version: str  # hash of the values


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    conf = store.read(project)
    with files.locked(conf.home / ".lock"):
        made = make(project, conf)
        publish(project)
    if options.json:
        return print(json.dumps(made))
    versions = ", ".join(f"{name}@{version}" for name, version in made["tables"].items()) or "no tables"
    print(f"{versions}: {len(made['new'])} new or changed; {told(made)}")


def publish(project: Project) -> None:
    """Make the online store hold the tables that this project computes. Not a part of `make`: a trial run serves nobody."""
    conf = places(project)
    online, tables = Online(project, conf.online), known(conf.offline)
    for name in declarations(project):
        online.publish(tables[name], functools.partial(load, conf.offline, tables[name]))


def told(made: dict[str, Any]) -> str:
    if not made["columns"]:
        return "no column of SCHEMA in data.py is one of theirs, so no rows are made of them"
    return f"{', '.join(made['columns'])} joined to the rows of data set {DATASET}"


def make(project: Project, conf: store.Store) -> dict[str, Any]:
    """Bring the tables in files and the data set `featured` up to date; return what they are made of."""
    with files.locked(conf.home / ".tables.lock", wait_s=WAIT_S):  # whoever prepares rows may make them
        return bring_up_to_date(project, conf, places(project).offline)


def bring_up_to_date(project: Project, conf: store.Store, offline: Path) -> dict[str, Any]:
    raw = sorted(conf.raw.glob("*.parquet"))
    digest = hashlib.sha256("".join(f"{file.name} {files.sha256(file)}\n" for file in raw).encode()).hexdigest()
    code = "".join(file.read_text("utf-8") for file in sorted(project.source.glob("*.py")))
    made_of = hashlib.sha256(f"{digest} {code}".encode()).hexdigest()
    tables, new = known(offline), []
    rows: pd.DataFrame | None = None
    for name, declared in declarations(project).items():
        if name not in tables or tables[name].made_of != made_of or not file_of(offline, tables[name]).is_file():
            rows = read_rows(project, conf) if rows is None else rows
            tables[name] = write(offline, name, declared, compute(project, name, declared, rows), made_of)
            new.append(name)
    said = json.dumps({name: table.model_dump(exclude={"name"}) for name, table in sorted(tables.items())}, indent=1)
    offline.mkdir(parents=True, exist_ok=True)
    files.replaced(offline / "tables.json", said.encode())
    joined = Offline.of(project, project.data.SCHEMA)
    columns = [name for table in joined.tables for name in table.features if name in project.data.SCHEMA]
    made = {"raw": digest, "tables": {table.name: table.version for table in tables.values()}, "columns": columns}
    if columns:
        write_rows(conf.home / DATASET, raw, joined, made)
    return made | {"new": new}


def joined(project: Project, conf: store.Store) -> Path:
    """Return the folder of the gathered rows for data.read: with the tables' columns, up to date, if SCHEMA has such."""
    tables: list[Declared | Table] = [*declarations(project).values(), *known(places(project).offline).values()]
    used = any(not set(table.features).isdisjoint(project.data.SCHEMA) for table in tables)
    if not used or not any(conf.raw.glob("*.parquet")):
        return conf.raw
    return conf.home / DATASET if make(project, conf)["columns"] else conf.raw


def fill(project: Project, rows: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return ROWS with those of COLUMNS that the tables here know; ROWS where this is no project's folder."""
    there = (project.path(settings.CONF) / "features.yml").is_file()
    return Offline.of(project, columns).fill(rows) if there else rows


def fill_files(project: Project, folder: Path) -> None:
    """Join the tables' columns to the rows of each parquet file in FOLDER, as `make` does to the gathered ones."""
    offline = Offline.of(project, project.data.SCHEMA)
    for file in folder.glob("*.parquet") if offline.tables else ():
        files.replaced(file, offline.fill(pd.read_parquet(file)).to_parquet(index=False))


def places(project: Project) -> Features:
    """Return conf/features.yml, the folder of the files taken from the project's."""
    conf = settings.read(project, "features", Features)
    return conf.model_copy(update={"offline": project.path(conf.offline)})


def read_rows(project: Project, conf: store.Store) -> pd.DataFrame:
    try:
        return project.data.read(conf.raw)
    except FileNotFoundError as error:
        raise ProjectError(f"{error}") from error


def declarations(project: Project) -> dict[str, Declared]:
    """Return TABLES of tables.py; nothing when there is no such file."""
    if "tables" not in project.modules and not (project.source / "tables.py").is_file():
        return {}
    found = {}
    for name, table in project.tables.TABLES.items():
        try:
            found[name] = Declared.model_validate(table)
        except (pydantic.ValidationError, ValueError) as error:
            reason = error.errors()[0] if isinstance(error, pydantic.ValidationError) else {"msg": str(error)}
            where = ".".join(map(str, reason.get("loc", ())))
            raise ProjectError(f"tables.py: TABLES[{name!r}]: {where} {reason['msg']}") from error
    if found:
        split.need_time(project, f"tables.py: {next(iter(found))}")
    return found


def compute(project: Project, name: str, declared: Declared, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table's values: key as text, moment and features, oldest first; raises Refused when they leak."""
    made = build(name, declared, rows)
    if made.empty:
        raise ProjectError(f"tables.py: the build of {name} makes no value of {len(rows):,} rows")
    known_at = rows[split.need_time(project, "a feature table")] + declared.known_after
    for cut in made["moment"].sort_values(ignore_index=True).iloc[[int(len(made) * share) for share in CUTS]].unique():
        then = build(name, declared, rows[known_at < cut])
        both = made[made["moment"] <= cut].merge(
            then[then["moment"] <= cut], on=["key", "moment"], how="outer", suffixes=("", " then"), indicator=True
        )
        differs = both["_merge"] != "both"
        for feature in declared.features:
            differs |= ~np.isclose(both[feature], both[f"{feature} then"], rtol=1e-9, equal_nan=True)
        if differs.any():
            at = both[differs].iloc[0]
            values = [f"{feature} {at[feature]:g}, then {at[f'{feature} then']:g}" for feature in declared.features]
            raise Refused(
                f"feature table {name} knows too much: for {at['key']} at {at['moment']} it says {'; '.join(values)}. "
                f"The second is from the rows of before {cut} less known_after alone. Mend its build in tables.py"
            )
    return made


def build(name: str, declared: Declared, rows: pd.DataFrame) -> pd.DataFrame:
    made = declared.build(rows)
    if absent := [column for column in (*declared.key, "moment", *declared.features) if column not in made]:
        raise ProjectError(f"tables.py: the build of {name} returns no column {', '.join(absent)}")
    kinds = {"moment": "datetime64[us]"} | dict.fromkeys(declared.features, "float64")
    made = made.assign(key=keys(made, declared.key))[["key", *kinds]].astype(kinds).dropna(subset=["key", "moment"])
    if (twice := made.duplicated(["key", "moment"])).any():
        first = made[twice].iloc[0]
        raise ProjectError(f"tables.py: the build of {name} returns {first['key']} at {first['moment']} twice")
    return made.sort_values(["moment", "key"], ignore_index=True)


def keys(rows: pd.DataFrame, names: list[str]) -> pd.Series:
    """Return the text that a row is looked up by, None where a part of its key is missing."""
    parts: list[Any] = []
    for name in names:
        codes, values = pd.factorize(rows[name])
        parts.append(np.array([*(text(value) for value in values), None], dtype=object)[codes])
    joined = [key_of(cells) for cells in zip(*parts, strict=True)] if len(parts) > 1 else parts[0]
    return pd.Series(joined, index=rows.index, dtype="object")


def text(value: Any) -> str:
    """Return a key's value the same whether it comes from a file, a database or a request: 5 is 5.0."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return repr(float(value)) if number else str(value)


def key_of(cells: Iterable[Any]) -> str | None:
    texts = list(cells)
    return None if None in texts else "\x1f".join(texts)


def join(project: Project, rows: pd.DataFrame, table: Table, values: pd.DataFrame) -> pd.DataFrame:
    """Return the table's features for ROWS, index kept: the newest of each row's key at its time, unless too old."""
    times = rows[split.need_time(project, "a feature table")]
    moments = times if pd.api.types.is_datetime64_dtype(times) else as_kind(times, {"type": "time"})
    asked = pd.DataFrame({"key": keys(rows, table.key), "moment": moments.astype("datetime64[us]")})
    asked = asked.reset_index(drop=True).dropna().sort_values("moment").reset_index(names="at")
    oldest = pd.Timedelta(seconds=table.max_age_s)
    found = pd.merge_asof(asked, values, on="moment", by="key", tolerance=oldest).set_index("at")
    return found[table.features].reindex(range(len(rows))).set_axis(rows.index)


def known(offline: Path) -> dict[str, Table]:
    """Return the tables in the folder OFFLINE, by name."""
    file = offline / "tables.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: Table(name=name, **facts) for name, facts in said.items()}


def file_of(offline: Path, table: Table) -> Path:
    return offline / table.name / f"{table.version}.parquet"


def write(offline: Path, name: str, declared: Declared, values: pd.DataFrame, made_of: str) -> Table:
    """Keep VALUES as a version of table NAME; older versions stay."""
    folder = offline / name
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / ".new.parquet"
    values.to_parquet(part, index=False)
    version = files.sha256(part)[:12]
    files.put_in_place(part, folder / f"{version}.parquet")
    seconds = declared.max_age.total_seconds()
    facts: dict[str, Any] = {"key": declared.key, "features": declared.features, "max_age_s": seconds}
    return Table(name=name, **facts, made_of=made_of, version=version)


def load(offline: Path, table: Table) -> pd.DataFrame:
    return _load(file_of(offline, table).absolute())


@functools.lru_cache(maxsize=8)  # once a process, not once a chunk
def _load(file: Path) -> pd.DataFrame:
    return pd.read_parquet(file).astype({"key": "object"})


def write_rows(folder: Path, raw: list[Path], offline: Offline, made: dict[str, Any]) -> None:
    """Make FOLDER hold the files of RAW with the columns of the tables, and beside them what they are made of."""
    facts = json.dumps(made, indent=1)
    if (folder / "features.json").is_file() and (folder / "features.json").read_text(encoding="utf-8") == facts:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").unlink(missing_ok=True)
    for file in set(folder.glob("*.parquet")) - {folder / source.name for source in raw}:
        file.unlink()
    for source in raw:
        rows = pd.read_parquet(source)
        if absent := offline.needs - set(rows):
            raise ProjectError(f"{source} has no column {', '.join(sorted(absent))}, which tables are joined by")
        files.replaced(folder / source.name, offline.fill(rows).to_parquet(index=False))
    files.replaced(folder / "features.json", facts.encode())


@dataclass(frozen=True)
class Offline:
    """The tables that offer one of `columns`."""

    project: Project
    folder: Path
    tables: tuple[Table, ...]
    columns: frozenset[str]

    @classmethod
    def of(cls, project: Project, columns: Iterable[str]) -> Offline:
        folder = places(project).offline.absolute()
        found = [table for table in known(folder).values() if set(table.features) & set(columns)]
        return cls(project, folder, tuple(found), frozenset(columns))

    @property
    def version(self) -> str | None:
        return " ".join(f"{table.name}@{table.version}" for table in self.tables) or None

    @property
    def needs(self) -> set[str]:
        """The columns that the tables are joined by."""
        time = split.time_column(self.project)
        return {time, *(name for table in self.tables for name in table.key)} if self.tables and time else set()

    def fill(self, rows: pd.DataFrame, cells: bool = False) -> pd.DataFrame:
        """Return ROWS with those of the tables' columns that they have not; with CELLS, too, a value where one is missing."""
        for table in self.tables:
            wanted = [name for name in table.features if name in self.columns]
            wanted = [name for name in wanted if name not in rows or (cells and rows[name].isna().any())]
            if wanted and {split.time_column(self.project), *table.key} <= set(rows):
                found = join(self.project, rows, table, load(self.folder, table))[wanted]
                given = rows[[name for name in wanted if name in rows]]
                rows = rows.assign(
                    **{name: given[name].fillna(found[name]) if name in given else found[name] for name in wanted}
                )
        return rows


class Online:
    """The tables in an SQL database: one row a key and moment."""

    def __init__(self, project: Project, url: str) -> None:
        import sqlalchemy as sql

        self.sql, self.url = sql, url
        address = sql.make_url(settings.anchored(project, settings.expand(url)))
        self.file = Path(address.database or "") if address.get_backend_name() == "sqlite" else None
        self.schema = known = sql.MetaData()
        name = functools.partial(sql.Column, type_=sql.String(200), primary_key=True)
        self.tables = sql.Table("feature_tables", known, name("name"), sql.Column("facts", sql.Text))
        microseconds = sql.Column("moment", sql.BigInteger, primary_key=True, autoincrement=False)
        self.values = sql.Table(
            "feature_values", known, name("name"), name("key"), microseconds, sql.Column("features", sql.Text)
        )
        self.engine = sql.create_engine(address)

    def known(self) -> dict[str, Table]:
        if self.file and not self.file.is_file():  # asking would make it
            return {}
        with self.engine.connect() as connection:
            if not self.sql.inspect(connection).has_table(self.tables.name):
                return {}
            found = connection.execute(self.sql.select(self.tables.c.facts)).scalars().all()
        return {table.name: table for table in map(Table.model_validate_json, found)}

    def publish(self, table: Table, values: Callable[[], pd.DataFrame]) -> None:
        """Make the database hold this version of TABLE, in one transaction; a reader sees the old one or the new one."""
        if self.file:
            files.private(self.file)
        self.schema.create_all(self.engine)
        if self.known().get(table.name) == table:
            return
        rows = values()
        moments = rows["moment"].astype("datetime64[us]").astype("int64")
        cells = rows[table.features].astype("object").where(rows[table.features].notna(), None)
        facts = map(json.dumps, cells.to_dict(orient="records"))
        with self.engine.begin() as connection:
            connection.execute(self.tables.delete().where(self.tables.c.name == table.name))
            connection.execute(self.tables.insert(), {"name": table.name, "facts": table.model_dump_json()})
            connection.execute(self.values.delete().where(self.values.c.name == table.name))
            chunk = [
                {"name": table.name, "key": key, "moment": moment, "features": fact}
                for key, moment, fact in zip(rows["key"], moments.tolist(), facts, strict=True)
            ]
            for start in range(0, len(chunk), 10_000):
                connection.execute(self.values.insert(), chunk[start : start + 10_000])

    def look_up(self, table: Table, asked: Iterable[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
        """Return the features of each key at a moment (microseconds since 1970), {} where there are none."""
        select, of = self.sql.select, self.values.c
        found = {}
        with self.engine.connect() as connection:
            for key, moment in set(asked):
                oldest = moment - int(table.max_age_s * 1_000_000)
                newest_first = select(of.features).where(
                    of.name == table.name, of.key == key, of.moment.between(oldest, moment)
                )
                fact = connection.scalar(newest_first.order_by(of.moment.desc()).limit(1))
                found[key, moment] = json.loads(fact) if fact else {}
        return found
