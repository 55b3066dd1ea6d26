"""Measure batch scoring: `score-batch` against a plain pandas loop, and growth of time and memory over ten times the rows.

    nox -s bench -- batch
    uv run bench/batch.py --rows 10000000

The sample is repeated. Each ratio is taken in one run; memory is the largest process's peak.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import copier
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
PART_ROWS = 250_000  # rows a file
MAKE = """
from bench_project import data, features, model
from bench_project.__main__ import PROJECT
from mlops_ladder.training import handoff

rows = data.read("data/sample")
cut = len(rows) * 3 // 4
train, test = rows.head(cut), rows.tail(len(rows) - cut)
handoff.hand_over(PROJECT, model.make().fit(features.build(train), train[data.TARGET]), train, test, "bench")
"""
PLAIN = """
import sys
from pathlib import Path

import pandas as pd

from bench_project import features, model

fitted = model.load(Path("models/model.skops"))
Path("plain").mkdir()
for file in sorted(Path(sys.argv[1]).glob("*.parquet")):
    rows = pd.read_parquet(file)
    rows[model.OUTPUT] = model.predict(fitted, features.build(rows[features.COLUMNS]))
    rows.to_parquet(f"plain/{file.name}", index=False, compression="zstd")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="the larger number (default: 1,000,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        python = make_project(folder)
        few, many = make_rows(folder, options.rows // 10), make_rows(folder, options.rows)
        ours = [python, "-m", "bench_project", "score-batch", "--model", "models/model.skops"]
        small_s, small_mb = run(folder, [*ours, "--input", few, "--output", "scored-few"])
        large_s, large_mb = run(folder, [*ours, "--input", many, "--output", "scored-many"])
        plain_s, plain_mb = run(folder, [python, "-c", PLAIN, many])
        again_s, _ = run(folder, [*ours, "--input", many, "--output", "scored-many"])
    n = options.rows
    print(f"{n:,} rows, score-batch / pandas loop: {large_s / plain_s:.2f} (aim 1.2); {large_s:.1f} s, {plain_s:.1f} s")
    print(f"{n:,} rows, nothing changed / scored: {again_s / large_s:.2f} (aim 0.5); {again_s:.1f} s")
    print(f"time of {n:,} rows / a tenth: {large_s / small_s:.1f} (aim 12); {large_s:.1f} s, {small_s:.1f} s")
    print(f"memory of {n:,} rows / a tenth: {large_mb / small_mb:.2f} (aim 1.3); {large_mb:.0f} MB, {small_mb:.0f} MB;"
          f" pandas loop {plain_mb:.0f} MB")  # fmt: skip
    return 0


def make_project(folder: Path) -> str:
    answers = {"project_name": "Bench project", "level": 3}
    with warnings.catch_warnings(action="ignore"):
        copier.run_copy(str(ROOT), folder, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
    run(folder, ["git", "init", "--quiet"])
    run(folder, ["uv", "sync", "--quiet"])
    python = str(folder / ".venv/bin/python")
    run(folder, [python, "-c", MAKE])
    return python


def make_rows(folder: Path, n_rows: int) -> str:
    """Return the folder of N_ROWS rows, the sample repeated, PART_ROWS a file."""
    name = f"rows-{n_rows}"
    (folder / name).mkdir()
    sample = pd.concat(map(pd.read_parquet, sorted((folder / "data/sample").iterdir())), ignore_index=True)
    part = pd.concat([sample] * (PART_ROWS // len(sample) + 1)).head(PART_ROWS)
    whole, rest = divmod(n_rows, PART_ROWS)
    part.to_parquet(folder / name / "part-0000.parquet", index=False) if whole else None
    for number in range(1, whole):
        shutil.copy(folder / name / "part-0000.parquet", folder / name / f"part-{number:04}.parquet")
    if rest:
        part.head(rest).to_parquet(folder / name / f"part-{whole:04}.parquet", index=False)
    return name


def run(folder: Path, words: list[str]) -> tuple[float, float]:
    """Return how many seconds WORDS took in FOLDER and the peak memory of their largest process, MB."""
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(words, cwd=folder, env=environ, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(words)} failed:\n{said.read()}")
    return seconds, usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
