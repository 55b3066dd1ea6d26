"""Score many rows: partitioned parquet files or an SQL table in, the same with predictions out.

python -m {package} score-batch --input data/raw --output data/scored
python -m {package} score-batch --input data/raw --output data/scored --rejects data/rejected
python -m {package} score-batch --input 'sqlite:///rows.db#flights' --output 'sqlite:///rows.db#scored'

A part is a file of the folder, or a month of the table. It is read in chunks and appears whole or not at all, marked
with the model's version and the hash of its rows: a second run scores only what is new or has changed, and one that was
killed goes on. A row that the service would answer 422 stops it with exit 3, or goes to --rejects. The workers are
those of conf/compute.yml.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa

from ..core import files, progress, settings
from ..core.errors import ProjectError, Refused, UsageError
from ..core.files import read_json, write_json
from ..core.progress import say
from ..core.project import Project
from ..data import feature_tables, sources, store
from ..data.rows import KINDS, MAX_LENGTH, as_answers, as_kind
from ..data.sources import Item, arrow_type
from ..training import compute
from .servable import resolve

CHUNK_ROWS = 100_000  # rows of a part in memory at once; more is no faster
MARK = b"scored"  # key of a part's mark in its parquet file
WAIT_S = 600  # for other workers that write to the same SQLite file


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="SRC", help="folder of .parquet files, or URL#TABLE")
    parser.add_argument("--output", required=True, metavar="DST", help="folder, or URL#TABLE; ${NAME} hides a password")
    parser.add_argument("--model", default="env:prod", help="model URI, or a file (default: %(default)s)")
    parser.add_argument("--rejects", type=Path, metavar="FOLDER", help="rows that break the contract, and why")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:

    conf, source, sink = (
        compute.read(project),
        locate(project, options.input, Months),
        locate(project, options.output, Rows),
    )
    if isinstance(source, Folder) and isinstance(sink, Folder) and sink.place.is_relative_to(source.place):
        raise UsageError(f"--output {options.output} lies in --input: its files would be scored the next time")
    servable, parts, started = resolve(project, options.model), source.parts(), time.perf_counter()
    offline = feature_tables.Offline.of(project, servable.contract.columns)
    note, rejects = servable.note, options.rejects and options.rejects.absolute()
    whole = note["columns"], note["output"], servable.version, note["sha256"]
    job = Job(project, servable.fitted, *whole, rejects, offline, tuple(servable.classes))
    with sink.opened(job.schema(source.schema(parts))):
        marks = {part: mark for part in parts if (mark := job.settled(part, source, sink))}
        stale = [part for part in parts if part not in marks]
        say(f"{len(parts):,} parts, {len(marks):,} up to date with version {job.version} of {options.model}")
        with progress.Steps("score-batch", len(stale)) as steps:
            for n_done, (part, mark) in enumerate(computed(conf, job, stale, source, sink), 1):
                marks[part] = mark
                say(f"{len(marks):,} of {len(parts):,}: {part}, {mark['rows']:,} rows")
                steps.done(n_done)
        sink.close(marks)
    total = {key: sum(mark[key] for mark in marks.values()) for key in ("rows", "rejected")}
    total |= {"parts": len(parts), "scored": len(stale)}
    if options.json:
        return print(json.dumps({**total, "version": job.version, "seconds": time.perf_counter() - started}))
    rejected = f", {total['rejected']:,} rows rejected to {options.rejects}" if total["rejected"] else ""
    print(
        f"{total['rows']:,} rows with predictions of version {job.version} are in {options.output}{rejected}; "
        f"{len(stale):,} of {len(parts):,} parts were new or changed, {time.perf_counter() - started:.1f} s"
    )


def locate(project: Project, place: str, table: type[Database]) -> Any:
    """Return what PLACE names: a folder, or, written URL#TABLE, a table to read or to write."""
    return table(project, place) if "://" in place else Folder(project.path(place))


def computed(conf: compute.Compute, job: Job, parts: list[str], source: Any, sink: Any) -> Iterator[Any]:
    """Yield name and mark of each of PARTS as it is scored, by the workers of conf/compute.yml."""
    import joblib

    if len(parts) < 2 or (conf.backend == "local" and conf.workers == 1):  # starting workers would take longer
        yield from (job.do(part, source, sink) for part in parts)
        return
    with compute.workers(conf) as where:
        say(f"scoring {len(parts):,} parts on {where}")
        how = "list" if conf.backend == "ray" else "generator_unordered"
        yield from joblib.Parallel(return_as=how)(joblib.delayed(job.do)(part, source, sink) for part in parts)


@dataclass(frozen=True)
class Job:
    """What a worker needs to score a part."""

    project: Project

    fitted: Any
    columns: dict[str, dict[str, Any]]
    output: str
    version: str
    sha256: str
    rejects: Path | None
    offline: feature_tables.Offline
    classes: tuple[Any, ...] = ()

    def answers(self, predicted: np.ndarray) -> pa.Table:
        """Return the columns that are added to the rows of PREDICTED, but for the version."""
        note = {"output": self.output, "classes": list(self.classes)}
        return pa.Table.from_pandas(as_answers(note, predicted), preserve_index=False).replace_schema_metadata()

    def schema(self, given: pa.Schema) -> pa.Schema:
        """Return the columns of a scored part: those GIVEN, then prediction and version."""
        added = self.answers(np.zeros((1, len(self.classes)) if self.classes else 1)).schema
        if taken := {*added.names, "model_version"} & set(given.names):
            raise ProjectError(f"the input has a column {taken.pop()} already, as the result would: leave it out")
        return pa.schema([*given, *added, pa.field("model_version", pa.string())], given.metadata)

    def stamp(self, file: Path) -> dict[str, Any]:
        """Return what decides the predictions for FILE: as long as it is the same, they are."""
        ours = {"version": self.version, "model": self.sha256, "features": self.offline.version}
        return {**ours, "input": files.sha256(file)}

    def settled(self, part: str, source: Any, sink: Any) -> dict[str, Any] | None:
        """Return the mark of PART when it is up to date."""
        known = sink.mark(part)
        kept = self.rejects and (self.rejects / part).is_file()
        if not known or known["version"] != self.version or (known["rejected"] and not kept):
            return None
        with tempfile.TemporaryDirectory() as scratch:
            stamp = self.stamp(source.fetch(part, Path(scratch)))
        return known if stamp.items() <= known.items() else None

    def do(self, part: str, source: Any, sink: Any) -> tuple[str, dict[str, Any]]:
        """Score PART; return its name and its mark."""
        with tempfile.TemporaryDirectory() as scratch:
            file = source.fetch(part, Path(scratch))
            # the stack closes the files before the sink takes them
            with sink.writing(part) as target, contextlib.ExitStack() as stack:
                return part, self.score(part, file, target, stack)

    def score(self, part: str, file: Path, target: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
        """Write the rows of FILE with their predictions to TARGET; return the mark that it carries."""
        from pyarrow import parquet as pq

        rows, n_rejected, rejects = pq.ParquetFile(file), 0, None
        out = stack.enter_context(pq.ParquetWriter(target, self.schema(rows.schema_arrow), compression="zstd"))
        for number, batch in enumerate(rows.iter_batches(CHUNK_ROWS)):
            given = pa.Table.from_batches([batch])
            ready, problems = check_table(self.table(part, given), self.columns)
            if (wrong := problems != "").any():
                at = int(wrong.argmax())
                if not self.rejects:
                    raise Refused(
                        f"{part}, row {number * CHUNK_ROWS + at}: {problems[at]}; mend the row, "
                        "or give --rejects FOLDER for such rows"
                    )
                rejected = given.filter(wrong).append_column("problem", pa.array(problems[wrong]))
                if rejects is None:
                    (self.rejects / part).parent.mkdir(parents=True, exist_ok=True)
                    whole = stack.enter_context(files.whole(self.rejects / part))
                    rejects = stack.enter_context(pq.ParquetWriter(whole, rejected.schema))
                rejects.write_table(rejected)
                n_rejected += int(wrong.sum())
                given, ready = given.filter(~wrong), ready[~wrong]
            if given.num_rows:
                predicted = np.asarray(
                    self.project.model.predict(self.fitted, self.project.features.build(ready)), dtype="float64"
                )
                if not (finite := np.isfinite(predicted)).all():
                    row = ready.iloc[int(finite.argmin())].to_dict()
                    raise Refused(f"{part}: version {self.version} has no finite prediction for {row}")
                version = pa.repeat(pa.scalar(self.version), given.num_rows)
                columns = [*given.columns, *self.answers(predicted).columns, version]
                out.write_table(pa.Table.from_arrays(columns, schema=out.schema))
        if self.rejects and not n_rejected:
            (self.rejects / part).unlink(missing_ok=True)
        mark = {**self.stamp(file), "rows": rows.metadata.num_rows - n_rejected, "rejected": n_rejected}
        out.add_key_value_metadata({MARK: json.dumps(mark).encode()})
        return mark

    def table(self, part: str, given: pa.Table) -> pd.DataFrame:
        """Return the model's columns of GIVEN, those that only the path (carrier=UA/) or a feature table has included."""
        in_path = dict(level.split("=", 1) for level in Path(part).parts[:-1] if "=" in level)
        wanted = {*self.columns, *self.offline.needs}
        rows = given.select([name for name in given.column_names if name in wanted]).to_pandas()
        for name in wanted & set(in_path) - set(rows):
            rows[name] = None if in_path[name] == "__HIVE_DEFAULT_PARTITION__" else unquote(in_path[name])
        return self.offline.fill(rows)


def check_table(table: pd.DataFrame, columns: dict[str, dict[str, Any]]) -> tuple[pd.DataFrame, np.ndarray]:
    """Return TABLE's `columns` as `as_rows` does and, a row, what of it the service would answer 422: "" when nothing."""
    if absent := [name for name in columns if name not in table]:
        raise Refused(f"column {', '.join(absent)} is missing: there are {', '.join(map(str, table))}")
    rows, problems = pd.DataFrame(index=table.index), np.full(len(table), "", dtype=object)
    for name, rule in columns.items():
        given = table[name]
        rows[name] = kind = as_kind_quickly(given, rule)
        none = kind.isna()
        wrong, needed = none & given.notna(), KINDS[rule["type"]]
        if not rule.get("null"):
            wrong |= none
        if bounds := [key for key in ("min", "max") if key in rule]:
            wrong |= (kind < rule.get("min", -np.inf)) | (kind > rule.get("max", np.inf))
            needed += "".join(f", {key} {rule[key]:,}" for key in bounds)
        if "values" in rule:
            wrong |= ~none & ~kind.isin(rule["values"])
            needed = f"one of {', '.join(map(str, rule['values']))}"
        elif rule["type"] in ("text", "category"):
            most = rule.get("max_length", MAX_LENGTH)
            wrong |= kind.str.len().gt(most)
            needed += f", {most:,} characters at most"
        for at in np.flatnonzero(wrong):
            [value] = given.iloc[at : at + 1].tolist()  # 10.5, not np.float64(10.5)
            shown = "missing" if pd.isna(value) else f"{value!r:.60}"
            problems[at] += f"{'; ' if problems[at] else ''}{name} is {shown}, must be {needed}"
    return rows, problems


def as_kind_quickly(given: pd.Series, rule: dict[str, Any]) -> pd.Series:
    """Return what `as_kind` does, without a look at each cell where the column's type tells all there is to know."""
    if rule["type"] == "time" and pd.api.types.is_datetime64_dtype(given):
        return given.astype("datetime64[us]")
    if rule["type"] in ("text", "category") and isinstance(given.dtype, pd.StringDtype):
        return given.astype("object").where(given.notna(), None)
    return as_kind(given, rule)


class Folder:
    """Parquet files, in as many folders as there are: each is a part, called by its path. To read or to write."""

    def __init__(self, place: Path) -> None:
        self.place = place.absolute()

    def parts(self) -> list[str]:
        files = [file.relative_to(self.place) for file in self.place.rglob("*.parquet")]
        parts = sorted(file.as_posix() for file in files if not any(name[0] in "._" for name in file.parts))
        if not parts:
            raise ProjectError(f"no .parquet file in {self.place}: --input names a folder of them, or URL#TABLE")
        return parts

    def schema(self, parts: list[str]) -> pa.Schema:
        from pyarrow import parquet as pq

        return pq.read_schema(self.place / parts[0])

    def fetch(self, part: str, scratch: Path) -> Path:
        """Return a parquet file that holds PART, in SCRATCH if it has to be made."""
        return self.place / part

    @contextlib.contextmanager
    def opened(self, schema: pa.Schema) -> Iterator[None]:
        with files.locked(self.place / ".lock"):
            yield

    def mark(self, part: str) -> dict[str, Any] | None:
        """Return the mark of PART as it was scored last, None when there is none."""
        from pyarrow import parquet as pq

        try:
            return json.loads((pq.read_metadata(self.place / part).metadata or {})[MARK])
        except (OSError, pa.ArrowException, LookupError, ValueError):  # not there, damaged or not ours
            return None

    @contextlib.contextmanager
    def writing(self, part: str) -> Iterator[Path]:
        """Give a file to write PART to; it is taken over whole, with its mark, when the block ends well."""
        file = self.place / part
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(file) as target:
            yield target

    def close(self, marks: dict[str, dict[str, Any]]) -> None:
        """Write what each part was made of, also of those that an earlier run scored, to _manifest.json."""
        file = self.place / "_manifest.json"
        write_json(file, (read_json(file) if file.is_file() else {}) | dict(sorted(marks.items())))


class Database:
    """A table, written URL#TABLE. Opened anew in each worker."""

    def __init__(self, project: Project, place: str) -> None:
        self.project, self.place = project, place
        self.url, _, self.name = place.rpartition("#")
        if not self.url or not self.name:
            raise UsageError(f"{place} names no table: write URL#TABLE")

    @contextlib.contextmanager
    def engine(self) -> Iterator[Any]:
        import sqlalchemy as sql

        try:
            url = sql.make_url(settings.anchored(self.project, settings.expand(self.url)))
            wait = {"timeout": WAIT_S} if url.get_backend_name() == "sqlite" else {}
            yield sql.create_engine(url, poolclass=sql.NullPool, connect_args=wait)
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
            raise ProjectError(settings.hide(f"{self.place}: {reason}", self.url)) from None


class Months(Database):
    """A table to read: each month of data.TIME is a part, as it is for `ingest`."""

    def table(self) -> Any:

        kind, _, file = self.url.partition(":///")
        if kind.startswith("sqlite") and not self.project.path(file).is_file():
            raise ProjectError(f"there is no database {self.url}")
        return sources.Table(self.project, store.Source(url=self.url, table=self.name), settings.expand(self.url))

    def parts(self) -> list[str]:
        if parts := sorted(item.name for item in self.table().items()):
            return parts
        raise ProjectError(f"{self.place} has no rows")

    def schema(self, parts: list[str]) -> pa.Schema:

        return pa.schema([(column.name, arrow_type(column)) for column in self.table().table.c])

    def fetch(self, part: str, scratch: Path) -> Path:

        file = scratch / part
        self.table().fetch(Item(part, self.place, file.stem[-7:]), file, lambda _: None)
        return file


class Rows(Database):
    """A table to write: one transaction a part, which also sets the part's mark in TABLE_parts."""

    @contextlib.contextmanager
    def opened(self, schema: pa.Schema) -> Iterator[None]:
        import sqlalchemy as sql

        kinds = [(pa.types.is_boolean, sql.Boolean), (pa.types.is_integer, sql.BigInteger)]
        kinds += [(pa.types.is_floating, sql.Double), (pa.types.is_timestamp, sql.DateTime)]
        known = sql.MetaData()
        columns = [(field.name, next((sqls for is_a, sqls in kinds if is_a(field.type)), sql.Text)) for field in schema]
        with self.engine() as engine:
            typed = [sql.Column(name, kind) for name, kind in columns]
            sql.Table(self.name, known, sql.Column("part", sql.String(500), index=True), *typed)
            key, mark = sql.Column("part", sql.String(500), primary_key=True), sql.Column("mark", sql.Text)
            sql.Table(f"{self.name}_parts", known, key, mark)
            known.create_all(engine)
        yield

    def mark(self, part: str) -> dict[str, Any] | None:
        import sqlalchemy as sql

        marks = sql.table(f"{self.name}_parts", sql.column("part"), sql.column("mark"))
        with self.engine() as engine, engine.connect() as connection:
            known = connection.scalar(sql.select(marks.c.mark).where(marks.c.part == part))
        return json.loads(known) if known else None

    @contextlib.contextmanager
    def writing(self, part: str) -> Iterator[Path]:
        import sqlalchemy as sql
        from pyarrow import parquet as pq

        with tempfile.TemporaryDirectory() as scratch, self.engine() as engine:
            yield (target := Path(scratch) / "scored.parquet")
            scored, known = pq.ParquetFile(target), sql.MetaData()
            marks = sql.Table(f"{self.name}_parts", known, autoload_with=engine)
            rows = sql.Table(self.name, known, autoload_with=engine)
            with engine.begin() as connection:  # the mark first: of two runs at once the second then fails, or waits
                connection.execute(marks.delete().where(marks.c.part == part))
                connection.execute(marks.insert(), {"part": part, "mark": scored.metadata.metadata[MARK].decode()})
                connection.execute(rows.delete().where(rows.c.part == part))
                for batch in scored.iter_batches(10_000):
                    connection.execute(rows.insert(), [{"part": part, **row} for row in batch.to_pylist()])

    def close(self, marks: dict[str, dict[str, Any]]) -> None:
        """The marks are in the table already."""
