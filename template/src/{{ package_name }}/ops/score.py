"""Score a CSV or parquet file of rows with the handed-over model file.

python -m {package} score data/raw/flights-2013-12.parquet --output scored.csv
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from .. import features, model
from . import ProjectError, UsageError
from .handoff import MODEL_FILE, as_rows, read_note


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="rows to score, .csv or .parquet")
    parser.add_argument("--model", type=Path, default=MODEL_FILE, help="model file (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the rows with their prediction here, .csv or .parquet")


def run(options: argparse.Namespace) -> None:
    scored = score(read_table(options.file), load(options.model), read_note(options.model))
    if options.output is None:
        scored.to_csv(sys.stdout, index=False)
    elif options.output.suffix == ".parquet":
        scored.to_parquet(options.output, index=False)
    else:
        scored.to_csv(options.output, index=False)
    print(f"scored {len(scored):,} rows with {options.model}", file=sys.stderr)


def score(table: pd.DataFrame, fitted: Any, note: dict[str, Any]) -> pd.DataFrame:
    """Return TABLE with one more column, the prediction, named as the hand-off note says."""
    rows = as_rows(table, note["columns"])
    return table.assign(**{note["output"]: model.predict(fitted, features.build(rows))})


def load(file: Path) -> Any:
    """Return the model in FILE; raises ProjectError when it is absent, damaged or holds types you do not trust."""
    if not file.is_file():
        raise ProjectError(f"no model file {file}: run the notebook to its end, or name one with --model")
    try:
        return model.load(file)
    except Exception as error:
        raise ProjectError(f"{file} cannot be loaded: {error}; hand it over again") from error


def read_table(file: Path) -> pd.DataFrame:
    """Return the rows of a .csv or .parquet file, shape (n_rows, n_columns), one row or more."""
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if file.suffix not in readers:
        raise UsageError(f"{file} is neither .csv nor .parquet")
    try:
        table = readers[file.suffix](file)
    except (ValueError, OSError) as error:
        raise ProjectError(f"{file} cannot be read: {error}") from error
    if table.empty:
        raise ProjectError(f"{file} has no rows")
    return table
