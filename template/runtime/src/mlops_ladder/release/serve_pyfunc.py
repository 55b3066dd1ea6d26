"""Open pyfunc:/NAME@ALIAS and pyfunc:/NAME/VERSION: any model that MLflow can open, whatever framework trained it.

Such a version must have been logged with a signature of named columns and an input example; this project's features.py
and model.py have no part in it. Opening it may run code that lies with it: serve only what your own people registered.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..core import levels
from ..core.errors import ProjectError
from ..core.project import Project
from ..data.rows import as_records
from ..serving import registry
from ..serving.contract import Row
from ..serving.servable import Servable, running
from ..training import tracking
from . import releasing

TYPES = {"string": "text", "boolean": "boolean", "datetime": "time"}  # MLflow's to ours; the rest are numbers


def pin(project: Project, uri: str) -> str:
    return registry.pin(project, uri.replace("pyfunc:", "models:", 1)).replace("models:", "pyfunc:", 1)


def resolve(project: Project, uri: str) -> Servable:
    """Return the registered model that URI names, opened by MLflow."""
    _, client = tracking.open_store(project)
    name, version = uri.removeprefix("pyfunc:/").split("/")
    made = tracking.find_version(client, name, version)
    folder = tracking.folder_of(client, made)
    for module in levels.modules(project, "verifiers"):
        module.verify(project, client, name, version, folder)
    tracking.unchanged(made, folder)
    place = tempfile.TemporaryDirectory(prefix="served-")  # what was verified and no more: planted bytecode would run
    for path, file in releasing.contents(folder).items():
        (Path(place.name) / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, Path(place.name) / path)
    opened = tracking.library().pyfunc.load_model(place.name)
    signature, example = opened.metadata.signature, opened.input_example
    if signature is None or not signature.inputs.has_input_names() or example is None:
        raise ProjectError(f"{name} version {version} lacks a signature of named columns or an input example: log both")
    columns = {
        one.name: {"type": TYPES.get(one.type.name, "number")} | ({} if one.required else {"null": True})
        for one in signature.inputs
    }
    outputs = signature.outputs.input_names() if signature.outputs and signature.outputs.has_input_names() else []
    note = {
        "columns": columns,
        "output": outputs[0] if outputs else "prediction",
        "example": {
            "row": as_records(example[[*columns]].head(1))[0],
            "prediction": float(one_each(opened, example)[0]),
        },
        "trained_by": client.get_model_version(name, version).run_id,
        "libraries": running(),
    }
    servable = Pyfunc(project, opened, note, version)
    servable.place = place
    return servable


class Pyfunc(Servable):
    place: tempfile.TemporaryDirectory[str]  # the files, for as long as the model is served

    def compute(self, rows: list[Row]) -> np.ndarray:
        types = {one.name: one.type.to_pandas() for one in self.fitted.metadata.signature.inputs}
        return one_each(self.fitted, self.contract.table(rows).astype(types))


def one_each(opened: Any, table: Any) -> np.ndarray:
    """Return the finite predictions for TABLE, one a row: of several columns the first."""
    answers = opened.predict(table)
    try:
        predicted = np.asarray(answers, "float64").reshape(len(table), -1)[:, 0]
    except (ValueError, TypeError) as error:
        raise ProjectError(f"the model answers with no number ({error}): of this project's own say models:/") from None
    if not np.isfinite(predicted).all():
        raise ValueError("the model has no finite prediction for a row")
    return predicted
