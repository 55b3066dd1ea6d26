"""Several classes at level 4: what is logged, labelled, watched, compared and learned from, and what is refused."""

import asyncio
import shutil
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pydantic
import pytest
import yaml
from irises import SPECIES, changed, flowers, irises
from mlops_ladder import Project
from mlops_ladder.core import commands
from mlops_ladder.data.problem import number_of, problem_of
from mlops_ladder.data.rows import as_records
from mlops_ladder.loop import dashboard, experiment, feedback, monitor, prediction_log, references, retrain, signals
from mlops_ladder.loop.service.feedback import labels_of
from mlops_ladder.loop.service.log_predictions import logged
from mlops_ladder.release.gates import fairness
from mlops_ladder.serving.servable import resolve
from mlops_ladder.training import tracking

UNTIL = datetime(2024, 2, 10)
THRESHOLDS = {"decay": 0.3, "slice_decay": 0.3, "expected_decay": 0.3, "calibration": 0.15, "fairness_bias": 0.2}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The irises, version 1 the champion. Read it, never write to it."""
    project = irises(tmp_path_factory.mktemp("loop") / "irises")
    conf = yaml.safe_load(project.path("conf/monitoring.yml").read_text(encoding="utf-8"))
    for name, threshold in THRESHOLDS.items():
        conf["signals"][name]["threshold"] = threshold
    changed(project.folder, "monitoring", rows=50, label_delay_days=0, signals=conf["signals"])
    tracking.library()
    assert commands.main(project, ["train"]) == 0
    _, client = tracking.open_store(project)
    client.set_registered_model_alias("irises", "champion", "1")
    return project


@pytest.fixture
def project(released: Project, tmp_path: Path) -> Project:
    """A copy of `released` of the test's own."""
    folder = shutil.copytree(released.folder, tmp_path / "irises")
    return Project("irises", folder / "src/irises", folder, released.modules)


def ask(project: Project, rows: pd.DataFrame, at: datetime = UNTIL - timedelta(days=1)) -> list[dict[str, Any]]:
    """Log what version 1 answers to ROWS, a request each, as the service does; return the answers."""
    servable, log = resolve(project, "models:/irises/1"), prediction_log.open_log(project)
    sent = as_records(rows[[name for name in project.data.SCHEMA if name != "species"]])
    answers = [asyncio.run(servable.answer([row | {"seen": pd.Timestamp(row["seen"])}])) for row in sent]
    log.write(
        {"request_id": f"r{n}", "at": at + timedelta(seconds=n), "version": "1", "seconds": 0.004, "inputs": row}
        | logged(answer)[0]
        for n, (row, answer) in enumerate(zip(sent, answers, strict=True))
    )
    return answers


def label(project: Project, rows: pd.DataFrame, at: datetime = UNTIL) -> None:
    given = [
        {"key": key, "label": species, "at": at} for key, species in zip(rows["flower"], rows["species"], strict=True)
    ]
    feedback.add_labels(prediction_log.open_log(project), given, override=True)


def watch(project: Project) -> dict[str, list[dict[str, Any]]]:
    """Return what `monitor` measures, by signal."""
    report = monitor.measure(project, since=UNTIL - timedelta(days=2), until=UNTIL)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in report["signals"]:
        found.setdefault(one["name"], []).append(one)
    return found


def test_the_log_keeps_the_probabilities_and_gives_label_and_truth_as_places_among_the_classes(
    project: Project,
) -> None:
    rows = flowers().tail(20)
    answers = ask(project, rows)
    label(project, rows)
    [frame] = prediction_log.open_log(project).frames()
    classes = problem_of(project).classes
    assert [classes[int(at)] for at in frame["prediction"]] == [answer["predictions"][0] for answer in answers]
    assert [classes[int(at)] for at in frame["label"]] == rows["species"].to_list()
    expected = [list(answer["probabilities"][0].values()) for answer in answers]
    assert references.predicted(project, frame) == pytest.approx(np.array(expected))


def test_a_label_stays_what_it_is_when_a_class_is_added(project: Project) -> None:
    rows = flowers().tail(5)
    ask(project, rows)
    label(project, rows)
    rule = project.data.SCHEMA["species"]
    try:
        rule["values"] = ["argentea", *rule["values"]]
        [frame] = prediction_log.open_log(project).frames()
        classes = problem_of(project).classes
        assert classes[0] == "argentea"
        assert [classes[int(at)] for at in frame["label"]] == rows["species"].to_list()
        assert references.predicted(project, frame)[:, 0].max() == 0
    finally:
        rule["values"] = SPECIES


def test_a_log_of_before_takes_several_classes(project: Project) -> None:
    log = prediction_log.open_log(project)
    log.status()
    with sqlite3.connect(project.path("data/predictions.db")) as base:
        base.execute("ALTER TABLE predictions DROP COLUMN probabilities")
    ask(project, flowers().tail(3))
    [frame] = prediction_log.open_log(project).frames()
    assert len(frame) == 3 and frame["probability_0"].null_count() == 0


def test_labels_of_a_file_are_joined_and_an_unknown_one_is_refused_by_name(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = flowers().tail(20)
    ask(project, rows)
    file = project.folder / "labels.csv"
    rows[["flower", "species"]].to_csv(file, index=False)
    assert commands.main(project, ["feedback", str(file)]) == 0
    assert "20 added" in capsys.readouterr().out
    rows.tail(1)[["flower"]].assign(species="mystery").to_csv(file, index=False)
    assert commands.main(project, ["feedback", str(file)]) == 3
    assert "1 labels are no species that SCHEMA in data.py allows (mystery)" in capsys.readouterr().err


def test_feedback_over_http_takes_a_class_and_refuses_another_by_name(project: Project) -> None:
    adapter = pydantic.TypeAdapter(list[labels_of(problem_of(project))])
    assert adapter.validate_python([{"key": "f1", "label": "setosa"}])[0].label == "setosa"
    with pytest.raises(pydantic.ValidationError, match="'mystery' is none of setosa, versicolor, virginica"):
        adapter.validate_python([{"key": "f1", "label": "mystery"}])


def test_labels_that_contradict_the_predictions_are_not_believed(project: Project) -> None:
    rows = flowers().tail(60)
    ask(project, rows)
    turned = {"setosa": "versicolor", "versicolor": "virginica", "virginica": "setosa"}
    given = [{"key": key, "label": turned[one]} for key, one in zip(rows["flower"], rows["species"], strict=True)]
    with pytest.raises(feedback.Disbelieved, match="the opposite of the predictions"):
        feedback.add_labels(prediction_log.open_log(project), given)


def test_monitoring_is_calm_on_rows_like_those_learned_from(project: Project) -> None:
    rows = flowers().tail(300)
    ask(project, rows)
    label(project, rows)
    found = watch(project)
    quiet = ("prediction_drift", "decay", "slice_decay", "expected_decay", "calibration", "fairness_bias")
    assert [one for name in quiet for one in found[name] if one["fired"] or one["value"] is None] == []
    assert {one["slice"] for one in found["fairness_bias"]} == {f"site, {name}" for name in SPECIES}
    assert set(found["prediction_drift"][0]["bins"]) == set(SPECIES)


def test_of_few_held_out_rows_only_the_nearest_tell_what_to_expect() -> None:
    assert [signals.reach(pl.DataFrame({"row": range(n)})) for n in (10, 86, 1_000, 50_000)] == [1, 2, 25, 25]
    sure = np.repeat(np.eye(3), (17, 30, 39), axis=0) * 0.9 + 0.03  # each class is told apart with ease
    twins = signals.alike(sure, sure, signals.reach(pl.DataFrame({"row": range(86)})), np.random.default_rng(0))
    assert (sure[twins].argmax(axis=1) == sure.argmax(axis=1)).all()


def test_a_rate_that_one_group_alone_has_rows_for_is_no_difference() -> None:
    rows = pl.DataFrame({"label": [1.0, 0.0, 0.0, 0.0], "prediction": [1.0, 0.0, 0.0, 0.0], "group": [0, 0, 1, 1]})
    measured = {name: signals.furthest(measure, rows) for name, measure in fairness.measures(0.5).items()}
    assert np.isnan(measured["true_positive_rate"]) and measured["false_positive_rate"] == 0
    assert measured["selection_rate"] == 0.5


def test_monitoring_sees_another_mix_of_predictions_and_labels_that_have_changed(project: Project) -> None:
    rows = flowers()
    rows = rows[rows["species"] != "setosa"].tail(300)
    ask(project, rows)
    label(project, rows.assign(species=rows["species"].to_numpy()[::-1]))
    found = watch(project)
    assert found["prediction_drift"][0]["fired"]
    assert found["decay"][0]["fired"] and found["decay"][0]["metric"] == "log_loss"
    assert found["calibration"][0]["fired"]


def test_the_dashboard_draws_the_log_loss_of_a_day(project: Project) -> None:
    rows = flowers().tail(20)
    ask(project, rows)
    label(project, rows)
    [day] = dashboard.by_day(project, prediction_log.open_log(project), UNTIL - timedelta(days=2), UNTIL)
    [frame] = prediction_log.open_log(project).frames()
    assert day["loss"] == pytest.approx(references.losses(project, frame).mean()) and 0 < day["loss"] < 1
    assert dashboard.loss_name(project) == "log loss"


def test_an_experiment_tells_the_better_of_two_versions_by_its_probabilities(project: Project) -> None:
    chance = np.random.default_rng(0)
    truth = chance.integers(3, size=600)
    sure, unsure = (np.where(np.eye(3)[truth] == 1, high, (1 - high) / 2) for high in (0.8, 0.5))
    group = chance.integers(40, size=600)
    noise = chance.uniform(0.9, 1.1, size=(2, 600, 3))
    ours, theirs = (
        each * some / (each * some).sum(1, keepdims=True) for each, some in zip((sure, unsure), noise, strict=True)
    )
    arms = [np.column_stack([each, truth, group]) for each in (ours, theirs)]
    gain, error = experiment.compare(project, "log_loss", *arms) or (0.0, 0.0)
    assert gain == pytest.approx(np.log(0.8 / 0.5), abs=0.1) and gain > 5 * error
    assert experiment.compare(project, "log_loss", arms[0][:5], arms[1]) is None


def test_the_arms_of_an_experiment_carry_a_probability_a_class(project: Project) -> None:
    rows = flowers().tail(30)
    ask(project, rows)
    label(project, rows)
    [frame] = prediction_log.open_log(project).frames()
    names = problem_of(project).columns
    assert frame.select(pl.col(*names, "label").cast(pl.Float64)).to_numpy().shape == (30, len(SPECIES) + 1)


def test_retraining_learns_from_the_names_of_the_classes(project: Project) -> None:
    rows = flowers().tail(20)
    ask(project, rows)
    label(project, rows)
    learned = retrain.labelled(project, UNTIL + timedelta(days=1)).set_index("flower")
    assert learned["species"].to_dict() == rows.set_index("flower")["species"].to_dict()


def test_a_class_is_stored_by_a_number_of_its_own() -> None:
    assert len({number_of(name) for name in [*SPECIES, "argentea", "1", "01"]}) == 6
