"""Data versions and the runs made of them: kept, compared, brought back, done again."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from flight_delays import data
from mlops_ladder.training import tracking
from projects import FLIGHTS


def bytes_of(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.practice("data-versioning")
def test_changed_data_is_a_new_version_and_the_old_one_comes_back_bit_by_bit(workplace: Path, run: Any) -> None:
    first = run("train", "--json")["data"]
    before = bytes_of(workplace / "data/raw")
    newest = max((workplace / "data/sample").glob("*.parquet"))
    newest.unlink()
    (workplace / "data/raw" / newest.name).unlink()
    second = run("train", "--json")["data"]
    assert second != first
    assert [one["version"] for one in run("datasets", "--json")] == [name.partition("@")[2] for name in (second, first)]
    for folder in (".dvc/cache", "data/snapshot"):
        shutil.rmtree(folder)  # what is left is the remote
    run("datasets", "--fetch", first[:12], "--to", "back")
    assert bytes_of(Path("back")) == before


@pytest.mark.practice("data-versioning")
def test_versions_are_compared_by_rows_columns_and_ranges(workplace: Path, run: Any) -> None:
    first = run("train", "--json")["data"]
    (workplace / "data/part").mkdir()
    shutil.copy(min((workplace / "data/raw").glob("*")), "data/part")
    second = run("train", "--data", "part", "--json")["data"]
    found = run("datasets", "--compare", first[:12], second[:13], "--json")
    assert found["rows"] == [len(data.read("data/raw")), len(data.read("data/part"))]
    assert f"{data.TIME} max" in found
    assert run("datasets", "--compare", first, first) == "no difference in rows, columns, missing values or ranges\n"
    assert "names 0 data versions" in run("datasets", "--compare", first, "raw@ffffff", exit_code=1)


def test_training_leaves_the_raw_data_as_it_is(trained: Path) -> None:
    assert bytes_of(trained / "data/raw") == bytes_of(trained / "data/sample")


def test_fetching_never_writes_over_what_is_there(workplace: Path, run: Any) -> None:
    version = run("train", "--json")["data"]
    assert "never overwritten" in run("datasets", "--fetch", version, "--to", "data/raw", exit_code=2)


@pytest.mark.practice("reproducible-training")
def test_a_run_is_rebuilt_from_its_commit_and_data_with_no_difference(workplace: Path, run: Any, git: Any) -> None:
    made = run("train", "--json")
    (workplace / "data/raw" / max((workplace / "data/sample").glob("*")).name).unlink()
    file = workplace / "src/flight_delays/features.py"
    file.write_text(file.read_text() + "\nraise RuntimeError('edited since')\n")
    git("commit", "--quiet", "--all", "--message", "Edit")
    _, client = tracking.open_store(FLIGHTS)
    client.log_metric(made["run_id"], "test_" + made["primary"], 0.123)  # as if it had been measured elsewhere
    said = run("reproduce", "1", exit_code=3)
    assert f"test_{made['primary']} differs" in said
    assert f"the other {4 * len(made['metrics']['test']) - 1} metrics are equal" in said
    assert len(client.search_model_versions()) == 1, "it registers nothing"


def test_a_run_with_uncommitted_changes_cannot_be_rebuilt(workplace: Path, run: Any) -> None:
    (workplace / "conf/notes.yml").write_text("a: 1\n")
    run("train")
    assert "uncommitted" in run("reproduce", "1", exit_code=3)
