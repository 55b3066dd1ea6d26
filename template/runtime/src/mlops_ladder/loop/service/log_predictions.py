"""Write each prediction into the log, in batches and beside the requests; /model and /metrics say what is missing.

A request that fails leaves a row too, and a caller whose requests are out of range in bursts is turned away (429).
What another module of this folder puts into a request's scope is used: `arm` (else champion) and `entity`. One that
predicts in the shadow calls the functions in `service.answered` with a request of its own whose `arm` is `shadow`.
"""

import contextlib
import logging
import math
import mmap
import os
import struct
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import prometheus_client as prometheus
import sqlalchemy as sql
from fastapi import FastAPI, Request
from starlette.types import Scope

from ...core import files
from ...core.errors import ProjectError
from ...core.project import Project
from ...data.problem import number_of
from ...data.rows import probability_of
from ...release.releasing import TRIAL
from ...serving.app import Service
from ...serving.contract import Row
from ...serving.limits import Turned
from ..prediction_log import WRITERS, Away, PredictionLog, naive, now, open_log
from ..prediction_log import Row as TableRow

PLACE = Path("data/writers")  # local, also when the log is not: here stands what this process took over
RETRY_S = 5.0  # at most, between two tries to reach a store that is away
STOP_S = 10.0  # for the rest, at the end of the process: a store that is away must not keep it
PRUNE_S = 3600.0
FAILED = 10_000  # failed requests that wait: those of an outage are alike, and /metrics counts them all
ROW_BYTES, GROWTH = 500, 4  # what a row takes beside its text; what a byte of a body takes: as text that has an emoji
FIELDS = struct.Struct("<qq")  # rows taken over, rows dropped
LOG = logging.getLogger("uvicorn.error")


class Tally:
    """Two counts in a file's memory map: as fast as a variable, and still there when the process was killed."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.id, self.taken, self.dropped, self.alive = uuid.uuid4().hex, 0, 0, contextlib.ExitStack()
        self.place = project.path(PLACE)
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError:  # a container, whose /tmp outlives it as long as its pod does
            self.place = Path(tempfile.gettempdir()) / f"writers{str(project.folder.resolve()).replace('/', '-')}"
            self.place.mkdir(exist_ok=True)
        self.file = self.place / f"{self.id}.count"
        self.alive.enter_context(files.locked(self.file.with_suffix(".lock")))
        self.file.write_bytes(bytes(FIELDS.size))
        with self.file.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), FIELDS.size)

    def count(self, taken: int, dropped: int = 0) -> None:
        self.taken, self.dropped = self.taken + taken, self.dropped + dropped
        FIELDS.pack_into(self.map, 0, self.taken, self.dropped)

    def close(self, settled: bool) -> None:
        """Let go; unless all is SETTLED the file stays, for the next start to tell."""
        self.map.close()
        self.alive.close()
        if settled:
            remove(self.file)


class Writer(threading.Thread):
    """Takes predictions over on the event loop, for the price of an append, and writes them to the log in a thread."""

    def __init__(self, log: PredictionLog, service: Service) -> None:
        super().__init__(name="prediction-log", daemon=True)
        self.log, self.conf, self.tally = log, log.conf, Tally(log.project)
        self.entries: deque[tuple[Any, ...]] = deque()
        self.failed: deque[TableRow] = deque(maxlen=FAILED)
        self.batch: list[tuple[Any, ...]] = []  # out of the queue, not yet written
        self.batch_failed: list[TableRow] = []
        self.handled = self.failures = 0  # rows that are settled; tries in a row that failed
        self.taken_bytes = self.handled_bytes = 0  # of memory, at most
        self.wake, self.stopping, self.begun, self.prune_at = threading.Event(), False, False, 0.0
        self.wake.set()  # at once: what was lost before
        self.told: dict[str, Any] = {"store": self.conf.url, "when_full": self.conf.when_full, "entity": log.entity}
        outcomes = ("written", "repeated", "unwritable", "dropped", "lost_before")
        self.told |= dict.fromkeys(outcomes, 0) | {"error": None}
        registry = service.registry
        self.rows = prometheus.Counter(
            "prediction_log_rows", "Predicted rows, by what became of them.", ["outcome"], registry=registry
        )
        for outcome in outcomes:
            self.rows.labels(outcome)
        waiting = prometheus.Gauge("prediction_log_waiting_rows", "Rows not written yet.", registry=registry)
        waiting.set_function(lambda: self.waiting)
        held = prometheus.Gauge("prediction_log_waiting_bytes", "Memory that they take, at most.", registry=registry)
        held.set_function(lambda: self.waiting_bytes)
        away = prometheus.Gauge("prediction_log_away", "1 while the log's store takes nothing.", registry=registry)
        away.set_function(lambda: self.told["error"] is not None)

    @property
    def waiting(self) -> int:
        return self.tally.taken - self.handled

    @property
    def waiting_bytes(self) -> int:
        return self.taken_bytes - self.handled_bytes

    @property
    def full(self) -> bool:
        return self.waiting >= self.conf.queue_rows or self.waiting_bytes >= self.conf.queue_bytes

    @property
    def due(self) -> bool:
        """Whether a whole batch waits."""
        return self.waiting >= self.conf.flush_rows or self.waiting_bytes >= self.conf.flush_bytes

    def tell(self, outcome: str, n: int) -> None:
        self.rows.labels(outcome).inc(n)
        self.told[outcome] += n

    def take(self, request: Request, rows: list[Row], answer: dict[str, Any]) -> None:
        """Take over the ROWS of REQUEST with their ANSWER; on the event loop."""
        if self.conf.when_full == "drop" and self.full:
            self.tally.count(0, len(rows))
            return self.tell("dropped", len(rows))
        self.tally.count(len(rows))
        scope = request.scope
        size = GROWTH * scope["body_bytes"] + ROW_BYTES * len(rows)
        self.taken_bytes += size
        facts = size, scope["request_id"], scope["path"], answer["model_version"], scope.get("arm", "champion")
        seconds = time.perf_counter() - scope["asked_at"]
        self.entries.append((*facts, scope.get("entity"), time.time(), seconds, rows, logged(answer)))
        if self.due and not self.failures:
            self.wake.set()

    def run(self) -> None:
        last = False
        while not last:
            last = self.stopping  # once more, for what came while it wrote
            if not last:
                self.wake.wait(min(RETRY_S, 2**self.failures / 4) if self.failures else self.conf.flush_s)
                self.wake.clear()
            try:
                self.work()
                self.failures, self.told["error"] = 0, None
            except Exception as error:  # noqa: BLE001 - nothing that happens here may end the thread
                if not self.failures:
                    LOG.error("%s; %s predictions wait in memory", error, f"{self.waiting:,}")
                self.failures, self.told["error"] = min(self.failures + 1, 10), str(error)

    def work(self) -> None:
        """Write what waits and do what is due; raises Away."""
        if not self.begun:
            with self.log.connection():
                pass  # it made the tables
            self.tell_losses()
            self.begun = True
        while self.flush() and (self.stopping or self.due):
            pass  # fewer rows wait for more: under load there are always some, and a transaction costs most of it
        if time.monotonic() >= self.prune_at:
            self.prune_at = time.monotonic() + (0 if self.log.prune() else PRUNE_S)

    def flush(self) -> bool:
        """Write a batch; return whether there was one."""
        n_rows = sum(len(entry[-1]) for entry in self.batch)
        n_bytes = sum(entry[0] for entry in self.batch)
        while self.entries and n_rows < self.conf.flush_rows and n_bytes < self.conf.flush_bytes:
            self.batch.append(self.entries.popleft())
            n_rows += len(self.batch[-1][-1])
            n_bytes += self.batch[-1][0]
        while self.failed and len(self.batch_failed) < self.conf.flush_rows:
            self.batch_failed.append(self.failed.popleft())
        if not self.batch and not self.batch_failed:
            return False
        rows = [row for entry in self.batch for row in self.table_rows(*entry[1:])]
        me = {"id": self.tally.id, "handled": self.handled + n_rows, "dropped": self.tally.dropped}
        unwritable = 0
        try:
            written = self.log.write(rows, self.batch_failed, me)
        except (sql.exc.DataError, sql.exc.IntegrityError):  # one row that is none must not hold up the others
            written, unwritable = self.write_singly(rows)
            self.log.write([], self.batch_failed, me)
        self.batch, self.batch_failed = [], []
        self.handled += n_rows
        self.handled_bytes += n_bytes
        self.tell("written", written)
        self.tell("unwritable", unwritable)
        self.tell("repeated", n_rows - written - unwritable)  # request ids that a caller sent twice
        return True

    def write_singly(self, rows: list[TableRow]) -> tuple[int, int]:
        """Return how many of ROWS were new and how many the store never takes."""
        written = unwritable = 0
        for row in rows:
            try:
                written += self.log.write([row])
            except (sql.exc.DataError, sql.exc.IntegrityError) as error:
                unwritable += 1
                LOG.error("request %s is not logged: %s", row["request_id"], error.orig)
        return written, unwritable

    def table_rows(
        self,
        request_id: str,
        endpoint: str,
        version: str,
        arm: str,
        entity: str | None,
        at: float,
        seconds: float,
        rows: list[Row],
        predictions: list[Any],
    ) -> list[TableRow]:
        same: TableRow = {"request_id": request_id, "endpoint": endpoint, "version": version, "arm": arm}
        same |= {"seconds": seconds, "at": naive(datetime.fromtimestamp(at, UTC))}
        column = self.log.entity
        return [
            same
            | {
                "row": n,
                "inputs": row,
                **(value if isinstance(value, dict) else {"prediction": value}),
                "entity": row.get(column) if entity is None and column else entity,
            }
            for n, (row, value) in enumerate(zip(rows, predictions, strict=True))
        ]

    def tell_losses(self) -> None:
        """Say and write down how many predictions the processes lost that ended before they had written all."""
        for file in self.tally.place.glob("*.count"):
            try:
                with files.locked(file.with_suffix(".lock")):
                    taken, dropped = FIELDS.unpack(file.read_bytes())
                    with self.log.connection(write=True) as connection:
                        before = sql.select(WRITERS.c.handled).where(WRITERS.c.id == file.stem)
                        handled = connection.scalar(before) or 0
                        lost = max(taken - handled, 0)  # this file may be older than the log, from a backup
                        facts = {"id": file.stem, "handled": handled, "dropped": dropped, "lost": lost}
                        self.log.put(connection, WRITERS, [facts | {"seen": now()}])
            except Away:
                raise
            except (ProjectError, FileNotFoundError):  # it lives, or another process was faster
                continue
            except struct.error:  # the disk was full when it was made, so it never took anything over
                LOG.warning("%s is broken and goes: what was lost then is not known", file)
                lost = 0
            remove(file)
            if lost:
                LOG.error("a service that ended early left at most %s predictions out of the log", f"{lost:,}")
                self.tell("lost_before", lost)

    def stop(self) -> None:
        self.stopping = True
        self.wake.set()
        self.join(STOP_S)
        if self.waiting:
            LOG.error("%s predictions are not logged: %s", f"{self.waiting:,}", self.told["error"])
        self.tally.close(settled=not self.waiting)


class Watch:
    """Who is out of range, what failed, and whether to refuse: asked as each request that predicts is let in and ends."""

    def __init__(self, writer: Writer, bursts: Any) -> None:
        self.writer, self.bursts, self.conf = writer, bursts, writer.conf.out_of_range
        self.paths = set[str]()  # of the routes that predict, once all modules have added theirs
        self.seen: dict[str, list[float]] = {}  # by caller: when its window began, wrong requests since, all since

    def admit(self, scope: Scope) -> None:
        """Note when it came; raises Turned when it must not be answered."""
        if scope["path"] not in self.paths:
            return
        now_s = time.perf_counter()
        if self.writer.conf.when_full == "refuse" and self.writer.full:
            error = "predictions cannot be logged at the moment, so none are made: try again"
            raise Turned(503, error, {"retry-after": "1"})
        mine = self.window(scope["caller"])
        if mine[1] > self.conf.requests and mine[1] > self.conf.share * mine[2]:
            self.bursts.inc()
            wait_s = math.ceil(mine[0] + self.conf.window_s - now_s)
            error = f"{mine[1]:,.0f} of {mine[2]:,.0f} requests of {scope['caller']} were out of range: wait {wait_s} s"
            raise Turned(429, error, {"retry-after": str(wait_s)})
        scope["asked_at"], scope["window"] = now_s, mine

    def ended(self, scope: Scope, status: int) -> None:
        mine = scope.get("window")
        if mine is None:  # it was not let in
            return
        mine[1] += status == 422
        mine[2] += 1
        if status >= 500:
            facts = {"endpoint": scope["path"], "version": scope["model_version"], "status": status}
            self.writer.failed.append(facts | {"at": now(), "arm": scope.get("arm", "champion")})

    def window(self, caller: str) -> list[float]:
        since = time.perf_counter() - self.conf.window_s
        if len(self.seen) > 10_000:  # callers without a key are as many as there are addresses
            self.seen = {one: window for one, window in self.seen.items() if window[0] > since}
        window = self.seen.setdefault(caller, [time.perf_counter(), 0, 0])
        if window[0] < since:
            window[:] = time.perf_counter(), 0, 0
        return window


def logged(answer: dict[str, Any]) -> list[Any]:
    """Return the predictions of ANSWER as the log takes them: numbers or, of several classes, its number and the probabilities."""
    if "probabilities" not in answer:
        return answer["predictions"]
    start = len(probability_of(answer["output"], ""))
    return [
        {"prediction": number_of(label), "probabilities": {name[start:]: value for name, value in each.items()}}
        for label, each in zip(answer["predictions"], answer["probabilities"], strict=True)
    ]


def extend(app: FastAPI, service: Service) -> None:
    if os.environ.get(TRIAL):
        return
    log = open_log(service.project)
    if log.conf.entity and not log.entity:
        LOG.warning("conf/prediction_log.yml: entity %s is no column of SCHEMA: it is the request id", log.conf.entity)
    bursts = prometheus.Counter(
        "http_requests_out_of_range", "Requests turned away after a burst of wrong ones.", registry=service.registry
    )
    writer = Writer(log, service)
    watch = Watch(writer, bursts)
    service.admitted.append(watch.admit)
    service.ended.append(watch.ended)

    @contextlib.asynccontextmanager
    async def writing() -> AsyncIterator[None]:
        for endpoint in service.endpoints:
            endpoint.told["log"] = writer.told
            watch.paths.add(f"{endpoint.prefix}/predict")
        writer.start()
        yield
        writer.stop()

    service.answered.append(writer.take)
    service.lifespans.append(writing)


def remove(file: Path) -> None:
    for one in (file, file.with_suffix(".lock")):
        one.unlink(missing_ok=True)
