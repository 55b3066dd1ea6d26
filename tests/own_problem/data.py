"""Hourly weather at the airports of New York: will visibility be poor? Stands for what a user writes into data.py."""

from pathlib import Path

import pandas as pd

PROBLEM = "classification"
TARGET = "poor_visibility"  # under 9 miles
KEY = "reading"
TIME = "measured"
SLICES = ["airport"]
LEAKS = ["visibility"]
SCHEMA: dict[str, dict] = {
    "reading": {"type": "text", "unique": True},
    "measured": {"type": "time"},
    "airport": {"type": "category", "values": ["EWR", "JFK", "LGA"]},
    "raining": {"type": "boolean"},
    "humidity": {"type": "number", "min": 0, "max": 100},
    "temperature": {"type": "number", "null": True},
    "poor_visibility": {"type": "boolean"},
}


def read(folder: Path | str = "data/raw") -> pd.DataFrame:
    """Return all rows in FOLDER with the columns of SCHEMA, oldest first."""
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"no .parquet file in {folder}")
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    rows[TARGET] = rows.pop("visibility") < 9
    return rows.sort_values([TIME, KEY], ignore_index=True)
