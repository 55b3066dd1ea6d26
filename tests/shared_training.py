"""A pytest plugin for runs of a project's suite with a fault planted: `trained` is taken from an earlier run without it.

Set TRAINED to the folder; where that is empty, the fixture is made in it. For faults in what comes after training only.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Path | None:
    if fixturedef.argname != "trained":
        return None
    place = Path(os.environ["TRAINED"])
    trained = place / "project"
    if not trained.exists():
        there = SimpleNamespace(mktemp=lambda _: place)
        trained = fixturedef.func(there, request.getfixturevalue("git"))
    fixturedef.cached_result = (trained, fixturedef.cache_key(request), None)
    return trained


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what a fault keeps from happening be waited for as long as it may take, not as long as a busy machine may."""
    for module in {item.getparent(pytest.Module).obj for item in items}:
        if hasattr(module, "SECONDS"):
            module.SECONDS = 20
