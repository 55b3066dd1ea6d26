"""Run the evidence of every practice of this level and print what passes and what the next level adds.

python -m {package} maturity
python -m {package} maturity --list
python -m {package} maturity --questions    # how ready the organisation is, by docs/readiness.toml
"""

import argparse
import contextlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from .errors import ProjectError, Refused
from .project import Project

CATALOGUE = Path("docs/levels/practices.toml")
ANSWERS = Path(".copier-answers.yml")
QUESTIONS = Path("docs/readiness.toml")
WORTH = {"yes": 1.0, "partly": 0.5, "no": 0.0}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="print the practices and their evidence, run nothing")
    parser.add_argument("--questions", action="store_true", help=f"score the answers in {QUESTIONS}, run nothing")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.questions:
        return print_readiness(project, read_questions(project), options.json)
    level, practices = read_level(project), read_catalogue(project)
    mine = [practice for practice in practices if practice["level"] <= level]
    passed = {} if options.list else run_marked_tests(project)
    for practice in mine:
        practice["result"] = "-" if options.list else outcome(project, practice, level, passed)
    following = [practice["title"] for practice in practices if practice["level"] == level + 1]
    if options.json:
        print(json.dumps({"level": level, "practices": mine, "next": following}, indent=2))
    else:
        print_table(mine, level, following)
    failed = [practice["id"] for practice in mine if practice.get("failed")]
    if failed:
        raise Refused(f"{len(failed)} of {len(mine)} practices have no passing evidence: {', '.join(failed)}")


def read_level(project: Project) -> int:
    """Return the maturity level of the project in this folder, 0 to 4."""
    text = project.path(ANSWERS).read_text(encoding="utf-8") if project.path(ANSWERS).is_file() else ""
    found = re.search(r"^level: (\d)$", text, re.MULTILINE)
    if not found:
        raise ProjectError(f"no {ANSWERS} with a level here: run this in the project's own folder")
    return int(found[1])


def read_catalogue(project: Project) -> list[dict[str, Any]]:
    """Return the practices of all levels: id, level, title and evidence (tests, pages, absent files)."""
    return tomllib.loads(project.path(CATALOGUE).read_text(encoding="utf-8"))["practice"]


def run_marked_tests(project: Project) -> dict[str, bool]:
    """Run the tests that carry a practice and return, a practice, whether all of them passed."""
    import pytest

    passed: dict[str, bool] = {}

    class Collector:
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
            report = yield
            if report.when == "call" or not report.passed:  # a skipped test is no evidence
                for marker in item.iter_markers("practice"):
                    for name in marker.args:
                        passed[name] = passed.get(name, True) and report.passed
            return report

    with contextlib.redirect_stdout(sys.stderr):
        pytest.main(["-m", "practice", "-q", "--no-header", str(project.path("tests"))], plugins=[Collector()])
    return passed


def outcome(project: Project, practice: dict[str, Any], level: int, passed: dict[str, bool]) -> str:
    """Return "pass", "FAIL: why", or that a characteristic of a lower level is over; note in PRACTICE whether it failed."""
    if level >= practice.get("ends_at", 99):
        return f"over since level {practice['ends_at']}"
    why = lacking(project, practice, passed)
    practice["failed"] = bool(why)
    return f"FAIL: {why}" if why else "pass"


def lacking(project: Project, practice: dict[str, Any], passed: dict[str, bool]) -> str:
    """Return which evidence of PRACTICE is not there, "" when all is."""
    if practice.get("tests") and not passed.get(practice["id"]):
        return "a test of it failed" if practice["id"] in passed else "no test of it ran"
    for page in practice.get("pages", []):
        name, _, heading = page.partition("#")
        file = project.path(name)
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE):
            return f"no heading {heading!r} in {name}"
    for pattern in practice.get("absent", []):
        if there := sorted(project.folder.glob(pattern)):
            return f"{there[0]} is there"
    return ""


def print_table(practices: list[dict[str, Any]], level: int, following: list[str]) -> None:
    print(f"maturity level {level}: {len(practices)} practices")
    width = max(len(practice["id"]) for practice in practices)
    for practice in practices:
        evidence = [*practice.get("tests", []), *practice.get("pages", [])]
        evidence += [f"no {pattern}" for pattern in practice.get("absent", [])]
        print(f"{practice['level']}  {practice['id']:<{width}}  {practice['result']:<20}  {'; '.join(evidence)}")
    if following:
        print(f"\nlevel {level + 1} adds {len(following)}:")
        print("\n".join(f"   {title}" for title in following))


def read_questions(project: Project) -> dict[str, dict[str, Any]]:
    """Return the readiness questions by name, "section.name", each with its question, answer and weight."""
    if not project.path(QUESTIONS).is_file():
        raise ProjectError(f"no {QUESTIONS} here: level 1 brings it")
    try:
        sections = tomllib.loads(project.path(QUESTIONS).read_text(encoding="utf-8"))
        questions = {f"{section}.{name}": dict(asked[name]) for section, asked in sections.items() for name in asked}
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise ProjectError(f"{QUESTIONS} is not made of [section.name] tables: {error}") from error
    for name, entry in questions.items():
        given = {key: entry.get(key) for key in ("question", "answer", "weight")}
        if not given["question"] or given["answer"] not in ("", *WORTH) or given["weight"] not in range(1, 6):
            expected = 'a question, answer yes, partly, no or "", weight 1 to 5'
            raise ProjectError(f"{QUESTIONS}: {name} has {json.dumps(given, default=str)}, must have {expected}")
    return questions


def print_readiness(project: Project, questions: dict[str, dict[str, Any]], as_json: bool) -> None:
    """Print the weighted share of yes, 0 to 100, of all answers and of each section, and which hold it down most."""
    answers = {name: entry for name, entry in questions.items() if entry["answer"]}
    loss = {name: entry["weight"] * (1 - WORTH[entry["answer"]]) for name, entry in answers.items()}
    scores = {}
    for section in ["", *dict.fromkeys(name.partition(".")[0] + "." for name in questions)]:
        asked = [name for name in questions if name.startswith(section)]
        answered = [name for name in asked if name in loss]
        most = sum(answers[name]["weight"] for name in answered)
        score = round(100 - 100 * sum(loss[name] for name in answered) / most) if most else None
        scores[section.strip(".") or "all"] = {"score": score, "answered": len(answered), "questions": len(asked)}
    raise_first = [name for name in sorted(loss, key=lambda name: -loss[name]) if loss[name]]
    if as_json:
        print(json.dumps({"readiness": scores, "raise_first": raise_first}, indent=2))
        return
    for section, result in scores.items():
        score = "-" if result["score"] is None else f"{result['score']}"
        print(f"{section:<10} {score:>3} of 100   {result['answered']} of {result['questions']} questions answered")
    for name in raise_first[:3]:
        print(f"raise first: {name} ({answers[name]['answer']}): {answers[name]['question']}")
    if not loss:
        print(f"answer the questions in {QUESTIONS}, then run this again")
