"""What the runtime relies on though DVC and MLflow do not promise it: each fails on a version in which that changed."""

import inspect
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dvc.data_cloud import DataCloud
from dvc.repo import reproduce
from dvc.stage import Stage
from dvc.stage.cache import RunCacheNotFoundError, StageCache
from dvc_data.hashfile import load
from dvc_data.hashfile.db.local import LocalHashFileDB
from dvc_data.hashfile.hash_info import HashInfo
from mlflow.tracking._tracking_service import utils
from mlops_ladder.training import tracking


@pytest.mark.parametrize(
    ("function", "taken"),
    [
        (reproduce._reproduce, {"stages", "repro_fn"}),  # dvc_pipeline hands it a function that runs a stage here
        (reproduce._reproduce_stage, {"stage", "kwargs"}),
        (Stage.changed, {"upstream"}),
        (Stage.save, set()),
        (Stage.commit, set()),
        (Stage.dump, {"kwargs"}),
        (Stage.remove_outs, set()),
        (StageCache.restore, {"stage"}),
        (DataCloud.push, {"objs"}),
        (DataCloud.pull, {"objs"}),
        (load, {"odb", "hash_info"}),
        (LocalHashFileDB.oid_to_path, {"oid"}),
        (HashInfo, {"name", "value"}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_dvc_takes_what_it_is_handed(function: Any, taken: set[str]) -> None:
    assert taken <= set(inspect.signature(function).parameters)


def test_dvc_says_by_this_error_that_a_stage_was_not_run_before() -> None:
    assert issubclass(RunCacheNotFoundError, Exception)
    assert "RunCacheNotFoundError" in inspect.getsource(StageCache.restore)


def test_mlflow_remembers_places_of_artifacts_where_they_are_forgotten() -> None:
    assert isinstance(utils._artifact_repos_cache, dict), "connect clears it: a copied store would use the original's"


def test_each_place_of_an_artifact_in_mlflows_tables_is_known(trained: Path) -> None:
    """Or a moved project would leave it behind."""
    naming = set()
    with closing(sqlite3.connect(trained / "mlflow.db")) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for column in [row[1] for row in database.execute(f"PRAGMA table_info({table})")]:
                found = database.execute(f'SELECT 1 FROM {table} WHERE instr("{column}", ?)', (str(trained.parent),))
                naming |= {(table, column)} if found.fetchone() else set()
    assert naming == {(table, column) for table, columns in tracking.PLACES.items() for column in columns}
