"""Compare the distribution of each column of two sets of rows; exit 3 when one has drifted.

python -m {package} drift data/raw/flights-2013-01.parquet data/raw/flights-2013-07.parquet
python -m {package} drift data/raw 'postgresql+psycopg://reader:${PASSWORD}@host/db#flights' --columns distance carrier

A place is a parquet file, a folder of them, or a table or view of a database, written URL#TABLE. Rows are counted a chunk
at a time, so that memory does not grow with them. A column has drifted when its change is certain (Kolmogorov-Smirnov
or chi-squared, Benjamini-Hochberg over all columns) and large (population stability index, PSI). Of a time the hour of the
day is compared, of a date the day of the week, of a list and of free text its length.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from ..core import settings
from ..core.errors import ProjectError, Refused, UsageError
from ..core.project import Project

Chunks: TypeAlias = "Iterable[pl.DataFrame]"
CHUNK_ROWS = 100_000  # fits a processor's cache a column
N_CELLS = 4096  # of a number's range: what KS cannot see is a shift within a cell, 1/4096 of the range
TAIL = 0.0005  # of the first rows on each side outside the cells, so that an outlier does not make them wide
N_BINS = 10  # PSI's thresholds are known for ten bins that hold the same number of rows each
N_VALUES = 100  # of a category are told apart, the rest counts as one
N_SAMPLED = 100_000  # rows from which range and values are found
PSI, ALPHA = 0.2, 0.01  # a change to look at, and how often to be wrong about one, by default


class Column:
    """How often each value of a column was seen: cells of a number's range, or the values of a category."""

    def __init__(
        self,
        low: float = 0,
        step: float = 0,
        values: Iterable[str] = (),
        counts: Iterable[int] = (),
        lengths: bool = False,
    ) -> None:
        self.low, self.step, self.values = low, step, list(values)  # step 0: a category
        self.lengths = lengths  # of free text, in characters, are what is counted
        self.counts = np.array([*counts] or [0] * ((N_CELLS if step else len(self.values)) + 3), dtype=np.int64)

    @classmethod
    def of(cls, sample: pl.Series) -> Column:
        """Return a column of no rows, its cells or values as in SAMPLE."""
        plain, lengths = numbers(sample), False
        if isinstance(plain, pl.Series):
            counted = plain.drop_nulls().alias("value").value_counts(sort=True, name="rows").head(N_VALUES)
            if not (lengths := is_free_text(plain, int(counted["rows"].sum()))):
                return cls(values=counted[:, 0].sort())
            plain = n_characters(plain)
        known = plain[np.isfinite(plain)]
        low, high = np.quantile(known / 2, [TAIL, 1 - TAIL]) if len(known) else (0.0, 0.0)  # halves do not overflow
        return cls(2 * float(low), 2 * (float(high - low) / (N_CELLS - 1)) or 1 / N_CELLS, lengths=lengths)

    def empty(self) -> Column:
        return Column(self.low, self.step, self.values, lengths=self.lengths)

    def add(self, given: pl.Series) -> None:
        """Count the values of a chunk. The last three counts: below the cells, above (or other values), missing."""
        plain = numbers(given)
        if not self.step:
            text = plain if isinstance(plain, pl.Series) else as_text(given, plain)
            counted = text.alias("value").value_counts(name="rows")
            place = {value: number for number, value in enumerate(self.values)} | {None: -1}
            where = [place.get(value, -2) for value in counted[:, 0].to_list()]
            np.add.at(self.counts, where, counted[:, 1].to_numpy())
            return
        if isinstance(plain, pl.Series) and self.lengths:
            plain = n_characters(plain)
        elif isinstance(plain, pl.Series):  # text in a number's place is missing
            plain = (given if given.dtype == pl.Boolean else plain).cast(pl.Float64, strict=False).to_numpy()
        with np.errstate(over="ignore"):  # what is that far out lies above or below all cells
            cells = (plain / 2 - self.low / 2) / (self.step / 2)
        missing = int(np.isnan(cells).sum())
        cells += 1
        np.fmin(cells, N_CELLS + 1, out=cells)  # what is missing, too, comes to lie above
        np.fmax(cells, 0, out=cells)
        seen = np.bincount(cells.astype(np.intp), minlength=N_CELLS + 2)
        self.counts[:N_CELLS] += seen[1:-1]
        self.counts[-3:] += (seen[0], seen[-1] - missing, missing)

    @property
    def n_rows(self) -> int:
        return int(self.counts.sum())

    @property
    def ordered(self) -> np.ndarray:
        """The counts in the order of the numbers: below, cells, above; without what is missing."""
        return np.concatenate([self.counts[-3:-2], self.counts[:-3], self.counts[-2:-1]])

    def share_missing(self) -> float:
        return float(self.counts[-1] / max(self.n_rows, 1))

    def shares(self, other: Column) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return the share of rows in each bin, here and in OTHER, and the bins' names. Bins hold equal parts of these."""
        if not self.step:
            names, counts = [*self.values, "below", "other", "missing"], [self.counts, other.counts]
            there = (counts[0] + counts[1]) > 0
            names = [name for name, some in zip(names, there, strict=True) if some]
            counts = [some[there] for some in counts]
        else:
            here = self.ordered
            before = np.concatenate([[0], here.cumsum()[:-1]])
            bins = np.minimum(before * N_BINS // max(int(here.sum()), 1), N_BINS - 1).astype(np.intp)
            _, starts, bins = np.unique(bins, return_index=True, return_inverse=True)
            counts = [np.append(np.bincount(bins, one.ordered, len(starts)), one.counts[-1]) for one in (self, other)]
            names = [f"from {2 * (self.low / 2 + (start - 1) * (self.step / 2)):.4g}" for start in starts.tolist()] + [
                "missing"
            ]
            names[0] = "lowest"
        smooth = [
            (some + 0.5) / (some.sum() + 0.5 * len(some)) for some in counts
        ]  # an empty bin is not infinitely far
        return smooth[0], smooth[1], names

    def compare(self, other: Column) -> dict[str, Any]:
        """Return how far OTHER is from this: psi, the effect's size (KS distance or Cramér's V, 0 to 1) and p."""
        from scipy import stats

        here, there, names = self.shares(other)
        psi = float(((there - here) * np.log(there / here)).sum())
        told = {"psi": psi, "bins": names, "before": here.round(5).tolist(), "now": there.round(5).tolist()}
        table = np.array([self.counts, other.counts])
        if not self.step:
            return told | {"test": "chi2"} | independence(table)
        missing = independence(np.column_stack([table[:, :-1].sum(1), table[:, -1]]))
        n, m = table[:, :-1].sum(1)
        if not n or not m:
            return told | {"test": "ks"} | missing
        distance = float(np.abs(self.ordered.cumsum() / n - other.ordered.cumsum() / m).max())
        p = float(stats.kstwobign.sf(distance * np.sqrt(n * m / (n + m))))
        if table[:, -1].any():  # two questions are asked of the column
            p = min(2 * min(p, missing["p"]), 1.0)
        return told | {"test": "ks", "effect": max(distance, missing["effect"]), "p": p}

    def as_dict(self) -> dict[str, Any]:
        kept = {"low": self.low, "step": self.step, "values": self.values, "counts": self.counts.tolist()}
        return kept | ({"lengths": True} if self.lengths else {})


class Profile(dict[str, Column]):
    """The columns of a set of rows, by name."""

    @classmethod
    def of(cls, chunks: Callable[[], Chunks]) -> Profile:
        """Return the profile of rows that CHUNKS gives anew each time: once to find ranges, once to count."""
        found = cls({name: Column.of(values) for name, values in sample(chunks()).to_dict().items()})
        for chunk in chunks():
            found.add(chunk)
        return found

    @classmethod
    def from_dict(cls, kept: Mapping[str, dict[str, Any]]) -> Profile:
        return cls({name: Column(**column) for name, column in kept.items()})

    def as_dict(self) -> dict[str, Any]:
        return {name: column.as_dict() for name, column in self.items()}

    def empty(self) -> Profile:
        return Profile({name: column.empty() for name, column in self.items()})

    def add(self, chunk: pl.DataFrame) -> None:
        """Count a chunk; a column that it lacks is missing in all its rows."""
        for name, column in self.items():
            column.add(chunk[name] if name in chunk.columns else pl.Series(name, [None] * len(chunk), pl.String))

    def compare(self, other: Profile, psi: float = PSI, alpha: float = ALPHA) -> dict[str, dict[str, Any]]:
        """Return for each column how OTHER differs, its `q` (p, corrected for the number of columns) and `drifted`."""
        from scipy import stats

        found = {name: column.compare(other[name]) for name, column in self.items()}
        corrected = stats.false_discovery_control([one["p"] for one in found.values()]) if found else []
        for one, q in zip(found.values(), corrected, strict=True):
            one |= {"q": float(q), "drifted": bool(q < alpha and one["psi"] > psi)}
        return found


def independence(table: np.ndarray) -> dict[str, float]:
    """Return Cramér's V and p, by chi-squared, of two rows of counts."""
    from scipy import stats

    if not table.sum(1).all():
        return {"effect": 0.0, "p": 1.0}
    rare = table.sum(0) * table.sum(1).min() / table.sum() < 5  # the test's own condition: together they count as one
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    table = table[:, table.any(0)]
    if table.shape[1] < 2:
        return {"effect": 0.0, "p": 1.0}
    found = stats.chi2_contingency(table, correction=False)
    return {"effect": float(np.sqrt(found.statistic / table.sum())), "p": float(found.pvalue)}


def numbers(given: pl.Series) -> np.ndarray | pl.Series:
    """Return GIVEN as float64, or, when it is a category, as text.

    A time counts as its hour of the day and a date as its day of the week, as all later ones are new; a duration as its
    seconds, a list as its length. What is nested otherwise is compared as the JSON that it is written as.
    """
    kind = given.dtype
    if kind.is_numeric():
        return given.cast(pl.Float64).to_numpy()  # null becomes nan
    if kind in (pl.Datetime, pl.Time):
        return (given.dt.hour() + given.dt.minute() / 60).cast(pl.Float64).to_numpy()
    if kind == pl.Date:
        return given.dt.weekday().cast(pl.Float64).to_numpy()
    if kind == pl.Duration:
        return given.dt.total_microseconds().cast(pl.Float64).to_numpy() / 1e6
    if kind == pl.List:
        return given.list.len().cast(pl.Float64).to_numpy()
    if kind == pl.Array:
        return numbers(given.cast(pl.List(kind.inner)))  # type: ignore[attr-defined]
    if kind == pl.Struct:
        text = given.struct.json_encode()
        return text.set(given.is_null(), None) if given.null_count() else text
    if kind == pl.Binary:
        return given.bin.encode("base64")
    if kind == pl.Object:  # what polars has no type for
        return pl.Series(given.name, [None if cell is None else str(cell) for cell in given.to_list()], dtype=pl.String)
    return given.cast(pl.String)


def is_free_text(texts: pl.Series, n_common: int) -> bool:
    """Say whether TEXTS are sentences, hardly one of them twice: N_COMMON rows have one of the commonest values."""
    known = texts.drop_nulls()
    return (
        len(known) > 3 * N_VALUES
        and n_common < len(known) / 2
        and bool(np.mean(known.str.count_matches(" ").to_numpy()) >= 2)
    )


def n_characters(texts: pl.Series) -> np.ndarray:
    return texts.str.len_chars().cast(pl.Float64).to_numpy()


def as_text(given: pl.Series, plain: np.ndarray) -> pl.Series:
    """Return numbers in a category's place as text, as they are written."""
    return (pl.Series(given.name, plain) if given.dtype.is_nested() else given).cast(pl.String)


def sample(chunks: Chunks) -> pl.DataFrame:
    """Return between N_SAMPLED and twice as many rows, evenly from all; all of them when there are fewer."""
    kept: list[pl.DataFrame] = []
    stride, n_seen, n_kept = 1, 0, 0
    for chunk in chunks:
        kept.append(some := chunk.gather_every(stride, -n_seen % stride))
        n_seen, n_kept = n_seen + len(chunk), n_kept + len(some)
        if n_kept > 2 * N_SAMPLED:
            whole = pl.concat(kept, how="vertical_relaxed").gather_every(2)
            kept, stride, n_kept = [whole], stride * 2, len(whole)
    if not n_seen:
        raise ProjectError("there are no rows to compare with")
    return pl.concat(kept, how="vertical_relaxed")


def read(
    project: Project, place: str, columns: list[str] | None = None, chunk_rows: int = CHUNK_ROWS
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a parquet file, a folder of them, or a table URL#TABLE, CHUNK_ROWS at a time."""
    if "://" in place:
        import sqlalchemy

        url, _, table = place.rpartition("#")
        try:
            engine = sqlalchemy.create_engine(settings.anchored(project, settings.expand(url)))
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:
            said = settings.hide(str(error).splitlines()[0], url)
            raise UsageError(
                f"{place}: {said}; must be URL#TABLE, as in sqlite:///data/predictions.db#labels"
            ) from None
        try:
            schema, _, name = table.rpartition(".")
            chosen: list[Any] = [sqlalchemy.column(one) for one in columns or []] or [sqlalchemy.text("*")]
            query = sqlalchemy.select(*chosen).select_from(sqlalchemy.table(name, schema=schema or None))
            with engine.connect() as connection:
                found = connection.execution_options(yield_per=chunk_rows).execute(query)
                for rows in found.partitions():
                    told = [tuple(row) for row in rows]
                    yield pl.DataFrame(told, schema=list(found.keys()), orient="row", infer_schema_length=None)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise ProjectError(f"{place} cannot be read: {settings.hide(str(error).splitlines()[0], url)}") from error
        finally:
            engine.dispose()
        return
    from pyarrow import ArrowInvalid
    from pyarrow import parquet as pq

    whole = project.path(place)
    files = sorted(whole.glob("*.parquet")) if whole.is_dir() else [whole]
    if not files:
        raise ProjectError(f"no .parquet file in {place}")
    for file in files:
        try:
            with pq.ParquetFile(file, pre_buffer=False) as content:
                for batch in content.iter_batches(chunk_rows, columns=columns):
                    yield pl.DataFrame(pl.from_arrow(batch))
        except ArrowInvalid as error:
            raise ProjectError(f"{file} cannot be read: {error}") from error


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", help="the rows to compare with")
    parser.add_argument("now", help="the rows to judge")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="these alone (default: all)")
    parser.add_argument("--psi", type=float, default=PSI, help="least change that counts (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    first = next(read(project, options.before, chunk_rows=1), None) if options.columns else None
    if first is not None and (unknown := [name for name in options.columns if name not in first.columns]):
        raise UsageError(f"no column {unknown[0]!r} in {options.before}; there are: {', '.join(first.columns)}")
    before = Profile.of(lambda: read(project, options.before, options.columns))
    now = before.empty()
    for chunk in read(project, options.now, options.columns):
        now.add(chunk)
    if not any(one.n_rows for one in now.values()):
        raise ProjectError(f"there are no rows in {options.now}: nothing can be said of them")
    found = before.compare(now, options.psi)
    drifted = [name for name, one in found.items() if one["drifted"]]
    if options.json:
        print(json.dumps(found))
    else:
        for name, one in sorted(found.items(), key=lambda item: -item[1]["psi"]):
            mark = "drifted" if one["drifted"] else ""
            print(f"{name:<24} PSI {one['psi']:8.3f}  {one['test']:<4} {one['effect']:.3f}  q {one['q']:.1e}  {mark}")
    if drifted:
        raise Refused(f"{len(drifted)} of {len(found)} columns have drifted: {', '.join(drifted)}")
