"""Check the gathered rows against SCHEMA and conf/validation.yml: bad data is refused before it trains anything.

python -m {package} validate
python -m {package} validate --file data/raw/flights-2013-12.parquet --as-of 2014-01-10
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pydantic

from ..core import pages, settings
from ..core.errors import ProjectError, Refused, UsageError
from ..core.nearest import check_file
from ..core.project import Project
from ..core.redaction import redact, redacted
from . import data_sets, split, store
from .joined import find_tables
from .problem import problem_of
from .rows import MAX_LENGTH

PIPELINE_REPORT = Path("data/pipeline/validation.html")  # what dvc.yaml says this stage writes, and .json beside it
Schema = dict[str, dict[str, Any]]
HELD_AS = {  # a type's columns, or the single values of a column of objects, as `as_held` has them
    "text": ["StringDtype", "str"],
    "category": ["StringDtype", "str"],
    "boolean": ["bool"],
    "time": ["datetime64[ns]", "datetime64[us]", "Timestamp"],
    "number": ["int64", "float64", "int", "float"],
}
OTHERS = ("commands", "gates")  # folders of your package that make no rows
LIMITS = "conf/validation.yml"
LARGEST = 1.7e308  # what is beyond is infinite


class Validation(settings.Settings, frozen=True):
    min_rows: pydantic.NonNegativeInt
    max_rows: pydantic.PositiveInt
    max_missing: float = pydantic.Field(ge=0, le=1)
    max_repeated: float = pydantic.Field(1, ge=0, le=1)  # 1: not looked at, a file that came twice shows by its keys
    as_of: Literal["newest", "today"]
    max_age_days: pydantic.PositiveFloat
    examples: pydantic.PositiveInt


class Column(settings.Settings, strict=True, frozen=True):
    """What SCHEMA may say about a column."""

    type: Literal["text", "category", "number", "time", "boolean"]
    values: list[str | float] | None = pydantic.Field(None, min_length=1)
    min: float = -LARGEST
    max: float = LARGEST
    max_length: int = pydantic.Field(MAX_LENGTH, ge=1)
    null: bool = False
    unique: bool = False

    @pydantic.model_validator(mode="after")
    def bounds_fit(self) -> Column:
        if self.type != "number" and self.model_fields_set & {"min", "max"}:
            raise ValueError(f"min and max are for a number, not for a {self.type}")
        if (self.type not in ("text", "category") or self.values) and "max_length" in self.model_fields_set:
            raise ValueError(f"max_length is for text and category without values, not for this {self.type}")
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


@dataclass(frozen=True)
class Check:
    """One expectation and what came of it; `examples` are rows against it by position (0 is the first) and key."""

    column: str
    rule: str  # follows "must"
    expectation: str
    passed: bool
    found: str
    count: int = 0  # rows against it
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n    ".join([f"{self.column} must {self.rule}: {self.found} ({self.expectation})", *self.examples])


@dataclass(frozen=True)
class Report:
    source: str
    rows: int
    as_of: str
    checks: list[Check]
    code: str  # hash of the code that made the rows

    @property
    def breaches(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    def __str__(self) -> str:
        n, of = len(self.breaches), len(self.checks)
        outcome = f"{n} of {of} expectations do not hold" if n else f"all {of} expectations hold"
        return f"{outcome} on {self.rows:,} rows of {self.source}, as of {self.as_of}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, help="check this one file of raw rows (default: all that is gathered)")
    parser.add_argument("--as-of", type=timestamp, help="what now is: no row later, none too old (default: conf)")
    parser.add_argument("--report", type=Path, default=Path("data/validation.html"), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the report as JSON for machines")


def timestamp(text: str) -> pd.Timestamp:
    return pd.Timestamp(text)


def check(project: Project, options: argparse.Namespace) -> None:
    if options.file:
        check_file(options.file, error=UsageError)


def run(project: Project, options: argparse.Namespace) -> None:
    check_schema(project, project.data.SCHEMA)
    limits = settings.read(project, "validation", Validation)
    with tempfile.TemporaryDirectory() as alone:  # data.read takes a folder
        place = Path(shutil.copy(options.file, alone)).parent if options.file else None
        source = str(options.file or store.read(project).raw)
        report = validate(project, read(project, place, source, joins=True), limits, options.as_of, source=source)
    if options.json:
        print(json.dumps(redacted(asdict(report)), indent=2))
    write_report(report, options.report)
    if not options.json:
        print(f"{report}; report {options.report}")


def stop_bad(
    project: Project, rows: pd.DataFrame, source: str, file: Path | None = None, repeats: bool = False
) -> None:
    """Write the report on ROWS to FILE, .html and .json, and raise Refused when they are bad: the pipeline's stage.

    With REPEATS they may say the same again, whatever conf/validation.yml says: no file that came twice is looked for.
    """
    check_schema(project, project.data.SCHEMA)
    limits = settings.read(project, "validation", Validation)
    if repeats:
        limits = limits.model_copy(update={"max_repeated": 1})
    write_report(validate(project, rows, limits, source=source), file or project.path(PIPELINE_REPORT))


def outdated(project: Project, file: Path | None = None) -> bool:
    """Whether the report in FILE may hold no longer: another module makes the rows, or on another day their age counts."""
    report = (file or project.path(PIPELINE_REPORT)).with_suffix(".json")
    if not report.is_file():
        return False
    told = json.loads(report.read_text(encoding="utf-8"))
    ages = settings.read(project, "validation", Validation).as_of == "today"
    return told.get("code") != code(project) or (ages and told["as_of"] != str(now().ceil("D")))


def code(project: Project) -> str:
    """Return a hash of the code that rows may depend on: your modules, and what they import, but not model.py."""
    whole = hashlib.sha256()
    for file in sorted(project.source.rglob("*.py")):
        if file.name not in ("model.py", "__main__.py") and file.relative_to(project.source).parts[0] not in OTHERS:
            whole.update(file.read_bytes())
    return whole.hexdigest()


def read(project: Project, folder: Path | None, source: str, joins: bool = False) -> pd.DataFrame:
    """Return what data.read makes of FOLDER, of all that is gathered where it is None; raises Refused where it cannot.

    JOINS: the files in FOLDER are raw ones, which feature tables are to be joined to first.
    """
    try:
        if folder and joins and (tables := find_tables(project)):
            tables.fill_files(project, folder)
        return data_sets.read(project, folder) if folder else store.read_rows(project, store.read(project))
    except FileNotFoundError as error:
        raise ProjectError(f"data.read in data.py finds no rows in {source}") from error
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise Refused(f"data.read in data.py fails on {source}: {error!r}; mend the file or data.py") from error


def validate(
    project: Project,
    rows: pd.DataFrame,
    limits: Validation,
    as_of: pd.Timestamp | None = None,
    schema: Schema | None = None,
    source: str = "a table",
) -> Report:
    """Return what came of every expectation on ROWS, which stay as they are. SCHEMA is that of data.py unless given."""
    schema = project.data.SCHEMA if schema is None else schema
    as_of = as_of.tz_localize(None) if as_of else now().ceil("D") if limits.as_of == "today" else None
    twice = ", ".join(map(str, rows.columns[rows.columns.duplicated()]))
    checks = [
        Check(twice or "columns", "stand once", "unique_column_names", not twice, "stands twice" if twice else "holds")
    ]
    inputs = {*project.features.COLUMNS, *project.features.CATEGORIES, *project.features.NUMBERS}
    for name in (project.data.TARGET, *project.data.LEAKS):
        rule, found = "not be an input, as it is known too late", "features.py has it" if name in inputs else "holds"
        checks.append(Check(name, rule, "no_target_leakage", name not in inputs, found))
    table = rows.loc[:, ~rows.columns.duplicated()].reset_index(drop=True)
    checks += measure(project, table, schema, expectations(project, schema, limits, as_of), limits.examples)
    if limits.max_repeated < 1 and project.data.TARGET in schema:
        checks.append(repeated(project, table, limits.max_repeated))
    return Report(source, len(rows), str(as_of or "the newest row"), checks, code(project))


def repeated(project: Project, table: pd.DataFrame, most: float) -> Check:
    """Return whether at most a share MOST of the rows say what another says, the key aside: where a key is made of the row."""
    again = table.drop(columns=project.data.KEY, errors="ignore").duplicated()
    share = float(again.mean()) if len(table) else 0.0
    rule = f"repeat another row, but for the key, in {most:.0%} at most (max_repeated, {LIMITS})"
    outcome = "holds" if share <= most else f"{again.sum():,} of {len(table):,} rows"
    return Check("rows", rule, "no_repeated_rows", share <= most, outcome, int(again.sum()))


def expectations(project: Project, schema: Schema, limits: Validation, as_of: pd.Timestamp | None = None) -> Any:
    """Return the Great Expectations suite: what each column must hold and, where the target is in SCHEMA, the whole."""
    gx = library()
    found: list[Any] = []

    def must(words: str, expectation: str, **arguments: Any) -> None:
        meta = {"order": len(found), "rule": words}
        found.append(getattr(gx.expectations, "Expect" + expectation)(**arguments, meta=meta))

    learning = project.data.TARGET in schema  # rows to score come one at a time, in any order and from the future
    for name, rule in schema.items():
        must("be there", "ColumnToExist", column=name)
        must(f"be a {rule['type']}", "ColumnValuesToBeInTypeList", column=name, type_list=HELD_AS[rule["type"]])
        if not rule.get("null"):
            must("not be missing", "ColumnValuesToNotBeNull", column=name)
        elif learning:
            share = limits.max_missing
            must(
                f"be missing in {share:.0%} at most (max_missing, {LIMITS})",
                "ColumnValuesToNotBeNull",
                column=name,
                mostly=1 - share,
            )
        if "values" in rule:
            words = f"be one of {', '.join(map(str, rule['values']))}"
            must(words, "ColumnValuesToBeInSet", column=name, value_set=rule["values"])
        if rule["type"] == "number":
            low, high = rule.get("min", -LARGEST), rule.get("max", LARGEST)
            bounds = [f"{bound} {rule[bound]:,}" for bound in ("min", "max") if bound in rule]
            must(
                f"be a finite number{', '.join(['', *bounds])}",
                "ColumnValuesToBeBetween",
                column=name,
                min_value=low,
                max_value=high,
            )
        if rule["type"] in ("text", "category") and "values" not in rule:
            most = rule.get("max_length", MAX_LENGTH)
            must(f"have {most:,} characters at most", "ColumnValueLengthsToBeBetween", column=name, max_value=most)
        if rule.get("unique"):
            must("be unique", "ColumnValuesToBeUnique", column=name)
    if learning:
        low, high, latest = limits.min_rows, limits.max_rows, as_of or now()
        must(
            f"be {low:,} to {high:,} (min_rows, max_rows, {LIMITS})",
            "TableRowCountToBeBetween",
            min_value=low,
            max_value=high,
        )
        must("vary", "ColumnUniqueValueCountToBeBetween", column=project.data.TARGET, min_value=2)
        if time := split.time_column(project):
            must("be in time order", "ColumnValuesToBeIncreasing", column=time)
            must(f"not lie after {as_of or 'now'}", "ColumnValuesToBeBetween", column=time, max_value=latest)
            if as_of:
                oldest = latest - pd.Timedelta(days=limits.max_age_days)
                words = f"reach {oldest} (max_age_days, {LIMITS})"
                must(words, "ColumnMaxToBeBetween", column=time, min_value=oldest)
    return gx.ExpectationSuite(name="schema", expectations=found)


def measure(project: Project, table: pd.DataFrame, schema: Schema, suite: Any, n_examples: int) -> list[Check]:
    """Return what came of the suite's expectations on TABLE, whose index is 0, 1, 2 ..., in the suite's order."""
    context = library().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    held = {name: as_held(table[name], rule["type"]) for name, rule in schema.items() if name in table}
    batch = context.data_sources.pandas_default.read_dataframe(pd.DataFrame(held, index=table.index))
    outcome = batch.validate(suite, result_format={"result_format": "SUMMARY", "partial_unexpected_count": n_examples})
    checks: list[Check] = []
    for result in sorted(outcome.results, key=lambda result: result.expectation_config.meta["order"]):
        config, seen = result.expectation_config, result.result
        at: list[int] = []
        column, count, found = config.kwargs.get("column", "rows"), seen.get("unexpected_count", 0), "holds"
        if not result.success:
            at = seen.get("partial_unexpected_index_list") or []
            found = f"{count:,} of {len(table):,} rows" if count else f"found {seen.get('observed_value', 'none')}"
        passed = result.success
        if result.exception_info.get("raised_exception", True):  # not measured
            if any(check.column == column and not check.passed for check in checks):
                continue  # for the reason that is already named
            passed, found = False, f"cannot be measured: {result.exception_info}"
        shown = [name for name in dict.fromkeys((project.data.KEY, column)) if name in table]
        examples = [", ".join([f"row {n}", *(f"{name} {table[name].iloc[n]!s:.80}" for name in shown)]) for n in at]
        checks.append(Check(column, config.meta["rule"], config.type, passed, found, count, examples))
    return checks


def as_held(given: pd.Series, kind: str) -> pd.Series:
    """Return a column as HELD_AS has it; of one that is of no such type, only the values that cannot be read as one."""
    types = pd.api.types
    if given.dtype == "bool":
        return given
    if kind == "number" and types.is_numeric_dtype(given):
        return given.astype("int64" if types.is_signed_integer_dtype(given) and given.notna().all() else "float64")
    if kind == "time" and types.is_datetime64_any_dtype(given):
        plain = given.dt.tz_convert(None) if given.dt.tz else given
        near = pd.Timestamp.min < plain.min() and plain.max() < pd.Timestamp.max
        return plain.astype("datetime64[ns]" if near else "datetime64[us]")  # ns, where it reaches, is faster
    if kind in ("text", "category") and isinstance(given.dtype, pd.StringDtype):
        return given.astype("string")
    values = given.astype("object")
    if kind in ("number", "time"):
        iso = {"errors": "coerce", "format": "ISO8601"}
        known = pd.to_numeric(values, errors="coerce") if kind == "number" else pd.to_datetime(values, **iso)
        odd = known.isna() & values.notna()
        return values.where(odd, known.astype("object")) if odd.any() else values
    return values


def library() -> Any:
    """Return Great Expectations: imported on first use, as that takes seconds, and with its telemetry off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    return great_expectations


def now() -> pd.Timestamp:
    return pd.Timestamp.now("UTC").tz_localize(None) + pd.Timedelta(hours=14)  # the local time that is furthest ahead


def write_report(report: Report, file: Path) -> None:
    """Write the report to FILE, one HTML page that needs nothing from outside, and as .json beside it.

    Raises Refused, which names each breach and its example rows, when there is one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".json").write_text(json.dumps(asdict(report), indent=2), encoding="utf-8")
    file.write_text(redact(page(report)), encoding="utf-8")
    if report.breaches:
        advice = f"mend the rows, or SCHEMA in data.py or {LIMITS} where these are wrong; report {file}"
        raise Refused("\n  ".join([str(report), *map(str, report.breaches), advice]))


def page(report: Report) -> str:
    """Return the report as a page: first what does not hold, with example rows."""
    sections = []
    for title, passed in (("Does not hold", False), ("Holds", True)):
        checks = [check for check in report.checks if check.passed == passed]
        rows = [[check.column, f"must {check.rule}", check.found, "; ".join(check.examples)] for check in checks]
        head = ["column", "rule", "measured", "examples"]
        sections.append(pages.section(f"{title}: {len(checks)}", pages.table(head, rows, title)))
    return pages.page("Data validation", pages.lead(str(report)), *sections)


def check_schema(project: Project, schema: Schema) -> None:
    """Raise ProjectError when SCHEMA itself is wrong, or does not describe a column that the project names."""
    file = project.source / "data.py"
    for table in (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Dict)):
        names: list[Any] = [key.value for key in table.keys if isinstance(key, ast.Constant)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ProjectError(f"{file.name}, line {table.lineno}: {twice[0]!r} stands there twice, keep one")
    try:
        columns = pydantic.TypeAdapter(dict[str, Column]).validate_python(schema)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ProjectError(f"SCHEMA in {file.name}: {key}: {first['msg']} (given: {first['input']!r})") from error
    time, group = split.time_column(project), split.of(project).group
    named = {
        "TARGET": [project.data.TARGET],
        "KEY": [project.data.KEY],
        "TIME": [time] if time else [],
        "GROUP": [group] if group else [],
        "SLICES": project.data.SLICES,
    }
    for where, wanted in {**named, "COLUMNS in features.py": project.features.COLUMNS}.items():
        if absent := [name for name in wanted if name not in columns]:
            raise ProjectError(f"{where} names {', '.join(absent)}, which SCHEMA in {file.name} does not describe")
    if time and columns[time].type != "time":
        raise ProjectError(f"TIME is {time}, in SCHEMA a {columns[time].type}: it must be a time, or None without one")
    if not project.features.COLUMNS:
        raise ProjectError("COLUMNS in features.py is empty: name one column of SCHEMA or more that build() reads")
    problem_of(project)
