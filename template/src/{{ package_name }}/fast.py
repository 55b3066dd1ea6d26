"""`features.build` for a few rows at a time, without a table: what the service's fast path calls. Yours to edit.

A table takes milliseconds however few rows are in it. The service uses this function only after it gave the same as
`features.build` on some hundred rows, so change both together, or delete this file: answers stay right, and get slower.
"""

from typing import Any

from .features import CATEGORIES, COLUMNS, NUMBERS


def inputs(rows: list[dict[str, Any]]) -> dict[str, list]:
    """Return each column that `features.build` returns as a list, one value a row; None is a missing number.

    A row holds the COLUMNS of features.py as Python values: str, float, bool, datetime, or None where it is missing.
    """
    columns = {name: ["missing" if row[name] is None else row[name] for row in rows] for name in CATEGORIES}
    columns |= {name: [row[name] for row in rows] for name in NUMBERS if name in COLUMNS}
    departures = [row["scheduled_departure"] for row in rows]
    columns["hour"] = [departure.hour + departure.minute / 60 for departure in departures]
    columns["weekday"] = [departure.weekday() for departure in departures]
    built = [row["plane_built"] for row in rows]
    columns["plane_age"] = [
        None if year is None else departure.year - year for departure, year in zip(departures, built, strict=True)
    ]
    return columns
