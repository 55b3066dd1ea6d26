"""Rows are split by time or, without one, by a hash: the same row is always in the same part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_project
from mlops_ladder.core import commands
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.core.project import Project
from mlops_ladder.data import split
from mlops_ladder.training import handoff, stages, tracking
from projects import FLIGHTS
from small_project import coins, configure


@pytest.fixture
def timeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """300 coins: no time, no slices, no categories, one feature, nothing missing."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.library()  # or rows would be validated in a process of its own, which these modules are not in
    project = small_project.make(tmp_path / "coins", coins())
    monkeypatch.chdir(project.folder)
    return project


def run(project: Project, capsys: pytest.CaptureFixture[str], *words: str, exit_code: int = 0) -> Any:
    capsys.readouterr()
    code = commands.main(project, list(words))
    said = capsys.readouterr()
    assert code == exit_code, said.err
    return json.loads(said.out) if "--json" in words and said.out else said.out + said.err


def hashed(**keys: Any) -> split.Split:
    return split.Split("coin", "hash", cuts=("0.6", "0.75"), **keys)


def test_a_row_stays_in_its_part_whatever_rows_come_later() -> None:
    few, many = hashed().cut(coins(200)), hashed().cut(pd.concat([coins(200), coins(900).tail(700)]))
    for name, part in few.items():
        assert set(part["coin"]) <= set(many[name]["coin"]) and len(part)
    shares = {name: round(len(part) / 900, 1) for name, part in many.items()}
    assert shares == {"train": 0.6, "validation": 0.1, "test": 0.2} or sum(shares.values()) == pytest.approx(1, abs=0.1)
    other = hashed(seed=1).cut(coins(200))
    assert set(other["test"]["coin"]) != set(few["test"]["coin"])


def test_the_split_is_not_the_sample_again() -> None:
    """A tenth of the rows, picked by key as for a pull request, has rows in each part."""
    rows = stages.sample(
        Project("coins", Path(), modules={"data": type("data", (), {"KEY": "coin"})}), coins(2000), 0.1
    )
    assert all(len(part) > 5 for part in hashed().cut(rows).values())


def test_rows_of_one_group_are_never_in_two_parts() -> None:
    parts = hashed(group="owner").cut(coins(2000))
    owners = [set(part["owner"]) for part in parts.values()]
    assert all(owners) and not owners[0] & owners[1] and not (owners[0] | owners[1]) & owners[2]
    lonely = coins(2000).assign(owner=None)
    assert all(len(part) > 100 for part in hashed(group="owner").cut(lonely).values()), "each is a group of its own"


def test_by_time_a_group_that_reaches_over_a_cut_stays_in_the_earlier_part() -> None:
    rows = pd.DataFrame({"at": pd.date_range("2024-01-01", periods=10), "of": [*"abcdabefgh"]})
    parts = split.Split("at", group="of", cuts=("2024-01-05", "2024-01-08")).cut(rows)
    assert {name: "".join(part["of"]) for name, part in parts.items()} == {
        "train": "abcd",
        "validation": "e",
        "test": "fgh",
    }


def test_what_a_model_has_not_seen_is_told_by_its_own_split() -> None:
    rows = coins(1000)
    later = hashed().cut(rows)["test"]
    assert hashed().unseen(later).all()
    assert 0.3 < hashed(seed=1).unseen(later).mean() < 0.5
    assert not split.Split("at", cuts=("2024-01-01",) * 2).unseen(later).any(), "another table: nobody knows"


def test_what_a_model_learned_from_is_told_row_by_row() -> None:
    rows = pd.DataFrame({"at": pd.date_range("2024-01-01", periods=10), "of": [*"abcdabefgh"]})
    cuts = ("2024-01-05", "2024-01-08")
    assert list(split.Split("at", cuts=cuts).unseen(rows)) == [False] * 4 + [True] * 6
    by_group = split.Split("at", group="of", cuts=cuts)
    assert list(by_group.unseen(rows)) == [False] * 6 + [True] * 4, "of a and b it saw earlier rows"
    earlier = pd.DataFrame({"at": [pd.Timestamp("2023-12-01"), pd.Timestamp("2024-01-09")], "of": ["h", "g"]})
    assert list(by_group.unseen(rows, earlier)) == [False] * 6 + [True] * 3 + [False]


def test_a_split_from_before_there_was_a_choice_is_by_time() -> None:
    old = split.read(FLIGHTS, {"cuts": ["2013-06-01", "2013-09-01"], "sample": 1.0})
    assert (old.column, old.by_time) == (FLIGHTS.data.TIME, True)


def test_a_table_without_a_time_is_trained_on_and_each_report_says_which_split(
    timeless: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = run(timeless, capsys, "train", "--json", "--report", str(tmp_path / "report.md"))
    counts = ", ".join(f"{n:,} {name}" for name, n in result["rows"].items())
    assert result["split"] == f"split by the hash of coin, seed 0: {counts}"
    assert sum(result["rows"].values()) == 300 and result["version"] == "1"
    assert result["split"] in (tmp_path / "report.md").read_text()
    note = (timeless.folder / "models/candidate/evaluation/HANDOFF.md").read_text()
    assert "that the hash of coin picks" in note

    assert result["split"] in run(timeless, capsys, "train")
    again = run(timeless, capsys, "train", "--json", "--set", "split_seed=3")
    assert again["rows"] != result["rows"] and "seed 3" in again["split"]
    assert run(timeless, capsys, "promote", "1", "--reason", "good", "--json")
    compared = run(timeless, capsys, "train", "--json", "--set", "parameters.C=0.1")["champion"]
    assert compared["saw_rows"] is False
    other = run(timeless, capsys, "train", "--json", "--set", "parameters.C=0.2", "--set", "split_seed=4")
    assert other["champion"]["saw_rows"] is True, "the champion learned from rows of this test"
    assert "no time" in run(timeless, capsys, "datasets")


def test_a_handed_over_model_of_a_table_without_a_time_is_checked(
    timeless: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    run(timeless, capsys, "ingest")
    rows = timeless.data.read("data/raw")
    train, held_out = split.holdout(timeless, rows)
    fitted = timeless.model.make().fit(timeless.features.build(train), train["heavy"])
    handoff.hand_over(timeless, fitted, train, held_out)
    said = run(timeless, capsys, "check-handoff", "models/model.skops")
    assert f"{len(held_out)} held out, other than the {len(train)} of training" in said
    handoff.hand_over(timeless, fitted, rows, held_out)
    assert "are not other than" in run(timeless, capsys, "check-handoff", "models/model.skops", exit_code=3)
    assert run(timeless, capsys, "prepare") and [file.name for file in Path("data/prepared").iterdir()] == [
        "all.parquet"
    ]
    assert "needs the time of each row" in run(timeless, capsys, "ingest", "--since", "2013-06", exit_code=1)


def test_a_split_that_lacks_a_class_names_the_keys_that_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = coins(300)
    few = small_project.make(tmp_path / "few", rows.assign(heavy=np.arange(300) == 7))
    said = run(few, capsys, "train", exit_code=1)
    assert "split_seed" in said and "in conf/training.yml" in said and "none whose heavy is True" in said
    configure(few.folder, "validation", min_rows=1000)
    said = run(few, capsys, "train", exit_code=3)
    assert "min_rows, max_rows, conf/validation.yml" in said and "SCHEMA in data.py or conf/validation.yml" in said


def test_what_needs_a_time_is_refused_without_in_one_line(timeless: Project) -> None:
    assert split.time_column(timeless) is None
    with pytest.raises(ProjectError, match="TIME in data.py is None"):
        split.need_time(timeless, "a feature table")
