"""Which models the service answers with: swapped when an alias moves, several at once, feeding each other, of any framework."""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import mlflow
import pandas as pd
import pytest
import yaml
from flight_delays import data, model
from mlops_ladder.data.rows import read_note
from mlops_ladder.training import tracking
from projects import FLIGHTS

SECONDS = 60  # at most, for a swap that takes a fraction of one: the machine may be busy
OTHER = """
import mlflow

class Doubled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["risk"] * 2 + model_input["weight"].fillna(0)

mlflow.models.set_model(Doubled())
"""


@pytest.fixture(scope="module")
def served(trained: Path, serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service that follows the champion on two endpoints, with a model of another framework that one of them feeds.

    Versions 1 and 2 are alike and whole, 3 has a corrupt model file, 4 none, 5 an example that it does not reproduce.
    """
    folder = tmp_path_factory.mktemp("served") / "project"
    shutil.copytree(trained / "conf", folder / "conf")
    shutil.copytree(trained / "mlruns", folder / "mlruns")
    shutil.copy(trained / "mlflow.db", folder)
    with contextlib.chdir(folder):
        chosen, client = tracking.open_store(FLIGHTS)
        name, source = chosen.model, tracking.download(client, chosen.model, "1").parent
        for number in "2345":
            copy = shutil.copytree(source, folder / f"version-{number}")
            file = copy / "artifacts/model.skops"
            if number == "3":
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            elif number == "4":
                file.unlink()
            elif number == "5":
                note = read_note(copy / "artifacts/HANDOFF.md")["example"]["prediction"]
                page = copy / "artifacts/HANDOFF.md"
                page.write_text(page.read_text().replace(f'"prediction": {json.dumps(note)}', '"prediction": 0.5'))
            client.create_model_version(name, str(copy))
        Path("other.py").write_text(OTHER)
        with mlflow.start_run(experiment_id=client.create_experiment("other", str(folder / "other"))):
            mlflow.pyfunc.log_model(
                name="model",
                python_model="other.py",
                registered_model_name="other",
                signature=mlflow.models.infer_signature(pd.DataFrame({"risk": [0.5], "weight": [1.0]}), [1.0]),
                input_example=pd.DataFrame({"risk": [0.5], "weight": [100.0]}),
                pip_requirements=["mlflow"],
            )
        conf = {
            "models": {
                "/second": f"models:/{name}@champion",
                "/fixed": f"models:/{name}/1",
                "/other": "pyfunc:/other/1",
            },
            "chains": {"/both": {"first": "/second", "second": "/other", "column": "risk"}},
        }
        Path("conf/endpoints.yml").write_text(yaml.safe_dump(conf))

        def move(version: str) -> None:
            client.set_registered_model_alias(name, "champion", version)

        move("1")
        uri = f"models:/{name}@champion"
        with serve(folder, "--model", uri, MLFLOW_TRACKING_URI="") as (http, process):
            row = http.get("/model").json()["example"]["row"]
            yield SimpleNamespace(
                folder=folder, http=http, process=process, row=row, move=move, uri=uri, client=client, name=name
            )


@pytest.fixture
def champion(served: Any) -> Any:
    """`served` with version 1 as its champion, swapped in and without an error."""
    served.move("1")
    until(lambda: (watch(served)["error"], version(served)) == (None, "1"))
    return served


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def version(served: Any, prefix: str = "") -> str:
    row = served.row | ({"weight": 1.0} if prefix == "/both" else {})
    return served.http.post(f"{prefix}/predict", json=row).json()["model_version"]


def watch(served: Any) -> dict[str, Any]:
    return served.http.get("/model").json()["watch"]


@pytest.mark.practice("automated-app-integration")
def test_a_promotion_and_a_rollback_reach_the_callers_without_a_failed_request(champion: Any) -> None:
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=champion.http.base_url, timeout=60) as http:
            while not stop.is_set():
                answer = http.post("/predict", json=champion.row)
                answers.append((answer.status_code, answer.json()["model_version"]))

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for target in ("2", "1"):  # promoted, then rolled back
        champion.move(target)
        until(lambda: version(champion) == target)  # noqa: B023
    stop.set()
    for caller in callers:
        caller.join()
    assert {status for status, _ in answers} == {200}
    assert {seen for _, seen in answers} == {"1", "2"}


@pytest.mark.practice("multiple-endpoints", "model-composition")
def test_one_promotion_reaches_every_endpoint_and_server_that_follows_the_alias(
    champion: Any, serve: Callable[..., Any]
) -> None:
    fixed = {"models": {"/again": champion.uri}, "chains": {}}
    folder = shutil.copytree(champion.folder, champion.folder.parent / "elsewhere")
    (folder / "conf/endpoints.yml").write_text(yaml.safe_dump(fixed))
    store = f"sqlite:///{champion.folder}/mlflow.db"
    with serve(folder, "--model", champion.uri, MLFLOW_TRACKING_URI=store) as (other, process):
        champion.move("2")
        for http, prefix in ((champion.http, ""), (champion.http, "/second"), (other, ""), (other, "/again")):
            until(lambda: http.get(f"{prefix}/model").json()["version"] == "2")  # noqa: B023
        assert version(champion, "/fixed") == "1"
        until(lambda: version(champion, "/both") == "1.2")  # the pair: of the second model, of the one that feeds it

        champion.move("1")
        process.kill()  # in the middle of its swap
    with serve(folder, "--model", champion.uri, MLFLOW_TRACKING_URI=store) as (again, _):
        assert again.post("/predict", json=champion.row).json()["model_version"] == "1"
        assert again.get("/metrics").status_code == 200


@pytest.mark.practice("automated-app-integration")
@pytest.mark.parametrize(
    ("number", "said"), [("3", "cannot be loaded"), ("4", "no model file"), ("5", "the note says 0.5")]
)
def test_a_version_that_does_not_load_is_not_swapped_in(champion: Any, number: str, said: str) -> None:
    before = watch(champion)
    champion.move(number)
    until(lambda: watch(champion)["error"])
    told = watch(champion)
    assert said in told["error"] and f"/{number} is not taken over" in told["error"]
    assert (told["swaps"], version(champion)) == (before["swaps"], "1")
    assert told["failures"] > before["failures"]
    assert 'model_failures_total{route="/predict"}' in champion.http.get("/metrics").text


@pytest.mark.practice("automated-app-integration")
def test_the_service_answers_on_while_the_registry_is_away(champion: Any) -> None:
    store = champion.folder / "mlflow.db"
    store.rename(champion.folder / "away.db")
    try:
        until(lambda: watch(champion)["error"])
        assert "is gone: bring its file back" in watch(champion)["error"]
        assert version(champion) == "1"
        shutil.copy(champion.folder / "away.db", store)
        until(lambda: "was replaced by another file: start" in watch(champion)["error"])
    finally:
        (champion.folder / "away.db").rename(store)
    until(lambda: watch(champion)["error"] is None)
    champion.move("2")
    until(lambda: version(champion) == "2")


@pytest.mark.practice("model-composition")
def test_what_one_model_predicts_is_a_column_of_the_next(champion: Any) -> None:
    row = champion.row | {"weight": 100.0}
    [risk] = champion.http.post("/second/predict", json=champion.row).json()["predictions"]
    answer = champion.http.post("/both/predict", json=[row, row])
    assert answer.json()["predictions"] == pytest.approx([risk * 2 + 100] * 2, rel=1e-6)
    described = champion.http.get("/both/model").json()
    assert "risk" not in described["columns"] and described["fed_by"]["output"] == model.OUTPUT
    refused = champion.http.post("/both/predict", json=row | {"risk": 1.0})
    assert (refused.status_code, refused.json()["error"]) == (422, "row 0: risk is no column of this model")


@pytest.mark.practice("framework-agnostic-serving")
def test_a_model_of_any_framework_is_served_by_its_signature(champion: Any) -> None:
    answer = champion.http.post("/other/predict", json=[{"risk": 0.25, "weight": 7}, {"risk": 1, "weight": 0}])
    assert answer.json()["predictions"] == [7.5, 2.0]
    wrong = champion.http.post("/other/predict", json={"risk": "high", "weight": 7})
    assert wrong.status_code == 422 and "risk" in wrong.json()["error"]
    document = champion.http.get("/openapi.json").json()
    assert set(document["components"]["schemas"]["Row_other"]["required"]) == {"risk", "weight"}


@pytest.mark.practice("model-composition")
def test_a_chain_of_what_is_not_there_stops_the_start(workdir: Path, models: Path, capfd: Any) -> None:
    from mlops_ladder.core.errors import ProjectError
    from mlops_ladder.core.settings import read
    from mlops_ladder.serving.app import Service, Serving, make_app
    from mlops_ladder.serving.servable import resolve

    service = Service(resolve(FLIGHTS, str(models / "model.skops")), read(FLIGHTS, "serving", Serving))
    chain = {"first": "/", "second": "/nowhere", "column": data.TARGET}
    Path("conf/endpoints.yml").write_text(yaml.safe_dump({"models": {}, "chains": {"/both": chain}}))
    with pytest.raises(ProjectError, match="joins / and /nowhere; there are: /"):
        make_app(service)
    chain["second"] = "/"
    Path("conf/endpoints.yml").write_text(yaml.safe_dump({"models": {}, "chains": {"/both": chain}}))
    with pytest.raises(ProjectError, match=f"takes no column {data.TARGET}"):
        make_app(service)
