"""Measure the loop: from a trigger to the new champion answering, beside the same commands typed one after another.

    nox -s bench -- loop
    uv run bench/loop.py --rows 20000 --requests 500

The service runs while labels come in, `retrain --if-triggered` makes a version of them, a canary in three steps tries it
on callers and the champion is swapped. Then the floor, in the same run, on the same rows: `train`, `gate`, `deploy` to
test, `approve` and `deploy` to prod, each typed as soon as the one before has ended, and no caller is asked.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from canary import change
from serve import environ, started
from train import make_project, run

PORT = 8766
N_LABELLED = 2_000  # rows that are asked about and get their label: the trigger
# A command as it is, which says on stderr how long each of these steps of it took.
TIMED = """
import functools, importlib, sys, time

STEPS = {
    "loop.retrain.look": "decide", "loop.triggers.decide": "decide", "loop.retrain.make": "data",
    "loop.retrain.train_version": "train", "loop.retrain.pass_gates": "gates", "loop.retrain.signed_off": "sign-off",
    "release.deploy.deploy": "deploy", "loop.experiment.admit": "to prod", "loop.experiment.observe": "judge the canary",
}


def timed(working, step):
    @functools.wraps(working)
    def wrapped(*words, **options):
        start = time.perf_counter()
        try:
            return working(*words, **options)
        finally:
            print(f"took {step}: {time.perf_counter() - start}", file=sys.stderr, flush=True)

    return wrapped


for place, step in STEPS.items():
    name, _, function = place.rpartition(".")
    module = importlib.import_module(f"mlops_ladder.{name}")
    setattr(module, function, timed(getattr(module, function), step))
sys.exit(importlib.import_module("bench_project.__main__").main(sys.argv[1:]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000, help="to train on, of the sample (default: 60,000)")
    parser.add_argument("--requests", type=int, default=200, help="that each step of the canary answers (default: 200)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        python = make_project(folder, 60_000, 4)
        rows = shorten(folder, options.rows)
        settle(folder, options.requests)
        ours = [python, "-m", "bench_project"]
        run(folder, [*ours, "train"])
        release(folder, ours, "1")
        serve = [*ours, "serve", "--port", str(PORT), "--model", "env:prod"]
        with started(folder, serve, PORT):
            asked = ask_and_label(rows)
            loop = turn(folder, python, asked, options.requests)
        typed = floor(folder, ours)
    for title, seconds in (("loop", loop), ("typed", typed)):
        print(f"{title}: {', '.join(f'{step} {took:.1f} s' for step, took in seconds.items())}")
    ours_s, theirs_s = sum(loop.values()), sum(typed.values())
    print(f"loop / typed: {ours_s / theirs_s:.2f} (aim 1.5); {ours_s:.1f} s against {theirs_s:.1f} s")
    return 0


def shorten(folder: Path, n_rows: int) -> pd.DataFrame:
    """Leave the oldest N_ROWS of the source to train on, in whole files; return rows that are new to the project."""
    left, rows = n_rows, pd.DataFrame()
    for file in sorted((folder / "data/source").iterdir()):
        rows = pd.read_parquet(file)
        left -= len(rows)
        if left < 0:
            file.unlink()
            (folder / "data/raw" / file.name).unlink()
    (folder / "data/manifest.json").unlink()
    rows = rows[rows["arrival_delay"].notna()].tail(N_LABELLED)
    return rows.assign(flight_id=rows["flight_id"] + "-live", late=(rows["arrival_delay"] >= 15).astype(float))


def settle(folder: Path, n_requests: int) -> None:
    """Set what the loop goes by: labels alone trigger it, no gate refuses for how good it is, and a canary needs no labels."""
    conf = folder / "conf"
    change(conf / "success.yml", r"(?s)\nmetrics:.*", "\nmetrics: {brier: {max: 1}}\n")
    change(conf / "release.yml", r"(roc_auc|brier): \{measured: \S+, surely: \S+\}", r"\1: {measured: -1, surely: -1}")
    change(conf / "release.yml", r"metrics: \{roc_auc: .*?\}\}", "metrics: {brier: {max: 1}}")
    change(conf / "release.yml", r"(direction|minimum): 0\.\d+", r"\1: 0.001")
    change(conf / "release.yml", r"(bias|true_positive_rate|false_positive_rate): 0\.\d+", r"\1: 1")
    change(conf / "retraining.yml", r"rows: 20_000", f"rows: {N_LABELLED // 2}")
    change(conf / "retraining.yml", r"worse: \{.*?\}", "worse: {brier: 1}")
    change(conf / "retraining.yml", r"sign_off: \S+", "sign_off: none")
    change(conf / "retraining.yml", r"(?m)^(age|schedule):.*\n  days: \d+", r"\1: null")
    plan = f"canary: {{shares: [0.05, 0.25, 0.5], requests: {n_requests}, labels: 0}}"
    change(conf / "experiment.yml", r"canary: \{.*?\}", plan)
    change(conf / "limits.yml", r"(rate_per_s|burst): \S+", r"\1: 1000000000")
    (folder / ".git/info/exclude").write_text("*.log\n", "utf-8")  # of the service; a dirty tree trains nothing
    run(folder, ["git", "config", "user.name", "Bench"])
    commit(folder)


def commit(folder: Path) -> None:
    run(folder, ["git", "config", "user.email", "bench@example.org"])
    run(folder, ["git", "add", "--all"])
    run(folder, ["git", "commit", "--quiet", "--allow-empty", "--message", "Settle"])


def release(folder: Path, ours: list[str], version: str) -> dict[str, float]:
    """Bring VERSION to production as people do; return the seconds of each command."""
    seconds = {}
    for step, words in {
        "gate": ["gate", version],
        "deploy to test": ["deploy", version, "--env", "test"],
        "approve": ["approve", version, "--reason", "reviewed"],
        "deploy to prod": ["deploy", version, "--env", "prod"],
    }.items():
        who = "reviewer" if step == "approve" else "bench"
        run(folder, ["git", "config", "user.email", f"{who}@example.org"])
        with clock(seconds, step):
            run(folder, [*ours, *words])
    return seconds


def floor(folder: Path, ours: list[str]) -> dict[str, float]:
    """Train another version on the rows of the retraining and bring it to production; return the seconds."""
    seconds: dict[str, float] = {}
    likewise = [word for change in ("validation=0.05", "test=0.15", "seed=1") for word in ("--set", change)]
    with clock(seconds, "train"):
        run(folder, [*ours, "train", "--data", "retraining", *likewise])
    return seconds | release(folder, ours, "3")


def ask_and_label(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Ask the service about ROWS, send their labels, and return what was asked."""
    sent = rows.drop(columns=["arrival_delay", "late"]).to_json(orient="records", date_format="iso")
    asked = [one | {"scheduled_departure": one["scheduled_departure"][:19]} for one in json.loads(sent)]
    labels = [
        {"key": key, "label": label} for key, label in zip(rows["flight_id"], rows["late"].map(float), strict=True)
    ]
    for start in range(0, len(rows), 500):
        post("/predict", asked[start : start + 500])
        post("/feedback", labels[start : start + 500])
    time.sleep(3)  # until the service has written what it answered
    return asked


def turn(folder: Path, python: str, asked: list[dict[str, Any]], n_requests: int) -> dict[str, float]:
    """Let the loop turn until another version answers; return the seconds of each step."""
    seconds: dict[str, float] = {}
    said = command(folder, python, seconds, "retrain", "--if-triggered", "--json")
    version = json.loads(said.splitlines()[-1])["version"]
    going = True
    while going:
        with clock(seconds, "callers of the canary"):
            until_answered(asked, version, n_requests)
        said = command(folder, python, seconds, "experiment", "step", "--json")
        going = json.loads(said.splitlines()[-1])["result"] == "going"
    with clock(seconds, "swap"):
        while post("/model")["version"] != version:
            time.sleep(0.02)
    return seconds


def until_answered(asked: list[dict[str, Any]], version: str, n_requests: int) -> None:
    """Send requests until VERSION, which is on trial, has answered N_REQUESTS of them, and they are written."""
    while not post("/model").get("experiment", {}).get("running"):
        time.sleep(0.05)
    answered = 0
    for row in itertools.islice(itertools.cycle(asked), 200 * n_requests):
        answered += post("/predict", row)["model_version"] == version
        if answered == n_requests:
            break
    time.sleep(1)  # until the service has written what it answered


def command(folder: Path, python: str, seconds: dict[str, float], *words: str) -> str:
    """Run a command of the loop, add the seconds of its steps to SECONDS and return what it says on stdout."""
    start = time.perf_counter()
    done = subprocess.run(
        [python, "-c", TIMED, *words],
        cwd=folder,
        env=environ(python) | {"DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    whole = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    took: dict[str, float] = {}
    for step, value in re.findall(r"^took (.+): (\S+)$", done.stderr, re.MULTILINE):
        took[step] = took.get(step, 0) + float(value)
    whole -= sum(value for step, value in took.items() if step != "data")
    if "data" in took:
        took["train"] -= took["data"]
    for step, value in {**took, "start and the rest": whole}.items():
        seconds[step] = seconds.get(step, 0) + value
    return done.stdout


def post(path: str, content: Any = None) -> Any:
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", body, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())


@contextlib.contextmanager
def clock(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = seconds.get(step, 0) + time.perf_counter() - start


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
