"""What `validate` lets pass and what it refuses: a case of both for each kind of expectation, on a table of its own."""

import contextlib
import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flight_delays import data, features
from flight_delays.__main__ import main
from mlops_ladder.core.errors import ProjectError, Refused
from mlops_ladder.data import data_sets
from mlops_ladder.data.validate import Report, Validation, check_schema, stop_bad, validate, write_report
from mlops_ladder.training import pipeline, stages
from projects import FLIGHTS

LIMITS = Validation(min_rows=20, max_rows=60, max_missing=0.5, as_of="newest", max_age_days=3, examples=2)
SCHEMA: dict[str, dict[str, Any]] = {
    "id": {"type": "text", "unique": True},
    "at": {"type": "time"},
    "place": {"type": "category", "values": ["north", "south"]},
    "size": {"type": "number", "min": 0, "max": 10},
    "wind": {"type": "number", "null": True},
    "good": {"type": "boolean"},
}


@pytest.fixture(autouse=True)
def own_table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for data.py and features.py, except in tests of the command, which work on the project's own."""
    if {"workdir", "workplace"} & {*request.fixturenames}:
        return
    for name, value in {"TARGET": "good", "KEY": "id", "TIME": "at", "SLICES": ["place"], "LEAKS": ["late"]}.items():
        monkeypatch.setattr(data, name, value)
    monkeypatch.setattr(data, "SCHEMA", SCHEMA)
    monkeypatch.setattr(features, "COLUMNS", ["at", "place", "size", "wind"])
    monkeypatch.setattr(features, "CATEGORIES", ["place"])
    monkeypatch.setattr(features, "NUMBERS", ["size", "wind"])


def table(n_rows: int = 40) -> pd.DataFrame:
    """Return rows that hold all of SCHEMA and LIMITS."""
    return pd.DataFrame(
        {
            "id": [f"r{n}" for n in range(n_rows)],
            "at": pd.date_range("2024-01-01", periods=n_rows, freq="h", unit="us"),
            "place": ["north", "south"] * (n_rows // 2) + ["north"] * (n_rows % 2),
            "size": np.linspace(0.5, 9.5, n_rows),
            "wind": np.linspace(-3, 3, n_rows),
            "good": [True, False] * (n_rows // 2) + [True] * (n_rows % 2),
        }
    )


def cell(column: str, value: Any, row: int = 7) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return a change of one cell."""

    def change(rows: pd.DataFrame) -> pd.DataFrame:
        if not isinstance(value, float | pd.Timestamp):
            rows[column] = rows[column].astype("object")
        rows.loc[row, column] = value
        return rows

    return change


def missing(share: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows.assign(wind=rows["wind"].where(np.arange(len(rows)) >= share * len(rows)))


def column(name: str, dtype: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows.astype({name: dtype})


FAR = pd.Timestamp("2999-01-01")
TYPE = "expect_column_values_to_be_in_type_list"
RANGE = "expect_column_values_to_be_between"
NULL = "expect_column_values_to_not_be_null"
VALUES = "expect_column_values_to_be_in_set"
TWICE = "unique_column_names"
COUNT = "expect_table_row_count_to_be_between"
VARIES = "expect_column_unique_value_count_to_be_between"
BREACHES = {
    "a column that is absent": (lambda rows: rows.drop(columns="size"), "size", "expect_column_to_exist", 0),
    "a column that stands twice": (lambda rows: rows.assign(x=1).set_axis([*rows, "wind"], axis=1), "wind", TWICE, 0),
    "a word for a number": (cell("size", "big"), "size", TYPE, 1),
    "a truth for a number": (column("size", "bool"), "size", TYPE, 0),
    "numbers held as text": (column("size", "str"), "size", TYPE, 40),
    "a word for a time": (cell("at", "soon"), "at", TYPE, 1),
    "times held as text": (column("at", "str"), "at", TYPE, 40),
    "a number for a category": (cell("place", 5), "place", TYPE, 1),
    "a number for a text": (cell("id", 5), "id", TYPE, 1),
    "a word for a boolean": (cell("good", "yes"), "good", TYPE, 1),
    "numbers for a boolean": (column("good", "int64"), "good", TYPE, 40),
    "a number below its minimum": (cell("size", -0.1), "size", RANGE, 1),
    "a number above its maximum": (cell("size", 10.1), "size", RANGE, 1),
    "an infinite number": (cell("wind", -np.inf), "wind", RANGE, 1),
    "a missing number": (cell("size", np.nan), "size", NULL, 1),
    "a missing text": (cell("id", None), "id", NULL, 1),
    "a text that is too long": (cell("id", "x" * 1001), "id", "expect_column_value_lengths_to_be_between", 1),
    "a missing time": (cell("at", pd.NaT), "at", NULL, 1),
    "a missing target": (cell("good", None), "good", NULL, 1),
    "more missing than may be": (missing(0.6), "wind", NULL, 24),
    "an unknown category": (cell("place", "east"), "place", VALUES, 1),
    "a key that stands twice": (cell("id", "r6"), "id", "expect_column_values_to_be_unique", 2),
    "rows out of time order": (lambda rows: rows.iloc[::-1], "at", "expect_column_values_to_be_increasing", 39),
    "a row of the future": (cell("at", FAR, row=39), "at", RANGE, 1),
    "too few rows": (lambda rows: rows.head(19), "rows", COUNT, 0),
    "no row": (lambda rows: rows.head(0), "rows", COUNT, 0),
    "too many rows": (lambda rows: table(61), "rows", COUNT, 0),
    "a target that never varies": (lambda rows: rows.assign(good=True), "good", VARIES, 0),
}
FINE = {
    "the table as it is": lambda rows: rows,
    "a number at its minimum": cell("size", 0.0),
    "a number at its maximum": cell("size", 10.0),
    "whole numbers": lambda rows: rows.assign(size=rows["size"].astype("int64")),
    "numbers that may be missing, by type": column("size", "Float64"),
    "short numbers": column("size", "float32"),
    "a missing number where it may be": cell("wind", np.nan),
    "as many missing as may be": missing(0.5),
    "a category by type": column("place", "category"),
    "text as objects": column("id", "object"),
    "a boolean that may be missing, by type": column("good", "boolean"),
    "times with a zone": lambda rows: rows.assign(at=rows["at"].dt.tz_localize("America/New_York")),
    "times with a zone, on the night it goes back an hour": lambda rows: rows.assign(
        at=pd.date_range("2023-11-04 12:00", periods=len(rows), freq="h", tz="America/New_York", unit="us")
    ),
    "a time before nanoseconds": cell("at", pd.Timestamp("0101-01-01"), row=0),
    "two rows of one time": cell("at", pd.Timestamp("2024-01-01 06:00")),
    "as few rows as may be": lambda rows: rows.head(20),
    "as many rows as may be": lambda rows: table(60),
    "a column that SCHEMA does not know": lambda rows: rows.assign(late=1),
    "an index of its own": lambda rows: rows.set_index(rows["id"] + "x"),
}


def failed(report: Report) -> list[tuple[str, str, int]]:
    return [(check.column, check.expectation, check.count) for check in report.breaches]


@pytest.mark.practice("data-validation")
@pytest.mark.parametrize("kind", BREACHES)
def test_bad_rows_are_refused_with_column_expectation_and_count(kind: str) -> None:
    change, *expected = BREACHES[kind]
    assert tuple(expected) in failed(validate(FLIGHTS, change(table()), LIMITS))


@pytest.mark.practice("data-validation")
@pytest.mark.parametrize("kind", FINE)
def test_good_rows_pass(kind: str) -> None:
    assert failed(validate(FLIGHTS, FINE[kind](table()), LIMITS)) == []


@pytest.mark.practice("data-validation")
@pytest.mark.parametrize(("as_of", "fresh"), [("2024-01-05 15:00", True), ("2024-01-05 16:00", False)])
def test_rows_are_refused_once_the_newest_is_too_old(as_of: str, fresh: bool) -> None:
    found = failed(
        validate(FLIGHTS, table(), LIMITS, as_of=pd.Timestamp(as_of))
    )  # the newest row is of January 2, 15:00
    assert found == ([] if fresh else [("at", "expect_column_max_to_be_between", 0)])


@pytest.mark.practice("data-validation")
@pytest.mark.parametrize(("most", "share"), [(0.2, 0.2), (0.2, 0.25), (0.8, 0.75), (0.8, 0.9)])
def test_as_many_may_be_missing_as_the_limit_says_and_no_more(most: float, share: float) -> None:
    found = failed(validate(FLIGHTS, missing(share)(table()), LIMITS.model_copy(update={"max_missing": most})))
    assert found == ([("wind", NULL, int(share * 40))] if share > most else [])


@pytest.mark.practice("data-validation")
@pytest.mark.parametrize(("most", "passes"), [(0.25, True), (0.2, False)])
def test_rows_that_say_what_others_say_are_refused_above_their_share(most: float, passes: bool) -> None:
    again = table(30).head(10).assign(id=[f"again{n}" for n in range(10)])
    rows = pd.concat([table(30), again]).sort_values("at", kind="stable", ignore_index=True)
    found = failed(validate(FLIGHTS, rows, LIMITS.model_copy(update={"max_repeated": most})))
    assert found == ([] if passes else [("rows", "no_repeated_rows", 10)])


def test_rows_later_than_as_of_are_of_the_future() -> None:
    found = failed(validate(FLIGHTS, table(), LIMITS, as_of=pd.Timestamp("2024-01-02 12:30")))
    assert found == [("at", RANGE, 3)]


def test_old_rows_are_refused_where_now_is_today_and_not_where_it_is_the_newest_row() -> None:
    live = LIMITS.model_copy(update={"as_of": "today"})
    assert failed(validate(FLIGHTS, table(), live)) == [("at", "expect_column_max_to_be_between", 0)]
    moved = table().assign(at=lambda rows: rows["at"] + (pd.Timestamp.now().floor("s") - rows["at"].max()))
    assert failed(validate(FLIGHTS, moved, live)) == []


@pytest.mark.parametrize(("where", "name"), [("COLUMNS", "good"), ("COLUMNS", "late"), ("NUMBERS", "late")])
def test_an_input_that_is_known_too_late_is_refused(where: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, where, [*getattr(features, where), name])
    assert failed(validate(FLIGHTS, table(), LIMITS)) == [(name, "no_target_leakage", 0)]


def test_the_rows_stay_as_they_are() -> None:
    rows = cell("size", "big")(table()).set_index("id", drop=False)
    before = rows.copy(deep=True)
    validate(FLIGHTS, rows, LIMITS)
    pd.testing.assert_frame_equal(rows, before)


def test_rows_to_score_need_neither_number_nor_order_nor_a_past() -> None:
    schema = {name: SCHEMA[name] for name in features.COLUMNS}
    rows = table()[features.COLUMNS].iloc[[7]].assign(at=FAR, wind=np.nan)
    assert failed(validate(FLIGHTS, rows, LIMITS, schema=schema)) == []
    found = failed(validate(FLIGHTS, rows.assign(place="east", size=-1.0), LIMITS, schema=schema))
    assert found == [("place", VALUES, 1), ("size", RANGE, 1)]


def test_the_report_shows_the_rows_and_takes_their_text_for_text(tmp_path: Path) -> None:
    report = validate(FLIGHTS, cell("place", "<script>alert(1)</script>")(table()), LIMITS, source="May & June")
    with pytest.raises(
        Refused, match=r"place must be one of north, south: 1 of 40 rows .*\n *row 7, id r7, place <script"
    ):
        write_report(report, tmp_path / "new/report.html")
    page = (tmp_path / "new/report.html").read_text(encoding="utf-8")
    assert "row 7, id r7, place &lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page
    assert "http:" not in page and "https:" not in page and "May &amp; June" in page
    content = json.loads((tmp_path / "new/report.json").read_text(encoding="utf-8"))
    assert [check["column"] for check in content["checks"] if not check["passed"]] == ["place"]


def test_only_so_many_example_rows_are_shown() -> None:
    [check] = validate(FLIGHTS, column("size", "str")(table()), LIMITS).breaches
    assert [example.partition(",")[0] for example in check.examples] == ["row 0", "row 1"]


def test_validation_calls_nobody_and_writes_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    called = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: called.append(address))
    monkeypatch.chdir(tmp_path)
    validate(FLIGHTS, table(), LIMITS)
    assert called == [] and list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


WRONG = {
    "an unknown type": ({"size": {"type": "integer"}}, r"size\.type: .*'number'.*'integer'"),
    "no type": ({"size": {"min": 0}}, r"size\.type: Field required"),
    "an unknown key": ({"size": {"type": "number", "maximum": 3}}, r"size\.maximum: Extra inputs"),
    "a minimum above the maximum": ({"size": {"type": "number", "min": 9, "max": 3}}, "size: .*min 9 is above max 3"),
    "a bound on a text": ({"id": {"type": "text", "max": 3}}, "id: .*min and max are for a number, not for a text"),
    "a bound that is no number": ({"size": {"type": "number", "min": "0"}}, r"size\.min: .*'0'"),
    "no value allowed": ({"place": {"type": "category", "values": []}}, r"place\.values: .*at least 1"),
    "a word for a truth": ({"size": {"type": "number", "null": "yes"}}, r"size\.null: .*'yes'"),
    "a time that is none": ({"at": {"type": "text"}}, "TIME is at, in SCHEMA a text"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_schema_is_an_error_that_names_the_column(kind: str) -> None:
    change, message = WRONG[kind]
    with pytest.raises(ProjectError, match=message) as error:
        check_schema(FLIGHTS, SCHEMA | change)
    assert error.value.exit_code == 1


@pytest.mark.parametrize("name", ["good", "id", "at", "place", "wind"])
def test_a_column_that_the_project_names_must_stand_in_the_schema(name: str) -> None:
    with pytest.raises(ProjectError, match=f"names {name}, which SCHEMA"):
        check_schema(FLIGHTS, {key: rule for key, rule in SCHEMA.items() if key != name})


def test_a_schema_that_holds_a_column_twice_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "data.py"
    source.write_text(
        'SCHEMA = {\n    "size": {"type": "number"},\n    "size": {"type": "text"},\n}\n', encoding="utf-8"
    )
    with pytest.raises(ProjectError, match=r"data\.py, line 1: 'size' stands there twice"):
        check_schema(replace(FLIGHTS, source=tmp_path), SCHEMA)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.practice("data-validation")
def test_the_gathered_rows_pass_and_stay_as_they_are(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(workdir)
    assert main(["validate"]) == 0
    assert "expectations hold on" in capsys.readouterr().out
    after = snapshot(workdir)
    assert after.keys() - before.keys() == {"data/validation.html", "data/validation.json"}
    assert {name: after[name] for name in before} == before


@pytest.mark.practice("data-validation")
def test_bad_rows_end_the_command_with_3_and_change_nothing_else(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = data.read("data/raw")
    monkeypatch.setitem(data.SCHEMA, data.KEY, {**data.SCHEMA[data.KEY], "values": rows[data.KEY].tolist()[2:]})
    before = snapshot(workdir)
    assert main(["validate", "--json"]) == 3
    out, err = capsys.readouterr()
    assert f"2 of {len(rows):,} rows (expect_column_values_to_be_in_set)" in err
    assert f"row 1, {data.KEY} {rows[data.KEY][1]}" in err
    [breach] = [check for check in json.loads(out)["checks"] if not check["passed"]]
    assert (breach["column"], breach["count"]) == (data.KEY, 2)
    after = snapshot(workdir)
    assert after.keys() - before.keys() == {"data/validation.html", "data/validation.json"}
    assert {name: after[name] for name in before} == before


@pytest.mark.practice("data-validation")
def test_the_pipelines_stage_stops_on_what_the_configuration_refuses(workdir: Path) -> None:
    rows = data.read("data/raw")
    stop_bad(FLIGHTS, rows, "raw")
    conf = workdir / "conf/validation.yml"
    conf.write_text(
        conf.read_text(encoding="utf-8").replace("min_rows: 1000", "min_rows: 10_000_000"), encoding="utf-8"
    )
    with pytest.raises(Refused, match="rows must be 10,000,000 to"):
        stop_bad(FLIGHTS, rows, "raw")
    assert "10,000,000" in (workdir / "data/pipeline/validation.html").read_text(encoding="utf-8")


def test_one_file_is_checked_alone(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, *_ = sorted((workdir / "data/raw").iterdir())
    alone = workdir / "alone"
    alone.mkdir()
    shutil.copy(file, alone)
    rows = len(data.read(alone))
    assert main(["validate", "--file", str(file)]) == 0
    assert f"{rows:,} rows of {file}" in capsys.readouterr().out


def test_a_half_written_file_is_refused(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, *_ = sorted((workdir / "data/raw").iterdir())
    half = workdir / f"half{file.suffix}"
    half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert main(["validate", "--file", str(half)]) == 3
    assert f"fails on {half}" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["--file", "absent"], 2), (["--file", "note.txt"], 1)])
def test_a_file_that_cannot_be_read_is_an_error(words: list[str], code: int, workdir: Path) -> None:
    (workdir / "note.txt").write_text("no rows here", encoding="utf-8")
    assert main(["validate", *words]) == code


def test_a_store_without_rows_is_an_error(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(workdir / "data/raw")
    assert main(["validate"]) == 1
    assert "data/raw" in capsys.readouterr().err


def test_a_moment_that_is_none_is_a_usage_error(workdir: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["validate", "--as-of", "sometime"])


@pytest.mark.practice("data-validation")
def test_a_breach_stops_the_pipeline_and_leaves_data_versions_runs_and_registry_as_they_were(
    workplace: Path, run: Any, trained: Path
) -> None:
    shutil.copy(trained / "mlflow.db", workplace)
    run("train")
    before = [run("datasets", "--json"), run("runs", "--json"), (workplace / "mlflow.db").read_bytes()]
    doubled = shutil.copytree(workplace / "data/raw", workplace / "data/doubled")
    newest = max(doubled.iterdir())
    shutil.copy(newest, newest.with_stem(f"{newest.stem}-again"))  # each key of it stands twice now
    assert f"{data.KEY} must be unique" in run("train", "--data", "doubled", exit_code=3)
    assert [run("datasets", "--json"), run("runs", "--json"), (workplace / "mlflow.db").read_bytes()] == before
    assert ">must be unique</td>" in (workplace / "data/pipeline/validation.html").read_text("utf-8")


@pytest.mark.practice("data-validation")
@pytest.mark.parametrize("n_logged", [0, 40])
def test_callers_may_ask_about_the_same_twice_and_files_may_not_say_it_twice(workdir: Path, n_logged: int) -> None:
    with (workdir / "conf/validation.yml").open("a", encoding="utf-8") as conf:
        conf.write("max_repeated: 0.05\n")
    rows = data.read("data/raw")
    again = rows.head(len(rows) // 4).assign(**{data.KEY: [f"again-{n}" for n in range(len(rows) // 4)]})
    snapshot = Path("data/snapshot")
    (snapshot / data_sets.ROWS).mkdir(parents=True)
    twice = pd.concat([rows, again]).sort_values([data.TIME, data.KEY], ignore_index=True)
    twice.to_parquet(snapshot / data_sets.ROWS / "rows.parquet", index=False)
    (snapshot / data_sets.MADE_OF).write_text(json.dumps({"log": {"rows": n_logged}}))
    Path("data/pipeline").mkdir(exist_ok=True)
    shutil.copy("conf/training.yml", pipeline.SETTINGS)
    with contextlib.nullcontext() if n_logged else pytest.raises(Refused, match="repeat another row"):
        stages.validate_stage(FLIGHTS)
