"""A fitted model as ONNX: converted at gate time, computed by ONNX Runtime where the service answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

ML = 3  # version of ONNX's own operators for trees that takes thresholds as float64


def convert(fitted: Any, inputs: pd.DataFrame) -> bytes:
    """Return FITTED as an ONNX file that takes INPUTS, a column each, shape (n_rows, 1): text or numbers.

    Raises whatever skl2onnx does about an estimator that it does not know.
    """
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    last = fitted.steps[-1][1] if hasattr(fitted, "steps") else fitted
    exact = hasattr(last, "_predictors")  # histogram boosting: in float32 some rows take another branch
    number = DoubleTensorType if exact else FloatTensorType
    proto = skl2onnx.convert_sklearn(
        fitted,
        initial_types=[
            (name, (StringTensorType if is_text(column) else number)([None, 1])) for name, column in inputs.items()
        ],
        options={id(fitted): {"zipmap": False}} if hasattr(fitted, "predict_proba") else None,
        target_opset={"": 18, "ai.onnx.ml": ML},
    )
    if exact:
        widen(proto, last)
    return proto.SerializeToString()


def widen(proto: Any, boosting: Any) -> None:
    """Give the trees in PROTO the thresholds of BOOSTING in float64, which skl2onnx writes as float32."""
    from onnx import TensorProto, helper, numpy_helper

    trees = [tree.nodes for iteration in boosting._predictors for tree in iteration]
    for node in proto.graph.node:
        if not node.op_type.startswith("TreeEnsemble"):
            continue
        given = {one.name: one for one in node.attribute}
        places = zip(given["nodes_treeids"].ints, given["nodes_nodeids"].ints, strict=True)
        values = {"nodes_values": [trees[tree][place]["num_threshold"] for tree, place in places]}
        for name in ("nodes_values", "nodes_hitrates", "class_weights", "target_weights", "base_values"):
            if name in given:
                content = np.array(values.get(name, given[name].floats), dtype="float64")
                node.attribute.remove(given[name])
                tensor = numpy_helper.from_array(content, name)
                node.attribute.append(helper.make_attribute(f"{name}_as_tensor", tensor))
        if node.op_type == "TreeEnsembleRegressor":  # gives float32 whatever it takes
            for one in proto.graph.output:
                one.type.tensor_type.elem_type = TensorProto.FLOAT
    for one in proto.opset_import:
        if one.domain == "ai.onnx.ml":
            one.version = ML


def is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column)


def missing_as_text(column: pd.Series) -> pd.Series:
    return column.astype("object").fillna("nan")  # what skl2onnx takes for a missing category


class FastPath:
    """A converted model that predicts as model.predict does: the probability of yes, or of each of N_CLASSES, or the number."""

    def __init__(self, content: bytes, n_classes: int = 0) -> None:
        import onnxruntime

        self.n_classes = n_classes
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a row is too little work to share
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        kinds = {"tensor(string)": "object", "tensor(double)": "float64", "tensor(float)": "float32"}
        self.dtypes = {one.name: kinds[one.type] for one in self.session.get_inputs()}

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Return the predictions for what features.build gives, shape (n_rows,) or (n_rows, n_classes)."""
        feed = {
            name: (missing_as_text(inputs[name]) if dtype == "object" else inputs[name]).to_numpy(dtype).reshape(-1, 1)
            for name, dtype in self.dtypes.items()
        }
        told = self.session.run(None, feed)[-1].astype("float64")
        if self.n_classes:
            return told.reshape(-1, self.n_classes)
        return told[:, 1] if told.ndim == 2 and told.shape[1] == 2 else told.ravel()
