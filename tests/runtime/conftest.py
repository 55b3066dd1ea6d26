"""What the tests of level 2 share: a project that was trained once, and copies of it to train on. The template's file."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from flight_delays.__main__ import main
from projects import FLIGHTS, ROOT

PROJECT = ROOT
N_FILES = 3  # of data/sample: a quarter of a year
Run = Callable[..., Any]


@pytest.fixture(scope="session")
def git() -> Run:
    """Run git in the current folder and return what it says."""
    return lambda *words: subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, git: Run) -> Path:
    """A project of its own, committed, on which `train` ran once, result.json beside it: read it, never write to it."""
    folder = tmp_path_factory.mktemp("trained") / "project"
    for name in ("src", "runtime", "conf"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "pyproject.toml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    lock = PROJECT / "uv.lock"
    (folder / "uv.lock").write_text(lock.read_text(encoding="utf-8") if lock.is_file() else "version = 1\n", "utf-8")
    (folder / "data/sample").mkdir(parents=True)
    for file in sorted((PROJECT / "data/sample").iterdir())[:N_FILES]:
        shutil.copy(file, folder / "data/sample")
    with contextlib.chdir(folder):
        git("init", "--quiet")
        git("config", "user.name", "Ada Test")
        git("config", "user.email", "ada@example.org")
        git("add", "--all")
        git("commit", "--quiet", "--message", "Start")
        from mlops_ladder.data import validate
        from mlops_ladder.training import tracking

        tracking.open_store(FLIGHTS)
        shutil.copy("mlflow.db", folder.parent / "empty.db")  # to copy: making the tables takes seconds
        with (folder.parent / "result.json").open("w") as result, contextlib.redirect_stdout(result):
            assert main(["train", "--json"]) == 0
        validate.library()  # or each training on other data would import it anew, in a process of its own
    return folder


@pytest.fixture
def workplace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained`, made the current folder, whose fitted model is not registered yet: its store is empty."""
    folder = tmp_path / "project"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("mlruns", "mlflow.db", "registered.json"))
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    del lock["stages"]["register"]
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    for file in (folder / ".dvc/cache/runs").glob("*/*/*"):
        if "--stage register" in file.read_text():
            shutil.rmtree(file.parent)  # of another store
    shutil.copy(trained.parent / "empty.db", folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in the current folder and return what it printed as JSON: `run("train", "--json")`.

    With `exit_code` other than 0 it is what was printed as the error.
    """

    def run(*words: str, exit_code: int = 0) -> Any:
        capsys.readouterr()
        code = main(list(words))
        said = capsys.readouterr()
        assert code == exit_code, said.err
        return json.loads(said.out) if "--json" in words and said.out else said.out + said.err

    return run
