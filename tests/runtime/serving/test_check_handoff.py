"""`check-handoff` lets a model through that keeps its note and the success criteria, and no other."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skops.io
import yaml
from flight_delays import features, model
from flight_delays.__main__ import main
from mlops_ladder.core import files
from mlops_ladder.data import rows
from mlops_ladder.serving.check_handoff import CHECKS
from mlops_ladder.training.success import Criterion, missed_criteria
from projects import FLIGHTS
from sklearn.preprocessing import FunctionTransformer

MODEL = Path("models/model.skops")
NOTE = Path("models/HANDOFF.md")
SUCCESS = Path("conf/success.yml")
LAST = features.COLUMNS[-1]


def edit_note(change: Callable[[dict[str, Any]], object]) -> None:
    facts = rows.read_note(MODEL)
    change(facts)
    NOTE.write_text(f"```json\n{json.dumps(facts)}\n```\n", encoding="utf-8")


def ask(**criteria: Any) -> None:
    SUCCESS.write_text(yaml.safe_dump({"metrics": criteria}), encoding="utf-8")


def other_model() -> None:
    MODEL.write_bytes(MODEL.read_bytes() + b"\0")


def note_its_checksum() -> None:
    edit_note(lambda note: note.update(sha256=files.sha256(MODEL)))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("it-was-run"),)


def pickled() -> None:
    MODEL.write_bytes(pickle.dumps(Harmful()))
    note_its_checksum()


def untrusted() -> None:
    skops.io.dump(FunctionTransformer(Path.touch), MODEL)
    note_its_checksum()


def without_rows() -> None:
    for file in Path("data/raw").iterdir():
        file.unlink()


@pytest.mark.practice("model-handed-to-engineers", "success-criteria")
def test_a_handed_over_model_holds(handed_over: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-handoff", str(MODEL)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["pass", name] for name in CHECKS]


REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    "no note": (NOTE.unlink, "note", "no models/HANDOFF.md"),
    "an empty note": (lambda: NOTE.write_text(""), "note", "no JSON block"),
    "a note without its author": (lambda: edit_note(lambda note: note.pop("contact")), "note", "contact"),
    "another file": (other_model, "checksum", "not this file"),
    "other libraries": (
        lambda: edit_note(lambda note: note["libraries"].update(numpy="1.26.4")),
        "libraries",
        "1.26.4",
    ),
    "no libraries": (lambda: edit_note(lambda note: note.update(libraries={})), "libraries", "scikit-learn"),
    "a column less": (lambda: edit_note(lambda note: note["columns"].popitem()), "columns", LAST),
    "another rule": (lambda: edit_note(lambda note: note["columns"][LAST].update(min=-1)), "columns", LAST),
    "another output": (lambda: edit_note(lambda note: note.update(output="score")), "columns", "output"),
    "a pickle": (pickled, "loads", "cannot be loaded"),
    "an untrusted type": (untrusted, "loads", "ntrusted"),
    "another prediction": (lambda: edit_note(lambda note: note["example"].update(prediction=0.5)), "example", "0.5"),
    "no example": (lambda: edit_note(lambda note: note.pop("example")), "example", "example"),
    "no rows": (without_rows, "rows", "no .parquet file"),
    "a row too few": (
        lambda: edit_note(lambda note: note["held_out"].update(rows=3001)),
        "rows",
        "the note says 3,001",
    ),
    "an empty period": (
        lambda: edit_note(lambda note: note["held_out"].update({"from": "2014-01-01", "to": "2014-01-02", "rows": 0})),
        "rows",
        "0 rows",
    ),
    "tested on what it was trained on": (
        lambda: edit_note(lambda note: note.update(held_out=note["trained_on"])),
        "rows",
        "not later",
    ),
    "better in the note": (
        lambda: edit_note(lambda note: note["metrics"].update({model.PRIMARY: 0.9})),
        "metrics",
        "the note says 0.9000",
    ),
    "a criterion missed": (
        lambda: ask(**{model.PRIMARY: {"min": 0.99} if model.HIGHER_IS_BETTER[model.PRIMARY] else {"max": 0.99}}),
        "criteria",
        "must be 0.99",
    ),
    "no better than the baseline": (
        lambda: ask(**{model.PRIMARY: {"margin": 99}}),
        "criteria",
        "must be better by 99",
    ),
    "an unknown metric": (lambda: ask(luck={"min": 0}), "criteria", "luck is nan"),
    "no criteria": (lambda: ask(), "criteria", "conf/success.yml"),
    "no bound": (lambda: ask(**{model.PRIMARY: {}}), "criteria", "asks for nothing"),
    "no criteria file": (SUCCESS.unlink, "criteria", "no conf/success.yml"),
}


@pytest.mark.practice("model-handed-to-engineers", "success-criteria")
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_hold_is_refused(case: str, handed_over: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, name, reason = REFUSED[case]
    spoil()
    assert main(["check-handoff", str(MODEL)]) == 3
    output = capsys.readouterr()
    refused = {line.split()[1]: line for line in output.out.splitlines() if line.startswith("REFUSED")}
    assert reason in refused[name]
    assert name in output.err and "Traceback" not in output.err
    assert not Path("it-was-run").exists()


def test_results_come_as_json_too(handed_over: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other_model()
    assert main(["check-handoff", str(MODEL), "--json"]) == 3
    results = json.loads(capsys.readouterr().out)
    assert {result["check"]: result["passed"] for result in results} == {
        name: name in ("note", "libraries", "columns", "rows") for name in CHECKS
    }


def test_no_file_is_an_error_and_no_refusal(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-handoff", "models/nowhere.skops"]) == 1
    assert "no model file models/nowhere.skops" in capsys.readouterr().err


@pytest.mark.practice("success-criteria")
@pytest.mark.parametrize(
    ("criterion", "value", "baseline", "good"),
    [
        (Criterion(min=0.7), 0.7, 0.5, True),
        (Criterion(min=0.7), 0.69, 0.5, False),
        (Criterion(max=0.7), 0.7, 0.5, True),
        (Criterion(max=0.7), 0.71, 0.5, False),
        (Criterion(margin=0.25), 0.75, 0.5, True),
        (Criterion(margin=0.25), 0.74, 0.5, False),
        (Criterion(margin=0), 0.4, 0.5, False),
        (Criterion(min=0), float("nan"), 0.5, False),
        (Criterion(max=1), float("nan"), 0.5, False),
        (Criterion(margin=0), 0.7, float("nan"), False),
    ],
)
def test_a_metric_is_judged_by_its_bounds_and_its_margin(
    criterion: Criterion, value: float, baseline: float, good: bool
) -> None:
    sign = 1 if model.HIGHER_IS_BETTER[model.PRIMARY] else -1  # the margin counts in the metric's own direction
    if criterion.margin is not None:
        value, baseline = sign * value, sign * baseline
    missed = missed_criteria(FLIGHTS, {model.PRIMARY: value}, {model.PRIMARY: baseline}, {model.PRIMARY: criterion})
    assert (missed == []) is good
    assert all(model.PRIMARY in sentence for sentence in missed)
