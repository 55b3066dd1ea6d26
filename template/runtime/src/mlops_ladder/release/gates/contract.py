"""Does it take what its consumers send and give what they read? Each contracts/*.json is what one of them relies on."""

import json
from pathlib import Path
from typing import Any

from ...core.project import Project
from ...data.problem import problem_of
from ...data.rows import MAX_LENGTH
from ...serving.contract import Contract
from ..judgement import Candidate, Finding, Release

CONTRACTS = Path("contracts")
ABSENT = "no contracts/*.json: `export-contract` writes one, agree on it with who calls the model"
Schema = dict[str, Any]


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    mine, findings = offered(candidate.project, candidate.note["columns"], candidate.note["output"]), []
    for file in sorted(candidate.project.path(CONTRACTS).glob("*.json")):
        broken = breaks(json.loads(file.read_text(encoding="utf-8")), mine)
        told = "; ".join(broken) or f"{len(mine['input']['properties'])} columns and the prediction fit"
        findings.append(Finding("contract", file.name, not broken, told, "what its consumers send and read, all of it"))
    return findings or [Finding("contract", "consumers", False, ABSENT, "agreed with at least one consumer")]


def offered(project: Project, columns: dict[str, dict[str, Any]], output: str) -> Schema:
    """Return the JSON Schemas of a row in and of a prediction out."""
    row = Contract(project, columns).json_schema()
    given = problem_of(project).answer_schema(output)
    prediction = {"type": "object", "properties": given, "required": list(given)}
    return {"input": {key: row[key] for key in ("type", "properties", "required")}, "output": prediction}


def breaks(consumer: Schema, mine: Schema) -> list[str]:
    """Return why a consumer of contract CONSUMER cannot work with MINE, a sentence each."""
    sent, taken = consumer["input"], mine["input"]
    read, given = consumer["output"]["properties"], mine["output"]["properties"]
    return [
        *(f"{name} is sent and no longer taken" for name in sent["properties"] if name not in taken["properties"]),
        *(f"{name} is needed and may be left out" for name in taken["required"] if name not in sent["required"]),
        *(
            f"{name} takes less than is sent: {short(taken['properties'][name])} instead of {short(schema)}"
            for name, schema in sent["properties"].items()
            if name in taken["properties"] and not within(schema, taken["properties"][name])
        ),
        *(f"{name} is read and no longer given" for name in read if name not in given),
        *(
            f"{name} gives more than is expected: {short(given[name])} instead of {short(schema)}"
            for name, schema in read.items()
            if name in given and not within(given[name], schema)
        ),
    ]


def within(inner: Schema, outer: Schema) -> bool:
    """Return whether each value that INNER allows is one that OUTER allows, for the schemas that a contract is made of."""
    return all(any(covers(wide, narrow) for wide in alternatives(outer)) for narrow in alternatives(inner))


def alternatives(schema: Schema) -> list[Schema]:
    """Return the schemas of which a value must fulfil one; a fixed value is an alternative of its own."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values is not None:
        return [{"const": value} for value in values]
    return schema.get("anyOf", [schema])


def covers(wide: Schema, narrow: Schema) -> bool:
    if "const" in narrow:
        value = narrow["const"]
        kind = {str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
        narrow = {"type": kind, "minimum": value, "maximum": value} if kind == "number" else {"type": kind}
        narrow |= {"maxLength": len(value)} if kind == "string" else {}
        if "const" in wide:
            return wide["const"] == value
    kinds = {narrow["type"], "number" if narrow["type"] == "integer" else narrow["type"]}
    return (
        wide.get("type") in kinds
        and wide.get("pattern") in (None, narrow.get("pattern"))
        and narrow.get("minimum", float("-inf")) >= wide.get("minimum", float("-inf"))
        and narrow.get("maximum", float("inf")) <= wide.get("maximum", float("inf"))
        and narrow.get("maxLength", MAX_LENGTH) <= wide.get("maxLength", float("inf"))  # none: of before there was one
    )


def short(schema: Schema) -> str:
    return json.dumps({key: value for key, value in schema.items() if key not in ("title", "description")})
