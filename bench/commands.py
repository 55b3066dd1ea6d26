"""Measure how soon commands answer: refusals that need no data and `--help`, each beside an interpreter that does nothing.

    nox -s bench -- commands
    uv run bench/commands.py --rounds 9

The interpreter is the project's own, and the calls of a round follow each other, so that a busy machine slows all alike. What
counts is the median. Aims: `--help` 0.3 s over the empty interpreter, a refusal 1 s.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serve import environ
from train import make_project

HELP_S, REFUSAL_S = 0.3, 1.0
CALLS = {
    "--help": (0, HELP_S),
    "score --help": (0, HELP_S),
    "train --help": (0, HELP_S),
    "monitor --help": (0, HELP_S),
    "fly": (2, REFUSAL_S),
    "train --far": (2, REFUSAL_S),
    "score nope.parquet": (1, REFUSAL_S),
    "promote 99 --reason better": (1, REFUSAL_S),
    "gate 99": (1, REFUSAL_S),
    "serve --model models:/flights@champion": (1, REFUSAL_S),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is called (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        python = make_project(folder, 60_000, 4)
        empty: list[float] = []
        seconds: dict[str, list[float]] = {call: [] for call in CALLS}
        for number in range(options.rounds + 1):  # the first round only fills the caches
            started = [timed(folder, [python, "-c", ""], 0)]
            for call, (code, _) in CALLS.items():
                started.append(timed(folder, [python, "-m", "bench_project", *call.split()], code))
            if number:
                for kept, value in zip((empty, *seconds.values()), started, strict=True):
                    kept.append(value)
    nothing = statistics.median(empty)
    print(f"an interpreter that does nothing: {nothing * 1000:.0f} ms")
    for call, (_, aim) in CALLS.items():
        over = statistics.median(seconds[call]) - nothing
        print(f"{call}: {over * 1000:.0f} ms over it (aim {aim * 1000:.0f}), {over / nothing + 1:.1f} times as long")
    return 0


def timed(folder: Path, command: list[str], expected: int) -> float:
    """Return how many seconds COMMAND takes; ends the bench when it does not exit with EXPECTED."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environ(), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != expected:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}, not {expected}\n{done.stdout}{done.stderr}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
