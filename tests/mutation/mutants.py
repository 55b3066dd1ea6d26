"""A pytest plugin that plants each small fault mutmut makes of a module, and asks the tests which of them they notice.

    MUTATE=mlops_ladder.loop.triggers PYTHONPATH=... pytest -s -p mutants tests/runtime/loop/test_triggers.py

The tests run once as they are, which also tells what each of them reaches. Then each mutant lives in a fork of this
process, where everything is imported and the fixtures of the session stand, and meets the tests that reach its function.
What comes of each is written to the file MUTANTS, one JSON object a line. A string with a space in it is a sentence for
people and stays as it is.
"""

import ast
import difflib
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import libcst
import pytest
from mutmut import configuration
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

NAME = os.environ["MUTATE"]  # of a module
ONLY = os.environ.get("FUNCTIONS", "").split()  # of the module, all by default
SERVICE = "serve"  # fixture of tests that start a process, where no mutant lives
SLOWER = 20  # times the tests' own time after which a mutant counts as noticed: it does not end
PATIENCE_S = 120


def words_stay(node: libcst.BaseString) -> Iterable[libcst.BaseString]:
    return () if " " in getattr(node, "value", "") else mutators.operator_string(node)


def mutate(file: Path) -> Any:
    """Return the text of FILE with all its mutants in it, and their names."""
    os.environ["MUTMUT_DEPENDENCY_DEPTH"] = "-1"  # what a function calls is reached too
    configuration._config = configuration.Config(**vars(settings()))
    file_mutation.mutation_operators = [
        (kind, words_stay if kind is libcst.BaseString else change) for kind, change in mutators.mutation_operators
    ]
    return file_mutation.mutate_file_contents(str(file), file.read_text(encoding="utf-8"))


def settings() -> Any:
    """Return mutmut's defaults; it looks for the code to mutate, which it is given."""
    folder = Path.cwd()
    configuration._guess_source_paths = lambda: [str(folder)]
    return configuration._load_config()


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with its mutants, none of which lives yet."""

    mutated: Any = None

    def get_code(self, fullname: str) -> CodeType:
        type(self).mutated = mutate(Path(self.path))
        return compile(self.mutated.code, self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if fullname == NAME else None
        if spec and spec.origin:
            spec.loader = Loader(fullname, spec.origin)
        return spec


set_mutant_under_test("")
sys.meta_path.insert(0, Finder())


class Failures:
    """Notes that a test failed; in a fork that ends it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.forked = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.forked:
            os._exit(1)
        if report.failed:
            self.names.append(report.nodeid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if SERVICE not in getattr(item, "fixturenames", ())]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    failures = Failures()
    session.config.pluginmanager.register(failures)
    reached, seconds = run_as_they_are(session.items)
    if failures.names:
        raise session.Failed(f"without a mutant these fail already: {', '.join(failures.names)}")
    if Loader.mutated is None:
        raise session.Failed(f"no test imports {NAME}")
    failures.forked = True
    with Path(os.environ.get("MUTANTS", "mutants.jsonl")).open("w", encoding="utf-8") as out:
        for name, change in changes(Loader.mutated):
            function = name.partition("__mutmut_")[0]
            tests = sorted(reached.get(f"{NAME}.{function}", ()), key=seconds.__getitem__)
            outcome = (
                live(f"{NAME}.{name}", tests, sum(map(seconds.__getitem__, tests))) if tests else "reached by none"
            )
            out.write(json.dumps({"mutant": name, "outcome": outcome, "change": change}, ensure_ascii=False) + "\n")
            out.flush()
    return True


def run_as_they_are(items: list[pytest.Item]) -> tuple[dict[str, list[pytest.Item]], dict[pytest.Item, float]]:
    """Return for each function of the module the tests that reach it, and how long each test took, in seconds."""
    reached, seconds = dict[str, list[pytest.Item]](), dict[pytest.Item, float]()
    for item, after in zip(items, [*items[1:], *items[:1]], strict=True):
        state()._stats.clear()
        set_mutant_under_test("stats")
        began = time.monotonic()
        item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
        seconds[item] = time.monotonic() - began
        for function in state()._stats:
            reached.setdefault(function, []).append(item)
    return reached, seconds


def changes(mutated: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield each mutant's name and the lines by which it differs from the code as it is."""
    lines = mutated.code.splitlines()
    nodes = [
        node for node in ast.walk(ast.parse(mutated.code)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    bodies = {node.name: lines[node.lineno : node.end_lineno] for node in nodes}
    for name in mutated.mutant_names:
        function = name.partition("__mutmut_")[0]
        if not ONLY or function.removeprefix("x_") in ONLY:
            differ = difflib.unified_diff(bodies[f"{function}__mutmut_orig"], bodies[name], n=0, lineterm="")
            yield name, [line for line in differ if not line.startswith(("---", "+++", "@@"))]


def live(mutant: str, tests: list[pytest.Item], seconds: float) -> str:
    """Return what became of MUTANT in a fork that runs TESTS: noticed, not ended or survived."""
    child = os.fork()
    if not child:
        try:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            signal.alarm(int(PATIENCE_S + SLOWER * seconds))
            set_mutant_under_test(mutant)
            for item, after in zip(tests, [*tests[1:], tests[0]], strict=True):
                item._initrequest()  # type: ignore[attr-defined]
                item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "not ended" if os.WTERMSIG(status) == signal.SIGALRM else "noticed"
    return "noticed" if os.WEXITSTATUS(status) else "survived"
