"""Check docs/governance/policy.yml against the project, and what a checkpoint still lacks.

python -m {package} policy
python -m {package} policy --checkpoint release

Exit 3 names what does not hold: a principle without a test, an undecided threat, a data set in an environment that its
class is kept out of, an exception that has run out, an open question of a checklist.
"""

import argparse
import json
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ..core import maturity, settings
from ..core.errors import Refused, UsageError
from ..core.project import Project
from . import data_sets, environments

FILE = Path("docs/governance/policy.yml")
WORDS = {True: "yes", False: "no", None: ""}  # what YAML makes of a bare yes, no and nothing
Answer = Annotated[Literal["", "yes", "no", "does not apply"], BeforeValidator(lambda given: WORDS.get(given, given))]


class Use(settings.Settings, frozen=True):
    intended: str
    not_for: list[str]
    affects: str
    limits: list[str]


class Principle(settings.Settings, frozen=True):
    means: str
    tests: list[str] = Field(min_length=1)


class Threat(settings.Settings, frozen=True):
    threat: str
    likely: Literal["low", "medium", "high"]
    harm: Literal["low", "medium", "high"]
    answer: str
    decision: Literal["open", "mitigated", "accepted"]
    by: str = ""


class Excepted(settings.Settings, frozen=True):
    reason: str
    until: date


class Security(settings.Settings, frozen=True):
    classes: dict[str, list[data_sets.Class]]
    refused_licences: list[str]
    known_licences: dict[str, str]
    vulnerability_service: str
    accepted_vulnerabilities: dict[str, Excepted]


class Question(settings.Settings, frozen=True):
    ask: str
    answer: Answer = ""
    note: str = ""


class Checkpoint(settings.Settings, frozen=True):
    when: str
    checklists: list[str]
    readiness: int = Field(ge=0, le=100)


class Role(settings.Settings, frozen=True):
    does: str
    learns: list[str]


class Pattern(settings.Settings, frozen=True):
    when: str
    built_of: list[str]


class Policy(settings.Settings, frozen=True):
    """docs/governance/policy.yml, which gives the reason of each part."""

    use: Use
    principles: dict[str, Principle]
    threats: list[Threat] = Field(min_length=1)
    security: Security
    checklists: dict[str, list[Question]]
    checkpoints: dict[str, Checkpoint]
    roles: dict[str, Role]
    patterns: dict[str, Pattern]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="NAME", help="check the lists and the readiness that it asks for, too")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    policy = read(project)
    lacking = breaches(project, policy)
    if options.checkpoint:
        lacking += open_points(project, policy, options.checkpoint)
    if options.json:
        print(json.dumps({"lacking": lacking}))
    if lacking:
        raise Refused("\n  ".join([f"{len(lacking)} points do not hold:", *lacking]))
    if not options.json:
        n, passed = len(policy.principles), f", checkpoint {options.checkpoint} is passed" * bool(options.checkpoint)
        print(f"{n} principles are tied to tests, {len(policy.threats)} threats are decided{passed}")


def read(project: Project) -> Policy:
    return settings.read(project, str(project.path(FILE)), Policy)


def breaches(project: Project, policy: Policy) -> list[str]:
    """Return what of the policy the project does not hold to, one sentence each."""
    known = tests(project)
    lacking = [
        f"principle {name!r}: {test} is no test here"
        for name, principle in policy.principles.items()
        for test in principle.tests
        if test not in known
    ]
    for one in policy.threats:
        if one.decision == "open" or (one.decision == "accepted" and not one.by):
            lacking.append(f"threat {one.threat!r}: {'nothing is decided' if one.decision == 'open' else 'by whom?'}")
    for name, excepted in policy.security.accepted_vulnerabilities.items():
        if excepted.until < date.today():
            lacking.append(f"vulnerability {name} was accepted until {excepted.until}: mend it or decide again")
    for file in sorted(project.path("conf/environments").glob("*.yml")):
        lacking += misplaced(project, policy, file.stem)
    return lacking


def misplaced(project: Project, policy: Policy, environment: str) -> list[str]:
    """Return why an environment must not read the data set that it reads, by the class of it."""
    if environment not in policy.security.classes:
        return [f"environment {environment}: security.classes does not say which data may be there"]
    data, allowed = environments.read(project, environment).data, policy.security.classes[environment]
    place, listed = project.path(data).resolve(), data_sets.read(project).datasets.items()  # `data/raw/` is the same
    held = {name: entry.kind for name, entry in listed if place.is_relative_to(project.path(entry.path).resolve())}
    if not held:
        return [f"environment {environment} reads {data}, which is not in {data_sets.FILE}: of which class is it?"]
    return [
        f"environment {environment} reads {name}, which is {kind}: there may be {', '.join(allowed)}"
        for name, kind in held.items()
        if kind not in allowed
    ]


def open_points(project: Project, policy: Policy, name: str) -> list[str]:
    """Return what is still open before checkpoint NAME, one sentence each."""
    if name not in policy.checkpoints:
        raise UsageError(f"no checkpoint {name!r}; there are: {', '.join(policy.checkpoints)}")
    asked = policy.checkpoints[name]
    lacking = [
        f"checklist {title}: {question.ask} ({question.answer or 'not answered'})"
        for title in asked.checklists
        for question in policy.checklists[title]
        if question.answer not in ("yes", "does not apply")
    ]
    if (score := readiness(project)) < asked.readiness:
        lacking.append(f"readiness is {score} of 100, must be {asked.readiness} or more: answer {maturity.QUESTIONS}")
    return lacking


def readiness(project: Project) -> int:
    """Return the weighted share of yes, 0 to 100, among all questions of docs/readiness.toml; an open one counts as no."""
    asked = maturity.read_questions(project).values()
    got = sum(one["weight"] * maturity.WORTH.get(one["answer"], 0) for one in asked)
    return round(100 * got / sum(one["weight"] for one in asked))


def tests(project: Project) -> set[str]:
    """Return the id, file::name, of each test of the project, and each practice that one of them is marked with."""
    found = set()
    for file in sorted(project.path("tests").rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        inside = file.relative_to(project.folder).as_posix()
        found |= {f"{inside}::{name}" for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
        for marker in re.findall(r"@pytest\.mark\.practice\(([^)]*)\)", text):
            found |= set(re.findall(r'"([\w-]+)"', marker))
    return found
