"""Say who did what, when and why, and check that nobody changed the record since: a log that only grows.

python -m {package} audit show --action deploy --since 2026-01-01
python -m {package} audit verify
python -m {package} audit anchor --to /mnt/archive/2026-03-01.txt      # or --tag audit-2026-03-01, signed
python -m {package} audit verify --anchor /mnt/archive/2026-03-01.txt  # or a tag

Each line of audit/audit.jsonl (AUDIT_LOG names another file, such as one on a share) holds the hash of the line before.
The store of runs keeps the number of lines and the last hash: lines that are gone at the end are missed too. An anchor
keeps both where who can write to log and store cannot. Exit 3: a line was changed, removed or moved, or a registry has a
release that the log does not know of.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import clock, files, people, settings
from ..core.errors import ProjectError, Refused, UsageError
from ..core.progress import say
from ..core.project import Project
from ..core.redaction import redact, redacted
from ..training import tracking
from ..training.pipeline import Training
from . import witnesses

FIRST = "0" * 64  # what the first line names as the hash of the line before
ANCHOR = "audit"  # tag in the store: how many lines there are, and the hash of the last
LONGEST = 1 << 20  # bytes of a line
WAIT_S = 30  # for others that write; each takes milliseconds
Line = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["show", "verify", "anchor"], help="print it, check it, or anchor it elsewhere")
    parser.add_argument("--action", help="with show: only this, such as deploy, gate, retrain")
    parser.add_argument("--since", type=clock.moment, metavar="TIME", help="with show: only from then on, UTC")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="with anchor: a new file, best where nobody can change it"
    )
    parser.add_argument("--tag", help="with anchor: a git tag to make, signed with user.signingkey")
    parser.add_argument(
        "--anchor", action="append", default=[], metavar="PLACE", help="with verify: a file or tag that anchor made"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.what != "show" and (options.action or options.since):
        raise UsageError(f"{options.what} reads every line: leave out --action and --since")
    if options.what != "verify" and options.anchor or options.what != "anchor" and (options.to or options.tag):
        raise UsageError("--to and --tag go with anchor, --anchor with verify")
    if options.what == "anchor":
        if not (options.to or options.tag):
            raise UsageError("an anchor needs a place outside: --to FILE or --tag NAME")
        verify(project)
        last, _ = tail(path(project))
        kept = witnesses.keep(project, last, options.to, options.tag)
        return print(json.dumps({"lines": last["n"], "hash": last["hash"]}) if options.json else kept)
    if options.what == "verify":
        told = verify(project, [(place, *witnesses.read(project, place)) for place in options.anchor])
        return print(json.dumps(told) if options.json else sentence(told))
    since = f"{options.since:%Y-%m-%dT%H:%M:%S}" if options.since else ""
    try:
        lines = [one for one in map(json.loads, texts(project)) if one["at"] >= since]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"a line of {path(project)} is damaged: `audit verify` says which") from None
    lines = [one for one in lines if options.action in (None, one["action"])]
    if options.json:
        return print(json.dumps(lines))
    print("\n".join(f"{o['at']}  {o['who']}  {o['action']} {o['subject']}: {o['why']}" for o in lines) or "nothing")


def heard(project: Project, action: str, facts: dict[str, Any]) -> None:
    """Record what a command is about to do; see tracking.happened."""
    plain = {key: value for key, value in facts.items() if isinstance(value, str | int | float | dict | list)}
    subject, why = f"{plain.pop('model')} version {plain.pop('version')}", str(plain.pop("reason"))
    record(project, action, subject, why, **plain)


def record(project: Project, action: str, subject: str, why: str, **facts: Any) -> Line:
    """Append one line, on disk when this returns, and return it; `by` among FACTS says who, else git or MLOPS_ACTOR does."""
    file = path(project)
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(file.with_suffix(".lock"), WAIT_S):
        if not (ignored := file.with_name(".gitignore")).exists():
            ignored.write_text("*\n", encoding="utf-8")  # what happens here is not code
        require_own(project)
        last, end = tail(file)
        line = {
            "n": last["n"] + 1,
            "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "who": facts.pop("by", None) or who(project),
            "action": action,
            "subject": subject,
            "why": redact(why),
            "facts": redacted(facts),
            "before": last["hash"],
        }
        line["hash"] = digest(line)
        with files.private(file).open("r+b") as out:
            out.truncate(end)  # a line that was not finished was never acknowledged
            out.seek(end)
            out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
        anchor(project, line)
    return line


def require_own(project: Project) -> None:
    """Raise Refused where AUDIT_LOG names a file that does not go on from what the store knows of.

    What was recorded there would be missing in the project's own log. While the store is away a log that has lines goes on.
    """
    if not os.environ.get("AUDIT_LOG"):
        return
    try:
        known, kept = anchored(project)
    except ProjectError:
        if texts(project):
            return
        raise
    if not holds(project, known, kept):
        raise Refused(
            f"{path(project)}, which AUDIT_LOG names, is not the project's own log: the store knows of {known} lines "
            "that it does not hold; unset AUDIT_LOG, or move the log there. Nothing was recorded or done"
        )


def tail(file: Path) -> tuple[Line, int]:
    """Return the last whole line of FILE and where it ends, in bytes."""
    size = file.stat().st_size if file.is_file() else 0
    if not size:
        return {"n": 0, "hash": FIRST}, 0
    with file.open("rb") as kept:
        start = max(0, size - LONGEST)
        kept.seek(start)
        part = kept.read()
    whole = part[: part.rfind(b"\n") + 1]
    try:
        return (json.loads(whole.splitlines()[-1]) if whole else {"n": 0, "hash": FIRST}), start + len(whole)
    except ValueError:
        raise ProjectError(
            f"the last line of {file} is damaged: `audit verify` says which; nothing was recorded"
        ) from None


def who(project: Project) -> str:
    """Return who acts: MLOPS_ACTOR, which an unattended job sets, or whom git names."""
    return os.environ.get("MLOPS_ACTOR") or people.current(project) or people.UNKNOWN


def path(project: Project) -> Path:
    return project.path(os.environ.get("AUDIT_LOG") or "audit/audit.jsonl")


def texts(project: Project) -> list[str]:
    """Return the lines; what follows the last line break was never acknowledged."""
    return (
        path(project).read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path(project).is_file() else []
    )


def digest(line: Line) -> str:
    """Return the hash of LINE and, as it names that of the line before, of all before it."""
    content = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def verify(project: Project, anchors: Sequence[tuple[str, int, str]] = ()) -> dict[str, Any]:
    """Return how many lines there are and how many the store has not heard of; raises Refused that names what is wrong.

    ANCHORS are kept elsewhere, each (place, number of a line, its hash); the registries are asked what they know of.
    """
    before: Line = {"n": 0, "hash": FIRST}
    wrong: list[str] = []
    hashes = {0: FIRST}
    whole: list[Line] = []
    known, kept = anchored(project)  # first: of a line that is recorded meanwhile it must not know
    for place, text in enumerate(texts(project), 1):
        try:
            line = json.loads(text)
            number, same = int(line["n"]), digest(line) == line["hash"]
        except (ValueError, KeyError, TypeError):
            wrong.append(f"line {place} is damaged")
            continue
        if not same:
            wrong.append(f"line {place} was changed")
        elif number != place or line.get("before") != before["hash"]:
            wrong.append(
                f"line {place} does not follow line {place - 1}: it was number {number}; lines were removed or moved"
            )
        before = line
        whole.append(line)
        hashes[number] = line["hash"]
    if known > len(hashes) - 1:
        wrong.append(f"the store knows of {known} lines, there are {len(hashes) - 1}: lines at the end were removed")
    elif hashes.get(known) != kept:
        wrong.append(f"line {known} is not the one that the store knows of: the log was written anew")
    for outside, number, digest_there in anchors:
        if hashes.get(number) != digest_there:
            wrong.append(f"line {number} is not the one that the anchor {outside} knows of")
    wrong += witnesses.missing(project, whole)
    if wrong:
        raise Refused("\n  ".join([f"{path(project)} is not what was recorded:", *wrong[:10]]))
    return {"lines": len(hashes) - 1, "not_anchored": len(hashes) - 1 - known}


def sentence(told: dict[str, Any]) -> str:
    late = f", the store has not heard of the last {told['not_anchored']}" * bool(told["not_anchored"])
    return f"{told['lines']} lines, each as it was written{late}"


def place(project: Project) -> tuple[Any, str]:
    """Return a client of the store of runs, which MLflow goes on looking elsewhere beside, and the id of the releases there."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or settings.read(project, "training", Training).tracking_uri
    library, uri = tracking.library(), tracking.absolute(project, settings.expand(uri))
    try:
        if file := tracking.file_of(uri):  # MLflow tries for minutes where a store cannot be made
            files.private(file)
        client = library.MlflowClient(uri)
        return client, tracking.experiment(project, client, "release")
    except Exception as error:  # of whatever database or server it is
        raise ProjectError(f"the store of runs cannot be asked: {str(error).splitlines()[0]}") from error


def anchor(project: Project, line: Line) -> None:
    """Tell the store of the last line; while it is away the log goes on, and `verify` says how far behind the store is.

    Nor is it told when the line that it knows of is not in the log: that would hide from `verify` that lines were removed.
    """
    try:
        client, experiment = place(project)
        known, kept = anchored(project)
        if kept != line["before"] and not holds(project, known, kept):
            raise ProjectError(f"line {known}, which it knows of, is not in the log: `audit verify`")
        client.set_experiment_tag(experiment, ANCHOR, f"{line['n']} {line['hash']}")
    except Exception as error:  # noqa: BLE001
        say(f"the audit log has line {line['n']}, the store was not told: {str(error).splitlines()[0]}")


def holds(project: Project, number: int, kept: str) -> bool:
    """Return whether line NUMBER of the log has the hash KEPT; 0 stands for the beginning."""
    lines = texts(project)
    try:
        return number == 0 or (number <= len(lines) and json.loads(lines[number - 1])["hash"] == kept)
    except (ValueError, KeyError, TypeError):  # damaged
        return False


def anchored(project: Project) -> tuple[int, str]:
    """Return how many lines the store knows of and the hash of the last."""
    client, experiment = place(project)
    number, _, kept = client.get_experiment(experiment).tags.get(ANCHOR, f"0 {FIRST}").partition(" ")
    return int(number), kept
