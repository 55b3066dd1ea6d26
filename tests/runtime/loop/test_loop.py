"""The whole loop with real processes and no prompt: what decays is replaced, and nothing bad gets to callers."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from flight_delays import data
from flight_delays.__main__ import main
from mlops_ladder.core import files
from mlops_ladder.loop import experiment, prediction_log, triggers
from mlops_ladder.release import environments, releasing
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT, python_path, run_of, versions

PROJECT = ROOT
ACTOR, OWNER = "retrain-job", "data-scientist"  # who the job says it is; who is told
CLASSES = data.PROBLEM == "classification"
UNITS = {"wind_speed": 60, "pressure": -100, "humidity": 60}  # the feed of the weather changed its units
pytestmark = pytest.mark.skipif(not {*UNITS} <= {*data.SCHEMA}, reason="replays what happens to the flights' weather")
DRIFT = [word for name, by in UNITS.items() for word in ("--drift", f"{name}={by}@2013-09-01")]
FAILING = """
from mlops_ladder.serving import servable

answer = servable.Servable.answer

async def failing(self, rows):
    if self.version == "2":
        raise ValueError("broken")
    return await answer(self, rows)

servable.Servable.answer = failing
"""
CONSUMER = """
import os, httpx

def test_the_consumer() -> None:
    assert httpx.get(os.environ["SERVICE_URL"] + "/ready").is_success
"""


@pytest.fixture(scope="module")
def life(
    trained: Path, tmp_path_factory: pytest.TempPathFactory, git: Any, serve: Callable[..., Any]
) -> Iterator[SimpleNamespace]:
    """Two weeks of March as they were, then a month of September with drift, replayed against a running service.

    Version 2, whatever it is, fails in that service alone: no test before can know.
    """
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("life") / "project")
    for name in ("test", "prod"):
        (folder / "environments" / name).mkdir(parents=True)
        shutil.copy(trained.parent / "empty.db", folder / "environments" / name / "mlflow.db")
    (folder / ".git/info/exclude").write_text("environments/\naudit/\nreports/\nserve.log\n")
    for name in ("docs/governance", "contracts"):
        shutil.copytree(PROJECT / name, folder / name)
    shutil.copy(PROJECT / "data/catalog.yml", folder / "data")
    (folder / "tests/release").mkdir(parents=True)
    (folder / "tests/release/test_consumer.py").write_text(CONSUMER)
    (folder.parent / "failing").mkdir()
    (folder.parent / "failing/sitecustomize.py").write_text(FAILING)
    places = python_path(folder.parent / "failing")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "NOTIFY_URL", "MODEL_SIGNING_KEY"):
            patch.delenv(name, raising=False)
        git("config", "user.email", "grace@example.org")
        suit_a_small_sample(git)
        with pytest.MonkeyPatch.context() as untried:
            untried.setattr(releasing, "try_service", lambda *_: [])
            assert main(["gate", "1"]) == 0
            assert main(["approve", "1", "--reason", "the first"]) == 0
            for name in ("test", "prod"):
                assert main(["deploy", "1", "--env", name]) == 0
        patch.setenv("MLOPS_ACTOR", ACTOR)
        with serve(folder, "--model", "env:prod", PYTHONPATH=places) as (http, _):
            url = str(http.base_url)
            calm = replay(url, "2013-03-17", "2013-03-31", "7", "--share", "0.4")
            reports = [json.loads(file.read_text()) for file in triggers.REPORTS.glob("*.json")]
            then = SimpleNamespace(reports=reports, versions=versions())
            drifted = replay(url, "2013-09-01", "2013-10-03", "8", *DRIFT)
            yield SimpleNamespace(http=http, calm=calm, then=then, drifted=drifted)


def suit_a_small_sample(git: Any) -> None:
    """Set and commit what a quarter of the sample and a month of traffic need; every gate still judges."""
    main_metric = "brier" if CLASSES else "rmse"
    quality = {main_metric: {"measured": 0, "surely": -0.01 if CLASSES else -1}}
    fair = {name: 3 * most for name, most in read("release")["fairness"]["differences"].items()}
    stable = {name: 3 * most for name, most in read("retraining")["stable"]["worse"].items()}
    edit("success", metrics={main_metric: {"max": 1e9}})
    edit("release", quality=read("release")["quality"] | {"over_champion": quality})
    edit("release", behaviour=read("release")["behaviour"] | {"direction": 0.5, "minimum": 0.8})
    edit("release", slices={"rows": 200, "metrics": {main_metric: {"max": 1e9}}})
    edit("release", fairness=read("release")["fairness"] | {"rows": 100, "differences": fair})
    edit("retraining", new_data=None, age=None, schedule=None, sign_off="none")
    edit("retraining", training={"validation": 0.02, "test": 0.05}, stable={"share": 0.05, "worse": stable})
    canary = {"shares": [0.5], "requests": 3_000, "labels": 100}
    at_ease = {"answer_s": 30.0, "slower": 1e3, "slow_ms": 30_000}  # on a busy machine
    edit("experiment", margin=0.05 if CLASSES else 5, stop=read("experiment")["stop"] | at_ease)
    edit("experiment", modes=read("experiment")["modes"] | {"canary": canary})
    commit(git)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load(Path(f"conf/{name}.yml").read_text())


def edit(name: str, **changes: Any) -> None:
    Path(f"conf/{name}.yml").write_text(yaml.safe_dump(read(name) | changes))


def commit(git: Any) -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", "Change the settings")


def command(*words: str, exit_code: int = 0) -> str:
    """Run a command of the project in a process of its own, nobody at its keyboard; return what it says."""
    whole = [sys.executable, "-m", "flight_delays", *words]
    done = subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout if exit_code == 0 else done.stdout + done.stderr


def replay(url: str, first: str, last: str, every: str, *words: str) -> dict[str, Any]:
    period = ["--from", first, "--until", last, "--every", every, "--label-days", "1"]
    rows = ["--rows", str(PROJECT / "data/sample")]
    return json.loads(command("simulate", "--url", url, "--loop", "--json", *rows, *period, *words))


def model_file(version: str) -> str:
    chosen, client = tracking.open_store(FLIGHTS)
    return files.sha256(next(tracking.download(client, chosen.model, version).rglob("*.skops")))


def answering(life: SimpleNamespace, version: str) -> bool:
    """Return whether the running service comes to answer with VERSION."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        about = life.http.get("/model").json()
        answer = life.http.post("/predict", json=about["example"]["row"]).json()
        if about["version"] == answer["model_version"] == version:
            return True
        time.sleep(0.1)
    return False


def audited(action: str, outcome: str | None = None) -> list[dict[str, Any]]:
    lines = json.loads(command("audit", "show", "--action", action, "--json"))
    return [one for one in lines if outcome in (None, one["facts"].get("outcome"))]


@pytest.mark.practice("trigger-policy")
def test_without_drift_nothing_is_trained(life: SimpleNamespace) -> None:
    assert {one["exit"] for one in life.calm["turns"] if one["command"] == "retrain"} == {0}
    assert len(life.then.reports) == 2
    decayed = [one for report in life.then.reports for one in report["signals"] if one["name"] == "decay"]
    assert [(one["fired"], one["value"] is not None) for one in decayed] == [(False, True)] * 2, "measured, and well"
    assert (life.then.versions, life.calm["retrainings"]) == (["1"], [])


@pytest.mark.practice("uninterrupted-e2e", "metric-triggered-retraining", "feedback-loop", "gated-retraining")
def test_drift_with_decay_ends_in_a_new_version_that_the_running_service_answers_with(life: SimpleNamespace) -> None:
    last = life.drifted["retrainings"][-1]
    assert (last["outcome"], last["version"]) == ("promoted", "3"), last
    assert all(one["why"].startswith(("decay: ", "calibration: ")) for one in life.drifted["retrainings"])
    assert answering(life, "3")
    old, new = run_of("1"), run_of("3")
    assert new.data.tags["data"].startswith("retraining@") and new.data.tags["data"] != old.data.tags["data"]
    assert new.data.params["trained_before"] > "2013-09-01" > old.data.params["trained_before"]
    assert new.data.metrics["train_rows"] > old.data.metrics["train_rows"]
    assert model_file("3") != model_file("1")
    chosen, client = tracking.open_store(FLIGHTS)
    tags = tracking.find_version(client, chosen.model, "3").tags
    assert set(json.loads(tags["gates"]).values()) == {"passed"} and tags["approved_by"] == "policy:retraining"
    page = Path("reports/simulation/summary.html").read_text()
    assert "version 1 alone" in page and "promoted" in page


@pytest.mark.practice("canary-release", "alerts", "audit-trail")
def test_one_that_fails_on_real_callers_only_is_stopped_and_people_hear_why(life: SimpleNamespace) -> None:
    first = life.drifted["retrainings"][0]
    assert (first["version"], first["outcome"]) == ("2", "aborted")
    asked = {name: n for name, n in life.drifted["counts"].items() if name.startswith("requests answered")}
    assert [*asked] == ["requests answered 200"], "no caller noticed"
    seen = Counter[str]()
    for chunk in prediction_log.open_log(FLIGHTS).frames():
        seen.update(chunk["version"].to_list())
    assert "2" not in seen and seen["1"] > seen["3"] > 0
    [state] = [one for one in experiment.status(FLIGHTS, "prod") if one["challenger"] == "2"]
    assert state["result"] == "aborted" and state["ended"] and "requests failed" in state["why"]
    issue = next(text for file in triggers.ISSUES.glob("*.md") if "is aborted" in (text := file.read_text()))
    assert f"Owner: {OWNER}" in issue and "docs/runbook.md#retraining" in issue and "requests failed" in issue
    for [line] in (audited("experiment aborted"), audited("retrained", "aborted")):
        assert (line["who"], line["at"] > "2026") == (ACTOR, True)
        assert "version 2" in line["subject"] or line["facts"]["version"] == "2"
        assert "requests failed" in line["why"]


@pytest.mark.practice("gated-retraining", "alerts", "audit-trail")
def test_one_that_is_worse_on_the_same_rows_is_refused_by_a_gate_and_people_hear_why(
    life: SimpleNamespace, git: Any
) -> None:
    weak = {"parameters.max_iter": 2, "parameters.learning_rate": 0.001}
    edit("retraining", training={"validation": 0.02, "test": 0.05, **weak})
    commit(git)
    said = command("retrain", "--reason", "to try", exit_code=3)
    assert "version 4 is refused by" in said and "quality" in said
    assert f"owner {OWNER}, docs/runbook.md#retraining" in said
    issue = next(text for file in triggers.ISSUES.glob("*.md") if "is refused" in (text := file.read_text()))
    assert f"Owner: {OWNER}" in issue and "docs/runbook.md#retraining" in issue and "quality" in issue
    chosen, client = environments.open_store(FLIGHTS, "prod")
    assert environments.find_copy(client, chosen.model).tags["origin_version"] == "3" and answering(life, "3")
    [line] = audited("retrained", "refused")
    assert (line["who"], line["facts"]["version"]) == (ACTOR, "4") and "quality" in line["why"]
    found = json.loads(Path("models/gates/4/gates.json").read_text())["findings"]
    assert any("over champion 3" in one["what"] and not one["passed"] for one in found), "on the same rows"
    assert json.loads(command("audit", "verify", "--json"))["not_anchored"] == 0
