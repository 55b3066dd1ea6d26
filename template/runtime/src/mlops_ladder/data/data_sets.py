"""The rows of a data set, whichever made it, and what is compared between two versions of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import levels
from ..core.files import read_json
from ..core.project import Project
from . import split, store

ROWS = "rows"  # folder in a data set that a module here makes: rows as data.read returns them, which made it of no file
MADE_OF = "made_of.json"  # beside it: the gathered files, and how many rows of the prediction log


def read(project: Project, folder: Path, source: Any = None) -> pd.DataFrame:
    """Return the rows of a data set's FOLDER: what stands in ROWS where it was made so, else what data.read makes of it.

    SOURCE is the data.py that does, where it is not this project's of now.
    """

    made = sorted((folder / ROWS).glob("*.parquet"))
    if made:
        return pd.concat([pd.read_parquet(file) for file in made], ignore_index=True)
    return (source or project.data).read(folder)


def of_callers(folder: Path) -> bool:
    """Whether rows of the prediction log are in the data set in FOLDER: callers may ask about the same twice."""
    file = folder / MADE_OF
    return file.is_file() and bool(read_json(file).get("log", {}).get("rows"))


def profile(project: Project, rows: pd.DataFrame) -> dict[str, Any]:
    """Return what is compared between versions: rows, period and, a column, type, missing share and range."""

    columns: dict[str, dict[str, Any]] = {}
    for name in rows.columns:
        column = rows[name]
        ordered = pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column)
        span = [column.min(), column.max()] if ordered else [column.nunique()]
        plain = [str(value) if isinstance(value, pd.Timestamp) else float(value) for value in span]
        facts = dict(zip(("min", "max") if ordered else ("distinct",), plain, strict=True))
        columns[str(name)] = {"type": str(column.dtype), "missing": round(float(column.isna().mean()), 6), **facts}
    return {"rows": len(rows), "from": "", "to": "", **split.span(project, rows), "columns": columns}


def maker(project: Project, name: str) -> Callable[[Project, store.Store], Any] | None:
    """Return what makes the data set NAME of the gathered rows, None where `ingest` alone does."""
    module = levels.registered(project, "data_sets").get(name)
    return levels.load(module).make if module else None
