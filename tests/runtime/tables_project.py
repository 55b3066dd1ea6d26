"""A project whose user added a feature table, and Python that runs in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from flight_delays import data
from projects import ROOT, python_path

KEY = next(name for name in data.SLICES if name in data.SCHEMA)
MEAN, COUNT = "past_mean", "past_rows"

# What a user writes into tables.py: of each KEY and day, the mean target and the number of rows of all days before.
TABLES = f"""
import pandas as pd
from .data import TARGET, TIME

def past(rows):
    known = rows.assign(day=rows[TIME].dt.floor("D"), target=rows[TARGET].astype("float64"))
    sums = known.groupby(["{KEY}", "day"], observed=True)["target"].agg(["sum", "count"])
    sums = sums.groupby(level=0, observed=True).cumsum().query("count > 0").reset_index()
    sums["moment"] = sums["day"] + pd.Timedelta("30h")
    return sums.assign({MEAN}=sums["sum"] / sums["count"], {COUNT}=sums["count"])

TABLES = dict(
    past=dict(key=["{KEY}"], features=["{MEAN}", "{COUNT}"], known_after="6h", max_age="3D", build=past),
)
"""
# What a user changes so that a model learns from the table: here from nothing else.
DATA = f"""
SCHEMA |= dict.fromkeys(["{MEAN}", "{COUNT}"], dict(type="number", null=True))
_read = read

def read(folder="data/raw"):
    rows = _read(folder)
    return rows.reindex(columns=[*rows, *(name for name in SCHEMA if name not in rows)])
"""
FEATURES = f"""
COLUMNS = ["{data.TIME}", "{KEY}", *NAMES]
CATEGORIES, NUMBERS = [], NAMES

def build(rows):
    return rows[NUMBERS].astype("float64")
"""


def make_project(folder: Path, names: list[str], tables: str) -> None:
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data/raw").mkdir(parents=True)
    package = folder / "src/flight_delays"
    for file, text in (("data.py", DATA), ("features.py", f"NAMES = {names}\n{FEATURES}")):
        with (package / file).open("a") as source:
            source.write(text)
    (package / "tables.py").write_text(tables)
    conf = folder / "conf/compute.yml"
    conf.write_text(yaml.safe_dump(yaml.safe_load(conf.read_text()) | {"workers": 1}))


def python(folder: Path, *words: str, exit_code: int = 0) -> str:
    """Return what Python says in FOLDER, where the package is the one that the test's user edited."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path(folder / "src"))
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stderr
    return done.stdout + done.stderr
