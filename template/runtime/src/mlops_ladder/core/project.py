"""The project that the runtime is handed: the user's modules, its folder and its level."""

import contextlib
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Rule = dict[str, Any]  # what SCHEMA says of a column
LEVEL = re.compile(r"^level: (\d)$", re.MULTILINE)
ANSWERS = "extra_metadata/copier-answers.yml"  # where pyproject.toml puts .copier-answers.yml in a wheel
T = TypeVar("T")


class DataModule(Protocol):
    """data.py: where the rows come from and what a row must look like."""

    PROBLEM: str
    TARGET: str
    KEY: str
    TIME: str | None  # without one rows are split by the hash of GROUP, where that is declared, or KEY
    SLICES: list[str]
    LEAKS: list[str]
    SCHEMA: dict[str, Rule]

    def read(self, folder: Path | str = ...) -> "pd.DataFrame": ...


class FeaturesModule(Protocol):
    """features.py: rows to the model's inputs."""

    COLUMNS: list[str]
    CATEGORIES: list[str]
    NUMBERS: list[str]

    def build(self, rows: "pd.DataFrame") -> "pd.DataFrame": ...


class ModelModule(Protocol):
    """model.py: the estimator, its search space, its metrics and its file."""

    OUTPUT: str
    PRIMARY: str
    HIGHER_IS_BETTER: dict[str, bool]
    DEFAULT: str
    SIMPLE: str
    SEARCH_SPACE: dict[str, dict[str, Any]]

    def make(self, family: str = ..., seed: int = ..., **parameters: Any) -> Any: ...

    def predict(self, model: Any, inputs: "pd.DataFrame") -> "np.ndarray": ...

    def metrics(self, truth: "pd.Series", predicted: "np.ndarray") -> dict[str, float]: ...

    def baseline(self, truth: "pd.Series", n_rows: int) -> "np.ndarray": ...

    def save(self, model: Any, file: Path) -> None: ...

    def load(self, file: Path) -> Any: ...


class BehaviourModule(Protocol):
    """behaviour.py, from level 3: tests of behaviour by name, and the groups between which a model must be fair."""

    def groups(self, rows: "pd.DataFrame") -> dict[str, "pd.Series"]: ...


class TablesModule(Protocol):
    """tables.py, from level 3: the feature tables."""

    TABLES: dict[str, Any]


class FastModule(Protocol):
    """fast.py, from level 3: the model's inputs without a table."""

    inputs: Callable[[list[dict[str, Any]]], Any]


@dataclass(frozen=True, eq=False)
class Project:
    """What the runtime is handed. Two of them in one process share nothing.

    `package` is the name that `python -m` takes, `source` the folder of its modules, `folder` the project's own: every
    path of the runtime lies in it. `modules` stand in for the package's own of the same name.
    """

    package: str
    source: Path
    folder: Path = Path()
    modules: Mapping[str, ModuleType | Any] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)  # what `once` made

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: what the modules hold is imported there anew."""
        return Project, (self.package, self.source, self.folder, self.modules)

    def path(self, inside: Path | str) -> Path:
        """Return the path INSIDE the project's folder; one that is absolute stays as it is."""
        return self.folder / inside

    def module(self, name: str) -> Any:
        """Return the user's module NAME; raises ModuleNotFoundError when there is none."""
        return self.modules.get(name) or importlib.import_module(f"{self.package}.{name}")

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs a command of this project, in its folder, in a process of its own."""
        return [sys.executable, "-m", self.package, *words]

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Return what MAKE gave the first time that KEY was asked for; of a key's first part the latest is kept."""
        whole = self.folder.resolve(), key
        if self.kept.get(key[0], (None,))[0] != whole:
            self.kept[key[0]] = whole, make()
        return self.kept[key[0]][1]

    @cached_property
    def data(self) -> DataModule:
        return cast(DataModule, self.module("data"))

    @cached_property
    def features(self) -> FeaturesModule:
        return cast(FeaturesModule, self.module("features"))

    @cached_property
    def model(self) -> ModelModule:
        return cast(ModelModule, self.module("model"))

    @cached_property
    def behaviour(self) -> BehaviourModule:
        return cast(BehaviourModule, self.module("behaviour"))

    @cached_property
    def tables(self) -> TablesModule:
        return cast(TablesModule, self.module("tables"))

    @cached_property
    def fast(self) -> FastModule:
        return cast(FastModule, self.module("fast"))

    @property
    def level(self) -> int | None:
        """The maturity level that .copier-answers.yml names; away from it, as in an image, that of the wheel; else None."""
        file = self.path(".copier-answers.yml")
        named = LEVEL.search(file.read_text(encoding="utf-8")) if file.is_file() else self.level_of_wheel
        return int(named[1]) if named else None

    @cached_property
    def level_of_wheel(self) -> re.Match[str] | None:
        """What names the level in the answers that an installed wheel of this project carries, None where none is."""
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return LEVEL.search(importlib.metadata.distribution(self.package).read_text(ANSWERS) or "")
        return None
