"""Retraining: on new labelled rows, through every gate, one at a time, whoever is killed when."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from flight_delays import data, features, model
from flight_delays.__main__ import main
from mlops_ladder.core import files
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.core.project import Project
from mlops_ladder.data import store
from mlops_ladder.loop import feedback, retrain, triggers
from mlops_ladder.release import environments, gate, releasing
from mlops_ladder.release.gates import footprint
from mlops_ladder.release.judgement import Finding, gate_names
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT, python_path, run_of, versions, with_environments
from tables_project import COUNT, KEY, MEAN, TABLES, make_project, python

PROJECT = ROOT
N_TRAINED = 3  # files of the sample that `trained` has; the next one is what was served since
WEAK = {"parameters.max_iter": 2, "parameters.learning_rate": 0.001}


@pytest.fixture(scope="module")
def deployed(trained: Path, tmp_path_factory: pytest.TempPathFactory, git: Any) -> Path:
    """A project whose version 1 is in use in prod, and that logged a month of predictions with their labels since."""
    folder = with_environments(trained, tmp_path_factory.mktemp("deployed") / "project")
    (folder / ".git/info/exclude").write_text("environments/\naudit/\nreports/\nserve.log\n")
    for name in ("docs/governance", "contracts"):
        shutil.copytree(PROJECT / name, folder / name)
    shutil.copy(PROJECT / "data/catalog.yml", folder / "data")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(releasing, "try_service", lambda *_: [])
        change(git, new_data={"rows": 2_000}, age=None, schedule=None, sign_off="none", release="direct")
        chosen, client = tracking.open_store(FLIGHTS)
        client.set_model_version_tag(chosen.model, "1", "validation_status", "passed")
        git("config", "user.email", "grace@example.org")
        assert main(["approve", "1", "--reason", "the first"]) == 0
        for name in ("test", "prod"):
            assert main(["deploy", "1", "--env", name]) == 0
        served(read_month(N_TRAINED))
    return folder


@pytest.fixture
def project(deployed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder, in which a release is not tried in the service."""
    folder = shutil.copytree(deployed, tmp_path / "project")
    monkeypatch.chdir(folder)
    for name in ("MLFLOW_TRACKING_URI", "NOTIFY_URL", "MODEL_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(releasing, "try_service", lambda *_: [])
    return folder


@pytest.fixture
def lenient(project: Path, git: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit fast and let every gate pass, where a test is about something else."""
    change(git, training={"validation": 0.05, "test": 0.15, **WEAK})
    monkeypatch.setattr(
        gate, "run_gates", lambda *_: [Finding(name, "it", True, "", "") for name in gate_names(FLIGHTS)]
    )


def change(git: Any, **changes: Any) -> None:
    """Change conf/retraining.yml and commit that."""
    file = Path("conf/retraining.yml")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    git("add", "--all")
    git("commit", "--quiet", "--message", "Change the policy")


def loosen(git: Any) -> None:
    """Let the gates ask for less, as a quarter of the sample and one month more make no good model; each still judges."""
    files = {name: Path(f"conf/{name}.yml") for name in ("release", "success")}
    release = yaml.safe_load(files["release"].read_text())
    release["quality"]["over_champion"] = {model.PRIMARY: {"measured": -10, "surely": -20}}
    release["slices"]["metrics"] = {model.PRIMARY: {"min": -1e9}}
    release["fairness"]["differences"] = {name: 10 * most for name, most in release["fairness"]["differences"].items()}
    files["release"].write_text(yaml.safe_dump(release))
    files["success"].write_text(yaml.safe_dump({"metrics": {model.PRIMARY: {"min": -1e9}}}))
    change(git, stable={"share": 0.05, "worse": {model.PRIMARY: 20}})


def read_month(number: int) -> pd.DataFrame:
    """Return the rows of one file of the sample."""
    folder = Path("month")
    folder.mkdir(exist_ok=True)
    shutil.copy(sorted((PROJECT / "data/sample").iterdir())[number], folder)
    rows = data.read(folder)
    shutil.rmtree(folder)
    return rows


def served(rows: pd.DataFrame, start: int = 0) -> None:
    """Write ROWS into the prediction log as the service and `feedback` do."""
    from mlops_ladder.loop import prediction_log

    log, asked = prediction_log.open_log(FLIGHTS), prediction_log.now() - timedelta(days=20)
    known = [name for name in data.SCHEMA if name != data.TARGET and name not in data.LEAKS]
    inputs = json.loads(rows[known].to_json(orient="records", date_format="iso"))
    predictions = [
        {
            "request_id": f"r{number}",
            "at": asked + timedelta(seconds=number),
            "version": "1",
            "prediction": 0.2,
            "inputs": {name: cell.rstrip("Z") if name == data.TIME else cell for name, cell in given.items()},
        }
        for number, given in enumerate(inputs, start)
    ]
    assert log.write(predictions) == len(rows)
    truth = [{"key": key, "label": float(label)} for key, label in zip(rows[data.KEY], rows[data.TARGET], strict=True)]
    assert feedback.add_labels(log, truth)["added"] == len(rows)


def in_use() -> str:
    chosen, client = environments.open_store(FLIGHTS, "prod")
    return environments.find_copy(client, chosen.model).tags["origin_version"]


@pytest.mark.practice("uninterrupted-e2e", "gated-retraining", "metric-triggered-retraining", "frequent-model-updates")
def test_from_new_labels_to_a_new_version_that_the_running_server_answers_with(
    project: Path, run: Any, git: Any, serve: Callable[..., Any]
) -> None:
    loosen(git)
    with serve(project, "--model", "env:prod") as (http, _):
        assert http.get("/model").json()["version"] == "1"
        told = run("retrain", "--if-triggered", "--json")
        until = time.monotonic() + 60
        while http.get("/model").json()["version"] == "1" and time.monotonic() < until:
            time.sleep(0.1)
        answered = http.get("/model").json()
    assert (told["outcome"], told["version"], in_use(), answered["version"]) == ("promoted", "2", "2", "2")
    old, new = run_of("1"), run_of("2")
    assert new.data.tags["data"] == f"retraining@{told['data']}" != old.data.tags["data"]
    assert new.data.params["trained_before"] > old.data.params["trained_before"]
    chosen, client = tracking.open_store(FLIGHTS)
    made = tracking.find_version(client, chosen.model, "2")
    assert made.tags["approved_by"] == "policy:retraining" and "new_data" in made.tags["approved_reason"]
    passed = json.loads(made.tags["gates"])
    assert passed["stable"] == passed["quality"] == "passed"
    told = [(one["action"], one["who"]) for one in run("audit", "show", "--json")]
    who = "grace@example.org"
    steps = ["retrain", "register", "gate", "approve", "deploy", "deploy", "retrained"]
    assert told[-len(steps) :] == [(one, "policy:retraining" if one == "approve" else who) for one in steps]
    assert run("audit", "verify", "--json")["not_anchored"] == 0
    traced = run("lineage", "2")
    raw = next(Path("data/raw").iterdir())
    assert "not on record" not in traced and f"{len(read_month(N_TRAINED)):,} labelled rows" in traced
    assert f"{raw.name}, sha256 {files.sha256(raw)[:12]}, as the raw data: " in traced
    raw.write_bytes(b"changed")
    assert f"{raw} was changed, and not by `ingest`" in run("lineage", "2", exit_code=3)


@pytest.mark.practice("gated-retraining", "audit-trail")
def test_a_candidate_that_is_worse_is_refused_by_a_gate_and_people_hear_of_it(
    project: Path, run: Any, git: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = [Finding("footprint", "it", True, "", "")]
    monkeypatch.setattr(footprint, "check", lambda *_: measured)  # which takes longer than all other gates
    change(git, training={"validation": 0.05, "test": 0.15, **WEAK})
    said = run("retrain", "--reason", "to try", exit_code=3)
    assert "version 2 is refused by" in said and "quality" in said
    assert "owner data-scientist, docs/runbook.md#retraining" in said
    [issue] = triggers.ISSUES.glob("*.md")
    assert "Retraining 1 is refused" in issue.read_text() and "docs/runbook.md#retraining" in issue.read_text()
    assert in_use() == "1"
    last = run("audit", "show", "--json")[-1]
    assert (last["action"], last["who"], last["facts"]["outcome"]) == ("retrained", "grace@example.org", "refused")
    assert "quality" in last["why"] and last["at"]


@pytest.mark.practice("trigger-policy")
def test_without_a_trigger_nothing_is_trained(project: Path, run: Any, git: Any) -> None:
    change(git, new_data=None)
    assert "no trigger fired" in run("retrain", "--if-triggered")
    assert versions() == ["1"] and run("retrain", "--history", "--json") == []


@pytest.mark.practice("feedback-loop")
def test_it_learns_from_labelled_rows_of_the_log_and_keeps_some_aside_for_good(project: Path, run: Any) -> None:
    conf, gathered = store.read(FLIGHTS), data.read("data/raw")
    retrain.make(FLIGHTS, conf)
    place = conf.home / "retraining"
    learned, aside = (pd.read_parquet(place / part) for part in ("rows", "stable"))
    april = read_month(N_TRAINED)
    assert set(learned[data.KEY]) | set(aside[data.KEY]) == set(gathered[data.KEY]) | set(april[data.KEY])
    assert not set(learned[data.KEY]) & set(aside[data.KEY]) and 0.03 < len(aside) / len(april) / 4 < 0.07
    both = learned.merge(april, on=data.KEY, suffixes=("", "_truth"))
    assert len(both) > 0.9 * len(april)
    for name in (data.TARGET, *features.COLUMNS):
        pd.testing.assert_series_equal(both[name], both[f"{name}_truth"], check_names=False, check_dtype=False)
    before = {file.name: file.read_bytes() for file in (place / "rows").iterdir()}
    served(read_month(N_TRAINED + 1), start=100_000)
    retrain.make(FLIGHTS, conf)
    after = {file.name: file.read_bytes() for file in (place / "rows").iterdir()}
    assert len(after) == len(before) + 1 and set(pd.read_parquet(place / "stable")[data.KEY]) > set(aside[data.KEY])


@pytest.mark.practice("feedback-loop", "delayed-labels")
def test_rows_that_callers_sent_in_part_are_learned_from_as_far_as_they_go(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlops_ladder.loop import prediction_log

    required = next(name for name in features.COLUMNS if not data.SCHEMA[name].get("null") and name != data.TIME)
    monkeypatch.setitem(data.SCHEMA, "gate", {"type": "text"})  # no input of the model: nobody sends it
    row = json.loads(read_month(0).head(1)[features.COLUMNS].to_json(orient="records", date_format="iso"))[0]
    row |= {data.TIME: None, data.KEY: "k"}
    log = prediction_log.open_log(FLIGHTS)
    log.write(
        {"request_id": f"r{n}", "key": f"k{n}", "prediction": 0.5, "inputs": row | ({required: None} if n == 2 else {})}
        for n in range(3)
    )
    feedback.add_labels(log, [{"key": f"k{n}", "label": 1.0} for n in range(3)])
    rows = retrain.labelled(FLIGHTS, prediction_log.now())
    assert list(rows[data.KEY]) == ["k0", "k1"] and "gate" not in rows and set(data.SCHEMA) - set(rows) == {"gate"}
    assert rows[data.TIME].between(prediction_log.now() - timedelta(hours=1), prediction_log.now()).all()
    assert f"1 labelled rows of the prediction log are left out: they have no {required}" in capsys.readouterr().err


def test_of_a_key_that_was_asked_twice_the_last_row_is_learned_from_once_its_label_came(workdir: Path) -> None:
    from mlops_ladder.loop import prediction_log

    number = next(name for name in features.COLUMNS if data.SCHEMA[name]["type"] == "number")
    row = json.loads(read_month(0).head(1)[features.COLUMNS].to_json(orient="records", date_format="iso"))[0]
    log, hour = prediction_log.open_log(FLIGHTS), timedelta(hours=1)
    start = prediction_log.now() - 24 * hour
    arms = ["champion", "challenger", "shadow"]
    log.write(
        {"request_id": f"r{n}", "arm": arm, "key": "asked", "prediction": 0.5, "at": start + n * hour}
        | {"inputs": row | {data.TIME: None, number: float(n)}}
        for n, arm in enumerate(arms)
    )
    log.write([{"request_id": "r", "key": "late", "prediction": 0.5, "at": start, "inputs": row}])
    labels = {"asked": start + 5 * hour, "late": start + 7 * hour}
    feedback.add_labels(log, [{"key": key, "label": 1.0, "at": at} for key, at in labels.items()])
    rows = retrain.labelled(FLIGHTS, start + 6 * hour)
    assert (list(rows[data.KEY]), list(rows[number])) == (["asked"], [1.0])


PATHS = """
import json, sys
from pathlib import Path
import pandas as pd
from flight_delays import data, features
from flight_delays.__main__ import PROJECT
from mlops_ladder.data import data_sets, feature_tables, split, store, validate
from mlops_ladder.data.joined import as_rows
from mlops_ladder.data.rows import as_records
from mlops_ladder.loop import feedback, prediction_log, retrain, simulate, stream_features
from mlops_ladder.serving import score_batch
from mlops_ladder.serving.check_handoff import Handover
from mlops_ladder.serving.table_lookup import Lookup

conf, key, slice_of = store.read(PROJECT), sys.argv[1], {name: data.SCHEMA[name] for name in features.COLUMNS}
given = data.read(conf.raw).drop(columns=features.NUMBERS)
given = given.iloc[:: len(given) // 80].reset_index(drop=True)
bare = given[[data.TIME, key]]
sent = as_records(given[[data.TIME, key]])
log = prediction_log.open_log(PROJECT)
log.write({"request_id": f"r{n}", "key": f"log{n}", "prediction": 0.5, "inputs": row} for n, row in enumerate(sent))
truths = enumerate(given[data.TARGET])
feedback.add_labels(log, [{"key": f"log{n}", "label": float(truth)} for n, truth in truths])

def of(rows, keys=given[data.KEY]):
    return features.build(rows.set_index(data.KEY).loc[list(keys)]).reset_index(drop=True)

def served():
    online = Lookup(PROJECT, feature_tables.places(PROJECT).online)
    rows = json.loads(online.fill(json.dumps(sent).encode(), features.COLUMNS, len(sent)))
    return features.build(as_rows(PROJECT, pd.DataFrame(rows), slice_of))

def batch():
    job = score_batch.Job(PROJECT, None, slice_of, "", "", "", None, feature_tables.Offline.of(PROJECT, features.COLUMNS))
    import pyarrow as pa
    return features.build(score_batch.check_table(job.table("rows.parquet", pa.Table.from_pandas(bare)), slice_of)[0])

def retrained():
    retrain.make(PROJECT, conf)
    folder = conf.home / retrain.DATASET
    return pd.concat([data_sets.read(PROJECT, folder), *map(pd.read_parquet, (folder / retrain.ASIDE).glob("*.parquet"))])

def one_file():
    place = Path("one")
    place.mkdir()
    files = pd.concat(map(pd.read_parquet, conf.raw.glob("*.parquet")))
    files.to_parquet(place / "all.parquet", index=False)
    return validate.read(PROJECT, place, "one", joins=True)

handover = Handover(PROJECT, Path("models/model.skops"))
handover.facts = {"trained_on": split.of(PROJECT).period(given)}
[(_, logged)] = log.after(0)
learned, simulated = retrained(), type("Options", (), dict(rows=conf.raw, since=None, until=None, seed=0, share=2))
paths = {
    "train": of(data.read("data/featured")),
    "gathered": of(store.read_rows(PROJECT, conf)),
    "retrain": of(learned),
    "retrain, of the log": of(learned, [f"log{n}" for n in range(len(given))]),
    "check-handoff": of(handover.gathered("trained_on")),
    "validate": of(validate.read(PROJECT, None, "raw")),
    "validate --file": of(one_file()),
    "score": features.build(as_rows(PROJECT, bare, slice_of)),
    "explain": features.build(pd.concat(as_rows(PROJECT, pd.DataFrame([row]), slice_of) for row in sent)),
    "score-batch": batch(),
    "serve": served(),
    "stream": stream_features.transform(PROJECT, logged)[features.NUMBERS],
    "simulate": of(simulate.read(PROJECT, simulated, [], [])[0]),
}
for name, made in paths.items():
    made.reset_index(drop=True).to_parquet(f"{name}.parquet")
"""


def test_each_path_from_rows_to_inputs_joins_the_feature_tables_alike(tmp_path: Path) -> None:
    make_project(tmp_path, [MEAN, COUNT], TABLES)
    for file in sorted((PROJECT / "data/sample").iterdir())[:2]:
        shutil.copy(file, tmp_path / "data/raw")
    python(tmp_path, "-m", "flight_delays", "feature-tables")
    python(tmp_path, "-c", PATHS, KEY)
    made = {file.stem: pd.read_parquet(file) for file in tmp_path.glob("*.parquet")}
    assert len(made) == 13 and made["train"][MEAN].notna().mean() > 0.8 and made["train"][MEAN].nunique() > 20
    for name, inputs in made.items():
        pd.testing.assert_frame_equal(inputs, made["train"], rtol=1e-12, obj=name)


MOMENTS: dict[str, tuple[Any, str]] = {
    "while the data is made": (retrain, "labelled"),
    "before the version is noted": (retrain.triggers, "note"),
    "before the gates": (gate, "judge_version"),
    "while they judge": (gate, "keep_report"),
    "before the release": (releasing, "move"),
    "before the end": (retrain, "finish"),
}


@pytest.mark.practice("gated-retraining", "uninterrupted-e2e")
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_run_again_it_comes_to_one_new_version(
    project: Path, lenient: None, run: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    place, name = MOMENTS[moment]
    working = getattr(place, name)
    with monkeypatch.context() as patch:

        def kill(*words: Any, **facts: Any) -> Any:
            if name == "note" and "version" not in facts:
                return working(*words, **facts)
            patch.undo()
            raise KeyboardInterrupt

        patch.setattr(place, name, kill)
        run("retrain", "--reason", "to try", exit_code=130)
    Path(".dvc/tmp/rwlock").write_text('{"write": {"x')  # a kill while DVC wrote it
    served(read_month(N_TRAINED + 1), start=100_000)  # labels that come meanwhile are for the next
    assert "version 2, promoted" in run("retrain", "--if-triggered")
    assert (versions(), in_use()) == (["1", "2"], "2")
    [one] = run("retrain", "--history", "--json")
    assert (one["outcome"], one["why"]) == ("promoted", "by_hand: to try")
    assert run("audit", "verify")


@pytest.mark.practice("trigger-policy")
def test_what_must_hold_first_uses_up_no_try(project: Path, lenient: None, run: Any, git: Any) -> None:
    change(git, tries=2)
    Path("conf/notes.yml").write_text("a: 1\n")
    for _ in range(4):
        assert "uncommitted changes" in run("retrain", "--reason", "to try", exit_code=1)
    Path("conf/notes.yml").unlink()
    with files.locked(Path("environments/test/.lock")):
        for _ in range(3):
            assert "another process" in run("retrain", "--if-triggered", exit_code=1)
    assert "version 2, promoted" in run("retrain", "--if-triggered")


@pytest.mark.practice("trigger-policy")
def test_one_that_errors_stop_again_and_again_fails_with_exit_code_1(
    project: Path, run: Any, git: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(git, tries=2)

    def stop(*_: Any) -> None:
        raise ProjectError("the source is away")

    monkeypatch.setattr(retrain, "train_version", stop)
    for _ in range(2):
        assert "the source is away" in run("retrain", "--reason", "to try", exit_code=1)
    assert "failed: stopped by an error 2 times" in run("retrain", "--if-triggered", exit_code=1)
    assert [one["outcome"] for one in run("retrain", "--history", "--json")] == ["failed"]
    assert len(list(triggers.ISSUES.glob("*.md"))) == 1


@pytest.mark.practice("trigger-policy")
def test_of_two_started_at_once_one_trains(project: Path, run: Any) -> None:
    with files.locked(store.read(FLIGHTS).home / ".retraining.lock"):
        assert "another process is retraining" in run("retrain", "--if-triggered")
        assert "another process" in run("retrain", "--reason", "now", exit_code=1)
    held = "import time; from flight_delays.__main__ import PROJECT\n"
    held += "from mlops_ladder.core import files; from mlops_ladder.data import store\n"
    held += "lock = store.read(PROJECT).home / '.retraining.lock'\n"
    held += "with files.locked(lock): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert "another process is retraining" in run("retrain", "--if-triggered")
        other.kill()  # SIGKILL: it lets nothing go by itself
        other.wait()
        assert "needs --reason" not in run("retrain", "--history") and versions() == ["1"]
    with files.locked(store.read(FLIGHTS).home / ".retraining.lock"):
        pass


@pytest.mark.practice("frequent-model-updates")
def test_three_months_make_three_versions_one_after_the_other(project: Path, lenient: None, run: Any, git: Any) -> None:
    change(git, cooldown_h=0)
    trained_before = [run_of("1").data.params["trained_before"]]
    for number in range(1, 4):
        told = run("retrain", "--if-triggered", "--json")
        assert (told["outcome"], told["version"], in_use()) == ("promoted", str(number + 1), str(number + 1))
        trained_before.append(run_of(told["version"]).data.params["trained_before"])
        served(read_month(N_TRAINED + number), start=number * 100_000)
    assert trained_before == sorted(set(trained_before)), "each learned from newer rows than the one before"


@pytest.mark.practice("uninterrupted-e2e")
@pytest.mark.parametrize("place", ["here", "in the image, which has no uv"])
def test_one_session_turns_the_loop_once(tmp_path: Path, place: str) -> None:
    package = tmp_path / "src/flight_delays"
    package.mkdir(parents=True)
    (package / "__main__.py").touch()
    shutil.copy(PROJECT / "nox_loop.py", tmp_path)
    stand_in = tmp_path / "bin/stand-in"  # it writes down what it is asked to do; a signal fired, an experiment runs
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        'case "$*" in monitor) exit 3 ;; *status*) echo \'[{"ended": null}]\' ;; notify*) exit 3 ;; esac\n'
    )
    stand_in.chmod(0o755)
    if place == "here":
        uv = stand_in.with_name("uv")
        uv.write_text(f'#!/bin/sh\nshift 4\nexec {stand_in} "$@"\n')
        uv.chmod(0o755)
    else:
        run_it = f"import os, sys\nos.execv({str(stand_in)!r}, [{str(stand_in)!r}, *sys.argv[1:]])\n"
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(run_it)
    command = [sys.executable, "-m", "nox", "--default-venv-backend", "none", "-f", "nox_loop.py", "-s", "loop"]
    around = {"PATH": str(stand_in.parent), "PYTHONPATH": python_path(package.parent), "REASON": "why"}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | around, check=False)
    steps = ["notify forget --queued", "retention", "monitor", "experiment status --json"]
    steps += ["notify experiment step", "notify retrain --reason why"]
    assert (tmp_path / "asked").read_text().splitlines()[-6:] == steps  # nox asks uv for its version before
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$*" in *status*) exit 1 ;; esac\n')
    lost = subprocess.run(command, cwd=tmp_path, env=os.environ | around, check=False)
    last = (tmp_path / "asked").read_text().splitlines()[-1]
    assert (lost.returncode, last) == (1, "experiment status --json"), "an experiment that cannot be seen is not none"
    assert done.returncode == 3, "what a gate refused turns the session red, and a job on a cluster is not run again"


@pytest.mark.practice("trigger-policy")
def test_of_a_file_that_was_corrected_the_rows_that_are_new_count(project: Path, run: Any) -> None:
    options: Any = SimpleNamespace(alert=[], as_of=None)
    new_rows = lambda: retrain.look(FLIGHTS, triggers.database(FLIGHTS), triggers.read(FLIGHTS), options).new_rows
    before, [file, other, *_] = new_rows(), sorted((project / "data/sample").iterdir())
    rows, key = pd.read_parquet(file), pd.read_parquet(other)[data.KEY][0]
    pd.concat([rows, rows.tail(1).assign(**{data.KEY: key})]).to_parquet(file, index=False)
    run("ingest", "--accept-changed")
    assert new_rows() == before + 1


@pytest.mark.practice("trigger-policy")
def test_what_was_learned_already_is_not_learned_again(project: Path, lenient: None, run: Any) -> None:
    run("retrain", "--if-triggered")
    assert "no trigger fired" in run("retrain", "--if-triggered")
    assert "0 labelled rows are new" in run("retrain", "--reason", "again", exit_code=3)
    assert versions() == ["1", "2"]


@pytest.mark.practice("gated-retraining")
def test_sign_off_is_asked_for_when_the_policy_says_so(project: Path, lenient: None, run: Any, git: Any) -> None:
    change(git, sign_off="required")
    assert "waits: `approve 2" in run("retrain", "--if-triggered")
    assert "waits: `approve 2" in run("retrain", "--if-triggered") and in_use() == "1"
    assert len([*triggers.ISSUES.glob("*.md")]) == 1
    git("config", "user.email", "lin@example.org")
    run("approve", "2", "--reason", "reviewed")
    assert "version 2, promoted" in run("retrain", "--if-triggered")
    assert in_use() == "2"


@pytest.mark.practice("gated-retraining")
@pytest.mark.parametrize(("shift", "waits"), [(1.0 if data.PROBLEM == "classification" else 1e3, False), (0.0, True)])
def test_the_policy_signs_off_what_is_no_risk(
    project: Path, lenient: None, run: Any, git: Any, shift: float, waits: bool
) -> None:
    change(git, sign_off="on_risk", risk={"mean_shift": shift, "fewer_rows": 0.5}, release="direct")
    assert ("waits: `approve 2" in run("retrain", "--if-triggered")) == waits
    assert in_use() == ("1" if waits else "2")


@pytest.mark.practice("gated-retraining")
def test_it_waits_for_an_experiment_that_somebody_began_meanwhile(
    project: Path, lenient: None, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, client = environments.open_store(FLIGHTS, "prod")
    there = environments.find_copy(client, chosen.model)

    def judge(*_: Any) -> list[Finding]:
        client.set_registered_model_alias(chosen.model, "challenger", there.version)
        return [Finding(name, "it", True, "", "") for name in gate_names(FLIGHTS)]

    monkeypatch.setattr(gate, "run_gates", judge)
    for _ in range(4):  # more often than a retraining may fail
        assert "waits: version 1 is on trial first" in run("retrain", "--if-triggered")
    client.delete_registered_model_alias(chosen.model, "challenger")
    assert "version 2, promoted" in run("retrain", "--if-triggered")


@pytest.mark.practice("trigger-policy", "audit-trail")
def test_when_it_does_not_help_people_are_asked_once(project: Path, run: Any, git: Any) -> None:
    change(git, cooldown_h=0, give_up_after=1)
    engine = triggers.database(FLIGHTS)
    facts = {"began": "2026-01-01T00:00:00", "until": "2026-01-01T00:00:00", "triggers": '["decay: x"]', "why": "decay"}
    triggers.begin(engine, **facts, before="1", outcome="refused", result="worse")
    assert "asks data-scientist" in run("retrain", "--if-triggered", exit_code=3)
    [issue] = triggers.ISSUES.glob("*.md")
    assert "does not help version 1" in issue.read_text() and "new_data" in issue.read_text()
    assert "not retrained although new_data fired" in run("retrain", "--if-triggered")
    assert len([*triggers.ISSUES.glob("*.md")]) == 1 and versions() == ["1"]
    assert [one["action"] for one in run("audit", "show", "--json")][-2:] == ["decline"] * 2


@pytest.mark.practice("gated-retraining")
def test_what_passed_is_handed_to_an_experiment_and_its_end_is_noted(
    project: Path, lenient: None, run: Any, git: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []

    def tried(_: Project, __: str) -> list[dict[str, str]]:
        return [{"challenger": one[0], "reason": one[3], "why": "bad"} for one in started]

    def start(_: Project, *words: str) -> None:
        started.append(words)
        raise KeyboardInterrupt

    stand_in = SimpleNamespace(start=start, status=tried)
    monkeypatch.setattr(retrain, "experiment", stand_in)
    change(git, release="canary", cooldown_h=0)
    run("retrain", "--if-triggered", exit_code=130)
    assert "version 2, on trial" in run("retrain", "--if-triggered")  # once, although it was killed and is stopped
    assert [one[:3] for one in started] == [("2", "canary", "prod")] and in_use() == "1"
    assert "no trigger fired" in run("retrain", "--if-triggered")
    [one] = run("retrain", "--history", "--json")
    assert (one["outcome"], one["result"]) == ("aborted", "its experiment ended, version 1 stays in use: bad")
    [issue] = triggers.ISSUES.glob("*.md")
    assert "docs/runbook.md#retraining" in issue.read_text()


def test_uncommitted_changes_and_a_word_too_many_are_named(project: Path, run: Any) -> None:
    Path("src/flight_delays/new.py").write_text("")
    assert "uncommitted changes" in run("retrain", "--reason", "now", exit_code=1)
    assert "--if-triggered or --reason" in run("retrain", exit_code=2)
    assert "--if-triggered or --reason" in run("retrain", "--if-triggered", "--drop", exit_code=2)
    assert "dropped by hand: no" in run("retrain", "--drop", "--reason", "no", exit_code=3)
    assert in_use() == "1"


@pytest.mark.practice("gated-retraining")
def test_a_gate_that_did_not_judge_is_a_refusal(project: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judging = set(gate_names(FLIGHTS)) - {"quality", "stable"}
    monkeypatch.setattr(gate, "run_gates", lambda *_: [Finding(one, "it", True, "", "") for one in judging])
    said = run("retrain", "--if-triggered", exit_code=3)
    assert "is refused by quality, stable;" in said
    assert in_use() == "1"
