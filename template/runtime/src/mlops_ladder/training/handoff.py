"""The hand-off: one model file and the note about what goes in and what comes out."""

import hashlib
import json
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from ..core.project import Project
from ..data import split
from ..data.rows import as_records

MODEL_FILE = Path("models/model.skops")
LIBRARIES = ("scikit-learn", "numpy", "pandas", "skops")


def hand_over(project: Project, fitted: Any, train: pd.DataFrame, held_out: pd.DataFrame, contact: str = "") -> Path:
    """Write models/model.skops and, beside it, HANDOFF.md; return the note's path."""
    project.path(MODEL_FILE).parent.mkdir(parents=True, exist_ok=True)
    project.model.save(fitted, project.path(MODEL_FILE))
    return write_note(project, project.path(MODEL_FILE), fitted, train, held_out, contact)


def write_note(
    project: Project,
    file: Path,
    fitted: Any,
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    contact: str = "",
    folder: Path | None = None,
    how: split.Split | None = None,
) -> Path:
    """Write the note about the model FILE into its folder, or into FOLDER; return its path.

    `held_out` are rows later than `train`, or those that HOW split off: the note carries their metrics and one of them as
    the example.
    """
    how = how or split.of(project)
    example = held_out[project.features.COLUMNS].head(1)
    trivial = project.model.baseline(train[project.data.TARGET], len(held_out))
    facts = {
        "model_file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "contact": contact or author(project),
        "problem": project.data.PROBLEM,
        "columns": {name: project.data.SCHEMA[name] for name in project.features.COLUMNS},
        "output": project.model.OUTPUT,
        "example": {
            "row": as_records(example)[0],
            "prediction": float(project.model.predict(fitted, project.features.build(example))[0]),
        },
        "split": how.facts,
        "trained_on": how.period(train),
        "held_out": how.period(held_out),
        "metrics": project.model.metrics(
            held_out[project.data.TARGET],
            project.model.predict(fitted, project.features.build(held_out[project.features.COLUMNS])),
        ),
        "baseline": project.model.metrics(held_out[project.data.TARGET], trivial),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    note = (folder or file.parent) / "HANDOFF.md"
    note.write_text(page(facts), encoding="utf-8")
    return note


def page(facts: dict[str, Any]) -> str:
    """Return the note as Markdown: tables for people, one JSON block for machines."""
    columns = [
        f"| {name} | {rule['type']} | {'yes' if rule.get('null') else 'no'} | {facts['example']['row'][name]} |"
        for name, rule in facts["columns"].items()
    ]
    measures = [f"| {name} | {value:.4f} | {facts['baseline'][name]:.4f} |" for name, value in facts["metrics"].items()]
    return "\n".join(
        [
            f"# Hand-off of {facts['model_file']}",
            "",
            f"Questions to {facts['contact']}. Only the author knows how the model came to be.",
            "",
            "| column in | type | may be missing | example |",
            "| --- | --- | --- | --- |",
            *columns,
            "",
            f"Out: `{facts['output']}`, {facts['example']['prediction']:.6f} for the example.",
            "",
            "| metric | model | baseline |",
            "| --- | --- | --- |",
            *measures,
            "",
            *measured_on(facts),
            "",
            "```json",
            json.dumps(facts, indent=2),
            "```",
            "",
        ]
    )


def measured_on(facts: dict[str, Any]) -> list[str]:
    """Return which rows the metrics are of, two lines."""
    n_train, n_held_out = (f"{facts[part]['rows']:,}" for part in ("trained_on", "held_out"))
    if facts["split"]["by"] == "time":
        period = f"{facts['held_out']['from']} to {facts['held_out']['to']}"
        return [f"Measured on {n_held_out} rows, {period},", f"all later than the {n_train} rows it was trained on."]
    column = facts["split"]["group"] or facts["split"]["column"]
    return [f"Measured on {n_held_out} rows that the hash of {column} picks,", f"none of the {n_train} of training."]


def author(project: Project) -> str:
    """Return who git says works here, or a request to fill it in."""
    try:
        names = [
            subprocess.run(
                ["git", "config", key], cwd=project.folder, capture_output=True, text=True, check=False
            ).stdout.strip()
            for key in ("user.name", "user.email")
        ]
    except OSError:  # no git here
        names = [""]
    return f"{names[0]} <{names[1]}>" if all(names) else "write your name and address here"
