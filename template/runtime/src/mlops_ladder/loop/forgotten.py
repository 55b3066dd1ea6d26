"""Who asked to be forgotten, as keyed digests: what waits, what was done, and what is never gathered again."""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from ..core import files
from ..core.project import Project
from ..data import store
from ..data.feature_tables import text
from . import erasure, prediction_log

FILE = "forgotten.json"  # in the store: the key of the digests, and the digests
TABLES = sql.MetaData()
REQUESTS = sql.Table(  # beside the predictions, so that whichever machine runs the loop works them off
    "forget_requests",
    TABLES,
    sql.Column("digest", sql.String(64), primary_key=True),
    sql.Column("kind", sql.String(16), nullable=False),  # what `value` is: key, entity, request_id, source
    sql.Column("value", sql.Text),  # in clear as long as it waits, null from then on
    sql.Column("keys", sql.Text, nullable=False),  # of the rows meant, JSON; as `value`
    sql.Column("reason", sql.Text, nullable=False),
    sql.Column("keep", sql.Text),  # why versions that learned from the rows stay in use; null: train anew
    sql.Column("asked", sql.DateTime, nullable=False),
    sql.Column("done", sql.DateTime),  # null: it waits
    sql.Column("taken", sql.Text, nullable=False),  # rows by place, JSON
    sql.Column("versions", sql.Text, nullable=False),  # rows by registered version that learned from them, JSON
)


@dataclass
class Request:
    digest: str
    kind: str
    value: str | None
    reason: str
    keep: str | None = None
    keys: set[str] = field(default_factory=set)
    taken: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    done: datetime | None = None

    @property
    def name(self) -> str:
        """What it is called in lines and records."""
        return f"labels of {self.value}" if self.kind == "source" else f"{self.kind} {self.digest[:12]}"


def opened(project: Project) -> prediction_log.PredictionLog:
    """Return the prediction log, with the table of requests in its database."""
    log = prediction_log.open_log(project)
    with log.connection():  # makes what is missing, and says when it is away
        TABLES.create_all(log.engine)
    return log


def write(log: prediction_log.PredictionLog, request: Request) -> None:
    """Keep REQUEST, with what was known of it before."""
    row = {
        "digest": request.digest,
        "kind": request.kind,
        "value": request.value,
        "keys": json.dumps(sorted(request.keys)),
        "reason": request.reason,
        "keep": request.keep,
        "asked": prediction_log.now(),
        "done": request.done,
        "taken": json.dumps(request.taken),
        "versions": json.dumps(request.versions),
    }
    with log.connection(write=True) as connection:
        log.put(connection, REQUESTS, [row])


def read(log: prediction_log.PredictionLog, *wanted: Any) -> list[Request]:
    """Return the requests, oldest first."""
    with log.connection() as connection:
        rows = connection.execute(sql.select(REQUESTS).where(*wanted).order_by(REQUESTS.c.asked)).all()
    return [
        Request(
            one.digest,
            one.kind,
            one.value,
            one.reason,
            one.keep,
            set(json.loads(one.keys)),
            json.loads(one.taken),
            json.loads(one.versions),
            one.done,
        )
        for one in rows
    ]


def digest(project: Project, column: str, value: str) -> str:
    """Return what stands for VALUE of COLUMN where it must not: nobody without the store's key can try values out."""
    return keyed(bytes.fromhex(known(store.read(project))["key"]), column, value)


def keyed(key: bytes, column: str, value: str) -> str:
    return hmac.digest(key, f"{column}\0{value}".encode(), "sha256").hex()


def known(conf: store.Store) -> dict[str, Any]:
    """Return the store's key and digests; the key is made on the first call, for the owner alone to read."""
    file = conf.home / FILE
    if not file.is_file():
        with alone(conf):
            if not file.is_file():
                save(file, {"key": secrets.token_hex(32), "digests": []})
    return files.read_json(file)


def alone(conf: store.Store) -> contextlib.AbstractContextManager[None]:
    """Keep other processes from changing the store's digests within the block."""
    return files.locked(conf.home / ".forgotten.lock", wait_s=10)


def digests(conf: store.Store) -> tuple[bytes, frozenset[str]] | None:
    """Return the store's key and digests; None where nobody was forgotten."""
    if not (conf.home / FILE).is_file():
        return None
    now = known(conf)
    return (bytes.fromhex(now["key"]), frozenset(now["digests"])) if now["digests"] else None


def save(file: Path, content: dict[str, Any]) -> None:
    part = files.private(file.with_name(f".{file.name}.part"))
    part.write_text(json.dumps(content), encoding="utf-8")
    files.put_in_place(part, file)


def remember(project: Project, columns: dict[str, Iterable[str]]) -> None:
    """Have rows with these texts, by column, never gathered again."""
    conf = store.read(project)
    key = bytes.fromhex(known(conf)["key"])
    new = {keyed(key, column, value) for column, values in columns.items() for value in values}
    with alone(conf):
        now = known(conf)
        save(conf.home / FILE, {**now, "digests": sorted({*now["digests"], *new})})


@dataclass(frozen=True)
class Known(erasure.Subject):
    """Whoever was forgotten, by digests alone: `columns` are the names to look at."""

    key: bytes
    digests: frozenset[str]

    def is_theirs(self, column: str, cell: Any) -> bool:
        return cell is not None and column in self.columns and keyed(self.key, column, text(cell)) in self.digests


def sieve(project: Project, conf: store.Store, file: Path) -> int:
    """Take the rows of whoever was forgotten out of FILE, which is about to be gathered; return how many."""
    if not (found := digests(conf)):
        return 0
    names = filter(None, (project.data.KEY, prediction_log.open_log(project).entity))
    return erasure.take_out(file, Known(dict.fromkeys(names, frozenset[str]()), *found))


def without(log: prediction_log.PredictionLog, labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return LABELS, as `feedback` takes them, but for those of a key that was forgotten."""
    if not (found := digests(store.read(log.project))):
        return labels
    (key, theirs), name = found, log.project.data.KEY
    return [
        one for one in labels if not one.get("key") or keyed(key, name, log.as_written(name, one["key"])) not in theirs
    ]


def unlearned(log: prediction_log.PredictionLog, version: str) -> list[Request]:
    """Return the requests after which VERSION, which learned from the rows, is to be replaced."""
    return [one for one in read(log, REQUESTS.c.keep.is_(None)) if version in one.versions]
