"""How a file gets to its place whole, and who may write it."""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import Busy, ProjectError
from .redaction import redacted


def read_json(file: Path) -> Any:
    """Return what the JSON in FILE says."""
    return json.loads(file.read_text(encoding="utf-8"))


def write_json(file: Path, content: Any) -> None:
    """Write CONTENT to FILE as JSON, without secrets; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(redacted(content), indent=2) + "\n", encoding="utf-8")


def files_in(folder: Path) -> list[Path]:
    """Return all files below FOLDER."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def mirror(sources: dict[Path, Path], folder: Path) -> None:
    """Make FOLDER hold copies of SOURCES ({path in FOLDER: file}) and nothing else; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files_in(folder):
        if file.relative_to(folder) not in sources:
            file.unlink()
    for inside, source in sources.items():
        file, new = folder / inside, source.stat()
        if not file.is_file() or (file.stat().st_size, file.stat().st_mtime_ns) != (new.st_size, new.st_mtime_ns):
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, file)


def private(file: Path) -> Path:
    """Return FILE, made empty, for its owner alone to read, when it is not there; one that is there keeps its mode."""
    if str(file) not in ("", ":memory:") and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    return file


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes FILE when the block ends well, and is taken away otherwise."""
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        put_in_place(part, file)
    finally:
        part.unlink(missing_ok=True)


def replaced(file: Path, content: bytes) -> bool:
    """Write CONTENT to FILE unless that is what it holds; return whether it was written."""
    if file.is_file() and file.read_bytes() == content:
        return False
    with whole(file) as part:
        part.write_bytes(content)
    return True


def put_in_place(part: Path, file: Path) -> None:
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
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise ProjectError(f"{file}: {error}; look whether {file.parent} may be written to") from None
        raise Busy(
            f"{file.parent} is being written by another process: wait until it ends and run this again"
        ) from None


def sha256(file: Path) -> str:
    """Return the SHA-256 of FILE's bytes, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
