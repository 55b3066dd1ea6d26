"""Delete what was kept as long as data/catalog.yml says: log and labels, gathered files, data versions, outputs, reports.

python -m {package} retention --dry-run
python -m {package} retention

`retention_days` of a data set counts from when a file was written and, of raw, gathered; `ingest` does not gather again
what went. Predictions and labels go after keep_days of conf/prediction_log.yml where that is less. A data version goes
when no run used it for as long as `snapshot` is kept, unless a version that learned from it is in use.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from ..core import clock, files
from ..core.errors import Busy, ProjectError
from ..core.progress import say
from ..core.project import Project
from ..data import store, versions
from ..release import data_sets, environments, judgement
from ..training import pipeline, tracking
from . import audit, forget, prediction_log
from .prediction_log import PredictionLog

LOG = "predictions"  # the data set that is the prediction log, wherever its database is
LIVE = "live"  # folder whose newest file says how far `stream-features` has come


@dataclass(frozen=True)
class Expired:
    """What of a data set is older than it may be."""

    name: str
    days: int
    n: int
    what: str  # files, versions, predictions and labels
    delete: Callable[[], Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="delete nothing, print what would go")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    old = [*expired(project)]
    if options.dry_run or not old:
        return show(options, old, "would be deleted")
    try:
        with forget.undisturbed(project):
            old = [*expired(project)]  # again, now that nobody else is at it
            for one in old:
                one.delete()
    except Busy as error:
        return print(json.dumps({"busy": True}) if options.json else f"nothing is deleted now: {error}")
    facts = {f"{one.name}: {one.what}": one.n for one in old}
    audit.record(project, "retention", str(data_sets.FILE), "kept as long as it says", deleted=facts)
    show(options, old, "deleted")


def show(options: argparse.Namespace, old: list[Expired], what: str) -> None:
    if options.json:
        return print(json.dumps([{"name": one.name, "days": one.days, one.what: one.n} for one in old]))
    lines = [f"{one.name}: {one.n:,} {one.what} older than {one.days:,} days {what}" for one in old]
    print("\n".join(lines) or "nothing is older than data/catalog.yml says")


def expired(project: Project) -> Iterator[Expired]:
    """Yield what is to go, data set by data set, in the order of the catalogue; raises ProjectError where one is too much."""
    conf, log = store.read(project), prediction_log.open_log(project)
    for name, entry in data_sets.read(project).datasets.items():
        days, place = entry.retention_days, project.path(entry.path)
        if not days:
            continue
        if any(one.resolve().is_relative_to(place.resolve()) for one in (project.folder, conf.home)):
            raise ProjectError(
                f"{data_sets.FILE}: {name}: path {entry.path} holds more than a data set: name its folder"
            )
        end = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
        if name == LOG or (log.file and place.resolve() == log.file.resolve()):
            kept = min(days, log.conf.keep_days)
            if n_rows := log.older_than(kept):
                yield Expired(name, kept, n_rows, "predictions and labels", partial(prune, log, kept))
        elif "://" in entry.path:
            continue  # whoever keeps it deletes it
        elif place.resolve() == conf.raw.resolve():
            if names := gathered_before(conf, end):
                yield Expired(name, days, len(names), "files", partial(expire, conf, names))
        elif old := [file for file in inside(place) if written_before(file, end)]:
            yield Expired(name, days, len(old), "files", partial(delete, old, place))
        if place.resolve() == project.path(pipeline.SNAPSHOT).resolve() and (unused := unused_since(project, end)):
            yield Expired(name, days, len(unused), "versions", partial(versions.delete, project, unused))


def prune(log: PredictionLog, days: int) -> None:
    while log.prune(days):
        pass
    if held := log.held():
        say(f"bytes of what was deleted stay in {held} while somebody reads the log; the next run looks again")


def inside(place: Path) -> list[Path]:
    """Return the files of a data set; a lock holds none of its rows."""
    found = [place] if place.is_file() else files.files_in(place)
    return [file for file in found if not file.name.endswith(".lock")]


def written_before(file: Path, end: datetime) -> bool:
    if is_newest_of_stream(file) and not has_rows(file):
        return False  # it is empty already
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).replace(tzinfo=None) < end


def is_newest_of_stream(file: Path) -> bool:
    return file.parent.name == LIVE and file.suffix == ".parquet" and file == max(file.parent.glob("*.parquet"))


def has_rows(file: Path) -> bool:
    from pyarrow import parquet as pq

    return pq.ParquetFile(file).metadata.num_rows > 0


def delete(old: list[Path], place: Path) -> None:
    """Delete the files OLD, and the folders in PLACE that are empty then; the newest of a stream only loses its rows."""
    from pyarrow import parquet as pq

    for file in sorted(old):
        if is_newest_of_stream(file):
            with files.whole(file) as part:
                pq.write_table(pq.read_schema(file).empty_table(), part)
        else:
            file.unlink(missing_ok=True)
    for folder in sorted({file.parent for file in old}, reverse=True):
        if folder != place and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def gathered_before(conf: store.Store, end: datetime) -> list[str]:
    """Return the names of the gathered files that came before END, and of those that are marked and still there."""
    known = store.read_manifest(conf)
    names = []
    for file in sorted(conf.raw.glob("*.parquet")):
        entry = known.get(file.name)
        came = clock.moment(entry["gathered"]) if entry else datetime.fromtimestamp(file.stat().st_mtime, UTC)
        if came.replace(tzinfo=None) < end or (entry and "expired" in entry):
            names.append(file.name)
    return names


def expire(conf: store.Store, names: list[str]) -> None:
    """Delete gathered files; the manifest says so first, or `ingest` would bring them back."""
    known = store.read_manifest(conf)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    store.write_manifest(conf, known | {name: {"expired": now, **known[name]} for name in names if name in known})
    for name in names:
        (conf.raw / name).unlink(missing_ok=True)


def unused_since(project: Project, end: datetime) -> list[str]:
    """Return the data versions that no run used since END and no version in use learned from."""
    _, client = tracking.open_store(project)
    used = dict[str, datetime]()
    for one in tracking.search(project, client):
        began = datetime.fromtimestamp(one.info.start_time / 1000, UTC).replace(tzinfo=None)
        for given in one.inputs.dataset_inputs:
            version = versions.latest(project, given.dataset.digest)
            used[version] = max(began, used.get(version, began))
    old = {version for version, last in used.items() if last < end}
    if not old:
        return []
    needed = {versions.latest(project, one) for one in needed_versions(project)}
    return sorted((old - needed) & {*versions.cached(project)})


def needed_versions(project: Project) -> set[str]:
    """Return the data versions of the registered versions that are in use, on trial or about to be."""
    chosen, client = tracking.open_store(project)
    numbers = {*tracking.aliases(client, chosen.model).values()}
    others = [name for name in environments.names(project) if name != "dev"]  # whose versions these are
    numbers |= {number for name in others if (number := judgement.in_use(project, name))}
    made = [tracking.find_version(client, chosen.model, str(number)) for number in numbers]
    at_hand = {pipeline.data_version(project)} if project.path("dvc.lock").is_file() else set[str]()
    return at_hand | {one.tags.get("data", "").partition("@")[2] for one in made}
