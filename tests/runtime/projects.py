"""The project that these tests run in: a render of the highest level, in whose tests/ this folder is copied."""

import os
from pathlib import Path

import flight_delays
from flight_delays.__main__ import PROJECT as FLIGHTS

ROOT = Path(flight_delays.__path__[0]).parents[1]

__all__ = ["FLIGHTS", "ROOT", "python_path"]


def python_path(*folders: Path) -> str:
    """Return PYTHONPATH with FOLDERS before what it holds: a run may name there which runtime is to be tested."""
    return os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
