"""Measure what an experiment costs: the same service with a share of its callers on trial, and without.

    nox -s bench -- canary
    uv run bench/canary.py --seconds 10 --rounds 5

One process, 16 connections, one row a request from a thousand tail numbers, sent by wrk (Debian has it); the experiment
is started and stopped while the server runs, with the share of a canary's first step and with that of its last: the more
are on trial, the fewer are predicted together. The ratios are taken in one run, interleaved; the median of several rounds.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from serve import CONNECTIONS, GATE, environ, started
from train import make_project, run

PORT = 8763
ENTITIES = 1_000
SHARES = (0.05, 0.5)  # as in conf/experiment.yml
# As bench/serve.py gives the first two versions their ONNX form; what follows a gate's judgement is not measured here.
SETUP = (
    GATE
    + """
from mlops_ladder.release import deploy, releasing

releasing.try_service = lambda *_: []
for version in "12":
    client.set_model_version_tag(chosen.model, version, "validation_status", "passed")
deploy.deploy(PROJECT, "test", "1", "to measure")
"""
)
BEGIN = """
from bench_project.__main__ import PROJECT
from mlops_ladder.loop import experiment
from mlops_ladder.release import releasing

releasing.try_service = lambda *_: []
experiment.start(PROJECT, "2", "ab", "test", "to measure")
"""
STOP = """
from bench_project.__main__ import PROJECT
from mlops_ladder.loop import experiment

experiment.stop(PROJECT, "measured", "test")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of load, each round (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("no wrk here: a client in Python is slower than the server it measures (apt-get install wrk)")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        python = make_project(folder, 60_000, 4)
        run(folder, ["git", "config", "user.email", "bench@example.org"])
        run(folder, [python, "-m", "bench_project", "train"])
        change(folder / "conf/limits.yml", r"(rate_per_s|burst): \S+", r"\1: 1000000000")
        change(folder / "conf/environments/test.yml", r"(?s)policy:.*", "policy: {}\n")
        run(folder, [python, "-c", SETUP])
        serve = [python, "-m", "bench_project", "serve", "--port", str(PORT), "--model", "env:test"]
        with started(folder, serve, PORT):
            row = told()["example"]["row"]
            bodies = [json.dumps({**row, "tail_number": f"N{number}"}) for number in range(ENTITIES)]
            rates: dict[float, list[float]] = {share: [] for share in (0, *SHARES)}
            for share in [*rates] * options.rounds:
                if told().get("experiment", {}).get("running"):
                    run(folder, [python, "-c", STOP])
                if share:
                    plan = f"ab: {{shares: [{share}], requests: 1000000000, labels: 5000}}"
                    change(folder / "conf/experiment.yml", r"ab: \{.*?\}", plan)
                    run(folder, [python, "-c", BEGIN])
                while told().get("experiment", {}).get("running") != bool(share):
                    time.sleep(0.1)
                load(folder, bodies, 2)  # until the share of requests that a process holds is what it needs
                before = told()["experiment"].get("answered", 0)
                rate, failed = load(folder, bodies, options.seconds)
                if failed:
                    sys.exit(f"{failed} requests failed")
                if share:
                    tried = (told()["experiment"]["answered"] - before) / (rate * options.seconds)
                    print(f"{tried:.0%} of the requests were answered by the version on trial", flush=True)
                rates[share].append(rate)
            off, *on = (statistics.median(some) for some in rates.values())
            for share, rate in zip(SHARES, on, strict=True):
                rates_told = f"{rate:,.0f} against {off:,.0f} requests/s"
                print(f"experiment with {share:.0%} of the callers / none: {rate / off:.2f} (aim 0.95); {rates_told}")
    return 0


def change(file: Path, pattern: str, by: str) -> None:
    file.write_text(re.sub(pattern, by, file.read_text("utf-8")), "utf-8")


def told() -> dict:
    return json.loads(urllib.request.urlopen(f"http://127.0.0.1:{PORT}/model").read())


def load(folder: Path, bodies: list[str], seconds: int) -> tuple[float, int]:
    """Return requests a second and how many failed."""
    (folder / "bodies").write_text("\n".join(bodies), "utf-8")
    script = folder / "post.lua"
    script.write_text(
        "local requests, n = {}, 0\n"
        "function init()\n"
        '  for body in io.lines("bodies") do\n'
        '    requests[#requests + 1] = wrk.format("POST", "/predict", {["Content-Type"] = "application/json"}, body)\n'
        "  end\n"
        "end\n"
        "function request()\n"
        "  n = n % #requests + 1\n"
        "  return requests[n]\n"
        "end\n"
        "function done(summary)\n"
        "  local e = summary.errors\n"
        "  local failed = e.connect + e.read + e.write + e.status + e.timeout\n"
        '  print(string.format("%d %d %d", summary.requests, summary.duration, failed))\n'
        "end\n",
        "utf-8",
    )
    words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--timeout", "30s", "-s", "post.lua"]
    said = subprocess.run(
        [*words, f"http://127.0.0.1:{PORT}"], cwd=folder, env=environ(), capture_output=True, text=True, check=True
    ).stdout
    n_requests, microseconds, failed = map(int, said.strip().splitlines()[-1].split())
    return n_requests / microseconds * 1e6, failed


if __name__ == "__main__":
    sys.exit(main())
