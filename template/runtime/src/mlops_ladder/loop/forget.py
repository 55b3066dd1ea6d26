"""Forget a person everywhere, or withdraw the labels of a source: log, data, its versions, outputs, reports, caches.

python -m {package} forget N14228 --by entity --reason "ticket 812"
python -m {package} forget 4f1c09 --by request_id --keep "one row of 40,000, ticket 813"
python -m {package} forget N14228 --by entity --later      # the next turn of the loop does it
python -m {package} forget --queued                        # that turn: all that wait
python -m {package} forget --source feed-b --reason "its labels were turned over"

Killed, it goes on where it was, and a second time changes nothing. Versions that learned from the rows are named: the loop
trains anew in place of the one in use, unless --keep says why not. What only people can take away, such as a file in git
or a registered model, is named, too: exit 3.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core import files, repository
from ..core.errors import Busy, ProjectError, Refused, Unmet, UsageError
from ..core.project import Project
from ..data import data_sets, store, versions
from ..release import judgement
from ..training import datasets, dvc_pipeline, pipeline, tracking
from . import audit, erasure, forgotten, prediction_log, references, triggers
from .forgotten import Request
from .prediction_log import PredictionLog

WAIT_S = 60  # for a command that writes to the store
REASON = "asked to be forgotten"
NOT_ENTERED = {".git", ".venv", ".nox", "node_modules", "__pycache__"}  # no data of a project's is there
KEPT_WHOLE = ("mlruns", "environments", "audit")  # what a version or the record consists of: named, never changed
MADE_ANEW = (  # folders whose files are deleted when they hold a text: a command makes them again
    "reports",
    "models/gates",
    "models/candidate",
    "data/pipeline",
    "data/monitoring",
    ".dvc/tmp",
    "site",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("values", nargs="*", metavar="VALUE", help="whom to forget")
    parser.add_argument("--by", choices=["request_id", "entity", "key"], default="key", help="what VALUE is")
    parser.add_argument(
        "--source", metavar="NAME", help="withdraw all labels that NAME sent, and rows learned with them"
    )
    parser.add_argument("--reason", default=REASON, help="why; it is kept (default: %(default)s)")
    parser.add_argument("--keep", metavar="REASON", help="why versions that learned from the rows stay; it is kept")
    parser.add_argument("--later", action="store_true", help="only write it down: the next turn of the loop does it")
    parser.add_argument("--queued", action="store_true", help="do what was written down")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if bool(options.values) + bool(options.source) + options.queued > 1:
        raise UsageError("say one of VALUE, --source NAME and --queued")
    if options.later and not (options.values or options.source):
        raise UsageError("--later needs whom: VALUE, or --source NAME")
    if options.keep is not None and not options.keep.strip():
        raise UsageError("--keep needs a reason: somebody will ask why the model still knows")
    if any(not value.strip() for value in options.values):
        raise UsageError("VALUE is empty: say whom to forget")


def run(project: Project, options: argparse.Namespace) -> None:
    log = forgotten.opened(project)
    asked = [ask(project, log, options, value) for value in options.values]
    asked += [ask(project, log, options, options.source)] if options.source else []
    if not asked and not options.queued:
        return print_state(log, options)
    if options.later:
        return print(json.dumps(state(log)) if options.json else f"{len(asked)} written down: the loop does it")
    asked = asked or forgotten.read(log, forgotten.REQUESTS.c.done.is_(None))
    if not asked:
        return print(json.dumps([]) if options.json else "nobody waits to be forgotten")
    try:
        with undisturbed(project):
            done = [work_off(project, log, one) for one in asked]
    except Unmet as error:
        if options.queued and isinstance(error, Busy):
            return print(json.dumps([]) if options.json else f"{len(asked)} wait: {error}")
        raise type(error)(f"{error}; until then the request waits, and each turn of the loop tries again") from None
    if options.json:
        print(json.dumps(done))
    lines = "\n".join(map(sentence, done))
    if any(one["left"] for one in done):
        raise Refused(lines)
    if not options.json:
        print(lines)


def print_state(log: PredictionLog, options: argparse.Namespace) -> None:
    found = state(log)
    print(json.dumps(found) if options.json else f"{found['waiting']} wait to be forgotten, {found['done']} are")


def state(log: PredictionLog) -> dict[str, int]:
    known = forgotten.read(log)
    return {"waiting": sum(not one.done for one in known), "done": sum(bool(one.done) for one in known)}


def ask(project: Project, log: PredictionLog, options: argparse.Namespace, value: str) -> Request:
    """Write down whom to forget, and that it was asked; return it."""
    kind = "source" if options.source else options.by
    plain = value if options.source else log.as_written(log.column(kind), value)
    digest = forgotten.digest(project, kind, plain)
    request = Request(digest, kind, plain, options.reason, options.keep)
    if kind != "source":  # the reason is kept, whom it is about must not be
        request.reason = request.reason.replace(value, request.name)
        request.keep = request.keep and request.keep.replace(value, request.name)
    for known in forgotten.read(log, forgotten.REQUESTS.c.digest == digest):
        request.keys, request.taken, request.versions = known.keys, known.taken, known.versions
        request.keep = request.keep or known.keep
    forgotten.write(log, request)
    audit.record(project, "forget", request.name, request.reason, kept=request.keep or "")
    return request


@contextlib.contextmanager
def undisturbed(project: Project) -> Iterator[None]:
    """Hold all that trains or writes to the store; raises Unmet, mostly Busy, when somebody is at it."""
    home = store.read(project).home
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.locked(home / ".retraining.lock"))
        stack.enter_context(triggers.alone(triggers.database(project)))
        stack.enter_context(dvc_pipeline.locked(project))
        stack.enter_context(files.locked(home / ".lock", WAIT_S))
        yield


def work_off(project: Project, log: PredictionLog, request: Request) -> dict[str, Any]:
    """Do what REQUEST asks for, from wherever it is, and return what was taken where, from which versions, what is left."""
    left = withdraw(project, log, request) if request.kind == "source" else forget(project, log, request)
    request.versions |= learned(project, request)
    if held := log.held():
        raise ProjectError(f"the bytes of {request.name} stay in {held} while somebody reads the log: run this again")
    name, request.done = request.name, prediction_log.now()
    facts = {"taken": request.taken, "versions": request.versions, "kept": request.keep or "", "left": len(left)}
    audit.record(project, "forgotten", name, request.reason, **facts)
    if request.kind != "source":
        request.value = None
    request.keys = set()
    forgotten.write(log, request)
    log.held()  # the request's own bytes
    return {"who": name, **facts, "left": left, "in_use": in_use(project)}


def forget(project: Project, log: PredictionLog, request: Request) -> list[str]:
    """Take the rows of a person away; return what only people can, a sentence each."""
    fetch(project)
    request.keys |= keys(project, log, request)
    forgotten.write(log, request)  # before anything goes: whoever is killed finds them no other way
    subject = whose(project, log, request)
    forgotten.remember(project, {project.data.KEY: request.keys})
    if log.entity and request.kind == "entity":
        forgotten.remember(project, {log.entity: [str(request.value)]})
    in_log = log.erase([str(request.value)], request.kind) + log.erase(sorted(request.keys), "key")
    note(log, request, {f"prediction log: {what}": n_rows for what, n_rows in in_log.items()})
    taken, left = sweep(project, log, subject)
    note(log, request, taken)

    def rest(file: Path, target: Path, suffix: str) -> int | None:
        n_rows = erasure.write_rest(file, subject, target, suffix)
        return n_rows or (None if erasure.holds(file, subject) else 0)

    take_from_versions(project, log, request, versions.rewrite(project, rest, request.digest))
    chosen = tracking.read_settings(project)
    for version in learned(project, request):  # gathered anew from what is left
        shutil.rmtree(project.path(references.KEPT) / chosen.model / version, ignore_errors=True)
    return left


def withdraw(project: Project, log: PredictionLog, request: Request) -> list[str]:
    """Take the labels of a source away, and the rows that were made of them to learn from; nothing is left to people."""
    fetch(project)
    request.keys |= set(log.labelled_by(str(request.value)))
    forgotten.write(log, request)
    note(log, request, {"prediction log: labels": log.withdraw(str(request.value))})
    subject = erasure.Subject({project.data.KEY: frozenset(request.keys)})
    taken = Counter[str]()
    made = Path(data_sets.MADE_OF)
    for folder in (store.read(project).home / "retraining", project.path(pipeline.SNAPSHOT)):
        if (folder / made).is_file():
            for file in files.files_in(folder):
                taken[place(project, file)] += erasure.take_out(file, subject)
    note(log, request, taken)

    def rest(file: Path, target: Path, suffix: str) -> int:
        return erasure.write_rest(file, subject, target, suffix)

    take_from_versions(project, log, request, versions.rewrite(project, rest, request.digest, having=str(made)))
    return []


def fetch(project: Project) -> None:
    """Bring the data versions of all runs into DVC's cache: on a remote alone nobody can look into them."""
    for one in datasets.known(project):
        with contextlib.suppress(ProjectError):  # it is nowhere
            versions.ensure(project, one["version"])


def keys(project: Project, log: PredictionLog, request: Request) -> set[str]:
    """Return the keys of the rows that REQUEST means, as the log and all tables have them."""
    if request.kind == "key":
        return {str(request.value)}
    found = log.keys(str(request.value), request.kind)
    if log.entity and request.kind == "entity":
        theirs = erasure.Subject({log.entity: frozenset({str(request.value)})})
        for file in (*walked(project, log), *files.files_in(versions.places(project)[0])):
            found |= erasure.values(file, project.data.KEY, theirs)
    return found


def whose(project: Project, log: PredictionLog, request: Request) -> erasure.Subject:
    """Return what tells the rows of REQUEST in a file: the columns of data.py, of the log and of feature tables."""
    columns, value = defaultdict[str, set[str]](set), {str(request.value)}
    for name in (project.data.KEY, f"input_{project.data.KEY}", "key"):
        columns[name] |= request.keys
    if request.kind == "entity":
        for name in ("entity", "key", *((log.entity, f"input_{log.entity}") if log.entity else ())):
            columns[name] |= value
    if request.kind == "request_id":
        columns["request_id"] |= value
    return erasure.Subject({name: frozenset(known) for name, known in columns.items()})


def walked(project: Project, log: PredictionLog) -> Iterator[Path]:
    """Yield each file of the project and of its data store but for the log's own, and DVC's, which are others' business."""
    dvc = {one.resolve() for one in versions.places(project)}
    own = {Path(f"{log.file}{end}").resolve() for end in ("", "-wal", "-shm")} if log.file else set()
    own.add((store.read(project).home / forgotten.FILE).resolve())

    def skipped(folder: Path) -> bool:
        return folder.name in NOT_ENTERED or folder.name.endswith("_cache") or folder.resolve() in dvc

    for file in erasure.walk((project.folder, store.read(project).home), skipped):
        if file.resolve() not in own:
            yield file


def sweep(project: Project, log: PredictionLog, subject: erasure.Subject) -> tuple[Counter[str], list[str]]:
    """Take the rows of SUBJECT out of every file; return how many by place, and the files that people must see to."""
    listed = repository.git(project, "ls-files", "-z").split("\0")
    committed = {project.path(name).resolve() for name in listed if name}
    conf, taken, left = store.read(project), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        for file in walked(project, log):
            name = shown(project, file)
            if file.resolve() in committed:
                if erasure.write_rest(file, subject, Path(scratch) / "rest") or erasure.holds(file, subject):
                    left.append(f"{name} is in git: take it out there and of git's history, or where it comes from")
            elif lies_in(name, KEPT_WHOLE):
                if erasure.write_rest(file, subject, Path(scratch) / "rest") or erasure.holds(file, subject):
                    left.append(f"{name} holds it: delete that run or version once another is in use")
            else:
                if n_rows := erasure.take_out(file, subject):
                    taken[place(project, file)] += n_rows
                    restate(conf, file)
                if erasure.holds(file, subject):
                    if lies_in(name, MADE_ANEW) or file.suffix == ".log":
                        file.unlink()
                        taken[f"{place(project, file)}: files"] += 1
                    else:
                        left.append(f"{name} holds it: nobody knows what it is; delete it, or take it out")
    return +taken, left


def lies_in(name: str, folders: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{folder}/") for folder in folders)


def shown(project: Project, file: Path) -> str:
    """Return FILE as people know it, from the project's folder where it lies there."""
    with contextlib.suppress(ValueError):
        return file.resolve().relative_to(project.folder.resolve()).as_posix()
    return str(file)


def place(project: Project, file: Path) -> str:
    """Return the data set or folder that FILE counts as: the first two parts of its path."""
    return "/".join(Path(shown(project, file)).parts[:2])


def restate(conf: store.Store, file: Path) -> None:
    """Have the manifest say what a gathered FILE is since rows were taken out of it."""
    from pyarrow import parquet as pq

    known = store.read_manifest(conf)
    if file.parent.resolve() == conf.raw.resolve() and file.name in known:
        n_rows = pq.ParquetFile(file).metadata.num_rows
        facts = {"bytes": file.stat().st_size, "sha256": files.sha256(file), "rows": n_rows}
        store.write_manifest(conf, {**known, file.name: {**known[file.name], **facts}})


def take_from_versions(project: Project, log: PredictionLog, request: Request, lost: Counter[str]) -> None:
    now = {version: versions.latest(project, version) for version in lost}
    note(log, request, {f"data version {old[:8]}, now {now[old][:8]}": n_rows for old, n_rows in lost.items()})


def note(log: PredictionLog, request: Request, taken: dict[str, int]) -> None:
    """Keep how many rows were taken where; what a run that was killed had counted stays."""
    total = Counter(request.taken)
    total.update(taken)
    request.taken = dict(+total)
    forgotten.write(log, request)


def learned(project: Project, request: Request) -> dict[str, int]:
    """Return from how many of the rows each registered version learned, or was judged by, {version: rows}."""
    chosen, client = tracking.open_store(project)
    known, found = versions.successors(project), dict[str, int]()
    for one in client.search_model_versions(f"name = '{chosen.model}'"):
        n_rows, version = 0, one.tags.get("data", "").partition("@")[2]
        while version in known:
            n_rows += known[version]["rows"] * (known[version]["why"] == request.digest)
            version = known[version]["version"]
        if n_rows:
            found[str(one.version)] = n_rows
    return found


def in_use(project: Project) -> str | None:
    return judgement.in_use(project, triggers.read(project).environment)


def sentence(done: dict[str, Any]) -> str:
    """Return what was done in lines for people."""
    lines = [f"{done['who']}: {sum(done['taken'].values()):,} rows and files are gone"]
    lines += [f"{place}: {n_rows:,}" for place, n_rows in done["taken"].items()]
    for version, n_rows in sorted(done["versions"].items(), key=lambda one: int(one[0])):
        used = version == done["in_use"]
        what = "the loop trains anew in its place" if used else "not in use"
        what = f"kept: {done['kept']}" if done["kept"] else what
        lines.append(f"version {version}{', in use,' * used} learned from {n_rows:,} of the rows: {what}")
    return "\n  ".join([*lines, *(f"still there: {one}" for one in done["left"])])
