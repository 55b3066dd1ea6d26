"""Rows from whatever file or request, in the types that they had in training; a registered version carries this module."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import ProjectError

ZONE = r"[T ]\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"  # at the end of an ISO 8601 time; in training times have none
TRUTH = {"True": True, "true": True, "False": False, "false": False}
KINDS = {
    "number": "a finite number",
    "time": "a time without a zone, such as 2013-07-04T10:00",
    "boolean": "true or false",
    "category": "text",
    "text": "text",
}


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


def as_answers(note: dict[str, Any], predicted: np.ndarray) -> pd.DataFrame:
    """Return what is answered to each row: PREDICTED under its name or, of several classes, the label and a probability a class."""
    output, classes = note["output"], note.get("classes", [])
    if not classes:
        return pd.DataFrame({output: predicted})
    likeliest = pd.Series(classes, dtype="object").iloc[predicted.argmax(axis=1)].reset_index(drop=True)
    each = {probability_of(output, name): predicted[:, at] for at, name in enumerate(classes)}
    return pd.DataFrame({output: likeliest, **each})


def as_predictions(note: dict[str, Any], answers: pd.DataFrame) -> np.ndarray:
    """Return what ANSWERS were made of, shape (n_rows,) or (n_rows, n_classes)."""
    if classes := note.get("classes", []):
        return answers[[probability_of(note["output"], name) for name in classes]].to_numpy("float64")
    return answers.iloc[:, 0].to_numpy()


def answered(answer: dict[str, Any]) -> list[Any]:
    """Return the predictions in the body of an ANSWER of the service: a number, or the probabilities of the classes, a row."""
    if "probabilities" in answer:
        return [list(each.values()) for each in answer["probabilities"]]
    return answer["predictions"]


def noted_prediction(note: dict[str, Any]) -> np.ndarray:
    """Return the prediction of the note's example, shape () or (n_classes,)."""
    example = note["example"]
    return np.array(
        list(example["probabilities"].values()) if note.get("classes") else example["prediction"], "float64"
    )


def probability_of(output: str, name: Any) -> str:
    """Return the column of the probability of class NAME."""
    return f"{output}_{name}"


def typed(table: pd.DataFrame, columns: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return TABLE's `columns` in the types they had in training.

    Raises ProjectError that names the column and the first row (0 is the first) that cannot be converted.
    """
    absent = [name for name in columns if name not in table]
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


MAX_LENGTH = 1_000  # characters of a text, unless SCHEMA says otherwise: names and codes are shorter, a flood is not
