"""Feature tables: what is known of a key at a moment, computed once for all who ask. Yours to edit, or to delete.

`feature-tables` computes them. A model uses a column of theirs once data.py and features.py name it:
SCHEMA in data.py gets `"origin_mean_7d": {"type": "number", "null": True}`, and `read` there
`rows.reindex(columns=[*rows, *(name for name in SCHEMA if name not in rows)])`, as raw rows have it not; COLUMNS in
features.py gets its name, conf/training.yml `data: featured`.
"""

import functools

import pandas as pd

from .data import SLICES, TARGET, TIME

DAYS = 7
KNOWN_AFTER = "6h"  # a row's target is known that long after its time: the flight has arrived


def history(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return the mean target and the number of rows in the last DAYS whole days, one row a KEY and day.

    `moment` is when they are known: KNOWN_AFTER the end of the last day.
    """
    known = rows.assign(day=rows[TIME].dt.floor("D"), target=rows[TARGET].astype("float64"))
    daily = known.groupby(["day", key], observed=True)["target"].agg(["sum", "count"]).unstack(key, fill_value=0)
    sums = daily.asfreq("D", fill_value=0).rolling(DAYS, min_periods=1).sum().stack(key, future_stack=True)
    sums = sums[sums["count"] > 0].reset_index()
    return pd.DataFrame(
        {
            key: sums[key],
            "moment": sums["day"] + pd.Timedelta("1D") + pd.Timedelta(KNOWN_AFTER),
            f"{key}_mean_{DAYS}d": sums["sum"] / sums["count"],
            f"{key}_rows_{DAYS}d": sums["count"],
        }
    )


# By name: the key's columns, the features, how long after its time a row is known, how old a value may be, and the
# function that computes it from the rows of data.read: columns key, moment and features, numbers all.
TABLES = {
    f"{key}_history": {
        "key": [key],
        "features": [f"{key}_mean_{DAYS}d", f"{key}_rows_{DAYS}d"],
        "known_after": KNOWN_AFTER,
        "max_age": "3D",  # older: missing, as when the computing fails for days
        "build": functools.partial(history, key=key),
    }
    for key in (SLICES if TIME else [])  # a table needs the time of each row
}
