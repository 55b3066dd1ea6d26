"""One verb a session: `uv run nox -l` lists them, and CI runs the very same ones.

The template's file. Sessions of your own go into a file `nox_*.py` beside it: it is found, as those of later levels are.
"""

import argparse
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"  # the project's own environment, which `uv run` keeps in step
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
PACKAGE = next(ROOT.glob("src/*/__main__.py")).parent.name
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PYPROJECT["project"]["version"]
COVERAGE = 80  # percent of the package's lines that the tests must run


@nox.session
def lint(session: nox.Session) -> None:
    """Run every hook on every file: format, lint, conflict marks, private keys, large files."""
    files = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    words = ["run", "pre-commit", "run", "--show-diff-on-failure", "--files", *filter(None, files)]
    session.run("uv", *words, external=True, log=False)  # the list of files is long


@nox.session
def types(session: nox.Session) -> None:
    """Check the package's types."""
    uv(session, "run", "mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests and hold the coverage floor, or run those that `-- PYTEST OPTIONS` choose."""
    floor = [f"--cov={ROOT / 'src'}", "--cov-report=term-missing:skip-covered", f"--cov-fail-under={COVERAGE}"]
    uv(session, "run", "pytest", *(session.posargs or floor))


@nox.session
def run(session: nox.Session) -> None:
    """Run a command of the package, `-- COMMAND OPTIONS`, and keep its exit code; workflows do not know its name."""
    sys.exit(subprocess.run(["uv", "run", "python", "-m", PACKAGE, *session.posargs], check=False).returncode)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels and sdists into dist/, and requirements.txt: the exact versions, with hashes, that the commands need.

    Of the runtime too, unless it is a released one and so among the requirements, by its address.
    """
    shutil.rmtree(DIST, ignore_errors=True)
    uv(session, "build", "--quiet", "--all-packages", "--out-dir", str(DIST))
    levels = [f"--group={name}" for name in PYPROJECT["dependency-groups"] if re.fullmatch(r"level-[1-9]", name)]
    needs = ["--no-default-groups", *levels, "--no-emit-workspace", "--no-annotate", "--no-header"]
    requirements = DIST / "requirements.txt"
    uv(session, "export", "--quiet", *needs, "--output-file", str(requirements))
    # Whoever installs them knows no index but its own: a name that is only in ours is taken from where the lock found it.
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    text = requirements.read_text(encoding="utf-8")
    for package in lock["package"]:
        if package["name"] == "mlops-ladder" and package.get("wheels"):
            wheel = package["wheels"][0]
            address = wheel.get("url") or (ROOT / wheel["path"]).resolve().as_uri()
            text = text.replace(f"mlops-ladder=={package['version']} ", f"mlops-ladder @ {address} ")
    requirements.write_text(text, encoding="utf-8")


@nox.session
def release(session: nox.Session) -> None:
    """Build what is released, then tag it and push the tag: CI publishes it. `-- --dry-run` stops before the tag.

    `-- --tag TAG` is for CI, where the tag is there already: it is checked against the version in pyproject.toml.
    """
    parser = argparse.ArgumentParser(prog="nox -s release --")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--tag")
    options = parser.parse_args(session.posargs)
    tag = f"v{VERSION}"
    if options.tag and options.tag != tag:
        session.error(f"the tag is {options.tag}, pyproject.toml says version {VERSION}: make one fit the other")
    if not options.tag and git("tag", "--list", tag):
        session.error(f"{tag} is released already: raise version in pyproject.toml and commit")
    if not options.tag and git("status", "--porcelain"):
        session.error("there are uncommitted changes: commit them, or they would be built but not tagged")
    build(session)
    before = git("describe", "--tags", "--abbrev=0", "--match=v*", f"--exclude={tag}")
    changes = git("log", "--no-merges", "--format=- %s (%h)", f"{before}..HEAD" if before else "HEAD")
    notes = f"## {VERSION} ({datetime.now(UTC):%Y-%m-%d})\n\n{changes}\n"
    (DIST / "CHANGELOG.md").write_text(notes, encoding="utf-8")
    session.log(f"{tag} is in dist/: {', '.join(sorted(file.name for file in DIST.glob('[!.]*')))}")
    if not options.tag and not options.dry_run:
        session.run("git", "tag", "--annotate", tag, "--file", str(DIST / "CHANGELOG.md"), external=True)
        if git("remote"):
            session.run("git", "push", git("remote").split()[0], tag, external=True)


@nox.session
def publish(session: nox.Session) -> None:
    """Publish what is in dist/ to the index at UV_PUBLISH_URL, or to the folder PACKAGE_FEED (feed/ if not set).

    The folder is a simple index: `pip install --index-url file:///PATH/TO/feed NAME` takes it, no server needed.
    """
    files = sorted([*DIST.glob("*.whl"), *DIST.glob("*.tar.gz")])
    if not files:
        session.error("nothing to publish in dist/: run `uv run nox -s build` first")
    if os.environ.get("UV_PUBLISH_URL"):
        uv(session, "publish", *map(str, files))
        return
    feed = Path(os.environ.get("PACKAGE_FEED") or ROOT / "feed").resolve()
    for file in files:
        folder = feed / re.sub(r"[-_.]+", "-", file.name.split("-")[0]).lower()  # as pip asks for it
        folder.mkdir(parents=True, exist_ok=True)
        there = folder / file.name
        if there.is_file() and there.read_bytes() != file.read_bytes():
            session.error(f"{file.name} is in {feed} with other contents: a version is published once, raise it")
        shutil.copy2(file, there)
        links = [
            f'<a href="{one.name}#sha256={hashlib.sha256(one.read_bytes()).hexdigest()}">{one.name}</a><br>'
            for one in sorted(folder.iterdir())
            if one.suffix in (".whl", ".gz")
        ]
        (folder / "index.html").write_text("\n".join(["<!DOCTYPE html>", *links, ""]), encoding="utf-8")
    wanted = " ".join("==".join(file.name.split("-")[:2]) for file in sorted(DIST.glob("*.whl"))).replace("_", "-")
    session.log(f"pip install --index-url {feed.as_uri()} --no-deps {wanted}")


def uv(session: nox.Session, *words: str) -> None:
    session.run("uv", *words, external=True)


def git(*words: str) -> str:
    """Return what `git WORDS` prints, "" when it fails."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


for file in sorted(ROOT.glob("nox_*.py")):
    runpy.run_path(str(file))
