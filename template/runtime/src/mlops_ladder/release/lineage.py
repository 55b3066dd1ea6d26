"""Trace a version, a running endpoint or a saved answer back to run, commit, environment, data and source files.

python -m {package} lineage 4
python -m {package} lineage --endpoint http://127.0.0.1:8000     # with ${API_KEY} as its key, when that is set
python -m {package} lineage --response answer.json

Each link of the chain is checked by its hash; exit 3 names the links that do not hold.
"""

import argparse
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files
from ..core.errors import ProjectError, Refused, UsageError
from ..core.project import Project
from ..core.repository import git
from ..data import data_sets, store, versions
from ..data.rows import read_note
from ..data.versions import short
from ..training import tracking
from ..training.pipeline import Training
from ..training.recording import NOT_CARRIED, RUNTIME
from . import environments, releasing

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Link:
    """One step of the chain: what is known of it and, when it does not hold, why."""

    name: str
    said: str
    facts: dict[str, Any]
    broken: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("version", nargs="?", help="number of a registered version")
    start.add_argument("--endpoint", metavar="URL", help="the version that answers there")
    start.add_argument("--response", type=Path, metavar="FILE", help="the version that gave this answer of the service")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if options.version:
        tracking.check(project, version=options.version)


def run(project: Project, options: argparse.Namespace) -> None:
    first, version = start(options)
    chosen, client = tracking.open_store(project)
    links = [*first, *trace(project, client, chosen, version, first)]
    if options.json:
        print(json.dumps([asdict(link) for link in links], indent=2))
    else:
        print("\n".join(f"{link.name:<12}{link.said}" for link in links))
    if broken := [f"{link.name}: {link.broken}" for link in links if link.broken]:
        raise Refused("\n  ".join([f"{len(broken)} of {len(links)} links do not hold:", *broken]))


def start(options: argparse.Namespace) -> tuple[list[Link], str]:
    """Return what leads to a version, an endpoint or an answer, and the version's number."""
    if options.endpoint:
        import httpx

        key = os.environ.get("API_KEY")
        try:
            answer = httpx.get(
                f"{options.endpoint.rstrip('/')}/model", headers={"authorization": f"Bearer {key}"} if key else {}
            )
            told = answer.raise_for_status().json()
            version, facts = str(told["version"]), {"url": options.endpoint, "sha256": told["sha256"]}
            facts |= {"digest": told["digest"]} if "digest" in told else {}  # a model file's service has none
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise ProjectError(f"{options.endpoint} does not tell its model: {error}") from error
        found, link = version, Link("endpoint", f"{options.endpoint} answers with version {version}", facts)
    elif options.response:
        try:
            told = json.loads(options.response.read_text(encoding="utf-8"))
            found, request = str(told["model_version"]), str(told["request_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise ProjectError(f"{options.response} is no answer of the service, or not whole: {error!r}") from error
        link = Link("response", f"request {request} was answered by version {found}", {"request_id": request})
    else:
        return [], options.version
    if not (found.isdigit() and len(found) < 6):
        raise UsageError(f"version {found} is a model file, not a registered version: its note is all there is")
    return [link], found


def trace(
    project: Project, client: "MlflowClient", chosen: Training, version: str, first: list[Link] | None = None
) -> list[Link]:
    """Return the links from a registered version down to the files that its data came from, each checked."""
    made = tracking.find_version(client, chosen.model, version)
    made_by, folder = client.get_run(made.run_id), tracking.download(client, chosen.model, version, checked=False)
    tags, note = made_by.data.tags, read_note(folder / "HANDOFF.md")
    digest, whole = files.sha256(folder / note["model_file"]), releasing.digest_of(releasing.contents(folder.parent))
    there = copies(project, chosen.model, version)
    told = {key: value for link in first or [] for key, value in link.facts.items()}
    known = {made.tags.get(tracking.FILES, whole), *(link.facts["registered"] for link in there)}
    honest = digest == note["sha256"] == told.get("sha256", digest) and whole == made.tags.get(tracking.FILES, whole)
    names = sorted(alias for alias, number in tracking.aliases(client, chosen.model).items() if number == version)
    released = [one for one in releases(project, client) if one["version"] == version and one["model"] == chosen.model]
    where = [f"{one['environment']} {one['at']} by {one['by']}" for one in released]
    state = [*names, f"gates {made.tags.get('validation_status', 'not run')}", *where]
    started = tracking.moment(made_by.info.start_time)
    return [
        Link("version", f"{chosen.model} {version}: {', '.join(state)}", {**made.tags, "releases": released}),
        Link(
            "model",
            f"{note['model_file']}, sha256 {digest[:12]}",
            {"sha256": digest},
            ""
            if honest and told.get("digest", whole) in known
            else "its bytes are not those that were evaluated and are served",
        ),
        *there,
        Link("run", f"{made.run_id[:8]}, {started} by {tags['by']}, {tags['purpose']}", {"run": made.run_id, **tags}),
        code(project, tags, folder / "code"),
        environment(client, made_by),
        *sources(project, tags["data"]),
    ]


def copies(project: Project, model: str, version: str) -> list[Link]:
    """Return the copy of VERSION in each environment that has one, as it lies there now: where it is in use, it is served."""
    links = list[Link]()
    for file in sorted(project.path("conf/environments").glob("*.yml")):
        name, uri = file.stem, tracking.absolute(project, str(environments.read(project, file.stem).tracking_uri))
        if name == "dev" or (uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file()):
            continue  # a store of nothing is not made here
        _, client = environments.open_store(project, name)
        used = environments.find_copy(client, model)
        there = (
            used if used and used.tags["origin_version"] == version else environments.find_copy(client, model, version)
        )
        if there is None:
            continue
        found, kept = releasing.digest_of(releasing.contents(releasing.fetch(client, there))), there.tags["digest"]
        broken = "" if found == kept else f"its files there are not those that were deployed (digest {found[:12]})"
        facts = {"environment": name, "in_use": there is used, "digest": found, "registered": kept}
        said = f"in {name}, {'in use' if there is used else 'not in use'}, digest of its files {kept[:12]}"
        links.append(Link("copy", said, facts, broken))
    tracking.open_store(project)  # what is opened last is where MLflow looks up versions
    return links


def releases(project: Project, client: "MlflowClient") -> list[dict[str, str]]:
    """Return all releases on record, in the store at hand (level 2's promote) and in each environment's, newest first."""
    clients = {"dev": client}
    for file in sorted(project.path("conf/environments").glob("*.yml")):
        uri = tracking.absolute(project, str(environments.read(project, file.stem).tracking_uri))
        if not (uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file()):
            clients.setdefault(file.stem, tracking.library().MlflowClient(uri))  # a store of nothing is not made here
    found = [
        {"environment": name, **{key: value for key, value in one.data.tags.items() if not key.startswith("mlflow.")}}
        for name, where in clients.items()
        for one in tracking.search(project, where, releases=True)
        if one.info.status == "FINISHED"
    ]
    return sorted(found, key=lambda one: one["at"], reverse=True)


def code(project: Project, tags: dict[str, str], folder: Path) -> Link:
    """Return the commit; it holds when the code that the version carries is the commit's, byte by byte."""
    commit, name = tags["commit"], project.package
    said = f"{commit[:8]} {git(project, 'log', '-1', '--format=%s', commit)}".rstrip()
    carried = {path: blob_hash(file) for path, file in releasing.contents(folder).items()}
    committed = blobs(project, commit, f"src/{name}")
    if any(path.startswith(f"{RUNTIME}/") for path in carried):  # else it is older, and carries the whole package
        committed = {path: blob for path, blob in committed.items() if path.split("/")[0] not in NOT_CARRIED}
        runtime = blobs(project, commit, "runtime/src/mlops_ladder")
        if runtime:  # a released one stands in uv.lock
            committed |= {
                path: runtime.get(path.removeprefix(f"{RUNTIME}/"), "") for path in carried if path.startswith(RUNTIME)
            }
        else:
            carried = {path: blob for path, blob in carried.items() if not path.startswith(f"{RUNTIME}/")}
    differing = sorted(key for key in committed | carried if committed.get(key) != carried.get(key))
    broken = f"the version's {differing[0]} is not the commit's ({len(differing)} differ)" if differing else ""
    if not committed:
        broken = "it is not in this clone"
    return Link("commit", said, {"commit": commit, "repository": tags["repository"], "dirty": tags["dirty"]}, broken)


def blobs(project: Project, commit: str, folder: str) -> dict[str, str]:
    """Return git's name of the content of each file that COMMIT has in FOLDER, {path in it: name}."""
    listed = [line.partition("\t") for line in git(project, "ls-tree", "-rz", commit, folder).split("\0") if line]
    return {path.removeprefix(f"{folder}/"): about.split()[-1] for about, _, path in listed}


def blob_hash(file: Path) -> str:
    """Return the name that git gives the content of FILE."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def environment(client: "MlflowClient", made_by: Any) -> Link:
    tags = made_by.data.tags
    kept = hashlib.sha256(tracking.read_artifact(client, made_by, "uv.lock").encode()).hexdigest()
    broken = "" if kept == tags["lock"] else "the lock file kept with the run is another"
    facts = {"lock": tags["lock"], "python": tags["python"]}
    return Link("environment", f"uv.lock, sha256 {kept[:12]}, Python {tags['python']}", facts, broken)


def sources(project: Project, name: str) -> list[Link]:
    """Return the data version, each file of it and, of a data set that was made here, what it was made of."""
    kind, _, trained_on = name.partition("@")
    conf, version = store.read(project), versions.latest(project, trained_on)
    found = versions.ensure(project, version)
    manifest, made_of = store.read_manifest(conf), Path(data_sets.MADE_OF)
    listing = next(iter(found.values())).parents[1] / version[:2] / f"{version[2:]}.dir"
    links, made_from = list[Link](), dict[str, Any]()
    for path, content in sorted(found.items()):
        bytes_of = content.read_bytes()
        sha256 = hashlib.sha256(bytes_of).hexdigest()
        whole = hashlib.md5(bytes_of, usedforsecurity=False).hexdigest() == content.parent.name + content.name
        if not whole:
            broken = "its kept bytes are not those of the data version"
            links.append(Link("source", f"{path}, sha256 {sha256[:12]}, {broken}", {"file": str(path)}, broken))
        elif path == made_of:
            made_from = json.loads(bytes_of)
        elif made_of in found:
            links.append(Link("source", f"{path}, sha256 {sha256[:12]}, made of what follows", {"file": str(path)}))
        else:
            known = manifest.get(path.name, {})
            origin = known if sha256 in (known.get("sha256"), known.get("replaces")) else {}
            links.append(source(conf.home / kind / path, known, sha256, origin, "kept here; "))
    if made_from:
        for file, one in sorted(made_from["files"].items()):
            links.append(
                source(conf.raw / file, manifest.get(file, {}), one["sha256"], one, "its rows are kept here; ")
            )
        log = made_from["log"]
        said = f"prediction log, {log['rows']:,} labelled rows{' of ' * bool(log['span'])}{' to '.join(log['span'])}"
        links.append(Link("source", said, log))
    whole = hashlib.md5(listing.read_bytes(), usedforsecurity=False).hexdigest() == version
    broken = "" if whole else "its list of files is damaged"
    since = f", now {version[:8]}: rows were forgotten since" if version != trained_on else ""
    said = f"{short(name)}{since}, {len(found)} files"
    return [Link("data", said, {"data": name, "files": len(found)}, broken), *links]


def source(raw: Path, known: dict[str, Any], sha256: str, origin: dict[str, Any], kept: str) -> Link:
    """Return where a file came from, compared with what `ingest` gathered (KNOWN) and with what is there now."""
    now = files.sha256(raw) if raw.is_file() else None
    state, broken = "as the raw data", ""
    if now is None:
        state = f"{kept}{raw} is gone"
    elif now != sha256 and known.get("sha256") == sha256:
        broken = f"{raw} was changed, and not by `ingest`"
    elif now != sha256:
        state = f"{kept}{raw} was replaced since"
    told = f"{origin['origin']}, gathered {origin['gathered']}" if origin else "not on record where it came from"
    facts = {"file": raw.name, "sha256": sha256, "raw": now, "origin": origin.get("origin")}
    return Link("source", f"{raw.name}, sha256 {sha256[:12]}, {broken or state}: {told}", facts, broken)
