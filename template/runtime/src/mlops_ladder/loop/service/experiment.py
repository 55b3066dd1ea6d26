"""Split an environment's callers between its champion and the challenger of a running experiment (`experiment start`).

Each process looks at the environment's registry as it does for the champion. Whatever the challenger does, the champion
answers: in its place when it fails or is slow, and everybody once the experiment is over or cannot be heard of any more.
`scope["arm"]` and `scope["entity"]` say who answered whom.
"""

import asyncio
import collections
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import prometheus_client as prometheus
from fastapi import FastAPI, Request

from ...core.errors import ProjectError
from ...core.project import Project
from ...release import environments
from ...serving.app import BUCKETS, Endpoint, Service
from ...serving.contract import Row
from ...serving.servable import Servable, resolve
from ...serving.watch import POLL_S, THREAD, warm
from .. import experiment, prediction_log
from ..experiment import Arm, State

DEAF_S = 5.0  # without an answer of the registry the challenger answers no more: its end could not be heard
PENDING = 64  # shadow predictions that wait; more are left out and counted, never a reason to make a caller wait
STOP_S = 3.0  # to give back what is left, at the end of the process: a store that is away must not keep it
LOG = logging.getLogger("uvicorn.error")


class Split:
    """One step of an experiment in this process: who is asked, what came of it, and whether it goes on."""

    def __init__(self, state: State, challenger: Servable, service: Service, metrics: dict[str, Any]) -> None:
        self.state, self.challenger, self.service = state, challenger, service
        self.stopped, self.heard_at = "", time.monotonic()
        self.left: float = 0 if state.plan.requests else float("inf")  # requests that the challenger may still answer
        self.used, self.answered, self.failed = 0, 0, 0
        self.failures: list[dict[str, Any]] = []  # not written into the prediction log yet
        self.took = {arm: collections.deque[float](maxlen=4 * state.stop.window) for arm in ("ours", "theirs")}
        self.owed = 0  # answers of the champion to compare with: one for each of the challenger, from the same time
        self.tasks: set[asyncio.Task[None]] = set()
        name = "shadow" if state.mode == "shadow" else "challenger"
        self.seconds = {
            "ours": metrics["seconds"].labels(name, state.challenger),
            "theirs": metrics["seconds"].labels("champion", state.champion),
        }
        self.failing = metrics["failures"].labels(name, state.challenger)
        self.dropped = metrics["dropped"]

    @property
    def on(self) -> bool:
        return not self.stopped and time.monotonic() - self.heard_at < DEAF_S

    def choose(self, champion: Servable, endpoint: Endpoint, request: Request, rows: list[Row]) -> Servable:
        """Return who answers ROWS: the challenger only when all of them are of entities that belong to it."""
        state = self.state
        if state.mode == "shadow":
            return Shadowed(self, champion, endpoint, request)
        entities = {row.get(state.entity or "") for row in rows}
        if len(entities) == 1 and None not in entities:
            request.scope["entity"] = str(*entities)
        theirs = all(one is not None and experiment.assigned(state.id, str(one), state.share) for one in entities)
        if theirs and self.left >= 1:
            self.left -= 1
            self.used += 1
            return Tried(self, champion, endpoint, request)
        return Timed(self, champion)

    def took_s(self, arm: str, seconds: float) -> None:
        self.seconds[arm].observe(seconds)
        if arm == "ours" or self.owed:
            self.took[arm].append(seconds)
            self.owed += 1 if arm == "ours" else -1

    def fail(self, endpoint: Endpoint, error: Exception) -> None:
        """Count a failure of the challenger; too many end the experiment in this process at once."""
        self.failed += 1
        self.failing.inc()
        state = self.state
        arm = "shadow" if state.mode == "shadow" else "challenger"
        place = f"{endpoint.prefix}/predict"
        self.failures.append({"endpoint": place, "version": state.challenger, "arm": arm, "status": 500})
        if self.failed == 1:
            LOG.warning("version %s, on trial, failed: %s: %s", state.challenger, type(error).__name__, error)
        self.check()

    def check(self) -> None:
        """Stop when the challenger fails too often or is too slow."""
        ours = Arm(self.answered, self.failed, np.array(self.took["ours"]))
        theirs = Arm(len(self.took["theirs"]), 0, np.array(self.took["theirs"]))
        self.stopped = self.stopped or experiment.broken(self.state.stop, ours, theirs)


class Timed(Servable):
    """The champion, answering one request while an experiment runs."""

    def __init__(self, split: Split, champion: Servable) -> None:
        self.split, self.champion = split, champion

    async def answer(self, rows: list[Row]) -> dict[str, Any]:
        started = time.perf_counter()
        answer = await self.champion.answer(rows)
        self.split.took_s("theirs", time.perf_counter() - started)
        return answer


class Tried(Timed):
    """The challenger, answering one request; when it fails, or takes too long, the champion does."""

    def __init__(self, split: Split, champion: Servable, endpoint: Endpoint, request: Request) -> None:
        super().__init__(split, champion)
        self.endpoint, self.request = endpoint, request

    async def answer(self, rows: list[Row]) -> dict[str, Any]:
        split, started = self.split, time.perf_counter()
        try:
            async with asyncio.timeout(split.state.stop.answer_s):
                answer = await split.challenger.answer(rows)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller must not notice
            answer = await self.champion.answer(rows)  # if this fails too, the request is at fault
            split.fail(self.endpoint, error)
            return answer
        self.request.scope["arm"] = "challenger"
        split.answered += 1
        split.took_s("ours", time.perf_counter() - started)
        return answer


class Shadowed(Tried):
    """The champion, answering one request that the challenger predicts too, afterwards and for the log alone."""

    async def answer(self, rows: list[Row]) -> dict[str, Any]:
        split = self.split
        answer = await Timed.answer(self, rows)
        if len(split.tasks) < PENDING:
            task = asyncio.get_running_loop().create_task(self.score(rows))
            split.tasks.add(task)
            task.add_done_callback(split.tasks.discard)
        else:
            split.dropped.inc()
        return answer

    async def score(self, rows: list[Row]) -> None:
        split, scope, started = self.split, self.request.scope, time.perf_counter()
        try:
            async with asyncio.timeout(split.state.stop.answer_s):
                answer = await split.challenger.answer(rows)
            answer["request_id"] = scope["request_id"]
            split.answered += 1
            split.took_s("ours", time.perf_counter() - started)
            for tell in split.service.answered:
                tell(Request({**scope, "arm": "shadow", "asked_at": started}), rows, answer)
        except Exception as error:  # noqa: BLE001
            split.fail(self.endpoint, error)


class Router:
    """Keeps the split of environment NAME as its registry says."""

    def __init__(self, project: Project, uri: str, service: Service, metrics: dict[str, Any]) -> None:
        self.project = project
        self.uri, self.service, self.metrics = uri, service, metrics
        self.name = uri.removeprefix("env:")
        self.split: Split | None = None
        self.error: str | None = None
        self.refused = ""  # the experiment whose challenger could not be loaded
        self.store: Any = None  # a client of the registry, the model's name in it, the prediction log

    def turn(self, request: Request, endpoint: Endpoint, servable: Servable, rows: list[Row]) -> Servable:
        split = self.split
        if not (split and split.on and servable.uri == self.uri and servable.version == split.state.champion):
            return servable
        return split.choose(servable, endpoint, request, rows)

    def look(self) -> tuple[Split, State, int] | None:
        """Return the split to go on with, its state and how many more requests its challenger may answer.

        Runs in a thread and takes as long as the registry does.
        """

        if self.store is None:
            chosen, client = environments.open_store(self.project, self.name)
            self.store = client, chosen.model, prediction_log.open_log(self.project)
        client, name, log = self.store
        found = experiment.running(client, name)
        if found is None or found[1].result in experiment.OVER:
            return None
        (there, state), split = found, self.split
        if split is None or split.state.id != state.id:
            if state.id == self.refused:
                return None
            try:
                challenger = resolve(self.project, f"env:{self.name}@{there.version}")
                warm(challenger)
            except Exception as error:  # noqa: BLE001
                self.refused = state.id
                experiment.conclude(client, there, state, "aborted", f"it cannot be loaded: {error}")
                return None
            split = Split(state, challenger, self.service, self.metrics)
        if split.stopped:
            experiment.conclude(client, there, state, "aborted", split.stopped)
        if failures := split.failures[:]:
            log.write([], failures)
            del split.failures[: len(failures)]
        most, granted = state.plan.requests, 0
        if most and split.on:
            used, split.used = split.used, 0
            left = split.left if split.state.step == state.step else 0
            wanted = int(max(most // 20, 2 * used, 1) - left)  # enough until the next look
            granted = experiment.take(log, state, wanted) if wanted > 0 else 0
        return split, state, granted

    async def follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(POLL_S)
            try:
                found = await loop.run_in_executor(THREAD, self.look)
            except Exception as error:  # noqa: BLE001 - nothing that happens here may reach a request
                if self.error != (line := f"{type(error).__name__}: {error}"):
                    LOG.error("the experiments of %s cannot be followed: %s", self.name, line)
                self.error = line
            else:
                self.error = None
                if found is None:
                    self.split = None
                else:
                    split, state, granted = found
                    if split.state.step != state.step and state.plan.requests:
                        split.left = 0  # what was taken for the step before is gone
                    split.state, split.left, split.heard_at = state, split.left + granted, time.monotonic()
                    split.check()
                    self.split = split
            self.tell()

    def end(self) -> None:
        """Give back what the challenger may still answer, for another process to use."""
        split, self.split = self.split, None
        if not (split and split.state.plan.requests and split.left):
            return
        _, _, log = self.store
        state, left = split.state, int(split.left)

        def give_back() -> None:
            try:
                experiment.take(log, state, -left)
            except ProjectError as error:
                LOG.error("%s requests of experiment %s stay counted as used: %s", left, state.id, error)

        giving = threading.Thread(target=give_back, daemon=True)
        giving.start()
        giving.join(STOP_S)

    def tell(self) -> None:
        """Say in /model and in the metrics what goes on."""
        split = self.split
        told: dict[str, Any] = {"running": False, "error": self.error}
        if split:
            state = split.state
            told |= {"running": split.on, "id": state.id, "mode": state.mode, "challenger": state.challenger}
            told |= {"share": state.share, "step": state.step + 1, "answered": split.answered, "failed": split.failed}
            told |= {"stopped": split.stopped or None}
        share = split.state.share if split and split.on and split.state.mode != "shadow" else 0
        self.metrics["share"].labels(self.name).set(share)
        for endpoint in self.service.endpoints:
            if endpoint.servable.uri == self.uri:
                endpoint.told["experiment"] = told


def extend(app: FastAPI, service: Service) -> None:
    registry, labels = service.registry, ["arm", "version"]
    metrics: dict[str, Any] = {
        "seconds": prometheus.Histogram(
            "experiment_duration_seconds", "Time to predict, by arm.", labels, buckets=BUCKETS, registry=registry
        ),
        "failures": prometheus.Counter(
            "experiment_failures", "Requests that the version on trial failed.", labels, registry=registry
        ),
        "dropped": prometheus.Counter("experiment_shadows_dropped", "Shadow predictions left out.", registry=registry),
        "share": prometheus.Gauge(
            "experiment_share", "Share of the entities on trial.", ["environment"], registry=registry
        ),
    }

    @contextlib.asynccontextmanager
    async def follow() -> AsyncIterator[None]:
        uris = {one.servable.uri for one in service.endpoints if one.servable.uri != one.servable.pinned}
        tasks, routers = [], []
        for uri in sorted(uri for uri in uris if uri.startswith("env:") and "/" not in uri):
            routers.append(router := Router(service.project, uri, service, metrics))
            service.asked.append(router.turn)
            tasks.append(asyncio.create_task(router.follow()))
        yield
        for task in tasks:
            task.cancel()
        for router in routers:
            router.end()

    service.lifespans.append(follow)
