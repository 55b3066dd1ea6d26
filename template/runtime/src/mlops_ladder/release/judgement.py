"""The gates: each module here judges one side of a version before it is released. A later level, or you, adds a module.

A gate has `check(candidate, limits) -> list[Finding]`. It is found, and conf/release.yml names those that must be there.
Gates fail closed: an exception, a file that is missing, no rows to judge by or nothing found out is a refusal.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field

from ..core import levels, progress
from ..core.errors import ProjectError
from ..core.project import Project
from ..core.settings import Settings
from ..data import data_sets, versions
from ..data.rows import as_predictions
from ..training import pipeline, recording, stages, tracking
from ..training.success import Criterion
from . import environments

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORTS = Path("models/gates")  # a folder a version: gates.html, gates.json and, where it is as good, model.onnx


@dataclass(frozen=True)
class Finding:
    """What a gate found out about one thing, and the limit that it was held against."""

    gate: str
    what: str
    passed: bool
    found: str
    limit: str

    def __str__(self) -> str:
        return f"{self.gate}: {self.what}: {self.found}, must be {self.limit}"

    @classmethod
    def not_declared(cls, gate: str, where: str) -> Finding:
        """Return what a gate finds that has nothing to judge, as the project declares nothing in WHERE: it passes."""
        return cls(gate, "declared", True, f"not declared: {where} names none", "judged when it is")


class Gain(Settings, frozen=True):
    measured: float
    surely: float


class Quality(Settings, frozen=True):
    rows: int = Field(gt=1)
    resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    over_champion: dict[str, Gain] = Field(min_length=1)


class Slices(Settings, frozen=True):
    rows: int = Field(gt=1)
    metrics: dict[str, Criterion] = Field(min_length=1)


class Behaviour(Settings, frozen=True):
    rows: int = Field(gt=0)
    invariance: float = Field(gt=0, le=1)
    direction: float = Field(gt=0, le=1)
    minimum: float = Field(gt=0, le=1)


class Fairness(Settings, frozen=True):
    rows: int = Field(gt=1)
    decide: float
    differences: dict[str, float] = Field(min_length=1)


class Parity(Settings, frozen=True):
    rows: int = Field(gt=0)
    served: float = Field(ge=0)
    fast_path: float = Field(ge=0)


class Footprint(Settings, frozen=True):
    file_mb: float
    memory_mb: float
    p99_ms: float


class Release(Settings, frozen=True):
    """conf/release.yml"""

    gates: list[str] = Field(min_length=1)
    quality: Quality
    slices: Slices
    behaviour: Behaviour
    fairness: Fairness
    parity: Parity
    footprint: Footprint


@dataclass(frozen=True)
class Champion:
    version: str
    predicted: np.ndarray  # for each row of the candidate's `rows`, as `Candidate.predict` gives it
    unseen: np.ndarray  # which of these rows it cannot have been trained on


class Candidate:
    """A registered version with all that it is judged by. Each part is read on first use; what is absent raises."""

    def __init__(self, project: Project, client: MlflowClient, name: str, version: str) -> None:
        self.project = project
        self.client, self.name, self.version = client, name, version
        self.folder = project.path(REPORTS) / version

    @cached_property
    def run(self) -> Any:
        return self.client.get_run(tracking.find_version(self.client, self.name, self.version).run_id)

    @cached_property
    def opened(self) -> Any:
        """The version as training/registered.py opens it: its model and note, and the features.py and model.py it came with."""
        return tracking.open_version(self.client, self.name, self.version)

    @property
    def note(self) -> dict[str, Any]:
        return self.opened.note

    @property
    def columns(self) -> list[str]:
        return list(self.note["columns"])

    @cached_property
    def file(self) -> Path:
        """The model file, its note beside it."""
        return tracking.download(self.client, self.name, self.version) / self.note["model_file"]

    @cached_property
    def splits(self) -> dict[str, pd.DataFrame]:
        """The rows of train, validation and test, out of the data version that the run names, as it cut them."""
        facts = json.loads(tracking.read_artifact(self.client, self.run, "split.json"))
        with tempfile.TemporaryDirectory() as folder:
            versions.restore(self.project, self.run.data.tags["data"].partition("@")[2], Path(folder))
            return stages.cut(self.project, data_sets.read(self.project, Path(folder)), facts)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The held-out rows, one or more."""
        rows = self.splits["test"].reset_index(drop=True)
        if rows.empty:
            raise ProjectError("there are no held-out rows to judge by")
        return rows

    @property
    def truth(self) -> pd.Series:
        return self.rows[self.project.data.TARGET]

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Return the predictions for raw ROWS, prepared by the version's own code, shape (n_rows,) or (n_rows, n_classes)."""
        return predict(self.opened, rows)

    @cached_property
    def predicted(self) -> np.ndarray:
        return self.predict(self.rows)

    @cached_property
    def baseline(self) -> np.ndarray:
        return self.project.model.baseline(self.splits["train"][self.project.data.TARGET], len(self.rows))

    @cached_property
    def champion(self) -> Champion | None:
        """The version in use, predicting the candidate's held-out rows; None before the first release."""
        version = in_use(self.project) or tracking.aliases(self.client, self.name).get("champion")
        if not version:
            return None
        run = self.client.get_run(tracking.find_version(self.client, self.name, version).run_id)
        opened = tracking.open_version(self.client, self.name, version)
        if opened.note.get("classes") != self.note.get("classes"):
            raise ProjectError(
                f"champion {version} chooses between other classes: give this model another name, model in conf/training.yml"
            )
        learned_by = recording.split_of(self.project, self.client, run)
        unseen = learned_by.unseen(self.rows, *self.splits.values())
        return Champion(version, predict(opened, self.rows), unseen)

    def some(self, n_rows: int) -> pd.DataFrame:
        """Return up to N_ROWS held-out rows, the same ones each time."""
        return self.rows.sample(min(n_rows, len(self.rows)), random_state=0).reset_index(drop=True)

    def odd(self) -> pd.DataFrame:
        """Return rows as callers may send them but seldom do: values missing, one column and all, and unseen categories."""
        base, rules = self.some(3)[self.columns].astype("object"), self.note["columns"]
        optional = [name for name, rule in rules.items() if rule.get("null")]
        free = [name for name, rule in rules.items() if rule["type"] == "category" and "values" not in rule]
        changes: list[dict[str, Any]] = [{name: None} for name in optional]
        changes += [{name: "never seen"} for name in free]
        changes += [dict.fromkeys(optional), {**dict.fromkeys(free, "never seen"), **dict.fromkeys(optional)}]
        return pd.concat([base.assign(**change) for change in changes if change] or [base], ignore_index=True)


def in_use(project: Project, environment: str = "prod") -> str | None:
    """Return the version that ENVIRONMENT uses; None before the first deployment: then `promote` says which it is."""
    chosen = environments.settings_of(project, environment)
    if pipeline.lost_store(project, chosen):  # and so there never was one: opening it would make it
        return None
    _, client = environments.open_store(project, environment)
    copy = environments.find_copy(client, chosen.model, None)
    return copy.tags["origin_version"] if copy else None


def predict(opened: Any, rows: pd.DataFrame) -> np.ndarray:
    return as_predictions(opened.note, opened.predict(None, rows[list(opened.note["columns"])]))


def gate_names(project: Project) -> list[str]:
    """Return the names of the gates: those of the levels and, in src/PACKAGE/gates/, the user's."""
    return sorted({*levels.registered(project, "gates"), *own_gates(project)})


def own_gates(project: Project) -> list[str]:
    """Return the names of the user's gates: the modules in src/PACKAGE/gates/."""
    return [file.stem for file in (project.source / "gates").glob("[!_]*.py")]


def load_gate(project: Project, name: str) -> ModuleType:
    """Return the module of gate NAME; the runtime's goes before one of the user's."""
    registered = levels.registered(project, "gates")
    if name not in registered and name not in own_gates(project):
        raise ProjectError(
            f"there is no gate {name}: conf/release.yml names it; there are {', '.join(gate_names(project))}"
        )
    return levels.load(registered[name]) if name in registered else project.module(f"gates.{name}")


def question_of(project: Project, name: str) -> str:
    """Return what gate NAME asks of a version, in words: how its module begins; "" where it says nothing."""
    try:
        return (load_gate(project, name).__doc__ or "").strip().partition("\n")[0]
    except Exception:  # noqa: BLE001 - what is wrong with it stands among the findings
        return ""


def run_gates(candidate: Candidate, limits: Release) -> list[Finding]:
    """Return what each gate found; a gate that cannot judge refuses."""
    findings: list[Finding] = []
    names = [*dict.fromkeys([*limits.gates, *gate_names(candidate.project)])]
    for name in progress.Steps("gates", len(names)).over(names):
        try:
            told = load_gate(candidate.project, name).check(candidate, limits)
            told = told or [Finding(name, "the gate", False, "found out nothing", "able to judge")]
            findings += [replace(one, passed=bool(one.passed)) for one in told]
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nothing was shown to hold
            said = str(error) if isinstance(error, ProjectError) else f"{type(error).__name__}: {error}"
            findings.append(Finding(name, "the gate", False, f"not judged: {' '.join(said.split())}", "able to judge"))
    return findings
