"""What a source of monthly rows offers: a folder, an index of files over HTTP, or a table of an SQL database."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import pandas as pd
import pyarrow as pa
import sqlalchemy as sql

from ..core import settings
from ..core.errors import ProjectError, Refused
from ..core.project import Project
from ..core.settings import expand, hide
from . import split
from .store import Source

MONTH = re.compile(r"(?<!\d)(\d{4}-(?:0[1-9]|1[0-2]))(?!\d)")
CHUNK_BYTES = 1 << 20
CHUNK_ROWS = 50_000  # rows of an SQL table in memory at once
TIMEOUT_S = 60  # without a byte
SLOWEST = 1 << 10  # bytes a second, once TIMEOUT_S have passed: a source that trickles is none
WAITS_S = (0.0, 0.3, 1.0)  # before each try

T = TypeVar("T")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Item:
    """One monthly file that a source offers."""

    name: str
    origin: str  # where it stands, secrets as ${NAME}
    address: str  # the same for the machine: never shown

    @property
    def month(self) -> str | None:
        """YYYY-MM as the name has it."""
        found = MONTH.search(self.name)
        return found[1] if found else None


class Offer(Protocol):
    """A source within reach; making one raises ProjectError when it is not."""

    def items(self) -> list[Item]: ...

    def mark(self, item: Item) -> str | None:
        """Return a text that differs when the item's content may differ, or None when the source cannot tell."""

    def fetch(self, item: Item, target: Path, tell: Tell) -> None:
        """Write the item to TARGET, saying how far it is; raises Refused when it is not to be had whole."""


def reach(project: Project, source: Source) -> Offer:
    """Return what SOURCE offers; raises ProjectError when it cannot be reached."""
    if settings.PASSWORD.search(source.url):
        raise ProjectError("conf/data.yml: source.url holds a password: write ${NAME} and set NAME in the environment")
    url = expand(source.url)
    if "://" not in url:
        return Folder(source, project.path(Path(url).expanduser()))
    return Index(source, url) if urlsplit(url).scheme in ("http", "https") else Table(project, source, url)


class Folder:
    """The .parquet files of a folder."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.shown, self.folder = source.url.rstrip("/"), folder
        if not self.folder.is_dir():
            raise ProjectError(f"there is no folder {source.url}: mend source.url in conf/data.yml")

    def items(self) -> list[Item]:
        names = [file.name for file in self.folder.glob("*.parquet") if not file.name.startswith(".")]
        return [Item(name, f"{self.shown}/{name}", str(self.folder / name)) for name in names]

    def mark(self, item: Item) -> str | None:
        file = Path(item.address)
        return f"{file.stat().st_size} bytes of {file.stat().st_mtime_ns}" if file.is_file() else None

    def fetch(self, item: Item, target: Path, tell: Tell) -> None:
        try:
            with open(item.address, "rb") as content, target.open("wb") as out:
                while chunk := content.read(CHUNK_BYTES):
                    out.write(chunk)
                    tell(f"{out.tell():,} bytes")
        except OSError as error:
            if error.filename != item.address:
                raise  # it is the store that cannot be written
            raise Refused(f"cannot be read: {error.strerror}") from None


class Index:
    """A page whose links are the files (`python -m http.server`, nginx, Apache), or a text with a name a line.

    Only files in the index's own folder count: a link elsewhere is no data and gets no credentials.
    """

    def __init__(self, source: Source, url: str) -> None:
        self.shown = source.url
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ProjectError(f"source.url {source.url} is no URL: {hide(str(error), source.url)}") from None
        self.client = httpx.Client(
            auth=(address.username, address.password) if address.username else None,
            headers={"accept-encoding": "identity"},  # so that the announced length is the file's
            timeout=TIMEOUT_S,
            follow_redirects=True,
        )
        plain = str(address.copy_with(username=None, password=None))
        try:
            self.index = self.insist(lambda: self.client.get(plain).raise_for_status())
        except Refused as error:
            raise ProjectError(f"no index of files at {source.url}: {error}; mend conf/data.yml") from None

    def insist(self, ask: Callable[[], T]) -> T:
        """Return what ASK returns, at the latest at the third try; raises Refused after that."""
        reason = ""
        for wait_s in WAITS_S:
            time.sleep(wait_s)
            try:
                return ask()
            except httpx.HTTPStatusError as error:
                reason = f"HTTP {error.response.status_code} {error.response.reason_phrase}"
                if error.response.status_code < 500 and error.response.status_code != 429:
                    break
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
                raise ProjectError(f"{self.shown} cannot be reached: {hide(str(error), self.shown)}") from None
            except httpx.TransportError as error:
                reason = hide(str(error) or type(error).__name__, self.shown)
        raise Refused(reason)

    def items(self) -> list[Item]:
        base, text = str(self.index.url), self.index.text
        links = text.split("\n")
        if "html" in self.index.headers.get("content-type", ""):
            links = [html.unescape(link) for link in re.findall(r"""href\s*=\s*["']([^"']+)""", text, re.IGNORECASE)]
        found = {}
        for address in (urljoin(base, link.strip()) for link in links):
            name = unquote(PurePosixPath(urlsplit(address).path).name)
            near = urljoin(address, ".") == urljoin(base, ".") and not re.search(r"[/\\\0]", name)
            if near and name.endswith(".parquet") and not name.startswith("."):
                found[name] = Item(name, f"{self.shown.rpartition('/')[0] or self.shown}/{name}", address)
        return list(found.values())

    def mark(self, item: Item) -> str | None:
        answer = self.insist(lambda: self.client.head(item.address))
        return answer.headers.get("etag") or answer.headers.get("last-modified") if answer.is_success else None

    def fetch(self, item: Item, target: Path, tell: Tell) -> None:
        def download() -> None:
            with self.client.stream("GET", item.address) as answer, target.open("wb") as out:
                length = answer.raise_for_status().headers.get("content-length", "?")
                start = time.monotonic()
                for chunk in answer.iter_bytes():  # as it comes; raises when the body is shorter than announced
                    out.write(chunk)
                    took_s = time.monotonic() - start
                    if took_s > TIMEOUT_S and out.tell() < SLOWEST * took_s:
                        raise Refused(f"arrives too slowly, {out.tell():,} bytes in {took_s:.0f} s: ask again later")
                    tell(f"{out.tell():,} of {length} bytes")

        self.insist(download)


class Table:
    """A table or view of a database: each month of data.TIME is a file, without a time the whole is one.

    Changed is a file whose row count did.
    """

    def __init__(self, project: Project, source: Source, url: str) -> None:
        self.project = project
        self.source = source
        if not source.table:
            raise ProjectError("conf/data.yml: source.table is empty: name the table that source.url's rows stand in")
        schema, _, name = source.table.rpartition(".")
        try:
            address = sql.make_url(settings.anchored(project, url))
            if address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
                raise ProjectError(f"there is no database {source.url}: mend source.url in conf/data.yml")
            self.engine = sql.create_engine(address, poolclass=sql.NullPool)
            self.table = sql.Table(name, sql.MetaData(), schema=schema or None, autoload_with=self.engine)
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            raise self.complaint(error) from None
        time = split.time_column(project)
        self.time = self.table.c.get(time) if time else None
        if time and (self.time is None or not isinstance(self.time.type, sql.DateTime | sql.Date)):
            raise ProjectError(f"table {source.table} has no date-time column {time}: it tells the months apart")
        self.zone = "UTC" if self.time is not None and getattr(self.time.type, "timezone", False) else None
        self.counts: dict[str, int] = {}

    def complaint(self, error: Exception) -> ProjectError:
        first_line = str(getattr(error, "orig", None) or error).partition("\n")[0]
        return ProjectError(f"{self.source.url}, table {self.source.table}: {hide(first_line, self.source.url)}")

    def ask(self, query: sql.Executable) -> Any:
        try:
            with self.engine.connect() as connection:
                return connection.execute(query).all()
        except sql.exc.SQLAlchemyError as error:
            raise self.complaint(error) from None

    def items(self) -> list[Item]:
        origin = f"{self.source.url} {self.source.table}"
        if self.time is None:
            [[n_rows]] = self.ask(sql.select(sql.func.count()).select_from(self.table))
            self.counts = {split.WHOLE: n_rows}
            return [Item(f"{self.table.name}.parquet", origin, split.WHOLE)] if n_rows else []
        year, month = sql.extract("year", self.time), sql.extract("month", self.time)
        counts = self.ask(sql.select(year, month, sql.func.count()).group_by(year, month))
        if nowhere := sum(row[2] for row in counts if row[0] is None):
            raise ProjectError(
                f"{nowhere:,} rows of table {self.source.table} have no {self.time.name}: mend them there"
            )
        self.counts = {f"{int(row[0]):04}-{int(row[1]):02}": row[2] for row in counts}
        return [Item(f"{self.table.name}-{month}.parquet", f"{origin} {month}", month) for month in self.counts]

    def mark(self, item: Item) -> str | None:
        return f"{self.counts[item.address]} rows"

    def fetch(self, item: Item, target: Path, tell: Tell) -> None:
        from pyarrow import parquet as pq

        within, order = list[Any](), [self.table.c[name] for name in [self.project.data.KEY] if name in self.table.c]
        if self.time is not None:
            start = pd.Timestamp(item.address, tz=self.zone)
            end = start + pd.offsets.MonthBegin()
            within, order = [self.time >= start.to_pydatetime(), self.time < end.to_pydatetime()], [self.time, *order]
        schema = pa.schema([(column.name, arrow_type(column)) for column in self.table.c])
        n_rows = 0
        try:
            with self.engine.connect() as connection, pq.ParquetWriter(target, schema, compression="zstd") as out:
                stream = connection.execution_options(yield_per=CHUNK_ROWS)
                for rows in stream.execute(sql.select(self.table).where(*within).order_by(*order)).partitions():
                    columns = zip(*rows, strict=True)
                    out.write_table(pa.table([as_array(*pair) for pair in zip(columns, schema, strict=True)], schema))
                    tell(f"{(n_rows := n_rows + len(rows)):,} rows")
        except sql.exc.SQLAlchemyError as error:
            raise self.complaint(error) from None


def arrow_type(column: sql.Column[Any]) -> pa.DataType:
    """Return the parquet type of an SQL column, the same for each month whatever values it holds."""
    if isinstance(column.type, sql.DateTime | sql.Date):
        return pa.timestamp("us", "UTC" if getattr(column.type, "timezone", False) else None)
    reals = (sql.Numeric, sql.Float)
    kinds = ((sql.Boolean, pa.bool_()), (sql.Integer, pa.int64()), (reals, pa.float64()))
    return next((arrow for kind, arrow in kinds if isinstance(column.type, kind)), pa.string())


def as_array(values: tuple[Any, ...], field: pa.Field) -> pa.Array:
    """Return one chunk of an SQL column; raises Refused for a value that its declared type does not hold."""
    if pa.types.is_floating(field.type):
        values = tuple(float(value) if isinstance(value, Decimal) else value for value in values)
    elif pa.types.is_string(field.type):
        values = tuple(value if value is None else str(value) for value in values)
    elif pa.types.is_timestamp(field.type):
        values = tuple(pd.Timestamp(value) if type(value) is date else value for value in values)
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise Refused(f"column {field.name}: {error}") from None
