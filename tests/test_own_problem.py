"""A user replaces the flights by data of their own: everything that is the template's goes on working, tests included."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import LEVELS, ROOT, Render, commit, package_of, reads, sources

PROBLEM = ROOT / "tests/own_problem"  # hourly weather at the airports: will visibility be poor?

# The parts of the suite that depend on the rows of the project's own the most.
ABOUT_DATA = ["feedback", "gates", "monitor", "prediction_log", "score", "score_batch", "validate"]
OF_THE_FLIGHTS = r"""["'](tail_number|scheduled_departure|carrier|destination|distance|humidity|wind_speed|precipitation|seats)["']"""


def bring_own_data(folder: Path, python: Path) -> None:
    """Do in a project what docs/how-to/own-data.md says."""
    package = folder / "src" / package_of(folder)
    for name in ("data.py", "features.py"):
        shutil.copy(PROBLEM / name, package / name)
    (package / "model.py").write_text(reads(package / "model.py").replace("late_probability", "poor_visibility"))
    for file in sorted((folder / "data/sample").iterdir()):
        weather(pd.read_parquet(file)).to_parquet(file.with_stem(f"weather-{file.stem[-7:]}"), index=False)
        file.unlink()
    for test in folder.glob("tests/test_*.py"):  # drop the tests that are about flights
        text = re.sub(
            r"\n\n\ndef test_(late_begins|hour_weekday)\w+\(.*?(?=\n\n\n|\Z)", "", reads(test), flags=re.DOTALL
        )
        test.write_text(text.rstrip() + "\n")
    if (training := folder / "conf/training.yml").exists():  # from level 2 on
        training.write_text(re.sub(r"^model: .*", "model: poor-visibility", reads(training), flags=re.MULTILINE))
    if (package / "behaviour.py").exists():  # from level 3 on
        shutil.copy(PROBLEM / "behaviour.py", package)
        (package / "fast.py").unlink()
        for file in (folder / "conf/environments/prod.yml", folder / "data/catalog.yml"):
            file.write_text(re.sub(r"masked: \[tail_number\].*", "masked: []", reads(file)))
        if (log := folder / "conf/prediction_log.yml").exists():  # from level 4 on
            log.write_text(reads(log).replace("entity: tail_number", "entity: reading"))
        words, variables = [python, "-m", package.name, "export-contract"], {"PYTHONPATH": sources(folder)}
        subprocess.run(words, cwd=folder, env={**os.environ, **variables}, check=True)
    commit(folder, "Bring own data")


def weather(flights: pd.DataFrame) -> pd.DataFrame:
    """Return one reading an airport and hour, from the weather that the sample's flights carry."""
    hour = flights["scheduled_departure"].dt.floor("h")
    flights = flights.assign(measured=hour, raining=flights["precipitation"] > 0, airport=flights["origin"])
    flights = flights.dropna(subset=["visibility", "humidity"]).drop_duplicates(["airport", "measured"])
    flights["reading"] = flights["airport"] + flights["measured"].dt.strftime("-%Y%m%d%H")
    return flights[["reading", "measured", "airport", "raining", "humidity", "temperature", "visibility"]]


def run_tests(folder: Path, python: Path, files: list[Path]) -> subprocess.CompletedProcess[str]:
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": sources(folder), "PATH": path},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("level", [LEVELS[0], pytest.param(LEVELS[-1], marks=pytest.mark.thorough)])
def test_suite_of_a_project_passes_with_own_data(level: int, project: Render, environment: Render) -> None:
    folder = project(level)
    bring_own_data(folder, environment(level))
    subprocess.run(["uv", "lock", "-q"], cwd=folder, check=True)
    files = [*folder.glob("tests/test_*.py"), *folder.glob("tests/system")]
    files += folder.glob("tests/acceptance/test_level_[12].py")  # what reads, checks, trains on and serves the table
    if level == LEVELS[-1]:
        shutil.copytree(ROOT / "tests/runtime", folder / "tests/runtime", ignore=shutil.ignore_patterns("__pycache__"))
        files += [file for name in ABOUT_DATA for file in folder.glob(f"tests/runtime/*/test_{name}.py")]
    done = run_tests(folder, environment(level), files)
    assert done.returncode == 0, done.stdout


def test_no_test_of_the_template_depends_on_a_column_of_the_flights(rendered: Render) -> None:
    """Or it would fail as soon as a user brings other data; those in tests/ itself are the user's to change."""
    folder = rendered(LEVELS[-1])
    files = [file for part in ("acceptance", "release", "system") for file in folder.glob(f"tests/{part}/*.py")]
    files += [*ROOT.glob("tests/runtime/*/*.py")]
    assert len(files) > 40
    found = [file.name for file in files if re.search(OF_THE_FLIGHTS, reads(file))]
    assert found == ["test_loop.py"], "which is skipped, and says so, where the data are others"
