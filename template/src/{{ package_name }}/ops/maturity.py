"""Run the evidence of every practice of this level and print what passes and what the next level adds.

python -m {package} maturity
python -m {package} maturity --list
"""

import argparse
import contextlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from . import ProjectError, Refused

CATALOGUE = Path("docs/levels/practices.toml")
ANSWERS = Path(".copier-answers.yml")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="print the practices and their evidence, run nothing")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(options: argparse.Namespace) -> None:
    level, practices = read_level(), read_catalogue()
    mine = [practice for practice in practices if practice["level"] <= level]
    passed = {} if options.list else run_marked_tests()
    for practice in mine:
        practice["result"] = "-" if options.list else judge(practice, level, passed)
    following = [practice["title"] for practice in practices if practice["level"] == level + 1]
    if options.json:
        print(json.dumps({"level": level, "practices": mine, "next": following}, indent=2))
    else:
        print_table(mine, level, following)
    failed = [practice["id"] for practice in mine if practice["result"].startswith("FAIL")]
    if failed:
        raise Refused(f"{len(failed)} of {len(mine)} practices have no passing evidence: {', '.join(failed)}")


def read_level() -> int:
    """Return the maturity level of the project in this folder, 0 to 4."""
    text = ANSWERS.read_text(encoding="utf-8") if ANSWERS.is_file() else ""
    found = re.search(r"^level: (\d)$", text, re.MULTILINE)
    if not found:
        raise ProjectError(f"no {ANSWERS} with a level here: run this in the project's own folder")
    return int(found[1])


def read_catalogue() -> list[dict[str, Any]]:
    """Return the practices of all levels: id, level, title and evidence (tests, pages, absent files)."""
    return tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))["practice"]


def run_marked_tests() -> dict[str, bool]:
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
        pytest.main(["-m", "practice", "-q", "--no-header", "tests"], plugins=[Collector()])
    return passed


def judge(practice: dict[str, Any], level: int, passed: dict[str, bool]) -> str:
    """Return "pass", "FAIL: why", or that a characteristic of a lower level is over."""
    if level >= practice.get("ends_at", 99):
        return f"over since level {practice['ends_at']}"
    if practice.get("tests") and not passed.get(practice["id"]):
        return "FAIL: " + ("a test of it failed" if practice["id"] in passed else "no test of it ran")
    for page in practice.get("pages", []):
        name, _, heading = page.partition("#")
        text = Path(name).read_text(encoding="utf-8") if Path(name).is_file() else ""
        if not re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE):
            return f"FAIL: no heading {heading!r} in {name}"
    for pattern in practice.get("absent", []):
        if there := sorted(Path().glob(pattern)):
            return f"FAIL: {there[0]} is there"
    return "pass"


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
