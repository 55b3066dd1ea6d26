"""The project that these tests run in: a render of the highest level, in whose tests/ this folder is copied."""

from pathlib import Path

import flight_delays
from flight_delays.__main__ import PROJECT as FLIGHTS

ROOT = Path(flight_delays.__path__[0]).parents[1]

__all__ = ["FLIGHTS", "ROOT"]
