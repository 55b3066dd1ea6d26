"""What a model of visibility must do. Stands for what a user writes into behaviour.py."""

import numpy as np
import pandas as pd


def invariance_to_the_date(predict, rows: pd.DataFrame) -> np.ndarray:
    """The same air is as clear a week earlier."""
    return np.isclose(predict(rows.assign(measured=rows["measured"] - pd.Timedelta(days=7))), predict(rows))


def direction_of_humidity(predict, rows: pd.DataFrame) -> np.ndarray:
    """Fog needs humid air."""
    return predict(rows.assign(humidity=98.0)) > predict(rows.assign(humidity=40.0))


def minimum_rain_in_humid_air_is_worse_than_dry_air(predict, rows: pd.DataFrame) -> np.ndarray:
    wet, dry = rows.assign(humidity=98.0, raining=True), rows.assign(humidity=35.0, raining=False)
    return predict(wet) > predict(dry)


def groups(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["airport"]]
