"""Install the built package as an environment's training pipeline, in a Python of its own, with its schedule.

uv run nox -s build
python -m {package} deploy-pipeline --env prod
python -m {package} deploy-pipeline --env dev --run     # and train with it at once

What it prints at the end, typed, lets it run on its own, beside what your crontab has already; conf/pipeline.yml says when.
The package must be what this commit builds. Every run names the pipeline's version; what it makes is a candidate in the
store of dev, which goes through the gates like any other.
"""

import argparse
import configparser
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any, Literal

import pydantic

from ..core import files, people, settings
from ..core.errors import ProjectError, Refused
from ..core.files import write_json
from ..core.progress import say
from ..core.project import Project
from ..core.repository import git
from ..training import tracking
from . import environments

FACTS = "pipeline.json"  # in the pipeline's folder, written last: what is installed there
Stage = Literal["ingest", "validate", "split", "train", "evaluate", "register"]


class Pipeline(settings.Settings, frozen=True):
    """conf/pipeline.yml"""

    schedule: str = pydantic.Field(pattern=r"^(\S+ ){4}\S+$")
    isolated: dict[Stage, list[str]]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", required=True, help="environment, one of conf/environments/")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to (default: environments/ENV/pipeline)")
    parser.add_argument("--run", action="store_true", help="train with it at once")
    parser.add_argument("--output", type=Path, metavar="FILE", help="with --run: add version=N to it, for a workflow")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> int:
    folder = (options.to or project.path("environments") / options.env / "pipeline").resolve()
    environments.read(project, options.env)
    # In dev, where candidates are made, it is for whoever trains; elsewhere for whom the environment lets deploy.
    by = people.current(project) if options.env == "dev" else environments.require(project, options.env, "deploy")
    with files.locked(folder / ".lock"):
        facts = deploy(project, options.env, folder, by)
    if options.run:
        words = ["--output", str(options.output.resolve())] if options.output else []
        return start(project, folder, facts, ["run-pipeline", *words, *["--json"] * options.json]).returncode
    print(
        json.dumps(facts)
        if options.json
        else f"pipeline {facts['version']} is in {folder}, not scheduled yet: {scheduling(folder)}"
    )
    return 0


def scheduling(folder: Path) -> str:
    """Return the command that puts FOLDER's line into the user's crontab, in place of an earlier one and of no other's."""
    work, line = (shlex.quote(str(folder / name)) for name in ("work", "crontab"))
    return f"(crontab -l | grep -vF {work}; cat {line}) | crontab -"


def deploy(project: Project, environment: str, folder: Path, by: str) -> dict[str, Any]:
    """Install what is in dist/ into FOLDER, unless it is there already; return what is installed."""
    wheels, requirements, commit = built(project)
    conf = settings.read(project, "pipeline", Pipeline)
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in (*wheels, requirements))).hexdigest()
    facts: dict[str, Any] = {
        "version": f"{wheels[0].name.split('-')[1]}-{digest[:8]}",
        "commit": commit,
        "environment": environment,
        "schedule": conf.schedule,
        "isolated": conf.isolated,
        "tracking_uri": tracking.absolute(project, str(environments.read(project, "dev").tracking_uri)),
    }
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    before = read(folder) if (folder / FACTS).is_file() else {}
    if facts == {key: before.get(key) for key in facts}:
        return before
    for stage in (None, *conf.isolated):
        install(python_of(folder, facts, stage), wheels, requirements, conf.isolated[stage] if stage else [])
    work = folder / "work"
    (folder / FACTS).unlink(missing_ok=True)  # until it is whole again nothing runs here
    clone(project, work, commit)
    for stale in (".dvc/cache/runs", "data/pipeline", "models/candidate"):  # made by another pipeline: not taken over
        shutil.rmtree(work / stale, ignore_errors=True)
    line = shlex.join([str(python_of(folder, facts)), "-m", project.package, "notify", "run-pipeline"]).replace(
        "%", r"\%"
    )
    command = f"{conf.schedule} cd {shlex.quote(str(work))} && {line}\n"
    (folder / "crontab").write_text(command, encoding="utf-8")
    facts |= {"by": by, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_json(folder / FACTS, facts)
    return facts


def built(project: Project) -> tuple[list[Path], Path, str]:
    """Return the wheels in dist/, the project's first, its requirements and this commit.

    Raises Refused when the commit builds other wheels.
    """
    commit, requirements = git(project, "rev-parse", "HEAD"), project.path("dist/requirements.txt")
    sources = {project.package: f"src/{project.package}"}
    if project.path("runtime").is_dir():  # a released one is among the requirements
        sources["mlops_ladder"] = "runtime/src/mlops_ladder"
    wheels = {file.name.split("-")[0]: file for file in project.path("dist").glob("*.whl")}
    if not commit or wheels.keys() != sources.keys() or not requirements.is_file():
        named = " and ".join(f"a wheel of {name}" for name in sources)
        raise ProjectError(f"dist/ must hold {named}, and requirements.txt, in a git repository: `uv run nox -s build`")
    for name, folder in sources.items():
        source = committed(project, commit, folder)
        with zipfile.ZipFile(wheels[name]) as content:
            inside = {path: content.read(path) for path in content.namelist() if path.startswith(f"{name}/")}
        if other := sorted(path for path in source.keys() | inside.keys() if source.get(path) != inside.get(path)):
            raise Refused(
                f"{wheels[name]} is not what commit {commit[:8]} builds, {other[0]} differs: commit, then "
                "`uv run nox -s build`"
            )
    return [wheels[name] for name in sources], requirements, commit


def committed(project: Project, commit: str, folder: str) -> dict[str, bytes]:
    """Return the files that COMMIT has in FOLDER, each by its path beside that folder."""
    archive = subprocess.run(
        ["git", "archive", commit, folder], cwd=project.folder, capture_output=True, check=True
    ).stdout
    beside = f"{folder.rpartition('/')[0]}/"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        return {one.name.removeprefix(beside): tree.extractfile(one).read() for one in tree if one.isfile()}  # type: ignore[union-attr]


def install(python: Path, wheels: list[Path], requirements: Path, instead: list[str]) -> None:
    """Make a Python that holds the wheels and exactly their requirements, but for those named in INSTEAD."""
    home = python.parent.parent
    done = home / "installed"
    if done.is_file():
        return
    say(f"installing {wheels[0].name} into {home.name}")
    uv("venv", "--quiet", "--clear", "--python", sys.executable, str(home))
    pip = ("pip", "install", "--quiet", "--python", str(python))
    if instead:
        (home / "instead.txt").write_text("\n".join(instead), encoding="utf-8")
        uv(*pip, "--no-verify-hashes", "--requirement", str(requirements), "--override", str(home / "instead.txt"))
    else:
        # A runtime from git has its commit in place of a hash, and then uv cannot ask for one of each.
        of_git = " @ git+" in requirements.read_text(encoding="utf-8")
        uv(*pip, "--verify-hashes" if of_git else "--require-hashes", "--requirement", str(requirements))
    uv(*pip, "--no-deps", *map(str, wheels))
    done.touch()


def python_of(folder: Path, facts: dict[str, Any], stage: str | None = None) -> Path:
    """Return the Python that runs STAGE; None stands for those that are not isolated."""
    name = facts["version"]
    if stage:
        name += f"-{stage}-{hashlib.sha256(json.dumps(facts['isolated'][stage]).encode()).hexdigest()[:8]}"
    return folder / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def clone(project: Project, work: Path, commit: str) -> None:
    """Bring WORK, a clone with data and cache of its own, to COMMIT: what the stages and their settings are."""
    here, origin = project.folder.resolve(), git(project, "remote", "get-url", "origin")
    inside = ("git", "-C", str(work))
    call("git", "init", "--quiet", str(work))
    call(*inside, "fetch", "--quiet", str(here), commit)
    call(*inside, "checkout", "--quiet", "--detach", "--force", commit)
    for key, value in {"user.email": people.current(project), "remote.origin.url": origin}.items():
        if value:
            call(*inside, "config", key, value)
    if not (project.path("uv.lock").is_file() and (work / "uv.lock").is_file()):
        raise ProjectError("uv.lock is not committed: a run names its environment. Run `uv lock` and commit the file")
    config = configparser.ConfigParser(interpolation=None)
    config.read([project.path(".dvc/config"), project.path(".dvc/config.local")])
    section = f"'remote \"{config['core']['remote']}\"'"
    url = config[section]["url"]
    if "://" not in url and not Path(url).is_absolute():  # data versions stay where the project looks for them
        lasting = f"[{section}]\n    url = {(here / '.dvc' / url).resolve()}\n"
        (work / ".dvc/config.local").write_text(lasting, encoding="utf-8")


def start(
    project: Project, folder: Path, facts: dict[str, Any], words: list[str], stage: str | None = None, **how: Any
) -> Any:
    """Run a command of the installed package in the pipeline's folder; its exit code is the caller's to judge."""
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environ.setdefault("MLFLOW_TRACKING_URI", facts["tracking_uri"])
    command = [str(python_of(folder, facts, stage)), "-m", project.package, *words]
    return subprocess.run(command, cwd=folder / "work", env=environ, check=False, **how)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))


def uv(*words: str) -> None:
    if not shutil.which("uv"):
        raise ProjectError("no uv here, which installs the pipeline: pip install uv")
    call("uv", *words)


def call(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProjectError(f"{shlex.join(words[:4])}: {done.stderr.strip()}")
    return done.stdout.strip()
