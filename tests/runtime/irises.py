"""A project of several classes for the tests: 600 irises, each a real one moved a little, and where and when each was seen."""

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import yaml
from mlops_ladder import Project
from projects import ROOT
from sklearn.datasets import load_iris

SPECIES = ["setosa", "versicolor", "virginica"]
LEFT = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "pyproject.toml", ".copier-answers.yml")
DATA = '''
"""Irises."""

from pathlib import Path
import pandas as pd

PROBLEM, TARGET, KEY, TIME, SLICES, LEAKS = "multiclass", "species", "flower", "seen", ["site"], []
SCHEMA = {
    "flower": {"type": "text", "unique": True},
    "seen": {"type": "time"},
    "site": {"type": "category", "values": ["dune", "marsh"]},
    "sepal_length": {"type": "number", "min": 0, "max": 20},
    "sepal_width": {"type": "number", "min": 0, "max": 20},
    "petal_length": {"type": "number", "min": 0, "max": 20},
    "petal_width": {"type": "number", "min": 0, "max": 20, "null": True},
    "species": {"type": "category", "values": ["virginica", "setosa", "versicolor"]},
}

def read(folder="data/raw"):
    return pd.concat([pd.read_parquet(file) for file in sorted(Path(folder).glob("*.parquet"))], ignore_index=True)
'''
FEATURES = '''
"""Numbers as they are."""

NUMBERS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
COLUMNS, CATEGORIES = ["site", *NUMBERS], []

def build(rows):
    return rows[NUMBERS].astype("float64")
'''
MODEL = '''
"""Which iris is it?"""

import numpy as np
import pandas as pd
import skops.io
from sklearn import metrics as sk
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CLASSES = ["setosa", "versicolor", "virginica"]
OUTPUT, PRIMARY, DEFAULT, SIMPLE = "iris", "log_loss", "linear", "linear"
HIGHER_IS_BETTER = {"log_loss": False, "accuracy": True}
SEARCH_SPACE = {"linear": {"C": (0.01, 10.0, "log")}}

def make(family="linear", seed=0, **parameters):
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(**parameters))

def predict(model, inputs):
    return model.predict_proba(inputs)

def metrics(truth, predicted):
    likeliest = np.array(CLASSES, dtype=object)[predicted.argmax(axis=1)]
    return {
        "log_loss": float(sk.log_loss(truth, predicted, labels=CLASSES)),
        "accuracy": float(np.mean(np.asarray(truth, dtype=object) == likeliest)),
    }

def baseline(truth, n_rows):
    return np.tile(truth.value_counts(normalize=True).reindex(CLASSES, fill_value=0).to_numpy(), (n_rows, 1))

def save(model, file):
    skops.io.dump(model, file)

def load(file):
    return skops.io.load(file, trusted=["numpy.dtype"])
'''
BEHAVIOUR = '''
"""What a model of irises must do."""

import numpy as np
import pandas as pd

def invariance_to_the_site(predict, rows):
    """A flower is what it is wherever it grows."""
    return np.isclose(predict(rows.assign(site="dune")), predict(rows.assign(site="marsh"))).all(axis=1)

def direction_of_the_petal(predict, rows):
    """The longer the petal, the less of a setosa."""
    return predict(rows.assign(petal_length=6.0))[:, 0] <= predict(rows.assign(petal_length=1.0))[:, 0]

def minimum_a_tiny_petal_is_a_setosa(predict, rows):
    """Nobody takes these for anything else."""
    tiny = {"sepal_length": 5.0, "sepal_width": 3.4, "petal_length": 1.4, "petal_width": 0.2}
    return predict(rows.assign(**tiny)).argmax(axis=1) == 0

def groups(rows):
    return pd.DataFrame({"site": rows["site"]})
'''
TEXTS = {"data": DATA, "features": FEATURES, "model": MODEL, "behaviour": BEHAVIOUR}


def flowers(n_rows: int = 600) -> pd.DataFrame:
    """Return N_ROWS irises in the order in which they were seen, an hour apart."""
    known, chance = load_iris(), np.random.default_rng(0)
    at = chance.integers(len(known.data), size=n_rows)
    rows = pd.DataFrame(known.data[at] + chance.normal(scale=0.15, size=(n_rows, 4)).clip(-0.09, 0.3))
    rows.columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    rows["species"] = np.array(SPECIES, dtype="object")[known.target[at]]
    rows["site"] = chance.choice(["dune", "marsh"], n_rows)
    rows["seen"] = pd.date_range("2024-01-01", periods=n_rows, freq="h").astype("datetime64[us]")
    rows["flower"] = [f"f{n}" for n in range(n_rows)]
    return rows


def irises(folder: Path) -> Project:
    """Return the project in FOLDER, committed and not trained yet; its modules are given as objects."""
    source = folder / "src/irises"
    source.mkdir(parents=True)
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in LEFT:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    dvc = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    (folder / "dvc.yaml").write_text(dvc.replace("flight_delays", "irises"), encoding="utf-8")
    (folder / "uv.lock").write_text("version = 1\n", encoding="utf-8")
    (source / "__init__.py").touch()
    (folder / "data/sample").mkdir(parents=True)
    flowers().to_parquet(folder / "data/sample/irises-2024-01.parquet")
    changed(folder, "training", family="linear", model="irises", seed=5)
    changed(folder, "data", workspace="irises")
    changed(folder, "validation", min_rows=1)
    changed(folder, "success", metrics={"log_loss": {"max": 0.5, "margin": 0.1}})
    project = Project("irises", source, folder, {name: module(source, name, text) for name, text in TEXTS.items()})
    committed(folder)
    return project


def module(source: Path, name: str, text: str) -> ModuleType:
    """Return module NAME of TEXT, written into SOURCE and importable by no name."""
    (source / f"{name}.py").write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"nowhere_irises_{name}", source / f"{name}.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def changed(folder: Path, name: str, **keys: object) -> None:
    """Set KEYS of conf/NAME.yml."""
    file = folder / f"conf/{name}.yml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(values | keys), encoding="utf-8")


def committed(folder: Path) -> None:
    """Commit all of FOLDER, a repository of its own."""
    for words in (("init", "-q"), ("config", "user.email", "ada@example.org"), ("config", "user.name", "Ada")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "Start"], cwd=folder, check=True)
