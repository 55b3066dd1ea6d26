"""A registered version needs nothing of the project: plain MLflow opens it where only its requirements are installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml

LINES = 1_500  # of Python, at most
OPEN = "import mlflow, sys; m = mlflow.pyfunc.load_model(sys.argv[1]); print(m.predict(m.input_example).iloc[0, 0])"


@pytest.fixture
def version(trained: Path, tmp_path: Path) -> Path:
    """The files of version 1, away from the project that made them."""
    name = yaml.safe_load((trained / "conf/training.yml").read_text())["model"]
    client = mlflow.MlflowClient(f"sqlite:///{trained}/mlflow.db")
    return Path(shutil.copytree(client.get_model_version_download_uri(name, "1"), tmp_path / "version"))


def test_a_registered_version_answers_in_a_bare_environment(version: Path, tmp_path: Path) -> None:
    bare, elsewhere = tmp_path / "bare", tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, bare], check=True)
    install = ["uv", "pip", "install", "-q", "--python", python, "--requirement", version / "requirements.txt"]
    subprocess.run(install, check=True)
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-c", code, str(version)]
        return subprocess.run(command, cwd=elsewhere, env=environ, capture_output=True, text=True, check=False)

    assert run("import mlops_ladder").returncode == 1  # nothing of the project or its runtime is there
    assert run("import flight_delays").returncode == 1
    done = run(OPEN)
    assert done.returncode == 0, done.stderr
    model = mlflow.pyfunc.load_model(str(version))
    assert float(done.stdout) == pytest.approx(float(model.predict(model.input_example).iloc[0, 0]))


def test_a_registered_version_carries_little_code(version: Path) -> None:
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in version.rglob("*.py")}
    assert {"features.py", "model.py", "rows.py"} <= {file.name for file in lines}
    assert sum(lines.values()) <= LINES
