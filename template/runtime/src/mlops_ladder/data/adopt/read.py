"""A stranger's table as it is: CSV of any dialect, parquet, Excel, JSON lines, a database; what was guessed is noted."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd

from ...core.errors import ProjectError, UsageError

MISSING = [
    "",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "nan",
    "NaT",
    "NULL",
    "null",
    "(null)",
    "\\N",
    "None",
    "-",
    "?",
]
BESIDE_NUMBERS = {
    ".",
    "..",
    "--",
    "n.a.",
    "na",
    "none",
    "nil",
    "missing",
    "unknown",
}  # in capitals, too; else a category
FAR_OUT = [-9, -99, -999, -9999, -99999, 99, 999, 9999, 99999, 999999, 999.9, 9999.9, -999.9, -9999.9]
SEPARATORS = ",;\t|"
COMMA_NUMBER = re.compile(r"[-+]?\d{1,3}(?:\.\d{3})+(?:,\d+)?$|[-+]?\d+(?:,\d+)?$")  # 1.234,5 or 1234,5
N_LINES = 200  # of a file, looked at to find its dialect


@dataclass
class Table:
    """The rows of a source, what was found out about it, and a short name for its files."""

    rows: pd.DataFrame
    name: str
    notes: list[str] = field(default_factory=list)
    markers: dict[str, list[str | float]] = field(default_factory=dict)  # what stood for a missing value, by column


def read(source: str, table: str | None, folder: Path) -> Table:
    """Return the table at SOURCE: a file, a folder of files alike, or an SQL URL with TABLE (or URL#table).

    Raises UsageError for what is not there or of no known kind, ProjectError for what cannot be read.
    """
    if "://" in source:
        return read_sql(source, table, folder)
    path = folder / source
    if not path.exists():
        raise UsageError(
            f"there is no {source}: name a file, a folder or an SQL URL such as sqlite:///orders.db#orders"
        )
    files = sorted(file for file in path.iterdir() if kind(file)) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{source} holds no table: files may end in {', '.join(READERS)}")
    if not all(kind(file) for file in files):
        raise UsageError(f"{source} ends in none of {', '.join(READERS)}")
    tables = [read_file(file) for file in files]
    first = tables[0]
    for other, file in zip(tables[1:], files[1:], strict=True):
        if differing := sorted(set(map(str, other.rows)) ^ set(map(str, first.rows))):
            raise ProjectError(
                f"{file.name} and {files[0].name} differ in column {', '.join(differing)}: make them alike"
            )
    rows = pd.concat([part.rows for part in tables], ignore_index=True) if len(tables) > 1 else first.rows
    notes = list(dict.fromkeys(note for part in tables for note in part.notes))
    notes += [f"{len(files)} files"] if len(files) > 1 else []
    return cleaned(Table(rows, path.name.partition(".")[0], notes))


def kind(file: Path) -> str | None:
    """Return by which ending of READERS the file is read, None when by none."""
    return next((ending for ending in READERS if file.name.lower().endswith(ending)), None)


def read_file(file: Path) -> Table:
    """Return the table in FILE; raises ProjectError that says in one line why it cannot be read."""
    notes: list[str] = []
    try:
        rows = READERS[kind(file) or ""](file, notes)
    except (ValueError, OSError, csv.Error, ImportError) as error:
        raise ProjectError(f"{file.name} cannot be read: {' '.join(str(error).split())}") from error
    if rows.empty:
        raise ProjectError(f"{file.name} has no rows")
    names = [" ".join(str(name).split()) for name in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ProjectError(f"{file.name}: column {twice[0]} stands twice, keep one")
    return Table(rows.set_axis(names, axis=1), file.name.partition(".")[0], notes)


def cleaned(table: Table) -> Table:
    """Return TABLE without spaces around its texts and without markers of missing values, which are noted by column."""
    rows = table.rows.copy()
    for name in rows:
        column = rows[name]
        if is_text(column):
            rows[name], found = without_words(column)
        elif pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            rows[name], found = column, []
        else:
            continue
        if pd.api.types.is_numeric_dtype(rows[name]) and not pd.api.types.is_bool_dtype(rows[name]):
            far = far_out(rows[name])
            rows[name], found = (rows[name].mask(rows[name].isin(far)) if far else rows[name]), [*found, *far]
        if found:
            table.markers[str(name)] = found
    table.rows = rows
    return table


def is_text(column: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(column) or column.dtype == "object"


def without_words(column: pd.Series) -> tuple[pd.Series, list[str | float]]:
    """Return a column of texts without words for a missing value, as numbers where nothing else is left; and the words."""
    cells = column.map(lambda cell: cell.strip() if isinstance(cell, str) else cell, na_action="ignore")
    texts = cells[cells.map(lambda cell: isinstance(cell, str)).astype(bool)]
    if not len(texts) or any(not isinstance(cell, str | int | float) for cell in cells.dropna().head(1_000)):
        return column, []
    words = pd.Index(texts.unique())
    numbers = pd.to_numeric(words.to_series(), errors="coerce")
    rest = [word for word in words[numbers.isna().to_numpy()] if word not in MISSING]
    found = [word for word in words if word in MISSING]
    loose = bool(rest) and all(word.lower() in BESIDE_NUMBERS for word in rest)
    numeric = bool(numbers.notna().any() and (not rest or loose) and not any(map(is_code, words)))
    if numeric:
        found += rest
    cells = cells.mask(cells.isin(found)) if found else cells
    return (pd.to_numeric(cells) if numeric else cells), [word for word in found if word]


def is_code(text: str) -> bool:
    """Say whether TEXT is of digits and yet no number, such as 01234."""
    return bool(re.fullmatch(r"0\d+", text))


def pointed(column: pd.Series) -> pd.Series:
    """Return a column of texts with numbers such as 1.234,5 as 1234.5, where they are such or markers only."""
    words = pd.Series(column.dropna().astype(str).str.strip().unique())
    left = words[~words.isin(MISSING) & ~words.str.lower().isin(BESIDE_NUMBERS)]
    if left.empty or not left.map(lambda word: bool(COMMA_NUMBER.match(word))).all():
        return column
    changed = {word: word.replace(".", "").replace(",", ".") for word in left}
    return column.map(lambda cell: changed.get(cell.strip(), cell), na_action="ignore")


def far_out(column: pd.Series) -> list[str | float]:
    """Return the values of FAR_OUT that stand for a missing one: in three rows or more, and far from all other values."""
    found: list[str | float] = []
    for value in FAR_OUT:
        here = column == value
        if not 3 <= here.sum():
            continue
        others = column[~here & ~column.isin(found)].dropna()
        low, high = others.min(), others.max()
        if others.nunique() >= 3 and (value > high + 2 * (high - low) or value < low - max(2 * (high - low), 1)):
            found.append(value)
    return found


def read_csv(file: Path, notes: list[str]) -> pd.DataFrame:
    """Return the rows of a text file; NOTES gets the separator, decimal mark and encoding that it turned out to have."""
    encoding = encoding_of(file)
    with opened(file, encoding) as content:
        lines = list(islice(content, N_LINES))
    separator = separator_of(lines)
    cells = [row for row in csv.reader(lines, delimiter=separator) if row]
    if not cells:
        raise ValueError("it is empty")
    header = [name.strip() for name in cells[0]]
    if any(is_number(name) for name in header if name):
        raise ValueError(
            f"its first line is {separator.join(header[:4])!r}, no header: put the names of the columns there"
        )
    if not all(header):
        header = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"column {twice[0]} stands twice in its header, keep one")
    comma = separator != "," and decimal_comma(cells[1:])
    width = max(map(len, cells))
    rows = pd.read_csv(
        file,
        sep=separator,
        encoding=encoding,
        header=0,
        names=[*header, *(f"Unnamed: {place}" for place in range(len(header), width))],
        index_col=False,
        decimal="," if comma else ".",
        thousands="." if comma else None,
        keep_default_na=False,
        na_values=[""],
        dtype={name: "str" for name in coded(header, cells[1:])},
        low_memory=False,
    )
    if comma:  # beside a marker numbers are still text
        rows = rows.apply(lambda column: pointed(column) if is_text(column) else column)
    named = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[separator]
    notes.append(f"cells separated by {named}, decimal {'comma' if comma else 'point'}, encoding {encoding}")
    for name in [name for name in rows if name.startswith("Unnamed: ")]:
        if rows[name].isna().all():
            rows = rows.drop(columns=name)
            notes.append("a separator at the end of each line")
        elif name == "Unnamed: 0" and counts_rows(rows[name]):
            rows = rows.drop(columns=name)
            notes.append("a first column that only counts the rows, left out")
    return rows


def coded(header: list[str], cells: list[list[str]]) -> list[str]:
    """Return the columns of HEADER in which one of the first lines holds a code such as 01234, which is no number."""
    return [name for at, name in enumerate(header) if any(at < len(row) and is_code(row[at].strip()) for row in cells)]


def opened(file: Path, encoding: str):  # type: ignore[no-untyped-def] # text of either kind of file
    """Return FILE opened as text, unpacked where it is packed."""
    return (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding=encoding, newline="")


def encoding_of(file: Path) -> str:
    """Return utf-8-sig where the whole file is UTF-8, else cp1252, which holds any Western text."""
    try:
        with opened(file, "utf-8-sig") as content:
            for _ in content:
                pass
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def separator_of(lines: list[str]) -> str:
    """Return the separator by which most lines have as many cells as the first one, and more than one."""

    def agreement(separator: str) -> tuple[float, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=separator) if row]
        alike = sum(width == widths[0] for width in widths) / len(widths) if widths and widths[0] > 1 else 0
        return alike, widths[0] if widths else 0

    return max(SEPARATORS, key=agreement)


def decimal_comma(cells: list[list[str]]) -> bool:
    """Say whether some column of the first lines holds numbers such as 3,5."""
    columns = zip(*(row for row in cells if len(row) == len(cells[0])), strict=True) if cells else ()
    for column in columns:
        given = [cell.strip() for cell in column if cell.strip() not in MISSING]
        if any("," in cell for cell in given) and all(COMMA_NUMBER.match(cell) for cell in given):
            return True
    return False


def is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def counts_rows(column: pd.Series) -> bool:
    """Say whether COLUMN is 0, 1, 2 ... or 1, 2, 3 ...: an index that somebody wrote with the table."""
    return pd.api.types.is_integer_dtype(column) and (column.diff().dropna() == 1).all() and column.iloc[0] in (0, 1)


def read_excel(file: Path, notes: list[str]) -> pd.DataFrame:
    """Return the first sheet of a workbook."""
    if importlib.util.find_spec("openpyxl") is None:
        raise ImportError("Excel needs openpyxl: `uv add openpyxl`")
    sheets = pd.ExcelFile(file, engine="openpyxl")
    notes.append(f"sheet {sheets.sheet_names[0]}")
    if others := sheets.sheet_names[1:]:
        notes.append(f"not read: sheet {', '.join(map(str, others))}")
    return sheets.parse(0, keep_default_na=False, na_values=[""])


def read_lines(file: Path, notes: list[str]) -> pd.DataFrame:
    """Return the objects of a file with a JSON object a line."""
    with opened(file, "utf-8-sig") as content:
        rows = []
        for number, line in enumerate(content, 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise ValueError(f"line {number} is no JSON object: {error}") from None
                if not isinstance(rows[-1], dict):
                    raise ValueError(f"line {number} is no JSON object")
    return pd.DataFrame(rows)


def read_parquet(file: Path, notes: list[str]) -> pd.DataFrame:
    return pd.read_parquet(file).reset_index(drop=True)


def read_sql(url: str, table: str | None, folder: Path) -> Table:
    """Return a table of the database at URL; sqlite:/// needs no library, any other SQLAlchemy and its driver."""
    url, _, named = url.partition("#")
    name = table or named
    if not name:
        raise UsageError(f"{urlsplit(url).scheme}: which table? Say URL#table or --table NAME")
    quoted = '"' + name.replace('"', '""') + '"'
    if url.startswith("sqlite:///"):
        file = folder / url.removeprefix("sqlite:///")
        if not file.is_file():
            raise UsageError(f"there is no database {url.removeprefix('sqlite:///')}")
        try:
            connection = sqlite3.connect(f"file:{file.as_posix()}?mode=ro", uri=True)
            try:
                rows = pd.read_sql_query(f"SELECT * FROM {quoted}", connection)  # quoted above
            finally:
                connection.close()
        except (sqlite3.Error, pd.errors.DatabaseError) as error:
            raise ProjectError(f"{file.name} cannot be read: {' '.join(str(error).split())}") from None
    else:
        if importlib.util.find_spec("sqlalchemy") is None:
            raise ProjectError("a database other than sqlite:/// needs SQLAlchemy and its driver: `uv add sqlalchemy`")
        import sqlalchemy

        try:
            rows = pd.read_sql_table(name, sqlalchemy.create_engine(url))
        except (ImportError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
            raise ProjectError(f"table {name} cannot be read: {type(error).__name__}") from None  # the URL stays unsaid
    if rows.empty:
        raise ProjectError(f"table {name} has no rows")
    return cleaned(Table(rows, name.rpartition(".")[2]))


READERS: dict[str, Callable[[Path, list[str]], pd.DataFrame]] = {
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
    ".parquet": read_parquet,
    ".xlsx": read_excel,
    ".jsonl": read_lines,
    ".ndjson": read_lines,
}
