"""Rows without a time: they are of the moment when they arrived, for retraining, triggers and a replay."""

import argparse
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import small_project
from mlops_ladder.core import commands
from mlops_ladder.core.project import Project
from mlops_ladder.data import data_sets, store
from mlops_ladder.loop import feedback, prediction_log, retrain, simulate, triggers
from small_project import coins


@pytest.fixture
def timeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """300 gathered coins, and the labels of 100 others that callers asked about."""
    project = small_project.make(tmp_path / "coins", coins())
    monkeypatch.chdir(project.folder)
    assert commands.main(project, ["ingest"]) == 0
    log, asked = prediction_log.open_log(project), coins(400).tail(100)
    known = asked[["coin", "size", "heavy"]].to_dict(orient="records")
    log.write(
        {"request_id": f"r{number}", "key": row["coin"], "prediction": 0.5, "inputs": {"size": row["size"]}}
        for number, row in enumerate(known)
    )
    feedback.add_labels(log, [{"key": row["coin"], "label": float(row["heavy"])} for row in known])
    return project


def test_retraining_learns_from_what_was_gathered_and_what_was_labelled(timeless: Project) -> None:
    conf = store.read(timeless)
    retrain.make(timeless, conf)
    folder = conf.home / retrain.DATASET
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*.parquet")}
    assert files == {f"{data_sets.ROWS}/all.parquet", f"{retrain.ASIDE}/all.parquet"}
    rows = pd.concat([pd.read_parquet(folder / file) for file in files])
    assert len(rows) == 400 and rows["coin"].is_unique and rows["heavy"].dtype == bool


def test_the_newest_labelled_row_is_the_one_that_was_asked_last(timeless: Project) -> None:
    now = prediction_log.now()
    count, newest = triggers.labels(triggers.database(timeless), now - timedelta(hours=1), None)
    assert count == 100 and newest is not None and now - timedelta(minutes=10) < newest <= now


def test_a_replay_spreads_rows_evenly_over_the_days_that_are_asked_for(timeless: Project) -> None:
    options = argparse.Namespace(
        rows=Path("data/sample"), since=datetime(2024, 1, 1), until=datetime(2024, 1, 6), days=10, share=1, seed=0
    )
    rows, moments = simulate.read(timeless, options, [simulate.Shift("size", 5, datetime(2024, 1, 3))], [])
    assert len(rows) == len(moments) == 150
    assert moments.iloc[[0, 30]].tolist() == [pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-02")]
    assert rows["size"].head(60).mean() < 2 < rows["size"].tail(90).mean()
