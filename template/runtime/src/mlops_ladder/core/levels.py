"""What a level adds to the runtime, each thing by its name; levels/level_N.py says it for level N."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from .project import Project

N_LEVELS = 5
# Which level brings a command, so that each level can say where to find one that it has not.
COMMANDS = {
    0: "adopt maturity score",
    1: "check-handoff ingest prepare serve",
    2: "datasets notify promote reproduce runs train tune validate",
    3: "approve audit-pack catalog deploy deploy-pipeline explain export-contract feature-tables gate keys lineage on-register "
    "policy replicate-data rollback run-pipeline score-batch share uptime",
    4: "audit dashboard drift experiment feedback forget impact monitor on-alert portfolio prediction-log retention retrain "
    "sign simulate stream-features",
}


@dataclass(frozen=True)
class Level:
    """Names, and the modules of the runtime that they stand for, such as {"train": "training.train"}.

    commands    module with `run(project, options)` and, if it takes options, `arguments(parser)`; with `check(project, options)`
                what can be refused at once, before slow libraries load
    gates       module with `check(candidate, limits) -> list[Finding]`
    openers     by the scheme of a model URI: module with `resolve(project, uri) -> Servable`; where such a URI can come to
                mean another model, `pin(project, uri) -> str`, and `check(project, uri)` as a command has it
    data_sets   module with `make(project, store)`, which makes the data set of that name
    sieves      modules with `sieve(project, store, file) -> int`: takes out of a file that is about to be gathered what must not
                be, and returns how many rows
    extensions  modules with `extend(app, service)`, called once before the service starts, in this order
    verifiers   modules with `verify(project, client, name, version, folder) -> dict`: raises Refused when a registered version
                must not be opened, else what it returns stands in /model
    hasteners   modules with `hasten(servable, client, name, version) -> Servable`: a faster way of computing a version
    listeners   modules with `heard(project, action, facts)`, called just before ACTION is done; what it raises stops that
    """

    number: int
    commands: dict[str, str] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)
    openers: dict[str, str] = field(default_factory=dict)
    data_sets: dict[str, str] = field(default_factory=dict)
    sieves: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    verifiers: tuple[str, ...] = ()
    hasteners: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()


def installed(project: Project) -> Iterator[Level]:
    """Yield the levels of PROJECT, lowest first: those that are here, up to its own."""
    for number in range((N_LEVELS - 1 if project.level is None else project.level) + 1):
        try:
            yield importlib.import_module(f"mlops_ladder.levels.level_{number}").LEVEL
        except ModuleNotFoundError as error:
            if error.name != f"mlops_ladder.levels.level_{number}":
                raise


def registered(project: Project, kind: str) -> dict[str, str]:
    """Return what the levels of PROJECT registered as KIND ("commands", "gates" ...): {name: module}."""
    return {name: module for level in installed(project) for name, module in getattr(level, kind).items()}


def modules(project: Project, kind: str) -> Iterator[ModuleType]:
    """Yield the modules that the levels of PROJECT list as KIND ("extensions", "listeners" ...), imported, in that order."""
    for level in installed(project):
        yield from map(load, getattr(level, kind))


def load(module: str) -> Any:
    """Return module MODULE of the runtime, such as "training.train", imported on first use."""
    return importlib.import_module(f"mlops_ladder.{module}")
