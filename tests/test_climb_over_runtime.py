"""A project of before the runtime, when the template's code stood in src/PACKAGE/ops, updates and goes on with what it has."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import RELEASE, ROOT, Render, commit, files_in, free_port, git, once, reads, render, user_owned
from copier._cli import CopierApp
from test_climb import conflicts

BEFORE = "3d2e4b0"  # the last commit of the template without a runtime
OLD = "v0.1.0"  # its tag in the repository of these tests; the working tree's is RELEASE
N_FILES = 3  # of data/sample
MODEL = "flight-delays-late"
EDITS = {
    "src/flight_delays/data.py": "\n\ndef mine() -> int:\n    return 1\n",
    "src/flight_delays/features.py": "\n# mine\n",
    "src/flight_delays/model.py": "\n# mine\n",
    "conf/training.yml": "\n# mine\n",
    "README.md": "\nMine.\n",
}
LEFT = ("src/flight_delays/ops", "tests/ops")  # what the message tells to remove
OPS = "src/flight_delays/ops/train.py"


@pytest.fixture(scope="module")
def template(shared: Path, snapshot: Path) -> Path:
    """Return a repository of two releases: the template before the runtime, and this working tree."""
    if subprocess.run(["git", "cat-file", "-e", BEFORE], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.fail(
            f"this clone has no commit {BEFORE}, so nobody knows whether old projects update: git fetch --unshallow"
        )

    def make(folder: Path) -> None:
        folder.mkdir()
        archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
        commit(folder, "Before")
        git(folder, "tag", OLD)
        for path in folder.iterdir():
            if path.name != ".git":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(snapshot, folder, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
        commit(folder, "The runtime")
        git(folder, "tag", RELEASE)

    return once(shared / "two-releases", make)


def old_project(template: Path, folder: Path, level: int) -> Path:
    """Render what the template made before the runtime, with a user's edits, committed."""
    render(template, folder, vcs_ref=OLD, level=level)
    for name, text in EDITS.items():
        if (folder / name).is_file():
            with (folder / name).open("a", encoding="utf-8") as file:
                file.write(text)
    for file in sorted((folder / "data/sample").iterdir())[N_FILES:]:
        file.unlink()
    commit(folder, "Start")
    git(folder, "config", "user.email", "ada@example.org")
    return folder


def update(folder: Path, **answers: Any) -> None:
    data = [f"--data={name}={value}" for name, value in answers.items()]
    with contextlib.chdir(folder):
        words = ["copier", "update", f"--vcs-ref={RELEASE}", "--skip-answered", "--defaults", *data]
        _, code = CopierApp.run(words, exit=False)
    assert code == 0


def run(folder: Path, *command: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(["uv", "run", "-q", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


def project_command(folder: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    return run(folder, "python", "-m", "flight_delays", *words, codes=codes)


@contextlib.contextmanager
def service(folder: Path, model: str) -> Iterator[str]:
    """Serve MODEL as the project in FOLDER does; give its address."""
    port = free_port()
    command = ["uv", "run", "-q", "python", "-m", "flight_delays", "serve", "--model", model, "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            assert server.poll() is None, server.communicate()[1]
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.communicate()


def ask(address: str, rows: list[dict[str, Any]] | None = None) -> Any:
    """Return what the service answers: to ROWS, or to the question which model it has."""
    headers = {"Content-Type": "application/json"}
    path, body = ("/predict", json.dumps(rows).encode()) if rows else ("/model", None)
    with urllib.request.urlopen(urllib.request.Request(address + path, body, headers), timeout=60) as answer:
        return json.load(answer)


# The files


@pytest.mark.parametrize(("low", "high"), [(0, 0), (1, 1), (2, 2), (4, 4), (0, 1), (2, 3)])
def test_an_old_project_becomes_what_is_rendered_today(
    low: int, high: int, template: Path, rendered: Render, tmp_path: Path
) -> None:
    folder = old_project(template, tmp_path / "project", low)
    update(folder, level=high)
    assert conflicts(folder) == set()
    for name, text in EDITS.items():
        assert (
            not (folder / name).is_file()
            or reads(folder / name).endswith(text)
            or name == "conf/training.yml"
            and low < 2
        )
    commit(folder)
    git(folder, "rm", "-r", "-q", "--ignore-unmatch", *LEFT)  # as the message says
    fresh = rendered(high)
    yours = user_owned(fresh)
    sample = {name for name in files_in(fresh) if name.startswith("data/sample/")}
    assert files_in(folder) | sample == files_in(fresh)
    same = files_in(folder) - set(EDITS) - yours - {".copier-answers.yml"}
    assert {name for name in same if (folder / name).read_bytes() != (fresh / name).read_bytes()} == set()


def test_what_was_edited_in_ops_stays_and_the_message_says_how_to_go_on(
    template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = old_project(template, tmp_path / "project", 2)
    (folder / OPS).write_text(reads(folder / OPS) + "\n# my own\n", encoding="utf-8")
    (folder / "src/flight_delays/ops/mine.py").write_text('"""Mine."""\n', encoding="utf-8")
    commit(folder)
    update(folder)
    assert reads(folder / OPS).endswith("\n# my own\n")
    assert (folder / "src/flight_delays/ops/mine.py").is_file()
    assert conflicts(folder) == set()
    told = capfd.readouterr().err
    assert "nothing uses them any" in told
    assert "git grep -n flight_delays.ops -- notebooks" in told  # what is the user's and imports from there
    assert f"git rm -r -q --ignore-unmatch {' '.join(LEFT)}\n" in told


def test_the_message_is_silent_once_ops_is_gone(
    template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = old_project(template, tmp_path / "project", 0)
    update(folder)
    commit(folder)
    git(folder, "rm", "-r", "-q", "--ignore-unmatch", *LEFT)
    commit(folder)
    capfd.readouterr()
    update(folder, level=1)
    told = capfd.readouterr().err
    assert "git diff --check" in told
    assert "nothing uses them" not in told


# What it made


@pytest.fixture(scope="module")
def before(shared: Path, template: Path) -> Path:
    """Return an old project of level 2 with a champion, told.json beside it: read it, never write to it."""

    def make(folder: Path) -> None:
        old_project(template, folder, 2)
        run(folder, "python", "--version")
        commit(folder, "Lock")
        told = project_command(folder, "train", "--json")
        commit(folder, "Train")
        project_command(folder, "promote", json.loads(told)["version"], "--reason", "the first")
        folder.with_name("told.json").write_text(told, encoding="utf-8")

    return once(shared / "before-the-runtime", make)


@pytest.mark.slow
@pytest.mark.parametrize("level", [pytest.param(2, marks=pytest.mark.thorough), 3])
def test_what_an_old_project_registered_is_served_and_rebuilt_and_training_goes_on(
    level: int, before: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(before, tmp_path / "project", ignore=shutil.ignore_patterns(".venv"), symlinks=True))
    update(folder, level=level)
    git(folder, "rm", "-r", "-q", "--ignore-unmatch", *LEFT)
    run(folder, "python", "--version")
    commit(folder, "Update")
    champion = f"models:/{MODEL}@champion"
    code = (
        f"import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); m = mlflow.pyfunc.load_model({champion!r}); "
    )
    by_mlflow = float(run(folder, "python", "-c", code + "print(m.predict(m.input_example).iloc[0, 0])"))
    with service(folder, champion) as address:
        about = ask(address)
        assert about["version"] == "1"
        answer = ask(address, [about["example"]["row"]])
    assert answer["predictions"][0] == pytest.approx(by_mlflow)
    assert "no difference" in project_command(folder, "reproduce", "1")
    again = json.loads(project_command(folder, "train", "--json"))
    assert again["version"] == "2"
    assert again["champion"]["version"] == "1"
    if level == 3:
        told = json.loads(project_command(folder, "gate", "1", "--json", codes=(0, 3)))
        assert told


@pytest.mark.slow
def test_what_an_old_project_deployed_logged_and_audited_goes_on(template: Path, tmp_path: Path) -> None:
    folder = old_project(template, tmp_path / "project", 4)
    run(folder, "python", "--version")
    commit(folder, "Lock")
    project_command(folder, "train")
    project_command(folder, "gate", "1")
    git(folder, "config", "user.email", "grace@example.org")
    project_command(folder, "approve", "1", "--reason", "the first")
    commit(folder, "Release")
    for name in ("test", "prod"):
        project_command(folder, "deploy", "1", "--env", name)
    with service(folder, "env:prod") as address:
        row = ask(address)["example"]["row"]
        answer = ask(address, [row] * 5)
    n_lines = int(project_command(folder, "audit", "verify").split()[0])
    commit(folder, "Serve")

    update(folder)
    git(folder, "rm", "-r", "-q", "--ignore-unmatch", *LEFT)
    run(folder, "python", "--version")
    commit(folder, "Update")
    with service(folder, "env:prod") as address:
        assert ask(address, [row])["predictions"] == pytest.approx(answer["predictions"][:1])
        assert ask(address)["version"] == "1"
    assert project_command(folder, "prediction-log").startswith("6 predictions from ")
    assert "version 1 deployed" in project_command(folder, "deploy", "--history", "--env", "prod")
    project_command(folder, "approve", "1", "--reason", "looked at again")
    assert int(project_command(folder, "audit", "verify").split()[0]) == n_lines + 1
