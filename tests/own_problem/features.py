"""Readings to model inputs. Stands for what a user writes into features.py."""

import pandas as pd

COLUMNS = ["airport", "raining", "humidity", "temperature"]
CATEGORIES = ["airport"]
NUMBERS = ["raining", "humidity", "temperature"]


def build(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the model's inputs, shape (n_rows, 4), index kept."""
    return rows[COLUMNS].astype({"airport": str} | dict.fromkeys(NUMBERS, "float64"))[CATEGORIES + NUMBERS]
