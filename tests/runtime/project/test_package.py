"""What is released: built, tagged by its version, published to a feed, and whole when it is installed. The template's file."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from projects import ROOT

PROJECT = ROOT
NAME = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
PACKAGE = next(PROJECT.glob("src/*/__main__.py")).parent.name

IMPORT_ALL = """
import importlib, pkgutil, sys

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    print(*package.__path__)
"""


def call(folder: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "UV_PROJECT_ENVIRONMENT": sys.prefix, **environment}
    env.pop("UV_PUBLISH_URL", None)  # never the real feed
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8", check=False)


def nox(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return call(folder, sys.executable, "-m", "nox", "--no-color", "-s", *words, **environment)


def git(folder: Path, *words: str) -> str:
    done = call(folder, "git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project as it is on disk, with one commit."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("src", "runtime"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "noxfile.py", ".gitignore", "uv.lock"):
        if (PROJECT / file).is_file():
            shutil.copy(PROJECT / file, folder)
    git(folder, "init", "--quiet", "--initial-branch=main")
    call(folder, "uv", "lock", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=Predict the arrival delay")
    return folder


@pytest.fixture(scope="module")
def built(clone: Path) -> Path:
    """The clone with dist/ filled by a dry run of the release."""
    done = nox(clone, "release", "--", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    return clone


@pytest.mark.practice("automated-app-release")
def test_a_dry_run_writes_the_changelog_and_tags_nothing(built: Path) -> None:
    changelog = (built / "dist/CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog.startswith(f"## {VERSION} (")
    assert "- Predict the arrival delay (" in changelog
    assert git(built, "tag") == ""


@pytest.mark.practice("automated-app-release")
def test_a_tag_that_is_not_the_version_is_refused(built: Path) -> None:
    done = nox(built, "release", "--", "--tag", "v9.9.9")
    assert done.returncode != 0
    assert f"the tag is v9.9.9, pyproject.toml says version {VERSION}" in done.stdout + done.stderr


@pytest.mark.practice("automated-app-release")
def test_a_release_tags_its_commit_once_and_pushes_the_tag(clone: Path, tmp_path: Path) -> None:
    shutil.copytree(clone, tmp_path / "clone", ignore=shutil.ignore_patterns("dist"))
    git(tmp_path, "init", "--quiet", "--bare", "remote")
    git(tmp_path / "clone", "remote", "add", "origin", str(tmp_path / "remote"))
    (tmp_path / "clone/README.md").write_text("edited", encoding="utf-8")
    identity = {f"GIT_{who}_{what}": "ada@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    dirty = nox(tmp_path / "clone", "release", **identity)
    git(tmp_path / "clone", "commit", "--quiet", "--all", "--message=Say more")
    first = nox(tmp_path / "clone", "release", **identity)
    again = nox(tmp_path / "clone", "release", **identity)

    assert "uncommitted" in dirty.stdout + dirty.stderr
    assert (dirty.returncode, first.returncode, again.returncode) == (1, 0, 1)
    assert git(tmp_path / "remote", "tag").split() == [f"v{VERSION}"]
    assert "released already" in again.stdout + again.stderr


@pytest.mark.practice("automated-builds", "scoring-script-version-control")
def test_the_wheel_and_its_requirements_are_all_that_the_commands_need(built: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    assert call(tmp_path, "uv", "venv", "--quiet", "--python", sys.executable, "venv").returncode == 0
    install = ["uv", "pip", "install", "--quiet", "--python", python]
    for words in (["-r", built / "dist/requirements.txt"], ["--no-deps", *built.glob("dist/*.whl")]):
        done = call(tmp_path, *install, *words)
        assert done.returncode == 0, done.stderr

    installed = json.loads(call(tmp_path, "uv", "pip", "list", "--format=json", "--python", python).stdout)
    assert not {"pytest", "mypy", "ruff", "nox"} & {each["name"] for each in installed}  # tools stay at home
    script = python.with_name(PACKAGE)
    assert call(tmp_path, script, "--help").returncode == 0
    done = call(tmp_path, python, "-c", IMPORT_ALL, PACKAGE, "mlops_ladder", PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(tmp_path)) for line in done.stdout.splitlines())  # not this project's own source


@pytest.mark.practice("internal-package-feed")
def test_pip_installs_the_package_from_the_feed(built: Path, tmp_path: Path) -> None:
    feed = tmp_path / "a feed"
    for _ in range(2):  # publishing the same once more changes nothing
        done = nox(built, "publish", PACKAGE_FEED=str(feed))
        assert done.returncode == 0, done.stdout + done.stderr

    assert call(tmp_path, "uv", "venv", "--quiet", "--seed", "--python", sys.executable, "venv").returncode == 0
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "--isolated", "install", "--quiet", "--no-deps", "--index-url", feed.as_uri()]
    done = call(tmp_path, *pip, f"{NAME}=={VERSION}")
    assert done.returncode == 0, done.stderr
    assert call(tmp_path, python, "-c", f"import {PACKAGE}", PYTHONPATH="").returncode == 0


@pytest.mark.practice("internal-package-feed")
def test_a_version_on_the_feed_is_never_replaced(built: Path, tmp_path: Path) -> None:
    assert nox(built, "publish", PACKAGE_FEED=str(tmp_path)).returncode == 0
    wheel = next(tmp_path.glob("*/*.whl"))
    wheel.write_bytes(b"what somebody installed")
    done = nox(built, "publish", PACKAGE_FEED=str(tmp_path))
    assert done.returncode != 0
    assert "published once" in done.stdout + done.stderr
    assert wheel.read_bytes() == b"what somebody installed"
