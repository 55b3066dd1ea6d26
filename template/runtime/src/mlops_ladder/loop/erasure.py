"""Rows taken out of files of any kind that a project writes, and the files that still hold a text."""

from __future__ import annotations

import contextlib
import csv
import html
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..core import files
from ..data.feature_tables import text

PARQUET, SQLITE = b"PAR1", b"SQLite format 3\0"  # how these files begin, whatever they are called
SHORTEST, NUMBER = (
    4,
    8,
)  # characters of a text, or number, looked for in files without columns: shorter ones stand anywhere
CHUNK, OVERLAP = 1 << 24, 1 << 12  # bytes read at a time, and those read twice so that no text is cut in two
WORD = re.compile(rb"[\w-]+(?:\.[\w-]+)*")
COMPRESSIONS = {"uncompressed": "none", "lz4_raw": "lz4"}  # as a writer calls what a file calls otherwise
PART = "\x1f"  # between the parts of a feature table's key
WAIT_S = 30  # for another process that writes to the same database


@dataclass(frozen=True)
class Subject:
    """Whose rows they are: the texts that tell, by the column that holds them."""

    columns: Mapping[str, frozenset[str]]

    def is_theirs(self, column: str, cell: Any) -> bool:
        known = self.columns.get(column)
        if not known or cell is None:
            return False
        return text(cell) in known or not known.isdisjoint(str(cell).split(PART))

    def has_row(self, record: Any) -> bool:
        """Return whether RECORD, read from JSON, is a row of theirs, or holds one."""
        if isinstance(record, list):
            return any(map(self.has_row, record))
        if not isinstance(record, dict):
            return False
        return any(self.is_theirs(name, cell) or self.has_row(cell) for name, cell in record.items())

    @cached_property
    def needles(self) -> tuple[frozenset[bytes], tuple[bytes, ...]]:
        """Return the texts as bytes: those that are one word of a file, and the others."""
        texts = {one for known in self.columns.values() for one in known}
        texts |= {one.removesuffix(".0") for one in texts}
        spelled = {
            form.encode() for one in filter(telling, texts) for form in (one, html.escape(one), json.dumps(one)[1:-1])
        }
        words = frozenset(one for one in spelled if WORD.fullmatch(one))
        return words, tuple(sorted(spelled - words))


def telling(word: str) -> bool:
    """Return whether WORD tells somebody from others wherever it stands."""
    return len(word) >= (NUMBER if word.replace(".", "").isdigit() else SHORTEST)


def holds(file: Path, subject: Subject) -> bool:
    """Return whether one of the texts of SUBJECT stands in the bytes of FILE as a word of its own."""
    words, phrases = subject.needles
    if not words and not phrases:
        return False
    before = b""
    with file.open("rb") as content:
        while part := content.read(CHUNK):
            part = before + part
            if not words.isdisjoint(WORD.findall(part)) or any(one in part for one in phrases):
                return True
            before = part[-OVERLAP:]
    return False


def take_out(file: Path, subject: Subject) -> int:
    """Take the rows of SUBJECT out of FILE and return how many; its time stays, as its other rows are no newer."""
    if begins(file, SQLITE):
        return take_from_database(file, subject)
    before, part = file.stat(), file.with_name(f".{file.name}.part")
    try:
        if n_rows := write_rest(file, subject, part):
            part.chmod(before.st_mode & 0o777 | 0o200)
            os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
            files.put_in_place(part, file)
    finally:
        part.unlink(missing_ok=True)
    return n_rows


def write_rest(file: Path, subject: Subject, target: Path, suffix: str = "") -> int:
    """Write FILE without the rows of SUBJECT to TARGET and return how many these are; without any, TARGET is not made.

    SUFFIX: that of its name, where it is kept under another.
    """
    if begins(file, PARQUET):
        return rest_of_parquet(file, subject, target)
    if begins(file, SQLITE):
        return rest_of_database(file, subject, target)
    if (suffix or file.suffix) == ".csv":
        return rest_of_csv(file, subject, target)
    if (suffix or file.suffix) in (".jsonl", ".ndjson"):
        return rest_of_lines(file, subject, target)
    return 0


def begins(file: Path, with_bytes: bytes) -> bool:
    with file.open("rb") as content:
        return content.read(len(with_bytes)) == with_bytes


def rest_of_parquet(file: Path, subject: Subject, target: Path) -> int:
    from pyarrow import parquet as pq

    try:
        whole = pq.ParquetFile(file)
    except (pa.ArrowException, OSError):  # half a file of a run that was killed
        return 0
    with whole:
        names = [name for name in whole.schema_arrow.names if name in subject.columns]
        groups = range(whole.num_row_groups)
        theirs = [rows_of(whole.read_row_group(number, names), subject) for number in groups] if names else []
        if not (n_rows := int(sum(mask.sum() for mask in theirs))):
            return 0
        compression = whole.metadata.row_group(0).column(0).compression.lower()
        with pq.ParquetWriter(
            target, whole.schema_arrow, compression=COMPRESSIONS.get(compression, compression)
        ) as out:
            for number, mask in zip(groups, theirs, strict=True):
                out.write_table(whole.read_row_group(number).filter(pa.array(~mask)))
    return n_rows


def rows_of(table: pa.Table, subject: Subject) -> np.ndarray:
    """Return which rows of TABLE are of SUBJECT, shape (n_rows,)."""
    mask = np.zeros(len(table), dtype=bool)
    for name in table.column_names:
        codes, values = pd.factorize(table[name].to_pandas())
        theirs = np.array([*(subject.is_theirs(name, cell) for cell in values), False], dtype=bool)
        mask |= theirs[codes]
    return mask


def values(file: Path, column: str, subject: Subject) -> set[str]:
    """Return what COLUMN of a parquet FILE holds in the rows of SUBJECT; nothing of any other file."""
    from pyarrow import parquet as pq

    found = set[str]()
    if not begins(file, PARQUET):
        return found
    with contextlib.suppress(pa.ArrowException, OSError), pq.ParquetFile(file) as whole:
        names = {name for name in whole.schema_arrow.names if name in subject.columns}
        if names and column in whole.schema_arrow.names:
            for number in range(whole.num_row_groups):
                table = whole.read_row_group(number, sorted({column, *names}))
                theirs = table[column].to_pandas()[rows_of(table, subject)]
                found |= {text(cell) for cell in theirs.dropna().unique()}
    return found


def rest_of_csv(file: Path, subject: Subject, target: Path) -> int:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as given:
        first = given.readline()
        for delimiter in (",", ";", "\t"):
            header = next(csv.reader([first.removeprefix("\ufeff")], delimiter=delimiter), [])
            if named := [(place, name) for place, name in enumerate(header) if name in subject.columns]:
                break
        else:
            return 0
        end = "\r\n" if first.endswith("\r\n") else "\n"
        kept, n_rows = [], 0
        for cells in csv.reader(given, delimiter=delimiter):
            theirs = any(place < len(cells) and cell_is_theirs(subject, name, cells[place]) for place, name in named)
            n_rows += theirs
            if not theirs:
                kept.append(cells)
    if n_rows:
        with target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            out.write(first)
            csv.writer(out, delimiter=delimiter, lineterminator=end).writerows(kept)
    return n_rows


def cell_is_theirs(subject: Subject, name: str, cell: Any) -> bool:
    """Return whether CELL, which may be a number as text, is of SUBJECT: 5 is 5.0 there."""
    if subject.is_theirs(name, cell):
        return True
    with contextlib.suppress(ValueError, TypeError):
        return subject.is_theirs(name, float(cell))
    return False


def rest_of_lines(file: Path, subject: Subject, target: Path) -> int:
    lines = file.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not line_is_theirs(subject, line)]
    if len(kept) < len(lines):
        target.write_bytes(b"".join(kept))
    return len(lines) - len(kept)


def line_is_theirs(subject: Subject, line: bytes) -> bool:
    with contextlib.suppress(ValueError):
        return subject.has_row(json.loads(line))
    return False


def rest_of_database(file: Path, subject: Subject, target: Path) -> int:
    shutil.copyfile(file, target)
    n_rows = take_from_database(target, subject)
    if not n_rows:
        target.unlink()
    return n_rows


def take_from_database(file: Path, subject: Subject) -> int:
    """Delete the rows of SUBJECT from the tables of an SQLite file, their bytes too; return how many.

    A store of MLflow or Optuna, which alembic keeps in order, has no rows of a data set and is left alone.
    """
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=WAIT_S, isolation_level=None)) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            if "alembic_version" in names:
                return 0
            return sum(delete_rows(database, name, subject) for name in names if not name.startswith("sqlite_"))
    except sqlite3.DatabaseError:  # it only begins like one, or somebody holds it: what it holds is looked for later
        return 0


def delete_rows(database: sqlite3.Connection, table: str, subject: Subject) -> int:
    named = [column[1] for column in database.execute(f"PRAGMA table_info({quoted(table)})")]
    database.execute("PRAGMA secure_delete = ON")
    n_rows = 0
    for name in named:
        if name not in subject.columns:
            continue
        cells = (cell for (cell,) in database.execute(f"SELECT DISTINCT {quoted(name)} FROM {quoted(table)}"))
        theirs = [(cell,) for cell in cells if cell_is_theirs(subject, name, cell)]
        if theirs:
            done = database.executemany(f"DELETE FROM {quoted(table)} WHERE {quoted(name)} = ?", theirs)
            n_rows += done.rowcount
    if n_rows:
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return n_rows


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def walk(folders: Iterable[Path], skipped: Callable[[Path], bool]) -> Iterable[Path]:
    """Yield each file below FOLDERS once, links not followed; a folder that is SKIPPED is not entered."""
    seen = set[Path]()
    for top in folders:
        for place, inner, names in os.walk(top):
            inner[:] = sorted(name for name in inner if not skipped(Path(place, name)))
            for file in sorted(Path(place, name) for name in names):
                if file.is_file() and not file.is_symlink() and (real := file.resolve()) not in seen:
                    seen.add(real)
                    yield file
