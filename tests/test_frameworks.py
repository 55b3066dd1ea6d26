"""Any framework: model.py as docs/how-to/frameworks shows it is trained, registered, loaded back and served."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, Render, commit, package_of, reads
from test_generated import run

LIBRARY = {"lightgbm": "lightgbm>=4,<5", "pytorch": "torch==2.13.0"}
ASK = """
import mlflow, pandas as pd, sys
model = mlflow.pyfunc.load_model("models:/{name}/1")
rows = pd.read_parquet("data/raw/flights-2013-12.parquet").head(50)
assert "late_probability" in model.predict(rows[model.metadata.get_input_schema().input_names()])
print(type(model.unwrap_python_model().fitted).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["lightgbm", pytest.param("pytorch", marks=pytest.mark.thorough)])
def test_a_model_of_another_framework_is_trained_registered_loaded_back_and_served(
    framework: str, project: Render, tmp_path: Path
) -> None:
    folder = project(2)
    package = package_of(folder)
    shutil.copy(ROOT / f"docs/how-to/frameworks/{framework}_model.py", folder / f"src/{package}/model.py")
    settings = folder / "conf/training.yml"
    family = {"lightgbm": "lightgbm", "pytorch": "network"}[framework]
    settings.write_text(reads(settings).replace("family: boosting", f"family: {family}"), encoding="utf-8")
    run(folder, "git", "config", "user.email", "ada@example.org")
    if framework == "lightgbm":
        run(folder, "uv", "add", "--quiet", LIBRARY[framework])
    run(folder, "uv", "sync", "--quiet")
    python = str(folder / ".venv/bin/python")
    if framework == "pytorch":  # by pip: its build for processors only
        run(folder, "uv", "pip", "install", "--quiet", "pip")
        run(folder, python, "-m", "pip", "install", "--quiet", LIBRARY[framework])
    commit(folder)
    run(folder, python, "-m", package, "ingest")
    said = json.loads(run(folder, python, "-m", package, "train", "--json"))
    measured = said["metrics"]
    assert measured["test"]["roc_auc"] > measured["baseline"]["roc_auc"] + 0.05
    run(folder, python, "-m", package, "promote", said["version"], "--reason", "to be served")
    loaded = run(folder, python, "-c", ASK.format(name=said["model"]), MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    assert loaded.split()[-1] == {"lightgbm": "Boosted", "pytorch": "Classifier"}[framework]
    words = [python, "-m", package, "serve", "--port", "0", "--model", f"models:/{said['model']}@champion"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = re.search(r"http://\S+", server.stdout.readline())
            assert address
            example = json.load(urllib.request.urlopen(f"{address[0]}/model", timeout=30))["example"]
            body = json.dumps(example["row"]).encode()
            request = urllib.request.Request(f"{address[0]}/predict", body, {"Content-Type": "application/json"})
            answer = json.load(urllib.request.urlopen(request, timeout=30))
            assert answer["predictions"] == pytest.approx([example["prediction"]], abs=1e-6)
            assert answer["model_version"] == said["version"]
        finally:
            server.kill()
