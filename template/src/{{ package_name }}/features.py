"""Rows to model inputs: the only feature code, used by training and by serving. Yours to edit."""

import pandas as pd

# What `build` reads from a row: what a caller must send for a prediction.
COLUMNS = [
    "scheduled_departure",
    "carrier",
    "origin",
    "destination",
    "distance",
    "temperature",
    "humidity",
    "wind_speed",
    "precipitation",
    "pressure",
    "visibility",
    "seats",
    "plane_built",
]

# What `build` returns: the columns the model is fitted on.
CATEGORIES = ["carrier", "origin", "destination"]
NUMBERS = [
    "hour",
    "weekday",
    "distance",
    "temperature",
    "humidity",
    "wind_speed",
    "precipitation",
    "pressure",
    "visibility",
    "seats",
    "plane_age",
]


def build(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the model's inputs, shape (n_rows, n_inputs), index kept: CATEGORIES as text, NUMBERS as float64.

    Uses only what is known before departure: never the target. A row's inputs depend on that row alone, so that
    one row served gives the same as the row in a batch.
    """
    departure = pd.to_datetime(rows["scheduled_departure"])
    inputs = pd.DataFrame(index=rows.index)
    for name in CATEGORIES:
        inputs[name] = rows[name].astype("object").where(rows[name].notna(), "missing").astype(str)
    inputs["hour"] = departure.dt.hour + departure.dt.minute / 60
    inputs["weekday"] = departure.dt.day_of_week
    for name in NUMBERS:
        if name in COLUMNS:  # taken as it is
            inputs[name] = pd.to_numeric(rows[name])
    inputs["plane_age"] = departure.dt.year - pd.to_numeric(rows["plane_built"])
    return inputs.astype(dict.fromkeys(NUMBERS, "float64"))[CATEGORIES + NUMBERS]
