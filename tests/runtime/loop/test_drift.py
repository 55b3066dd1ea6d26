"""Drift of columns: a change that is certain and large is found, chance is not, in memory that does not grow with rows."""

import json
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sqlalchemy
from flight_delays.__main__ import main
from mlops_ladder.loop import drift
from scipy import stats


def make(rng: np.random.Generator, n_rows: int, n_numbers: int = 16) -> pl.DataFrame:
    told: dict[str, Any] = {f"x{i}": rng.lognormal(size=n_rows) for i in range(n_numbers)}
    told |= {f"c{i}": pl.Series(rng.choice(list("abcdefgh"), n_rows)) for i in range(4)}
    return pl.DataFrame(told)


def profile(frame: pl.DataFrame, chunk_rows: int = 1000) -> drift.Profile:
    return drift.Profile.of(lambda: frame.iter_slices(chunk_rows))


def against(before: drift.Profile, frame: pl.DataFrame, chunk_rows: int = 1000) -> drift.Profile:
    now = before.empty()
    for chunk in frame.iter_slices(chunk_rows):
        now.add(chunk)
    return now


@pytest.mark.practice("data-drift-detection")
def test_rows_of_the_same_kind_seldom_count_as_drifted() -> None:
    """200 windows of 20 columns: the share of windows with a false alarm stays at alpha; uncorrected it would be 0.6."""
    rng = np.random.default_rng(0)
    before = profile(make(rng, 20_000))
    n_false = n_large = 0
    for _ in range(200):
        now = against(before, make(rng, 2_000))
        n_false += any(one["drifted"] for one in before.compare(now, psi=0, alpha=0.05).values())
        n_large += any(one["drifted"] for one in before.compare(now).values())
    assert n_false <= 0.1 * 200
    assert n_large == 0


@pytest.mark.practice("data-drift-detection")
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("x3", pl.col("x3") * 1.8),
        ("x3", pl.col("x3").shuffle(seed=1).clip(0, 1)),
        ("x3", pl.when(pl.int_range(pl.len()) % 4 == 0).then(None).otherwise(pl.col("x3")).alias("x3")),
        ("c2", pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("a")).otherwise(pl.col("c2")).alias("c2")),
        ("c2", pl.when(pl.int_range(pl.len()) % 9 == 0).then(pl.lit("never seen")).otherwise(pl.col("c2")).alias("c2")),
    ],
    ids=["larger", "cut off", "missing", "one value more often", "a new value"],
)
def test_a_planted_shift_is_found_in_its_column_alone(column: str, change: pl.Expr) -> None:
    rng = np.random.default_rng(0)
    before = profile(make(rng, 20_000))
    found = before.compare(against(before, make(rng, 5_000).with_columns(change)))
    assert [name for name, one in found.items() if one["drifted"]] == [column]


def test_a_large_sample_makes_a_small_change_certain_but_not_large() -> None:
    rng = np.random.default_rng(0)
    before = profile(make(rng, 100_000, 1))
    found = before.compare(against(before, make(rng, 100_000, 1).with_columns(pl.col("x0") * 1.03)))["x0"]
    assert found["q"] < 0.001 and not found["drifted"]


def test_free_text_is_compared_by_its_length_and_short_names_by_their_value() -> None:
    rng = np.random.default_rng(0)

    def some(n_words: int) -> pl.DataFrame:
        said = [
            " ".join(rng.choice(list("abcdefghijk"), n_words + n % 5)) + f" {n}" for n in rng.integers(10**9, size=900)
        ]
        return pl.DataFrame({"said": said, "code": [f"c{n}" for n in rng.integers(10**6, size=900)]})

    before = profile(some(8))
    assert before["said"].lengths and not before["code"].lengths
    again = drift.Profile.from_dict(before.as_dict())
    assert not again.compare(against(again, some(8)))["said"]["drifted"]
    assert again.compare(against(again, some(16)))["said"]["drifted"]


def test_counted_in_chunks_the_distance_is_that_of_the_whole_columns() -> None:
    rng = np.random.default_rng(0)
    here, there = make(rng, 30_000), make(rng, 20_000).with_columns(pl.col("x0") * 1.1)
    before = profile(here)
    found = before.compare(against(before, there, 333))
    exact = stats.ks_2samp(here["x0"].to_numpy(), there["x0"].to_numpy())
    assert found["x0"]["effect"] == pytest.approx(exact.statistic, abs=0.002)
    counts = np.array([[(frame["c0"] == value).sum() for value in "abcdefgh"] for frame in (here, there)])
    assert found["c0"]["p"] == pytest.approx(stats.chi2_contingency(counts, correction=False).pvalue, rel=1e-6)
    assert found == before.compare(against(before, there, 20_000))


def test_odd_columns_are_compared_and_nothing_breaks() -> None:
    odd = pl.DataFrame(
        {
            "constant": [1.0] * 600,
            "empty": pl.Series([None] * 600, dtype=pl.Float64),
            "wild": [float("inf"), float("nan"), -1e300, 1e300, 0.0, 1.0] * 100,
            "yes": [True, False] * 300,
            "count": list(range(600)),
            "nothing": pl.Series([None] * 600, dtype=pl.String),
        }
    )
    before = profile(odd)
    assert not any(one["drifted"] for one in before.compare(against(before, odd)).values())
    found = before.compare(
        against(before, odd.with_columns(pl.lit(2.0).alias("constant"), pl.lit(1.0).alias("empty")).drop("yes"))
    )
    assert {name for name, one in found.items() if one["drifted"]} == {"constant", "empty", "yes"}
    kept = drift.Profile.from_dict(json.loads(json.dumps(before.as_dict())))
    assert kept.compare(kept) == before.compare(before)


def calendar(month: int, times: int = 1, n_rows: int = 600) -> pl.DataFrame:
    """Return an hourly table of a month in columns that are neither a plain number nor text; larger by so many TIMES."""
    hours = [datetime(2013, month, 1) + timedelta(hours=n) for n in range(n_rows)]
    return pl.DataFrame(
        {
            "date": [hour.date() for hour in hours],
            "time": [hour.time() for hour in hours],
            "moment": hours,
            "duration": [timedelta(minutes=n % 60 * times) for n in range(n_rows)],
            "list": [[1] * (n % 7 * times) for n in range(n_rows)],
            "lists": [[[1], [2, 3]] * (n % 7 * times) for n in range(n_rows)],
            "fields": [{"a": n % 3 * times, "b": None} if n % 4 else None for n in range(n_rows)],
            "array": pl.Series([[1.0, 2.0]] * n_rows, dtype=pl.Array(pl.Float64, 2)),
            "bytes": [b"\xff\xfe" if n % 2 else b"a" for n in range(n_rows)],
            "edge": [(1.7e308 if n % 2 else -1.7e308) for n in range(n_rows)],
            "edges": [1.79e308 * (n % 60 / 60) / (4 if times > 1 else 1) for n in range(n_rows)],
            "least": [5e-324 * (n % 5) for n in range(n_rows)],
        }
    )


@pytest.mark.practice("data-drift-detection")
@pytest.mark.filterwarnings("error")
def test_columns_of_any_type_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A month later nothing has drifted: that all dates are new is no drift."""
    for name, frame in (("before", calendar(1)), ("now", calendar(2)), ("other", calendar(2, 9))):
        frame.write_parquet(tmp_path / f"{name}.parquet")
    before, now, other = (str(tmp_path / f"{name}.parquet") for name in ("before", "now", "other"))
    assert main(["drift", before, now, "--json"]) == 0
    assert max(one["psi"] for one in json.loads(capsys.readouterr().out).values()) < drift.PSI
    assert main(["drift", before, other, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert {name for name, one in found.items() if one["drifted"]} == {"duration", "list", "lists", "fields", "edges"}
    assert found["fields"]["now"][-1] == pytest.approx(1 / 4, abs=0.01), "what is missing is counted as that"


def test_a_date_that_is_another_day_of_the_week_has_drifted() -> None:
    days = pl.DataFrame({"date": [date(2013, 1, 1) + timedelta(days=n) for n in range(700)]})
    before = profile(days)
    found = before.compare(against(before, days.filter(pl.col("date").dt.weekday() > 5)))["date"]
    assert found["drifted"] and found["test"] == "ks"


def test_a_column_that_changed_its_type_has_drifted() -> None:
    plain, listed = pl.DataFrame({"x": ["1", "2"] * 300, "y": [1.0, 2.0] * 300}), [[1]] * 600
    before = profile(plain)
    assert not any(one["drifted"] for one in before.compare(against(before, plain.cast({"x": pl.Int64}))).values())
    found = before.compare(against(before, plain.with_columns(x=pl.Series(listed), y=pl.Series([{"a": 1}] * 600))))
    assert all(one["drifted"] for one in found.values())


def test_parquet_and_sql_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    here, there = make(rng, 5_000), make(rng, 5_000).with_columns(pl.col("x1") + 1)
    (tmp_path / "now").mkdir()
    here.write_parquet(tmp_path / "before.parquet")
    for i, part in enumerate(there.iter_slices(2_000)):
        part.write_parquet(tmp_path / f"now/{i}.parquet")
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    engine = sqlalchemy.create_engine(url)
    there.to_pandas().to_sql("flights", engine, index=False)
    engine.dispose()
    before = str(tmp_path / "before.parquet")
    assert main(["drift", before, str(tmp_path / "now"), "--json"]) == 3
    files = json.loads(capsys.readouterr().out)
    assert main(["drift", before, f"{url}#flights", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == files
    assert [name for name, one in files.items() if one["drifted"]] == ["x1"]
    assert main(["drift", before, before]) == 0
    assert main(["drift", before, str(tmp_path / "now"), "--columns", "x0", "c1"]) == 0
    for place in (before, f"{url}#flights"):
        assert main(["drift", place, before, "--columns", "x0", "c11"]) == 2
        assert "no column 'c11'" in capsys.readouterr().err
    assert main(["drift", before, f"{url}#nowhere"]) == 1
    (tmp_path / "none").mkdir()
    there.head(0).write_parquet(tmp_path / "none/0.parquet")
    assert main(["drift", before, str(tmp_path / "none")]) == 1
    assert "there are no rows" in capsys.readouterr().err, "nothing is not the same"


@pytest.mark.practice("data-drift-detection")
@pytest.mark.parametrize(("factor", "default", "psi", "chosen"), [(1.15, 0, "0.01", 3), (1.8, 3, "100", 0)])
def test_how_large_a_change_must_be_is_chosen(
    factor: float, default: int, psi: str, chosen: int, tmp_path: Path
) -> None:
    rows, places = make(np.random.default_rng(0), 5_000, 1), [str(tmp_path / f"{n}.parquet") for n in range(2)]
    rows.write_parquet(places[0])
    rows.with_columns(pl.col("x0") * factor).write_parquet(places[1])
    assert main(["drift", *places]) == default
    assert main(["drift", *places, "--psi", psi]) == chosen


@pytest.mark.parametrize("place", ["sqlite:///rows.db", "nobody://host#flights"])
def test_a_place_that_is_none_is_named(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"x": [1.0]}).write_parquet(tmp_path / "before.parquet")
    assert main(["drift", str(tmp_path / "before.parquet"), place]) == 2
    assert "URL#TABLE" in capsys.readouterr().err
