"""Slow libraries, left for later: a command's words are looked at before they load, which takes up to a second each."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

SLOW = ("httpx", "numpy", "pandas", "polars", "pyarrow", "scipy", "sqlalchemy")


class Waiting(ModuleType):
    """A library that loads when the first name in it is used; importlib.util's own does when it is imported a second time."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__spec__":  # what an `import` of a module that is there already looks at
            return super().__getattribute__(name)
        spec = self.__spec__
        assert spec and isinstance(spec.loader, Later)
        self.__class__ = ModuleType  # type: ignore[assignment] # from here on a module like any other
        self.__loader__ = spec.loader = spec.loader.real
        try:
            spec.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(spec.name, None)
            raise
        return getattr(self, name)


class Later(Loader):
    """Makes a module that waits, to be loaded by REAL."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = Waiting


class Finder(MetaPathFinder):
    """Finds the libraries of SLOW."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in SLOW else None
        if spec and spec.loader:
            spec.loader = Later(spec.loader)
        return spec


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Have `import pandas` and its like, in modules that are imported within the block, wait for `load`."""
    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def load() -> None:
    """Load what waits: before any thread starts, and before any work is done that a library's error would undo."""
    for name in SLOW:
        if isinstance(sys.modules.get(name), Waiting):
            sys.modules[name].__name__  # noqa: B018 - any name loads it
