"""Batch scoring: what the service would answer, whole or not at all, once, and again when something changed."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sql
import yaml
from flight_delays import data, features, model
from mlops_ladder.core.files import locked
from mlops_ladder.data.rows import as_records, read_note
from mlops_ladder.serving import score_batch
from mlops_ladder.training import handoff
from projects import FLIGHTS

MODEL = ("--model", "models/model.skops")
INTO = ("--input", "data/rows", "--output", "data/scored")
N_ROWS = 150  # of each file: what differs between parts shows in few
Run = Any


@pytest.fixture
def rows(handed_over: Path) -> pd.DataFrame:
    """Rows to score, without the target: a part a month in data/rows, one of them in a folder of its own."""
    every = data.read("data/raw").drop(columns=data.TARGET)
    every = pd.concat([part.head(N_ROWS) for _, part in every.groupby(every[data.TIME].dt.month)], ignore_index=True)
    save(every)
    conf = Path("conf/compute.yml")  # one process: starting others takes longer than the scoring
    conf.write_text(yaml.safe_dump(yaml.safe_load(conf.read_text()) | {"workers": 1}))
    return every


def save(rows: pd.DataFrame) -> list[Path]:
    files = []
    for month, part in rows.groupby(rows[data.TIME].dt.month):
        files.append(Path(f"data/rows/month-{month}.parquet" if month > 1 else "data/rows/old/month-1.parquet"))
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(files[-1], index=False)
    return files


def scored(place: str = "data/scored") -> pd.DataFrame:
    return pd.read_parquet(place).sort_values([data.TIME, data.KEY], ignore_index=True)


def written(place: str = "data/scored") -> dict[str, tuple[bytes, int]]:
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in Path(place).rglob("*.parquet")}


def expected(rows: pd.DataFrame) -> np.ndarray:
    return model.predict(model.load(handoff.MODEL_FILE), features.build(rows[features.COLUMNS]))


@pytest.mark.practice("batch-scoring-pipeline")
def test_a_batch_gets_the_predictions_that_the_service_answers(
    rows: pd.DataFrame, run: Run, client: httpx.Client
) -> None:
    told = run("score-batch", *INTO, *MODEL, "--json")
    assert (told["rows"], told["parts"], told["scored"]) == (len(rows), 3, 3)
    batch = scored()
    pd.testing.assert_frame_equal(batch[list(rows)], rows, check_dtype=False)
    answer = client.post("/predict", json=as_records(rows[features.COLUMNS])).json()
    np.testing.assert_allclose(batch[model.OUTPUT], answer["predictions"], rtol=1e-9)
    assert set(batch["model_version"]) == {answer["model_version"]}


@pytest.mark.practice("batch-scoring-pipeline")
def test_a_second_run_scores_only_what_changed(rows: pd.DataFrame, run: Run) -> None:
    run("score-batch", *INTO, *MODEL)
    before = written()
    assert "0 of 3 parts were new or changed" in run("score-batch", *INTO, *MODEL)
    assert written() == before
    changed, gone, *_ = save(rows)
    pd.read_parquet(changed).iloc[1:].to_parquet(changed, index=False)
    Path("data/scored", gone.relative_to("data/rows")).unlink()
    assert "2 of 3 parts were new or changed" in run("score-batch", *INTO, *MODEL)
    assert len(scored()) == len(rows) - 1
    kept = {name for name, state in written().items() if state == before[name]}
    assert len(kept) == 1


@pytest.mark.practice("batch-scoring-pipeline")
def test_another_model_scores_everything_again(rows: pd.DataFrame, run: Run) -> None:
    run("score-batch", *INTO, *MODEL)
    before = scored()
    known = data.read("data/raw")
    fitted = model.make(model.SIMPLE).fit(features.build(known[features.COLUMNS]), known[data.TARGET])
    handoff.hand_over(FLIGHTS, fitted, known, known.tail(100))
    assert "3 of 3 parts" in run("score-batch", *INTO, *MODEL)
    np.testing.assert_allclose(scored()[model.OUTPUT], expected(rows), rtol=1e-9)
    assert not set(scored()["model_version"]) & set(before["model_version"])
    manifest = json.loads(Path("data/scored/_manifest.json").read_text())
    assert {mark["model"] for mark in manifest.values()} == {read_note(handoff.MODEL_FILE)["sha256"]}
    assert sum(mark["rows"] for mark in manifest.values()) == len(rows)


@pytest.mark.practice("batch-scoring-pipeline")
def test_a_killed_run_goes_on_where_it_was(rows: pd.DataFrame, run: Run) -> None:
    first, *_ = save(rows)
    for number in range(40):
        shutil.copy(first, f"data/rows/copy-{number:02}.parquet")
    command = [sys.executable, "-m", "flight_delays", "score-batch", *INTO, *MODEL]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "5 of 43" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    done = written()
    assert 5 <= len(done) < 43
    assert len(scored()) >= 5 * N_ROWS, "what is there can be read"
    told = run("score-batch", *INTO, *MODEL, "--json")
    assert told["scored"] == 43 - len(done)
    assert {name: written()[name] for name in done} == done
    assert len(scored()) == len(rows) + 40 * N_ROWS


def broken(rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return a column that must not be missing, and ROWS in which it is missing once."""
    columns = read_note(handoff.MODEL_FILE)["columns"]
    name = next(name for name, rule in columns.items() if not rule.get("null") and name != data.TIME)
    wrong = rows.copy()
    wrong.loc[len(rows) - 3, name] = None
    return name, wrong


@pytest.mark.practice("batch-scoring-pipeline")
def test_a_row_that_breaks_the_contract_stops_its_part(rows: pd.DataFrame, run: Run) -> None:
    name, wrong = broken(rows)
    last = save(wrong)[-1]
    said = run("score-batch", *INTO, *MODEL, exit_code=3)
    assert f"{last.name}, row {len(pd.read_parquet(last)) - 3}: {name} is missing" in said
    assert not Path("data/scored", last.name).exists()
    save(rows)
    assert "in data/scored" in run("score-batch", *INTO, *MODEL)


@pytest.mark.parametrize("dtype", ["object", "str"])
def test_a_text_that_is_too_long_is_a_problem_as_it_is_for_the_service(dtype: str) -> None:
    table = pd.DataFrame({"a": pd.Series(["xyz", "wxyz", None], dtype=dtype), "b": ["y" * 1000, "y" * 1001, "z"]})
    _, problems = score_batch.check_table(
        table, {"a": {"type": "text", "null": True, "max_length": 3}, "b": {"type": "category"}}
    )
    assert problems[0] == problems[2] == ""
    assert "a is 'wxyz', must be text, 3 characters at most" in problems[1] and "b is 'yyy" in problems[1]
    nothing = pd.DataFrame({"a": pd.Series([None, None], dtype="object")})
    assert score_batch.check_table(nothing, {"a": {"type": "text", "null": True}})[1].tolist() == ["", ""]


def test_rejected_rows_go_to_a_folder_with_the_reason(rows: pd.DataFrame, run: Run) -> None:
    name, wrong = broken(rows)
    last = save(wrong)[-1]
    aside = ("--rejects", "data/rejected")
    assert "1 rows rejected" in run("score-batch", *INTO, *MODEL, *aside)
    rejected = pd.read_parquet("data/rejected")
    assert rejected[data.KEY].tolist() == [rows[data.KEY].iloc[-3]]
    assert rejected["problem"].str.startswith(f"{name} is missing").all()
    assert len(scored()) == len(rows) - 1
    assert "0 of 3 parts" in run("score-batch", *INTO, *MODEL, *aside)
    assert last.name in run("score-batch", *INTO, *MODEL, exit_code=3), "without the option it is refused still"
    save(rows)
    run("score-batch", *INTO, *MODEL, *aside)
    assert not list(Path("data/rejected").iterdir())


@pytest.mark.practice("batch-scoring-pipeline")
def test_an_sql_table_is_scored_into_another_one(rows: pd.DataFrame, run: Run) -> None:
    engine = sql.create_engine("sqlite:///rows.db")
    rows.to_sql("rows", engine, index=False)
    words = ("score-batch", "--input", "sqlite:///rows.db#rows", "--output", "sqlite:///rows.db#scored", *MODEL)
    run(*words)
    found = pd.read_sql("scored", engine, parse_dates=[data.TIME]).sort_values([data.TIME, data.KEY])
    np.testing.assert_allclose(found[model.OUTPUT], expected(rows), rtol=1e-9)
    assert found[data.KEY].tolist() == rows[data.KEY].tolist()
    assert "0 of 3 parts" in run(*words)
    with engine.begin() as connection:
        connection.execute(sql.text(f"DELETE FROM rows WHERE {data.KEY} = :key"), {"key": rows[data.KEY].iloc[0]})
    assert "1 of 3 parts" in run(*words)
    assert pd.read_sql("scored", engine)[data.KEY].tolist().count(rows[data.KEY].iloc[1]) == 1
    assert len(pd.read_sql("scored", engine)) == len(rows) - 1


def test_a_part_of_a_table_is_written_whole_or_not_at_all(rows: pd.DataFrame, run: Run) -> None:
    engine = sql.create_engine("sqlite:///rows.db")
    into = ("score-batch", "--input", "data/rows", "--output", "sqlite:///rows.db#scored", *MODEL)
    run(*into)
    key = rows[data.KEY].iloc[-1]
    with engine.begin() as connection:
        connection.execute(sql.text("DELETE FROM scored"))
        connection.execute(sql.text("DELETE FROM scored_parts"))
        condition = f"WHEN NEW.{data.KEY} = '{key}' BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        connection.execute(sql.text(f"CREATE TRIGGER full BEFORE INSERT ON scored {condition}"))
    assert "disk full" in run(*into, exit_code=1)
    assert save(rows)[-1].name not in set(pd.read_sql("scored", engine)["part"])
    with engine.begin() as connection:
        connection.execute(sql.text("DROP TRIGGER full"))
    run(*into)
    assert len(pd.read_sql("scored", engine)) == len(rows)


@pytest.mark.parametrize("backend", ["local", "dask"])
def test_workers_write_the_same_bytes(backend: str, rows: pd.DataFrame, run: Run) -> None:
    run("score-batch", *INTO, *MODEL)
    conf = {"backend": backend, "workers": 2, "address": None, "together": 4, "timeout_s": 60}
    words = ("score-batch", "--input", "data/rows", "--output", "data/again", *MODEL)
    alone = {Path(name).name: content for name, (content, _) in written().items()}
    if backend == "local":
        Path("conf/compute.yml").write_text(yaml.safe_dump(conf))
        run(*words)
    else:
        from distributed import LocalCluster

        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
            Path("conf/compute.yml").write_text(yaml.safe_dump(conf | {"address": cluster.scheduler_address}))
            assert cluster.scheduler_address in run(*words)
    assert {Path(name).name: content for name, (content, _) in written("data/again").items()} == alone


def test_a_column_may_stand_in_the_path_alone(rows: pd.DataFrame, run: Run) -> None:
    name = next(name for name in features.CATEGORIES if name in features.COLUMNS and rows[name].map(type).eq(str).all())
    shutil.rmtree("data/rows")
    rows.assign(copy=rows[name]).rename(columns={"copy": "same"}).to_parquet("data/rows", partition_cols=[name])
    run("score-batch", *INTO, *MODEL)
    np.testing.assert_allclose(scored()[model.OUTPUT], expected(rows), rtol=1e-9)


def test_a_call_that_cannot_work_says_why(rows: pd.DataFrame, run: Run) -> None:
    inside = ("--input", "data/rows", "--output", "data/rows/scored")
    assert "lies in --input" in run("score-batch", *inside, *MODEL, exit_code=2)
    assert "write URL#TABLE" in run("score-batch", "--input", "sqlite:///a.db", *INTO[2:], *MODEL, exit_code=2)
    assert "no database" in run("score-batch", "--input", "sqlite:///a.db#rows", *INTO[2:], *MODEL, exit_code=1)
    assert "no .parquet file" in run("score-batch", "--input", "nowhere", *INTO[2:], *MODEL, exit_code=1)
    with locked(Path("data/scored/.lock")):
        assert "another process" in run("score-batch", *INTO, *MODEL, exit_code=1)
    run("score-batch", *INTO, *MODEL)
    again = ("--input", "data/scored", "--output", "data/twice")
    assert "already" in run("score-batch", *again, *MODEL, exit_code=1)
    name = next(name for name in features.COLUMNS if name != data.TIME)
    save(rows.drop(columns=name))
    assert f"column {name} is missing" in run("score-batch", *INTO, *MODEL, exit_code=3)


@pytest.mark.practice("batch-scoring-pipeline")
def test_a_champion_scores_where_its_alias_is_named(workplace: Path, run: Run) -> None:
    made = run("train", "--json")
    data.read("data/raw").head(N_ROWS).drop(columns=data.TARGET).to_parquet("rows.parquet", index=False)
    Path("data/rows").mkdir()
    shutil.move("rows.parquet", "data/rows/rows.parquet")
    champion = ("--model", f"models:/{made['model']}@champion")
    assert "no version in use in prod" in run("score-batch", *INTO, exit_code=1)
    assert "has no champion yet" in run("score-batch", *INTO, *champion, exit_code=1)
    run("promote", made["version"], "--reason", "agreed with operations")
    assert f"version {made['version']} " in run("score-batch", *INTO, *champion)
    assert set(scored()["model_version"]) == {made["version"]}


@pytest.mark.practice("batch-scoring-pipeline")
def test_a_row_is_refused_for_each_cell_that_the_service_would_refuse_and_for_no_other() -> None:
    columns: dict[str, dict[str, Any]] = {
        "size": {"type": "number", "min": 0, "max": 10},
        "wind": {"type": "number", "null": True},
        "place": {"type": "category", "values": ["north", "south"]},
        "name": {"type": "text", "max_length": 3, "null": True},
    }
    table = pd.DataFrame(
        {
            "size": [0.0, 10.0, 10.5, -0.5, None],
            "wind": [None, 1.0, 1.0, 1.0, 1.0],
            "place": ["north", "south", "east", "north", None],
            "name": ["abc", None, "abcd", "a", "a"],
        }
    )
    size, place = "must be a finite number, min 0, max 10", "must be one of north, south"
    ready, problems = score_batch.check_table(table, columns)
    assert problems.tolist() == [
        "",
        "",
        f"size is 10.5, {size}; place is 'east', {place}; name is 'abcd', must be text, 3 characters at most",
        f"size is -0.5, {size}",
        f"size is missing, {size}; place is missing, {place}",
    ]
    pd.testing.assert_frame_equal(ready[["size", "wind"]], table[["size", "wind"]])
