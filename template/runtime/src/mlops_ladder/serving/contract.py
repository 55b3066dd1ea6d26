"""What a request must look like: the columns of the hand-off note as a validator, as JSON Schema and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaValidator, ValidationError, core_schema

from ..core.project import Project
from ..data.rows import MAX_LENGTH

Row = dict[str, Any]
DTYPES = {"number": "float64", "time": "datetime64[us]"}  # as data/rows.py gives; the rest stays object


class Unanswerable(Exception):
    """A request at fault: the HTTP status, one line that says why and, for 422, each cell that is wrong."""

    def __init__(self, status: int, error: str, problems: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(error)
        self.status, self.error, self.problems = status, error, list(problems)


class Schema(GenerateJsonSchema):
    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> dict[str, Any]:
        """Return the schema of a time without a zone, for which JSON Schema has no format."""
        date, clock = (
            r"[12]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
            r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?",
        )
        return {"type": "string", "pattern": f"^{date}T{clock}$", "description": "ISO 8601 without a zone"}


class Contract:
    """Parses requests for a model whose note asks for COLUMNS.

    The other columns of SCHEMA that are known beforehand, such as the row's key, may be sent along: they are checked
    and kept in the row, and the model does not see them.
    """

    def __init__(self, project: Project, columns: dict[str, dict[str, Any]]) -> None:
        self.project = project
        self.columns = columns
        late = {project.data.TARGET, *project.data.LEAKS}
        fields = {
            name: core_schema.typed_dict_field(cell(rule), required=name in columns)
            for name, rule in (project.data.SCHEMA | columns).items()
            if name in columns or name not in late
        }
        self.row = core_schema.typed_dict_schema(fields, extra_behavior="forbid")
        # fail_fast: a body of nothing but wrong rows must not become millions of error objects
        self.rows = core_schema.list_schema(self.row, min_length=1, fail_fast=True)
        self._row, self._rows = SchemaValidator(self.row), SchemaValidator(self.rows)

    def parse(self, body: bytes) -> list[Row]:
        """Return the rows in BODY, a JSON object or a list of them; raises Unanswerable with 400 or 422."""
        try:
            if body.lstrip()[:1] == b"{":
                return [self._row.validate_json(body)]
            return self._rows.validate_json(body)
        except ValidationError as error:
            raise refusal(error) from None

    def table(self, rows: list[Row]) -> pd.DataFrame:
        """Return the model's columns of parsed ROWS, the same that `as_rows` makes of them, 20 times as fast."""
        return pd.DataFrame(
            {
                name: pd.Series(np.array([row[name] for row in rows], dtype=DTYPES.get(rule["type"], "object")))
                if rule["type"] in DTYPES
                else pd.Series([row[name] for row in rows], dtype="object")
                for name, rule in self.columns.items()
            }
        )

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one row."""
        return Schema().generate(self.row, mode="validation") | {"title": "Row"}


def cell(rule: dict[str, Any]) -> core_schema.CoreSchema:
    """Return the schema of one column's values; strict, so that no text becomes a number on the way."""
    schema: core_schema.CoreSchema
    if "values" in rule:
        schema = core_schema.literal_schema(rule["values"])
    elif rule["type"] == "number":
        bounds = {"ge": rule.get("min"), "le": rule.get("max")}
        schema = core_schema.float_schema(allow_inf_nan=False, strict=True, **bounds)
    elif rule["type"] == "time":  # without a zone, as in training
        schema = core_schema.datetime_schema(tz_constraint="naive", strict=True)
    elif rule["type"] == "boolean":
        schema = core_schema.bool_schema(strict=True)
    else:
        schema = core_schema.str_schema(strict=True, max_length=rule.get("max_length", MAX_LENGTH))
    return core_schema.nullable_schema(schema) if rule.get("null") else schema


def refusal(error: ValidationError) -> Unanswerable:
    """Return what to answer to a body that does not validate."""
    if error.error_count() > 100:  # nobody reads them, and listing them all would take seconds
        return Unanswerable(422, f"{error.error_count():,} cells are wrong: send the columns that /model lists")
    first, *_ = found = error.errors(include_url=False, include_context=False)
    if first["type"] == "json_invalid":
        return Unanswerable(400, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if not first["loc"]:  # about the list, not about a row in it
        return Unanswerable(422, "the body must be a row (an object) or a list of at least one row")
    problems = []
    for item in found:
        row = next((place for place in item["loc"] if isinstance(place, int)), 0)
        column = next((place for place in item["loc"] if isinstance(place, str)), None)
        problems.append({"row": row, "column": column, "problem": wording(item["type"], item["msg"], item["input"])})
    lines = [f"row {p['row']}: {p['column'] or 'it'} {p['problem']}" for p in problems[:3]]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return Unanswerable(422, "; ".join(lines) + more, problems)


def wording(kind: str, message: str, given: Any) -> str:
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is no column of this model"
    shown = json.dumps(given, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"is {shown}, {message.replace('Input should', 'must', 1)}"
