"""Data preparation on rows that nobody thought of: whatever the contract lets pass is prepared, and alike everywhere."""

import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flight_delays import data, features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlops_ladder.data.joined import as_rows
from mlops_ladder.data.rows import as_records
from mlops_ladder.serving.contract import Contract, Unanswerable
from mlops_ladder.serving.score_batch import check_table
from projects import FLIGHTS

COLUMNS = {name: data.SCHEMA[name] for name in features.COLUMNS}
CONTRACT = Contract(FLIGHTS, COLUMNS)
QUICK = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def cells(rule: dict[str, Any], wild: bool) -> st.SearchStrategy[Any]:
    """Return values of a column: those that its rule allows or, WILD, others of its type too."""
    text = st.text("aZ0 -_.,'\"\\\n/é漢🛫", max_size=8)
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "number": st.floats(
            min_value=None if wild else rule.get("min", -1e9),
            max_value=None if wild else rule.get("max", 1e9),
            allow_nan=False,
            allow_infinity=wild,
        ),
        "time": st.datetimes(pd.Timestamp("1900-01-01"), pd.Timestamp("2200-01-01")),
        "boolean": st.booleans(),
    }
    made = kinds.get(rule["type"], text)
    if "values" in rule:
        made = st.sampled_from(rule["values"]) | (made if wild else st.nothing())
    return made | st.none() if rule.get("null") or wild else made


def tables(wild: bool = False) -> st.SearchStrategy[pd.DataFrame]:
    """Return tables of one row to eight with the model's columns, in the types of a parquet file."""
    row = st.fixed_dictionaries({name: cells(rule, wild) for name, rule in COLUMNS.items()})
    types = {"number": "float64", "time": "datetime64[us]", "boolean": "object"}
    return st.lists(row, min_size=1, max_size=5).map(
        lambda rows: pd.DataFrame(rows, columns=list(COLUMNS)).astype(
            {name: types.get(rule["type"], "str") for name, rule in COLUMNS.items()}
        )
    )


@pytest.mark.practice("tests-for-all-code")
@QUICK
@given(tables())
def test_a_row_alone_is_prepared_as_in_a_batch(table: pd.DataFrame) -> None:
    batch = features.build(as_rows(FLIGHTS, table, COLUMNS))
    assert list(batch) == features.CATEGORIES + features.NUMBERS and batch.index.equals(table.index)
    assert not np.isinf(batch[features.NUMBERS].astype("float64")).any(axis=None)
    alone = [features.build(as_rows(FLIGHTS, table.iloc[[number]], COLUMNS)) for number in range(len(table))]
    with warnings.catch_warnings(action="ignore"):
        pd.testing.assert_frame_equal(pd.concat(alone), batch)


@pytest.mark.practice("tests-for-all-code", "batch-scoring-pipeline")
@QUICK
@given(tables())
def test_a_file_and_a_request_are_prepared_alike(table: pd.DataFrame) -> None:
    from_file, problems = check_table(table, COLUMNS)
    assert not any(problems)
    pd.testing.assert_frame_equal(from_file, as_rows(FLIGHTS, table, COLUMNS))
    sent = CONTRACT.table(CONTRACT.parse(json.dumps(as_records(table)).encode()))
    pd.testing.assert_frame_equal(features.build(sent), features.build(from_file), rtol=1e-12)


@pytest.mark.practice("tests-for-all-code", "batch-scoring-pipeline")
@QUICK
@given(tables(wild=True))
def test_a_batch_rejects_the_rows_that_the_service_refuses(table: pd.DataFrame) -> None:
    _, problems = check_table(table, COLUMNS)
    for record, problem in zip(table.astype("object").to_dict(orient="records"), problems, strict=True):
        plain = {name: None if pd.isna(value) else value for name, value in record.items()}
        try:
            CONTRACT.parse(json.dumps(plain, default=lambda moment: moment.isoformat()).encode())
            refused = False
        except Unanswerable:
            refused = True
        assert refused == bool(problem), (problem, plain)
