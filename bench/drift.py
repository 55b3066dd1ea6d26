"""Measure drift: 20 columns over 10M rows with `drift`, against evidently in an environment of its own; and growth 1M to 100M.

    nox -s bench -- drift
    uv run bench/drift.py --rows 1000000 --most 0

16 columns of numbers, 4 of categories, a reference of 100,000 rows. Memory is the process's peak. What evidently is asked for is the
same: one test a column, here its own default for so many rows. Its time is that of the comparison, without import and reading.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import copier

ROOT = Path(__file__).resolve().parent.parent
EVIDENTLY = ["evidently==0.7.23", "pandas==2.3.3", "numpy==2.2.6", "pyarrow>=20"]  # it does not import on pandas 3
MAKE = """
import sys

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

rng = np.random.default_rng(0)
for file, n_rows in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    moved = 0 if file == "before" else 0.3
    writer = None
    for start in range(0, n_rows, 1_000_000):
        n = min(1_000_000, n_rows - start)
        told = {f"x{i}": rng.lognormal(size=n) + (moved if i == 3 else 0) for i in range(16)}
        told |= {f"c{i}": pa.DictionaryArray.from_arrays(rng.integers(8, size=n), list("abcdefgh")).cast("string") for i in range(4)}
        table = pa.table(told)
        writer = writer or pq.ParquetWriter(f"{file}.parquet", table.schema)
        writer.write_table(table, row_group_size=100_000)
    writer.close()
"""
SHORTEN = """
import sys
import pyarrow as pa
from pyarrow import parquet as pq

batches = pq.ParquetFile("many.parquet").iter_batches(min(int(sys.argv[1]), 100_000))
pq.write_table(pa.Table.from_batches([next(batches) for _ in range(max(int(sys.argv[1]) // 100_000, 1))]), "theirs.parquet")
"""
OURS = """
import json, resource, sys, time
from bench_project.__main__ import PROJECT
from mlops_ladder.loop import drift
from scipy import stats

start = time.perf_counter()
before = drift.Profile.of(lambda: drift.read(PROJECT, "before.parquet"))
now = before.empty()
for chunk in drift.read(PROJECT, f"{sys.argv[1]}.parquet"):
    now.add(chunk)
found = before.compare(now)
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                  [name for name, one in found.items() if one["drifted"]]]))
"""
THEIRS = """
import json, resource, sys, time
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

before, now = pd.read_parquet("before.parquet"), pd.read_parquet(f"{sys.argv[1]}.parquet")
start = time.perf_counter()
kinds = DataDefinition(numerical_columns=[f"x{i}" for i in range(16)], categorical_columns=[f"c{i}" for i in range(4)])
report = Report([DataDriftPreset()]).run(Dataset.from_pandas(now, kinds), Dataset.from_pandas(before, kinds))
report.dict()
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, []]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="the larger number (default: 10,000,000)")
    parser.add_argument(
        "--theirs", type=int, help="rows evidently is given (default: as many); its time is scaled up to as many"
    )
    parser.add_argument(
        "--most",
        type=int,
        default=100_000_000,
        help="rows to look at growth with, 13 GB of disk; 0: none (default: 100,000,000)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        with warnings.catch_warnings(action="ignore"):
            answers = {"project_name": "Bench project", "level": 4}
            copier.run_copy(str(ROOT), folder, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
        run(folder, ["git", "init", "--quiet"])
        run(folder, ["uv", "sync", "--quiet"])
        run(folder, ["uv", "venv", "--quiet", "--python", "3.11", "theirs"])
        run(folder, ["uv", "pip", "install", "--quiet", "--python", "theirs", *EVIDENTLY])
        ours, theirs = str(folder / ".venv/bin/python"), str(folder / "theirs/bin/python")
        given = min(options.theirs or options.rows, options.rows)
        run(folder, [ours, "-c", MAKE, "before", "100000", "few", str(options.rows // 10), "many", str(options.rows)])
        few_s, few_mb, _ = eval_json(run(folder, [ours, "-c", OURS, "few"]))
        many_s, many_mb, drifted = eval_json(run(folder, [ours, "-c", OURS, "many"]))
        assert drifted == ["x3"], drifted
        run(folder, [ours, "-c", SHORTEN, str(given)])
        their_s, their_mb, _ = eval_json(run(folder, [theirs, "-c", THEIRS, "theirs"]))
        if options.most:
            run(folder, [ours, "-c", MAKE, "most", str(options.most)])
            most_s, most_mb, _ = eval_json(run(folder, [ours, "-c", OURS, "most"]))
    scaled = their_s * options.rows / given
    how = "" if given == options.rows else f", scaled from {given:,} rows"
    print(
        f"{options.rows:,} rows, evidently / drift: {scaled / many_s:.0f} (aim 80); {scaled:.0f} s{how}, {many_s:.1f} s with reading"
    )
    print(
        f"memory, evidently / drift: {their_mb / many_mb:.1f} (aim 20); {their_mb:.0f} MB on {given:,} rows, {many_mb:.0f} MB"
    )
    print(
        f"drift, {options.rows:,} rows / a tenth: time {many_s / few_s:.1f} (aim 12), memory {many_mb / few_mb:.2f} (aim 1.2); {few_s:.1f} s, {few_mb:.0f} MB"
    )
    if options.most:
        grown = f"time {most_s / many_s:.1f} (aim {1.2 * options.most / options.rows:.0f}), memory {most_mb / many_mb:.2f} (aim 1.2)"
        print(f"drift, {options.most:,} rows / {options.rows:,}: {grown}; {most_s:.1f} s, {most_mb:.0f} MB")
    return 0


def eval_json(text: str) -> list:
    return json.loads(text.strip().splitlines()[-1])


def run(folder: Path, words: list[str]) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {"DO_NOT_TRACK": "1"}
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)[:300]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
