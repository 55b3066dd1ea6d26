"""A snapshot of the working tree as a git template, and the projects rendered from it, each made once a test run.

`snapshot`, `rendered` and `environment` are shared by all workers of pytest-xdist and must not be written to;
`project` hands out private copies.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from filelock import FileLock
from pathspec import GitIgnoreSpec

ROOT = Path(__file__).resolve().parent.parent
LEVELS = sorted(int(folder.name[0]) for folder in ROOT.glob("levels/[0-9]-*"))
PROBLEMS = ["classification", "regression"]
CIS = ["github", "none"]
GROWS = {"pyproject.toml", ".copier-answers.yml"}  # the only files of a level whose text a later level changes
RELEASE = "v1.0.0"  # the tag that the snapshot carries

Render = Callable[..., Path]

os.environ |= {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,  # nobody's aliases, hooks or signing
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",  # threads that wait for a busy machine's cores take many times as long
}
for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"):
    os.environ.pop(name, None)  # uv takes the project's own environment
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each command would compile its libraries anew, for seconds
if Path("/dev/shm").is_dir():  # copier's clones and renders, some 200 files each, in memory; what tests make is on disk
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    tempfile.tempdir = "/dev/shm"


# By name, the tests that take minutes: begun first, or one worker would be busy with the last while the others wait. Each
# worker is first given two in a row, so the longest are followed by short ones.
LONGEST = (
    f"fresh_environment[{LEVELS[-1]}]",
    "fresh_environment[0]",
    "promises[release]",
    "promises[loop]",
    "promises[serving]",
    "promises[training]",
    "promises[loop, retrain]",
    "promises[loop, experiment]",
    "promises[loop, loop]",
    "promises",
    "umlauts",
    f"own_data[{LEVELS[-1]}]",
    "own_data[0]",
    "user_configuration",
    "demo_replays",
    "after_the_climb",
    "runtime_package",
    "climb_over",
    "fresh_environment",
    "word_by_word",
    "test_faults",
    "test_delivery",
    "test_team",
    "test_container",
    "another_framework",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((rank for rank, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


def git(folder: Path, *words: str) -> str:
    """Return what `git WORDS` prints in FOLDER; fails the test with git's message when it does not exit 0."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, f"git {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def commit(folder: Path, message: str = "Edit") -> None:
    """Commit everything in FOLDER, which becomes a git repository if it is none."""
    if not (folder / ".git").exists():
        git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)


def render(template: Path, folder: Path, vcs_ref: str | None = None, **answers: Any) -> Path:
    """Render TEMPLATE's latest release, or VCS_REF, to FOLDER with the default answers but for ANSWERS."""
    copier.run_copy(str(template), folder, data=answers, defaults=True, quiet=True, vcs_ref=vcs_ref)
    return folder


def tracked(folder: Path) -> set[str]:
    """Return the paths of the files that git tracks in FOLDER, or would if they were added."""
    return set(git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")) - {""}


def files_in(folder: Path) -> set[str]:
    """Return the paths of all files in FOLDER, relative to it, without those of git."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return {name for name in names if not name.startswith(".git/")}


def once(folder: Path, make: Callable[[Path], Any]) -> Path:
    """Return FOLDER, made by MAKE unless another worker of this run did so before."""
    with FileLock(f"{folder}.lock"):
        done = Path(f"{folder}.done")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of this run see."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def snapshot(shared: Path) -> Path:
    """Return a git repository with this working tree, uncommitted edits included, tagged RELEASE."""

    def make(folder: Path) -> None:
        for name in tracked(ROOT):
            if (ROOT / name).is_file():  # not one deleted but still in the index
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        commit(folder, "Release")
        git(folder, "tag", RELEASE)
        git(folder, "gc", "--quiet")  # each copy and update clones it: two files, not a folder for every few objects

    return once(shared / "snapshot", make)


@pytest.fixture(scope="session")
def rendered(shared: Path, snapshot: Path) -> Render:
    """Return a function that gives the one shared render of (level, problem, ci): read it, never write to it."""

    def get(level: int, problem: str = "classification", ci: str = "github") -> Path:
        def make(folder: Path) -> None:
            render(snapshot, folder, level=level, problem=problem, ci=ci)

        return once(shared / f"level-{level}-{problem}-{ci}", make)

    return get


@pytest.fixture
def project(tmp_path: Path, rendered: Render) -> Render:
    """Return a function that gives a private copy of a render, a git repository with everything committed."""

    def get(level: int, problem: str = "classification", ci: str = "github", name: str = "project") -> Path:
        folder = tmp_path / name
        shutil.copytree(rendered(level, problem, ci), folder)
        commit(folder, "Start")
        return folder

    return get


@pytest.fixture(scope="session")
def environment(shared: Path, rendered: Render) -> Render:
    """Return a function that gives a level's Python with its libraries, but neither the project nor its runtime: `sources`."""

    def get(level: int) -> Path:
        def make(folder: Path) -> None:
            source = rendered(level)
            folder.mkdir()
            shutil.copy2(source / "pyproject.toml", folder)
            shutil.copytree(source / "runtime", folder / "runtime")
            command = ["uv", "sync", "-q", "--no-install-workspace", "--python", sys.executable]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

        folder = once(shared / f"environment-{level}", make) / ".venv"
        return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    return get


def sources(folder: Path) -> str:
    """Return PYTHONPATH for the package and the runtime of the project in FOLDER."""
    return f"{folder / 'src'}{os.pathsep}{folder / 'runtime/src'}"


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def reads(path: Path) -> str:
    """Return the text of PATH with line endings as they are on disk."""
    return path.read_bytes().decode("utf-8")


class Settings(yaml.SafeLoader):
    """Reads copier.yml without following its `!include`."""


Settings.add_constructor("!include", lambda loader, node: {})


def settings() -> dict[str, Any]:
    """Return copier.yml, its documents merged, without what levels/ adds to it."""
    found: dict[str, Any] = {}
    for document in yaml.load_all(reads(ROOT / "copier.yml"), Loader=Settings):
        found |= document
    return found


def user_owned(folder: Path) -> set[str]:
    """Return the files of a render that are the user's: written once, never touched again (`_skip_if_exists`)."""
    patterns = GitIgnoreSpec.from_lines(f"/{pattern.lstrip('/')}" for pattern in settings()["_skip_if_exists"])
    return set(patterns.match_files(files_in(folder)))


def faults(level: int) -> list[dict[str, Any]]:
    """Return what the suite of LEVEL must notice, as levels/N-*/faults.yml has it."""
    return [fault for file in ROOT.glob(f"levels/{level}-*/faults.yml") for fault in yaml.safe_load(reads(file))]


def planted(folder: Path, fault: dict[str, Any]) -> tuple[Path, str]:
    """Return the file of the project in FOLDER that FAULT is planted in, and its text with the fault."""
    (file,) = folder.glob(fault["file"])
    text = reads(file)
    for right, wrong in {fault["replace"]: fault["with"], **fault.get("also", {})}.items():
        assert text.count(right) == 1, f"{fault['file']} has {right!r} {text.count(right)} times: mend faults.yml"
        text = text.replace(right, wrong)
    return file, text


def answers_of(folder: Path) -> dict[str, Any]:
    """Return the answers that a rendered project remembers."""
    return yaml.safe_load(reads(folder / ".copier-answers.yml"))


def package_of(folder: Path) -> str:
    """Return the name of the package in a rendered project."""
    return answers_of(folder)["package_name"]
