"""What each column of a table is for, and why: key, time, target, input, or left out."""

from __future__ import annotations

import difflib
import re
import warnings
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from ...core.errors import Refused, UsageError
from .read import is_text

KEY = "row_key"  # the column that a table without a key gets
TRUE = {"yes", "y", "true", "t", "1", "1.0", "ja", "oui", "si"}
FALSE = {"no", "n", "false", "f", "0", "0.0", "nein", "non"}
PERSONAL_NAMES = re.compile(
    r"(?:^|[_\W])(?:e?mail|phone|telephone|mobile|address|street|birth|dob|surname|(?:first|last|full|middle)_?name|(?:row)?names?"
    r"|passport|ssn|iban|ip)(?:$|[_\W])"
)
PERSONAL_VALUES = {
    "e-mail addresses": re.compile(r"[^@\s]+@[^@\s]+\.[a-z]{2,}$", re.IGNORECASE),
    "phone numbers": re.compile(r"\+?\d[\d\s()/-]{7,}\d$"),
    "names of people": re.compile(r"[^\d,]{1,40}, (?:Mr|Mrs|Miss|Ms|Mlle|Mme|Master|Dr|Rev|Col|Sir)\b"),
}
DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m/%d/%y")
DATES = ("ISO8601", *(f"{day}{hour}" for day in DAYS for hour in ("", " %H:%M", " %H:%M:%S")))
DATES += ("%b %d %Y", "%B %d, %Y", "%b %d, %Y", "%d-%b-%Y", "%d %b %Y")
LOOKS_DATED = re.compile(
    r"\d{1,4}[-./ ]\d{1,2}[-./ ]\d{1,4}|\d{4}-\d\d$|[A-Za-z]{3,9} \d{1,2},? \d{4}|\d{1,2}[- ][A-Za-z]{3}[- ]\d{4}"
)
N_CATEGORIES = 50  # with more values a text says too little of each
N_SLICE = 12  # values of a column by which the model is looked at
N_ROWS = 100  # with fewer nothing can be held out
LEAK = 0.99  # AUC, balanced accuracy of several classes, or R2 of one column alone
N_CLASSES = 50  # labels that a model tells apart at most; rarer ones are one together
LEAST = 20  # rows of a label: with fewer, a part of the split has none or a handful
OTHER = "other"  # what labels with fewer are together
WRITTEN_NUMBER = r"[-+(]?\s*[^\w\s.,%-]?\s*-?\d[\d.,' ]*\s*(?:%|[^\W\d]{1,4}|[^\w\s])?\)?"  # $1,234.50, 12 %, 3 kg
USED = ("number", "category", "boolean", "date", "text")  # roles that become inputs


@dataclass
class Column:
    """A column and what was decided: its TYPE of SCHEMA, its ROLE, and WHY; the rest is what SCHEMA and the table show."""

    name: str
    type: str
    role: str
    why: str = ""
    missing: int = 0
    distinct: int = 0
    low: float | None = None
    high: float | None = None
    values: list[str] = field(default_factory=list)
    longest: int = 0  # characters of a text

    @property
    def range(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return ", ".join(self.values[:3]) + (" ..." if len(self.values) > 3 else "")


@dataclass
class Plan:
    """All that the files are written from; it stands in .adopted.json."""

    source: str
    name: str
    problem: str
    target: str
    positive: str | None
    negative: str | None
    key: str
    time: str | None
    columns: list[Column]
    n_rows: int
    n_sample: int = 0  # rows in the sample, which may be all
    hourly: bool = False
    monthly: bool = False
    warnings: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)  # of several: the labels, sorted, as `read` gives them
    rare: dict[str, str] = field(default_factory=dict)  # what `read` makes of labels with too few rows
    label: str = ""  # the commonest of the classes
    markers: dict[str, list[str | float]] = field(default_factory=dict)  # what stands for a missing value, by column
    weak: list[str] = field(default_factory=list)  # families of model.py that are no better than its baseline
    dropped: list[str] = field(default_factory=list)  # labels whose rows are left out
    repeated: float = 0.0  # share of rows that say what another says, the key aside
    key_of: list[str] = field(default_factory=list)  # the columns that name a row together, if it takes several

    def of(self, *roles: str) -> list[Column]:
        return [column for column in self.columns if column.role in roles]

    @property
    def made_key(self) -> bool:
        return all(column.name != self.key for column in self.columns)

    @property
    def texts(self) -> list[str]:
        return [column.name for column in self.of("text")]

    @property
    def slices(self) -> list[str]:
        few = [one for one in self.of("category") if 1 < one.distinct <= N_SLICE and not one.missing]
        return [one.name for one in few[:2]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Plan:
        return cls(**stored | {"columns": [Column(**column) for column in stored["columns"]]})


def check(name: str, rows: pd.DataFrame, option: str) -> str:
    """Return NAME; raises UsageError with the nearest name when ROWS have no such column."""
    if name in rows:
        return name
    near = difflib.get_close_matches(name, list(rows), n=1, cutoff=0.4)
    raise UsageError(
        f"{option}: no column {name!r}{f', do you mean {near[0]!r}?' if near else '.'} There are: {', '.join(rows)}"
    )


def make(
    rows: pd.DataFrame,
    source: str,
    name: str,
    *,
    target: str,
    time: str | None = None,
    key: list[str] | None = None,
    problem: str | None = None,
    positive: str | None = None,
    drop: list[str] | None = None,
    markers: dict[str, list[str | float]] | None = None,
) -> tuple[Plan, pd.DataFrame]:
    """Return what to make of ROWS, and the rows with the columns that stay, in the types of SCHEMA.

    Raises UsageError for a wrong option, Refused for a table of which no model can be made.
    """
    for option, names in (("--target", [target]), ("--time", [time]), ("--key", key or []), ("--drop", drop or [])):
        for column in filter(None, names):
            check(column, rows, option)
    rows = typed(rows.drop(columns=[column for column in drop or [] if column != target]), time)
    known = rows[rows[target].notna()]
    if len(known) < N_ROWS:
        raise Refused(
            f"{len(known)} rows have a {target}, must be {N_ROWS} or more: with fewer nothing can be held out"
        )
    chosen = problem or problem_of(known[target], positive)
    negative: str | None = None
    rare: dict[str, str] = {}
    remarks: list[str] = []
    if chosen != "regression":
        if positive and chosen == "multiclass":
            raise UsageError(f"--positive {positive} is for two labels, and {target} is to be told apart in several")
        rows[target] = as_labels(rows[target])
        known = rows[rows[target].notna()]
    if chosen == "classification":
        positive, negative = labels(known[target], target, positive)
    elif chosen == "multiclass":
        rare = rare_labels(known[target])
        if not problem and pd.to_numeric(known[target], errors="coerce").notna().all():
            remarks.append(f"{target}: taken for {known[target].nunique()} classes; if it counts, --problem regression")
    elif not pd.api.types.is_numeric_dtype(rows[target]) or pd.api.types.is_bool_dtype(rows[target]):
        raise UsageError(
            f"--problem regression: {target} holds {plain(rows[target].dropna().iloc[0])}, must hold numbers"
        )
    keys = key or list(filter(None, [find_key(rows, target, time)]))
    if keys and (rows[keys].isna().any(axis=None) or rows.duplicated(keys).any()):
        raise UsageError(
            f"--key {' '.join(keys)}: it must have a value in each row, and none twice; leave --key out and a key is made"
        )
    if target in keys:
        raise UsageError(f"--key {target}: it is the target, which is not known when a row is named")
    named = keys[0] if len(keys) == 1 else None
    truth = known[target].eq(positive) if positive else known[target].replace(rare)
    if chosen == "regression":
        truth = pd.to_numeric(truth)
    columns = [decide(rows[column], column, truth, (target, time, named)) for column in rows]
    for decided in columns:
        if decided.name in keys and decided.role not in ("key", "time", *USED):
            decided.role = "key"
        if len(keys) > 1 and decided.name in keys:
            decided.why += "; part of the key"
        if given := (markers or {}).get(decided.name):
            decided.why += f"; missing where it says {', '.join(map(str, given))}"
    plan = Plan(
        source, slug(name), chosen, target, positive, negative, named or free(KEY, rows), time, columns, len(rows)
    )
    plan.key_of = keys if len(keys) > 1 else []
    if chosen == "multiclass":
        plan.rare, plan.classes, plan.label = rare, sorted(truth.unique()), str(truth.mode().iloc[0])
    if not plan.of(*USED, "time"):
        raise Refused("no column is left to predict from: each is the key, constant, personal or gives the target away")
    if time:
        moments = rows[time]
        if moments.isna().any():
            raise Refused(f"--time {time}: {moments.isna().sum()} rows have none; mend them, or leave --time out")
        plan.hourly = bool((moments != moments.dt.normalize()).any())
        plan.monthly = (moments.max() - moments.min()).days >= 540  # a season twice, or a month is one with its year
    plan.markers = {name: given for name, given in (markers or {}).items() if name in rows}
    plan.warnings += remarks + [
        f"{column.name}: {column.why}"
        for column in columns
        if column.role in ("leak", "personal", "constant", "identifier")
    ]
    stays = kept(rows, plan)
    plan.repeated = float(stays.drop(columns=plan.key, errors="ignore").astype("str").duplicated().mean())
    return plan, stays


def plain(value: Any) -> str:
    """Return VALUE as it is written in code: 5, not np.int64(5)."""
    return repr(value.item() if hasattr(value, "item") else value)


def free(name: str, rows: pd.DataFrame) -> str:
    """Return NAME, longer where a column of ROWS is called so."""
    while name in rows:
        name += "_"
    return name


CHOICES = "must be classification (two labels, --positive names one), multiclass (several) or regression (a number)"


def typed(rows: pd.DataFrame, time: str | None) -> pd.DataFrame:
    """Return ROWS with texts that are dates parsed, times without a zone in UTC, and yes/no columns as booleans."""
    rows = rows.copy()
    for name in rows:
        column = rows[name]
        if column.dtype == "object" and column.map(lambda cell: isinstance(cell, list | dict | set)).any():
            rows[name] = column.map(str)
        elif column.dtype == "object" and set(column.dropna().map(type)) <= {Decimal, int, float}:
            rows[name] = pd.to_numeric(column.astype("float64"))
        elif isinstance(column.dtype, pd.CategoricalDtype):
            rows[name] = column.astype("object")
        elif pd.api.types.is_timedelta64_dtype(column):
            rows[name] = column.dt.total_seconds()
        elif name == time and is_year(column):
            rows[name] = pd.to_datetime(column.astype("int64").astype(str), format="%Y")
        if is_text(rows[name]):
            rows[name] = parsed(rows[name])
        if isinstance(rows[name].dtype, pd.DatetimeTZDtype):
            rows[name] = rows[name].dt.tz_convert("UTC").dt.tz_localize(None)
        if pd.api.types.is_datetime64_dtype(rows[name]):
            rows[name] = rows[name].astype("datetime64[us]")
    if time and not pd.api.types.is_datetime64_dtype(rows[time]):
        raise UsageError(
            f"--time {time}: it holds {plain(rows[time].dropna().iloc[0])}, must hold dates, best as 2013-07-04T10:00"
        )
    return rows


def is_year(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and column.between(1700, 2200).all() and (column % 1 == 0).all())


def parsed(column: pd.Series) -> pd.Series:
    """Return a text COLUMN as times where each of its values is one, in one format; else as it was."""
    given = column.dropna().astype(str)
    if given.empty or not given.head(100).map(lambda cell: bool(LOOKS_DATED.match(cell))).all():
        return column
    for form in DATES:
        moments = pd.to_datetime(column, format=form, errors="coerce", utc=True)
        if moments.notna().sum() == len(given):
            return moments.dt.tz_localize(None)
    return column


def problem_of(truth: pd.Series, positive: str | None) -> str:
    """Return classification for two values, regression for many numbers, else multiclass; raises Refused for one value."""
    n = truth.nunique()
    if n == 1:
        raise Refused(f"{truth.name} is {plain(truth.iloc[0])} in each row: there is nothing to predict")
    if n == 2 or positive:
        return "classification"
    if pd.api.types.is_numeric_dtype(truth) and (n > 20 or not (truth == truth.round()).all()):
        return "regression"
    return "multiclass"


def as_labels(truth: pd.Series) -> pd.Series:
    """Return labels as text: 1.0, of a column of integers with gaps, as 1."""
    if pd.api.types.is_float_dtype(truth) and (truth.dropna() == truth.dropna().round()).all():
        truth = truth.astype("Int64")
    return truth.map(str, na_action="ignore").astype("object").where(truth.notna(), None)


def rare_labels(truth: pd.Series) -> dict[str, str]:
    """Return what becomes of labels with too few rows, {label: other}; raises Refused when hardly any has enough."""
    counts = truth.value_counts()
    if len(counts) < 2:
        raise Refused(f"{truth.name} is {plain(truth.iloc[0])} in each row: there is nothing to predict")
    common = counts[counts >= LEAST].head(N_CLASSES)
    if len(common) < 2 or common.sum() < len(truth) / 2:
        raise Refused(
            f"{truth.name} has {len(counts):,} labels, of which {len(common)} have {LEAST} rows or more and together "
            f"{common.sum():,} of {len(truth):,} rows: gather them in fewer labels, or say --problem regression of numbers"
        )
    return {str(label): OTHER for label in sorted(counts.index.difference(common.index))}


def gather(plan: Plan, lacking: set[str]) -> None:
    """Make one class of those of PLAN that a part of a split LACKS; where it is that one, its rows are left out.

    Raises Refused when fewer than two classes are left.
    """
    if OTHER in lacking:
        lacking, gone, plan.rare = {OTHER}, sorted(plan.rare) or [OTHER], {}
        plan.dropped += gone
    else:
        plan.rare |= dict.fromkeys(sorted(lacking), OTHER)
    plan.classes = sorted({*plan.classes} - lacking | set(plan.rare.values()))
    plan.label = plan.label if plan.label in plan.classes else plan.classes[0] if plan.classes else ""
    if len(plan.classes) < 2:
        raise Refused(
            f"{plan.target}: a part of the rows, split by {plan.time or plan.key}, lacks {', '.join(sorted(lacking))}, and "
            f"fewer than two labels are left: gather them in fewer labels{', or leave --time out' if plan.time else ''}"
        )


def note_rare(plan: Plan) -> list[str]:
    """Return what to tell about labels with too few rows."""
    told = []
    for labels, what in ((plan.rare, f"together they are {OTHER!r} (RARE in data.py)"), (plan.dropped, "left out")):
        if labels:
            shown = ", ".join(list(labels)[:5]) + (" ..." if len(labels) > 5 else "")
            told.append(f"{plan.target} {shown}: too few rows to be in each part of a split, so {what}")
    return told


def labels(truth: pd.Series, target: str, positive: str | None) -> tuple[str, str]:
    """Return the positive and the negative label, as text; raises UsageError when it is not clear which is which."""
    given = sorted(truth.unique())
    if len(given) != 2:
        raise UsageError(f"{target} has {len(given)} labels, classification takes two: --problem multiclass takes more")
    if positive is None:
        sure = [label for label in given if label.lower() in TRUE]
        if len(sure) != 1 or not set(map(str.lower, given)) - set(map(str.lower, sure)) <= FALSE:
            raise UsageError(
                f"{target} is {given[0]!r} or {given[1]!r}: say which is the positive one, --positive {given[1]}"
            )
        positive = sure[0]
    elif positive not in given:
        raise UsageError(f"--positive {positive}: {target} is {' or '.join(map(repr, given))}")
    return positive, next(label for label in given if label != positive)


def find_key(rows: pd.DataFrame, target: str, time: str | None) -> str | None:
    """Return the column that names a row: unique, without gaps, called so or of text; None when there is none."""
    for name in rows:
        column = rows[name]
        if name in (target, time) or personal(column) or column.isna().any() or not column.is_unique:
            continue
        called = re.search(r"(?:^|_|\W)(?:id|key|no|number|uuid|code)$", name.lower()) or name.endswith("Id")
        if called and (is_text(column) or pd.api.types.is_integer_dtype(column)):
            return name
    return None


def decide(column: pd.Series, name: str, truth: pd.Series, named: tuple[str | None, ...]) -> Column:
    """Return the role of COLUMN and why it has it."""
    if pd.api.types.is_float_dtype(column):
        column = column.replace([np.inf, -np.inf], np.nan)  # as `kept` does
    given = column.dropna()
    shown = Column(name, kind(column), "", missing=int(column.isna().sum()), distinct=int(given.nunique()))
    if shown.type == "number" and len(given):
        shown.low, shown.high = float(given.min()), float(given.max())
    if shown.type == "category":
        shown.values = sorted(map(str, given.unique()))[: N_CATEGORIES + 1]
    for role, is_it in zip(("target", "time", "key"), named, strict=True):
        if name == is_it:
            shown.role, shown.why = role, "named" if role != "key" else "one value a row"
            return shown
    shown.role, shown.why = role_of(column, given, shown, truth)
    if shown.role == "text":
        shown.type, shown.values, shown.longest = "text", [], int(given.astype(str).str.len().max())
    if shown.role not in USED:  # what is left out, personal data above all, is not written down either
        shown.values, shown.low, shown.high = [], None, None
    return shown


def role_of(column: pd.Series, given: pd.Series, shown: Column, truth: pd.Series) -> tuple[str, str]:
    """Return what a column that nobody named is used for, and why."""
    if shown.distinct <= 1:
        return "constant", "it has one value, which tells nothing"
    if pattern := personal(column):
        return "personal", f"{pattern}; left out of the sample and of the inputs"
    if (skill := alone(column[truth.index], truth)) >= LEAK:
        return "leak", f"it alone gives the target away ({skill:.3f} of 1): known too late?"
    if shown.type == "category" and shown.distinct > N_CATEGORIES:
        if is_prose(given):
            return "text", "its words"
        shown_as = given.astype(str).head(2_000).str.fullmatch(WRITTEN_NUMBER).mean()
        why = f"numbers written as {given.iloc[0]!r}: an input when the source gives them plain, as 1234.5"
        return "identifier", why if shown_as > 0.9 else "a text of too many values"
    if shown.type == "number" and re.search(r"(?:^|[_\W])id$", shown.name.lower()):
        return "identifier", "a number that is a name"
    return {"time": ("date", "parts of the date")}.get(shown.type, (shown.type, "an input"))


def is_prose(given: pd.Series) -> bool:
    """Say whether a column of many texts is of words that people wrote, rather than of names or codes."""
    texts = given.astype(str).head(2_000)
    return bool(texts.str.count(r"\s").mean() >= 2.5 and texts.str.len().mean() > 20)


def kind(column: pd.Series) -> str:
    """Return the type of SCHEMA."""
    if pd.api.types.is_bool_dtype(column) or set(column.dropna().map(type)) == {bool}:
        return "boolean"
    if pd.api.types.is_numeric_dtype(column):
        return "number"
    return "time" if pd.api.types.is_datetime64_dtype(column) else "category"


def personal(column: pd.Series) -> str | None:
    """Return why COLUMN seems to be about a person, None when it does not."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(column.name)).lower()
    if PERSONAL_NAMES.search(name) and (is_text(column) or "birth" in name or "dob" in name):
        return "personal data by its name"
    if is_text(column):
        given = column.dropna().astype(str).head(200)
        for called, pattern in PERSONAL_VALUES.items():
            if len(given) and given.map(lambda cell, pattern=pattern: bool(pattern.match(cell))).mean() > 0.8:
                return f"personal data: {called}"
    return None


def alone(column: pd.Series, truth: pd.Series) -> float:
    """Return how well COLUMN alone tells the target, 0 to 1, on rows that it did not learn from: AUC, or R2 of numbers."""
    from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    if len(column) > 5_000:
        column = column.sample(5_000, random_state=0)
        truth = truth[column.index]
    if is_text(column) and column.nunique() > len(column) / 2:
        return 0.0
    codes = pd.Series(pd.factorize(column)[0], column.index) if is_text(column) else column
    codes = codes.astype("int64") if pd.api.types.is_datetime64_dtype(codes) and codes.notna().all() else codes
    values = pd.to_numeric(codes, errors="coerce").astype("float64").fillna(-1).replace([np.inf, -np.inf], -1)
    inputs = values.to_numpy().reshape(-1, 1)
    if truth.dtype == bool:
        if truth.sum() < 10 or (~truth).sum() < 10:
            return 0.0
        tree = DecisionTreeClassifier(max_leaf_nodes=64, min_samples_leaf=5, random_state=0)
        guessed = cross_val_predict(tree, inputs, truth, cv=3, method="predict_proba")[:, 1]
        return float(roc_auc_score(truth, guessed))
    if not pd.api.types.is_numeric_dtype(truth):
        tree = DecisionTreeClassifier(min_samples_leaf=3, random_state=0)
        with warnings.catch_warnings(action="ignore"):  # a rare label may be in no fold
            return float(balanced_accuracy_score(truth, cross_val_predict(tree, inputs, truth, cv=3)))
    tree = DecisionTreeRegressor(min_samples_leaf=3, random_state=0)
    return float(r2_score(truth, cross_val_predict(tree, inputs, truth, cv=3)))


def kept(rows: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the rows with the columns that go into the project, numbers as float64 and texts as text."""
    names = [column.name for column in plan.of("key", "time", *USED, "target")]
    table = rows.loc[rows[plan.target].notna(), names].copy()
    for column in plan.columns:
        if column.name not in names or column.name == plan.target and plan.problem != "regression":
            continue
        if column.type == "number" and column.role != "key":
            table[column.name] = table[column.name].astype("float64").replace([np.inf, -np.inf], np.nan)
        elif column.role == "key" or column.type in ("category", "text"):
            table[column.name] = table[column.name].map(str, na_action="ignore")
    return table


def slug(text: str) -> str:
    """Return TEXT as a name for files and modules: lower-case letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "table"


def show(plan: Plan) -> str:
    """Return the columns as a table for people."""
    lines = [("column", "type", "missing", "distinct", "range", "role", "why")]
    for one in plan.columns:
        share = f"{100 * one.missing / plan.n_rows:.0f} %" if one.missing else ""
        lines.append((one.name, one.type, share, f"{one.distinct:,}", one.range[:30], one.role, one.why))
    widths = [max(len(line[place]) for line in lines) for place in range(6)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[6]]).rstrip()
        for line in lines
    )
