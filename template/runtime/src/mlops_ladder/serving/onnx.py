"""The fast path: a registered version computed by ONNX Runtime instead of scikit-learn, where both give the same.

The gates write the version's ONNX form (`gates/model.onnx`) and the tag `fast_path`; /model tells what is used, and why.
An input of that form is a column of `features.build`, shape (n_rows, 1); its last output holds the predictions.
"""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..training import tracking
from .contract import Contract, Row
from .servable import Servable

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILE = "gates/model.onnx"
TOLERANCE = 1e-5  # relative and absolute: ONNX computes in 32 bits
INLINE = 64  # rows computed on the event loop: it takes less than handing them to a thread does
N_PROBES = 300
TYPES = {"tensor(string)": "object", "tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}


def hasten(servable: Servable, client: "MlflowClient", name: str, version: str) -> Servable:
    """Return SERVABLE computed by ONNX Runtime, or itself where the gates did not choose that or it does not agree."""
    made, told = client.get_model_version(name, version), {"engine": "scikit-learn", "rows": "features.build"}
    servable.note["fast_path"] = told
    if made.tags.get("fast_path") != "onnx":
        told["why"] = f"the gates did not find that ONNX gives the same: fast_path is {made.tags.get('fast_path')}"
        return servable
    try:
        file = fetch(client, made)
    except Exception as error:  # noqa: BLE001 - slower, and the answers are right
        told["why"] = f"the ONNX form is not used: {type(error).__name__}: {error}"
        return servable
    tracking.unchanged_fast(made, file)
    try:
        fast = Fast(servable, file)
        rows = probes(servable.contract, servable.example_row())
        compare(fast, servable, rows)
    except Exception as error:  # noqa: BLE001 - slower, and the answers are right
        told["why"] = f"the ONNX form is not used: {type(error).__name__}: {error}"
        return servable
    told["engine"] = "onnxruntime"
    try:
        fast.take(servable.project.fast.inputs, rows)
        told["rows"] = "fast.inputs"
    except Exception as error:  # noqa: BLE001
        told["why"] = f"fast.inputs is not used: {type(error).__name__}: {error}"
    return fast


def fetch(client: "MlflowClient", made: Any) -> Path:
    """Return the ONNX file, which lies with the version where it was deployed, and with its run where it was trained."""
    folder = tracking.download(client, made.name, str(made.version)).parent
    return folder / FILE if (folder / FILE).is_file() else Path(client.download_artifacts(made.run_id, FILE))


class Fast(Servable):
    """SERVABLE with its predictions from the ONNX form in FILE."""

    def __init__(self, servable: Servable, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # as OMP_NUM_THREADS in `serve`
        options.log_severity_level = 3
        self.__dict__ |= servable.__dict__
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.types = {one.name: TYPES[one.type] for one in self.session.get_inputs()}
        self.last = [self.session.get_outputs()[-1].name]
        table = servable.contract.table  # not through self: what holds itself is freed late, or never once it is frozen
        self.inputs: Callable[[list[Row]], Any] = lambda rows: servable.project.features.build(table(rows))

    def compute(self, rows: list[Row]) -> np.ndarray:
        columns = self.inputs(rows)
        feed = {name: np.array(columns[name], dtype).reshape(-1, 1) for name, dtype in self.types.items()}
        whole = self.session.run(self.last, feed)[0].reshape(len(rows), -1)
        predicted = whole if self.classes else whole[:, -1]
        if not np.isfinite(predicted).all():
            raise ValueError(f"version {self.version} has no finite prediction for a row")  # which no log may hold
        return predicted

    async def computed(self, rows: list[Row]) -> np.ndarray:
        return self.compute(rows) if len(rows) <= INLINE else await super().computed(rows)

    def take(self, inputs: Callable[[list[Row]], Any], rows: list[Row]) -> None:
        """Build the inputs by INPUTS from now on; raises ValueError when it gives another value for one of ROWS."""
        built = self.inputs(rows)
        for part in (slice(None), *(slice(i, i + 1) for i in range(20))):  # together and, some of them, alone
            given = inputs(rows[part])
            for name in built:
                expected = built[name].to_numpy()[part]
                found = np.array(given[name], expected.dtype)
                if not pd.Series(found).equals(pd.Series(expected)):  # as many, each the same, missing where missing
                    raise ValueError(f"its {name} is not that of features.build")
        self.inputs = inputs


def compare(fast: Servable, servable: Servable, rows: list[Row]) -> None:
    """Raise ValueError when the two predict otherwise for one of ROWS."""
    found, expected = fast.compute(rows), servable.compute(rows)
    if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(f"it differs from the model by {np.abs(found - expected).max():.2g}")


def probes(contract: Contract, example: Row) -> list[Row]:
    """Return rows that CONTRACT allows: the example, then some with missing values, unseen categories, bounds and odd times."""
    draw = random.Random(0)

    def value(rule: dict[str, Any], given: Any) -> Any:
        if rule.get("null") and draw.random() < 0.2:
            return None
        if "values" in rule:
            return draw.choice(rule["values"])
        if rule["type"] == "boolean":
            return draw.random() < 0.5
        if rule["type"] == "time":
            odd = datetime(draw.randint(2000, 2040), draw.choice([1, 12]), draw.choice([1, 31]), draw.choice([0, 23]))
            near = (given or odd) + timedelta(
                minutes=draw.randint(-600_000, 600_000), microseconds=draw.randint(0, 999)
            )
            return draw.choice([odd, near])
        if rule["type"] == "number":
            low, high = rule.get("min", -1e3), rule.get("max", 1e3)
            return draw.choice([float(low), float(high), round(draw.uniform(low, high)) * 1.0, draw.uniform(low, high)])
        return draw.choice([given, given, "", "missing", "nan", "never seen"])

    drawn = [{name: value(rule, example[name]) for name, rule in contract.columns.items()} for _ in range(N_PROBES)]
    return [example, *drawn]
