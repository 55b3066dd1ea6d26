"""What a model must do whatever its metrics say, and between whom it must be fair. Read by `gate`. Yours to edit.

A test gets `predict` (rows in, one prediction a row out) and held-out rows, and returns for each row whether the model
behaves. Its name begins with invariance_, direction_ or minimum_; conf/release.yml says for how many rows it must hold.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

Predict = Callable[[pd.DataFrame], np.ndarray]
REGIONAL = ["9E", "EV", "MQ", "OO", "YV"]  # carriers that fly small aircraft for the others


def at(rows: pd.DataFrame, hour: int) -> pd.DataFrame:
    """Return ROWS departing on their day at HOUR."""
    return rows.assign(scheduled_departure=rows["scheduled_departure"].dt.normalize() + pd.Timedelta(hours=hour))


def invariance_to_the_calendar(predict: Predict, rows: pd.DataFrame) -> np.ndarray:
    """A week earlier the same flight in the same weather is as late: hour and weekday count, the date does not."""
    earlier = rows.assign(scheduled_departure=rows["scheduled_departure"] - pd.Timedelta(days=7))
    return np.isclose(predict(earlier), predict(rows), rtol=1e-6)


def direction_of_the_hour(predict: Predict, rows: pd.DataFrame) -> np.ndarray:
    """Delays add up over the day: a flight at 18:00 is later than the same one at 7:00."""
    return predict(at(rows, 18)) > predict(at(rows, 7))


def direction_of_visibility(predict: Predict, rows: pd.DataFrame) -> np.ndarray:
    """Fog does not make a flight more punctual."""
    return predict(rows.assign(visibility=0.5)) >= predict(rows.assign(visibility=10.0))


def minimum_a_stormy_evening_is_worse_than_a_clear_morning(predict: Predict, rows: pd.DataFrame) -> np.ndarray:
    """Who cannot tell these apart is of no use."""
    clear = {"visibility": 10.0, "precipitation": 0.0, "wind_speed": 5.0, "humidity": 50.0}
    storm = {"visibility": 0.5, "precipitation": 0.3, "wind_speed": 25.0, "humidity": 95.0}
    return predict(at(rows, 18).assign(**storm)) > predict(at(rows, 7).assign(**clear))


def groups(rows: pd.DataFrame) -> pd.DataFrame:
    """Return to which group each row belongs, a column for each way to group; the index is kept.

    A flight is no person: these stand in for whom a model disadvantages (passengers of small carriers, of an airport).
    With data about people, group by what must not matter, whether or not the model sees it.
    """
    regional = rows["carrier"].isin(REGIONAL).map({True: "regional", False: "mainline"})
    return pd.DataFrame({"carrier": regional, "origin": rows["origin"]})
