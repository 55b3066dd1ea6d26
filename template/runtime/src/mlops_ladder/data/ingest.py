"""Gather new monthly files from the source in conf/data.yml into the data store.

python -m {package} ingest
python -m {package} ingest --since 2013-06
python -m {package} ingest --accept-changed    # also replace files that changed after they were gathered

Run it as often as you like: what is there stays as it is, and what a killed run left undone the next one does.
A file that is broken, or that changed at the source, is refused (exit 3) and harms nothing; the others are gathered.
A month that is not over yet waits. Where each file came from, and when, stands in the store's manifest.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ..core import files, levels
from ..core.errors import ProjectError, Refused, UsageError
from ..core.project import Project
from . import sources, split, store

TELL_S = 5  # seconds between two lines about one long file


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", metavar="YYYY-MM", default="", help="only this month and later ones")
    parser.add_argument("--accept-changed", action="store_true", help="replace files that changed at the source")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.since and not sources.MONTH.fullmatch(options.since):
        raise UsageError(f"--since is {options.since!r}, must be a month such as 2013-06")
    if options.since:
        split.need_time(project, "--since")
    conf = store.read(project)
    with files.locked(conf.home / ".lock"):
        done = gather(project, conf, options.since, options.accept_changed)
    refused = done["refused"]
    if options.json:
        print(json.dumps({"store": str(conf.raw), **done}, indent=2, ensure_ascii=False))
    else:
        line = f"gathered {len(done['gathered'])} files, {sum(done['gathered'].values()):,} rows, into {conf.raw}"
        print(f"{line}; {len(done['unchanged'])} unchanged, {len(refused)} refused")
    if refused:
        raise Refused("\n  ".join(["not gathered:", *(f"{name}: {reason}" for name, reason in refused.items())]))


def gather(project: Project, conf: store.Store, since: str = "", accept_changed: bool = False) -> dict[str, Any]:
    """Bring the store up to date; return the rows of each file gathered, the files unchanged, why others were refused.

    The caller holds the store's lock. The manifest is written after each file, and only when something is new.
    """
    offer = sources.reach(project, conf.source)
    items = sorted(offer.items(), key=lambda item: (item.month or "", item.name))
    if not items:
        raise ProjectError(f"{conf.source.url} has no .parquet file: mend source.url in conf/data.yml")
    now = f"{datetime.now(UTC):%Y-%m}"
    waiting = [item.name for item in items if split.time_column(project) and item.month and item.month >= now]
    items = [item for item in items if item.name not in waiting and (item.month or since) >= since]
    done: dict[str, Any] = {"gathered": {}, "unchanged": [], "waiting": waiting, "refused": {}}
    for name in waiting:
        say(f"{name}: waits, its month is not over")
    for number, item in enumerate(items, 1):
        try:
            n_rows = take(project, item, offer, conf, accept_changed)
        except Refused as reason:
            done["refused"][item.name] = str(reason)
            say(f"{item.name}: refused ({number} of {len(items)})")
            continue
        except OSError as error:
            why = error.strerror or str(error)
            raise ProjectError(f"{item.name}: {why}; {conf.home} is whole, mend that and run this again") from error
        if n_rows is None:
            done["unchanged"].append(item.name)
        else:
            done["gathered"][item.name] = n_rows
            say(f"{item.name}: {n_rows:,} rows ({number} of {len(items)})")
    return done


def take(
    project: Project, item: sources.Item, offer: sources.Offer, conf: store.Store, accept_changed: bool
) -> int | None:
    """Put one file into the store and the manifest; return its rows, or None when the store has it already.

    Nor does it take one again that was kept as long as it may be. Raises Refused when it does not hold, or is no longer
    what was gathered: that is replaced on request only.
    """
    known = store.read_manifest(conf)
    before, target, mark = known.get(item.name), conf.raw / item.name, offer.mark(item)
    if before and "expired" in before:
        return None
    if before and mark and before["mark"] == mark and target.is_file() and target.stat().st_size == before["bytes"]:
        return None
    with store.staging(conf) as folder:
        staged = folder / item.name
        offer.fetch(item, staged, teller(item.name))
        for module in levels.modules(project, "sieves"):
            if n_left_out := module.sieve(project, conf, staged):
                say(f"{item.name}: {n_left_out:,} rows are left out: they were forgotten")
        sha256, kept = files.sha256(staged), files.sha256(target) if target.is_file() else None
        if kept not in (None, sha256) and not accept_changed:
            raise Refused(f"is no longer what stands in {target}, which stays; --accept-changed replaces it")
        n_rows = check_file(project, staged, item, conf)
        entry: dict[str, Any] = {"bytes": staged.stat().st_size, "mark": mark, "rows": n_rows, "sha256": sha256}
        # the same bytes: put there by hand, or by a run that was killed before it noted them
        old = target if kept != sha256 else None
        n_new = count_new(project, staged, n_rows, old, before["rows"] if before else 0)
        if kept != sha256:
            files.put_in_place(staged, target)
    if before and before["sha256"] == sha256:  # the same content with another time stamp, or gone from the store
        entry = {**before, "mark": mark}
    else:
        gathered = datetime.now(UTC).isoformat(timespec="seconds")
        entry |= {"origin": item.origin, "gathered": gathered} | ({"replaces": kept} if kept and kept != sha256 else {})
        if before:
            added = store.rows_added(before)
            entry["added"] = {**added, gathered: added.get(gathered, 0) + n_new}
    store.write_manifest(conf, {**known, item.name: entry})
    return None if kept == sha256 else n_rows


def count_new(project: Project, file: Path, n_rows: int, old: Path | None, n_rows_before: int) -> int:
    """Return how many of FILE's rows are new beside those of OLD, which it replaces: the ones with a key that OLD has not.

    A row whose cells were corrected was there before, and one that is left out takes nothing away. Where OLD or its keys
    are not to be had, FILE's rows beyond N_ROWS_BEFORE count.
    """
    from pyarrow import parquet as pq

    with contextlib.suppress(pa.ArrowException, OSError):
        if old and all(project.data.KEY in pq.read_schema(one).names for one in (file, old)):
            now, then = (pd.read_parquet(one, columns=[project.data.KEY])[project.data.KEY] for one in (file, old))
            return int((~now.isin(then)).sum())
    return max(0, n_rows - n_rows_before)


def check_file(project: Project, file: Path, item: sources.Item, conf: store.Store) -> int:
    """Return the number of rows of FILE, which stands alone in its folder; raises Refused that says what is wrong.

    Your data.read must make rows of it with the columns of SCHEMA, all within the month of its name, and no key that
    another file of that month has; without a time the name may be any, and no other file may have the key. Whether the
    values are any good is another check's business.
    """
    from pyarrow import parquet as pq

    time = split.time_column(project)
    if time and not item.month:
        raise Refused("its name holds no month as YYYY-MM; rows without a time need none: TIME = None in data.py")
    try:
        n_rows = pq.ParquetFile(file).metadata.num_rows
    except (pa.ArrowException, OSError):
        raise Refused(f"is not a whole parquet file ({file.stat().st_size:,} bytes)") from None
    if not n_rows:
        raise Refused("has no rows")
    try:
        rows = project.data.read(file.parent)
    except Exception as error:  # your code on a file that may hold anything
        raise Refused(f"data.read fails on it: {type(error).__name__}: {error}") from error
    if absent := [name for name in project.data.SCHEMA if name not in rows]:
        raise Refused(f"has no column {', '.join(absent)}, which SCHEMA in data.py asks for")
    is_kind = {"number": pd.api.types.is_numeric_dtype, "time": pd.api.types.is_datetime64_any_dtype}
    for name, rule in project.data.SCHEMA.items():
        fits = is_kind.get(rule["type"], lambda _: True)
        if rows[name].notna().any() and not fits(rows[name]):
            raise Refused(f"column {name} holds {rows[name].dtype}, SCHEMA in data.py says {rule['type']}")
    if time and len(strays := rows[time].dt.tz_localize(None)[split.months(project, rows) != item.month]):
        raise Refused(f"{len(strays):,} rows are not of {item.month}: {time} is {strays.iloc[0]}")
    for other in sorted(conf.raw.glob("*.parquet")):
        near = not time or (item.month or "") in other.name
        if other.name != item.name and near and project.data.KEY in pq.read_schema(other).names:
            twice = rows[project.data.KEY].isin(pd.read_parquet(other, columns=[project.data.KEY])[project.data.KEY])
            if twice.any():
                first = rows[project.data.KEY][twice].iloc[0]
                raise Refused(f"{twice.sum():,} of its rows are in {other} already: {project.data.KEY} {first}")
    return n_rows


def teller(name: str) -> sources.Tell:
    """Return a function that says how far a long file is, not more often than is good to read."""
    last = time.monotonic()

    def tell(progress: str) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_S:
            last = time.monotonic()
            say(f"{name}: {progress}")

    return tell


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
