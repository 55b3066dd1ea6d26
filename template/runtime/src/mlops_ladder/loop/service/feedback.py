"""POST /feedback: labels for predictions that were made here. It takes a key of scope admin: labels teach the model."""

import asyncio
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Annotated, Any

import prometheus_client as prometheus
import pydantic
from fastapi import FastAPI, HTTPException, Request

from ...data.problem import Problem
from ...serving.app import Service, closed, content
from ...serving.contract import Unanswerable
from .. import feedback
from ..prediction_log import Away, open_log

THREAD = ThreadPoolExecutor(1, "feedback")  # of its own: a store that waits must not take those that predict
WAITING = 8  # deliveries; more would take the places of requests to predict, too


class Label(pydantic.BaseModel, extra="forbid"):
    """The truth about one row: by its key, or by the request id that came with its prediction and its place there."""

    key: str | None = pydantic.Field(None, min_length=1, max_length=1000)
    request_id: str | None = pydantic.Field(None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    row: int = pydantic.Field(0, ge=0, lt=2**31)
    label: bool | float
    at: datetime | None = pydantic.Field(None, description="when it was known, in UTC unless it says otherwise")

    @pydantic.model_validator(mode="after")
    def one_place(self) -> "Label":
        if (self.key is None) == (self.request_id is None):
            raise ValueError("give key or request_id")
        return self


def labels_of(problem: Problem) -> type[Label]:
    """Return what a label must look like: of several classes it is one of them."""
    if not problem.classes:
        return Label

    def known(label: Any) -> Any:
        if label not in problem.classes:
            raise ValueError(f"{label!r:.60} is none of {', '.join(map(str, problem.classes))}")
        return label

    listed = pydantic.Field(json_schema_extra={"enum": problem.classes})
    kind = Annotated[str | float, pydantic.AfterValidator(known), listed]
    return pydantic.create_model("ClassLabel", __base__=Label, label=(kind, ...))


def extend(app: FastAPI, service: Service) -> None:
    log = open_log(service.project)
    shape = labels_of(log.problem)
    adapter: pydantic.TypeAdapter[list[Label]] = pydantic.TypeAdapter(list[shape])  # type: ignore[valid-type]
    waiting: set[Future[Counter[str]]] = set()
    counted = prometheus.Counter(
        "feedback_labels", "Labels, by what became of them.", ["outcome"], registry=service.registry
    )
    text = {"type": "string"}
    error = content(closed({"error": text, "request_id": text}))
    outcomes = {"type": "object", "additionalProperties": {"type": "integer"}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": why} | error
        for status, why in {
            409: "They contradict too much and are kept aside, all of them.",
            413: "The body is too large.",
            422: "It is no list of labels.",
            503: "The store is away, or slow: nothing was kept, send them again.",
        }.items()
    }
    responses[200] = {"description": "What became of how many."} | content(
        closed({"labels": outcomes, "request_id": text})
    )
    body = content({"type": "array", "items": shape.model_json_schema()})

    @app.post("/feedback", responses=responses, openapi_extra={"requestBody": {"required": True} | body})
    async def labels(request: Request) -> dict[str, Any]:
        """Join labels to predictions; once it answers 200 they are kept."""
        try:
            given = adapter.validate_json(await request.body())
        except pydantic.ValidationError as wrong:
            first = wrong.errors(include_url=False, include_context=False)[0]
            raise Unanswerable(422, f"label {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        source = request.scope.get("caller", "unknown")
        if len(waiting) >= WAITING:
            retry = {"retry-after": "1"}
            raise HTTPException(503, f"{WAITING} deliveries wait for the store; send them again", retry)
        kept = THREAD.submit(feedback.add_labels, log, [one.model_dump() for one in given], source)
        waiting.add(kept)
        kept.add_done_callback(waiting.discard)
        try:
            done = await asyncio.wrap_future(kept)
        except feedback.Disbelieved as doubt:
            counted.labels("disbelieved").inc(len(given))
            raise Unanswerable(409, str(doubt)) from None
        except Away as away:
            raise Unanswerable(503, f"{away}; send them again") from None
        for outcome, n in done.items():
            counted.labels(outcome).inc(n)
        return {"labels": done, "request_id": request.scope["request_id"]}
