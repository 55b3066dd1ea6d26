"""Every generated project's own suite passes in an environment of its own; so do the runtime's, which notice what they are there to notice."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LEVELS, PROBLEMS, ROOT, Render, commit, faults, once, package_of, planted, render, sources

pytestmark = pytest.mark.slow

RUNTIME = ROOT / "tests/runtime"
FAULTS = [
    pytest.param(level, fault, id=f"{level}: {fault['name']}", marks=[pytest.mark.thorough] if number % 8 else [])
    for level in LEVELS
    for number, fault in enumerate(faults(level))
]
# Quick tests by which the fixtures are made that shared_training.py shares, and the module that needs them.
MAKING = {
    "tests/runtime/training/test_datasets.py::test_training_leaves_the_raw_data_as_it_is": "",
    "tests/runtime/release/test_deploy.py::test_who_deployed_what_why_and_with_whose_approval_is_known_of_any_moment": (
        "test_deploy.py"
    ),
    "tests/runtime/release/test_lineage.py::test_what_leads_to_no_registered_version_is_named": "test_lineage.py",
}


@pytest.fixture(scope="session")
def installed(shared: Path, rendered: Render) -> Render:
    """Return a function that gives the one shared project of (level, problem) after `uv sync`; never write to it."""

    def get(level: int, problem: str = "classification") -> Path:
        def make(folder: Path) -> None:
            shutil.copytree(rendered(level, problem), folder)
            commit(folder, "Start")
            run(folder, "uv", "sync", "-q", "--python", sys.executable)

        return once(shared / f"installed-{level}-{problem}", make)

    return get


def run(folder: Path, *words: str | Path, **variables: str) -> str:
    """Return what WORDS print in FOLDER; fails the test with it when they do not exit 0."""
    done = attempt(folder, *words, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attempt(folder: Path, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"OMP_NUM_THREADS": "1"} | variables  # threads of parallel tests would wait for each other
    return subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, encoding="utf-8", check=False)


def python_of(folder: Path) -> Path:
    return folder / (".venv/Scripts/python.exe" if os.name == "nt" else ".venv/bin/python")


@pytest.mark.parametrize("level", LEVELS)
def test_its_own_suite_passes_in_its_own_fresh_environment(level: int, installed: Render) -> None:
    """`nox -s "level(3)"` runs it. Of levels between, the lower ones' acceptance tests are left out: the highest runs all."""
    folder = installed(level)
    lower = [f"--ignore=tests/acceptance/test_level_{n}.py" for n in range(level)] if level < LEVELS[-1] else []
    said = run(folder, "uv", "run", "-q", "pytest", "-q", *lower)
    assert " passed" in said
    assert "skipped" not in said
    if level == 0:
        assert "1 passed" in said  # the one honest check of this level
    assert run(folder, "git", "status", "--porcelain").split() == ["??", "uv.lock"]  # leaves nothing else behind


@pytest.fixture(scope="session")
def proving(shared: Path, rendered: Render) -> Render:
    """Return a function that gives the highest level's project of a problem with the runtime's tests in it; never write to it."""

    def get(problem: str = "classification") -> Path:
        def make(folder: Path) -> None:
            shutil.copytree(rendered(LEVELS[-1], problem), folder)
            shutil.copytree(RUNTIME, folder / "tests/runtime", ignore=shutil.ignore_patterns("__pycache__"))
            commit(folder, "Start")
            run(folder, "uv", "sync", "-q", "--python", sys.executable)

        return once(shared / f"proving-{problem}", make)

    return get


# The runtime's own tests, a folder a layer; the loop's in four parts, as they would be the last to end.
LOOP = {name: [f"tests/runtime/loop/test_{name}.py"] for name in ("experiment", "loop", "retrain")}
PARTS = {
    folder.name: [f"tests/runtime/{folder.name}"]
    for folder in sorted(RUNTIME.iterdir())
    if any(folder.glob("test_*.py"))
}
PARTS["loop"] += [f"--ignore={file}" for files in LOOP.values() for file in files]
PARTS |= {f"loop, {name}": files for name, files in LOOP.items()}


@pytest.mark.parametrize("part", PARTS)
def test_the_runtime_keeps_its_promises(part: str, proving: Render) -> None:
    said = run(proving(), "uv", "run", "-q", "pytest", "-q", "-p", "no:cacheprovider", *PARTS[part])
    assert " passed" in said
    assert "skipped" not in said


# The parts of the suite that differ by what is predicted: the others would be the same tests again.
ABOUT_THE_PROBLEM = ["experiment", "feedback", "gates", "impact", "monitor", "score", "serve"]
# And of these not, which version answers whom: it takes services, whose answers nobody looks at.
WHO_IS_ASKED = [
    "test_a_service_that_ends_in_order_gives_back_the_requests_that_it_did_not_use",
    "test_an_entity_has_one_version_in_every_request_and_process_and_the_share_is_kept",
    "test_blue_green_switches_a_warm_version_under_load_without_a_failed_request",
    "test_no_more_requests_than_declared_reach_it_in_all_processes_together",
    "test_one_that_fails_or_is_slow_is_stopped_and_no_caller_notices",
]


@pytest.mark.thorough
@pytest.mark.parametrize("problem", PROBLEMS[1:])
def test_the_runtime_keeps_its_promises_for_another_problem(problem: str, proving: Render) -> None:
    folder = proving(problem)
    tests = [str(file) for name in ABOUT_THE_PROBLEM for file in folder.glob(f"tests/runtime/*/test_{name}.py")]
    assert len(tests) == len(ABOUT_THE_PROBLEM)
    tests += [f"--deselect=tests/runtime/loop/test_experiment.py::{one}" for one in WHO_IS_ASKED]
    run(folder, "uv", "run", "-q", "pytest", "-q", "-p", "no:cacheprovider", *tests)


@pytest.mark.parametrize("acceptance", [1, pytest.param(3, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("problem", PROBLEMS[1:])
def test_a_project_for_another_problem_with_quotes_and_umlauts_in_its_name_passes_its_suite(
    problem: str, acceptance: int, snapshot: Path, installed: Render, tmp_path: Path
) -> None:
    """What is level 4's own is tried with each problem in the runtime's tests, level 2's by tests/test_adopt.py on a number."""
    name, level = 'Müllers "Züge" & Anna\'s <Bahn>: 100 %', LEVELS[-1]
    folder = render(snapshot, tmp_path / "Anna's Züge", project_name=name, level=level, problem=problem)
    assert package_of(folder) == "muellers_zuege_anna_s_bahn_100"
    commit(folder, "Start")
    run(folder, "uv", "lock", "-q")
    beyond = [f"--ignore=tests/acceptance/test_level_{other}.py" for other in LEVELS if other != acceptance]
    run(folder, python_of(installed(level)), "-m", "pytest", "-q", *beyond, PYTHONPATH=sources(folder))


@pytest.fixture(scope="session")
def trained(shared: Path, proving: Render) -> Callable[[int, str], dict[str, str]]:
    """Return a function that gives what makes the suite of (level, problem) take up a training of its unchanged project.

    From level 3 on, faults are planted in what comes after training, which took most of the time of each.
    """

    def get(level: int, problem: str) -> dict[str, str]:
        if level < 3:
            return {}
        source = proving(problem)
        variables = {
            "PYTEST_PLUGINS": "shared_training",
            "PYTHONPATH": f"{sources(source)}{os.pathsep}{ROOT / 'tests'}",
        }

        def make(folder: Path) -> None:
            folder.mkdir()
            named = " ".join(test for fault in faults(level) for test in fault["tests"])
            making = [test for test, module in MAKING.items() if module in named]
            run(source, python_of(source), "-m", "pytest", "-q", *making, **variables, TRAINED=str(folder), MAKE="all")

        return variables | {"TRAINED": str(once(shared / f"trained-{level}-{problem}", make))}

    return get


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Callable[..., tuple[int, str]]]]:
    """Return a function that gives, for an installed project, what runs pytest in a folder: its exit code and what it says."""
    running: dict[Path, subprocess.Popen[str]] = {}
    said = tmp_path_factory.mktemp("warm") / "said"

    def get(source: Path) -> Callable[..., tuple[int, str]]:
        if source not in running:
            environ = os.environ | {"OMP_NUM_THREADS": "1"}
            words = [python_of(source), ROOT / "tests/warm.py"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            running[source] = subprocess.Popen(words, env=environ, cwd=source, text=True, **pipes)
        process = running[source]

        def run(folder: Path, words: list[str], variables: dict[str, str]) -> tuple[int, str]:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps([str(folder), words, variables, str(said)]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline()), said.read_text(errors="replace")

        return run

    yield get
    for process in running.values():
        process.kill()


@pytest.mark.parametrize(("level", "fault"), FAULTS)
def test_a_fault_makes_its_suite_fail(
    level: int,
    fault: dict[str, Any],
    proving: Render,
    trained: Callable[[int, str], dict[str, str]],
    warm: Callable[[Path], Callable[..., tuple[int, str]]],
    tmp_path: Path,
) -> None:
    problem = fault.get("problem", "classification")
    source = proving(problem)
    reusable = fault["file"].startswith(("src/", "runtime/"))  # settings are part of what `trained` is made of
    variables = trained(level, problem) if reusable else {}
    folder = shutil.copytree(source, tmp_path / "faulty", ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    file, text = planted(folder, fault)
    file.write_text(text, encoding="utf-8")
    variables |= {"PYTHONPATH": f"{sources(folder)}{os.pathsep}{ROOT / 'tests'}"}
    code, said = warm(source)(folder, ["-q", "-x", *fault["tests"]], variables)
    assert code == 1, said  # 1: tests failed; others: they did not even run, or did not end
