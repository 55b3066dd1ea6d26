"""What else knows of the audit log's lines: the registries that releases were made in, and anchors kept elsewhere."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files
from ..core.errors import ProjectError, Refused, UsageError
from ..core.project import Project
from ..core.repository import git
from ..release import environments
from ..training import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

RELEASES = ("deploy", "rollback", "promote")
WORD = "audit"  # how the text of an anchor begins; the number of lines and the hash of the last follow
Line = dict[str, Any]


def missing(project: Project, lines: list[Line]) -> list[str]:
    """Return what the registries know of releases that LINES do not, one sentence each.

    What was released before the log had a line, as at a lower level, cannot stand in it.
    """
    logged = {key: line for line in lines if line["action"] in RELEASES for key in [key_of(line["facts"], line)]}
    since = lines[0]["at"] if lines else "9999"
    wrong = []
    with environments.reached():
        for name, client, model in registries(project):
            champion = tracking.aliases(client, model).get(environments.ALIAS, "none")
            made = [run.data.tags for run in tracking.search(project, client, releases=True) if counts(run, champion)]
            wrong += [
                f"{name}: {tags['model']} version {tags['version']} came into use at {tags['at']}, and {why}"
                for tags in made
                if tags["at"] >= since and (why := difference(name, tags, logged))
            ]
            last = put(made[0]) if made else "none"
            if champion != last:
                wrong.append(f"{name}: champion is {model} version {champion}, by the records it is {last}")
    return wrong


def registries(project: Project) -> "Iterator[tuple[str, MlflowClient, str]]":
    """Give each environment that has a store: its name, a client of it and the name of the model. None is made."""
    for name in environments.names(project):
        uri = tracking.absolute(project, str(environments.read(project, name).tracking_uri))
        if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file():
            chosen, client = environments.open_store(project, name)
            yield name, client, chosen.model


def counts(run: Any, champion: str) -> bool:
    """Whether the release that RUN records was made; one that was killed was, when it had put its version into use."""
    return run.info.status == "FINISHED" or (run.info.status == "RUNNING" and put(run.data.tags) == champion)


def put(tags: dict[str, str]) -> str:
    """Return the number, in its registry, of the version that a release put into use, "none" where it took one away."""
    return tags.get("copy", tags["version"])


def key_of(facts: dict[str, Any], line: Line | None = None) -> tuple[str, ...]:
    """Return what tells a release from all others; of one in the log, LINE has the action."""
    action = line["action"] if line else facts.get("kind", "promote")
    return facts.get("environment", "dev"), action, facts.get("at", ""), facts.get(tracking.NUMBER, "")


def difference(name: str, tags: dict[str, str], logged: dict[tuple[str, ...], Line]) -> str:
    """Return how the record of a release, its TAGS, differs from its line in the log, "" when it does not."""
    line = logged.get(key_of({"environment": name} | tags))
    if line is None:
        return "the log has no line of it"
    told = line["facts"] | {"by": line["who"], "reason": line["why"]}
    told["model"], _, told["version"] = line["subject"].rpartition(" version ")
    changed = [key for key in sorted(told) if key in tags and tags[key] != told[key]]
    return f"the log has another {', '.join(changed)}" if changed else ""


def keep(project: Project, line: Line, file: Path | None, tag: str | None) -> str:
    """Keep number and hash of LINE, the log's last, in a new FILE or as a signed git TAG; return the text that was kept."""
    text = f"{WORD} {line['n']} {line['hash']}"
    if file:
        if file.exists():
            raise UsageError(f"{file} is there already: an anchor is never written over, name another file")
        file.parent.mkdir(parents=True, exist_ok=True)
        files.replaced(file, f"{text}\n".encode())
    if tag:
        words = ["git", "tag", "--sign", "--message", text, tag]
        done = subprocess.run(words, cwd=project.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split()) or "git tag failed"
            raise ProjectError(f"the tag {tag} was not made: {reason}; user.signingkey names the key that signs it")
    return text


def read(project: Project, place: str) -> tuple[int, str]:
    """Return number and hash of the line that the anchor in PLACE, a file or a signed tag, names.

    Raises Refused when a tag's signature does not hold, ProjectError when there is no anchor.
    """
    file = project.path(place)
    if file.is_file():
        text = file.read_text(encoding="utf-8", errors="replace")
    elif git(project, "tag", "--list", place):
        words = ["git", "verify-tag", place]
        checked = subprocess.run(words, cwd=project.folder, capture_output=True, text=True, check=False)
        if checked.returncode:
            reason = " ".join(checked.stderr.split())
            raise Refused(
                f"the signature of tag {place} does not hold: {reason}; gpg.ssh.allowedSignersFile says whose do"
            )
        text = git(project, "for-each-ref", "--format=%(contents:subject)", f"refs/tags/{place}")
    else:
        raise ProjectError(f"there is no file and no tag {place}: `audit anchor` makes one")
    match text.split():
        case [word, number, digest] if word == WORD and number.isdigit():
            return int(number), digest
    raise ProjectError(f"{place} is no anchor: it must say `{WORD} NUMBER HASH`, as `audit anchor` writes it")
