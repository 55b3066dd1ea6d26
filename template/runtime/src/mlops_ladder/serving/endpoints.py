"""Further models on this server, and models that feed each other: conf/endpoints.yml."""

from typing import Annotated, Any

import pydantic
from fastapi import FastAPI

from ..core.errors import ProjectError
from ..core.settings import Settings, read
from .app import Endpoint, Service, add_endpoint
from .contract import Contract, Row
from .servable import Servable, resolve

Prefix = Annotated[str, pydantic.Field(pattern=r"^(/[a-z0-9][a-z0-9_-]*)+$")]


class Link(Settings, frozen=True):
    first: str
    second: str
    column: str


class Endpoints(Settings, frozen=True):
    """conf/endpoints.yml"""

    models: dict[Prefix, str]
    chains: dict[Prefix, Link]


class Chained(Servable):
    """SECOND, whose COLUMN is what FIRST predicts for the same row: callers send the other columns of both."""

    def __init__(self, first: Servable, second: Servable, column: str) -> None:
        self.first, self.second, self.column = first, second, column
        self.version, self.output = f"{second.version}.{first.version}", second.output
        columns = first.contract.columns | {k: v for k, v in second.contract.columns.items() if k != column}
        self.contract = Contract(first.project, columns)
        self.example = {name: (first.example | second.example)[name] for name in columns}
        self.note = {"columns": columns, "output": self.output, "example": {"row": self.example}}
        self.note |= {"classes": second.classes} if second.classes else {}

    async def predict(self, rows: list[Row]) -> list[Any]:
        fed = self.first.worded(await self.first.predict(rows))["predictions"]
        return await self.second.predict([{**row, self.column: value} for row, value in zip(rows, fed, strict=True)])

    def describe(self) -> dict[str, Any]:
        fed_by = {"output": self.first.output, "version": self.first.version, "as": self.column}
        return {"version": self.version, **self.note, "model": self.second.version, "fed_by": fed_by}


class Chain(Endpoint):
    """Two endpoints as one; whichever of them is swapped, the next request is answered by the new pair."""

    def __init__(self, first: Endpoint, second: Endpoint, column: str, prefix: str) -> None:
        self.first, self.second, self.column = first, second, column
        super().__init__(self.servable, prefix)

    @property
    def servable(self) -> Servable:  # type: ignore[override]
        pair = self.first.servable, self.second.servable
        chained: Chained | None = self.__dict__.get("chained")
        if chained is None or (chained.first, chained.second) != pair:
            chained = self.__dict__["chained"] = Chained(*pair, self.column)
        return chained

    @servable.setter
    def servable(self, _: Servable) -> None:
        """Taken from the two, whatever is given."""


def extend(app: FastAPI, service: Service) -> None:
    conf, there = read(service.project, "endpoints", Endpoints), {"/": service.main}
    for prefix, uri in conf.models.items():
        there[prefix] = Endpoint(resolve(service.project, uri), prefix)
        add_endpoint(app, service, there[prefix])
    for prefix, link in conf.chains.items():
        absent = [name for name in (link.first, link.second) if name not in there]
        if absent or prefix in there:
            raise ProjectError(
                f"conf/endpoints.yml: chain {prefix} joins {link.first} and {link.second}; there are: {', '.join(there)}"
            )
        first, second = there[link.first], there[link.second]
        if link.column not in second.servable.contract.columns:
            raise ProjectError(f"conf/endpoints.yml: {link.second} takes no column {link.column} for {prefix} to feed")
        add_endpoint(app, service, Chain(first, second, link.column, prefix))
