"""How a project's rows are ordered and cut: by data.TIME or, without one, by the hash of data.GROUP or data.KEY.

All that depends on whether a table has a time is decided here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import ProjectError
from ..core.project import Project

if TYPE_CHECKING:
    import pandas as pd

WHOLE = "all"  # what a file of rows is called that belong to no month


@dataclass(frozen=True)
class Split:
    """The column whose time or hash decides to which part a row belongs; `cuts` are where validation and test begin.

    The same row is always in the same part: by time, or by a hash that later rows do not change.
    """

    column: str
    by: str = "time"  # or "hash"
    group: str | None = None  # rows with the same value are never in two parts
    seed: int = 0  # of the hash
    cuts: tuple[str, ...] = ()

    @property
    def by_time(self) -> bool:
        return self.by == "time"

    @property
    def facts(self) -> dict[str, Any]:
        """What a file keeps of it; `read` makes a split of that again."""
        return {**asdict(self), "cuts": list(self.cuts)}

    def position(self, rows: pd.DataFrame) -> pd.Series:
        """Return where each row stands in the order in which rows are cut: its time, or its hash as a number, 0 to 1."""
        if self.by_time:
            return rows[self.column]
        import pandas as pd

        texts = rows[self.column].astype(str)
        if self.group:  # a row of no group is one of its own
            texts = rows[self.group].astype(str).where(rows[self.group].notna(), texts)
        hashes = pd.util.hash_array(texts.to_numpy(dtype=object), hash_key=f"mlops-ladder{self.seed:04}")
        return pd.Series(hashes / 2.0**64, index=rows.index)

    def ordered(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return ROWS in the order in which they are cut: oldest first, or mixed by their hash."""
        order = self.position(rows).reset_index(drop=True).sort_values(kind="stable").index
        return rows.iloc[order].reset_index(drop=True)

    def at(self, rows: pd.DataFrame, validation: float, test: float) -> Split:
        """Return the split with the cuts that make about these shares of ROWS validation and test."""
        shares = (1 - validation - test, 1 - test)
        if not self.by_time:
            return replace(self, cuts=tuple(str(round(share, 10)) for share in shares))
        moments = rows[self.column].sort_values(ignore_index=True)
        return replace(self, cuts=tuple(str(moments[int(len(rows) * share)]) for share in shares))

    def parse(self, text: str) -> Any:
        """Return the position that TEXT, of `cuts` or of a period, stands for."""
        import pandas as pd

        return pd.Timestamp(text) if self.by_time else float(text)

    def cut(self, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return the rows of train, validation and test.

        By time, a group that spans a cut stays in the earlier part; its rows from after the cut are in none.
        """
        first, second = map(self.parse, self.cuts)
        moments = self.position(rows)
        part = (moments >= first).astype(int) + (moments >= second)
        known = moments.notna()
        if self.by_time and self.group:
            known &= part == part.groupby(rows[self.group]).transform("min").fillna(part)
        return {name: rows[known & (part == number)] for number, name in enumerate(("train", "validation", "test"))}

    def unseen(self, rows: pd.DataFrame, *others: pd.DataFrame) -> np.ndarray:
        """Return which of ROWS a model that learned by this split cannot have seen; OTHERS may be of the same groups."""
        if not {self.column, *([self.group] if self.group else [])} <= set(rows):
            return np.zeros(len(rows), dtype=bool)
        cut = self.parse(self.cuts[0])
        later = self.position(rows) >= cut
        for part in (rows, *others) if self.by_time and self.group else ():
            later &= ~rows[self.group].isin(part[self.group][self.position(part) < cut].dropna())
        return later.to_numpy()

    def period(self, rows: pd.DataFrame) -> dict[str, Any]:
        """Return the first and the last position of ROWS and how many they are."""
        moments = self.position(rows)
        return {"from": str(moments.min()), "to": str(moments.max()), "rows": len(rows)}

    def within(self, rows: pd.DataFrame, period: dict[str, Any]) -> pd.DataFrame:
        """Return those of ROWS that lie in PERIOD, both ends included."""
        return rows[self.position(rows).between(self.parse(period["from"]), self.parse(period["to"]))]

    def __str__(self) -> str:
        """By what rows are split, for people: "the hash of passenger_id, seed 0"."""
        if not self.by_time:
            return f"the hash of {self.group or self.column}, seed {self.seed}"
        return f"time, {self.column}" + (f", groups of {self.group} whole" if self.group else "")

    @property
    def held_out(self) -> str:
        """What the rows of the test are to those of training: "later" or "other"."""
        return "later" if self.by_time else "other"

    def sentence(self, counts: dict[str, int]) -> str:
        """Return which split was made, with the rows of each part."""
        return f"split by {self}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items())


def of(project: Project, seed: int = 0, source: Any = None) -> Split:
    """Return how the rows of a project are split, without cuts; SOURCE is its data.py where it is not that of now."""
    source = source or project.data
    time, group = getattr(source, "TIME", None), getattr(source, "GROUP", None)
    return Split(time, group=group) if time else Split(source.KEY, "hash", group, seed)


def read(project: Project, facts: dict[str, Any], source: Any = None) -> Split:
    """Return the split that FACTS of a file describe; one from before there was a choice is by time."""
    cuts = tuple(facts.get("cuts", ()))
    if "by" not in facts:
        time = getattr(source or project.data, "TIME", None)
        return Split(time or "", cuts=cuts)
    return Split(facts["column"], facts["by"], facts["group"], facts["seed"], cuts)


def holdout(project: Project, rows: pd.DataFrame, share: float = 0.2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to train on and, held out, about SHARE of them: the newest or, without a time, by the hash."""
    parts = of(project).at(rows, 0, share).cut(rows)
    return parts["train"], parts["test"]


def oldest_first(project: Project, rows: pd.DataFrame) -> pd.DataFrame:
    """Return ROWS by time and key; without a time by key alone, so that the same rows come in the same order."""
    time = time_column(project)
    return rows.sort_values([*([time] if time else []), project.data.KEY], ignore_index=True)


def time_column(project: Project) -> str | None:
    """Return the column with a row's time, None where the table has none: then the moment of arrival counts."""
    return getattr(project.data, "TIME", None)


def need_time(project: Project, what: str) -> str:
    """Return the column with a row's time; raises ProjectError, which says that WHAT needs one, without."""
    if time := time_column(project):
        return time
    raise ProjectError(f"{what} needs the time of each row, and TIME in data.py is None: name a column of SCHEMA there")


def months(project: Project, rows: pd.DataFrame) -> pd.Series:
    """Return the month of each row, YYYY-MM, by which files of rows are made; WHOLE for rows without a time."""
    import pandas as pd

    if time := time_column(project):
        return rows[time].dt.strftime("%Y-%m")
    return pd.Series(WHOLE, index=rows.index)


def span(project: Project, rows: pd.DataFrame) -> dict[str, str]:
    """Return the first and the last time of ROWS, {} without a time."""
    time = time_column(project)
    return {"from": str(rows[time].min()), "to": str(rows[time].max())} if time else {}
