"""The pipeline: raw rows to a registered version, only what is stale, never half."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from flight_delays import data, features
from flight_delays.__main__ import main
from mlops_ladder.data import validate
from mlops_ladder.training import dvc_pipeline, pipeline, recording, stages, tracking
from projects import FLIGHTS

STAGES = ["validate", "split", "train", "evaluate", "register"]
fork = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
CHANGED = ["--set", "seed=2", "--set", "test=0.2"]  # makes each stage from `split` on stale
needs_fork = pytest.mark.skipif(fork is None, reason="faults not tested: no fork on this system")


@pytest.mark.practice("automated-training-pipeline", "pipeline-orchestration", "modular-components")
def test_one_command_takes_raw_rows_to_a_registered_version(trained: Path) -> None:
    result = json.loads((trained.parent / "result.json").read_text())
    assert result["ran"] == STAGES
    assert result["version"] == "1"
    assert result["data"].startswith("raw@")
    assert sum(result["rows"].values()) == len(data.read(trained / "data/raw"))


@pytest.mark.practice("baseline-comparison")
def test_a_candidate_stands_beside_the_baseline_and_the_champion(workplace: Path, run: Any) -> None:
    first = run("train", "--json")
    assert first["champion"] is None
    assert set(first["metrics"]["baseline"]) == set(first["metrics"]["test"])
    run("promote", first["version"], "--reason", "the first")
    second = run("train", "--set", "seed=1", "--json")
    assert second["champion"]["version"] == first["version"]
    assert second["champion"]["metrics"] == pytest.approx(first["metrics"]["test"])
    assert "champion" in run("train", "--set", "seed=1")
    back = run("train", "--json")
    assert back["ran"] == ["evaluate", "register"], "it was measured before there was a champion"
    assert (back["champion"]["version"], back["version"]) == ("1", "1"), "and is registered once"


def test_a_second_run_with_nothing_changed_trains_and_registers_nothing(workplace: Path, run: Any) -> None:
    assert run("train", "--json")["ran"] == ["register"]
    again = run("train", "--json")
    assert (again["ran"], again["version"]) == ([], "1")
    assert "nothing changed" in run("train")
    assert len(tracking.search(FLIGHTS, tracking.open_store(FLIGHTS)[1])) == 1


def test_rows_that_did_not_change_are_validated_again_where_their_age_counts(
    workplace: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = Path("conf/validation.yml")
    text = conf.read_text("utf-8").replace("as_of: newest", "as_of: today")
    conf.write_text(text.replace("max_age_days: 45", "max_age_days: 100_000"), encoding="utf-8")
    assert run("train", "--json")["ran"][0] == "validate"
    assert run("train", "--json")["ran"] == []
    later = validate.now() + pd.Timedelta(days=3)
    monkeypatch.setattr(validate, "now", lambda: later)
    assert "validate" in run("train", "--json")["ran"]


def test_an_edit_of_any_module_of_yours_makes_the_model_stale(
    workplace: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "src/flight_delays/weather.py").write_text("FREEZING = 32\n")
    monkeypatch.setattr(validate, "code", lambda _: "edited")  # this process has not imported the copy in `workplace`
    assert run("train", "--json")["ran"] == STAGES
    runtime = workplace / "runtime/src/mlops_ladder"
    runtime.mkdir(parents=True, exist_ok=True)
    (runtime / "late.py").write_text("")  # as a newer template brings it
    assert run("train", "--json")["ran"] == []


def test_a_parameter_makes_stale_only_what_depends_on_it(workplace: Path, run: Any) -> None:
    run("train")
    changed = run("train", "--set", "parameters.max_iter=20", "--json")
    assert (changed["ran"], changed["version"]) == (["train", "evaluate", "register"], "2")
    back = run("train", "--json")
    assert (back["ran"], back["version"]) == ([], "1"), "what was made before of the same inputs is found again"


def test_no_row_is_trained_on_that_is_later_than_one_it_is_measured_on(workplace: Path, run: Any) -> None:
    parts = stages.read_splits(FLIGHTS)
    assert parts["train"][data.TIME].max() < parts["validation"][data.TIME].min()
    assert parts["validation"][data.TIME].max() < parts["test"][data.TIME].min()
    keys = pd.concat([part[data.KEY] for part in parts.values()])
    assert len(keys) == len(data.read("data/raw")) and keys.is_unique


@pytest.mark.practice("experiment-operations-symmetry", "modular-components")
def test_dvc_runs_the_same_stages_as_this_command(workplace: Path, run: Any) -> None:
    declared = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    assert list(declared) == ["ingest", *STAGES]
    for name, stage in declared.items():
        assert stage["cmd"] == f"python -m flight_delays train --stage {name}"
    before = pipeline.SPLIT.read_text()
    pipeline.SPLIT.unlink()
    run("train", "--stage", "split")
    assert pipeline.SPLIT.read_text() == before
    assert "there are: ingest" in run("train", "--stage", "fit", exit_code=2)


@pytest.mark.practice("sampled-ci-build")
def test_a_sample_is_tracked_as_an_experiment_and_not_registered(workplace: Path, run: Any, trained: Path) -> None:
    whole = json.loads((trained.parent / "result.json").read_text())
    part = run("train", "--sample", "0.2", "--report", "comment.md", "--json")
    assert part["version"] is None
    assert 0.1 < sum(part["rows"].values()) / sum(whole["rows"].values()) < 0.3
    _, client = tracking.open_store(FLIGHTS)
    assert client.get_run(part["run_id"]).data.tags["purpose"] == "experiment"
    comment = Path("comment.md").read_text(encoding="utf-8")
    assert f"**{part['primary']}**" in comment and "nothing is registered" in comment


def test_a_sample_keeps_its_rows_when_later_rows_come() -> None:
    rows = pd.DataFrame({data.KEY: [f"k{i}" for i in range(1000)]})
    assert (
        stages.sample(FLIGHTS, rows, 0.3).index[:50].tolist()
        == stages.sample(FLIGHTS, rows[:500], 0.3).index[:50].tolist()
    )


@pytest.mark.practice("multi-dataset-training")
def test_another_data_set_or_version_is_an_option(workplace: Path, run: Any) -> None:
    first = run("train", "--json")
    (workplace / "data/late").mkdir()
    for file in sorted((workplace / "data/raw").glob("*"))[1:]:
        (workplace / "data/late" / file.name).write_bytes(file.read_bytes())
    other = run("train", "--data", "late", "--json")
    assert other["data"].startswith("late@") and other["version"] == "2"
    before = run("train", "--data", first["data"][:13], "--json")
    assert (before["data"], before["ran"], before["version"]) == (first["data"], [], "1")


def test_the_inputs_are_built_without_the_target(workplace: Path) -> None:
    rows = data.read("data/raw").head(100)
    assert data.TARGET not in features.COLUMNS and not {*data.LEAKS} & {*features.COLUMNS}
    pd.testing.assert_frame_equal(features.build(rows[features.COLUMNS]), features.build(rows))


@pytest.mark.practice("naming-and-tagging")
def test_a_run_without_a_required_tag_is_refused(workplace: Path, run: Any) -> None:
    assert "owner" in run("train", "--set", "tags.owner=", exit_code=1)
    assert "'play'" in run("train", "--set", "tags.purpose=play", exit_code=1)
    _, client = tracking.open_store(FLIGHTS)
    assert not tracking.search(FLIGHTS, client)
    run("train", "--set", "tags.purpose=retraining", "--set", "tags.ticket=ML-12")
    [made] = tracking.search(FLIGHTS, client)
    assert made.data.tags["ticket"] == "ML-12"
    assert client.get_experiment(made.info.experiment_id).name.endswith("/retraining")


@pytest.mark.practice("managed-environment")
def test_training_needs_a_locked_environment(workplace: Path, run: Any) -> None:
    Path("uv.lock").unlink()
    assert "uv lock" in run("train", exit_code=1)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("sed=1", "sed"),
        ("test=2", "test"),
        ("seed", "KEY=VALUE"),
        ("seed=[", "not YAML"),
        ("seed.a=1", "seed"),
        ("family=none", "none"),
        ("data=nowhere", "nowhere"),
        ("data=..", "pattern"),
        ("seed=-1", "seed"),
        ("tracking_uri=http://ada:lovelace@127.0.0.1:9", "holds a password"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(workplace: Path, run: Any, word: str, told: str) -> None:
    assert told in run("train", "--set", word, exit_code=2 if word in ("seed", "seed=[") else 1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(patch: Any) -> None:
    """Train in a process of its own, in which PATCH has put a SIGKILL somewhere; assert that it was killed."""
    assert fork is not None
    child = fork.Process(target=lambda: (patch(), main(["train", *CHANGED])))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL


@needs_fork
@pytest.mark.parametrize("stage", ["ingest", "split", "train", "evaluate", "run", "model", "register"])
def test_a_training_that_was_killed_ends_well_the_next_time(workplace: Path, run: Any, stage: str) -> None:
    first = run("train", "--json")
    run("promote", first["version"], "--reason", "the first")
    _, client = tracking.open_store(FLIGHTS)
    name = first["model"]

    def patch() -> None:
        if stage in stages.STAGES:
            whole = stages.STAGES[stage]
            stages.STAGES[stage] = lambda project: (whole(project), die())  # all is written, nothing is noted
        else:
            halfway = {"run": "save_model", "model": "register"}  # a run without its model, a model without its version
            setattr(recording, halfway[stage], lambda *_: die())

    killed(patch)
    assert tracking.aliases(client, name)["champion"] == first["version"], "the champion is untouched"
    second = run("train", *CHANGED, "--json")
    assert second["version"] == "2"
    assert [str(one.version) for one in client.search_model_versions(f"name = '{name}'")] == ["2", "1"]
    assert tracking.aliases(client, name) == {"champion": "1", "challenger": "2"}
    states = sorted(one.info.status for one in tracking.search(FLIGHTS, client))
    assert states in (["FINISHED", "FINISHED"], ["FINISHED", "FINISHED", "KILLED"])
    assert run("train", *CHANGED, "--json")["ran"] == []


def test_a_note_of_dvc_that_a_kill_left_half_written_stops_no_training(workplace: Path, run: Any) -> None:
    Path(".dvc/tmp/rwlock").write_text('{"write": {"da')
    assert run("train", "--json")["version"] == "1"


@needs_fork
def test_a_second_training_at_once_is_told_who_is_at_work(workplace: Path, run: Any) -> None:
    def hold() -> None:
        with dvc_pipeline.locked(FLIGHTS):
            (workplace / "held").touch()
            time.sleep(60)

    assert fork is not None
    holder = fork.Process(target=hold)
    holder.start()
    try:
        while not (workplace / "held").exists():
            time.sleep(0.05)
        assert f"process {holder.pid}" in run("train", exit_code=1)
    finally:
        holder.kill()
        holder.join()
    assert run("train", "--json")["version"] == "1", "a killed training holds nothing"


def test_a_store_that_cannot_be_written_is_named_and_nothing_is_lost(workplace: Path, run: Any) -> None:
    said = run("train", "--set", "tracking_uri=sqlite:///dvc.yaml/mlflow.db", exit_code=1)
    assert "tracking_uri" in said
    result = run("train", "--json")
    assert (result["ran"], result["version"]) == (["register"], "1"), "the fitted model was kept"


def test_a_server_that_does_not_answer_is_named_before_anything_is_fitted(
    workplace: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for words in (["train", "--set", "seed=4"], ["runs"]):
        said = run(*words, exit_code=1)
        assert "127.0.0.1" in said and "MLFLOW_TRACKING_URI" in said and "fitting" not in said


@needs_fork
@pytest.mark.parametrize("room", [20_000, 300_000])  # bytes a file; too little for DVC's notes, for the model file
def test_a_full_disk_is_a_clear_error_and_nothing_is_lost(workplace: Path, run: Any, room: int) -> None:
    run("train")
    told = workplace / "told"

    def fill() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with told.open("w") as sys.stderr:
            code = main(["train", "--set", "seed=3"])
        os._exit(code)

    assert fork is not None
    child = fork.Process(target=fill)
    child.start()
    child.join(300)
    assert child.exitcode == 1, told.read_text()
    assert "error: " in told.read_text() and "Traceback" not in told.read_text()
    again = run("train", "--set", "seed=3", "--json")
    assert again["version"] == "2"
