"""The HTTP side: routes, limits, metrics, request ids, what an error looks like and what a connection may cost."""

import asyncio
import contextlib
import gc
import ipaddress
import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import prometheus_client as prometheus
import pydantic
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..core import levels
from ..core.settings import Settings
from ..data.rows import probability_of
from .contract import Row, Unanswerable
from .servable import Servable

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")  # a caller's own id is kept when it is harmless in a log
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds
HEAD_BYTES = 65_536  # of a request's line and headers: several times what servers in front of this one let through
FRAMING = 10  # a body in chunks may take so many times the bytes that are read of it
FLUSH_S = 10.0  # for a caller to take what was written, before the connection ends without
STATUS = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}
LOG = logging.getLogger("uvicorn.error")


class Serving(Settings, frozen=True):
    """conf/serving.yml"""

    host: str
    port: int
    max_body_bytes: int
    max_rows: int
    drain_s: float
    grace_s: int
    tls_certificate: str | None
    tls_key: str | None
    receive_s: pydantic.PositiveFloat = 15
    idle_s: pydantic.PositiveFloat = 5
    connections: pydantic.PositiveInt = 512
    connections_per_address: pydantic.PositiveInt = 256


class Endpoint:
    """One model, answering at PREFIX/predict and PREFIX/model."""

    def __init__(self, servable: Servable, prefix: str = "") -> None:
        self.servable, self.prefix = servable, prefix
        self.told: dict[str, Any] = {}  # what /model says beside what the model says of itself


class Service:
    """What the parts of the app share. A later level's extension gets it once, before the start, and may add

    - endpoints (`add_endpoint`), and async context managers that live as long as the app (`lifespans`);
    - functions called as a request is let in (`admitted`, which may turn it away), before each prediction (`asked`, which
      return the servable that is to answer), after it (`answered`) and when the response is out (`ended`).

    `endpoint.servable = other` swaps the model in one assignment: a request reads it once. `endpoint.told` is added to
    /model. A subclass of `Servable` overrides `predict(rows)`, which gets validated dicts and no table, or `answer(rows)`.
    """

    def __init__(self, servable: Servable, settings: Serving) -> None:
        self.project, self.settings = servable.project, settings
        self.main = Endpoint(servable)
        self.endpoints: list[Endpoint] = []
        self.lifespans: list[Callable[[], contextlib.AbstractAsyncContextManager[None]]] = []
        self.asked: list[Callable[[Request, Endpoint, Servable, list[Row]], Servable]] = []
        self.answered: list[Callable[[Request, list[Row], dict[str, Any]], None]] = []
        self.admitted: list[Callable[[Scope], None]] = []
        self.ended: list[Callable[[Scope, int], None]] = []
        prometheus.disable_created_metrics()  # a time stamp beside every count, which nothing here reads
        self.draining = False  # told to stop: still answering, no longer asking for requests
        self.registry = registry = prometheus.CollectorRegistry()
        labels = ["route", "status"]
        self.requests = prometheus.Counter("http_requests", "Requests answered.", labels, registry=registry)
        self.latency = prometheus.Histogram(
            "http_request_duration_seconds", "Time to answer.", labels, buckets=BUCKETS, registry=registry
        )
        self.in_flight = prometheus.Gauge("http_requests_in_flight", "Requests being answered.", registry=registry)
        self.rows = prometheus.Counter("predicted_rows", "Rows predicted.", ["model_version"], registry=registry)
        prometheus.ProcessCollector(registry=registry)


class App(FastAPI):
    service: Service

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with the columns of the models that answer at this moment."""
        self.openapi_schema = None
        document = super().openapi()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for endpoint in self.service.endpoints:
            servable, name = endpoint.servable, "_".join(["Row", *endpoint.prefix.split("/")[1:]])
            schemas[name] = servable.contract.json_schema() | {"example": servable.example}
            document["paths"][f"{endpoint.prefix}/predict"]["post"] |= describe_predict(servable, name)
        return document


def make_app(service: Service) -> ASGIApp:
    """Return the service as an ASGI app: level 1's routes and whatever later levels add."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for start in service.lifespans:
                await stack.enter_async_context(start())
            gc.collect()
            gc.freeze()  # what the libraries hold is never garbage: to look through it stops all requests, for 0.2 s
            yield

    # no redoc, no redirects: one page, one address a route
    app = App(title="Predictions", lifespan=lifespan, redoc_url=None, redirect_slashes=False)
    app.service = service

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        """Lead a person to the page of the routes; relative, so that it holds behind a proxy's prefix, too."""
        return RedirectResponse("docs")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answer as long as the process does: restart it when this fails."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: {"description": "Stopping: send requests elsewhere."}})
    async def ready(response: Response) -> dict[str, str]:
        """Say whether to send requests here."""
        response.status_code = 503 if service.draining else 200
        return {"status": "stopping" if service.draining else "ready", "model_version": service.main.servable.version}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return request counts and latencies in Prometheus' text format."""
        return Response(prometheus.generate_latest(service.registry), media_type=prometheus.CONTENT_TYPE_PLAIN_0_0_4)

    @app.exception_handler(Unanswerable)
    async def unanswerable(request: Request, error: Unanswerable) -> Response:
        return explain(request.scope, error.status, error.error, error.problems)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        return explain(request.scope, 422, "; ".join(lines))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return explain(request.scope, error.status_code, error.detail, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> Response:
        return explain(request.scope, 400, "the body ended early")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        scope = request.scope
        LOG.error("request %s: %s %s failed", scope["request_id"], scope["method"], scope["path"], exc_info=error)
        return explain(
            request.scope, 500, "the service failed on this request; its log says why, under this request id"
        )

    add_endpoint(app, service, service.main)
    for module in levels.modules(service.project, "extensions"):
        module.extend(app, service)
    return Observed(app, service)


def add_endpoint(app: FastAPI, service: Service, endpoint: Endpoint) -> None:
    """Serve ENDPOINT's model at its prefix."""
    service.endpoints.append(endpoint)

    @app.post(f"{endpoint.prefix}/predict")
    async def predict(request: Request) -> Response:
        """Predict one row (an object) or many (a list of objects)."""
        servable = endpoint.servable  # once: it may be swapped while this request is answered
        given = request.headers.get("content-type", "none")
        if given.partition(";")[0].strip().lower() != "application/json":
            raise Unanswerable(415, f"the content type is {given[:60]}, must be application/json")
        body = await request.body()
        rows = servable.contract.parse(body)
        request.scope["body_bytes"] = len(body)
        if len(rows) > service.settings.max_rows:
            most = service.settings.max_rows
            raise Unanswerable(422, f"{len(rows):,} rows in one request, at most {most:,} are answered: send several")
        for turn in service.asked:
            servable = turn(request, endpoint, servable, rows)
        answer = await servable.answer(rows)
        answer["request_id"] = request.scope["request_id"]
        service.rows.labels(answer["model_version"]).inc(len(rows))
        for tell in service.answered:
            tell(request, rows, answer)
        request.scope["model_version"] = answer["model_version"]
        return Response(to_json(answer), media_type="application/json")

    @app.get(f"{endpoint.prefix}/model")
    async def model() -> dict[str, Any]:
        """Tell which model answers: version, contract, metrics from the hand-off note, library versions."""
        return endpoint.servable.describe() | endpoint.told


class Observed:
    """Around the whole app: a request id, the model's version, counts and latency, and the limit of a body's size."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        service, started, status = self.service, time.perf_counter(), 500
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        scope["request_id"] = given.decode() if REQUEST_ID.fullmatch(given) else new_id()
        scope["model_version"] = service.main.servable.version

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                marks = [(b"x-request-id", scope["request_id"].encode())]
                marks += [(b"x-model-version", scope["model_version"].encode())]
                marks += [(b"connection", b"close")] if service.draining else []
                message["headers"] = [*message["headers"], *marks]
            await send(message)

        service.in_flight.inc()
        length, most = int(headers.get(b"content-length", -1)), service.settings.max_body_bytes
        with contextlib.suppress(Exception):  # logged and answered 500 by then
            if length > most:
                error = f"the body has {length:,} bytes, at most {most:,} are read"
                await explain(scope, 413, error)(scope, receive, send_marked)
            else:
                await self.app(scope, receive if length >= 0 else counted(receive, most), send_marked)
        service.in_flight.dec()
        for tell in service.ended:
            tell(scope, status)
        labels = getattr(scope.get("route"), "path", "none"), str(status)  # an unknown path must not become a label
        service.requests.labels(*labels).inc()
        service.latency.labels(*labels).observe(time.perf_counter() - started)


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562): in order of time, so that a database adds it at the end of its index."""
    random = secrets.randbits(74)
    return f"{time.time_ns() // 1_000_000:012x}7{random >> 62:03x}{1 << 63 | random & (1 << 62) - 1:016x}"


def counted(receive: Receive, most: int) -> Receive:
    """Return RECEIVE that raises 413 once a body without a content-length grows past MOST bytes."""
    size = 0

    async def receive_counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise Unanswerable(413, f"the body has more than the {most:,} bytes that are read")
        return message

    return receive_counted


def explain(
    scope: Scope,
    status: int,
    error: str,
    problems: Iterable[dict[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error's response: one line for people, each wrong cell for programs, and the request id."""
    body = {"error": error, "request_id": scope["request_id"]} | ({"problems": problems} if problems else {})
    return Response(to_json(body), status, headers, media_type="application/json")


def describe_predict(servable: Servable, schema: str) -> dict[str, Any]:
    """Return what the OpenAPI document says about predicting with SERVABLE, rows of SCHEMA in, and about each error."""
    row = {"$ref": f"#/components/schemas/{schema}"}
    rows = {"title": "Rows", "type": "array", "items": row, "minItems": 1}
    text = {"type": "string"}
    answer = {
        "output": {"const": servable.output},
        **describe_predictions(servable),
        "model_version": text,
        "request_id": text,
    }
    cell = {"row": {"type": "integer"}, "column": {"type": ["string", "null"]}, "problem": text}
    error = {"error": text, "request_id": text, "problems": {"type": "array", "items": {"properties": cell}}}
    errors = {
        "400": "The body is not JSON.",
        "408": "The request did not arrive in time.",
        "413": "The body is too large.",
        "415": "The body is not declared as JSON.",
        "422": "A column is missing, unknown or wrong; the answer names each.",
    }
    return {
        "requestBody": {"required": True} | content({"oneOf": [row, rows], "example": servable.example}),
        "responses": {"200": {"description": "One prediction a row, in order."} | content(closed(answer))}
        | {status: {"description": why} | content(closed(error, "problems")) for status, why in errors.items()},
    }


def describe_predictions(servable: Servable) -> dict[str, Any]:
    """Return the schemas of the predictions: numbers or, of several classes, labels and a probability a class."""
    if not servable.classes:
        return {"predictions": {"type": "array", "items": {"type": "number"}}}
    names = [probability_of(servable.output, name) for name in servable.classes]
    each = closed({name: {"type": "number", "minimum": 0, "maximum": 1} for name in names})
    labels = {"type": "array", "items": {"enum": servable.classes}}
    return {"predictions": labels, "probabilities": {"type": "array", "items": each}}


def content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def closed(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def bounded(service: Service) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol within the limits of conf/serving.yml; `Server` calls its `sweep` once a second."""
    settings, registry = service.settings, service.registry
    ended = prometheus.Counter(
        "http_connections_ended", "Connections ended by the service, and why.", ["why"], registry=registry
    )
    for why in ("full", "late", "large", "unread"):
        ended.labels(why)
    open_now = prometheus.Gauge("http_connections", "Connections open at this moment.", registry=registry)
    by_address: Counter[str] = Counter()

    class Connection(HttpToolsProtocol):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.address: str | None = None
            self.idle_since: float | None = None  # nothing is asked and nothing answered
            self.began: float | None = None  # a request that has not arrived whole: when its first byte did
            self.stuck_since: float | None = None  # the caller does not read what was written
            self.size = 0  # bytes of that request, as far as it came in more than one piece

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.idle_since, self.address = self.loop.time(), network((self.client or ("", 0))[0])
            by_address[self.address] += 1
            open_now.inc()
            if len(self.connections) > settings.connections:
                self.end("full", 503, f"{settings.connections} connections are open, no more at once")
            elif by_address[self.address] > settings.connections_per_address:
                most = settings.connections_per_address
                self.end("full", 503, f"{most} connections of this address are open, no more at once")

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.address is not None:
                open_now.dec()
                by_address[self.address] -= 1
                if not by_address[self.address]:
                    del by_address[self.address]
                self.address = None

        def data_received(self, data: bytes) -> None:
            # uvicorn's timer ends with any byte, such as a line end, of which a request does not consist: `sweep` is it
            super().data_received(data)
            if self.began is not None:
                self.size += len(data)
                if self.size > HEAD_BYTES and not self.headed:
                    self.end("large", 431, f"the headers have more than the {HEAD_BYTES:,} bytes that are read")
                elif self.size > FRAMING * settings.max_body_bytes + HEAD_BYTES and not self.told_length:
                    self.end("large")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.idle_since, self.began, self.size = None, self.loop.time(), 0
            self.scope["state"]["began"] = self.began  # for a deadline that counts from the first byte

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self.began = None

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.pipeline:
                self.idle_since = self.loop.time()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.stuck_since = self.loop.time()

        def resume_writing(self) -> None:
            super().resume_writing()
            self.stuck_since = None

        @property
        def headed(self) -> bool:
            """Whether the headers of the request that is arriving are complete."""
            return self.cycle is not None and self.cycle.scope is self.scope

        @property
        def told_length(self) -> bool:
            return any(name == b"content-length" for name, _ in self.headers)

        def end(self, why: str, status: int | None = None, error: str = "") -> None:
            """Close, once what is written is sent; before, say STATUS and ERROR where an answer is due."""
            ended.labels(why).inc()
            if status:
                body = json.dumps({"error": error}).encode()
                head = f"HTTP/1.1 {status} {STATUS[status]}\r\ncontent-type: application/json\r\n"
                head += f"content-length: {len(body)}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
                self.transport.write(head.encode() + body)
            self.transport.close()

        def look(self, now: float) -> None:
            """End what takes too long."""
            if self.transport.is_closing() or self.stuck_since is not None:
                self.stuck_since = self.stuck_since or now
                if now - self.stuck_since > FLUSH_S:
                    ended.labels("unread").inc()
                    self.transport.abort()
            elif self.began is not None:
                if now - self.began <= settings.receive_s or self.flow.read_paused:
                    return  # paused: it is this side that does not read
                answering = self.cycle is not None and not self.cycle.response_complete
                if not self.headed and answering:
                    self.cycle.keep_alive = False  # what was asked before is answered yet
                elif self.headed and (self.cycle.response_started or self.cycle.response_complete):
                    self.end("late")
                else:
                    self.end("late", 408, f"the request had not arrived whole after {settings.receive_s:g} s")
            elif self.idle_since is not None and now - self.idle_since > settings.idle_s:
                self.end("late")

    return Connection


def network(address: str) -> str:
    """Return whom ADDRESS belongs to: of IPv6 its first 64 bits, as one machine has all addresses of these."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    return str(parsed.ipv4_mapped or int(parsed) >> 64)


def sweep(server: uvicorn.Server, now: float) -> None:
    for connection in list(server.server_state.connections):
        connection.look(now)  # type: ignore[union-attr]
