"""Bundle what an auditor asks for about a version; refused, naming what is missing, when it is not complete.

python -m {package} audit-pack 4 --to audit/4
python -m {package} audit-pack 4 --to audit/4 --vulnerabilities osv-pypi.zip     # offline: a dump of osv.dev's records

Card, data sheet, lineage, gates, approvals and releases, policy and compliance checklist, dependencies with licences
and known vulnerabilities, what the run kept, and the sha256 of every file.
"""

import argparse
import csv
import importlib.metadata
import io
import itertools
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import Marker
from packaging.utils import canonicalize_name
from packaging.version import Version

from ..core import files, people
from ..core.errors import ProjectError, Refused, UsageError
from ..core.progress import say
from ..core.project import Project
from ..training import tracking
from . import approve, catalog, data_sets, lineage, policy

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECKPOINT = "release"
KEPT = ("settings.yml", "split.json", "uv.lock", "validation.json", "validation.html", "evaluation", "gates")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="number of the version")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder; made when complete")
    parser.add_argument(
        "--vulnerabilities",
        type=Path,
        metavar="FILE",
        help="folder or zip of OSV records to check against; without it the service in the policy is asked",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if options.to.exists():
        raise UsageError(f"{options.to} is there already: an audit pack is never written over")
    tracking.check(project, version=options.version)


def run(project: Project, options: argparse.Namespace) -> None:
    chosen, client = tracking.open_store(project)
    tracking.find_version(client, chosen.model, options.version)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.to.parent, prefix=".audit-") as place:
        folder = Path(place) / "pack"
        missing = fill(project, folder, chosen, client, options.version, options.vulnerabilities)
        if missing:
            title = f"the audit pack of version {options.version} is not complete:"
            raise Refused("\n  ".join([title, *missing]))
        hashes = {file.relative_to(folder).as_posix(): files.sha256(file) for file in files.files_in(folder)}
        listed = "".join(f"{sha256}  {name}\n" for name, sha256 in hashes.items())
        (folder / "SHA256SUMS").write_text(listed, encoding="utf-8")
        folder.rename(options.to)
    said = f"audit pack of {chosen.model} version {options.version}: {len(hashes)} files in {options.to}"
    print(json.dumps({"folder": str(options.to), "files": hashes}) if options.json else said)


def fill(
    project: Project, folder: Path, chosen: Any, client: "MlflowClient", version: str, database: Path | None
) -> list[str]:
    """Write every part of the pack to FOLDER; return what is missing or does not hold, one sentence each."""
    made = tracking.find_version(client, chosen.model, version)
    made_by, rules = client.get_run(made.run_id), policy.read(project)
    missing: list[str] = []
    folder.mkdir()

    def part(name: str, make: Callable[[], tuple[str, list[str]]]) -> None:
        try:
            text, lacking = make()
            (folder / name).write_text(text, encoding="utf-8")
            missing.extend(f"{name}: {line}" for line in lacking)
        except Exception as error:  # noqa: BLE001 - whatever keeps a part from being made, the pack lacks it
            missing.append(f"{name}: {error}")

    def chain() -> tuple[str, list[str]]:
        links = lineage.trace(project, client, chosen, version)
        return text_of([asdict(link) for link in links]), [f"{one.name}: {one.broken}" for one in links if one.broken]

    def gates() -> tuple[str, list[str]]:
        facts = {key: made.tags[key] for key in sorted(made.tags) if key == "validation_status" or key[:4] == "gate"}
        judged = facts.get("validation_status") in ("passed", "overridden") and json.loads(facts.get("gates", "{}"))
        status = facts.get("validation_status", "not run")
        return text_of(facts), [] if judged else [f"the gates are {status}: `gate {version}` judges it"]

    def approval() -> tuple[str, list[str]]:
        facts = {key: value for key, value in made.tags.items() if key.startswith("approved_")}
        lacking = [] if facts.get("approved_by") else [f"nobody approved it: `approve {version} --reason ...`"]
        if people.same(facts.get("approved_by"), made_by.data.tags.get("by")):
            lacking.append(f"{facts['approved_by']} trained it and approved it")
        if facts.get("approved_as") == approve.Kind.POLICY:
            facts["approved_as"] = "a policy, no person looked at it"
        released = [one for one in lineage.releases(project, client) if one["version"] == version]
        return text_of({"approval": facts, "releases": released}), lacking

    def governance() -> tuple[str, list[str]]:
        return project.path(policy.FILE).read_text("utf-8"), policy.breaches(project, rules) + policy.open_points(
            project, rules, CHECKPOINT
        )

    part("model-card.md", lambda: (catalog.card(project, chosen, client, version), []))
    part("data-sheet.md", lambda: data_sheet(project, client, made_by))
    part("lineage.json", chain)
    part("gates.json", gates)
    part("approvals.json", approval)
    part("policy.yml", governance)
    part("dependencies.csv", lambda: dependencies(tracking.read_artifact(client, made_by, "uv.lock"), rules, database))
    kept = {item.path for item in client.list_artifacts(made.run_id)}
    for name in KEPT:
        if name in kept:
            client.download_artifacts(made.run_id, name, str(folder))
        else:
            missing.append(f"{name}: the run did not keep it")
    return missing


def text_of(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


def data_sheet(project: Project, client: "MlflowClient", made_by: Any) -> tuple[str, list[str]]:
    """Return what is known of the data that a version learned from, as Markdown, and what is not (Gebru et al. 2021)."""
    name, _, version = made_by.data.tags["data"].partition("@")
    profile = json.loads(tracking.read_artifact(client, made_by, "split.json"))["profile"]
    entry = data_sets.read(project).datasets.get(name)
    if not entry:
        return "", [f"data set {name} is not in {data_sets.FILE}"]
    retention = f"{entry.retention_days} days" if entry.retention_days else "without end"
    columns = [
        f"| {column} | {facts['type']} | {facts['missing']:.2%} | {facts.get('min', '')} | {facts.get('max', '')} "
        f"| {'yes' if column in entry.masked else ''} |"
        for column, facts in profile["columns"].items()
    ]
    facts = [f"# Data set {name}", "", entry.what, ""]
    period = f"from {profile['from']} to {profile['to']}" if profile["from"] else "without a time"
    facts += [f"- version {version}: {profile['rows']:,} rows {period}"]
    facts += [f"- owner {entry.owner}, class {entry.kind}, kept {retention}, used by {', '.join(entry.consumers)}", ""]
    facts += ["| column | type | missing | least | most | masked outside |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*facts, *columns, ""]), []


def dependencies(lock: str, rules: policy.Policy, database: Path | None) -> tuple[str, list[str]]:
    """Return, as CSV, each package that the commands need with version, licence and known vulnerabilities; what lacks."""
    needed = dict(sorted(packages(tomllib.loads(lock))))
    if not needed:
        raise ProjectError("the run's uv.lock names no package")
    say(f"checking {len(needed)} packages for known vulnerabilities")
    found = read_database(needed, database) if database else ask_service(needed, rules.security.vulnerability_service)
    table, lacking = io.StringIO(), []
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["package", "version", "licence", "vulnerabilities"])
    for name, version in needed.items():
        licence = rules.security.known_licences.get(name) or licence_of(name, version)
        writer.writerow([name, version, licence, " ".join(found[name])])
        if not licence:
            lacking.append(f"{name} {version}: no licence is known; read it and note it in known_licences")
        if any(word in licence for word in rules.security.refused_licences):
            lacking.append(f"{name} {version}: licence {licence} is refused")
        if open_ones := [one for one in found[name] if one not in rules.security.accepted_vulnerabilities]:
            lacking.append(f"{name} {version}: {', '.join(open_ones)}; raise it, or accept it with reason and date")
    return table.getvalue(), lacking


def packages(lock: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and version of what uv.lock has the project and its level groups need on this machine; tools left out."""
    listed = lock.get("package", [])
    waiting: list[dict[str, Any]] = []
    for one in listed:
        if "editable" in one.get("source", {}):  # the project itself
            groups = one.get("dev-dependencies", {})
            used = [needs for name, needs in groups.items() if re.fullmatch(r"level-[1-9]", name)]
            waiting += itertools.chain(one.get("dependencies", []), *used)
    seen: set[tuple[str, str]] = set()
    while waiting:
        need = waiting.pop()
        if "marker" in need and not Marker(need["marker"]).evaluate():
            continue
        one = next(p for p in listed if p["name"] == need["name"] and need.get("version") in (None, p.get("version")))
        for extra in ["", *need.get("extra", [])]:
            if (one["name"], extra) not in seen:
                seen.add((one["name"], extra))
                waiting += one.get("optional-dependencies", {}).get(extra, []) if extra else one.get("dependencies", [])
        yield one["name"], one["version"]


def licence_of(name: str, version: str) -> str:
    """Return the licence that the installed package declares, "" when that version is not installed or says nothing."""
    try:
        about = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    if about.version != version:
        return ""
    said: dict[str, Any] = dict(about.metadata.json)
    lines = [line for line in said.get("classifier", []) if re.match("License :: (OSI Approved :: )?[^O]", line)]
    classified = "; ".join(line.split(" :: ")[-1] for line in lines)
    return said.get("license_expression") or classified or str(said.get("license", "")).strip().partition("\n")[0]


def ask_service(needed: dict[str, str], service: str) -> dict[str, list[str]]:
    """Return the known vulnerabilities of each package, asked by pip-audit; raises ProjectError when one was not checked."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in needed.items()), encoding="utf-8")
        words = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", "--desc=off"]
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), *words]
        command += ["--vulnerability-service=osv", f"--osv-url={service}", "--timeout=20"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        told = {one["name"]: one for one in json.loads(done.stdout)["dependencies"]}
        return {name: [vuln["id"] for vuln in told[name]["vulns"]] for name in needed}
    except (ValueError, KeyError) as error:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        reason = f"no answer about {error}" if isinstance(error, KeyError) else last
        raise ProjectError(
            f"not checked for vulnerabilities at {service}: {reason}; give --vulnerabilities FILE where it is out of reach"
        ) from error


def read_database(needed: dict[str, str], database: Path) -> dict[str, list[str]]:
    """Return the vulnerabilities of each package in a folder or zip of OSV records; raises ProjectError without any."""
    found: dict[str, list[str]] = {name: [] for name in needed}
    n_records = 0
    for record in records(database):
        n_records += 1
        for affected in record.get("affected", []):
            name = canonicalize_name(affected.get("package", {}).get("name", ""))
            if affected.get("package", {}).get("ecosystem") != "PyPI" or name not in needed or "withdrawn" in record:
                continue
            version, hit = Version(needed[name]), needed[name] in affected.get("versions", [])
            for events in (one["events"] for one in affected.get("ranges", []) if one.get("type") == "ECOSYSTEM"):
                inside = False
                for event in events:  # in order, as OSV asks for
                    if "introduced" in event:
                        inside |= event["introduced"] == "0" or version >= Version(event["introduced"])
                    if "fixed" in event:
                        inside &= version < Version(event["fixed"])
                    if "last_affected" in event:
                        inside &= version <= Version(event["last_affected"])
                hit |= inside
            if hit and record["id"] not in found[name]:
                found[name].append(record["id"])
    if not n_records:
        raise ProjectError(f"{database} holds no OSV record: nothing was checked for vulnerabilities")
    return found


def records(database: Path) -> Iterator[dict[str, Any]]:
    if database.is_dir():
        yield from (json.loads(file.read_text(encoding="utf-8")) for file in sorted(database.rglob("*.json")))
    elif zipfile.is_zipfile(database):
        with zipfile.ZipFile(database) as pack:
            yield from (json.loads(pack.read(name)) for name in pack.namelist() if name.endswith(".json"))
    else:
        raise ProjectError(f"{database} is neither a folder nor a zip of OSV records")
