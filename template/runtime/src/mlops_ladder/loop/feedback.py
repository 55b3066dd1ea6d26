"""Join labels, which come late, to the predictions in the log: by key, or by request id and row.

python -m {package} feedback labels.parquet
python -m {package} feedback labels.csv --source billing --json

The file has the columns of KEY in data.py, or request_id and row, and the target under its name or as `label`; `at`
says when each was known, else it is now. A label may come before its prediction, and twice. Another label for the same
key replaces the one before if it was known later, or else is kept aside, as are labels that SCHEMA does not allow. Exit
3 when a delivery contradicts so much that none of it is believed: conf/prediction_log.yml says how much that is. To have it
believed all the same, --override --reason WHY, which the audit log keeps.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sql

from ..core import files
from ..core.errors import ProjectError, Refused, UsageError
from ..core.nearest import check_file
from ..core.project import Project
from ..data.problem import problem_of
from ..data.rows import TRUTH, as_kind
from ..serving.score import ending, read_file
from . import audit, forgotten
from .prediction_log import (
    ASIDE,
    COUNTS,
    LABELS,
    PORTION,
    PREDICTIONS,
    PredictionLog,
    by_id,
    naive,
    now,
    open_log,
    plain,
)

SIGMAS = 3  # a correlation this far from none is not chance
AHEAD = timedelta(minutes=5)  # clocks differ; a label from further in the future could not be corrected until then
SPAN = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)  # a zone leads out of it
RECENT = 300  # labels of a source that are held against the predictions together, where a delivery is smaller
AT_ONCE = 5_000  # values in one query
FLIPS = ("replaced", "contradicts")


class Disbelieved(Refused):
    """A delivery of labels that is kept aside as a whole."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help=".parquet or .csv")
    parser.add_argument(
        "--source", default="feedback", help="who says so: each is judged by itself (default: %(default)s)"
    )
    parser.add_argument("--override", action="store_true", help="believe this delivery however much it contradicts")
    parser.add_argument("--reason", help="why it is overridden, in a sentence; it is kept")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if options.override and not (options.reason or "").strip():
        raise UsageError("an override needs --reason: somebody will ask why")
    check_file(options.file)
    ending(options.file)


def run(project: Project, options: argparse.Namespace) -> None:
    log = open_log(project)
    given = list(read(options.file, log))
    if options.override:
        facts = {"file": str(options.file), "sha256": files.sha256(options.file), "labels": len(given)}
        audit.record(project, "override", f"labels of {options.source}", options.reason, **facts)
    done = add_labels(log, given, options.source, options.override)
    outcomes = ", ".join(f"{n:,} {outcome}" for outcome, n in done.items()) or "there are none"
    print(json.dumps(done) if options.json else f"labels of {options.source}: {outcomes}")
    if n_wrong := done["out_of_range"]:
        wrong = dict.fromkeys(str(one["label"]) for one in given if not allowed(project, number_in(log, one["label"])))
        such = f" ({', '.join([*wrong][:5])})" if log.problem.classes and wrong else ""
        raise Refused(
            f"{n_wrong:,} labels are no {project.data.TARGET} that SCHEMA in data.py allows{such}: "
            "mend them at their source"
        )


def read(file: Path, log: PredictionLog) -> Iterator[dict[str, Any]]:
    """Yield the labels in FILE; an empty cell is no label."""
    keys = [log.project.data.KEY] if isinstance(log.project.data.KEY, str) else list(log.project.data.KEY)
    text = {"type": "text"}
    labels = {name: {"type": "text"} for name in (log.project.data.TARGET, "label") if log.problem.classes}
    table = read_file(
        file, {**labels, "request_id": text, "at": text, **{name: log.project.data.SCHEMA[name] for name in keys}}
    )
    column = next((name for name in (log.project.data.TARGET, "label") if name in table), None)
    by_request = "request_id" in table and "request_id" not in keys
    if column is None or not (by_request or set(keys) <= set(table)):
        raise ProjectError(
            f"{file} must have a column {log.project.data.TARGET} or label, and {', '.join(keys)} or request_id: "
            f"it has {', '.join(map(str, table))}"
        )
    table = table[table[column].notna()]
    rows = pd.DataFrame({"label": as_labels(log.project, table[column])})
    try:
        at = pd.to_datetime(table["at"], utc=True, format="ISO8601") if "at" in table else pd.NaT
        rows["at"] = at.clip(*SPAN) if isinstance(at, pd.Series) else at
        if by_request:
            rows["request_id"] = table["request_id"].astype("str")
            numbers = table.get("row", pd.Series(0, table.index)).fillna(0)
            rows["row"] = numbers.astype("int64")
            if (rows["row"] != numbers).any():
                raise ValueError("it is none of 0, 1, 2 ...")
    except (ValueError, TypeError) as error:
        said = str(error).partition(" You might")[0]
        raise ProjectError(f"{file}: `at` must be a time as in 2013-07-01T06:00, `row` a number: {said}") from None
    if not by_request:
        for name in keys:
            rows[name] = as_kind(table[name], log.project.data.SCHEMA[name])
    for one in rows.to_dict(orient="records"):
        at = None if pd.isna(one["at"]) else one["at"].to_pydatetime()
        place = {"request_id": one["request_id"], "row": one["row"]} if "row" in one else {"key": log.key_of(one)}
        if pd.isna(next(iter(place.values()))):
            what = "request_id" if by_request else ", ".join(keys)
            raise ProjectError(f"{file}: a label has no {what}: drop it, or give it one")
        yield place | {"label": one["label"], "at": at}


def as_labels(project: Project, given: pd.Series) -> pd.Series:
    """Return labels as float64, true as 1 where the target is true or false; what is none is missing.

    Of several classes they stay as they are.
    """
    if problem_of(project).classes:
        return given.astype("object")
    if project.data.SCHEMA[project.data.TARGET]["type"] == "boolean":
        given = given.map(lambda cell: TRUTH.get(cell, cell) if isinstance(cell, str) else cell).astype("object")
        given = given.map(lambda cell: float(cell) if isinstance(cell, bool | np.bool_) else cell)
    return as_kind(given, {"type": "number"})


def add_labels(
    log: PredictionLog, labels: Iterable[dict[str, Any]], source: str = "feedback", override: bool = False
) -> Counter[str]:
    """Keep LABELS, each {key or request_id and row, label, at: when it was known}, and return what became of how many; raises Disbelieved.

    added, of these early (there is no prediction, perhaps not yet), duplicate, replaced (the label before was another,
    and known earlier), contradicts (it was known no earlier: this one is kept aside), out_of_range (kept aside), forgotten
    (of a key that was: it is kept nowhere).
    """
    done, given = Counter[str](), list(labels)
    n_labels, given = len(given), forgotten.without(log, given)
    if n_labels > len(given):
        done["forgotten"] = n_labels - len(given)
    portions = [given[start : start + PORTION] for start in range(0, len(given), PORTION)]
    doubt, alone = "", len(portions) == 1
    if not (override or alone):
        with log.connection() as connection:  # all of it is judged before any of it is written
            doubt = objection(one_by_one(log, connection, portions, source))
    for some in portions:
        with log.connection(write=True) as connection:
            delivery = Delivery(log, connection, some, source)
            if alone and not override:
                doubt = objection([delivery])
            done += delivery.reject() if doubt else delivery.keep()
    if doubt:
        raise Disbelieved(
            f"{doubt}: {len(given):,} labels of {source} are kept aside in label_conflicts; "
            "look at them, mend the source, or take them all the same with --override --reason WHY"
        )
    return done


class Delivery:
    """Labels that came together, sorted by what is known of their keys; nothing is written until it is decided."""

    def __init__(
        self,
        log: PredictionLog,
        connection: sql.Connection,
        given: list[dict[str, Any]],
        source: str,
        earlier: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        """EARLIER: what came before in the same delivery and is not written yet, by key."""
        self.log, self.connection, self.source, self.received = log, connection, source, now()
        of, ids = PREDICTIONS.c, {one["request_id"] for one in given if not one.get("key")}
        known = self.look_up(sql.select(of.request_id, of.row, of.key), of.request_id, ids)
        places = {by_id(request_id, row): key for request_id, row, key in known}
        named = [
            log.as_written(log.project.data.KEY, one["key"])
            if one.get("key")
            else plain(by_id(one["request_id"], one.get("row", 0)))
            for one in given
        ]
        self.keys = [places.get(name, name) for name in named]
        predicted = dict(self.look_up(sql.select(of.key, of.prediction).where(of.answered), of.key, self.keys))
        there = {one.key: dict(one._mapping) for one in self.look_up(sql.select(LABELS), LABELS.c.key, self.keys)}
        there |= {key: earlier[key] for key in self.keys if key in earlier} if earlier else {}
        self.done, self.fresh = Counter[str](), dict[str, dict[str, Any]]()
        self.aside: list[dict[str, Any]] = []
        self.pairs: list[tuple[float, float]] = []
        self.given: list[dict[str, Any]] = []
        for key, one in zip(self.keys, given, strict=True):
            at, label = naive(one.get("at") or self.received), number_in(log, one["label"])
            told = {"key": key, "at": at, "label": label, "source": source, "received": self.received}
            self.given.append(told)
            before = there.get(key)
            if not allowed(log.project, label) or at > self.received + AHEAD:
                self.set_aside(told, "out_of_range")
                continue
            now_known = told | {"label": float(label), "confirmed": at}
            if before is None:
                self.done["added"] += 1
                self.done["early"] += key not in predicted
                if key in predicted:
                    self.pairs.append((predicted[key], float(label)))
            elif before["label"] == label:
                self.done["duplicate"] += 1
                now_known = before | {"confirmed": max(at, before["confirmed"])}
            elif at > before["confirmed"]:
                self.set_aside(told | {"at": before["at"], "label": before["label"]}, "replaced")
            else:
                self.set_aside(told, "contradicts")
                continue
            there[key] = self.fresh[key] = now_known

    def look_up(self, query: sql.Select[Any], column: sql.Column[Any], values: Iterable[str]) -> Iterator[Any]:
        wanted = sorted(set(values))
        for start in range(0, len(wanted), AT_ONCE):
            yield from self.connection.execute(query.where(column.in_(wanted[start : start + AT_ONCE])))

    def set_aside(self, told: dict[str, Any], why: str) -> None:
        self.done[why] += 1
        self.aside.append(told | {"label": str(told["label"])[:60], "why": why})

    def before(self, since: datetime, n_rows: int) -> list[tuple[float, float]]:
        """Return prediction and label of the newest keys that this source has labelled SINCE: it may send one by one."""
        if n_rows <= 0:
            return []
        of, there = PREDICTIONS.c, LABELS.c
        mine = sql.select(there.key, there.label).where(there.source == self.source, there.received >= since)
        newest = mine.where(there.key.not_in(self.keys)).order_by(there.received.desc()).limit(n_rows).subquery()
        last = sql.select(of.prediction).where(of.key == newest.c.key, of.answered).order_by(of.number.desc()).limit(1)
        found = self.connection.execute(sql.select(last.scalar_subquery().label("prediction"), newest.c.label))
        return [(one.prediction, one.label) for one in found if one.prediction is not None]

    def keep(self) -> Counter[str]:
        self.log.put(self.connection, LABELS, list(self.fresh.values()))
        return self.settle()

    def reject(self) -> Counter[str]:
        self.done, self.aside = Counter(), []
        for told in self.given:
            self.set_aside(told, "disbelieved")
        return self.settle()

    def settle(self) -> Counter[str]:
        """Write down what is kept aside and the counts."""
        self.done = +self.done  # without zeros
        if self.aside:
            self.connection.execute(ASIDE.insert(), self.aside)
        if self.done:
            new = self.log.insert(COUNTS)
            more = new.on_conflict_do_update(index_elements=["outcome"], set_={"n": COUNTS.c.n + new.excluded.n})
            self.connection.execute(more, [{"outcome": outcome, "n": n} for outcome, n in self.done.items()])
        return self.done


def one_by_one(
    log: PredictionLog, connection: sql.Connection, portions: list[list[dict[str, Any]]], source: str
) -> Iterator[Delivery]:
    """Yield each portion, sorted by what is known once those before it are taken."""
    earlier: dict[str, dict[str, Any]] = {}
    for some in portions:
        delivery = Delivery(log, connection, some, source, earlier)
        earlier |= delivery.fresh
        yield delivery


def objection(portions: Iterable[Delivery]) -> str:
    """Return why a delivery is not believed, nothing when it is."""
    flips, n_labels, pairs = 0, 0, list[tuple[float, float]]()
    for one in portions:
        flips += sum(one.done[why] for why in FLIPS)
        n_labels, pairs = n_labels + len(one.keys), pairs + one.pairs
    if not n_labels:
        return ""
    conf = one.log.conf.labels
    since = one.received - timedelta(hours=conf.window_h)
    if flips:
        mine = [[of.source == one.source, of.received >= since] for of in (ASIDE.c, LABELS.c)]
        count = sql.select(sql.func.count())
        flips += one.connection.scalar(count.where(*mine[0], ASIDE.c.why.in_(FLIPS))) or 0
        n_labels += one.connection.scalar(count.where(*mine[1])) or 0
        if flips >= conf.min_flips and flips > conf.max_flip_share * n_labels:
            return f"{flips:,} of {n_labels:,} labels within {conf.window_h:g} h contradict earlier ones"
    for some in (pairs, pairs + one.before(since, RECENT - len(pairs))):
        predicted, labels = np.array(some).reshape(-1, 2).T
        if len(labels) > SIGMAS**2 and predicted.std() and labels.std():
            found = one.log.problem.agreement(predicted, labels)
            if found < -max(conf.against, SIGMAS / math.sqrt(len(labels))):
                return (
                    f"the labels say the opposite of the predictions (correlation {found:.2f} in {len(labels):,} rows)"
                )
    return ""


def number_in(log: PredictionLog, label: Any) -> Any:
    """Return LABEL as the log stores it; one that is no class stays as it is."""
    known = {str(name): number for name, number in log.problem.stored.items()}
    return known.get(str(label), label)


def allowed(project: Project, label: Any) -> bool:
    """Return whether SCHEMA allows LABEL as the target."""
    rule = project.data.SCHEMA[project.data.TARGET]
    if numbers := problem_of(project).stored:
        return label in numbers.values()
    if isinstance(label, str) or not isinstance(label, float | int | np.number | np.bool_):
        return False
    if rule["type"] == "boolean":
        return label in (0, 1)
    if isinstance(label, bool | np.bool_):
        return False
    return math.isfinite(label) and rule.get("min", -math.inf) <= label <= rule.get("max", math.inf)
