"""The text of data.py, features.py, behaviour.py and fast.py for a plan, as a person would write them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import pandas as pd

from .profile import USED, Column, Plan, slug

WIDTH = 120
DATE_PARTS = {  # each with what it is of a column of times and of a single one
    "hour": ("{0}.dt.hour + {0}.dt.minute / 60", "{0}.hour + {0}.minute / 60"),
    "weekday": ("{0}.dt.day_of_week", "{0}.weekday()"),
    "month": ("{0}.dt.month", "{0}.month"),
    "year": ("{0}.dt.year", "{0}.year"),
}


def quoted(text: str) -> str:
    """Return TEXT as a Python literal, as ruff formats it: in double quotes unless single ones take fewer backslashes."""
    written = json.dumps(text, ensure_ascii=False)
    if text.count('"') <= text.count("'"):
        return written
    inner = written[1:-1].replace('\\"', '"').replace("'", "\\'")
    return f"'{inner}'"


def listed(name: str, items: Iterable[str], comment: str = "") -> str:
    """Return the assignment of a list, on one line where it fits, else an item a line."""
    literals = [quoted(item) for item in items]
    line = f"{name} = [{', '.join(literals)}]"
    if len(line + comment) <= WIDTH:
        return line + comment
    if len(line) <= WIDTH:
        return f"{comment.strip()}\n{line}"
    return "\n".join(filter(None, [comment.strip(), f"{name} = [", *(f"    {item}," for item in literals), "]"]))


def bounds(column: Column) -> tuple[float, float]:
    """Return bounds of a number with a margin of half its range, and none below 0 where all are 0 or more."""
    low, high = column.low or 0.0, column.high or 0.0
    margin = (high - low) / 2 or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(margin))
    least = math.floor((low - margin) / step) * step
    return (0.0 if low >= 0 > least else least), math.ceil((high + margin) / step) * step


def number(value: float) -> str:
    """Return a number as people write it: 10_000 rather than 10000.0."""
    rounded = float(f"{value:.6g}")
    if rounded == int(rounded) and abs(rounded) < 1e15:
        return f"{int(rounded):_}" if abs(rounded) >= 10_000 else str(int(rounded))
    return repr(rounded)


def rule(column: Column, plan: Plan) -> str:
    """Return the line of SCHEMA for COLUMN."""
    parts = {"type": quoted(column.type)}
    if column.role == "key":
        parts = {"type": '"text"'} | ({"unique": "True"} if column.name == plan.key else {})
    elif column.role == "target" and plan.positive:
        parts = {"type": '"boolean"'}
    elif column.role == "target" and plan.classes:
        return labels_rule(plan)
    elif column.type == "number":
        low, high = bounds(column)
        parts |= {"min": number(low), "max": number(high)}
    elif column.role == "text" and column.longest > 500:
        parts |= {"max_length": number(-(-column.longest // 1_000) * 2_000)}
    elif column.role == "category" and column.name in plan.slices:
        parts |= {"values": f"[{', '.join(map(quoted, column.values))}]"}
    if column.missing and column.role != "target":
        parts["null"] = "True"
    comment = (
        f"  # {number(column.low)} to {number(column.high or 0)} when adopted"
        if "min" in parts and column.low is not None
        else ""
    )
    line = f"    {quoted(column.name)}: {{{', '.join(f'{quoted(name)}: {value}' for name, value in parts.items())}}},"
    if len(line) > WIDTH:  # many values: what is new is then a category like any other
        return f"    {quoted(column.name)}: {{{', '.join(f'{quoted(name)}: {value}' for name, value in parts.items() if name != 'values')}}},"
    return line + comment if len(line + comment) <= WIDTH else line


def labels_rule(plan: Plan) -> str:
    """Return the lines of SCHEMA for a target of several classes: all of them, on one line where they fit."""
    literals = list(map(quoted, plan.classes))
    line = f'    {quoted(plan.target)}: {{"type": "category", "values": [{", ".join(literals)}]}},'
    if len(line) <= WIDTH:
        return line
    values = f'        "values": [{", ".join(literals)}],'
    if len(values) > WIDTH:
        values = "\n".join(['        "values": [', *(f"            {literal}," for literal in literals), "        ],"])
    return f'    {quoted(plan.target)}: {{\n        "type": "category",\n{values}\n    }},'


def assigned(name: str, values: dict[str, str], comment: str = "") -> str:
    """Return the assignment of a dict of literals, on one line where it fits, else an item a line."""
    items = [f"{key}: {value}" for key, value in values.items()]
    line = f"{name} = {{{', '.join(items)}}}"
    if len(line + comment) <= WIDTH:
        return line + comment
    return "\n".join(filter(None, [comment.strip(), f"{name} = {{", *(f"    {item}," for item in items), "}"]))


def data_module(plan: Plan) -> str:
    """Return data.py."""
    stays = plan.of("key", "time", *USED, "target")
    missing = {column.name: plan.markers[column.name] for column in stays if column.name in plan.markers}
    written = any(column.type == "number" for column in stays if column.name in missing)  # as text, beside a marker
    lines = [
        '"""Where the rows come from and what a row must look like. Yours to edit."""',
        "",
        *(["import contextlib"] if written else []),
        "from pathlib import Path",
        "",
        "import pandas as pd",
        "",
        f"PROBLEM = {quoted(plan.problem)}",
        f"TARGET = {quoted(plan.target)}"
        + (f"  # {plan.positive} is true, {plan.negative} false" if plan.positive else ""),
        f"KEY = {quoted(plan.key)}"
        + ("  # one value a row, unique" if not plan.made_key else f"  # made by `read`{key_source(plan)}"),
        f"TIME = {quoted(plan.time)}  # when the prediction is needed; rows are split by it, never at random"
        if plan.time
        else "TIME: str | None = None  # no row says when: rows are split by the hash of KEY",
        "GROUP = None  # column whose rows are never in two parts of a split, such as a patient",
        annotated(listed("SLICES", plan.slices, "  # groups in which the model must hold up too")),
        "# Known too late: never inputs.",
        listed("LEAKS", [plan.target, *(column.name for column in plan.of("leak"))]),
        "",
        "# What a row must look like. type: text | category | number | time | boolean; values: the only ones allowed;",
        "# min, max: bounds of a number, both included, with a margin around what the table held; max_length: of a text, in",
        "# characters (default: 1,000); null: may it be missing (default: no); unique: no value twice.",
        "SCHEMA: dict[str, dict] = {",
        *([f'    {quoted(plan.key)}: {{"type": "text", "unique": True}},'] if plan.made_key else []),
        *(rule(column, plan) for column in stays),
        "}",
    ]
    if plan.positive:
        mapping = f"{{{quoted(plan.positive)}: True, {quoted(plan.negative or '')}: False}}"
        lines += [f"LABELS = {mapping}  # of the target, as the files have it"]
    if missing:
        values = {quoted(name): f"[{', '.join(map(literal, given))}]" for name, given in missing.items()}
        lines += [assigned("MISSING", values, "  # what stands for a missing value")]
    if plan.rare:
        values = {quoted(label): quoted(name) for label, name in plan.rare.items()}
        lines += [assigned("RARE", values, "  # labels with too few rows to be told apart")]
    lines += [
        "",
        "",
        'def read(folder: Path | str = "data/raw") -> pd.DataFrame:',
        f'    """Return all rows in FOLDER with the columns of SCHEMA, {"oldest first" if plan.time else "in the order of their keys"}.',
        "",
        "    Raises FileNotFoundError when there is no data file yet.",
        '    """',
        '    files = sorted(Path(folder).glob("*.parquet"))',
        "    if not files:",
        """        raise FileNotFoundError(f"no .parquet file in {folder}: put the data there first (README, 'Start')")""",
        "    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)",
    ]
    if missing:
        lines += [
            "    for name, markers in MISSING.items():",
            "        rows[name] = rows[name].mask(rows[name].isin(markers))",
        ]
        if written:
            lines += ['        if SCHEMA[name]["type"] == "number":  # text, beside a marker that is one']
            lines += [
                "            with contextlib.suppress(ValueError):  # what is no number is named by its column, not here"
            ]
            lines += ["                rows[name] = pd.to_numeric(rows[name])"]
    if plan.positive:
        lines += ["    rows[TARGET] = rows[TARGET].map(LABELS)"]
        lines[-1] += "  # what is neither is unknown, not false"
    if plan.rare:
        lines += ["    rows[TARGET] = rows[TARGET].map(lambda label: RARE.get(label, label))"]
    if plan.key_of:
        lines += [
            "    parts = [",
            *(f"        {as_key(column)}," for column in plan.columns if column.name in plan.key_of),
            "    ]",
            '    rows[KEY] = parts[0].str.cat(parts[1:], sep="-")',
        ]
    elif plan.made_key:
        lines += [
            "    given = rows[[name for name in SCHEMA if name not in (KEY, TARGET)]]",
            '    digest = pd.util.hash_pandas_object(given, index=False).map("{:016x}".format)',
            '    rows[KEY] = digest + "-" + rows.groupby(digest).cumcount().astype(str)  # rows alike are told apart by a number',
        ]
    order = "[TIME, KEY]" if plan.time else "KEY"
    if plan.positive:  # a column of objects otherwise
        lines += ["    if rows[TARGET].notna().all():", "        rows[TARGET] = rows[TARGET].astype(bool)"]
    lines += [f"    return rows[list(SCHEMA)].sort_values({order}, ignore_index=True)", ""]
    return "\n".join(lines)


def key_source(plan: Plan) -> str:
    return f" of {' and '.join(plan.key_of)}" if plan.key_of else ": the table has none"


def as_key(column: Column) -> str:
    """Return the code for the texts of a column that is a part of the key, each the same whichever rows are beside it."""
    ways = {"number": '.map("{:.15g}".format)', "time": '.dt.strftime("%Y-%m-%dT%H:%M:%S")'}
    way = ".astype(str)" if column.role == "key" else ways.get(column.type, ".astype(str)")
    return f"rows[{quoted(column.name)}]{way}"


def parts(plan: Plan) -> dict[str, tuple[str, str]]:
    """Return the inputs that are made of dates: {input: (column, part)}."""
    made: dict[str, tuple[str, str]] = {}
    taken = {column.name for column in plan.columns}
    for column in plan.of("time", "date"):
        chosen = ["weekday"]
        if column.role == "time":
            chosen = (["hour"] if plan.hourly else []) + chosen + (["month"] if plan.monthly else [])
        else:
            chosen = ["year", "month", "weekday"]
        for part in chosen:
            name = f"{slug(column.name)}_{part}"
            while name in made or name in taken:
                name += "_part"
            made[name] = (column.name, part)
    return made


def inputs(plan: Plan) -> tuple[list[str], list[str], list[str]]:
    """Return COLUMNS, CATEGORIES and NUMBERS of features.py."""
    columns = [column.name for column in plan.of("time", *USED)]
    numbers = [*parts(plan), *(column.name for column in plan.of("number", "boolean"))]
    return columns, [column.name for column in plan.of("category", "text")], numbers


def features_module(plan: Plan) -> str:
    """Return features.py."""
    columns, categories, numbers = inputs(plan)
    known = "at the time of the row" if plan.time else "when the prediction is needed"
    lines = [
        '"""Rows to model inputs: the only feature code, used by training and by serving. Yours to edit."""',
        "",
        "import pandas as pd",
        "",
        "# What `build` reads from a row: what a caller must send for a prediction.",
        listed("COLUMNS", columns),
        "",
        "# What `build` returns: the columns the model is fitted on.",
        annotated(listed("CATEGORIES", categories)),
        annotated(listed("NUMBERS", numbers)),
        *([listed("TEXTS", plan.texts, "  # those of CATEGORIES whose words count: model.py")] if plan.texts else []),
        "",
        "",
        "def build(rows: pd.DataFrame) -> pd.DataFrame:",
        '    """Return the model\'s inputs, shape (n_rows, n_inputs), index kept: CATEGORIES as text, NUMBERS as float64.',
        "",
        f"    Uses only what is known {known}: never the target. A row's inputs depend on that row alone, so",
        "    that one row served gives the same as the row in a batch.",
        '    """',
        "    inputs = {}",
    ]
    if categories:
        lines += [
            "    for name in CATEGORIES:",
            '        inputs[name] = rows[name].astype("object").where(rows[name].notna(), "missing").astype(str)',
        ]
    if plan.of("number", "boolean"):
        lines += [
            "    for name in NUMBERS:",
            "        if name in COLUMNS:  # taken as it is",
            '            inputs[name] = rows[name].astype("float64")',
        ]
    for column in plan.of("time", "date"):
        lines += [f"    moment = pd.to_datetime(rows[{quoted(column.name)}])"]
        made = [(name, part) for name, (of, part) in parts(plan).items() if of == column.name]
        lines += [f"    inputs[{quoted(name)}] = {DATE_PARTS[part][0].format('moment')}" for name, part in made]
    cast = '.astype(dict.fromkeys(NUMBERS, "float64"))' if numbers else ""
    lines += [f"    return pd.DataFrame(inputs, index=rows.index){cast}[CATEGORIES + NUMBERS]", ""]
    return "\n".join(lines)


def annotated(assignment: str) -> str:
    """Return ASSIGNMENT with its type where the list is empty, which a type checker cannot guess."""
    return assignment.replace(" = []", ": list[str] = []")


def fast_module(plan: Plan) -> str:
    """Return fast.py."""
    _, categories, numbers = inputs(plan)
    names = [name for name, used in (("CATEGORIES", categories), ("COLUMNS", numbers), ("NUMBERS", numbers)) if used]
    lines = [
        '"""`features.build` for a few rows at a time, without a table: what the service\'s fast path calls. Yours to edit.',
        "",
        "A table takes milliseconds however few rows are in it. The service uses this function only after it gave the same as",
        "`features.build` on some hundred rows, so change both together, or delete this file: answers stay right, and get slower.",
        '"""',
        "",
        "from typing import Any",
        "",
        f"from .features import {', '.join(names)}",
        "",
        "",
        "def inputs(rows: list[dict[str, Any]]) -> dict[str, list]:",
        '    """Return each column that `features.build` returns as a list, one value a row; None is a missing number.',
        "",
        "    A row holds the COLUMNS of features.py as Python values: str, float, bool, datetime, or None where it is missing.",
        '    """',
        "    columns: dict[str, list] = {}",
    ]
    if categories:
        lines += [
            '    columns |= {name: ["missing" if row[name] is None else row[name] for row in rows] for name in CATEGORIES}'
        ]
    if numbers:
        lines += ["    columns |= {name: [row[name] for row in rows] for name in NUMBERS if name in COLUMNS}"]
    for column in plan.of("time", "date"):
        lines += [f"    moments = [row[{quoted(column.name)}] for row in rows]"]
        made = [(name, part) for name, (of, part) in parts(plan).items() if of == column.name]
        for name, part in made:
            value = DATE_PARTS[part][1].format("moment")
            if column.missing:
                value = f"None if moment is None else {value}"
            lines += [f"    columns[{quoted(name)}] = [{value} for moment in moments]"]
    return "\n".join([*lines, "    return columns", ""])


def literal(value: object) -> str:
    """Return VALUE as Python writes it."""
    if isinstance(value, str):
        return quoted(value)
    return repr(value) if isinstance(value, bool) else number(float(str(value)))


def literals(values: dict[str, object]) -> dict[str, str]:
    """Return names and VALUES as Python writes them."""
    return {quoted(name): literal(value) for name, value in values.items()}


def behaviour_module(plan: Plan, ends: list[tuple[str, object, object]]) -> str:
    """Return behaviour.py; ENDS are columns with a value that lowers the prediction and one that raises it."""
    of = "[:, LABEL]" if plan.classes else ""
    likelier = f"{plan.classes and plan.label or 'it'} is {'more' if plan.problem == 'regression' else 'likelier'}"
    lines = [
        '"""What a model must do whatever its metrics say, and between whom it must be fair. Read by `gate`. Yours to edit.',
        "",
        "A test gets `predict` (rows in, one prediction a row out) and held-out rows, and returns for each row whether the model",
        "behaves. Its name begins with invariance_, direction_ or minimum_; conf/release.yml says for how many rows it must hold.",
        "What stands here is what the table shows, found by a first model: put what you know about the matter in its place.",
        '"""',
        "",
        "from collections.abc import Callable",
        "",
        "import numpy as np",
        "import pandas as pd",
        "",
        *(["from .data import TARGET"] if not ends else []),
        *(["from .model import CLASSES"] if plan.classes else []),
        *([""] if plan.classes or not ends else []),
        *(["Predict = Callable[[pd.DataFrame], np.ndarray]"]),
        *([f"LABEL = CLASSES.index({quoted(plan.label)})  # whose probability is looked at"] if plan.classes else []),
        *([assigned("LOW", literals({name: low for name, low, _ in ends}), "  # speaks against it")] if ends else []),
        *([assigned("HIGH", literals({name: high for name, _, high in ends}), "  # speaks for it")] if ends else []),
        "",
        "",
        "def invariance_to_the_other_rows(predict: Predict, rows: pd.DataFrame) -> np.ndarray:",
        '    """A row is answered for itself, whatever comes with it and in which order."""',
        "    alike = np.isclose(predict(rows.iloc[::-1])[::-1], predict(rows), rtol=1e-6)",
        f"    return {'np.all(alike, axis=1)' if plan.classes else 'alike'}",
        "",
        "",
        *(directions(ends, of, likelier) if ends else no_directions(plan, of)),
        "",
        "",
        "def groups(rows: pd.DataFrame) -> pd.DataFrame:",
        '    """Return to which group each row belongs, a column for each way to group; the index is kept.',
        "",
        "    With data about people, group by what must not matter, whether or not the model sees it.",
        '    """',
        f"    return rows[[{', '.join(map(quoted, plan.slices))}]]",
        "",
    ]
    return "\n".join(lines)


def directions(ends: list[tuple[str, object, object]], of: str, likelier: str) -> list[str]:
    """Return the tests of what speaks for a high prediction; OF picks the label of which PREDICT gives a probability."""
    name, low, high = ends[0]
    return [
        f"def direction_of_{slug(name)}(predict: Predict, rows: pd.DataFrame) -> np.ndarray:",
        f'    """With {shown(name, high)} {likelier} than with {shown(name, low)}."""',
        f"    name = {quoted(name)}",
        f"    high = predict(rows.assign(**{{name: HIGH[name]}})){of}",
        f"    low = predict(rows.assign(**{{name: LOW[name]}})){of}",
        "    return high >= low",
        "",
        "",
        "def minimum_all_that_speaks_for_it_against_all_that_speaks_against(predict: Predict, rows: pd.DataFrame) -> np.ndarray:",
        '    """Who cannot tell these apart is of no use."""',
        f"    return predict(rows.assign(**HIGH)){of} > predict(rows.assign(**LOW)){of}",
    ]


def no_directions(plan: Plan, of: str) -> list[str]:
    """Return tests for a table none of whose columns has a value that speaks for a high prediction."""
    truth = "rows[TARGET]" if not plan.classes else "rows[TARGET] == CLASSES[LABEL]"
    return [
        "def direction_of_the_truth(predict: Predict, rows: pd.DataFrame) -> np.ndarray:",
        '    """Over all rows, predictions go with what came true."""',
        f"    truth = ({truth}).astype(float)",
        f"    return np.full(len(rows), np.corrcoef(predict(rows){of}, truth)[0, 1] > 0)",
        "",
        "",
        "def minimum_rows_are_told_apart(predict: Predict, rows: pd.DataFrame) -> np.ndarray:",
        '    """Who says the same of all rows is of no use."""',
        f"    return np.full(len(rows), np.ptp(predict(rows){of}) > 0)",
    ]


def shown(name: str, value: object) -> str:
    """Return a column and its value for a docstring: short, and without what would end it."""
    text = str(value) if isinstance(value, str | bool) else number(float(str(value)))
    return f"{name[:30]} {text[:15]}".replace("\\", "/").replace('"', "'")


def extremes(plan: Plan, rows: pd.DataFrame) -> list[tuple[str, object, object]]:
    """Return for each input a value with which the target is low and one with which it is high, strongest first."""
    truth = rows[plan.target] == plan.label if plan.classes else rows[plan.target]
    target, found = truth.astype("float64"), []
    for column in plan.of("number", "category", "boolean"):
        given = rows[column.name]
        if column.type == "number":
            low, high = given.quantile([0.1, 0.9])
            if low == high:
                low, high = given.min(), given.max()
            strength = given.corr(target, method="spearman")
            pair: tuple[object, object] = (float(low), float(high)) if strength >= 0 else (float(high), float(low))
        else:
            means = target.groupby(given.astype("object")).agg(["mean", "size"])
            means = means[means["size"] >= max(5, len(rows) / 50)]["mean"]
            if len(means) < 2:
                continue
            pair = (means.idxmin(), means.idxmax())
            strength = (means.max() - means.min()) / (4 * target.std())
        if not math.isnan(strength) and pair[0] != pair[1]:
            found.append((abs(strength), column.name, *pair))
    return [(name, low, high) for _, name, low, high in sorted(found, key=lambda one: -one[0])]
