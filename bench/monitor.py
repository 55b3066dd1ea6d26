"""Measure how `monitor` grows with the prediction log: its time and memory on each number of rows beside a tenth of them.

    nox -s bench -- monitor
    uv run bench/monitor.py --rows 1000000

The held-out rows of a version stand in the log over and over, one prediction a request, four in five of them with their
label; SQLite, as it comes. The project has a time for each row, so a window of 30 days holds them all. 10M rows take 6 GB.
"""

import argparse
import contextlib
import itertools
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from serve import environ
from train import make_project, run

# Held-out rows as a service would have logged them, each once; the database multiplies them.
FIRST = """
from datetime import UTC, datetime, timedelta
from bench_project.__main__ import PROJECT
from mlops_ladder.loop import feedback, prediction_log, references
from mlops_ladder.training import tracking

chosen, client = tracking.open_store(PROJECT)
client.set_registered_model_alias(chosen.model, "champion", "1")
held_out = references.read(PROJECT, client, chosen.model, "1").held_out
log, now = prediction_log.open_log(PROJECT), datetime.now(UTC).replace(tzinfo=None) - timedelta(days=10)
inputs = [name for name in held_out.columns if name in log.columns]
rows, labels = [], []
for number, row in enumerate(held_out.iter_rows(named=True)):
    at = now - timedelta(seconds=number)
    rows.append({"request_id": f"r{number}", "version": "1", "at": at, "prediction": row["prediction"], "seconds": 0.004,
                 "inputs": {name: row[name] for name in inputs}})
    if number % 5:
        labels.append({"request_id": f"r{number}", "row": 0, "label": row["label"], "at": now})
log.write(rows)
feedback.add_labels(log, labels)
"""
MEASURED = """
import resource, sys, time
from bench_project.__main__ import PROJECT
from mlops_ladder.loop import monitor

start = time.perf_counter()
report = monitor.measure(PROJECT)
print(report["window"]["rows"], time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
      sum(one["value"] is not None for one in report["signals"]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="the largest number (default: 10,000,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        python = make_project(folder, 60_000, 4)
        run(folder, [python, "-m", "bench_project", "train"])
        run(folder, [python, "-c", FIRST])
        measured(folder, python)  # it gathers what live traffic is compared with, once a version
        told: list[tuple[int, float, float]] = []
        for n_rows in (options.rows // 100, options.rows // 10, options.rows):
            fill(folder / "data/predictions.db", n_rows)
            n_seen, seconds, mb, n_signals = measured(folder, python)
            print(f"{n_seen:,.0f} rows: {seconds:.1f} s, {mb:.0f} MB, {n_signals:.0f} signals measured", flush=True)
            told.append((n_rows, seconds, mb))
        for (_, before_s, before_mb), (n_rows, seconds, mb) in itertools.pairwise(told):
            grown = f"time {seconds / before_s:.1f} (aim 12), memory {mb / before_mb:.2f} (aim 1.2)"
            print(f"monitor, {n_rows:,} rows / a tenth: {grown}")
    return 0


def fill(file: Path, n_rows: int) -> None:
    """Multiply the first rows in the log until it holds N_ROWS or a few more."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as base:  # a commit each: the WAL stays small
        base.execute("PRAGMA synchronous = OFF")
        names = [row[1] for row in base.execute("PRAGMA table_info(predictions)") if row[1] != "number"]
        (n_first,) = base.execute("SELECT count(*) FROM predictions WHERE instr(request_id, '-') = 0").fetchone()
        (n_there,) = base.execute("SELECT count(*) FROM predictions").fetchone()
        base.execute("CREATE TEMP TABLE first_labels AS SELECT * FROM labels WHERE instr(key, '-') = 0")
        new = {"request_id": "request_id || '-' || n", "key": "request_id || '-' || n || '/0'"}
        parts = ", ".join(f"{new.get(name, chr(34) + name + chr(34))}" for name in names)
        columns = ", ".join(f'"{name}"' for name in names)
        for n in range(n_there // n_first, -(-n_rows // n_first)):
            first = f"FROM (SELECT *, {n} AS n FROM predictions WHERE number <= {n_first})"
            base.execute(f"INSERT INTO predictions ({columns}) SELECT {parts} {first}")
            base.execute(
                "INSERT INTO labels (key, at, label, source, received, confirmed) SELECT "
                f"replace(key, '/0', '-{n}/0'), at, label, source, received, confirmed FROM first_labels"
            )


def measured(folder: Path, python: str) -> list[float]:
    done = subprocess.run(
        [python, "-c", MEASURED], cwd=folder, env=environ(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return [float(one) for one in done.stdout.split()[-4:]]


if __name__ == "__main__":
    sys.exit(main())
