"""The rows that go into the project: few enough for git, the same ones each time, a file a month or in three."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from .profile import Plan

N_ROWS = 20_000  # of the sample: some hundred kB; a table with fewer goes in whole
N_FILES = 3  # of rows without a time: the project's tests take the first three


def pick(rows: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return at most N_ROWS of ROWS, oldest first, or without a time in the order of their hash."""
    digest = pd.util.hash_pandas_object(rows, index=False)
    ordered = rows.assign(_digest=digest, _place=range(len(rows))).sort_values(["_digest", "_place"])
    chosen = ordered.head(N_ROWS)
    if plan.time:
        chosen = chosen.sort_values([plan.time, "_digest", "_place"])
    return chosen.drop(columns=["_digest", "_place"]).reset_index(drop=True)


def write(rows: pd.DataFrame, plan: Plan, folder: Path) -> list[Path]:
    """Write ROWS as parquet files to FOLDER, one a month where there is a time, else N_FILES; return them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, part in parts(rows, plan).items():
        files.append(folder / f"{plan.name}-{name}.parquet")
        part.to_parquet(files[-1], index=False, compression="zstd")
    return files


def parts(rows: pd.DataFrame, plan: Plan) -> dict[str, pd.DataFrame]:
    """Return ROWS by the end of their file's name: the month in which they begin, else a number."""
    if plan.time:  # a file holds the rows of its month and no others, or `ingest` refuses it
        months = rows[plan.time].dt.strftime("%Y-%m")
        return {month: rows[months == month] for month in sorted(months.unique())}
    order = pd.Series(range(len(rows)), rows.index) * N_FILES // len(rows)
    return {f"part{place + 1}": rows[order == place] for place in range(N_FILES)}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
