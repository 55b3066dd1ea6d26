"""Who may ask, how often, how many at once and how long an answer may take: conf/limits.yml and the keys."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import prometheus_client as prometheus
import pydantic
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.errors import ProjectError
from ..core.project import Project
from ..core.settings import Settings, read
from . import keys
from .app import Service, closed, content, explain, network

PROBES = ("/health", "/ready")  # of the platform, which has no key, and must hear when all is busy
READ = ("/openapi.json", "/docs", "/model", "/predict")  # ends of the paths for which the scope `predict` is enough
REREAD_S = 1.0  # a key that was removed is taken for so long still
LOG = logging.getLogger("uvicorn.error")
MEANINGS = {
    "401": "No key, or one that is not known.",
    "403": "The key's scope does not include this.",
    "429": "Too many requests of this caller; Retry-After says when to go on.",
    "503": "Too many requests at once, or the answer took too long; Retry-After says when to try again.",
}


class Limits(Settings, frozen=True):
    """conf/limits.yml"""

    require_key: bool
    rate_per_s: pydantic.PositiveFloat
    burst: pydantic.PositiveInt
    at_once: pydantic.PositiveInt
    deadline_s: pydantic.PositiveFloat


class Turned(Exception):
    """A request that is turned away: status, why, headers."""


class Known:
    """The keys. While data/keys is damaged those read before hold, and log and metrics say so; without it all is closed."""

    def __init__(self, project: Project, limits: Limits, registry: prometheus.CollectorRegistry) -> None:
        self.project = project
        self.stamp, self.keys = keys.stamp(project), keys.read(project)
        self.read_at, self.error, self.asked = time.monotonic(), "", limits.require_key or keys.asked(project)
        if self.stamp:  # of before there was such a file
            with contextlib.suppress(OSError):
                keys.MADE.touch()
        if self.asked and not self.keys:
            LOG.error("there is no key, so nobody is answered: `keys add` makes one")
        damaged = prometheus.Gauge(
            "keys_damaged", "1 while data/keys is damaged: those read before hold.", registry=registry
        )
        damaged.set_function(lambda: bool(self.error))
        prometheus.Gauge("keys_known", "Keys that the service takes.", registry=registry).set_function(
            lambda: len(self.keys)
        )

    def find(self, digest: str) -> tuple[str | None, str]:
        """Return name and scope of a key; a new one counts at once, a removed one within REREAD_S."""
        if digest not in self.keys and keys.stamp(self.project) != self.stamp:
            self.look()
        return self.keys.get(digest, (None, ""))

    def look(self) -> None:
        self.read_at, before, error = time.monotonic(), self.stamp, ""
        self.stamp, self.asked = (
            keys.stamp(self.project),
            self.asked or keys.asked(self.project),
        )  # a file that goes away opens nothing
        try:
            self.keys = keys.read(self.project)
        except ProjectError as damage:
            error = str(damage)
        if error and error != self.error:
            LOG.error("%s; the %s keys read before hold until then", error, len(self.keys))
        if before and not self.stamp:
            LOG.error("%s is gone, and each key in it: bring it back", self.project.path(keys.FILE))
        self.error = error


class Guard:
    """Around the app, within the counts and request ids of `Observed`."""

    def __init__(
        self, app: ASGIApp, limits: Limits, known: Known, refusals: Any, admitted: list[Callable[[Scope], None]]
    ) -> None:
        self.app, self.limits, self.known, self.refusals, self.admitted = app, limits, known, refusals, admitted
        self.free_at: dict[str, float] = {}  # when the requests a caller made so far are worked off at the allowed rate
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await self.app(scope, receive, send)
        started = False

        async def send_seen(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self.running += 1
        try:
            self.admit(scope)
            for check in self.admitted:
                check(scope)
            began = scope.get("state", {}).get("began") or asyncio.get_running_loop().time()
            async with asyncio.timeout_at(began + self.limits.deadline_s) as deadline:
                await self.app(scope, receive, send_seen)
        except Turned as turned:
            await self.turn(turned, scope, receive, send)
        except TimeoutError:
            if started or not deadline.expired():
                raise
            late = Turned(503, f"no answer within {self.limits.deadline_s:g} s", {"retry-after": "1"})
            await self.turn(late, scope, receive, send)
        finally:
            self.running -= 1

    async def turn(self, turned: Turned, scope: Scope, receive: Receive, send: Send) -> None:
        status, error, headers = turned.args
        self.refusals.labels(str(status)).inc()
        await explain(scope, status, error, headers=headers)(scope, receive, send)

    def admit(self, scope: Scope) -> None:
        """Raise Turned unless the caller may ask for this now; note who it is in the scope, as `caller`."""
        address = (scope["client"] or ["unknown"])[0]
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        name, allowed = self.caller(given) if self.keys_asked() else (address, "admin")
        scope["caller"] = name or address
        if self.running > self.limits.at_once:
            raise Turned(
                503, f"{self.limits.at_once} requests are being answered, no more at once", {"retry-after": "1"}
            )
        self.count(name or f"{network(address)} without a known key")
        if name is None:
            why = "this key is not known" if given else "no key came along"
            raise Turned(401, f"{why}: send `Authorization: Bearer KEY`", {"www-authenticate": "Bearer"})
        if allowed != "admin" and scope["path"] != "/" and not scope["path"].endswith(READ):
            raise Turned(403, f"the key of {name} is for predictions, this asks for one of scope admin", None)

    def count(self, name: str) -> None:
        """Count a request of NAME; raises Turned with 429 when it is one too many."""
        now, rate = time.monotonic(), self.limits.rate_per_s
        free_at = max(self.free_at.get(name, now), now) + 1 / rate
        wait = free_at - now - self.limits.burst / rate
        if wait > 0:
            retry = {"retry-after": str(math.ceil(wait))}
            raise Turned(429, f"{name} asks more than {rate:g} times a second: wait {math.ceil(wait)} s", retry)
        if len(self.free_at) > 10_000:  # callers without a key are as many as there are addresses
            self.free_at = {one: until for one, until in self.free_at.items() if until > now}
        self.free_at[name] = free_at

    def keys_asked(self) -> bool:
        if time.monotonic() - self.known.read_at > REREAD_S:
            self.known.look()
        return self.known.asked

    def caller(self, given: bytes) -> tuple[str | None, str]:
        """Return whose key came along in the header GIVEN and its scope; None: nobody's."""
        kind, _, key = given.decode("latin-1").partition(" ")
        name, allowed = self.known.find(keys.hashed(key.strip()))
        return (None, "") if kind.lower() != "bearer" or name is None else (name, allowed)


def extend(app: FastAPI, service: Service) -> None:
    refusals = prometheus.Counter(
        "http_requests_turned_away", "Requests turned away by keys and limits.", ["status"], registry=service.registry
    )
    limits = read(service.project, "limits", Limits)
    known = Known(service.project, limits, service.registry)  # here, so that a damaged file ends the start
    app.add_middleware(Guard, limits=limits, known=known, refusals=refusals, admitted=service.admitted)
    inner = app.openapi

    def openapi() -> dict[str, Any]:
        document = inner()
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]  # {}: as long as there is no key
        text = {"type": "string"}
        error = content(closed({"error": text, "request_id": text}))
        for path, methods in document["paths"].items():
            for method in methods.values() if path not in PROBES else ():
                method["responses"] |= {status: {"description": why} | error for status, why in MEANINGS.items()}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
