"""Check a model file against its hand-off note and the success criteria, before anybody builds on it.

python -m {package} check-handoff models/model.skops

Prints a line a check and exits 3 when one does not hold; what cannot be checked does not hold. The file is loaded only
when its checksum is the note's, and then only types that TRUSTED in model.py lists: nothing in it is run.
"""

import argparse
import json
import math
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import files
from ..core.errors import ProjectError, Refused
from ..core.project import Project
from ..data import joined, rows, split, store
from ..training import handoff, success
from . import score

CLOSE = 1e-6  # relative: other processors round otherwise, another model differs by more
CHECKS = ("note", "checksum", "libraries", "columns", "loads", "example", "rows", "metrics", "criteria")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the model file; its HANDOFF.md stands beside it")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if not options.file.is_file():
        raise ProjectError(f"there is no model file {options.file}: the notebook writes it, with its HANDOFF.md")
    results = check_handover(project, options.file)
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        for result in results:
            print(f"{'pass' if result['passed'] else 'REFUSED':<9}{result['check']:<11}{result['found']}")
    if refused := [result["check"] for result in results if not result["passed"]]:
        raise Refused(f"{options.file} does not hold ({', '.join(refused)}): ask the contact in its HANDOFF.md")


def check_handover(project: Project, file: Path) -> list[dict[str, Any]]:
    """Return, for each of CHECKS, whether it passed and what was found."""
    handover, results, reasons = Handover(project, file), [], set()
    for name in CHECKS:
        try:
            passed, found = True, getattr(handover, name)()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in a check, it was not passed
            passed, found = False, str(error)
            if not isinstance(error, ProjectError | FileNotFoundError):
                found = f"cannot be checked: {type(error).__name__}: {error}"
            if found in reasons:
                found = "not checked: it needs what was refused above"
            reasons.add(found)
        results.append({"check": name, "passed": passed, "found": found})
    return results


class Handover:
    """A model file with its note. A check returns what it found, or raises what does not hold."""

    def __init__(self, project: Project, file: Path) -> None:
        self.project = project
        self.file = file

    @cached_property
    def facts(self) -> dict[str, Any]:
        return rows.read_note(self.file)

    @cached_property
    def fitted(self) -> Any:
        self.checksum()
        return score.load(self.project, self.file)

    @cached_property
    def how(self) -> split.Split:
        """How the author split the rows; a note from before there was a choice is by time."""
        return split.read(self.project, self.facts.get("split", {}))

    @cached_property
    def train(self) -> pd.DataFrame:
        return self.gathered("trained_on")

    @cached_property
    def held_out(self) -> pd.DataFrame:
        return self.gathered("held_out")

    @cached_property
    def measured(self) -> dict[str, float]:
        inputs = self.project.features.build(self.held_out[self.project.features.COLUMNS])
        return self.project.model.metrics(
            self.held_out[self.project.data.TARGET], self.project.model.predict(self.fitted, inputs)
        )

    def gathered(self, which: str) -> pd.DataFrame:
        """Return the store's rows of one of the note's periods; raises Refused when there are fewer than it says."""
        noted = self.facts[which]
        rows = self.how.within(store.read_rows(self.project, store.read(self.project)), noted)
        if len(rows) < max(noted["rows"], 1):
            raise Refused(
                f"{which}: {len(rows):,} rows from {noted['from']} to {noted['to']} are in {store.read(self.project).raw}, "
                f"the note says {noted['rows']:,}; run `ingest`"
            )
        return rows

    def note(self) -> str:
        return f"written {self.facts['written']}, questions to {self.facts['contact']}"

    def checksum(self) -> str:
        sha256 = files.sha256(self.file)
        if sha256 != self.facts["sha256"]:
            raise Refused(f"sha256 is {sha256[:12]}..., the note says {self.facts['sha256'][:12]}...: not this file")
        return f"sha256 {sha256[:12]}..."

    def libraries(self) -> str:
        here = {name: version(name) for name in handoff.LIBRARIES}
        noted = {name: self.facts["libraries"][name] for name in here}
        other = [name for name in here if here[name].split(".")[:2] != noted[name].split(".")[:2]]
        if other:
            raise Refused("; ".join(f"{name} is {here[name]}, the note says {noted[name]}" for name in other))
        return ", ".join(f"{name} {number}" for name, number in here.items())

    def columns(self) -> str:
        mine = {name: self.project.data.SCHEMA[name] for name in self.project.features.COLUMNS}
        mine = json.loads(
            json.dumps({"problem": self.project.data.PROBLEM, "output": self.project.model.OUTPUT, **mine})
        )
        noted = {"problem": self.facts["problem"], "output": self.facts["output"], **self.facts["columns"]}
        other = [name for name in {**mine, **noted} if mine.get(name) != noted.get(name)]
        if other:
            raise Refused(f"the note and this code differ in {', '.join(other)}: check out the code of the note's day")
        return f"{len(self.project.features.COLUMNS)} in, {self.project.model.OUTPUT} out, as in data.py, features.py and model.py"

    def loads(self) -> str:
        return f"{type(self.fitted).__name__}, every type in it trusted"

    def example(self) -> str:
        noted = self.facts["example"]
        row = joined.as_rows(self.project, pd.DataFrame([noted["row"]]), self.facts["columns"])
        predicted = float(self.project.model.predict(self.fitted, self.project.features.build(row))[0])
        if not math.isclose(predicted, noted["prediction"], rel_tol=CLOSE):
            raise Refused(f"the note's example gives {predicted:.9g}, the note says {noted['prediction']:.9g}")
        return f"gives {predicted:.6f} again"

    def rows(self) -> str:
        kind = self.how.held_out
        if not self.how.position(self.train).max() < self.how.position(self.held_out).min():
            raise Refused(f"held-out rows are not {kind} than the training rows: the metrics say nothing")
        return f"{len(self.held_out):,} held out, {kind} than the {len(self.train):,} of training"

    def metrics(self) -> str:
        for name, value in self.facts["metrics"].items():
            same_rows = len(self.held_out) == self.facts["held_out"]["rows"]
            if same_rows and not math.isclose(self.measured[name], value, rel_tol=CLOSE):
                raise Refused(f"{name} is {self.measured[name]:.4f} on the held-out rows, the note says {value:.4f}")
        return ", ".join(f"{name} {value:.4f}" for name, value in self.measured.items())

    def criteria(self) -> str:
        truth, criteria = self.held_out[self.project.data.TARGET], success.read(self.project)
        baseline = self.project.model.metrics(
            truth, self.project.model.baseline(self.train[self.project.data.TARGET], len(truth))
        )
        if missed := success.missed_criteria(self.project, self.measured, baseline, criteria):
            raise Refused("; ".join(missed))
        return ", ".join(f"{name} (baseline {baseline[name]:.4f})" for name in criteria) + " as conf/success.yml asks"
