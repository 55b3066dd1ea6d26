"""Score a CSV or parquet file of rows with the handed-over model file.

python -m {package} score data/raw/flights-2013-12.parquet                             # look at the first ten
python -m {package} score data/raw/flights-2013-12.parquet --output data/scored.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from ..core.errors import ProjectError, UsageError
from ..core.nearest import check_file
from ..core.project import Project
from ..core.redaction import plain
from ..data.joined import as_rows
from ..data.problem import problem_of
from ..data.rows import as_answers, read_note
from ..training.handoff import MODEL_FILE

N_SHOWN = 10  # rows that a screen has room for


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="rows to score, .csv or .parquet")
    parser.add_argument("--model", type=Path, default=MODEL_FILE, help="model file (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="write all rows with their prediction here: .csv, .parquet, or - for CSV on stdout"
    )


def check(project: Project, options: argparse.Namespace) -> None:
    if options.output and options.output.name != "-":
        ending(options.output)
    check_file(options.file)
    ending(options.file)
    check_handed_over(options.model)


def run(project: Project, options: argparse.Namespace) -> None:
    problem_of(project)
    fitted, note = load(project, options.model), read_note(options.model)
    scored = score(project, read_table(options.file, note["columns"]), fitted, note)
    shown = scored if options.output else scored.head(N_SHOWN)
    if options.output is None or options.output.name == "-":
        shown.to_csv(plain(sys.stdout), index=False, lineterminator="\n")
    elif ending(options.output) == ".parquet":
        scored.to_parquet(options.output, index=False)
    else:
        scored.to_csv(options.output, index=False)
    rest = f"; these are the first {N_SHOWN}, --output FILE writes all" if len(shown) < len(scored) else ""
    print(f"scored {len(scored):,} rows with {options.model}{rest}", file=sys.stderr)


def score(project: Project, table: pd.DataFrame, fitted: Any, note: dict[str, Any]) -> pd.DataFrame:
    """Return TABLE with the prediction, named as the hand-off note says, and of several classes a probability each."""
    rows = as_rows(project, table, note["columns"])
    answers = as_answers(note, project.model.predict(fitted, project.features.build(rows)))
    return table.assign(**{name: column.to_numpy() for name, column in answers.items()})


def check_handed_over(file: Path) -> None:
    """Raise ProjectError when there is no model FILE or no note beside it that can be read."""
    check_file(file, "model file", "run the notebook to its end, or name one with --model")
    read_note(file)


def load(project: Project, file: Path) -> Any:
    """Return the model in FILE; raises ProjectError when it is absent, damaged or holds types you do not trust."""
    check_file(file, "model file", "run the notebook to its end, or name one with --model")
    try:
        fitted = project.model.load(file)
    except Exception as error:
        raise ProjectError(f"{file} cannot be loaded: {str(error).rstrip('.')}; hand it over again") from error
    if not hasattr(fitted, "fit"):  # what is done with it is up to `predict` of model.py
        raise ProjectError(f"{file} holds a {type(fitted).__name__}, which is no model; hand it over again")
    return fitted


def read_table(file: Path, columns: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of a .csv or .parquet file, shape (n_rows, n_columns), one row or more."""
    table = read_file(file, columns)
    if table.empty:
        raise ProjectError(f"{file} has no rows")
    return table


def read_file(file: Path, columns: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of a .csv or .parquet file: the one reader of tables that people hand over.

    In a CSV file only an empty cell is missing; in those of COLUMNS that are text, 007 or NA stays as it is.
    """
    try:
        if ending(file) == ".parquet":
            return pd.read_parquet(file)
        names, width = check_lines(file)
        texts = [name for name, rule in columns.items() if rule["type"] in ("text", "category")]
        texts = [name for name in texts if all(isinstance(value, str) for value in columns[name].get("values", []))]
        return pd.read_csv(
            file,
            header=0,
            names=[*names, *range(len(names), width)],
            usecols=names,
            index_col=False,  # else a comma at the end of each line shifts all columns by one
            dtype=dict.fromkeys(texts, "str"),
            keep_default_na=False,
            na_values=[""],
            low_memory=False,
        )
    except (ValueError, OSError, csv.Error) as error:
        raise ProjectError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def check_lines(file: Path) -> tuple[list[str], int]:
    """Return the names in a CSV file's header and the most cells in a line; raises ValueError when cells do not fit names.

    Empty cells after the last name are none: some programs end each line with a comma.
    """
    with file.open(encoding="utf-8-sig", newline="") as content:
        lines = csv.reader(content)
        header = next(filter(None, lines), [])
        names = list(header)
        while names and not names[-1]:
            names.pop()
        if not names:
            raise ValueError("it has no header")
        if len(names) == 1 and (other := [mark for mark in ";\t|" if mark in names[0]]):
            raise ValueError(f"its cells are separated by {other[0]!r}, must be by commas")
        if twice := [name for name in names if name and names.count(name) > 1]:
            raise ValueError(f"column {twice[0]} stands twice in its header, keep one")
        n, width = len(names), len(header)
        for cells in filter(None, lines):
            if len(cells) < n or any(cells[n:]):
                raise ValueError(f"line {lines.line_num} has {len(cells)} cells, the header {n}: mend the line")
            if cells[:n] == names:
                raise ValueError(f"line {lines.line_num} is the header again: take it out")
            width = max(width, len(cells))
    return [name or f"Unnamed: {at}" for at, name in enumerate(names)], width


def ending(file: Path) -> str:
    """Return .csv or .parquet; raises UsageError for any other ending of the file's name."""
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"{file} ends neither in .csv nor in .parquet")
    return file.suffix.lower()
