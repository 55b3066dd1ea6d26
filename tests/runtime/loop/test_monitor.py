"""Monitoring: what was planted is found and named first, what is the same is left alone, and every signal is measured."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
import yaml
from flight_delays import data, features, model
from flight_delays.__main__ import main
from mlops_ladder.core import settings
from mlops_ladder.data.rows import as_records
from mlops_ladder.loop import drift, feedback, monitor, prediction_log, references, signals
from mlops_ladder.release.judgement import Candidate
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT

PROJECT = ROOT
UNTIL = datetime(2013, 4, 10)
WINDOW = ("--since", "2013-04-08", "--until", "2013-04-10")
NUMBER = next(name for name in features.COLUMNS if data.SCHEMA.get(name, {}).get("type") == "number")
Run = Callable[..., Any]
Change = Callable[[pd.DataFrame], None]


@pytest.fixture(scope="module")
def watched(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A project with a version in use, and rows like those it was trained on, with `prediction` and `label`."""
    folder = tmp_path_factory.mktemp("watched") / "project"
    shutil.copytree(trained, folder)
    with contextlib.chdir(folder):
        assert main(["promote", "1", "--reason", "the first"]) == 0
        chosen, client = tracking.open_store(FLIGHTS)
        candidate = Candidate(FLIGHTS, client, chosen.model, "1")
        references.read(FLIGHTS, client, chosen.model, "1")
        parts = [(candidate.splits["train"], 3000), (candidate.rows, 1000)]
        rows = pd.concat([part.sample(n, replace=len(part) < n, random_state=0) for part, n in parts])
        rows = rows.reset_index(drop=True)
        rows["prediction"], rows["label"] = candidate.predict(rows), rows[data.TARGET].astype("float64")
    return folder, rows


@pytest.fixture
def live(watched: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Log the rows of `watched` as predictions of the last day, in a project of the test's own: `live(change=...)`."""
    folder = tmp_path / "project"
    shutil.copytree(watched[0], folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def log(change: Change | None = None, labelled: bool = True, version: str = "1", failures: int = 0) -> None:
        rows = watched[1].copy()
        if change:
            change(rows)
        store, inputs = prediction_log.open_log(FLIGHTS), as_records(rows[list(data.SCHEMA)].drop(columns=data.TARGET))
        moments = [UNTIL - timedelta(days=1) + timedelta(seconds=20 * i) for i in range(len(rows))]
        store.write(
            [
                {"request_id": f"r{i}", "at": moments[i], "version": version, "prediction": float(rows["prediction"][i]),
                 "seconds": 0.004, "inputs": inputs[i]}
                for i in range(len(rows))
            ],
            [{"at": moments[0], "version": version, "status": 500}] * failures,
        )  # fmt: skip
        if labelled:
            labels = (
                {
                    "request_id": f"r{i}",
                    "row": 0,
                    "label": float(rows["label"][i]),
                    "at": moments[i] + timedelta(hours=2),
                }
                for i in range(len(rows))
            )
            feedback.add_labels(store, labels, override=True)  # whatever they say of the predictions

    return log


def found(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [one for one in report["signals"] if one["name"] == name]


def fired(report: dict[str, Any]) -> set[str]:
    return {
        f"{one['name']} {one.get('column') or one.get('slice') or ''}".strip()
        for one in report["signals"]
        if one["fired"]
    }


@pytest.mark.practice(
    "monitoring-catalogue", "deployed-model-metrics", "registry-monitoring-integration", "inference-audit"
)
def test_every_signal_of_the_catalogue_is_measured_and_the_version_says_so(live: Any, run: Run) -> None:
    def settle(conf: dict[str, Any]) -> None:
        conf["label_delay_days"] = 0

    edit("conf/monitoring.yml", settle)
    live()
    code = main(["monitor", *WINDOW])
    [file] = Path("reports/monitoring").glob("*.json")
    report = json.loads(file.read_text())
    catalogue = settings.read(FLIGHTS, "monitoring", signals.Monitoring).signals
    measured = {one["name"] for one in report["signals"] if one["value"] is not None}
    assert measured == set(catalogue)
    assert code == (3 if fired(report) else 0)
    assert report["window"]["rows"] == report["window"]["labelled"] == 4000
    _, client = tracking.open_store(FLIGHTS)
    made = client.get_model_version(report["model"], "1")
    [decay] = found(report, "decay")
    assert float(made.tags[f"live_{model.PRIMARY}"]) == pytest.approx(decay["now"], rel=1e-4)
    assert made.tags["monitored_at"] == report["at"]
    assert client.get_run(made.run_id).data.metrics[f"live_{model.PRIMARY}"] == pytest.approx(decay["now"])
    page = file.with_suffix(".html").read_text()
    assert "<svg" in page and not re.search(r"""(src|href)=|url\(|<script|@import""", page)
    assert all(name in page for name in catalogue)


def edit(file: str, change: Callable[[dict[str, Any]], None]) -> None:
    conf = yaml.safe_load(Path(file).read_text())
    change(conf)
    Path(file).write_text(yaml.safe_dump(conf))


@pytest.mark.practice("data-drift-detection")
def test_a_mistyped_year_does_not_make_a_version_stale(live: Any) -> None:
    live(lambda rows: rows.__setitem__(data.TIME, rows[data.TIME].where(rows.index > 0, pd.Timestamp("2199-01-01"))))
    main(["monitor", *WINDOW])
    [file] = Path("reports/monitoring").glob("*.json")
    assert found(json.loads(file.read_text()), "staleness")[0]["value"] < 200


@pytest.mark.practice("data-drift-detection")
def test_what_is_never_logged_is_neither_watched_nor_told(live: Any) -> None:
    edit("conf/prediction_log.yml", lambda conf: conf["never_logged"].append(NUMBER))
    live()
    main(["monitor", *WINDOW])
    [file] = Path("reports/monitoring").glob("*.json")
    told = {one.get("column") for one in json.loads(file.read_text())["signals"]}
    assert data.SLICES[0] in told and NUMBER not in told


@pytest.mark.practice("data-drift-detection", "issue-analysis")
def test_a_planted_shift_is_found_refused_and_named_first(live: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def shift(rows: pd.DataFrame) -> None:
        rows[NUMBER] = rows[NUMBER] * 2.5 + 300

    live(shift)
    assert main(["monitor", *WINDOW, "--json"]) == 3
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert f"input_drift {NUMBER}" in fired(report)
    assert report["causes"][0]["what"] == f"column {NUMBER}"
    assert NUMBER in said.err and "docs/runbook.md#drift" in said.err and "data-scientist" in said.err


@pytest.mark.practice("performance-degradation-detection", "issue-analysis")
def test_a_planted_decay_is_found_and_its_slice_named_first(live: Any, capsys: pytest.CaptureFixture[str]) -> None:
    column = data.SLICES[0]

    def turn(rows: pd.DataFrame) -> None:
        turned.append(str(rows[column].value_counts().index[0]))
        there = rows[column] == turned[0]
        low, high = rows["label"].min(), rows["label"].max()
        rows.loc[there, "label"] = (rows["prediction"] < rows["prediction"].median()).map({True: high, False: low})

    turned: list[str] = []
    live(turn)
    assert main(["monitor", *WINDOW, "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    slice_ = f"{column} {turned[0]}"
    assert {"decay", f"slice_decay {slice_}"} <= fired(report)
    assert report["causes"][0]["what"] == f"slice {slice_}"
    others = [one for one in found(report, "slice_decay") if one["slice"] != slice_ and column in one["slice"]]
    assert others and not any(one["fired"] for one in others)


@pytest.mark.practice("delayed-labels")
def test_without_labels_performance_is_estimated_and_their_absence_fires(
    live: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    live(labelled=False, failures=100)
    assert main(["monitor", "--since", "2013-04-01", "--until", "2013-04-13", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    [decay], [expected], [labelled], [errors] = (
        found(report, name) for name in ("decay", "expected_decay", "labelled", "errors")
    )
    assert decay["value"] is None and not decay["fired"] and "0 labelled rows" in decay["why"]
    assert expected["low"] < expected["value"] < expected["high"]
    assert labelled["fired"] and labelled["value"] == 0
    assert errors["fired"] and errors["value"] == pytest.approx(100 / 4100)


def test_a_window_without_traffic_fires_and_is_not_taken_for_good_news(live: Any, run: Run) -> None:
    live(version="7")
    assert "volume" in run("monitor", "--since", "2013-01-01", "--until", "2013-01-02", exit_code=3)
    assert "not before" in run("monitor", "--since", "2013-01-02", "--until", "2013-01-02", exit_code=2)


@pytest.mark.practice("registry-monitoring-integration", "alerts")
def test_a_look_at_the_past_is_not_the_newest_report(live: Any) -> None:
    def told() -> tuple[int, Path, dict[str, str]]:
        chosen, client = tracking.open_store(FLIGHTS)
        files = [*Path("reports/monitoring").glob("*.json")]
        return len(files), max(files), tracking.find_version(client, chosen.model, "1").tags

    live()
    main(["monitor", *WINDOW])
    _, *newest = told()
    main(["monitor", "--since", "2013-01-01", "--until", "2013-01-02"])
    assert told() == (2, *newest)
    main(["monitor", "--until", "2999-01-01"])
    assert json.loads(told()[1].read_text())["window"]["until"] < str(datetime(2999, 1, 1))


def test_the_version_in_use_is_that_of_the_environment_that_is_retrained(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    edit("conf/retraining.yml", lambda conf: conf.update(environment="test"))
    monkeypatch.setattr(monitor, "in_use", lambda project, environment: asked.append(environment))
    live()
    main(["monitor", *WINDOW])
    assert asked == ["test"]


@pytest.fixture(scope="module")
def halves(
    watched: tuple[Path, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> tuple[references.Reference, pl.DataFrame, signals.Monitoring]:
    """A reference made of half of the rows, picked at random, and the other half as live rows: nothing has changed."""
    with contextlib.chdir(watched[0]):
        chosen, client = tracking.open_store(FLIGHTS)
        candidate = Candidate(FLIGHTS, client, chosen.model, "1")
        conf = settings.read(FLIGHTS, "monitoring", signals.Monitoring).model_copy(update={"resamples": 10})
        rows = references.as_table(candidate, watched[1]).with_columns(
            prediction=pl.Series(watched[1]["prediction"]), label=pl.Series(watched[1]["label"])
        )
    rows = rows.sample(fraction=1, shuffle=True, seed=0)
    here, there = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    inputs = here.drop("prediction", "label")
    known = references.Reference(
        "1",
        UNTIL,
        drift.Profile.of(lambda: iter([inputs])),
        drift.Column.of(here["prediction"]),
        here,
        dict.fromkeys(inputs.columns, 0.1),
        tmp_path_factory.mktemp("reference") / "measured.json",
    )
    known.predictions.add(here["prediction"])
    return known, there, conf


def see(reference: references.Reference, rows: pl.DataFrame, chunk_rows: int) -> signals.Seen:
    seen = signals.Seen(FLIGHTS, reference, UNTIL - timedelta(days=1), UNTIL, UNTIL)
    logged = rows.with_columns(
        pl.lit(True).alias("answered"), pl.lit(UNTIL - timedelta(hours=1)).alias("at"), pl.lit(0).alias("row"),
        pl.lit(0.01).alias("seconds"), pl.lit("1").alias("version"),
    )  # fmt: skip
    for chunk in logged.iter_slices(chunk_rows):
        seen.add(chunk)
    return seen


@pytest.mark.practice("data-drift-detection")
def test_rows_sent_without_their_time_are_of_the_moment_they_were_asked_about(halves: Any) -> None:
    reference, pool, _ = halves
    timeless = pool.with_columns(pl.lit(None, pl.Datetime("us")).alias(data.TIME))
    assert see(reference, timeless, len(pool)).newest == UNTIL - timedelta(hours=1)


@pytest.mark.practice("data-drift-detection")
def test_what_callers_send_under_a_name_of_the_log_is_not_taken_for_the_logs_own(
    halves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, pool, conf = halves
    before = {name for name, *_ in signals.slices(see(reference, pool, len(pool)), conf)}
    column = data.SLICES[0]
    names = {NUMBER: "seconds", column: "version"}
    for old, new in names.items():
        monkeypatch.setitem(data.SCHEMA, new, data.SCHEMA[old])
    monkeypatch.setattr(data, "SLICES", [names.get(name, name) for name in data.SLICES])
    inputs = drift.Profile({names.get(name, name): column for name, column in reference.inputs.items()})
    theirs = replace(reference, inputs=inputs, held_out=reference.held_out.rename(names))
    seen = see(theirs, pool.rename({old: f"input_{new}" for old, new in names.items()}), len(pool))
    assert seen.n_truths == len(pool)
    assert not any(one["drifted"] for one in inputs.compare(seen.inputs).values())
    assert {name.replace("version", column) for name, *_ in signals.slices(seen, conf)} == before


@pytest.mark.practice("data-drift-detection")
def test_what_has_not_changed_seldom_fires(
    halves: Any, watched: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, pool, conf = halves
    monkeypatch.chdir(watched[0])
    alarms = []
    for window in range(8):
        seen = see(reference, pool.sample(1500, seed=window), 1500)
        for name, of in conf.signals.items():
            if of.source not in (
                "age",
                "rows",
                "groups",
            ):  # of the calendar, the traffic and of the model: not of change
                alarms += [(window, one) for one in signals.evaluate(name, of, seen, conf) if one["fired"]]
    assert len({window for window, _ in alarms}) <= 1, [
        (one["name"], one.get("column") or one.get("slice"), one["value"]) for _, one in alarms
    ]


@pytest.mark.practice("fast-metric-pipeline")
def test_what_is_measured_does_not_depend_on_how_the_rows_arrive(
    halves: Any, watched: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, pool, conf = halves
    monkeypatch.chdir(watched[0])

    def told(chunk_rows: int) -> list[dict[str, Any]]:
        seen = see(reference, pool, chunk_rows)
        return [one for name, of in conf.signals.items() for one in signals.evaluate(name, of, seen, conf)]

    assert told(len(pool)) == told(117)


@pytest.mark.practice("fast-metric-pipeline")
def test_of_more_rows_than_are_kept_each_is_as_likely_to_be(halves: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, pool, _ = halves
    monkeypatch.setattr(signals, "N_KEPT", 200)
    rows = pool.with_columns(chunk=pl.int_range(len(pool)) // 200)  # ten
    seen = see(reference, rows, 200)
    assert (seen.n_rows, seen.n_truths, len(seen.any), len(seen.labelled)) == (len(pool), len(pool), 200, 200)
    assert seen.labelled["chunk"].value_counts()["count"].is_between(5, 45).all(), "20 of each, give or take"


@pytest.mark.practice("alerts", "markers", "operational-ownership")
def test_every_signal_has_an_owner_a_runbook_and_an_action() -> None:
    roles = yaml.safe_load((PROJECT / "conf/roles.yml").read_text())["roles"]
    runbook = (PROJECT / "docs/runbook.md").read_text(encoding="utf-8")
    anchors = {
        line.removeprefix("## ").strip().lower().replace(" ", "-")
        for line in runbook.splitlines()
        if line.startswith("## ")
    }
    with contextlib.chdir(PROJECT):
        catalogue = settings.read(FLIGHTS, "monitoring", signals.Monitoring).signals
    rules = yaml.safe_load((PROJECT / "deploy/monitoring/rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    for name, of in catalogue.items():
        assert of.owner in roles, name
        assert of.runbook.partition("#")[2] in anchors, name
        assert of.source in signals.MEASURES, name
    for alert in alerts:
        if "monitoring_fired" not in alert["expr"]:  # that one says who and what with its metric's labels
            assert alert["labels"]["owner"] in roles, alert["alert"]
            assert alert["annotations"]["runbook"].partition("#")[2] in anchors, alert["alert"]
    for name, limit in (("latency", catalogue["latency"]), ("errors", catalogue["errors"])):
        [rule] = [one for one in alerts if one["annotations"].get("signal") == name]
        assert float(rule["expr"].split(">")[-1]) == limit.threshold, "conf/monitoring.yml and rules.yml disagree"
