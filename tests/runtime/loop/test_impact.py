"""What a new version changes for callers, in each slice, and for the models that it feeds."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from flight_delays import data, features, model
from mlops_ladder.core import settings
from mlops_ladder.loop.gates import dependents
from mlops_ladder.release import judgement
from mlops_ladder.release.judgement import Candidate, Release
from mlops_ladder.training import tracking
from projects import FLIGHTS

NUMBER = next(name for name in features.COLUMNS if data.SCHEMA.get(name, {}).get("type") == "number")
FED = f"""
import mlflow

class Fed(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["risk"] * 100 + model_input["{NUMBER}"] / 1e6

mlflow.models.set_model(Fed())
"""


@pytest.fixture(scope="module")
def versions(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A copy of `trained`, made the current folder: 1 feeds another model and is in use, 2 hardly learned anything."""
    folder = tmp_path_factory.mktemp("versions") / "project"
    shutil.copytree(trained, folder)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        chosen, client = tracking.open_store(FLIGHTS)
        first = tracking.find_version(client, chosen.model, "1")
        copy = shutil.copytree(tracking.download(client, chosen.model, "1").parent, folder / "version-2")
        rows = data.read("data/sample").head(2_000).dropna(subset=[data.TARGET])
        weak = model.make(max_iter=1).fit(features.build(rows), rows[data.TARGET])
        model.save(weak, copy / "artifacts/model.skops")
        client.create_model_version(chosen.model, str(copy), first.run_id)
        client.set_registered_model_alias(chosen.model, "champion", "1")
        Path("fed.py").write_text(FED)
        example = pd.DataFrame({"risk": [0.5], NUMBER: [100.0]})
        with mlflow.start_run(experiment_id=client.create_experiment("fed", str(folder / "fed"))):
            mlflow.pyfunc.log_model(
                name="model",
                python_model="fed.py",
                registered_model_name="fed",
                signature=mlflow.models.infer_signature(example, [1.0]),
                input_example=example,
                pip_requirements=["mlflow"],
            )
        yield SimpleNamespace(folder=folder, client=client, name=chosen.model)


@pytest.fixture
def chained(versions: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`versions` with the model that 1 feeds in conf/endpoints.yml."""
    monkeypatch.chdir(versions.folder)
    conf = {
        "models": {"/fed": "pyfunc:/fed/1"},
        "chains": {"/both": {"first": "/", "second": "/fed", "column": "risk"}},
    }
    Path("conf/endpoints.yml").write_text(yaml.safe_dump(conf))
    return versions


@pytest.mark.practice("change-impact-measurement", "model-dependency-management")
def test_the_impact_of_a_version_is_told_overall_by_slice_and_for_what_it_feeds(chained: Any, run: Any) -> None:
    told = run("impact", "1", "2", "--json")
    assert told["mean_change"] > 0 and told["churn"] > 0
    assert told["gain"][model.PRIMARY] < 0, "2 hardly learned anything"
    slices = [one["gain"] for one in told["slices"]]
    assert len(slices) >= 3 and slices == sorted(slices), "the worst first"
    assert {one["slice"].split()[0] for one in told["slices"]} == set(data.SLICES)
    [fed] = told["fed"]
    assert (fed["endpoint"], fed["model"]) == ("/both", "pyfunc:/fed/1")
    assert fed["mean_change"] == pytest.approx(100 * told["mean_change"], rel=0.01)
    said = run("impact", "1", "2")
    assert "version 2 in place of 1" in said and "feeds pyfunc:/fed/1 at /both" in said


@pytest.mark.practice("change-impact-measurement")
def test_a_version_has_no_impact_in_its_own_place(chained: Any, run: Any) -> None:
    told = run("impact", "1", "1", "--json")
    assert (told["mean_change"], told["churn"], told["fed"][0]["mean_change"]) == (0, 0, 0)
    assert set(told["gain"].values()) == {0}
    assert "takes two versions" in run("impact", "1", exit_code=2)


@pytest.mark.practice("model-dependency-management")
def test_the_graph_says_which_model_feeds_which(chained: Any, run: Any) -> None:
    assert run("impact", "--graph") == "the main model -> pyfunc:/fed/1 as risk, at /both\n"
    Path("conf/endpoints.yml").write_text("models: {}\nchains: {}\n")
    assert "no model feeds another" in run("impact", "--graph")


@pytest.mark.practice("model-dependency-management")
def test_a_gate_asks_the_models_that_a_version_feeds(chained: Any) -> None:
    limits = settings.read(FLIGHTS, "release", Release)
    judged = {}
    for version in ("1", "2"):
        [judged[version]] = dependents.check(Candidate(FLIGHTS, chained.client, chained.name, version), limits)
    assert judged["1"].passed and judged["1"].what == "pyfunc:/fed/1 at /both"
    assert not judged["2"].passed and "of their spread" in judged["2"].found
    conf = yaml.safe_load(Path("conf/endpoints.yml").read_text()) | {"models": {"/fed": "pyfunc:/fed/7"}}
    Path("conf/endpoints.yml").write_text(yaml.safe_dump(conf))
    alone = limits.model_copy(update={"gates": ["dependents"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judgement, "gate_names", lambda project: ["dependents"])
        [gone] = judgement.run_gates(Candidate(FLIGHTS, chained.client, chained.name, "1"), alone)
    assert not gone.passed and "not judged" in gone.found, "one that cannot be asked is no pass"
    Path("conf/endpoints.yml").write_text("models: {}\nchains: {}\n")
    [none] = dependents.check(Candidate(FLIGHTS, chained.client, chained.name, "2"), limits)
    assert none.passed and none.found == "none"
