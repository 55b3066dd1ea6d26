"""`runtime: package`: the runtime is a released package, one for many projects, that comes from an index and from nowhere else."""

import contextlib
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LEVELS, ROOT, Render, answers_of, commit, files_in, free_port, git, reads, render
from copier._cli import CopierApp

VERSION = "0.2.0"
NEWER = "99.0.0"  # what the decoy offers under the same name


class Decoy(http.server.BaseHTTPRequestHandler):
    """An index that everybody asks first. It has nothing but a newer mlops-ladder."""

    def do_GET(self) -> None:
        name = self.path.strip("/").split("/")[-1]
        self.server.asked.append(name)  # type: ignore[attr-defined]
        wheel = f"mlops_ladder-{NEWER}-py3-none-any.whl"
        body = {"mlops-ladder": f'<a href="/{wheel}">{wheel}</a>'.encode(), wheel: self.server.wheel}.get(name)  # type: ignore[attr-defined]
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "application/octet-stream" if name == wheel else "text/html")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def decoy(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    file, about = tmp_path / "decoy.whl", f"mlops_ladder-{NEWER}.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        extras = "".join(f"Provides-Extra: level{level}\n" for level in LEVELS[1:])
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: mlops-ladder\nVersion: {NEWER}\n{extras}")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Decoy)
    server.asked, server.wheel = [], file.read_bytes()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runtime as the team that releases it builds it, from what git tracks."""
    source, dist = tmp_path_factory.mktemp("runtime"), tmp_path_factory.mktemp("dist")
    for name in git(ROOT / "template/runtime", "ls-files").splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / "template/runtime" / name, source / name)
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", str(dist)], cwd=source, check=True)
    (made,) = dist.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def index(wheel: Path) -> Iterator[str]:
    """Return the address of a running index that has the wheel."""
    port = free_port()
    command = [sys.executable, "-m", "pypiserver", "run", "--interface", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen([*command, str(wheel.parent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/simple/"
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            break
        time.sleep(0.1)
    yield address
    server.terminate()
    server.wait()


@pytest.fixture
def feed(wheel: Path, tmp_path: Path) -> str:
    """Return the address of a folder that is a simple index, such as `nox -s publish` makes."""
    folder = tmp_path / "feed/mlops-ladder"
    folder.mkdir(parents=True)
    shutil.copy2(wheel, folder)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "index.html").write_text(
        f'<!DOCTYPE html>\n<a href="{wheel.name}#sha256={digest}">{wheel.name}</a>\n', encoding="utf-8"
    )
    return folder.parent.as_uri()


def packaged(template: Path, folder: Path, source: str, level: int = 1, version: str = VERSION) -> Path:
    """Render a project, committed, whose runtime is VERSION from SOURCE."""
    answers = {"runtime": "package", "runtime_source": source, "runtime_version": version}
    render(template, folder, level=level, **answers)
    commit(folder, "Start")
    return folder


def run(folder: Path, *command: str, exit_code: int = 0, **variables: str) -> str:
    """Return what COMMAND prints in FOLDER, errors too."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def installed(folder: Path) -> tuple[str, str]:
    """Return the version of the runtime that the project in FOLDER imports, and where it lies."""
    code = "import importlib.metadata as m, mlops_ladder as r; print(m.version('mlops-ladder'), r.__path__[0])"
    version, _, place = run(folder, "uv", "run", "-q", "python", "-c", code).strip().partition(" ")
    return version, place


def update(folder: Path, **answers: Any) -> None:
    """Commit, run `copier update` in FOLDER, staying at the version of the template, and commit again."""
    commit(folder)
    data = [f"--data={name}={value}" for name, value in answers.items()]
    words = ["copier", "update", "--vcs-ref=:current:", "--skip-answered", "--defaults", "--quiet", *data]
    with contextlib.chdir(folder):
        _, code = CopierApp.run(words, exit=False)
    assert code == 0
    commit(folder, "Update")


# The questions


@pytest.mark.parametrize(
    ("source", "version", "message"),
    [
        ("", "1.0.0", "give the address of an index"),
        ("pypi", "1.0.0", "give the address of an index"),
        ("https://example.org/simple\nx", "1.0.0", "give the address of an index"),
        ("https://ada:secret@example.org/simple", "1.0.0", "holds a password or a user: leave it out"),
        ("https://example.org/simple", "", "give one version"),
        ("https://example.org/simple", ">=1", "give one version"),
    ],
)
def test_a_source_or_version_that_cannot_be_is_refused(
    source: str, version: str, message: str, snapshot: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        packaged(snapshot, tmp_path / "project", source, version=version)


def test_no_folder_of_the_runtime_is_in_such_a_project(snapshot: Path, tmp_path: Path) -> None:
    folder = packaged(snapshot, tmp_path / "project", "https://example.org/simple", level=LEVELS[-1])
    assert not [name for name in files_in(folder) if name.startswith("runtime/")]
    assert "COPY runtime" not in reads(folder / "Containerfile")
    assert reads(folder / "Containerfile").count("RUN ${SYNC}") == 2


def test_the_index_holds_the_runtime_and_nothing_else(snapshot: Path, tmp_path: Path) -> None:
    text = reads(packaged(snapshot, tmp_path / "project", "https://example.org/simple") / "pyproject.toml")
    assert "explicit = true" in text
    assert 'mlops-ladder = { index = "runtime" }' in text
    assert f'"mlops-ladder=={VERSION}"' in text


# Where it comes from


@pytest.mark.slow
def test_runtime_comes_from_its_index_though_another_offers_a_newer_one(
    snapshot: Path, index: str, decoy: Any, tmp_path: Path
) -> None:
    folder = packaged(snapshot, tmp_path / "project", index)
    run(folder, "uv", "sync", "-q", UV_INDEX=f"http://127.0.0.1:{decoy.server_port}/simple/")
    assert installed(folder)[0] == VERSION
    assert "pandas" in decoy.asked  # it was asked first, for all else
    assert not [name for name in decoy.asked if name.startswith("mlops")]


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["the version", "the name"])
def test_a_runtime_that_its_index_lacks_is_looked_up_nowhere_else(
    lacking: str, snapshot: Path, index: str, decoy: Any, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    source, version = (index, NEWER) if lacking == "the version" else (empty.as_uri(), VERSION)
    folder = packaged(snapshot, tmp_path / "project", source, version=version)
    address = f"http://127.0.0.1:{decoy.server_port}/simple/"
    told = run(folder, "uv", "lock", exit_code=1, UV_INDEX=address, UV_DEFAULT_INDEX=address)
    assert "mlops-ladder" in told
    assert not [name for name in decoy.asked if name.startswith("mlops")]
    assert not (folder / "uv.lock").exists()


@pytest.mark.slow
def test_runtime_comes_from_a_commit_of_a_git_address(snapshot: Path, tmp_path: Path) -> None:
    head = git(snapshot, "rev-parse", "HEAD").strip()
    folder = packaged(snapshot, tmp_path / "project", f"git+{snapshot.as_uri()}", version=head)
    run(folder, "uv", "sync", "-q")
    assert installed(folder)[0] == VERSION
    assert head in reads(folder / "uv.lock")
    assert "serve " in run(folder, "uv", "run", "-q", "python", "-m", "flight_delays", "--help")


# What such a project does


@pytest.mark.slow
def test_commands_of_a_later_level_are_refused_though_the_package_has_them(
    snapshot: Path, index: str, tmp_path: Path
) -> None:
    folder = packaged(snapshot, tmp_path / "project", index)
    run(folder, "uv", "sync", "-q")
    assert (Path(installed(folder)[1]) / "training/train.py").is_file()
    for command, level in {"train": 2, "gate": 3, "monitor": 4}.items():
        told = run(folder, "uv", "run", "-q", "python", "-m", "flight_delays", command, exit_code=2)
        assert f"{command} comes with level {level}: climb with" in told
    assert "train " not in run(folder, "uv", "run", "-q", "python", "-m", "flight_delays", "--help")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["index", "folder"])
def test_what_build_makes_installs_where_no_index_is_named(
    kind: str, snapshot: Path, index: str, feed: str, tmp_path: Path
) -> None:
    folder = packaged(snapshot, tmp_path / "project", index if kind == "index" else feed)
    run(folder, "uv", "run", "-q", "nox", "-s", "build")
    (wheel,) = (folder / "dist").glob("*.whl")
    assert wheel.name.startswith("flight_delays-")
    bare = tmp_path / "bare"
    run(tmp_path, "uv", "venv", "-q", "--python", sys.executable, str(bare))
    install = ("uv", "pip", "install", "-q", "--python", str(bare))
    run(tmp_path, *install, "--require-hashes", "--requirement", str(folder / "dist/requirements.txt"))
    run(tmp_path, *install, "--no-deps", str(wheel))
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    assert "serve " in run(bare, str(python), "-m", "flight_delays", "--help")
    told = run(bare, str(python), "-m", "flight_delays", "train", exit_code=2)
    assert "train comes with level 2" in told, "the runtime has it, this project has not climbed to it"


@pytest.mark.slow
def test_project_goes_back_to_a_runtime_of_its_own(
    snapshot: Path, index: str, tmp_path: Path, rendered: Render
) -> None:
    folder = packaged(snapshot, tmp_path / "project", index)
    run(folder, "uv", "sync", "-q")
    update(folder, runtime="project")
    assert files_in(folder / "runtime") >= files_in(rendered(1) / "runtime")
    assert "index" not in reads(folder / "pyproject.toml").partition("[tool.uv]")[2].partition("[tool.pytest")[0]
    run(folder, "uv", "sync", "-q")
    assert Path(installed(folder)[1]).is_relative_to(folder)
    assert "serve " in run(folder, "uv", "run", "-q", "python", "-m", "flight_delays", "--help")


@pytest.mark.slow
def test_project_of_a_released_runtime_climbs_to_the_top_and_passes_its_tests(
    snapshot: Path, index: str, tmp_path: Path
) -> None:
    folder = packaged(snapshot, tmp_path / "project", index)
    run(folder, "uv", "run", "-q", "pytest", "-q", "tests")
    for level in LEVELS[2:]:
        update(folder, level=level)
    assert answers_of(folder)["level"] == LEVELS[-1]
    assert not (folder / "runtime").exists()
    run(folder, "uv", "sync", "-q")
    commit(folder, "Lock")
    run(folder, "uv", "run", "-q", "mypy")
    own = [
        *folder.glob("tests/test_*.py"),
        *folder.glob("tests/acceptance/test_level_[12].py"),
    ]  # the rest knows no index
    run(folder, "uv", "run", "-q", "pytest", "-q", *map(str, own))
    assert installed(folder)[0] == VERSION
