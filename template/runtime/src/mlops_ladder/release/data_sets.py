"""data/catalog.yml: which data sets there are, who owns each, of which class it is and how long it is kept."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from ..core import settings
from ..core.project import Project

FILE = Path("data/catalog.yml")
Class = Literal["public", "internal", "confidential", "personal"]


class DataSet(settings.Settings, frozen=True):
    what: str
    path: str
    owner: str = Field(min_length=1)
    kind: Class = Field(alias="class")
    retention_days: int | None = Field(gt=0)
    masked: list[str]
    consumers: list[str]


class Catalog(settings.Settings, frozen=True):
    """data/catalog.yml"""

    datasets: dict[str, DataSet]
    others: list[str]


def read(project: Project, file: Path = FILE) -> Catalog:
    """Return the catalogue in FILE, of this project or of another."""
    return settings.read(project, str(file), Catalog)
