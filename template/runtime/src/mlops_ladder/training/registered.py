"""A registered version as MLflow opens it: raw rows in, predictions out. Runs from the version's own folder.

The version carries the user's modules as they were at training, so its rows are prepared as its training rows were,
whatever features.py has become since; of the runtime it carries data/rows.py and core/errors.py. No pickle: the model file is the one that model.py writes.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel


def import_package(folder: Path) -> ModuleType:
    """Return the package in FOLDER, imported under a name of its own beside whatever version is imported already."""
    name = f"registered_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class Registered(PythonModel):
    def load_context(self, context: Any) -> None:
        name = import_package(Path(context.artifacts["code"])).__name__
        self.features, self.model, self.rows = (
            importlib.import_module(f"{name}.{module}") for module in ("features", "model", "_runtime.data.rows")
        )
        self.note = self.rows.read_note(Path(context.artifacts["note"]))
        self.fitted = self.model.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        rows = self.rows.typed(model_input, self.note["columns"])
        return self.rows.as_answers(self.note, self.model.predict(self.fitted, self.features.build(rows)))


mlflow.models.set_model(Registered())
