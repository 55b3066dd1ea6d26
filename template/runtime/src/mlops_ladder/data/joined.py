"""Rows in the types that they had in training, the columns of feature tables joined to them where they have not got those."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pandas as pd

from ..core import levels
from ..core.project import Project
from .rows import typed


def find_tables(project: Project) -> ModuleType | None:
    """Return what joins feature tables to rows, None below level 3, which brings it."""
    module = levels.registered(project, "data_sets").get("featured")
    return levels.load(module) if module else None


def as_rows(project: Project, table: pd.DataFrame, columns: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return TABLE's `columns` in the types they had in training, whatever file or request they came from.

    Those that it has not are joined from the feature tables, as for training. Raises ProjectError as `typed` does.
    """
    if (absent := [name for name in columns if name not in table]) and (tables := find_tables(project)):
        table = tables.fill(project, table, absent)
    return typed(table, columns)
