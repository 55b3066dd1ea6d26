"""`prepare` turns the gathered rows into the model's inputs, the same at each run."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from flight_delays import data, features
from flight_delays.__main__ import main
from projects import ROOT, python_path

PREPARED = Path("data/prepared")


def state() -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in PREPARED.iterdir()}


@pytest.mark.practice("data-preparation-pipeline")
def test_prepared_rows_are_the_inputs_with_key_time_and_target(workdir: Path) -> None:
    assert main(["prepare"]) == 0
    prepared, rows = pd.read_parquet(PREPARED), data.read()
    months = rows[data.TIME].dt.strftime("%Y-%m.parquet").unique()
    assert sorted(state()) == sorted(months) and len(months) == 3
    pd.testing.assert_frame_equal(prepared[features.CATEGORIES + features.NUMBERS], features.build(rows))
    for name in (data.KEY, data.TIME, data.TARGET):
        assert prepared[name].equals(rows[name])


@pytest.mark.practice("data-preparation-pipeline")
def test_a_second_run_writes_what_differs_and_nothing_else(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare"]) == 0
    before = state()
    assert main(["prepare"]) == 0
    assert state() == before
    gone, edited, _ = sorted((workdir / "data/raw").iterdir())
    gone.unlink()
    pd.read_parquet(edited).iloc[1:].to_parquet(edited)
    capsys.readouterr()
    assert main(["prepare"]) == 0
    told = capsys.readouterr().out
    assert f"prepared {len(data.read()):,} rows, " in told and "1 files new or changed" in told
    after = state()
    _, second, third = sorted(before)
    assert sorted(after) == [second, third]
    assert after[second] != before[second]
    assert after[third] == before[third]


def test_without_rows_it_says_what_to_do(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (workdir / "data/raw").iterdir():
        file.unlink()
    assert main(["prepare"]) == 1
    assert "no .parquet file in data/raw" in capsys.readouterr().err


def test_a_full_disk_leaves_what_was_prepared(workdir: Path) -> None:
    resource = pytest.importorskip("resource", reason="not run: Windows cannot limit a process's files")
    assert main(["prepare"]) == 0
    before = state()
    for file in (workdir / "data/raw").iterdir():
        pd.read_parquet(file).iloc[1:].to_parquet(file)
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # it writes, too
    done = subprocess.run(
        [sys.executable, "-m", "flight_delays", "prepare"],
        env=unmeasured | {"PYTHONPATH": python_path(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert state() == before
