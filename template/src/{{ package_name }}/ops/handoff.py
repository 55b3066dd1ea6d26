"""The hand-off: one model file and the note about what goes in and what comes out."""

import hashlib
import json
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import data, features, model
from . import ProjectError, find_tables

MODEL_FILE = Path("models/model.skops")
ZONE = r"[T ]\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"  # at the end of an ISO 8601 time; in training times have none
TRUTH = {"True": True, "true": True, "False": False, "false": False}
KINDS = {
    "number": "a finite number",
    "time": "a time without a zone, such as 2013-07-04T10:00",
    "boolean": "true or false",
    "category": "text",
    "text": "text",
}
LIBRARIES = ("scikit-learn", "numpy", "pandas", "skops")


def hand_over(fitted: Any, train: pd.DataFrame, held_out: pd.DataFrame, contact: str = "") -> Path:
    """Write models/model.skops and, beside it, HANDOFF.md; return the note's path."""
    MODEL_FILE.parent.mkdir(parents=True, exist_ok=True)
    model.save(fitted, MODEL_FILE)
    return write_note(MODEL_FILE, fitted, train, held_out, contact)


def write_note(
    file: Path, fitted: Any, train: pd.DataFrame, held_out: pd.DataFrame, contact: str = "", folder: Path | None = None
) -> Path:
    """Write the note about the model FILE into its folder, or into FOLDER; return its path.

    `held_out` are rows later than `train`: the note carries their metrics and one of them as the example.
    """
    example = held_out[features.COLUMNS].head(1)
    trivial = model.baseline(train[data.TARGET], len(held_out))
    facts = {
        "model_file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "contact": contact or author(),
        "problem": data.PROBLEM,
        "columns": {name: data.SCHEMA[name] for name in features.COLUMNS},
        "output": model.OUTPUT,
        "example": {
            "row": as_records(example)[0],
            "prediction": float(model.predict(fitted, features.build(example))[0]),
        },
        "trained_on": period(train),
        "held_out": period(held_out),
        "metrics": model.metrics(
            held_out[data.TARGET], model.predict(fitted, features.build(held_out[features.COLUMNS]))
        ),
        "baseline": model.metrics(held_out[data.TARGET], trivial),
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
            f"Measured on {facts['held_out']['rows']:,} rows, {facts['held_out']['from']} to {facts['held_out']['to']},",
            f"all later than the {facts['trained_on']['rows']:,} rows it was trained on.",
            "",
            "```json",
            json.dumps(facts, indent=2),
            "```",
            "",
        ]
    )


def read_note(model_file: Path) -> dict[str, Any]:
    """Return the facts in the HANDOFF.md beside MODEL_FILE; raises ProjectError when there is none to read."""
    note = Path(model_file).with_name("HANDOFF.md")
    if not note.is_file():
        raise ProjectError(f"no {note}: run the notebook to its end, it writes the model and this note")
    try:
        block = re.search(r"```json\n(.*?)\n```", note.read_text(encoding="utf-8"), re.DOTALL)
        facts = json.loads(block[1] if block else "")
        facts["columns"], facts["output"], facts["example"]
    except (ValueError, LookupError, TypeError):
        raise ProjectError(
            f"{note} has no JSON block with columns, output and example: run the notebook again"
        ) from None
    return facts


def as_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON-ready dicts: times in ISO 8601, missing values as None."""
    return json.loads(rows.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15))


def as_rows(table: pd.DataFrame, columns: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return TABLE's `columns` in the types they had in training, whatever file or request they came from.

    Those that it has not are joined from the feature tables, as for training. Raises ProjectError that names the column and the first row (0 is the first) that cannot be converted.
    """
    if (absent := [name for name in columns if name not in table]) and (tables := find_tables()):
        table = tables.fill(table, absent)
        absent = [name for name in absent if name not in table]
    if absent:
        raise ProjectError(f"column {', '.join(absent)} is missing: there are {', '.join(map(str, table))}")
    rows = pd.DataFrame(index=table.index)
    for name, rule in columns.items():
        given = table[name]
        rows[name] = as_kind(given, rule)
        wrong = rows[name].isna() & (given.notna() | (not rule.get("null", False)))
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            shown = "missing" if given.isna().iloc[row] else repr(given.astype("object").iloc[row])
            raise ProjectError(f"row {row}: {name} is {shown}, must be {KINDS[rule['type']]}; mend the row")
    return rows


def as_kind(given: pd.Series, rule: dict[str, Any]) -> pd.Series:
    """Return GIVEN in the type that RULE asks for; what is not of that kind becomes missing."""
    if rule["type"] == "number":
        if pd.api.types.is_bool_dtype(given) or given.dtype == "object":  # True is no number, though it counts as 1
            given = given.astype("object").mask(given.map(lambda cell: isinstance(cell, bool | np.bool_)).astype(bool))
        numbers = pd.to_numeric(given, errors="coerce").astype("float64")
        return numbers.where(np.isfinite(numbers))
    if rule["type"] == "time":
        text = given.astype("str")
        return pd.to_datetime(text.mask(text.str.contains(ZONE)), errors="coerce", format="ISO8601").astype(
            "datetime64[us]"
        )
    values, cells = rule.get("values", []), given.astype("object")
    if rule["type"] == "boolean":  # as text where a CSV file has one cell that is neither
        truth = cells.map(lambda cell: cell if isinstance(cell, bool) else TRUTH.get(str(cell)))
        return truth.astype("object")  # as in a request, whether or not a value is missing
    return cells.where(cells.map(lambda cell: isinstance(cell, str) or cell in values).astype(bool), None)


def period(rows: pd.DataFrame) -> dict[str, Any]:
    return {"from": str(rows[data.TIME].min()), "to": str(rows[data.TIME].max()), "rows": len(rows)}


def author() -> str:
    """Return who git says works here, or a request to fill it in."""
    try:
        names = [
            subprocess.run(["git", "config", key], capture_output=True, text=True, check=False).stdout.strip()
            for key in ("user.name", "user.email")
        ]
    except OSError:  # no git here
        names = [""]
    return f"{names[0]} <{names[1]}>" if all(names) else "write your name and address here"
