"""Follow what a model URI stands for: when an alias moves, load, check and warm that version, then swap it in.

Whatever fails on the way, the old version answers on; /model and /metrics say so.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import prometheus_client as prometheus
from fastapi import FastAPI

from ..core.project import Project
from .app import Endpoint, Service
from .servable import Servable, pin, resolve

POLL_S = 0.25
THREAD = ThreadPoolExecutor(1, "watch")  # one for all who ask a registry: MLflow's tracking URI is the process's
RETRY_S = 30  # at most, between two tries to load what could not be loaded: each takes a second of the processor
LOG = logging.getLogger("uvicorn.error")


class Watcher:
    """Keeps ENDPOINT at the version that its URI stands for."""

    def __init__(self, project: Project, endpoint: Endpoint, metrics: dict[str, Any]) -> None:
        self.project = project
        self.endpoint, self.uri = endpoint, endpoint.servable.uri
        self.metrics = {name: metric.labels(f"{endpoint.prefix}/predict") for name, metric in metrics.items()}
        self.failed, self.failures, self.retry_at = "", 0, 0.0  # what could not be loaded, how often, when to try again
        self.told: dict[str, Any] = {"follows": self.uri, "since": now(), "swaps": 0, "failures": 0, "error": None}
        endpoint.told["watch"] = self.told

    def look(self) -> Servable | None:
        """Return the version to swap in, warm, or None; runs in a thread and takes as long as the registry does."""
        pinned = ""
        try:
            pinned = pin(self.project, self.uri)
            if pinned == self.endpoint.servable.pinned:
                self.told["error"] = None
                return None
            if pinned == self.failed and time.monotonic() < self.retry_at:
                return None
            new = resolve(self.project, self.uri)
            warm(new)
            return new
        except Exception as error:  # noqa: BLE001 - nothing that happens here may reach a request
            self.failures = self.failures + 1 if pinned == self.failed else 1
            self.failed, self.retry_at = pinned, time.monotonic() + min(RETRY_S, 2**self.failures / 4)
            self.metrics["failures"].inc()
            line = f"{pinned or self.uri} is not taken over: {error}"
            if line != self.told["error"]:
                LOG.error("%s; version %s answers on", line, self.endpoint.servable.version)
            self.told |= {"error": line, "failures": self.told["failures"] + 1}
            return None

    def swap(self, new: Servable) -> None:
        self.endpoint.servable = new
        self.failed, self.failures = "", 0
        self.told |= {"since": now(), "swaps": self.told["swaps"] + 1, "error": None}
        self.metrics["swaps"].inc()


def extend(app: FastAPI, service: Service) -> None:
    # a registry that is away must not keep the thread, and with it the end of the process, for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    names = {"swaps": "Models swapped in.", "failures": "Looks at the registry, or loads of a version, that failed."}
    metrics: dict[str, Any] = {
        name: prometheus.Counter(f"model_{name}", text, ["route"], registry=service.registry)
        for name, text in names.items()
    }
    metrics["looked"] = prometheus.Gauge(
        "model_followed_timestamp_seconds", "When the registry last answered.", ["route"], registry=service.registry
    )

    @contextlib.asynccontextmanager
    async def follow() -> AsyncIterator[None]:
        followed = [one for one in service.endpoints if one.servable.uri != one.servable.pinned]
        tasks = [asyncio.create_task(watch(Watcher(service.project, one, metrics))) for one in followed]
        yield
        for task in tasks:
            task.cancel()

    service.lifespans.append(follow)


async def watch(watcher: Watcher) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(POLL_S)
        new = await loop.run_in_executor(THREAD, watcher.look)
        if new:
            watcher.swap(new)
        if not watcher.told["error"]:
            watcher.metrics["looked"].set_to_current_time()


def warm(servable: Servable) -> None:
    """Compute a few times, alone and together: the first computations take up to a hundred times as long."""
    row = servable.example_row()
    for n_rows in (1, 1, 1, 100):
        servable.compute([row] * n_rows)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
