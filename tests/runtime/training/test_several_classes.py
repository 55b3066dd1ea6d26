"""Several classes up to level 2: what is trained, measured, registered, scored and answered, and what is refused."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from irises import SPECIES, changed, flowers, irises, module
from mlops_ladder import Project
from mlops_ladder.core import commands
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.data.problem import problem_of
from mlops_ladder.serving.servable import resolve
from mlops_ladder.training import handoff, stages, tracking

COLUMNS = ["iris", "iris_setosa", "iris_versicolor", "iris_virginica"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The irises, trained once: version 1. Read it, never write to it."""
    project = irises(tmp_path_factory.mktemp("several") / "irises")
    tracking.library()  # so that validation runs in this process, which has the modules
    assert commands.main(project, ["train", "--report", str(project.folder / "report.md")]) == 0
    return project


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    tracking.library()
    return irises(tmp_path / "irises")


def refusal(project: Project, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line with which a command fails."""
    capsys.readouterr()
    assert commands.main(project, [*words]) in (1, 3)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_training_tells_what_holds_over_all_classes_and_of_each(trained: Project) -> None:
    told = json.loads(trained.path("models/candidate/evaluation/metrics.json").read_text(encoding="utf-8"))
    assert told["metrics"]["test"]["log_loss"] < 0.3 < told["metrics"]["baseline"]["log_loss"]
    classes = told["classes"]
    assert classes["labels"] == SPECIES and set(classes["each"]) == set(SPECIES)
    assert classes["macro"]["log_loss"] == pytest.approx(told["metrics"]["test"]["log_loss"], rel=1e-6)
    assert 0.9 < classes["macro"]["macro_f1"] <= 1 and 0.95 < classes["macro"]["macro_roc_auc"] <= 1
    assert sum(map(sum, classes["confusion"])) == sum(one["rows"] for one in classes["each"].values()) == 150
    for name in ("confusion", "calibration", "importance"):
        assert trained.path(f"models/candidate/evaluation/{name}.png").is_file()
    report = trained.path("report.md").read_text(encoding="utf-8")
    assert "| versicolor |" in report and "macro_f1" in report


def test_the_run_tracks_the_metrics_of_each_class(trained: Project) -> None:
    chosen, client = tracking.open_store(trained)
    run = client.get_run(tracking.find_version(client, chosen.model, "1").run_id)
    assert {f"test_f1/{name}" for name in SPECIES} <= run.data.metrics.keys()


def test_a_registered_version_answers_label_and_probabilities(trained: Project) -> None:
    _, client = tracking.open_store(trained)
    rows = flowers().tail(20)
    answers = tracking.open_version(client, "irises", "1").predict(None, rows)
    assert list(answers) == COLUMNS
    assert answers[COLUMNS[1:]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert (answers["iris"].to_numpy() == rows["species"].to_numpy()).mean() > 0.85


def test_predict_answers_the_label_and_a_probability_a_class(trained: Project) -> None:
    servable = resolve(trained, "models:/irises/1")
    row = servable.example_row()
    answer: dict[str, Any] = asyncio.run(servable.answer([row, row]))
    assert answer["output"] == "iris" and answer["model_version"] == "1"
    assert answer["predictions"][0] in SPECIES and len(answer["predictions"]) == 2
    assert list(answer["probabilities"][0]) == COLUMNS[1:]
    likeliest = max(answer["probabilities"][0], key=answer["probabilities"][0].__getitem__)
    assert likeliest == f"iris_{answer['predictions'][0]}"
    assert sum(answer["probabilities"][1].values()) == pytest.approx(1)


def test_score_adds_label_and_probabilities_and_check_handoff_passes(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(fresh, ["ingest"]) == 0
    rows = stages.data_sets.read(fresh, fresh.folder / "data/sample")
    train, later = rows.iloc[:450], rows.iloc[450:]
    fitted = fresh.model.make().fit(fresh.features.build(train), train["species"])
    note = handoff.hand_over(fresh, fitted, train, later)
    assert "`iris_setosa`" in note.read_text(encoding="utf-8")
    scored = fresh.folder / "scored.csv"
    later.to_parquet(fresh.folder / "later.parquet")
    file = fresh.path(handoff.MODEL_FILE)
    words = ["score", str(fresh.folder / "later.parquet"), "--model", str(file), "--output", str(scored)]
    assert commands.main(fresh, words) == 0
    found = pd.read_csv(scored)
    assert list(found)[-4:] == COLUMNS and set(found["iris"]) <= set(SPECIES)
    code = commands.main(fresh, ["check-handoff", str(file)])
    assert code == 0, capsys.readouterr()


def test_tune_and_promote_work_and_the_champion_is_measured(fresh: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(fresh, ["tune", "--trials", "2"]) == 0
    assert commands.main(fresh, ["promote", "1", "--reason", "the first"]) == 0
    capsys.readouterr()
    assert commands.main(fresh, ["train", "--json", "--set", "parameters.C=0.5"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["version"] == "2" and told["champion"]["version"] == "1"
    assert told["champion"]["metrics"].keys() == {"log_loss", "accuracy"}


def test_another_problem_is_refused_at_once_in_a_line_that_names_the_three(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh.data.PROBLEM = "ranking"
    for words in (["train"], ["validate"], ["tune"]):
        said = refusal(fresh, capsys, *words)
        assert "PROBLEM in data.py is 'ranking', must be one of classification, multiclass, regression" in said


def test_a_target_without_listed_labels_is_refused(fresh: Project, capsys: pytest.CaptureFixture[str]) -> None:
    del fresh.data.SCHEMA["species"]["values"]
    assert "species is the target of several classes" in refusal(fresh, capsys, "train")


def test_a_class_that_a_split_lacks_names_the_keys_that_mend_it(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh.data.SCHEMA["species"]["values"].append("mystery")
    said = refusal(fresh, capsys, "train")
    assert "the train split" in said and "species is mystery" in said
    assert all(key in said for key in ("validation and test", "conf/training.yml", "SCHEMA (data.py)"))
    changed(fresh.folder, "training", validation=0.01, test=0.003)
    fresh.data.SCHEMA["species"]["values"].remove("mystery")
    assert "rows and none whose species is versicolor" in refusal(fresh, capsys, "train")


def test_predictions_of_another_shape_are_refused(fresh: Project, capsys: pytest.CaptureFixture[str]) -> None:
    text = (fresh.source / "model.py").read_text(encoding="utf-8")
    broken = text.replace("return model.predict_proba(inputs)", "return model.predict(inputs)")
    fresh = Project(
        "irises", fresh.source, fresh.folder, {**fresh.modules, "model": module(fresh.source, "model", broken)}
    )
    said = refusal(fresh, capsys, "train")
    assert (
        "predict in model.py gives shape" in said and "a probability for each of setosa, versicolor, virginica" in said
    )


def test_a_problem_needs_two_labels(fresh: Project) -> None:
    fresh.data.SCHEMA["species"]["values"] = ["setosa"]
    with pytest.raises(ProjectError, match="values, the labels that there are"):
        problem_of(fresh)
