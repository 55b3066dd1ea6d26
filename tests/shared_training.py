"""A pytest plugin for runs of a project's suite with a fault planted: what takes long to set up was made in a run without it.

The folder TRAINED has a folder for each fixture of SHARED that such a run, with MAKE set, came by. For faults in what comes
after only.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# By module: a project that was trained, one that has two versions, one that has released them, one to be audited.
SHARED = {"conftest": ["trained"], "test_deploy": ["judged", "released"], "test_lineage": ["registered"]}


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Path | None:
    name = fixturedef.argname
    if name not in SHARED.get(fixturedef.func.__module__.rpartition(".")[2], []):
        return None
    place = Path(os.environ["TRAINED"]) / name
    made = place / "project"
    if not made.exists() and "MAKE" not in os.environ:
        return None
    if not made.exists():
        place.mkdir(parents=True)
        given = {one: request.getfixturevalue(one) for one in fixturedef.argnames}
        made = fixturedef.func(**given | {"tmp_path_factory": SimpleNamespace(mktemp=lambda _: place)})
    fixturedef.cached_result = (made, fixturedef.cache_key(request), None)
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what a fault keeps from happening be waited for as long as it may take, not as long as a busy machine may."""
    for module in {item.getparent(pytest.Module).obj for item in items}:
        if hasattr(module, "SECONDS"):
            module.SECONDS = 10
