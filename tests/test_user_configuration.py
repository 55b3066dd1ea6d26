"""A user sets conf/ as they need it: the project's own tests go on passing, whatever it says."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Render, commit, reads, sources

# A value for each key of level 2, allowed, and as far as may be from what the tests could live with.
CHANGED: dict[str, dict[str, Any]] = {
    "compute": {"backend": "dask", "workers": 7, "address": "tcp://127.0.0.1:9", "together": 9, "timeout_s": 1},
    "data": {"workspace": "mine", "store": "../share", "source": {"url": "http://127.0.0.1:9/", "table": "rows"}},
    "notify": {"receivers": ["${MAIL}", "${CHAT}"], "last_lines": 1},
    "roles": {
        "roles": {
            "data-scientist": {"people": ["grace@example.org"], "may": ["train"]},
            "engineer": {"people": ["grace@example.org"], "may": []},
        }
    },
    "serving": {
        "host": "203.0.113.1",
        "port": 9,
        "max_body_bytes": 100,
        "max_rows": 1,
        "receive_s": 1,
        "idle_s": 1,
        "connections": 2,
        "connections_per_address": 1,
        "drain_s": 600,
        "grace_s": 1,
        "tls_certificate": "tls/certificate.pem",
        "tls_key": "tls/key.pem",
    },
    "success": {"metrics": {"roc_auc": {"min": 0.99, "margin": 0.4}, "brier": {"margin": 0.2}}},
    "training": {
        "data": "mine",
        "sample": 0.01,
        "validation": 0.01,
        "test": 0.49,
        "split_seed": 7,
        "family": "linear",
        "parameters": {"C": 0.5},
        "seed": 7,
        "model": "mine",
        "tracking_uri": "http://127.0.0.1:9",
        "tags": {"purpose": "experiment", "owner": "grace"},
        "required_tags": ["purpose", "owner", "ticket"],
    },
    "validation": {
        "min_rows": 10_000_000,
        "max_rows": 10_000_001,
        "max_missing": 0.0,
        "as_of": "today",
        "max_age_days": 1,
        "examples": 1,
    },
}
REMOTE = "[core]\n    remote = far\n['remote \"far\"']\n    url = /nowhere/that/can/be/written\n"
ELSEWHERE = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "PACKAGE_FEED": "/nowhere",
    "NOTIFY_URL": "json://127.0.0.1:9",
}


def leaves(values: Any, name: str = "") -> dict[str, Any]:
    """Return each value below VALUES by its path, a list as one; an empty mapping, too, can be changed."""
    if isinstance(values, dict) and values:
        return {path: leaf for key, value in values.items() for path, leaf in leaves(value, f"{name}.{key}").items()}
    return {name: values}


def test_every_key_of_level_2_is_changed(rendered: Render) -> None:
    folder = rendered(2)
    assert {file.stem for file in folder.glob("conf/**/*.yml")} == set(CHANGED)
    for name, values in CHANGED.items():
        before, after = leaves(yaml.safe_load(reads(folder / f"conf/{name}.yml"))), leaves(values)
        same = [key for key, value in before.items() if after.get(key, "inside a mapping") == value]
        assert not same, f"conf/{name}.yml"
        assert all(any(path.startswith(key) for path in after) for key in before), f"conf/{name}.yml"


@pytest.mark.slow
def test_its_own_tests_pass_whatever_its_configuration_says(project: Render, environment: Render) -> None:
    folder = project(2)
    for name, values in CHANGED.items():
        (folder / f"conf/{name}.yml").write_text(yaml.safe_dump(values), encoding="utf-8")
    (folder / ".dvc/config").write_text(REMOTE, encoding="utf-8")
    subprocess.run(["uv", "lock", "-q"], cwd=folder, check=True)
    commit(folder, "Configure")
    own = [file for file in folder.glob("tests/test_*.py") if file.name != "test_notebook.py"]  # it reads no conf/
    path = f"{environment(2).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [environment(2), "-m", "pytest", "-q", "-p", "no:cacheprovider", folder / "tests/acceptance", *own],
        cwd=folder,
        env={**os.environ, **ELSEWHERE, "PYTHONPATH": sources(folder), "PATH": path},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert changed.stdout == "" and not Path(folder.parent, "share").exists(), "they leave nothing behind"
