"""A Project is all that the runtime knows of a project: one process holds two that share nothing."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml
from mlops_ladder import Project
from mlops_ladder.core import commands
from mlops_ladder.data import store
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT

N_FILES = 3  # of data/sample
LEFT = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "pyproject.toml", ".copier-answers.yml")
# A problem of one's own in as few lines as it takes: is a coin heavy?
DATA = """
from pathlib import Path
import pandas as pd

PROBLEM, TARGET, KEY, TIME, SLICES, LEAKS = "classification", "heavy", "coin", "cast", ["mint"], []
SCHEMA = {
    "coin": {"type": "text", "unique": True},
    "cast": {"type": "time"},
    "mint": {"type": "category", "values": ["A", "B"]},
    "size": {"type": "number"},
    "heavy": {"type": "boolean"},
}

def read(folder="data/raw"):
    return pd.concat([pd.read_parquet(file) for file in sorted(Path(folder).glob("*.parquet"))], ignore_index=True)
"""
FEATURES = """
COLUMNS, CATEGORIES, NUMBERS = ["mint", "size"], [], ["size"]

def build(rows):
    return rows[["size"]].astype(float)
"""
MODEL = """
import numpy as np
import skops.io
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

OUTPUT, PRIMARY, HIGHER_IS_BETTER, DEFAULT, SIMPLE = "heavy_probability", "roc_auc", {"roc_auc": True}, "linear", "linear"
SEARCH_SPACE = {"linear": {"C": (0.01, 10.0, "log")}}

def make(family="linear", seed=0, **parameters):
    return LogisticRegression(**parameters)

def predict(model, inputs):
    return model.predict_proba(inputs)[:, 1]

def metrics(truth, predicted):
    return {"roc_auc": float(sk.roc_auc_score(truth, predicted))}

def baseline(truth, n_rows):
    return np.full(n_rows, truth.mean())

def save(model, file):
    skops.io.dump(model, file)

def load(file):
    return skops.io.load(file)
"""


def committed(folder: Path) -> None:
    for words in (("init", "-q"), ("config", "user.email", "ada@example.org"), ("config", "user.name", "Ada")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "Start"], cwd=folder, check=True)


def left_from_root(folder: Path, package: str) -> None:
    """Give FOLDER what the template wrote, for PACKAGE."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in LEFT:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    dvc = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    (folder / "dvc.yaml").write_text(dvc.replace("flight_delays", package), encoding="utf-8")
    (folder / "uv.lock").write_text("version = 1\n", encoding="utf-8")


def changed(folder: Path, name: str, **keys: object) -> None:
    file = folder / f"conf/{name}.yml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(values | keys), encoding="utf-8")


def module(file: Path, text: str) -> ModuleType:
    """Return a module of TEXT that is importable by no name."""
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"nowhere_{file.stem}", file)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def flights(tmp_path: Path) -> Project:
    """The flights in a folder of their own; this process stands in another."""
    folder = tmp_path / "flights"
    left_from_root(folder, "flight_delays")
    shutil.copytree(FLIGHTS.source, folder / "src/flight_delays", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data/sample").mkdir(parents=True)
    for file in sorted((ROOT / "data/sample").glob("*.parquet"))[:N_FILES]:
        shutil.copy(file, folder / "data/sample")
    committed(folder)
    return Project("flight_delays", source=folder / "src/flight_delays", folder=folder)


@pytest.fixture
def coins(tmp_path: Path) -> Project:
    """300 made-up coins, whose modules are given as objects."""
    folder, source = tmp_path / "coins", tmp_path / "coins/src/coins"
    source.mkdir(parents=True)
    left_from_root(folder, "coins")
    texts = {"data": DATA, "features": FEATURES, "model": MODEL}
    modules = {name: module(source / f"{name}.py", text) for name, text in texts.items()}
    (source / "__init__.py").touch()
    chance = np.random.default_rng(0)
    size = chance.normal(size=300)
    rows = pd.DataFrame({"coin": [f"c{n}" for n in range(300)], "size": size})
    rows["cast"] = pd.date_range("2024-01-01", periods=300, freq="2h")
    rows["mint"] = chance.choice(["A", "B"], 300)
    rows["heavy"] = size + chance.normal(size=300) > 0
    (folder / "data/sample").mkdir(parents=True)
    rows.to_parquet(folder / "data/sample/coins-2024-01.parquet")
    changed(folder, "training", family="linear", model="coins-heavy", seed=5)
    changed(folder, "data", workspace="coins")
    changed(folder, "validation", min_rows=1)
    committed(folder)
    return Project("coins", source=source, folder=folder, modules=modules)


def train(project: Project, capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    code = commands.main(project, ["train", "--json", *words])
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out.splitlines()[-1])


def test_two_projects_in_one_process_share_nothing(
    flights: Project,
    coins: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    mlflow = tracking.library()
    monkeypatch.setattr(mlflow, "set_tracking_uri", lambda uri: pytest.fail(f"the process was set to {uri}"))

    first = train(flights, capsys)
    coin = train(coins, capsys)
    second = train(flights, capsys, "--set", "seed=7")
    again = train(coins, capsys)

    assert [made["version"] for made in (first, coin, second, again)] == ["1", "1", "2", "1"]
    assert again["ran"] == []  # its own stages are fresh still, whatever the other did meanwhile
    assert (first["model"], coin["model"]) == ("flight-delays-late", "coins-heavy")
    assert set(coin["rows"]) == {"train", "validation", "test"} and sum(coin["rows"].values()) == 300
    assert sum(first["rows"].values()) == 15_000
    for project, name, runs in ((flights, "flight-delays-late", 2), (coins, "coins-heavy", 1)):
        chosen, client = tracking.open_store(project)
        assert (chosen.model, len(tracking.search(project, client))) == (name, runs)
        assert [model.name for model in client.search_registered_models()] == [name]
        assert store.read(project).home.is_relative_to(project.folder)
        for version in client.search_model_versions(f"name = '{name}'"):
            assert tracking.download(client, name, str(version.version)).is_relative_to(project.folder)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_module_of_the_runtime_looks_for_the_project_by_itself() -> None:
    """By name, by where the runtime's own file lies, or by a tracking URI of the process."""
    import mlops_ladder

    (runtime,) = map(Path, mlops_ladder.__path__)
    texts = {file.relative_to(runtime).as_posix(): file.read_text(encoding="utf-8") for file in runtime.rglob("*.py")}
    assert len(texts) > 100
    assert [name for name, text in texts.items() if "flight_delays" in text] == []
    assert [name for name, text in texts.items() if re.search(r"\bset_(tracking|registry)_uri\(", text)] == []
    # The one that takes a file of the runtime's own along: what MLflow runs when it opens a version.
    assert [name for name, text in texts.items() if "__file__" in text] == ["training/recording.py"]
