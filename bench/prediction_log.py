"""Measure what the prediction log costs: the same service with it and without it.

    nox -s bench -- prediction_log
    uv run bench/prediction_log.py --seconds 10 --rounds 5

One process each, on the fast path, 16 connections, one row a request, sent by wrk. Interleaved in one run, the median
of several rounds. Afterwards each answered request must be in the log, or counted as missing there.
"""

import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from serve import GATE, extend, load, started
from train import make_project, run

PORTS = {"on": 8763, "off": 8764}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of load, each round (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        python = make_project(folder, 60_000, 4)
        run(folder, [python, "-m", "bench_project", "train"])
        run(folder, [python, "-c", GATE])
        limits = folder / "conf/limits.yml"  # still counted, never reached
        limits.write_text(re.sub(r"(rate_per_s|burst): \d+", r"\1: 1000000000", limits.read_text("utf-8")), "utf-8")
        without = shutil.copytree(folder / "runtime/src", Path(place) / "without")
        extend(without / "mlops_ladder/levels/level_4.py", '"loop.service.log_predictions",', "")
        name = yaml.safe_load((folder / "conf/training.yml").read_text("utf-8"))["model"]
        words = [python, "-m", "bench_project", "serve", "--model", f"models:/{name}@champion", "--port"]
        off = ["env", f"PYTHONPATH={without}", *words]
        with started(folder, [*words, "8763"], 8763), started(folder, [*off, "8764"], 8764):
            if told(8764, "log"):
                sys.exit("the service without the log has one")
            row = told(8763, "example")["row"]
            rates: dict[str, list[float]] = {one: [] for one in PORTS}
            slow: dict[str, list[float]] = {one: [] for one in PORTS}
            for _ in range(options.rounds):
                for one, port in PORTS.items():
                    rate, p99_ms, failed = load(folder, port, "/predict", json.dumps(row), options.seconds)
                    if failed:
                        sys.exit(f"{failed} requests failed with the log {one}")
                    rates[one].append(rate)
                    slow[one].append(p99_ms)
            rate = {one: statistics.median(values) for one, values in rates.items()}
            print(f"service with its log / without: {rate['on'] / rate['off']:.2f} (aim 0.8)")
            for one in PORTS:
                print(f"log {one}: {rate[one]:,.0f} requests/s, p99 {statistics.median(slow[one]):.1f} ms")
            time.sleep(5)  # ten times as long as a batch waits
            log, answered = told(8763, "log"), predicted(8763)
            print(
                f"of {answered:,} answered {log['written']:,} are in the log, {log['dropped']:,} were dropped and counted"
            )
            if log["written"] + log["dropped"] != answered:
                sys.exit("the rest is missing, and nobody says so")
    return 0


def told(port: int, name: str) -> Any:
    return json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/model").read()).get(name)


def predicted(port: int) -> int:
    """Return how many rows the service says it predicted."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return int(sum(float(value) for value in re.findall(r"^predicted_rows_total\{.*\} (\S+)$", text, re.MULTILINE)))


if __name__ == "__main__":
    sys.exit(main())
