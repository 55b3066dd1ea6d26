"""A new version on trial: who is asked what, what stops it, what promotes it, and what it is judged by."""

import contextlib
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from flight_delays import data, features, model
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.data.rows import as_records
from mlops_ladder.loop import experiment, feedback, prediction_log
from mlops_ladder.release import deploy, environments, judgement, releasing
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT, python_path, with_environments

PROJECT = ROOT
SECONDS = 60  # at most, for what takes a fraction of one: the machine may be busy
FAULTS = """
import json, pathlib, time
from mlops_ladder.serving import servable

compute = servable.Servable.compute

def faulty(self, rows):
    kind = json.loads(pathlib.Path("faults.json").read_text()).get(getattr(self, "version", ""))
    if kind == "slow":
        time.sleep(0.3)
    if kind == "fails" and rows[0] != self.example_row():
        raise ValueError("broken")
    return compute(self, rows)

servable.Servable.compute = faulty
"""
ENTITY = yaml.safe_load((PROJECT / "conf/prediction_log.yml").read_text())["entity"]
NUMBER = next(name for name in features.COLUMNS if data.SCHEMA.get(name, {}).get("type") == "number")
NOBODY = {ENTITY: None} if data.SCHEMA[ENTITY].get("null") else {}
QUICK = {"shares": [0.3], "requests": 200, "labels": 40}
SCALE, kind_of_label = (1, bool) if data.PROBLEM == "classification" else (60, float)  # 60 minutes late, or none
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def ready(trained: Path, tmp_path_factory: pytest.TempPathFactory, git: Run) -> Path:
    """A copy of `trained` with version 1 in prod, and 2 and 3, which passed their gates, on the way there."""
    folder = with_environments(trained, tmp_path_factory.mktemp("ready") / "project")
    shutil.copytree(PROJECT / "docs/governance", folder / "docs/governance")
    shutil.copy(PROJECT / "data/catalog.yml", folder / "data")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(releasing, "try_service", lambda *_: [])
        edit("environments/prod", after=None, approval=False, policy={})
        git("commit", "--quiet", "--all", "--message", "Let versions into prod")
        conf = read("experiment")
        calm = conf["stop"] | {"slower": 100.0, "answer_s": 30.0}  # a busy machine is slow in both arms, and by chance
        edit("experiment", modes={**conf["modes"], "canary": QUICK}, stop=calm)
        chosen, client = tracking.open_store(FLIGHTS)
        first = tracking.find_version(client, chosen.model, "1")
        source = tracking.download(client, chosen.model, "1").parent
        for version in "23":
            copy = shutil.copytree(source, folder / f"versions/{version}")
            (copy / "artifacts/HANDOFF.md").open("a").write(f"\nVersion {version}.\n")
            client.create_model_version(chosen.model, str(copy), first.run_id)
        for version in "123":
            client.set_model_version_tag(chosen.model, version, "validation_status", "passed")
        deploy.deploy(FLIGHTS, "prod", "1", "the first")
    return folder


@pytest.fixture
def place(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `ready` as the current folder; release tests, which start a service, are left out."""
    shutil.copytree(ready, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(releasing, "try_service", lambda *_: [])
    return tmp_path / "project"


@pytest.fixture(scope="module")
def server(
    ready: Path, serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A service of prod in a folder of its own, in which a version can be made to fail or to be slow."""
    folder = shutil.copytree(ready, tmp_path_factory.mktemp("served") / "project")
    (folder / "faults").mkdir()
    (folder / "faults/sitecustomize.py").write_text(FAULTS)
    (folder / "faults.json").write_text("{}")
    with contextlib.chdir(folder):
        edit("limits", rate_per_s=1e6, burst=1_000_000, deadline_s=60)
    words = {"PYTHONPATH": python_path(folder / "faults"), "MLFLOW_TRACKING_URI": ""}
    with serve(folder, "--model", "env:prod", **words) as (http, _):
        row = http.get("/model").json()["example"]["row"]
        again = lambda: serve(folder, "--model", "env:prod", **words)
        yield SimpleNamespace(folder=folder, http=http, row=row, again=again)


@pytest.fixture
def served(server: SimpleNamespace, ready: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """`server` and its folder as the current one, without an experiment or a fault, version 1 in use."""
    monkeypatch.chdir(server.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(releasing, "try_service", lambda *_: [])
    Path("faults.json").write_text("{}")
    shutil.copy(ready / "conf/experiment.yml", "conf")
    yield server
    with contextlib.suppress(ProjectError):
        experiment.stop(FLIGHTS, "the test is over")
    deploy.deploy(FLIGHTS, "prod", "1", "the test is over")
    until(lambda: told(server.http) == {"running": False, "error": None} and answers(server.http, server.row) == "1")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load(Path(f"conf/{name}.yml").read_text())


def edit(name: str, **changes: Any) -> None:
    Path(f"conf/{name}.yml").write_text(yaml.safe_dump(read(name) | changes))


def plan(mode: str, **changes: Any) -> None:
    modes = read("experiment")["modes"]
    edit("experiment", modes={**modes, mode: modes[mode] | changes})


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def told(http: httpx.Client) -> dict[str, Any]:
    return http.get("/model").json().get("experiment", {"running": False})


def answers(http: httpx.Client, row: dict[str, Any], entity: str | None = None) -> str:
    """Return the version that answers ROW of ENTITY; whatever is on trial, it must be answered."""
    answer = http.post("/predict", json=row | {NUMBER: 0.9 * row[NUMBER]} | ({ENTITY: entity} if entity else NOBODY))
    assert answer.status_code == 200, answer.text
    return answer.json()["model_version"]


def begin(served: SimpleNamespace, mode: str = "canary", version: str = "2") -> experiment.State:
    """Start an experiment and wait until the service knows of it."""
    state = experiment.start(FLIGHTS, version, mode, reason="a test")  # type: ignore[arg-type]
    until(lambda: told(served.http).get("id") == state.id)
    return state


def until_over(served: SimpleNamespace) -> experiment.Decision:
    """Return what `experiment step` makes of an experiment that the service stopped."""
    until(lambda: not told(served.http)["running"])
    until(lambda: experiment.status(FLIGHTS)[0]["result"])
    assert experiment.status(FLIGHTS)[0]["ended"] is None, "or the loop would never have it judged"
    return experiment.step(FLIGHTS)


def happened(state: experiment.State, n_rows: int, ours: float, theirs: float, shadow: bool = False) -> None:
    """Put N_ROWS labelled predictions an arm into the log: OURS and THEIRS say how good, 0 like a coin, 1 perfect."""
    draw = np.random.default_rng(0)
    entities = [f"N{number}" for number in range(2_000)]
    rows, labels = [], []
    for arm, version, skill in (("challenger", state.challenger, ours), ("champion", state.champion, theirs)):
        ours_too = arm == "challenger"
        belonging = [one for one in entities if shadow or experiment.assigned(state.id, one, state.share) == ours_too]
        for number in range(n_rows):
            truth = float(draw.random() < 0.5)
            predicted = np.clip(0.5 + skill * (truth - 0.5) * 0.9 + draw.normal() * 0.01, 0, 1)
            name = f"{state.id}-{state.step}-{number}-{'' if shadow else arm}"
            at = state.since.replace(tzinfo=None) + timedelta(milliseconds=number)
            kind = "shadow" if shadow and arm == "challenger" else arm
            facts = {"request_id": name, "at": at, "version": version, "arm": kind, "key": name, "seconds": 0.001}
            rows.append(facts | {"entity": belonging[number], "prediction": SCALE * predicted})
            labels.append({"key": name, "label": kind_of_label(SCALE * truth), "at": at})
    log = prediction_log.open_log(FLIGHTS)
    log.write(rows)
    feedback.add_labels(log, labels, source="test", override=True)


def answered(state: experiment.State, arm: str, version: str, moved: float = 0) -> None:
    """Put 100 real rows with their labels into the log as VERSION answers them, MOVED by so much."""
    chosen, client = tracking.open_store(FLIGHTS)
    rows = data.read(Path("data/sample")).head(100)
    asked = as_records(rows[[name for name in data.SCHEMA if name in rows and name != data.TARGET]])
    predicted = judgement.predict(tracking.open_version(client, chosen.model, version), rows) + moved
    ours_too = arm == "challenger"
    entities = [one for n in range(2_000) if experiment.assigned(state.id, one := f"N{n}", state.share) == ours_too]
    at = state.since.replace(tzinfo=None) + timedelta(seconds=1)
    facts = {"version": version, "arm": arm, "at": at}
    log = prediction_log.open_log(FLIGHTS)
    log.write(
        facts | {"request_id": f"{arm}-{n}", "key": f"{arm}-{n}", "entity": entity, "prediction": given, "inputs": row}
        for n, (entity, given, row) in enumerate(zip(entities, predicted.tolist(), asked, strict=False))
    )
    truths = rows[data.TARGET].astype(kind_of_label)
    labels = [{"key": f"{arm}-{n}", "label": truth, "at": at} for n, truth in enumerate(truths)]
    feedback.add_labels(log, labels, source="test", override=True)


@pytest.mark.practice("canary-release")
@pytest.mark.parametrize("moved", [0.0, 0.1])
def test_a_canary_is_compared_row_by_row_where_the_log_holds_what_its_version_answers(
    place: Path, moved: float
) -> None:
    state = experiment.start(FLIGHTS, "2", "canary", reason="a test")
    answered(state, "challenger", "2", moved)
    answered(state, "champion", "1")
    ours, theirs = experiment.observe(FLIGHTS, prediction_log.open_log(FLIGHTS), state)
    assert len(ours.rows) == len(theirs.rows) == 100 and ours.paired == theirs.paired == (moved == 0)
    result, why = experiment.decide(FLIGHTS, state, ours, theirs)
    if not moved:
        assert (ours.rows == theirs.rows).all(), "version 2 is a copy of version 1, and these are the same rows"
        assert result == "promoting" and "0.0000 worse row by row" in why


# Who is asked


@pytest.mark.practice("canary-release", "live-ab-testing")
def test_an_entity_has_one_version_in_every_request_and_process_and_the_share_is_kept(served: Any) -> None:
    plan("ab", requests=100_000)
    begin(served, "ab")
    entities = [f"N{number}" for number in range(120)]
    with served.again() as (other, _):
        until(lambda: told(other).get("running"))
        seen: dict[str, set[str]] = {entity: set() for entity in entities}
        for http in (served.http, other, served.http):
            for entity in entities:
                seen[entity].add(answers(http, served.row, entity))
    assert {len(versions) for versions in seen.values()} == {1}
    versions = Counter(next(iter(one)) for one in seen.values())
    assert 30 <= versions["2"] <= 90, "half of them, give or take five standard deviations"
    if NOBODY:
        assert answers(served.http, served.row) == "1", "who is nobody is not tried on"


@pytest.mark.practice("canary-release")
def test_a_larger_share_keeps_whoever_was_in_the_smaller_one() -> None:
    entities = [f"N{number}" for number in range(20_000)]
    small, large = ({one for one in entities if experiment.assigned("salt", one, share)} for share in (0.05, 0.25))
    assert small < large
    assert len(small) / 20_000 == pytest.approx(0.05, abs=0.01) and len(large) / 20_000 == pytest.approx(0.25, abs=0.02)
    other = {one for one in entities if experiment.assigned("another", one, 0.25)}
    assert len(large & other) / len(large) == pytest.approx(0.25, abs=0.05), "not the same ones in each experiment"


@pytest.mark.practice("canary-release")
def test_no_more_requests_than_declared_reach_it_in_all_processes_together(served: Any) -> None:
    plan("canary", shares=[0.9], requests=60)
    begin(served)
    with served.again() as (other, _):
        until(lambda: told(other).get("running"))
        end, seen = time.monotonic() + 3, Counter[str]()
        while seen["2"] <= 60 and (time.monotonic() < end or seen["2"] < 30 or seen["1"] < 60):
            for number, http in enumerate((served.http, other)):
                seen[answers(http, served.row, f"N{number}-{sum(seen.values())}")] += 1
    assert 30 <= seen["2"] <= 60


def taken(state: experiment.State) -> int:
    with prediction_log.open_log(FLIGHTS).connection() as base:
        return base.exec_driver_sql(f"SELECT taken FROM exposures WHERE step = '{state.exposure}'").scalar_one()


@pytest.mark.practice("canary-release")
def test_a_service_that_ends_in_order_gives_back_the_requests_that_it_did_not_use(served: Any) -> None:
    plan("canary", requests=200)
    state = begin(served)
    with served.again() as (_, process):
        until(lambda: taken(state) == 20)  # both have a twentieth
        process.terminate()
        assert process.wait(SECONDS) == 0
    assert taken(state) == 10
    with served.again() as (_, process):
        until(lambda: taken(state) == 20)
        with prediction_log.open_log(FLIGHTS).connection(write=True):  # held, so that nobody else can write
            process.terminate()
            assert process.wait(SECONDS) == 0, "the store takes nothing, and that must not keep it"
    assert taken(state) == 20


@pytest.mark.practice("blue-green-deployment")
def test_a_failure_and_a_killed_process_do_not_keep_blue_green_from_its_end(place: Path) -> None:
    state = experiment.start(FLIGHTS, "2", "blue-green", reason="a test")
    enough = experiment.Arm(requests=int(0.9 * (state.plan.requests or 0)) - 1, failures=1)
    assert experiment.decide(FLIGHTS, state, enough, experiment.Arm())[0] == "promoting"
    assert experiment.decide(FLIGHTS, state, experiment.Arm(requests=enough.requests - 9), experiment.Arm())[0] == ""


@pytest.mark.practice("canary-release")
def test_a_request_for_entities_of_both_sides_is_answered_by_the_champion(served: Any) -> None:
    state = begin(served)
    sides = {experiment.assigned(state.id, f"N{n}", state.share): f"N{n}" for n in range(50)}
    rows = {side: served.row | {ENTITY: entity} for side, entity in sides.items()}
    until(lambda: answers(served.http, served.row, sides[True]) == "2")
    ask = lambda *sides: served.http.post("/predict", json=[rows[one] for one in sides]).json()["model_version"]
    assert (ask(True, True), ask(True, False), ask(False, False)) == ("2", "1", "1")


# What stops it


@pytest.mark.practice("canary-release", "blue-green-deployment")
@pytest.mark.parametrize(("fault", "said"), [("fails", "requests failed"), ("slow", "slow: 95 % of its answers")])
@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_one_that_fails_or_is_slow_is_stopped_and_no_caller_notices(
    served: Any, fault: str, said: str, mode: str
) -> None:
    edit("experiment", stop=read("experiment")["stop"] | {"window": 5, "slower": 1.1})
    Path("faults.json").write_text(json.dumps({"2": fault}))
    plan("canary", shares=[0.6])
    begin(served, mode)
    seen = Counter[str]()

    def ask_until_stopped() -> bool:
        for number in range(20):
            seen[answers(served.http, served.row, f"N{sum(seen.values())}-{number}")] += 1
        return not told(served.http)["running"]

    until(ask_until_stopped)
    over = until_over(served)
    assert over.result == "aborted" and said in over.why
    assert seen["2"] == 0 if fault == "fails" or mode == "shadow" else seen["2"] <= QUICK["requests"]  # type: ignore[operator]
    assert {answers(served.http, served.row, f"M{number}") for number in range(20)} == {"1"}
    metrics = served.http.get("/metrics").text
    assert 'experiment_share{environment="prod"} 0.0' in metrics
    arm = "shadow" if mode == "shadow" else "challenger"
    counted = "experiment_failures_total" if fault == "fails" else "experiment_duration_seconds_count"
    assert counted + '{arm="%s",version="2"}' % arm in metrics  # noqa: UP031


@pytest.mark.practice("canary-release")
def test_failures_that_the_log_holds_of_all_processes_stop_it_too(place: Path, run: Run) -> None:
    state = experiment.start(FLIGHTS, "2", "canary", reason="a test")
    assert state.challenger == "2"
    prediction_log.open_log(FLIGHTS).write([], [{"version": "2", "arm": "challenger", "status": 500}] * 3)
    said = run("experiment", "step", exit_code=3)
    assert "3 of 3 requests failed" in said and "owner data-scientist, docs/runbook.md#experiment" in said
    assert "no experiment runs in prod" in run("experiment", "step", exit_code=1)


@pytest.mark.practice("canary-release", "gated-retraining")
def test_one_that_is_worse_by_its_labels_is_stopped_and_the_champion_answers_everybody(served: Any, run: Run) -> None:
    state = begin(served)
    entity = next(f"N{n}" for n in range(50) if experiment.assigned(state.id, f"N{n}", state.share))
    until(lambda: answers(served.http, served.row, entity) == "2")
    happened(state, 30, 0.0, 0.9)
    said = run("experiment", "step", exit_code=3)
    assert "aborted: it is worse" in said and "the champion answers everybody" in said
    until(lambda: answers(served.http, served.row, entity) == "1")


@pytest.mark.practice("canary-release")
def test_one_that_looks_worse_than_the_margin_does_not_get_a_larger_share(place: Path) -> None:
    plan("canary", shares=[0.3, 0.6])
    edit("experiment", effect=1e-12)  # the sequential test is never sure
    happened(experiment.start(FLIGHTS, "2", "canary", reason="a test"), 40, 0.5, 0.7)
    decision = experiment.step(FLIGHTS)
    assert decision.result == "aborted" and "looks worse than the margin" in decision.why
    happened(experiment.start(FLIGHTS, "2", "canary", reason="again"), 40, 0.7, 0.7)
    assert (experiment.step(FLIGHTS).step, experiment.step(FLIGHTS).why) == (
        1,
        "0 labelled rows (40 needed), 0 requests",
    )


@pytest.mark.practice("canary-release")
def test_a_plan_that_asks_for_nothing_is_refused(place: Path, run: Run) -> None:
    plan("canary", requests=None, labels=0)
    assert "canary asks for no requests and no labels" in run("experiment", "start", "2", "--reason", "x", exit_code=1)
    edit("experiment", modes={"canary": QUICK})
    words = ["start", "2", "--mode", "shadow", "--reason", "x"]
    assert "modes has no shadow, there are: canary" in run("experiment", *words, exit_code=1)


@pytest.mark.practice("canary-release")
def test_one_without_a_decision_in_time_is_over(place: Path) -> None:
    edit("experiment", max_days=1e-9)
    experiment.start(FLIGHTS, "2", "canary", reason="a test")
    decision = experiment.step(FLIGHTS)
    assert decision.result == "aborted" and "no decision within" in decision.why


@pytest.mark.practice("model-rollback", "canary-release")
def test_it_can_be_stopped_by_hand_at_once(served: Any, run: Run) -> None:
    state = begin(served)
    entity = next(f"N{n}" for n in range(50) if experiment.assigned(state.id, f"N{n}", state.share))
    until(lambda: answers(served.http, served.row, entity) == "2")
    assert "stopped by ada@example.org: callers complain" in run("experiment", "stop", "--reason", "callers complain")
    until(lambda: answers(served.http, served.row, entity) == "1")
    assert run("experiment", "status", "--json")[0]["result"] == "aborted"


@pytest.mark.practice("canary-release")
def test_a_version_that_does_not_load_is_never_asked(served: Any) -> None:
    state = experiment.start(FLIGHTS, "3", "canary", reason="a test")
    chosen, client = environments.open_store(FLIGHTS, "prod")
    experiment.stop(FLIGHTS, "to break it first")
    there = environments.find_copy(client, chosen.model, "3")
    file = releasing.fetch(client, there) / "artifacts/model.skops"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:1000])
        experiment.write(client, there, state.model_copy(update={"id": "broken"}))
        client.set_registered_model_alias(chosen.model, "challenger", there.version)
        until(lambda: experiment.running(client, chosen.model)[1].result)
        assert "it cannot be loaded" in experiment.step(FLIGHTS).why
    finally:
        file.write_bytes(whole)
    assert answers(served.http, served.row, "N1") == "1"


# What promotes it


@pytest.mark.practice("live-ab-testing", "canary-release")
def test_one_that_is_better_is_released_as_any_other_and_answers_everybody(served: Any, run: Run) -> None:
    state = begin(served, "ab")
    happened(state, 60, 0.9, 0.1)
    assert run("experiment", "step").startswith("promoted: it is better")
    until(lambda: {answers(served.http, served.row, f"N{number}") for number in range(20)} == {"2"})
    [last, *_] = run("deploy", "--history", "--env", "prod", "--json")
    assert (last["version"], last["kind"]) == ("2", "deploy")
    assert f"won ab {state.id}" in last["reason"]


@pytest.mark.practice("canary-release")
def test_a_canary_goes_up_step_by_step_and_wins_at_the_last(place: Path) -> None:
    plan("canary", shares=[0.1, 0.5])
    state = experiment.start(FLIGHTS, "2", "canary", reason="a test")
    happened(state, 40, 0.7, 0.7)
    _, why = experiment.decide(FLIGHTS, state, *experiment.observe(FLIGHTS, prediction_log.open_log(FLIGHTS), state))
    assert "40 is proof" in why, "half of alpha for each of two steps"
    first = experiment.step(FLIGHTS)
    assert (first.result, first.step, first.share) == ("going", 1, 0.5)
    happened(experiment.State.model_validate(experiment.status(FLIGHTS)[0]), 40, 0.7, 0.7)
    assert experiment.step(FLIGHTS).result == "promoted"
    assert deploy.now(run_history())["version"] == "2"


@pytest.mark.practice("live-ab-testing")
def test_an_ab_test_ends_at_its_declared_sample_and_what_is_not_better_is_not_released(place: Path) -> None:
    plan("ab", labels=200)
    state = experiment.start(FLIGHTS, "2", "ab", reason="a test")
    edit("experiment", metric="accuracy" if model.PRIMARY == "roc_auc" else "rmse", alpha=0.4)
    happened(state, 200, 0.6, 0.6)
    decision = experiment.step(FLIGHTS)
    metric = state.metric
    assert decision.result == "aborted" and f"not better: {metric}" in decision.why and "20 is proof" in decision.why
    assert deploy.now(run_history())["version"] == "1"


@pytest.mark.practice("full-scale-trials")
def test_a_shadow_scores_everything_answers_nobody_and_is_judged_row_by_row(served: Any, run: Run) -> None:
    plan("shadow", labels=100)
    series = 'experiment_duration_seconds_count{arm="shadow",version="2"}'

    def counted() -> float:
        lines = served.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(series))

    before, state = counted(), begin(served, "shadow")
    assert {answers(served.http, served.row, f"N{number}") for number in range(30)} == {"1"}
    until(lambda: told(served.http)["answered"] == 30)
    until(
        lambda: (
            sum(len(part) for part in prediction_log.open_log(FLIGHTS).frames(since=state.since, arm="shadow")) == 30
        )
    )
    until(lambda: counted() - before == 30)
    happened(state, 100, 0.8, 0.7, shadow=True)
    assert run("experiment", "step").startswith("passed: it held")
    assert {answers(served.http, served.row, f"N{number}") for number in range(20)} == {"1"}


@pytest.mark.practice("blue-green-deployment")
def test_blue_green_switches_a_warm_version_under_load_without_a_failed_request(served: Any) -> None:
    plan("blue-green", requests=40)
    stopping, seen, failed = threading.Event(), Counter[str](), []

    def ask() -> None:
        with httpx.Client(base_url=served.http.base_url, timeout=60) as http:
            while not stopping.is_set():
                try:
                    seen[answers(http, served.row, "N1")] += 1
                except (AssertionError, httpx.HTTPError) as error:
                    failed.append(error)

    callers = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for caller in callers:
        caller.start()
    begin(served, "blue-green")
    until(lambda: seen["2"] >= 10)
    until(lambda: experiment.step(FLIGHTS).result == "promoted")
    until(lambda: answers(served.http, served.row) == "2")
    stopping.set()
    for caller in callers:
        caller.join()
    assert failed == [] and seen["1"] > 0


def kill(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.practice("canary-release")
@pytest.mark.parametrize("moment", ["before the deploy", "after the deploy", "before the alias goes"])
def test_a_killed_step_is_finished_by_running_it_again(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    happened(experiment.start(FLIGHTS, "2", "ab", reason="a test"), 60, 0.9, 0.1)
    with monkeypatch.context() as patch:
        done = deploy.deploy
        if moment == "after the deploy":
            patch.setattr(deploy, "deploy", lambda *words: (done(*words), kill()))
        elif moment == "before the deploy":
            patch.setattr(deploy, "deploy", kill)
        else:
            patch.setattr(type(environments.open_store(FLIGHTS, "prod")[1]), "delete_registered_model_alias", kill)
        run("experiment", "step", exit_code=130)
    assert run("experiment", "step").startswith("promoted: it is better")
    assert deploy.now(run_history())["version"] == "2"
    assert [one["version"] for one in run_history()] == ["2", "1"]
    assert "no experiment runs" in run("experiment", "step", exit_code=1)


@pytest.mark.practice("model-rollback", "canary-release")
@pytest.mark.parametrize("moment", ["before the deploy", "after the deploy"])
def test_what_people_did_since_a_step_was_killed_is_not_undone(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    happened(experiment.start(FLIGHTS, "2", "ab", reason="a test"), 60, 0.9, 0.1)
    with monkeypatch.context() as patch:
        if moment == "before the deploy":
            patch.setattr(deploy, "deploy", kill)
        else:
            patch.setattr(experiment, "end", kill)
        run("experiment", "step", exit_code=130)
    if moment == "before the deploy":
        deploy.deploy(FLIGHTS, "prod", "3", "urgent")
        assert "version 3 is in use in prod since" in run("experiment", "step", exit_code=3)
    else:
        run("rollback", "--env", "prod", "--reason", "callers complain")
        assert "it won and was rolled back" in run("experiment", "step", exit_code=3)
    assert deploy.now(run_history())["version"] == ("3" if moment == "before the deploy" else "1")


@pytest.mark.practice("canary-release")
def test_a_start_that_was_killed_leaves_nothing_to_be_judged(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ["experiment", "start", "2", "--reason", "a test"]
    with monkeypatch.context() as patch:

        def kill(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(type(environments.open_store(FLIGHTS, "prod")[1]), "set_registered_model_alias", kill)
        run(*start, exit_code=130)
    assert experiment.status(FLIGHTS) == []
    run(*start)
    assert [one["ended"] for one in experiment.status(FLIGHTS)] == [None]


def run_history() -> list[dict[str, str]]:
    chosen, client = environments.open_store(FLIGHTS, "prod")
    return environments.history(FLIGHTS, client, chosen.model)


# What may start, and what its end asks for


@pytest.mark.practice("canary-release")
def test_two_experiments_at_once_are_refused(place: Path, run: Run) -> None:
    start = ["experiment", "start", "2", "--reason", "a test"]
    assert "canary" in run(*start)
    assert "against 1, step 1 of 1" in run("experiment", "start", "3", "--reason", "a test", exit_code=3)
    with experiment.alone(FLIGHTS, "prod"):
        assert "by another process: wait until it ends" in run("experiment", "step", exit_code=1)
    run("experiment", "stop", "--reason", "over")
    assert "version 1 itself is in use" in run("experiment", "start", "1", "--reason", "a test", exit_code=3)
    assert "canary" in run(*start)


@pytest.mark.practice("canary-release")
def test_an_experiment_whose_champion_was_replaced_is_over(place: Path, run: Run) -> None:
    experiment.start(FLIGHTS, "2", "canary", reason="a test")
    deploy.deploy(FLIGHTS, "prod", "3", "urgent")
    assert "version 3 is in use in prod since" in run("experiment", "step", exit_code=3)


@pytest.mark.practice("gated-retraining", "full-scale-trials")
def test_what_deploy_would_refuse_is_not_tried_on_callers_either(place: Path, run: Run, git: Run) -> None:
    edit("environments/prod", approval=True)
    git("commit", "--quiet", "--all", "--message", "Ask for approval")
    start = ["experiment", "start", "2", "--reason", "a test"]
    assert "nobody approved it" in run(*start, exit_code=3)
    run(*start, "--mode", "shadow")  # which answers nobody
    run("experiment", "stop", "--reason", "over")
    chosen, client = environments.open_store(FLIGHTS, "dev")
    client.set_model_version_tag(chosen.model, "2", "validation_status", "refused")
    assert "its gates say refused" in run(*start, "--mode", "shadow", exit_code=3)
    edit("prediction_log", entity=None)
    assert "entity names no column" in run(*start, exit_code=1)
    assert "needs --reason" in run("experiment", "start", "2", exit_code=2)


@pytest.mark.practice("gated-retraining")
def test_winning_does_not_get_past_a_missing_sign_off(place: Path, git: Run) -> None:
    happened(experiment.start(FLIGHTS, "2", "ab", reason="a test"), 60, 0.9, 0.1)
    edit("environments/prod", approval=True, solo=True)
    git("commit", "--quiet", "--all", "--message", "Ask for approval")
    decision = experiment.step(FLIGHTS)
    assert decision.result == "going" and "not deployed yet" in decision.why and "nobody approved it" in decision.why
    chosen, client = environments.open_store(FLIGHTS, "prod")
    assert environments.find_copy(client, chosen.model).tags["origin_version"] == "1", "who callers are answered by"
    from mlops_ladder.release import approve

    def sign(name: str, version: str) -> None:
        approve.approve(FLIGHTS, name, version, "policy of a test", "ada@example.org")

    assert experiment.step(FLIGHTS, sign_off=sign).result == "promoted"
    assert deploy.now(run_history())["approved_by"] == "ada@example.org"


# The statistics


@pytest.mark.practice("live-ab-testing")
def test_equal_versions_are_seldom_called_different_however_often_one_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "measure", lambda _, __, rows: float(((rows[:, 0] - rows[:, 1]) ** 2).mean()))
    draw, wrong, n_trials = np.random.default_rng(0), 0, 80
    for _ in range(n_trials):
        arms = [clustered(draw, 1_000, worse=0.0) for _ in range(2)]
        wrong += any(decides(arms, n) for n in range(100, 1_001, 100))  # ten looks
    assert wrong / n_trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_trials)
    assert decides([clustered(draw, 1_500, worse=0.0), clustered(draw, 1_500, worse=0.3)], 1_500)


def clustered(draw: np.random.Generator, n_rows: int, worse: float) -> np.ndarray:
    """Return rows of 200 entities that differ among each other, as (prediction, label, group)."""
    entity = draw.integers(200, size=n_rows)
    skill = draw.normal(0.5, 0.2, size=200)[entity] - worse
    label = (draw.random(n_rows) < 0.3).astype(float)
    return np.column_stack([np.clip(0.3 + skill * (label - 0.3), 0, 1), label, entity % experiment.GROUPS])


def decides(arms: list[np.ndarray], n_rows: int) -> bool:
    lower_is_better = next(name for name, higher in model.HIGHER_IS_BETTER.items() if not higher)
    compared = experiment.compare(FLIGHTS, lower_is_better, *(rows[:n_rows] for rows in arms))
    return compared is not None and experiment.likelihood_ratio(*compared, 0.01) >= 20
