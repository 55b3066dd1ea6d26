"""What `python -m PACKAGE` answers before any command has work to do."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flight_delays.__main__ import main
from mlops_ladder.core import commands
from projects import FLIGHTS


def test_the_package_alone_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr()
    assert main(["--help"]) == 0
    assert alone.out == capsys.readouterr().out and alone.err == ""
    assert "\n  score " in alone.out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scor"]) == 2
    assert "do you mean score?" in capsys.readouterr().err


SLOW = ["dvc", "fastapi", "great_expectations", "mlflow", "numpy", "pandas", "polars", "pyarrow", "scipy", "sklearn"]
# Each call in a process of its own, forked off one that has what is quick to load: what did it load besides?
ASK = """
import asyncio, json, os, sys
import pydantic, sqlalchemy, yaml
from flight_delays.__main__ import main

calls, slow = json.load(sys.stdin)
for words in calls:
    out, into = os.pipe()
    if not (child := os.fork()):
        os.dup2(into, 2), os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
        loaded = sorted({name.partition(".")[0] for name in sys.modules if "." in name and name.partition(".")[0] in slow})
        print(json.dumps(["", code, loaded]), file=sys.stderr, flush=True)
        os._exit(0)
    os.close(into)
    with open(out) as said:
        *error, last = said.read().splitlines()
    os.waitpid(child, 0)
    print(json.dumps([words, *json.loads(last)[1:], error]))
"""


def asked(calls: list[list[str]]) -> list[list[Any]]:
    """Return of each call its words, its exit code, the slow libraries that it loaded, and the lines on stderr."""
    given = json.dumps([calls, SLOW])
    done = subprocess.run([sys.executable, "-c", ASK], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be forked there")
def test_the_help_of_each_command_loads_no_slow_library(workdir: Path) -> None:
    answers = asked([["--help"], *([name, "--help"] for name in commands.known(FLIGHTS))])
    assert len(answers) > 40
    assert [(words, code, loaded) for words, code, loaded, _ in answers if code or loaded] == []


REFUSED = {
    "fly": (2, "no command 'fly'"),
    "train --far": (2, "unrecognized arguments: --far"),
    "monitor --far": (2, "unrecognized arguments: --far"),
    "score nope.parquet": (1, "no file nope.parquet; there are: hope.parquet, other.parquet"),
    "score hope.parquet --output rows.xlsx": (2, "rows.xlsx ends neither in .csv nor in .parquet"),
    "score hope.parquet": (1, "no model file models/model.skops: run the notebook to its end"),
    "check-handoff nope.skops": (1, "no model file nope.skops"),
    "validate --file nope.parquet": (2, "no file nope.parquet; there are: hope.parquet"),
    "serve": (1, "no model file models/model.skops"),
    "serve --model models:/flights@champion": (1, "the registry has no model flights; there are: flights-late, coins"),
    "serve --model models:/coins@champion": (1, "coins has no champion yet: `promote VERSION`"),
    "serve --model models:/coins/7": (1, "coins has no version 7; there are: 8, 1"),
    "serve --model models:/coin/8": (1, "the registry has no model coin; there are: coins, flights-late"),
    "serve --model models:/coins": (1, "names no registered model: give models:/NAME@champion"),
    "promote 4": (2, "promote needs a VERSION and --reason"),
    "promote 99 --reason better": (1, "flight-delays-late has no version 99; there are: none yet"),
    "gate 99": (1, "flight-delays-late has no version 99"),
    "lineage 99": (1, "flight-delays-late has no version 99"),
    "impact 98 99": (1, "flight-delays-late has no version 98"),
    "reproduce 99": (1, "flight-delays-late has no version 99"),
    "feedback nope.csv": (1, "no file nope.csv"),
    "explain row.json": (1, "no file row.json"),
    "experiment start 4": (2, "`experiment start` needs --reason"),
    "deploy --env test": (2, "deploy needs a VERSION, or --history"),
    "deploy 99 --env dev": (2, "versions are made in dev"),
    "deploy 99 --env nowhere": (2, "no environment 'nowhere'; there are: dev, prod, test"),
    "deploy 99 --env test": (1, "flight-delays-late has no version 99"),
    "approve 99 --reason good": (1, "flight-delays-late has no version 99"),
    "rollback --env prod --reason bad": (3, "nothing is deployed in prod"),
    "tune --trials 0": (2, "--trials is 0, must be 1 or more"),
    "monitor --since yesterday": (2, "yesterday is no time"),
    "monitor": (1, "no version is in use yet: `promote` or `deploy` one"),
    "retrain": (2, "say either --if-triggered or --reason WHY"),
    "retrain --reason prices": (1, "nothing is in use in prod: deploy a first version"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be forked there")
def test_what_needs_no_data_is_refused_before_a_slow_library_loads(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for key, value in {"COUNT": "1", "KEY_0": "user.email", "VALUE_0": "ada@example.org"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{key}", value)
    for words in (["init"], ["add", "conf"], ["commit", "--message", "Start"]):  # who may do what counts as committed
        subprocess.run(["git", *words], check=True, capture_output=True)
    for name in ("hope.parquet", "other.parquet"):
        Path(name).touch()
    with contextlib.closing(sqlite3.connect("mlflow.db", isolation_level=None)) as store:  # what is read of MLflow's
        store.execute("CREATE TABLE registered_models (name)")
        store.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        store.execute("CREATE TABLE model_versions (name, version, current_stage)")
        store.execute("INSERT INTO registered_models VALUES ('coins'), ('flights-late')")
        store.execute("INSERT INTO model_versions VALUES ('coins', 1, 'None'), ('coins', 8, 'None')")
        store.execute("INSERT INTO model_versions VALUES ('coins', 7, 'Deleted_Internal')")
    answers = asked([call.split() for call in REFUSED])
    for (words, code, loaded, error), (expected, reason) in zip(answers, REFUSED.values(), strict=True):
        assert (code, loaded) == (expected, []), (words, error)
        assert reason in error[-1], words
