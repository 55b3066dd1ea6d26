"""The data store: monthly parquet files, a manifest of where each came from, and how a file gets there whole."""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from . import ProjectError, Unmet, find_tables, settings

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

    @property
    def home(self) -> Path:
        """The store's folder; outside the project it is shared, and this project's room in it is its workspace."""
        folder = Path(self.store).expanduser()
        inside = Path(os.path.abspath(folder)).is_relative_to(Path.cwd())
        return folder if inside else folder / self.workspace

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


def read() -> Store:
    """Return the store that conf/data.yml names."""
    return settings.read("data", Store)


def read_rows(conf: Store) -> "pd.DataFrame":
    """Return all gathered rows as data.read gives them, with the columns of the feature tables where SCHEMA has such."""
    from .. import data

    tables = find_tables()
    return data.read(tables.joined(conf) if tables else conf.raw)


def read_manifest(conf: Store) -> dict[str, dict[str, Any]]:
    """Return what is known of each gathered file, by its name: origin, gathered, sha256, bytes, rows, mark.

    Of one that changed also what it `replaces`, and `added`: how many new rows it brought when.
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
    text = json.dumps({"files": known}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    replaced(conf.manifest, text.encode())


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes FILE when the block ends well, and is taken away otherwise."""
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        settle(part, file)
    finally:
        part.unlink(missing_ok=True)


def replaced(file: Path, content: bytes) -> bool:
    """Write CONTENT to FILE unless that is what it holds; return whether it was written."""
    if file.is_file() and file.read_bytes() == content:
        return False
    with whole(file) as part:
        part.write_bytes(content)
    return True


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


def settle(part: Path, file: Path) -> None:
    """Move PART to FILE, once it is on disk, in one step: a reader sees the old file or the new one."""
    with part.open("rb+") as content:
        os.fsync(content.fileno())
    part.replace(file)


@contextlib.contextmanager
def locked(file: Path, wait_s: float = 0) -> Iterator[None]:
    """Hold FILE's lock; raises Unmet when another process holds it for longer. A killed process holds nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=wait_s, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")  # SQLite's file lock works alike on each system and dies with the process
            yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise Unmet(
                f"{file.parent} is being written by another process: wait until it ends and run this again"
            ) from None
        raise ProjectError(f"{file}: {error}") from None


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
