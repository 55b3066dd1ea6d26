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
from ..data.problem import problem_of
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
) -> Path:
    """Write the note about the model FILE into its folder, or into FOLDER; return its path.

    `held_out` are rows later than `train`: the note carries their metrics and one of them as the example.
    """
    problem, example = problem_of(project), held_out[project.features.COLUMNS].head(1)
    predicted = problem.checked(project.model.predict(fitted, project.features.build(example)), 1)
    trivial = project.model.baseline(train[project.data.TARGET], len(held_out))
    facts = {
        "model_file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "contact": contact or author(project),
        "problem": project.data.PROBLEM,
        "columns": {name: project.data.SCHEMA[name] for name in project.features.COLUMNS},
        "output": project.model.OUTPUT,
        **({"classes": problem.classes} if problem.classes else {}),
        "example": {"row": as_records(example)[0], **problem.noted(predicted[0])},
        "trained_on": period(project, train),
        "held_out": period(project, held_out),
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
            f"Out: `{facts['output']}`, {shown(facts['example'])} for the example.",
            "",
            "| metric | model | baseline |",
            "| --- | --- | --- |",
            *measures,
            "",
            f"Measured on {facts['held_out']['rows']:,} rows, {facts['held_out']['from']} to {facts['held_out']['to']},",
            f"all later than the {facts['trained_on']['rows']:,} rows it was trained on.",
            "",
            "```json",
            json.dumps(facts, indent=2),
            "```",
            "",
        ]
    )


def shown(example: dict[str, Any]) -> str:
    """Return the example's prediction for people."""
    if "probabilities" not in example:
        return f"{example['prediction']:.6f}"
    each = ", ".join(f"`{name}` {value:.6f}" for name, value in example["probabilities"].items())
    return f"{example['prediction']} ({each})"


def period(project: Project, rows: pd.DataFrame) -> dict[str, Any]:
    return {"from": str(rows[project.data.TIME].min()), "to": str(rows[project.data.TIME].max()), "rows": len(rows)}


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
