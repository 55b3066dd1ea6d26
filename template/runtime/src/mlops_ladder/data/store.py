"""The data store: monthly parquet files, a manifest of where each came from, and how a file gets there whole."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from ..core import settings
from ..core.errors import ProjectError
from ..core.files import replaced
from ..core.project import Project
from ..core.redaction import redacted
from .joined import find_tables

if TYPE_CHECKING:
    import pandas as pd


class Source(settings.Settings, frozen=True):
    url: str
    table: str | None = None


class Store(settings.Settings, frozen=True):
    """conf/data.yml; `home` holds everything that this project keeps about its data."""

    workspace: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    store: str
    source: Source
    _folder: Path = PrivateAttr(default=Path())  # of the project

    @property
    def home(self) -> Path:
        """The store's folder; outside the project it is shared, and this project's room in it is its workspace."""
        place = self._folder / Path(self.store).expanduser()
        inside = Path(os.path.abspath(place)).is_relative_to(os.path.abspath(self._folder))
        return place if inside else place / self.workspace

    @property
    def raw(self) -> Path:
        """What `ingest` gathered, as it came; for your data.read."""
        return self.home / "raw"

    @property
    def prepared(self) -> Path:
        return self.home / "prepared"

    @property
    def manifest(self) -> Path:
        return self.home / "manifest.json"


def read(project: Project) -> Store:
    """Return the store that conf/data.yml names."""
    conf = settings.read(project, "data", Store)
    conf._folder = project.folder  # type: ignore[misc]  # a private attribute: freezing leaves it alone
    return conf


def read_rows(project: Project, conf: Store) -> "pd.DataFrame":
    """Return all gathered rows as data.read gives them, with the columns of the feature tables where SCHEMA has such."""

    tables = find_tables(project)
    return project.data.read(tables.joined(project, conf) if tables else conf.raw)


def read_manifest(conf: Store) -> dict[str, dict[str, Any]]:
    """Return what is known of each gathered file, by its name: origin, gathered, sha256, bytes, rows, mark.

    Of one that changed also what it `replaces`, and `added`: how many new rows it brought when. One that was kept as long
    as it may be and is gone has `expired`: when.
    """
    if not conf.manifest.is_file():
        return {}
    try:
        return json.loads(conf.manifest.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError):
        raise ProjectError(f"{conf.manifest} is damaged: delete it, `ingest` makes it anew from the source") from None


def rows_added(entry: dict[str, Any]) -> dict[str, int]:
    """Return how many rows that were not there before a gathered file brought, by the time when it did."""
    return entry.get("added") or {entry["gathered"]: entry["rows"]}


def write_manifest(conf: Store, known: dict[str, dict[str, Any]]) -> None:
    text = json.dumps({"files": redacted(known)}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    replaced(conf.manifest, text.encode())


@contextlib.contextmanager
def staging(conf: Store) -> Iterator[Path]:
    """Give an empty folder beside the store's files, gone when the block ends; what a killed run left goes first."""
    folder = conf.home / ".incoming"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    conf.raw.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
