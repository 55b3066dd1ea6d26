"""A model that can answer, and how a model URI becomes one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..core import levels
from ..core.errors import ProjectError, Refused
from ..core.project import Project
from ..data.problem import problem_of
from ..data.rows import noted_prediction, probability_of, read_note
from ..training.handoff import LIBRARIES
from .contract import Contract, Row, Unanswerable
from .score import check_handed_over, load

Waiting = tuple[list[Row], "asyncio.Future[list[Any]]"]
MAX_BATCH = 1_000  # rows predicted together; more would make a small request wait for a large one


class Servable:
    """A fitted model with its hand-off note and version, checked and warm."""

    uri = pinned = ""  # where `resolve` found it: as it was asked for, and what that stood for then

    def __init__(self, project: Project, fitted: Any, note: dict[str, Any], version: str) -> None:
        """Raises ProjectError when the note is incomplete, Refused when its example is not reproduced."""
        self.project, self.problem = project, problem_of(project)
        self.fitted, self.note, self.version = fitted, note, version
        self._waiting: list[Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        try:
            self.contract = Contract(project, note["columns"])
            self.output, self.example, expected = note["output"], note["example"]["row"], noted_prediction(note)
        except KeyError as key:
            raise ProjectError(f"the hand-off note has no {key}: hand the model over again") from None
        given = np.asarray(self.compute([self.example_row()])[0])
        if given.shape != expected.shape or not np.allclose(given, expected, rtol=1e-6, atol=1e-9):
            raise Refused(f"the note's example gives {given}, the note says {expected}: {self.differences()}")

    def compute(self, rows: list[Row]) -> np.ndarray:
        """Return the predictions for parsed ROWS, shape (n_rows,) or (n_rows, n_classes); raises ValueError when one is no number."""
        predicted = self.project.model.predict(self.fitted, self.project.features.build(self.contract.table(rows)))
        if not np.isfinite(predicted).all():
            raise ValueError(f"version {self.version} has no finite prediction for a row")  # which no log may hold
        return predicted

    async def predict(self, rows: list[Row]) -> list[Any]:
        """Return the predictions for ROWS, made off the event loop and together with those that wait meanwhile.

        Most of the time a prediction takes is the same for one row and for a hundred.
        """
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def answer(self, rows: list[Row]) -> dict[str, Any]:
        """Return the body of the response to ROWS, but for the request id."""
        return {"output": self.output, **self.worded(await self.predict(rows)), "model_version": self.version}

    @property
    def classes(self) -> list[Any]:
        """The labels between which it chooses; empty where a prediction is one number."""
        return self.note.get("classes", [])

    def worded(self, predicted: list[Any]) -> dict[str, Any]:
        """Return PREDICTED, a number or a probability a class each, as callers get it."""
        if not self.classes:
            return {"predictions": predicted}
        labels = [self.classes[max(range(len(row)), key=row.__getitem__)] for row in predicted]
        names = [probability_of(self.output, name) for name in self.classes]
        return {"predictions": labels, "probabilities": [dict(zip(names, row, strict=True)) for row in predicted]}

    def describe(self) -> dict[str, Any]:
        """Return what /model says: version, contract, metrics and the libraries then and now."""
        told = {key: value for key, value in self.note.items() if key != "contact"}  # a person, not for every caller
        return {"version": self.version, **told, "running": running()}

    def example_row(self) -> Row:
        """Return the note's example as a request would bring it."""
        try:
            return self.contract.parse(json.dumps(self.example).encode())[0]
        except Unanswerable as error:
            raise ProjectError(f"the note's example breaks its own contract: {error}") from None

    def differences(self) -> str:
        then, now = self.note.get("libraries", {}), running()
        changed = [f"{name} {then[name]} then, {now[name]} now" for name in then if then[name] != now.get(name)]
        return "; ".join(changed) or "features.py or model.py changed since; hand the model over again"

    async def computed(self, rows: list[Row]) -> np.ndarray:
        """Return `compute` of ROWS, off the event loop."""
        return await asyncio.to_thread(self.compute, rows)

    async def _work(self) -> None:
        while self._waiting:
            batch = [self._waiting.pop(0)]
            n_rows = len(batch[0][0])
            while self._waiting and (n_rows := n_rows + len(self._waiting[0][0])) <= MAX_BATCH:
                batch.append(self._waiting.pop(0))
            await self._settle(batch)
        self._worker = None

    async def _settle(self, batch: list[Waiting]) -> None:
        together = [row for rows, _ in batch for row in rows]
        try:
            predicted = await self.computed(together)
            if len(predicted) != len(together):
                raise ValueError(f"version {self.version} gives {len(predicted)} predictions for {len(together)} rows")
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            if len(batch) > 1:  # the rows of one request must not fail the others
                for one in batch:
                    await self._settle([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        values = iter(predicted.tolist())
        for rows, answer in batch:
            part = [next(values) for _ in rows]
            if not answer.done():  # whoever asked may have given up
                answer.set_result(part)


def resolve(project: Project, uri: str) -> Servable:
    """Return the model that URI names: a file, or whatever a module with that SCHEME opens."""
    module, pinned = opener(project, uri), pin(project, uri)
    servable = module.resolve(project, pinned) if module else open_file(project, project.path(uri))
    servable.uri, servable.pinned = uri, pinned
    return servable


def check(project: Project, uri: str) -> None:
    """Raise ProjectError when it is plain that URI names no model: opens nothing, and takes no slow library."""
    module = opener(project, uri)
    if module is None:
        check_handed_over(project.path(uri))
    elif hasattr(module, "check"):
        module.check(project, uri)


def pin(project: Project, uri: str) -> str:
    """Return what URI stands for at this moment, as a URI that stands for it for ever."""
    module = opener(project, uri)
    return module.pin(project, uri) if module and hasattr(module, "pin") else uri


def opener(project: Project, uri: str) -> ModuleType | None:
    """Return the module that opens URI; None: it is a file."""
    scheme = re.match(r"([a-z][a-z0-9+]+):", uri)  # two letters or more: C:\model.skops is a file
    if not scheme:
        return None
    openers = levels.registered(project, "openers")
    if scheme[1] not in openers:
        raise ProjectError(f"--model is {uri}: nothing here opens {scheme[1]}: models, give a file")
    return levels.load(openers[scheme[1]])


def open_file(project: Project, file: Path) -> Servable:
    """Return the model in FILE, whose note must be about this very file; its version is the start of its sha256."""
    fitted, note = load(project, file), read_note(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != note.get("sha256"):
        raise Refused(f"{file} is not the file that the note beside it describes (sha256 differs): hand it over again")
    return Servable(project, fitted, note, digest[:12])


def running() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}
