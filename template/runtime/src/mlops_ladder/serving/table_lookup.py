"""Fill in what a caller leaves out and a feature table knows: by the row's key, as it was known at the row's time."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import SchemaValidator, ValidationError, from_json, to_json
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core import settings
from ..core.errors import ProjectError
from ..core.project import Project
from ..data import feature_tables, split
from .app import LOG, App, Service, explain
from .contract import Unanswerable, cell

FRESH_S = 10.0  # how old the knowledge may be of which columns there are; values are always looked up
THREADS = ThreadPoolExecutor(4, "feature-tables")  # of their own: a store that waits must not take those that predict
MOMENT = SchemaValidator(cell({"type": "time"}))
EPOCH = datetime(1970, 1, 1)


def extend(app: App, service: Service) -> None:
    online = Lookup(service.project, settings.read(service.project, "features", feature_tables.Features).online)
    app.user_middleware.append(Middleware(Filled, service=service, online=online))  # innermost: after any access check
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        """Return the OpenAPI document, in which a column that is filled in may be left out."""
        document, filled = describe(), {name for table in online.tables for name in table.features}
        for schema in document["components"]["schemas"].values():
            if schema.get("title") == "Row":
                schema["required"] = [name for name in schema["required"] if name not in filled]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


class Lookup:
    """The online store of conf/features.yml; raises ProjectError when it is there and cannot be read."""

    def __init__(self, project: Project, url: str) -> None:
        self.project = project
        self.url = url
        try:
            self.store = feature_tables.Online(project, url)
            self.refresh()
        except (SQLAlchemyError, ImportError) as error:
            reason = settings.hide(str(getattr(error, "orig", None) or error), url)
            raise ProjectError(f"feature tables cannot be read at {url}: {reason}; mend conf/features.yml") from None

    @property
    def stale(self) -> bool:
        return time.monotonic() - self.read_at > FRESH_S

    def refresh(self) -> None:
        self.tables, self.read_at = list(self.store.known().values()), time.monotonic()

    def offering(self, columns: Iterable[str]) -> list[feature_tables.Table]:
        """Return the tables that have one of COLUMNS."""
        return [table for table in self.tables if not set(table.features).isdisjoint(columns)]

    def fill(self, body: bytes, columns: Iterable[str], max_rows: int) -> bytes:
        """Return BODY with those of COLUMNS that the tables know; what is no row, or too many, others refuse."""
        if self.stale:
            with contextlib.suppress(SQLAlchemyError):  # what was known then holds; a lookup will say what is wrong
                self.read_at = time.monotonic()
                self.refresh()
        try:
            given = from_json(body, allow_inf_nan=False)
        except ValueError:
            return body
        rows = [row for row in (given if isinstance(given, list) else [given]) if isinstance(row, dict)]
        filled = False
        for table in self.offering(columns) if len(rows) <= max_rows else ():
            names = [name for name in table.features if name in columns]
            asked = [(row, place) for row in rows if set(names) - set(row) and (place := at(self.project, row, table))]
            found = self.store.look_up(table, (place for _, place in asked)) if asked else {}
            for row, place in asked:
                row |= {name: found[place].get(name) for name in names if name not in row}
                filled = True
        return to_json(given) if filled else body


def at(project: Project, row: dict[str, Any], table: feature_tables.Table) -> tuple[str, int] | None:
    """Return key and moment that ROW is looked up by, None when it has them not."""
    cells, time = [row.get(name) for name in table.key], split.time_column(project)
    if not time or not all(isinstance(cell, str | float | int) for cell in cells):
        return None
    try:
        moment = MOMENT.validate_json(to_json(row[time]))
        key = feature_tables.key_of(map(feature_tables.text, cells))
    except (KeyError, OverflowError, ValidationError):
        return None
    return None if key is None else (key, (moment - EPOCH) // timedelta(microseconds=1))


class Filled:
    """Around the routes: a request to predict gets its rows filled before the contract looks at them."""

    def __init__(self, app: ASGIApp, service: Service, online: Lookup) -> None:
        self.app, self.service, self.online = app, service, online

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not (self.online.tables or self.online.stale):
            return await self.app(scope, receive, send)
        asked = [one for one in self.service.endpoints if f"{one.prefix}/predict" == scope["path"]]
        columns = asked[0].servable.contract.columns if asked else {}
        if not columns or not (self.online.stale or self.online.offering(columns)):
            return await self.app(scope, receive, send)
        try:
            body, message = b"", await receive()
            while message["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
                message = await receive()
            else:
                return await explain(scope, 400, "the body ended early")(scope, receive, send)
            body = await asyncio.get_running_loop().run_in_executor(
                THREADS, self.online.fill, body, columns, self.service.settings.max_rows
            )
        except Unanswerable as error:
            return await explain(scope, error.status, error.error)(scope, receive, send)
        except SQLAlchemyError as error:
            LOG.error("request %s: feature tables: %s", scope["request_id"], settings.hide(str(error), self.online.url))
            text = "the feature tables cannot be read at the moment: try again, or send every column"
            return await explain(scope, 503, text, headers={"retry-after": "1"})(scope, receive, send)
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_filled() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, receive_filled, send)
