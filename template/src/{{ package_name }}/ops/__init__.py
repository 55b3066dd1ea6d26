"""The template's room: one module a command, run as `python -m {package} COMMAND`. A level adds modules.

A module here is a command when it has a `run`; its docstring is its help, `arguments` declares its options.
It imports your data.py, features.py and model.py; they never import it.
"""

import importlib
import importlib.util
from types import ModuleType


class ProjectError(Exception):
    """Something a person can mend; the message says what was wrong and what to do."""

    exit_code = 1


class UsageError(ProjectError):
    """The call's words are off."""

    exit_code = 2


class Unmet(ProjectError):
    """Something must hold first and does not, such as a commit that is missing: nothing was tried."""


class Refused(ProjectError):
    """Checked, and it does not hold: bad data, a model below its criteria."""

    exit_code = 3


def find_tables() -> ModuleType | None:
    """Return what joins feature tables to rows, None below level 3, which brings it."""
    there = importlib.util.find_spec(f"{__name__}.feature_tables")
    return importlib.import_module(f"{__name__}.feature_tables") if there else None
