"""Judge a registered version by every gate and conf/release.yml; exit 3 when one refuses it.

python -m {package} gate 4
python -m {package} gate 4 --override slices --reason "carrier WN stops flying here in June, agreed with operations"

The report, models/gates/VERSION/gates.html and .json, is kept with the version's run; the version's tags say the outcome.
An override needs a role that conf/environments/prod.yml lets `override`; who did it and why is kept.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files, pages, people, settings
from ..core.errors import Refused, UsageError
from ..core.project import Project
from ..core.redaction import redact, redacted
from ..core.repository import git
from ..training import tracking
from ..training.pipeline import Training
from . import environments
from .gates import parity
from .judgement import REPORTS, Candidate, Release, gate_names, question_of, run_gates

if TYPE_CHECKING:
    from mlflow import MlflowClient


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="number of the version; `runs` lists them")
    parser.add_argument(
        "--override", action="append", default=[], metavar="GATE", help="let it pass although it refuses"
    )
    parser.add_argument("--reason", help="why a gate is overridden, in a sentence; it is kept")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    limits = settings.read(project, "release", Release)
    if unknown := set(options.override) - {*limits.gates, *gate_names(project)}:
        raise UsageError(f"no gate {min(unknown)!r}; there are: {', '.join(gate_names(project))}")
    if bool(options.override) != bool(options.reason):
        raise UsageError("an override needs GATE and --reason: somebody will ask why")
    tracking.check(project, version=options.version)


def run(project: Project, options: argparse.Namespace) -> None:
    chosen, client = tracking.open_store(project)
    limits = settings.read(project, "release", Release)
    tracking.find_version(client, chosen.model, options.version)
    by = environments.require(project, "prod", "override") if options.override else None
    with claimed(project, options.version):
        result = judge_version(project, client, chosen, options.version, limits, options.override, by, options.reason)
    if options.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    if result["status"] == "refused":
        raise Refused(sentence(project, result))
    if not options.json:
        print(sentence(project, result))


@contextlib.contextmanager
def claimed(project: Project, version: str) -> Iterator[None]:
    """Keep other processes from judging VERSION meanwhile; raises ProjectError when one does."""
    with files.locked(project.path(REPORTS) / version / ".lock"):
        yield


def judge_version(
    project: Project,
    client: "MlflowClient",
    chosen: Training,
    version: str,
    limits: Release,
    override: Iterable[str] = (),
    by: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """Judge a version, keep the report with its run and the outcome in its tags; return both.

    The tag validation_status goes first and is written last: a version that has none was not judged to the end.
    """
    client.delete_model_version_tag(chosen.model, version, "validation_status")
    candidate = Candidate(project, client, chosen.model, version)
    made = tracking.find_version(client, chosen.model, version)
    for old in (parity.FILE, "gates.html", "gates.json"):
        (candidate.folder / old).unlink(missing_ok=True)
    findings = run_gates(candidate, limits)
    refused = {one.gate for one in findings if not one.passed}
    overrides = {name: {"by": by, "reason": reason} for name in override if name in refused}
    kinds = {
        name: "passed" if name not in refused else "refused" for name in dict.fromkeys(one.gate for one in findings)
    }
    kinds |= dict.fromkeys(overrides, "overridden")
    faster = kinds.get("parity") == "passed" and (candidate.folder / parity.FILE).is_file()
    result = {
        "model": chosen.model,
        "version": version,
        "status": "refused" if "refused" in kinds.values() else "overridden" if overrides else "passed",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "by": people.current(project) or people.UNKNOWN,
        "commit": git(project, "rev-parse", "HEAD"),
        "gates": kinds,
        "questions": {name: question_of(project, name) for name in kinds},
        "overrides": overrides,
        "fast_path": "onnx" if faster else "sklearn",
        "findings": [asdict(one) for one in findings],
        "limits": limits.model_dump(),
    }
    write(result, candidate.folder)
    keep_report(project, client, made, result, candidate.folder)
    return result


def keep_report(project: Project, client: "MlflowClient", made: Any, result: dict[str, Any], folder: Path) -> None:
    """Keep the report with the run, each judgement of it apart, and write the version's tags."""
    for file in sorted(folder.glob("[!.]*")):
        client.log_artifact(made.run_id, str(file), "gates")
    client.log_artifact(made.run_id, str(folder / "gates.json"), f"gates/history/{result['at'].replace(':', '')}")
    tags = {
        "gates": json.dumps(result["gates"]),
        "gated_at": result["at"],
        "gate_overrides": json.dumps(result["overrides"]),
        "fast_path": result["fast_path"],
        tracking.FAST: files.sha256(folder / parity.FILE) if result["fast_path"] == "onnx" else "none",
        "validation_status": result["status"],
    }
    for key, value in tags.items():
        if key == "validation_status":
            given = {key: result[key] for key in ("model", "version", "by", "status", "overrides", "fast_path")}
            tracking.announce(project, "gate", client=client, reason=sentence(project, result), **given)
        client.set_model_version_tag(made.name, made.version, key, value)


def write(result: dict[str, Any], folder: Path) -> None:
    """Write the report into FOLDER: gates.json, and gates.html, one page that needs nothing from outside."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gates.json").write_text(json.dumps(redacted(result), indent=2, ensure_ascii=False), encoding="utf-8")
    (folder / "gates.html").write_text(redact(page(result)), encoding="utf-8")


def page(result: dict[str, Any]) -> str:
    """Return the report as a page: what it comes to, what does not hold, then each gate with its limits."""
    findings, gates, title = result["findings"], result["gates"], f"{result['model']} version {result['version']}"
    failed = [one for one in findings if not one["passed"]]
    passed = sum(kind == "passed" for kind in gates.values())
    return pages.page(
        f"{title}: {result['status']}",
        pages.lead(conclusion(result)),
        pages.quiet(
            f"judged {result['at'][:16].replace('T', ' ')} UTC by {result['by']}, at commit {result['commit'][:8]}"
        ),
        pages.tiles(
            {
                "gates passed": f"{passed} of {len(gates)}",
                "checks that hold": f"{len(findings) - len(failed)} of {len(findings)}",
                "overrides": len(result["overrides"]) or "none",
                "what answers callers": "ONNX Runtime" if result["fast_path"] == "onnx" else "scikit-learn",
            }
        ),
        *([pages.section("What does not hold", checks(failed, gate=True))] if failed else []),
        *(
            pages.section(
                f"{name}: {kind}",
                pages.quiet(result.get("questions", {}).get(name, "")),
                checks(one for one in findings if one["gate"] == name),
            )
            for name, kind in gates.items()
        ),
    )


def conclusion(result: dict[str, Any]) -> str:
    """Return what the judgement comes to, in a sentence for people."""
    refused = [name for name, kind in result["gates"].items() if kind == "refused"]
    if refused:
        return f"It may not be released: {', '.join(refused)} {'refuse' if len(refused) > 1 else 'refuses'} it."
    if not result["overrides"]:
        return "It may be released: every gate lets it pass."
    told = (
        f"{name} was overridden by {one['by']}, because: {one['reason']}" for name, one in result["overrides"].items()
    )
    return f"It may be released, although not every check holds: {'; '.join(told)}."


def checks(findings: Iterable[dict[str, Any]], gate: bool = False) -> str:
    """Return a table of FINDINGS, each beside its limit; with GATE it says which gate found it."""
    head = [*["gate"] * gate, "outcome", "check", "measured", "must be"]
    rows = [
        [
            *[one["gate"]] * gate,
            pages.mark("holds") if one["passed"] else pages.mark("refused", bad=True),
            *(one[key] for key in ("what", "found", "limit")),
        ]
        for one in findings
    ]
    return pages.table(head, rows, "checks")


def sentence(project: Project, result: dict[str, Any]) -> str:
    """Return the outcome in one line for people, and a line for each finding that does not hold."""
    where = f"report {(project.path(REPORTS) / result['version'] / 'gates.html').as_posix()}"
    title, findings = f"{result['model']} version {result['version']}", result["findings"]
    failed = [one for one in findings if not one["passed"]]
    lines = [f"{one['gate']}: {one['what']}: {one['found']}, must be {one['limit']}" for one in failed]
    if result["status"] == "passed":
        told = f"{len(findings)} checks of {len(result['gates'])} gates hold, fast path {result['fast_path']}"
        return f"{title} passed: {told}; {where}"
    names = ", ".join(name for name, kind in result["gates"].items() if kind != "passed")
    told = f"{title} is {result['status']} ({names}): {len(failed)} of {len(findings)} checks do not hold; {where}"
    return "\n  ".join([told, *lines])
