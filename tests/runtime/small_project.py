"""A small problem of one's own as a Project in this process: tables that lack what the flights have."""

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import yaml
from mlops_ladder import Project
from projects import ROOT

LEFT = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "pyproject.toml", ".copier-answers.yml")
# Is a coin heavy? No time, no slices, no categories.
DATA = """
from pathlib import Path
import pandas as pd

PROBLEM, TARGET, KEY, TIME, GROUP, SLICES, LEAKS = "classification", "heavy", "coin", None, None, [], []
SCHEMA = {
    "coin": {"type": "text", "unique": True},
    "size": {"type": "number"},
    "heavy": {"type": "boolean"},
}

def read(folder="data/raw"):
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(folder)
    return pd.concat([pd.read_parquet(file)[[*SCHEMA]] for file in files], ignore_index=True)
"""
FEATURES = """
COLUMNS, CATEGORIES, NUMBERS = ["size"], [], ["size"]

def build(rows):
    return rows[["size"]].astype(float)
"""
MODEL = """
import numpy as np
import skops.io
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

OUTPUT, PRIMARY, DEFAULT, SIMPLE = "heavy_probability", "roc_auc", "linear", "linear"
HIGHER_IS_BETTER = {"roc_auc": True, "brier": False}
SEARCH_SPACE = {"linear": {"C": (0.01, 10.0, "log")}}

def make(family="linear", seed=0, **parameters):
    return LogisticRegression(**parameters)

def predict(model, inputs):
    return model.predict_proba(inputs)[:, 1]

def metrics(truth, predicted):
    truth = np.asarray(truth)
    return {"roc_auc": float(sk.roc_auc_score(truth, predicted)), "brier": float(np.mean((predicted - truth) ** 2))}

def baseline(truth, n_rows):
    return np.full(n_rows, truth.mean())

def save(model, file):
    skops.io.dump(model, file)

def load(file):
    return skops.io.load(file)
"""
BEHAVIOUR = """
def groups(rows):
    return {}
"""


def coins(n_rows: int = 300) -> pd.DataFrame:
    """Return made-up coins: key, a number that tells, owner, target."""
    chance = np.random.default_rng(0)
    size = chance.normal(size=n_rows)
    rows = pd.DataFrame({"coin": [f"c{number}" for number in range(n_rows)], "size": size})
    rows["owner"] = [f"o{number}" for number in chance.integers(n_rows // 5, size=n_rows)]
    rows["heavy"] = size + chance.normal(size=n_rows) / 2 > 0
    return rows


def module(file: Path, text: str) -> ModuleType:
    """Return a module of TEXT that is importable by no name."""
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"nowhere_{file.stem}", file)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def make(folder: Path, rows: pd.DataFrame, **texts: str) -> Project:
    """Return a committed project in FOLDER whose sample are ROWS; TEXTS stand in for the modules above, by name."""
    source = folder / "src/coins"
    source.mkdir(parents=True)
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in LEFT:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    dvc = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    (folder / "dvc.yaml").write_text(dvc.replace("flight_delays", "coins"), encoding="utf-8")
    (folder / "uv.lock").write_text("version = 1\n", encoding="utf-8")
    whole = {"data": DATA, "features": FEATURES, "model": MODEL, "behaviour": BEHAVIOUR} | texts
    modules = {name: module(source / f"{name}.py", text) for name, text in whole.items()}
    (source / "__init__.py").touch()
    (folder / "data/sample").mkdir(parents=True)
    rows.to_parquet(folder / "data/sample/coins.parquet")
    configure(folder, "training", family="linear", model="coins-heavy")
    configure(folder, "validation", min_rows=100)
    for words in (("init", "-q"), ("config", "user.email", "ada@example.org"), ("config", "user.name", "Ada")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    commit(folder)
    return Project("coins", source=source, folder=folder, modules=modules)


def configure(folder: Path, name: str, **keys: Any) -> None:
    """Set KEYS in conf/NAME.yml."""
    file = folder / f"conf/{name}.yml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(values | keys), encoding="utf-8")


def commit(folder: Path) -> None:
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "Go on"], cwd=folder, check=True)
