"""The project that these tests run in: a render of the highest level, in whose tests/ this folder is copied."""

import os
import shutil
from pathlib import Path
from typing import Any

import flight_delays
from flight_delays.__main__ import PROJECT as FLIGHTS
from mlops_ladder.training import tracking

ROOT = Path(flight_delays.__path__[0]).parents[1]

__all__ = ["FLIGHTS", "ROOT", "python_path", "run_of", "versions", "with_environments"]


def python_path(*folders: Path) -> str:
    """Return PYTHONPATH with FOLDERS before what it holds: a run may name there which runtime is to be tested."""
    return os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def versions() -> list[str]:
    """Return the numbers of the registered versions."""
    chosen, client = tracking.open_store(FLIGHTS)
    return sorted(str(one.version) for one in client.search_model_versions(f"name = '{chosen.model}'"))


def run_of(version: str) -> Any:
    """Return MLflow's run that trained VERSION."""
    chosen, client = tracking.open_store(FLIGHTS)
    return client.get_run(tracking.find_version(client, chosen.model, version).run_id)


def with_environments(trained: Path, folder: Path) -> Path:
    """Return FOLDER made a copy of `trained` that has test and prod, in which nothing is deployed yet."""
    shutil.copytree(trained, folder)
    for name in ("test", "prod"):
        (folder / "environments" / name).mkdir(parents=True)
        shutil.copy(trained.parent / "empty.db", folder / "environments" / name / "mlflow.db")
    return folder
