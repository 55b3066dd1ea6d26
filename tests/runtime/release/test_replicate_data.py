"""Rows of production as they may leave it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flight_delays import data
from mlops_ladder.release.replicate_data import mask
from projects import FLIGHTS

NUMBER = next(name for name, rule in data.SCHEMA.items() if rule["type"] == "number")


def declare(**changes: Any) -> None:
    file = Path("conf/environments/prod.yml")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


@pytest.mark.practice("production-data-access")
def test_a_copy_is_valid_training_data_of_the_same_schema_without_the_masked_values(workplace: Path, run: Any) -> None:
    declare(masked=[data.KEY, NUMBER])
    told = run("replicate-data", "--env", "dev", "--json")
    rows, masked = data.read("data/raw"), data.read(told["data"])
    assert told["rows"] == len(masked) == len(rows)
    assert not set(rows[data.KEY]) & set(masked[data.KEY])
    assert masked[data.KEY].is_unique
    assert rows[NUMBER].tolist() != masked[NUMBER].tolist()
    assert sorted(rows[NUMBER].dropna()) == sorted(masked[NUMBER].dropna())
    for file in Path("data/raw").glob("*.parquet"):
        assert pq.read_schema(Path(told["data"]) / file.name).equals(pq.read_schema(file))
    run("train", "--data", "masked", "--until", "split")


@pytest.mark.practice("production-data-access")
def test_text_becomes_pseudonyms_that_hold_within_one_copy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data.SCHEMA, "size", {"type": "category", "values": ["S", "L"]})
    table = pa.table({"name": ["Ada", None, "Ada", "Grace"], "size": ["S", "L", "S", "S"], "row": [1, 2, 3, 4]})
    one, other = (mask(FLIGHTS, table, ["name", "size"], key).to_pydict() for key in (b"one", b"other"))
    first, missing, again, second = one["name"]
    assert first == again != second and missing is None
    assert not {"Ada", "Grace"} & {first, second} and not set(one["name"]) & {*other["name"]} - {None}
    assert sorted(one["size"]) == ["L", "S", "S", "S"], "listed values are shuffled: others would break SCHEMA"
    assert one["row"] == [1, 2, 3, 4]


@pytest.mark.practice("production-data-access", "access-control")
def test_only_who_may_takes_rows_out_of_an_environment(workplace: Path, run: Any) -> None:
    declare(may={"deploy": ["engineer"]})
    assert "may not replicate in prod" in run("replicate-data", "--env", "dev", exit_code=3)
    assert not Path("data/masked").exists()


def test_a_masked_column_that_is_not_there_stops_the_copy(workplace: Path, run: Any) -> None:
    declare(masked=["passenger_name"])
    assert "passenger_name, which the rows lack" in run("replicate-data", "--env", "dev", exit_code=1)
    assert not Path("data/masked").exists()
    assert "is a data set that is there already" in run("replicate-data", "--env", "dev", "--name", "raw", exit_code=1)
