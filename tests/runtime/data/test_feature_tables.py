"""Feature tables: known at the row's time and no later, and the same to learn from and to serve."""

import contextlib
import itertools
import json
import re
import shutil
import socket
import sqlite3
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from flight_delays import data, features
from mlops_ladder.core.errors import Refused
from mlops_ladder.data import feature_tables
from mlops_ladder.data.rows import as_records
from mlops_ladder.serving.table_lookup import at
from projects import FLIGHTS, ROOT, python_path
from tables_project import COUNT, KEY, MEAN, TABLES, make_project, python

PROJECT = ROOT
Run = Any


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model learned from a feature table: its rows are in data/featured, it is in models/."""
    folder = tmp_path_factory.mktemp("learned")
    make_project(folder, [MEAN, COUNT], TABLES)
    for file in sorted((PROJECT / "data/sample").iterdir())[:2]:
        shutil.copy(file, folder / "data/raw")
    said = python(folder, "-m", "flight_delays", "feature-tables")
    assert f"{MEAN}, {COUNT} joined to the rows of data set featured" in said
    python(folder, "-c", LEARN)
    return folder


LEARN = """
from flight_delays import data, features, model
from flight_delays.__main__ import PROJECT
from mlops_ladder.training import handoff
rows = data.read("data/featured")
cut = len(rows) * 3 // 4
train, test = rows.head(cut), rows.tail(len(rows) - cut)
handoff.hand_over(PROJECT, model.make().fit(features.build(train), train[data.TARGET]), train, test)
"""


def raw(folder: Path) -> pd.DataFrame:
    """Return the rows of FOLDER as data.py has them, and the columns that were joined to them."""
    joined = pd.concat([pd.read_parquet(file) for file in (folder / "data/featured").glob("*.parquet")])
    return data.read(folder / "data/raw").merge(joined[[data.KEY, MEAN, COUNT]], on=data.KEY)


@pytest.mark.practice("feature-store")
def test_what_is_served_is_what_was_learned_from(learned: Path, serve: Any) -> None:
    rows = raw(learned)
    rows = rows.iloc[:: len(rows) // 300]
    assert rows[MEAN].isna().any() and rows[MEAN].nunique() > 50, "days without and with a past"
    asked = as_records(rows[[data.TIME, KEY]])
    whole = as_records(rows[[data.TIME, KEY, MEAN, COUNT]])
    with serve(learned, PYTHONPATH=python_path(learned / "src")) as (client, _):
        by_key = client.post("/predict", json=asked).json()
        assert by_key["predictions"] == client.post("/predict", json=whole).json()["predictions"]
        one = [client.post("/predict", json=row).json()["predictions"][0] for row in asked[-5:]]
        assert one == by_key["predictions"][-5:]
        assert len(set(by_key["predictions"])) > 1
        optional = client.get("/openapi.json").json()["components"]["schemas"]["Row"]["required"]
        assert not {MEAN, COUNT} & set(optional)
        incomplete = client.post("/predict", json={data.TIME: asked[0][data.TIME]})
        assert incomplete.status_code == 422 and f"{KEY} is missing" in incomplete.json()["error"]
        odd = json.dumps({data.TIME: asked[0][data.TIME], KEY: 10**400}).encode()
        for body, status in ((b"[1", 400), (b"", 400), (b"[[]]", 422), (b'{"a": NaN}', 422), (odd, 422)):
            answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status, (body, answer.text)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as caller:  # who hangs up
            caller.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{")
        while not (told := re.findall('total{route="none",status="([45]00)"}', client.get("/metrics").text)):
            time.sleep(0.01)
        assert told == ["400"]
    (learned / "data/rows").mkdir()
    rows[[data.KEY, data.TIME, KEY]].to_parquet(learned / "data/rows/rows.parquet", index=False)
    words = ("--input", "data/rows", "--output", "data/scored", "--model", "models/model.skops")
    python(learned, "-m", "flight_delays", "score-batch", *words)
    batch = pd.read_parquet(learned / "data/scored/rows.parquet")
    np.testing.assert_allclose(batch.iloc[:, -2], by_key["predictions"], rtol=1e-9)


@pytest.mark.practice("feature-store")
def test_the_service_says_so_while_the_tables_are_out_of_reach(learned: Path, serve: Any) -> None:
    row = as_records(raw(learned).tail(1)[[data.TIME, KEY, MEAN, COUNT]])[0]
    less = {name: row[name] for name in (data.TIME, KEY)}
    with serve(learned, PYTHONPATH=python_path(learned / "src")) as (client, _):
        with contextlib.closing(sqlite3.connect(learned / "data/features.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            answer = client.post("/predict", json=less)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert client.post("/predict", json=row).status_code == 200
        assert client.post("/predict", json=less).status_code == 200


@pytest.mark.practice("feature-store")
def test_a_second_model_uses_what_the_first_computed(learned: Path, serve: Any, tmp_path: Path) -> None:
    make_project(tmp_path, [MEAN], "TABLES = {}")
    shutil.copytree(learned / "data/raw", tmp_path / "data/raw", dirs_exist_ok=True)
    places = {"offline": f"{learned}/data/features", "online": f"sqlite:///{learned}/data/features.db"}
    (tmp_path / "conf/features.yml").write_text(yaml.safe_dump(places))
    before = {file: file.stat().st_mtime_ns for file in (learned / "data/features").rglob("*") if file.is_file()}
    told = json.loads(python(tmp_path, "-m", "flight_delays", "feature-tables", "--json"))
    assert told["new"] == [] and MEAN in told["columns"]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    pd.testing.assert_frame_equal(raw(tmp_path), raw(learned))
    python(tmp_path, "-c", LEARN)
    rows = raw(tmp_path).tail(50)
    with serve(tmp_path, PYTHONPATH=python_path(tmp_path / "src")) as (client, _):
        found = client.post("/predict", json=as_records(rows[[data.TIME, KEY]])).json()["predictions"]
        given = client.post("/predict", json=as_records(rows[[data.TIME, KEY, MEAN]])).json()["predictions"]
    assert found == given


@pytest.mark.practice("feature-store")
def test_tables_are_computed_once_and_again_when_rows_or_code_change(workdir: Path, run: Run) -> None:
    first = run("feature-tables", "--json")
    assert first["new"] == sorted(first["tables"]) or set(first["new"]) == set(first["tables"])
    kept = {file: file.read_bytes() for file in Path("data/features").rglob("*.parquet")}
    assert run("feature-tables", "--json")["new"] == []
    max(Path("data/raw").iterdir()).unlink()
    again = run("feature-tables", "--json")
    assert set(again["new"]) == set(first["new"])
    assert all(again["tables"][name] != first["tables"][name] for name in first["tables"])
    assert {file: file.read_bytes() for file in kept} == kept, "older versions stay"


def declared(**changes: Any) -> feature_tables.Declared:
    """Return a table of the rows of earlier days, or one of a build that knows more."""

    def build(rows: pd.DataFrame) -> pd.DataFrame:
        day = rows["time"].dt.floor("D")
        counts = rows.groupby(["key", day])["value"].agg(["sum", "count"]).groupby(level=0).cumsum().reset_index()
        return counts.assign(moment=counts["time"] + pd.Timedelta("1D"), total=counts["sum"])

    facts = {"key": ["key"], "features": ["total"], "known_after": "0h", "max_age": "2D", "build": build}
    return feature_tables.Declared.model_validate(facts | changes)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tables.py of the test's own, in memory, in place of this project's."""
    module = ModuleType("flight_delays.tables")
    monkeypatch.setitem(vars(FLIGHTS), "tables", module)
    return module


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setattr(data, "TIME", "time")
    times = pd.Timestamp("2024-02-25") + pd.to_timedelta(np.arange(0, 24 * 12, 2.5), unit="h")
    keys = itertools.cycle(["a", "b", "c"])
    rows = pd.DataFrame({"time": times, "key": [next(keys) for _ in times], "value": np.arange(len(times)) ** 1.5})
    return rows[(rows["key"] != "c") | (rows["time"] < "2024-03-01")]  # c is heard of no more


def leak_the_mean(rows: pd.DataFrame) -> pd.DataFrame:
    made = declared().build(rows)
    return made.assign(total=made["total"] - rows["value"].mean())


def leak_a_day(rows: pd.DataFrame) -> pd.DataFrame:
    made = declared().build(rows)
    return made.assign(moment=made["moment"] - pd.Timedelta("1D"))


@pytest.mark.practice("feature-store")
@pytest.mark.parametrize("build", [leak_the_mean, leak_a_day])
def test_a_table_that_knows_the_future_is_refused(build: Any, past: pd.DataFrame) -> None:
    assert len(feature_tables.compute(FLIGHTS, "past", declared(), past))
    with pytest.raises(Refused, match="knows too much"):
        feature_tables.compute(FLIGHTS, "past", declared(build=build), past)


def test_a_table_that_forgets_when_rows_become_known_is_refused(past: pd.DataFrame) -> None:
    with pytest.raises(Refused, match="knows too much"):
        feature_tables.compute(FLIGHTS, "past", declared(known_after="6h"), past)


@pytest.mark.practice("feature-store")
def test_a_row_sees_what_was_known_at_its_time_offline_and_online(past: pd.DataFrame, tmp_path: Path) -> None:
    values = feature_tables.compute(FLIGHTS, "past", declared(), past)
    facts = {"key": ["key"], "features": ["total"], "max_age_s": 2 * 86_400, "made_of": "", "version": "1"}
    table = feature_tables.Table(name="past", **facts)
    online = feature_tables.Online(FLIGHTS, f"sqlite:///{tmp_path}/features.db")
    online.publish(table, lambda: values)
    edge = values["moment"].iloc[::3]
    times = pd.concat([past["time"], edge, edge - pd.Timedelta("1us"), edge + pd.Timedelta("2D")], ignore_index=True)
    asked = pd.DataFrame({"time": times, "key": np.resize(["a", "b", "c", "nobody", None], len(times))})
    offline = feature_tables.join(FLIGHTS, asked, table, values)["total"]
    places = [
        at(FLIGHTS, row, table)
        for row in json.loads(asked.to_json(orient="records", date_format="iso", date_unit="us"))
    ]
    found = online.look_up(table, filter(None, places))
    served = [found[place].get("total") if place else None for place in places]
    np.testing.assert_array_equal(offline, np.array(served, dtype="float64"))
    for row, value in zip(asked.itertuples(), offline, strict=True):  # by hand, from the rows themselves
        days = past[(past["key"] == row.key) & (past["time"] < row.time.floor("D"))]
        last = days["time"].max()
        expected = days["value"].sum() if len(days) and row.time - last.floor("D") <= pd.Timedelta("3D") else np.nan
        assert value == pytest.approx(expected, nan_ok=True), row
    assert offline.isna().any() and offline.notna().any()


@pytest.mark.parametrize(("cells", "same"), [([5, 5.0, np.int64(5)], True), (["5", 5], False), ([True, 1], False)])
def test_a_key_is_the_same_wherever_it_comes_from(cells: list[Any], same: bool) -> None:
    assert (len({feature_tables.text(cell) for cell in cells}) == 1) == same


def test_a_key_may_be_of_several_columns() -> None:
    rows = pd.DataFrame({"a": ["x", "x", None], "b": [1, 2, 3]})
    assert feature_tables.keys(rows, ["a", "b"]).tolist() == ["x\x1f1.0", "x\x1f2.0", None]


def test_a_project_without_tables_serves_as_before(client: httpx.Client) -> None:
    columns = client.get("/openapi.json").json()["components"]["schemas"]["Row"]["required"]
    assert set(features.COLUMNS) == set(columns)


@pytest.mark.parametrize(
    ("change", "reason"),
    [("max_age", "max_age"), ("key", "key"), ("build", "returns no column moment")],
)
def test_a_wrong_declaration_is_named(change: str, reason: str, workdir: Path, run: Run, tables: Any) -> None:
    facts: dict[str, Any] = {"key": [KEY], "features": ["n"], "known_after": "1h", "max_age": "1D"}
    facts |= {"build": lambda rows: rows.assign(n=1)} | ({change: []} if change != "build" else {})
    tables.TABLES = {"wrong": facts}
    assert reason in run("feature-tables", exit_code=1)


@pytest.mark.practice("feature-store")
def test_training_on_featured_rows_makes_them_of_the_newest(
    workplace: Path, run: Run, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(rows: pd.DataFrame) -> pd.DataFrame:
        days = rows.assign(moment=rows[data.TIME].dt.floor("D") + pd.Timedelta("1D"))
        days = days.groupby([KEY, "moment"], observed=True)
        return days.size().rename(COUNT).reset_index()

    facts = {"key": [KEY], "features": [COUNT], "known_after": "0h", "max_age": "2D", "build": build}
    tables.TABLES = {"counts": facts}
    monkeypatch.setitem(data.SCHEMA, COUNT, {"type": "number", "null": True})
    read = data.read
    monkeypatch.setattr(data, "read", lambda folder: (rows := read(folder)).reindex(columns=[*{*rows, COUNT}]))
    more = max(Path("data/sample").iterdir())
    kept = more.rename("later.parquet")
    (Path("data/raw") / more.name).unlink()
    run("train", "--data", "featured", "--until", "ingest")
    before = pd.concat(map(pd.read_parquet, Path("data/snapshot").glob("*.parquet")))
    assert before[COUNT].notna().mean() > 0.5
    kept.rename(more)
    run("train", "--data", "featured", "--until", "ingest")
    after = pd.concat(map(pd.read_parquet, Path("data/snapshot").glob("*.parquet")))
    assert len(after) > len(before) and after[COUNT].notna().mean() > 0.5
    assert not Path("data/features.db").exists(), "a training serves nobody"
    assert list(json.loads(Path("data/snapshot/features.json").read_text())["tables"]) == ["counts"]
