"""`adopt` in projects as they are rendered: real tables of scikit-learn become projects whose own suite passes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import LEVELS, ROOT, Render, commit, package_of, reads, sources
from sklearn import datasets

# Rows that depend on each other in no way but the split: without a time, without a key, one without any category.
CANCER = ["cancer.csv", "--target", "benign", "--positive", "1"]
DIABETES = ["diabetes.csv", "--target", "progression"]
ADOPTED = [(0, CANCER), (0, DIABETES), (2, CANCER), pytest.param(LEVELS[-1], DIABETES, marks=pytest.mark.thorough)]


def bring_table(folder: Path, words: list[str]) -> None:
    """Put the table that WORDS name into FOLDER as a stranger's file."""
    if words is CANCER:
        table = datasets.load_breast_cancer(as_frame=True).frame.rename(columns={"target": "benign"})
        table.to_csv(folder / "cancer.csv", index=False)
    else:
        table = datasets.load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "progression"})
        table["sex"] = table["sex"].map({1.0: "one", 2.0: "other"})
        table.to_csv(folder / "diabetes.csv", sep=";", decimal=",", index=False)


def run(folder: Path, python: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    variables = {
        "PYTHONPATH": sources(folder),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(python.parent.parent),
    }
    return subprocess.run(
        [python, "-m", *words],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("level", "words"), ADOPTED)
def test_the_suite_of_a_project_passes_with_an_adopted_table(
    level: int, words: list[str], project: Render, environment: Render
) -> None:
    folder, python = project(level), environment(level)
    bring_table(folder, words)
    adopted = run(folder, python, package_of(folder), "adopt", *words)
    assert adopted.returncode == 0, adopted.stderr
    (folder / words[0]).unlink()
    commit(folder, "Adopt a table")
    subprocess.run(["uv", "lock", "-q"], cwd=folder, check=True)
    files = [*folder.glob("tests/test_*.py"), *folder.glob("tests/acceptance/test_level_[12].py")]
    done = run(folder, python, "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_after_a_climb_refresh_makes_the_new_files_about_the_table(project: Render, environment: Render) -> None:
    low, high = project(0, name="low"), project(LEVELS[-1], name="high")
    bring_table(low, DIABETES)
    assert run(low, environment(0), package_of(low), "adopt", *DIABETES).returncode == 0
    for path in ("data/sample", f"src/{package_of(low)}"):  # what the climb leaves as it is
        if path == "data/sample":
            shutil.rmtree(high / path)
        shutil.copytree(low / path, high / path, dirs_exist_ok=True)
    shutil.copy(low / ".adopted.json", high)
    refreshed = run(high, environment(LEVELS[-1]), package_of(high), "adopt", "--refresh")
    assert refreshed.returncode == 0, refreshed.stderr
    assert "wrote conf/release.yml" in refreshed.stdout and "wrote tests/test_model.py" in refreshed.stdout
    left = [
        file.relative_to(high).as_posix()
        for pattern in ("conf/**/*.yml", "src/**/*.py", "data/*.yml", "tests/test_*.py")
        for file in high.glob(pattern)
        if "tail_number" in reads(file) or "scheduled_departure" in reads(file)
    ]
    assert left == []


def test_what_adopt_starts_from_is_the_template(rendered: Render) -> None:
    """Or it takes each file of a fresh project for one that somebody edited."""
    folder = rendered(LEVELS[-1])
    texts = json.loads(reads(ROOT / "template/runtime/src/mlops_ladder/data/adopt/texts.json"))
    for path, by_problem in texts.items():
        text = by_problem["classification"].replace("the-package-of-the-project", "flight-delays")
        text = text.replace("the_package_of_the_project", "flight_delays")
        assert text == reads(folder / path.replace("PACKAGE", package_of(folder))), path
