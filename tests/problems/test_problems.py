"""Other people's tables: each is adopted, learned from, checked, served and asked. `nox -s problems` brings the packages."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import LEVELS, Render, commit, package_of, reads, sources
from public_tables import TABLES

LEVEL = 2  # the lowest that trains, and serves what it trained
TO_THE_LOOP = ["titanic", "penguins", "diabetes", "weather", "defaults"]  # go on to the highest level


def run(folder: Path, python: Path, *words: str, exit_code: int = 0) -> str:
    """Return what `python -m WORDS` prints in FOLDER."""
    done = subprocess.run(
        [python, "-m", *words],
        cwd=folder,
        env=variables(folder, python),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def variables(folder: Path, python: Path) -> dict[str, str]:
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PYTHONPATH": sources(folder), "PATH": path, "VIRTUAL_ENV": str(python.parent.parent)}


@contextlib.contextmanager
def served(folder: Path, python: Path) -> Iterator[str]:
    """Give the address of the service of the project in FOLDER."""
    name = yaml.safe_load(reads(folder / "conf/training.yml"))["model"]
    words = [python, "-m", package_of(folder), "serve", "--port", "0", "--model", f"models:/{name}/1"]
    with subprocess.Popen(
        words, cwd=folder, env=variables(folder, python), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            assert line.startswith("serving "), line
            yield line.split()[-1]
        finally:
            process.terminate()


def some_rows(folder: Path, python: Path) -> list[dict[str, Any]]:
    """Return what a caller sends of the first rows of the sample."""
    modules = f"from {package_of(folder)} import data, features; from mlops_ladder.data.rows import as_records"
    code = f"{modules}; import json; print(json.dumps(as_records(data.read('data/sample')[features.COLUMNS].head(5))))"
    done = subprocess.run(
        [python, "-c", code], cwd=folder, env=variables(folder, python), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def ask(address: str, rows: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Return status and body of the answer to ROWS."""
    content = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}/predict", json.dumps(rows).encode(), content)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def adopt(name: str, folder: Path, python: Path) -> None:
    """Make the public table NAME the one of the project in FOLDER, as a user would, and commit it."""
    words = TABLES[name](folder)
    run(folder, python, package_of(folder), "adopt", *words)
    (folder / words[0]).unlink()
    subprocess.run(["uv", "lock", "-q"], cwd=folder, check=True)
    commit(folder, "Adopt a table")


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_public_table_is_adopted_trained_on_checked_served_and_asked(
    name: str, project: Render, environment: Render
) -> None:
    folder, python = project(LEVEL), environment(LEVEL)
    package = package_of(folder)
    adopt(name, folder, python)
    run(folder, python, "ruff", "check", "src", "tests")
    run(folder, python, "ruff", "format", "--check", "src", "tests")
    run(folder, python, "pytest", "-q", "-p", "no:cacheprovider", *map(str, folder.glob("tests/test_[dfm]*.py")))
    run(folder, python, package, "ingest")
    run(folder, python, package, "validate")
    assert "registered" in run(folder, python, package, "train")
    rows = some_rows(folder, python)
    with served(folder, python) as address:
        status, answer = ask(address, rows)
        assert status == 200 and len(answer["predictions"]) == len(rows), answer
        status, answer = ask(address, [{key: [] for key in rows[0]}])
        assert status == 422, answer


@pytest.mark.slow
@pytest.mark.parametrize("name", TO_THE_LOOP)
def test_a_public_table_goes_through_gates_release_feedback_and_retraining(
    name: str, project: Render, environment: Render
) -> None:
    """The project's own suite: deployed, approved, served, asked, labelled, monitored, retrained and released, refused."""
    folder = project(LEVELS[-1])
    adopt(name, folder, environment(LEVELS[-1]))
    subprocess.run(["uv", "sync", "-q", "--python", sys.executable], cwd=folder, check=True)
    run(folder, folder / ".venv/bin/python", "pytest", "-q", "-p", "no:cacheprovider", "tests")
