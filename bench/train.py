"""Measure what tracking costs: `train` against a bare script, a rerun against `dvc repro`, `--help` against an empty parser.

    nox -s bench -- train
    uv run bench/train.py --rows 3000000

Each ratio is taken in one run, interleaved; the median of several rounds.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import copier
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
BARE = """
import pandas as pd
from bench_project import data, features, model

rows = data.read("data/raw").sort_values(data.TIME, kind="stable", ignore_index=True)
cuts = [int(len(rows) * share) for share in (0.6, 0.75)]
train, test = rows.iloc[: cuts[0]], rows.iloc[cuts[1] :]
fitted = model.make().fit(features.build(train), train[data.TARGET])
print(model.metrics(test[data.TARGET], model.predict(fitted, features.build(test))))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000, help="repeat the sample up to this many (default: 60,000)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        python = make_project(folder, options.rows)
        ours = [python, "-m", "bench_project"]
        (folder / "bare.py").write_text(BARE, encoding="utf-8")

        def fresh() -> None:
            for name in ("models", "data/pipeline", "data/snapshot", ".dvc/cache", ".dvc/tmp"):
                shutil.rmtree(folder / name, ignore_errors=True)
            (folder / "dvc.lock").unlink(missing_ok=True)

        def nothing() -> None:
            pass

        run(folder, [*ours, "train"])  # the store's tables are made once in a project's life, not in each training
        compare(folder, options.rounds, 2.5 if options.rows < 1_000_000 else 1.2, "train / bare script", [
            ([*ours, "train"], fresh), ([python, "bare.py"], nothing)])  # fmt: skip
        compare(folder, options.rounds, 1.3, "train, nothing changed / dvc repro, nothing changed", [
            ([*ours, "train"], nothing), ([python, "-m", "dvc", "repro"], nothing)])  # fmt: skip
        bare = [python, "-c", "import argparse"]
        for words in (["--help"], ["maturity", "--list"]):
            compare(folder, 5 * options.rounds, 2.0, f"{' '.join(words)} / import argparse", [
                ([*ours, *words], nothing), (bare, nothing)])  # fmt: skip
    return 0


def make_project(folder: Path, n_rows: int) -> str:
    answers = {"project_name": "Bench project", "level": 2}
    with warnings.catch_warnings(action="ignore"):
        copier.run_copy(str(ROOT), folder, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
    run(folder, ["git", "init", "--quiet"])
    run(folder, ["uv", "sync", "--quiet"])
    who = ["-c", "user.name=Bench", "-c", "user.email=bench@example.org"]
    (folder / "data/raw").mkdir(parents=True)
    for file in sorted((folder / "data/sample").iterdir()):
        rows = pd.read_parquet(file)
        copies = [rows.assign(flight_id=rows["flight_id"] + f"-{n}") for n in range(max(1, n_rows // 60_000))]
        pd.concat(copies, ignore_index=True).to_parquet(folder / "data/raw" / file.name, index=False)
    conf = folder / "conf/data.yml"
    conf.write_text(conf.read_text("utf-8").replace("url: data/sample", "url: data/source"), "utf-8")
    shutil.copytree(folder / "data/raw", folder / "data/source")
    run(folder, ["git", "add", "--all"])
    run(folder, ["git", *who, "commit", "--quiet", "--message", "Start"])
    python = str(folder / ".venv/bin/python")
    run(folder, [python, "-m", "bench_project", "ingest"])
    return python


def compare(
    folder: Path, rounds: int, aim: float, title: str, pair: list[tuple[list[str], Callable[[], None]]]
) -> None:
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for told, (words, before) in zip(seconds, pair, strict=True):
            before()
            start = time.perf_counter()
            run(folder, words)
            told.append(time.perf_counter() - start)
    ours, theirs = map(statistics.median, seconds)
    print(f"{title}: {ours / theirs:.2f} (aim {aim:g}); {ours:.2f} s against {theirs:.2f} s", flush=True)


def run(folder: Path, words: list[str]) -> None:
    environ = {**os.environ, "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environ["PATH"] = f"{folder / '.venv/bin'}{os.pathsep}{environ['PATH']}"  # the stages of dvc.yaml call `python`
    environ.pop("VIRTUAL_ENV", None)
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
