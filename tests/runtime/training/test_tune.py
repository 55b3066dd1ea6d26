"""Tuning: several families, hopeless trials stopped, killed and resumed, the same on a cluster as on one machine."""

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flight_delays import data, model
from flight_delays.__main__ import main
from mlops_ladder.training import tracking, tune
from projects import FLIGHTS

TUNE = ["tune", "--sample", "0.15", "--json"]
WORDS = [sys.executable, "-m", "flight_delays"]


def conf(folder: Path, **changes: Any) -> None:
    file = folder / "conf/compute.yml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text("utf-8")) | changes), "utf-8")


def outcome(said: dict[str, Any]) -> tuple[Any, ...]:
    return said["family"], said["parameters"], said["value"], said["trials"], said["stopped_early"]


def trials_of(client: Any, found: dict[str, Any]) -> list[Any]:
    """Return the runs of the trials, which stand under the run of their search."""
    parent = client.get_run(found["run_id"])
    return client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")


@pytest.mark.practice("automl", "hyperparameter-tuning")
def test_a_search_tries_every_family_and_compares_the_best_with_simpler_ones(workplace: Path, run: Any) -> None:
    conf(workplace, workers=1)
    found = run(*TUNE, "--trials", "5", "--no-train")
    better = max if model.HIGHER_IS_BETTER[model.PRIMARY] else min
    assert found["value"] == better(found["value"], found["simple"]["value"], found["baseline"])
    assert found["simple"]["family"] == model.SIMPLE
    trials = trials_of(tracking.open_store(FLIGHTS)[1], found)
    assert len(trials) == found["trials"] == 5
    assert {one.data.params["family"] for one in trials} == set(model.SEARCH_SPACE)
    done = [one.data.metrics[model.PRIMARY] for one in trials if one.data.tags["outcome"] == "done"]
    assert better(done) == pytest.approx(found["value"])


@pytest.mark.practice("hyperparameter-tuning")
def test_the_best_trial_is_trained_by_the_same_pipeline_and_registered(workplace: Path, run: Any) -> None:
    conf(workplace, workers=1)
    said = run("tune", "--trials", "1", "--family", "linear")
    assert "trial 1 of 1: linear (its defaults)" in said and "registered" in said
    [registered] = tracking.open_store(FLIGHTS)[1].search_model_versions("")
    assert registered.tags["family"] == "linear"


@pytest.mark.practice("early-termination")
def test_a_trial_that_cannot_win_ends_early_and_one_that_fails_does_not_end_the_search(
    workplace: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf(workplace, together=1, workers=1)  # one worker computes in this process, where `make` is another
    whole = model.make

    def make(family: str = model.DEFAULT, seed: int = 0, case: str = "good") -> Any:
        if family == "failing":
            raise ValueError("it diverges")
        made = whole("linear", seed)
        if case == "hopeless":
            made.steps[-1] = ("constant", constant())
        return made

    monkeypatch.setattr(model, "SEARCH_SPACE", {"linear": {"case": ["good", "hopeless"]}, "failing": {}})
    monkeypatch.setattr(model, "make", make)
    found = run(*TUNE, "--trials", "16", "--no-train")
    assert found["family"] == "linear"
    assert found["failed"] >= 1 and found["stopped_early"] >= 1
    trials = trials_of(tracking.open_store(FLIGHTS)[1], found)
    assert {one.data.tags["outcome"] for one in trials} == {"stopped early", "done", "failed: ValueError: it diverges"}
    stopped = next(one for one in trials if one.data.tags["outcome"] == "stopped early")
    assert stopped.data.params["case"] == "hopeless"


def constant() -> Any:
    from sklearn import dummy

    if data.PROBLEM == "classification":
        return dummy.DummyClassifier(strategy="prior")
    return dummy.DummyRegressor(strategy="constant", constant=1_000.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed search not tested: no fork on this system")
def test_a_killed_search_goes_on_and_finds_what_it_would_have_found(workplace: Path, run: Any) -> None:
    conf(workplace, together=2, workers=1)  # one worker computes in the process that is killed
    words = [*TUNE, "--trials", "6", "--no-train", "--family", "linear", "--family", "boosting"]

    def die_in_the_fourth_trial() -> None:
        whole, calls = tune.attempt, itertools.count(1)

        def attempt(*asked: Any) -> Any:
            if next(calls) == 8:  # after the 3 steps of 2 trials, the first of the next 2 has done one
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*asked)

        tune.attempt = attempt
        main(words)

    killed = multiprocessing.get_context("fork").Process(target=die_in_the_fourth_trial)
    killed.start()
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    resumed = run(*words)
    assert len(trials_of(tracking.open_store(FLIGHTS)[1], resumed)) == 6
    (workplace / "models/tuning.db").unlink()
    assert outcome(run(*words)) == outcome(resumed)


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a process, speaking TCP."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    told = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--no-dashboard"]
    environment = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10", "OMP_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        words = [*dask, "scheduler", "--port", "0", "--scheduler-file", str(told), *options]
        processes.append(subprocess.Popen(words, env=environment, **quiet))  # type: ignore[call-overload]
        while not told.is_file() or not told.read_text("utf-8"):
            assert processes[0].poll() is None, "the scheduler did not start"
            time.sleep(0.1)
        address = json.loads(told.read_text("utf-8"))["address"]
        for _ in range(2):
            words = [*dask, "worker", address, "--nthreads", "1", "--no-nanny", *options]
            processes.append(subprocess.Popen(words, cwd=folder, env=environment, **quiet))  # type: ignore[call-overload]
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.mark.practice("distributed-training", "managed-compute")
def test_a_cluster_finds_the_same_as_one_machine_even_when_it_loses_a_worker(
    workplace: Path, run: Any, tmp_path: Path
) -> None:
    words = [*TUNE, "--trials", "4", "--no-train", "--family", "linear"]
    conf(workplace, together=2)
    local = run(*words)
    (workplace / "models/tuning.db").unlink()
    with dask_cluster(tmp_path) as (address, workers):
        conf(workplace, backend="dask", address=address)
        with subprocess.Popen([*WORDS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as search:
            assert search.stderr is not None and search.stdout is not None
            said = []
            for line in search.stderr:
                said.append(line)
                if line.startswith("trial 1 "):
                    workers[0].kill()
            told = search.stdout.read()
    assert search.returncode == 0, "".join(said)
    assert outcome(json.loads(told)) == outcome(local)


def test_a_cluster_that_does_not_answer_is_named(workplace: Path, run: Any) -> None:
    conf(workplace, backend="dask", address="tcp://127.0.0.1:9", timeout_s=1)
    said = run("tune", "--trials", "1", "--sample", "0.15", exit_code=1)
    assert "no Dask cluster" in said and "tcp://127.0.0.1:9" in said and "conf/compute.yml" in said


def test_a_family_that_is_not_there_is_a_usage_error(workplace: Path, run: Any) -> None:
    assert "must be one of boosting" in run("tune", "--family", "magic", exit_code=2)
