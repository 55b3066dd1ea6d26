"""The fast path: ONNX Runtime answers as the model does, or it does not answer at all."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flight_delays import data, features, model
from mlops_ladder import Project
from mlops_ladder.data.rows import as_records
from mlops_ladder.serving.servable import resolve
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType

OWN = importlib.util.find_spec("flight_delays.fast")  # yours, and not needed: without it features.build is used


def convert(fitted: Any) -> bytes:
    kinds = {name: StringTensorType([None, 1]) for name in features.CATEGORIES}
    kinds |= {name: FloatTensorType([None, 1]) for name in features.NUMBERS}
    options = {"zipmap": False} if hasattr(fitted, "predict_proba") else {}
    return to_onnx(fitted, initial_types=list(kinds.items()), options={id(fitted): options}).SerializeToString()


@pytest.fixture(scope="session")
def form(trained: Path) -> bytes:
    return convert(model.load(trained / "models/candidate/fitted/model.skops"))


@pytest.fixture
def version(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A version of the test's own: `uri`, `put(bytes)` to leave its ONNX form with its run, `tag(fast_path)`."""
    for name in ("conf", "mlruns"):
        shutil.copytree(trained / name, tmp_path / name)
    shutil.copy(trained / "mlflow.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    chosen, client = tracking.open_store(FLIGHTS)
    copy = shutil.copytree(tracking.download(client, chosen.model, "1").parent, tmp_path / "version")
    run = client.create_run(client.create_experiment("gated", str(tmp_path / "runs"))).info.run_id
    made = client.create_model_version(chosen.model, str(copy), run)

    def put(form: bytes) -> None:
        Path("model.onnx").write_bytes(form)
        client.log_artifact(run, "model.onnx", "gates")

    return SimpleNamespace(
        uri=f"models:/{chosen.model}/{made.version}",
        put=put,
        tag=lambda value: client.set_model_version_tag(chosen.model, made.version, "fast_path", value),
        folder=copy,
    )


def told(uri: str) -> dict[str, str]:
    return resolve(FLIGHTS, uri).describe()["fast_path"]


@pytest.mark.practice("framework-agnostic-serving")
def test_the_fast_path_answers_each_row_as_the_model_does(version: Any, form: bytes, trained: Path) -> None:
    version.put(form)
    version.tag("onnx")
    served = resolve(FLIGHTS, version.uri)
    said = served.describe()["fast_path"]
    assert (said["engine"], said["rows"]) == ("onnxruntime", "fast.inputs" if OWN else "features.build"), said
    rows = data.read(trained / "data/raw").sample(300, random_state=1)[features.COLUMNS]
    expected = model.predict(served.fitted, features.build(rows))
    for row, value in zip(as_records(rows), expected, strict=True):
        [given] = served.compute(served.contract.parse(json.dumps(row).encode()))
        assert given == pytest.approx(value, rel=1e-5, abs=1e-5)


@pytest.mark.practice("framework-agnostic-serving")
def test_missing_values_and_unseen_categories_are_answered_alike(version: Any, form: bytes) -> None:
    plain = resolve(FLIGHTS, version.uri)
    version.put(form)
    version.tag("onnx")
    served, row = resolve(FLIGHTS, version.uri), plain.example_row()
    empty = {name: None for name, rule in plain.contract.columns.items() if rule.get("null")}
    strange = {
        name: "ZZ"
        for name, rule in plain.contract.columns.items()
        if rule["type"] in ("text", "category") and "values" not in rule
    }
    rows = [row, row | empty, row | strange, row | empty | strange]
    np.testing.assert_allclose(served.compute(rows), plain.compute(rows), rtol=1e-5, atol=1e-5)
    assert type(served) is not type(plain)


def test_without_the_gates_word_the_model_itself_answers(version: Any, form: bytes) -> None:
    version.put(form)
    assert told(version.uri)["engine"] == "scikit-learn"
    version.tag("sklearn")
    assert told(version.uri)["engine"] == "scikit-learn"


@pytest.mark.parametrize("problem", ["missing", "corrupt", "of another model"])
def test_a_form_that_is_not_the_models_is_not_used(version: Any, problem: str) -> None:
    version.tag("onnx")
    if problem == "corrupt":
        version.put(b"no graph")
    elif problem != "missing":
        rows = data.read(ROOT / "data/sample").head(500)
        version.put(convert(model.make(max_iter=2).fit(features.build(rows), rows[data.TARGET])))
    said = told(version.uri)
    assert said["engine"] == "scikit-learn"
    assert said["why"].startswith("the ONNX form is not used")


def test_a_form_that_was_deployed_with_the_version_is_found_without_its_run(version: Any, form: bytes) -> None:
    version.tag("onnx")
    (version.folder / "gates").mkdir()
    (version.folder / "gates/model.onnx").write_bytes(form)
    assert told(version.uri)["engine"] == "onnxruntime"


@pytest.mark.practice("framework-agnostic-serving")
@pytest.mark.parametrize("wrong", ["value", "column", "order"])
def test_rows_that_are_prepared_otherwise_than_in_training_are_not_used(version: Any, form: bytes, wrong: str) -> None:
    contract = resolve(FLIGHTS, version.uri).contract

    def inputs(rows: list[dict[str, Any]]) -> dict[str, list]:
        built = features.build(contract.table(rows)).to_dict("list")
        last = list(built)[-1]
        changed = {"value": [value + 1 for value in built[last]], "order": built[last][::-1]}
        return {name: changed.get(wrong, []) if name == last else values for name, values in built.items()}

    version.put(form)
    version.tag("onnx")
    other = Project(FLIGHTS.package, FLIGHTS.source, modules={"fast": SimpleNamespace(inputs=inputs)})
    said = resolve(other, version.uri).describe()["fast_path"]
    assert (said["engine"], said["rows"]) == ("onnxruntime", "features.build")
    assert said["why"].startswith("fast.inputs is not used")
