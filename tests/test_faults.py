"""The loop while its processes are killed: one champion, no label lost, a whole audit chain, and on it goes by itself.

    FAULT_ROUNDS=200 FAULT_SEED=7 uv run pytest tests/test_faults.py

A round sends requests and labels to the running service, starts the commands of the loop and kills one process.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import Render, commit, free_port, git, package_of, sources

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "5"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
# Who is killed, and within how many seconds of the start of a round: about as long as it takes by itself.
VICTIMS = {"service": 5, "retrain": 15, "monitor": 2, "experiment": 5, "feedback": 0.5}
N_ROWS = 2_000  # to train on, and as many for the callers: the fewest that all parts of a split are large enough of
PATIENCE_S = 1_800  # for what takes seconds, on a very busy machine
# Starts each command in a process of its own, which has imported already what would take most of its time: a kill
# while Python imports harms nothing. A process that ends by itself leaves its exit code beside its log.
FORKS = """
import importlib, json, os, signal, sys

for name in ("great_expectations", "dvc.repo", "sklearn.ensemble", "fairlearn.metrics", "fastapi", "uvicorn"):
    importlib.import_module(name)
package = sys.argv[1]
loop = ["loop.retrain", "loop.experiment", "loop.monitor", "loop.feedback", "loop.audit", "loop.service.log_predictions"]
for name in (*loop, "serving.app", "training.recording", "release.gate", "release.deploy", "release.gates.quality"):
    importlib.import_module(f"mlops_ladder.{name}")
main = importlib.import_module(f"{package}.__main__").main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: they are gone when they are gone
for line in sys.stdin:
    words, log = json.loads(line)
    if child := os.fork():
        print(child, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    code = main(words)
    with open(f"{log}.code", "w") as file:
        file.write(str(code))
    sys.stdout.flush()
    os._exit(code)  # threads of the process that this one is a copy of are not here to be joined
"""
# The first version is put into use by hand; what a release checks is what the rounds are about.
FIRST = """
import sys, importlib
from mlops_ladder.release import releasing
from mlops_ladder.training import tracking

project = importlib.import_module(f"{sys.argv[1]}.__main__")
main = project.main
releasing.try_service = lambda *_: []
chosen, client = tracking.open_store(project.PROJECT)
client.set_model_version_tag(chosen.model, "1", "validation_status", "passed")
sys.exit(main(["deploy", "1", "--env", "test"]) or main(["approve", "1", "--reason", "the first"])
    or main(["deploy", "1", "--env", "prod"]))
"""


class Started:
    """A running command of the project."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log

    @property
    def running(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @property
    def code(self) -> int | None:
        """The exit code, None of one that was killed."""
        file = Path(f"{self.log}.code")
        return int(file.read_text()) if file.is_file() else None

    def wait(self, seconds: float = PATIENCE_S) -> int | None:
        until = time.monotonic() + seconds
        while self.running:
            assert time.monotonic() < until, f"{self.log} does not end: {self.log.read_text()}"
            time.sleep(0.05)
        return self.code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()


class Loop:
    """A project whose version 1 is in use, the callers of its service and the processes of its loop."""

    def __init__(self, folder: Path, python: Path, logs: Path) -> None:
        self.folder, self.python, self.logs, self.package = folder, python, logs, package_of(folder)
        self.environ = os.environ | {
            "PYTHONPATH": sources(folder),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GX_ANALYTICS_ENABLED": "false",
        }
        self.port, self.all, self.numbers = free_port(), list[Started](), Counter[str]()
        self.told: dict[str, float] = {}  # label by key, of what was acknowledged
        self.refused: set[str] = set()  # keys of labels that were acknowledged as out of range
        self.rows: Iterator[dict[str, Any]] = iter(())
        self.forks: subprocess.Popen[str] | None = None

    def script(self, text: str) -> None:
        done = subprocess.run(
            [self.python, "-c", text, self.package],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Have processes start at once; at the end none is left, whatever a killed one had started itself."""
        with subprocess.Popen(
            [self.python, "-c", FORKS, self.package],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as self.forks:
            try:
                yield
            finally:
                for one in self.all:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(one.pid, signal.SIGKILL)
                self.forks.kill()

    def start(self, *words: str) -> Started:
        assert self.forks and self.forks.stdin and self.forks.stdout
        self.numbers[words[0]] += 1
        log = self.logs / f"{len(self.all):03}-{words[0]}.log"
        log.touch()
        self.forks.stdin.write(json.dumps([words, str(log)]) + "\n")
        self.forks.stdin.flush()
        self.all.append(Started(int(self.forks.stdout.readline()), log))
        return self.all[-1]

    def run(self, *words: str) -> tuple[int | None, str]:
        """Return the exit code of a command that nobody kills, and what it says."""
        started = self.start(*words)
        return started.wait(), started.log.read_text()

    def serve(self) -> Started:
        service = self.start("serve", "--model", "env:prod", "--port", str(self.port))
        until = time.monotonic() + PATIENCE_S
        while not (about := self.ask("GET", "/model")) or about[0] != 200:
            assert service.running and time.monotonic() < until, service.log.read_text()
            time.sleep(0.1)
        return service

    def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any] | None:
        """Return status and answer, None when the service breaks off or is not there."""
        body = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, ValueError):
            return None

    def call(self, n_rows: int) -> list[tuple[str, float]]:
        """Ask for N_ROWS predictions, one a request; return key and label of those that were answered."""
        answered = []
        for _ in range(n_rows):
            row = next(self.rows)
            key, label = row["flight_id"], row.pop("late")
            if (told := self.ask("POST", "/predict", row)) is not None:
                assert told[0] == 200, told
                answered.append((key, label))
        return answered

    def label(self, known: list[tuple[str, float]]) -> None:
        """Send the labels KNOWN and one that cannot be; keep in mind what the service acknowledged."""
        wrong = f"no flight {len(self.told)} {time.monotonic_ns()}"
        told = self.ask("POST", "/feedback", [{"key": key, "label": label} for key, label in [*known, (wrong, 7.0)]])
        if told is None:
            return
        assert told[0] == 200, told
        outcomes = told[1]["labels"]
        assert outcomes["out_of_range"] == 1 and outcomes.get("added", 0) == len(known), outcomes
        self.told |= dict(known)
        self.refused.add(wrong)

    def deliver(self, known: list[tuple[str, float]]) -> tuple[Started, dict[str, float]]:
        """Give the labels KNOWN to the command `feedback`, as a file."""
        file = self.logs / f"labels-{len(self.all)}.csv"
        pd.DataFrame(known, columns=["flight_id", "label"]).to_csv(file, index=False)
        return self.start("feedback", str(file)), dict(known)

    def store(self, *query: Any, place: str = "environments/prod/mlflow.db") -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.folder / place)) as connection:
            return connection.execute(*query).fetchall()

    @property
    def on_trial(self) -> bool:
        return bool(self.store("SELECT 1 FROM registered_model_aliases WHERE alias = 'challenger'"))

    def history(self) -> list[dict[str, Any]]:
        names = ("id", "version", "outcome", "result")
        rows = self.store(f"SELECT {', '.join(names)} FROM retrainings ORDER BY id", place="data/predictions.db")
        return [dict(zip(names, row, strict=True)) for row in rows]


@contextlib.contextmanager
def traffic(loop: Loop) -> Iterator[None]:
    """Have callers ask and send labels all the while."""
    stop, wrong = threading.Event(), list[BaseException]()

    def callers() -> None:
        try:
            while not stop.wait(0.5):
                loop.label(loop.call(5))
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            wrong.append(error)

    thread = threading.Thread(target=callers)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if wrong:
        raise wrong[0]


def edit(folder: Path, name: str, **changes: Any) -> None:
    file = folder / f"conf/{name}.yml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def ask_little(folder: Path) -> None:
    """Have a tiny model of a few rows pass: every part of the loop runs, and none takes long."""
    release = yaml.safe_load((folder / "conf/release.yml").read_text())
    differences = dict.fromkeys(release["fairness"]["differences"], 1e9)
    edit(folder, "success", metrics={"brier": {"max": 1e9}})
    edit(
        folder,
        "release",
        quality={
            "rows": 20,
            "resamples": 100,
            "confidence": 0.6,
            "over_champion": {"brier": {"measured": -9, "surely": -9}},
        },
        slices={"rows": 20, "metrics": {"brier": {"max": 1e9}}},
        behaviour={"rows": 20, "invariance": 1e-6, "direction": 1e-6, "minimum": 1e-6},
        fairness=release["fairness"] | {"rows": 20, "differences": differences},
        parity=release["parity"] | {"rows": 5},
        footprint=release["footprint"] | {"p99_ms": 1e6, "memory_mb": 1e6},
    )
    training = {"validation": 0.02, "test": 0.1, "parameters.max_iter": 2, "parameters.learning_rate": 0.001}
    policy = {"new_data": None, "age": None, "schedule": None, "sign_off": "none", "least_rows": 10, "cooldown_h": 0}
    kept = yaml.safe_load((folder / "conf/retraining.yml").read_text())["signals"]
    policy["signals"] = {name: one | {"then": "warn"} for name, one in kept.items()}  # it is begun by hand here
    edit(folder, "retraining", **policy, training=training, stable={"share": 0.2, "worse": {"brier": 9}})
    experiment = yaml.safe_load((folder / "conf/experiment.yml").read_text())
    patient = {"answer_s": 60.0, "slower": 1e6, "slow_ms": 1e6}  # on a busy machine
    plans = experiment["modes"] | {"canary": {"shares": [0.5], "requests": 5, "labels": 0}}
    edit(folder, "experiment", margin=9.0, alpha=1e-9, modes=plans, stop=experiment["stop"] | patient)


@pytest.fixture
def loop(project: Render, environment: Render, tmp_path: Path) -> Iterator[Loop]:
    folder, logs = project(4), tmp_path / "logs"
    logs.mkdir()
    first, *others = sorted((folder / "data/sample").iterdir())
    rows = pd.read_parquet(first).sort_values("scheduled_departure", ignore_index=True)
    for file in others:
        file.unlink()
    late = (rows["scheduled_departure"].dt.hour >= 14) ^ (rows.index % 10 == 0)  # two trees see that, as the gates ask
    rows["arrival_delay"] = late * 60.0
    rows[:N_ROWS].to_parquet(first, index=False)
    (folder / "conf/validation.yml").write_text(
        (folder / "conf/validation.yml").read_text().replace("min_rows: 1000", "min_rows: 100")
    )
    (folder / ".git/info/exclude").write_text("/environments/\n/audit/\n/reports/\n")
    ask_little(folder)
    git(folder, "config", "user.email", "ada@example.org")
    if not (folder / "uv.lock").is_file():
        (folder / "uv.lock").write_text("version = 1\n")
    commit(folder, "Ask for little")
    loop = Loop(folder, environment(4), logs)
    later = rows[N_ROWS:].assign(late=lambda some: (some["arrival_delay"] >= 15).astype(float))
    later = later[later["arrival_delay"].notna()].drop(columns=["arrival_delay"])
    records = json.loads(later.to_json(orient="records", date_format="iso"))
    loop.rows = (
        one
        | {
            "flight_id": f"{one['flight_id']}-{turn}",
            "scheduled_departure": one["scheduled_departure"].rstrip("Z").partition(".")[0],
        }
        for turn in range(1_000)
        for one in records
    )
    with loop.alive():
        code, said = loop.run("train", "--set", "parameters.max_iter=2")
        assert code == 0, said
        git(folder, "config", "user.email", "grace@example.org")
        loop.script(FIRST)
        yield loop
    shutil.rmtree(logs)


def test_whoever_is_killed_when_one_champion_answers_no_label_is_lost_and_the_loop_goes_on(loop: Loop) -> None:
    draw, service, retraining = random.Random(SEED), loop.serve(), None
    order = [victim for _ in range(0, ROUNDS, len(VICTIMS)) for victim in draw.sample([*VICTIMS], len(VICTIMS))]
    for number, victim in enumerate(order[:ROUNDS]):
        known = loop.call(40)
        if victim == "experiment" and retraining:
            retraining.wait()  # it begins one
        with traffic(loop):
            if retraining is None or not retraining.running:
                retraining = loop.start("retrain", "--reason", f"round {number}")
            started = {"service": service, "retrain": retraining, "monitor": loop.start("monitor")}
            started["experiment"] = loop.start("experiment", "step")
            started["feedback"], given = loop.deliver(known)
            time.sleep(draw.uniform(0, VICTIMS[victim]))
            print(number, victim, "runs" if started[victim].running else "had ended", "when it is killed")
            started[victim].kill()
            for name in ("monitor", "experiment", "feedback"):
                started[name].wait()
        if started["feedback"].code == 0:
            loop.told |= given
        if not service.running:
            service = loop.serve()
    if retraining:
        retraining.wait()

    # Nobody is killed any more, and nobody mends anything: the same commands go on.
    attempts, until = len(loop.history()), time.monotonic() + PATIENCE_S
    while not (done := [one for one in loop.history()[attempts:] if one["outcome"] not in (None, "on trial")]):
        assert time.monotonic() < until, [one.log.read_text() for one in loop.all[-8:]]
        loop.label(loop.call(30))
        settle = ["retrain", "--if-triggered"] if len(loop.history()) > attempts else ["retrain", "--reason", "and on"]
        code, said = loop.run(*(["experiment", "step"] if loop.on_trial else settle))
        assert code in (0, 3), said
    assert done[0]["outcome"] == "promoted", done

    [(copy,)] = loop.store("SELECT version FROM registered_model_aliases WHERE alias = 'champion'")
    tags = "SELECT value FROM model_version_tags WHERE key = 'origin_version' AND version = ?"
    [(champion,)] = loop.store(tags, (copy,))
    assert champion == done[0]["version"] and not loop.on_trial
    until = time.monotonic() + 60
    while (about := loop.ask("GET", "/model")) and about[1]["version"] != champion:
        assert time.monotonic() < until, about
        time.sleep(0.2)

    log = "data/predictions.db"
    there = dict(loop.store("SELECT key, label FROM labels", place=log))
    assert loop.told and {key: there.get(key) for key in loop.told} == loop.told
    aside = {key for (key,) in loop.store("SELECT key FROM label_conflicts WHERE why = 'out_of_range'", place=log)}
    assert loop.refused <= aside and not aside & set(there)
    code, said = loop.run("audit", "verify")
    assert code == 0, said
    past = loop.history()
    made = [version for (version,) in loop.store("SELECT version FROM model_versions", place="mlflow.db")]
    named = [one["version"] for one in past if one["version"]]
    assert len(named) == len(set(named)) and {*map(str, made)} == {"1", *named}, "at most one version a retraining"
