"""Labels come late, early, twice, contradictory and wrong; the log holds one truth a key and tells what it left."""

import contextlib
import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import polars as pl
import pytest
from flight_delays import data
from flight_delays.__main__ import main
from mlops_ladder.data.rows import read_note
from mlops_ladder.loop import audit, feedback, prediction_log
from projects import FLIGHTS

N = 60
CLASSIFICATION = data.PROBLEM == "classification"
WRONG = 7.0 if CLASSIFICATION else 1e12  # SCHEMA must not allow it
DAY = datetime(2013, 7, 4)


def truth(n: int) -> float:
    """Return the label of key n, which goes along with its prediction."""
    return float(n >= N / 2) if CLASSIFICATION else float(n)


def other(label: float) -> float:
    return 1 - label if CLASSIFICATION else label + 1


@pytest.fixture
def log(workdir: Path) -> prediction_log.PredictionLog:
    """The log with N predictions, keys k0 to k59."""
    log = prediction_log.open_log(FLIGHTS)
    log.write({"request_id": f"r{n}", "key": f"k{n}", "prediction": n / N} for n in range(N))
    return log


def labels(log: prediction_log.PredictionLog) -> dict[str, float]:
    return {
        key: label for frame in log.frames(labelled=True) for key, label in frame.select("key", "label").iter_rows()
    }


def aside(log: prediction_log.PredictionLog) -> int:
    with log.connection() as connection:
        return len(connection.execute(prediction_log.ASIDE.select()).all())


@pytest.mark.practice("delayed-labels")
@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_labels_in_a_file_are_joined_to_their_predictions(
    log: prediction_log.PredictionLog, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({"request_id": [f"r{n}" for n in range(9)], data.TARGET: [*map(truth, range(8)), None]})
    table["at"] = "2013-07-04T10:00:00"
    table.to_csv(name, index=False) if name.endswith("csv") else table.to_parquet(name)
    assert main(["feedback", name]) == 0
    assert capsys.readouterr().out == "labels of feedback: 8 added\n"  # an empty cell is none
    assert labels(log) == {f"k{n}": truth(n) for n in range(8)}
    assert set(pl.concat(log.frames(labelled=True))["labelled_at"]) == {datetime(2013, 7, 4, 10)}
    assert main(["feedback", name]) == 0
    assert capsys.readouterr().out == "labels of feedback: 8 duplicate\n"
    table.drop(columns=["request_id"]).to_csv("no-key.csv")
    assert main(["feedback", "no-key.csv"]) == 1
    assert f"{data.KEY} or request_id" in capsys.readouterr().err
    for line, wrong in ((f",0,{truth(0):g}", "no request_id"), (f"r1,1.5,{truth(0):g}", "`row` a number")):
        Path("wrong.csv").write_text(f"request_id,row,label\n{line}\n")
        assert main(["feedback", "wrong.csv"]) == 1
        assert wrong in capsys.readouterr().err


@pytest.mark.practice("delayed-labels")
@pytest.mark.parametrize("comma", ["", ","])
def test_no_label_is_lost_to_the_way_that_a_file_is_written(
    log: prediction_log.PredictionLog, comma: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{data.KEY},label", *(f"k{n},{truth(n):g}{comma}" for n in (1, 50))]
    Path("labels.CSV").write_text("\n".join(lines))
    assert main(["feedback", "labels.CSV"]) == 0
    assert capsys.readouterr().out == "labels of feedback: 2 added\n"
    wrong = {
        "\n".join([*lines, f"k2,{truth(2):g},9"]): "line 4 has 3 cells, the header 2",
        "\n".join([*lines, lines[0]]): "line 4 is the header again",
        f"{data.KEY};label\nk2;{truth(2):g}": "separated by ';'",
    }
    for content, reason in wrong.items():
        Path("labels.csv").write_text(content)
        assert main(["feedback", "labels.csv"]) == 1
        assert reason in capsys.readouterr().err
    Path("labels.csv").write_text(f"{data.KEY},label\nk2,NA\n")
    assert main(["feedback", "labels.csv"]) == 3, "no label, which an empty cell would be"
    assert labels(log) == {"k1": truth(1), "k50": truth(50)}
    Path("labels.csv").write_text(f"{data.KEY},label\nNA,{truth(2):g}\n")
    assert main(["feedback", "labels.csv"]) == 0, "NA is a key like any other"


@pytest.mark.parametrize("kind", ["boolean", "number"])
def test_true_is_a_label_only_where_the_target_is_true_or_false(
    log: prediction_log.PredictionLog, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(data.SCHEMA, data.TARGET, {"type": kind})
    Path("labels.csv").write_text(f"{data.KEY},label\nk1,True\nk2,true\n")
    pd.DataFrame({data.KEY: ["k3", "k4"], "label": [True, True]}).to_parquet("labels.parquet")
    known = kind == "boolean"
    for name in ("labels.csv", "labels.parquet"):
        assert main(["feedback", name]) == (0 if known else 3)
    feedback.add_labels(log, [{"key": "k5", "label": True}])
    assert labels(log) == (dict.fromkeys(["k1", "k2", "k3", "k4", "k5"], 1.0) if known else {})


@pytest.mark.parametrize(
    ("at", "known"),
    [
        ("0001-01-01T00:00+14:00", "0001-01-01T00:00"),
        ("0001-01-01T00:00", "0001-01-01T00:00"),
        ("2013-07-04T10:00+02:00", "2013-07-04T08:00"),
        ("9999-12-31T23:59-12:00", None),
        ("9999-12-31T23:59", None),
    ],
)
def test_a_label_may_say_any_moment_and_one_to_come_is_kept_aside(
    log: prediction_log.PredictionLog, at: str, known: str | None
) -> None:
    Path("labels.csv").write_text(f"{data.KEY},label,at\nk1,{truth(1):g},{at}\n")
    assert main(["feedback", "labels.csv"]) == (0 if known else 3)
    told = [moment for frame in log.frames(labelled=True) for moment in frame["labelled_at"]]
    assert told == ([datetime.fromisoformat(known)] if known else [])


def test_a_moment_that_is_none_is_named(log: prediction_log.PredictionLog, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels.csv").write_text(f"{data.KEY},label,at\nk1,{truth(1):g},yesterday\n")
    assert main(["feedback", "labels.csv"]) == 1
    assert "`at` must be a time as in 2013-07-01T06:00" in (said := capsys.readouterr().err) and said.count("\n") == 1


@pytest.mark.practice("delayed-labels")
def test_a_key_that_looks_like_a_number_is_found_too(log: prediction_log.PredictionLog) -> None:
    log.write([{"request_id": "r", "key": "007", "prediction": 0.5}])
    Path("labels.csv").write_text(f"{data.KEY},label\n007,{truth(0):g}\n")
    assert main(["feedback", "labels.csv"]) == 0
    assert labels(log) == {"007": truth(0)}


@pytest.mark.practice("delayed-labels")
def test_a_key_that_is_a_number_is_found_however_it_is_written(
    log: prediction_log.PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(data.SCHEMA, data.KEY, {"type": "number"})
    log.write([{"request_id": "r", "inputs": {data.KEY: 5.0}, "prediction": 0.5}])
    assert feedback.add_labels(log, [{"key": "5", "label": truth(0)}]) == {"added": 1}, (
        "it is not early: there is a prediction"
    )
    assert feedback.add_labels(log, [{"key": "5.00", "label": truth(0)}]) == {"duplicate": 1}
    assert labels(log) == {"5.0": truth(0)}
    assert log.forget(["5"], "key") == 1


@pytest.mark.practice("delayed-labels")
def test_a_key_that_is_called_request_id_is_the_rows_own(
    log: prediction_log.PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "KEY", "request_id")
    monkeypatch.setitem(data.SCHEMA, "request_id", {"type": "text"})
    log.write([{"request_id": "r", "inputs": {"request_id": "own"}, "prediction": 0.5}])
    Path("labels.csv").write_text(f"request_id,label\nown,{truth(0):g}\n")
    assert main(["feedback", "labels.csv"]) == 0
    assert labels(log) == {"own": truth(0)}


@pytest.mark.practice("delayed-labels")
def test_a_label_may_come_before_its_prediction(log: prediction_log.PredictionLog) -> None:
    early = [{"key": "new", "label": truth(0)}, {"request_id": "q", "row": 1, "label": truth(1)}]
    assert feedback.add_labels(log, early) == {"added": 2, "early": 2}
    assert not labels(log) and log.status()["without_prediction"] == 2
    log.write({"request_id": "q", "row": n, "key": key, "prediction": 0.5} for n, key in enumerate(["new", "own"]))
    assert labels(log) == {"new": truth(0), "own": truth(1)} and log.status()["without_prediction"] == 0


@pytest.mark.practice("delayed-labels")
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_in_whatever_order_labels_come_the_latest_known_holds(
    log: prediction_log.PredictionLog, order: tuple[int, ...]
) -> None:
    told = [
        {"key": "k1", "label": label, "at": DAY + timedelta(days=day)}
        for day, label in enumerate([truth(1), other(truth(1)), truth(1)])
    ]
    done = sum((feedback.add_labels(log, [told[at]]) for at in order), start=feedback.Counter[str]())
    assert labels(log) == {"k1": truth(1)}
    assert done.total() == 3 and done["added"] == 1
    assert aside(log) == done["replaced"] + done["contradicts"]


@pytest.mark.practice("manipulation-protection")
def test_labels_that_the_schema_does_not_allow_are_kept_aside(
    log: prediction_log.PredictionLog, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({"request_id": ["r1", "r2"], "label": [truth(1), WRONG]}).to_csv("labels.csv")
    assert main(["feedback", "labels.csv"]) == 3
    said = capsys.readouterr()
    assert said.out == "labels of feedback: 1 added, 1 out_of_range\n" and f"no {data.TARGET}" in said.err
    future = prediction_log.now() + timedelta(days=1)
    assert feedback.add_labels(log, [{"key": "k3", "label": truth(3), "at": future}]) == {"out_of_range": 1}
    assert labels(log) == {"k1": truth(1)} and aside(log) == 2


@pytest.mark.practice("manipulation-protection")
def test_who_turns_many_labels_around_is_not_believed_and_who_corrects_a_few_is(
    log: prediction_log.PredictionLog, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [{"key": f"k{n}", "label": truth(n)} for n in range(N)]
    assert feedback.add_labels(log, right) == {"added": N}
    flipped = [one | {"label": other(one["label"])} for one in right]
    assert feedback.add_labels(log, flipped[:3]) == {"replaced": 3}
    table = pd.DataFrame({"request_id": [f"r{n}" for n in range(N)], "label": [one["label"] for one in flipped]})
    table.to_csv("flipped.csv")
    before = labels(log)
    assert main(["feedback", "flipped.csv"]) == 3
    said = capsys.readouterr().err
    assert "contradict earlier ones" in said and "--override" in said
    assert labels(log) == before and aside(log) == 3 + N
    for one in flipped[3:19]:  # nor one by one
        feedback.add_labels(log, [one])
    with pytest.raises(feedback.Disbelieved):
        feedback.add_labels(log, [flipped[20]])
    assert main(["feedback", "flipped.csv", "--override"]) == 2 and not audit.texts(FLIGHTS)
    monkeypatch.setenv("MLOPS_ACTOR", "ada@example.org")
    assert main(["feedback", "flipped.csv", "--override", "--reason", "the source was upside down"]) == 0
    [line] = map(json.loads, audit.texts(FLIGHTS))
    assert (line["action"], line["who"], line["why"]) == ("override", "ada@example.org", "the source was upside down")
    assert (line["subject"], line["facts"]["labels"]) == ("labels of feedback", N)
    assert labels(log) == {one["key"]: one["label"] for one in flipped}


@pytest.mark.practice("manipulation-protection")
def test_labels_that_say_the_opposite_of_the_predictions_are_not_believed(log: prediction_log.PredictionLog) -> None:
    upside_down = [{"key": f"k{n}", "label": truth(N - 1 - n)} for n in range(N)]
    with pytest.raises(feedback.Disbelieved, match="opposite of the predictions"):
        feedback.add_labels(log, upside_down)
    assert not labels(log) and log.status()["labels"] == {"disbelieved": N}
    assert feedback.add_labels(log, [{"key": f"k{n}", "label": truth(n)} for n in range(N)]) == {"added": N}


@pytest.mark.practice("manipulation-protection")
def test_nor_are_they_when_they_come_one_by_one(log: prediction_log.PredictionLog) -> None:
    def send(n: int) -> bool:
        try:
            return feedback.add_labels(log, [{"key": f"k{n}", "label": truth(N - 1 - n)}])["added"] == 1
        except feedback.Disbelieved:
            return False

    believed = [send(7 * n % N) for n in range(N)]  # early and late keys in turn
    assert all(believed[: feedback.SIGMAS**2]) and sum(believed) < N / 3
    assert aside(log) == N - sum(believed)
    right = [{"key": f"k{n}", "label": truth(n)} for n in range(N)]
    assert feedback.add_labels(log, right, source="another")["added"], "others are not taken for it"


def send(log: prediction_log.PredictionLog, numbers: Any, label: Callable[[int], float], **words: Any) -> Any:
    """Send the labels of keys by number."""
    return feedback.add_labels(log, [{"key": f"k{n}", "label": label(n)} for n in numbers], **words)


def upside_down(n: int) -> float:
    return truth(N - 1 - n)


def corrected(n: int) -> float:
    return other(truth(n))


@pytest.mark.practice("manipulation-protection")
def test_what_a_source_sent_is_not_held_against_another(log: prediction_log.PredictionLog) -> None:
    send(log, range(0, N, 2), upside_down, source="a", override=True)
    assert send(log, [1, N - 1], truth, source="b") == {"added": 2}
    send(log, range(1, N, 2), truth, source="c")
    send(log, range(1, N, 2), corrected, source="c", override=True)
    assert send(log, [0], truth, source="b") == {"replaced": 1}


@pytest.mark.practice("manipulation-protection")
@pytest.mark.parametrize(("hours", "believed"), [(-1, False), (1, True)])
def test_contradictions_count_within_the_hours_of_the_window(
    log: prediction_log.PredictionLog, hours: int, believed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, conf = prediction_log.now() - timedelta(days=30), log.conf.labels
    later = start + timedelta(hours=conf.window_h + hours)
    for now, numbers, label in (
        (start, range(N), truth),
        (start + timedelta(seconds=1), range(conf.min_flips - 1), corrected),
    ):
        monkeypatch.setattr(feedback, "now", lambda now=now: now)
        send(log, numbers, label)
    monkeypatch.setattr(feedback, "now", lambda: later)
    if believed:
        assert send(log, [N - 1], corrected) == {"replaced": 1}
    else:
        with pytest.raises(feedback.Disbelieved, match=f"{conf.min_flips} of .* within {conf.window_h:g} h contradict"):
            send(log, [N - 1], corrected)


@pytest.mark.practice("delayed-labels")
@pytest.mark.parametrize(("minutes", "outcome"), [(4, "added"), (6, "out_of_range")])
def test_a_clock_may_be_ahead_by_a_few_minutes(
    log: prediction_log.PredictionLog, minutes: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "now", lambda: DAY)
    given = {"key": "k1", "label": truth(1), "at": DAY + timedelta(minutes=minutes)}
    assert feedback.add_labels(log, [given]) == {outcome: 1}


@pytest.mark.practice("manipulation-protection")
def test_a_few_labels_of_rows_that_were_asked_often_count_as_few(log: prediction_log.PredictionLog) -> None:
    asked = [{"request_id": f"again{n}-{i}", "key": f"k{n}", "prediction": n / N} for n in range(5) for i in range(30)]
    log.write(asked)
    for n in range(5):
        assert feedback.add_labels(log, [{"key": f"k{n}", "label": truth(N - 1 - n)}])["added"] == 1


@pytest.mark.practice("manipulation-protection")
def test_a_large_delivery_that_contradicts_itself_is_not_believed(
    log: prediction_log.PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "PORTION", N // 4)
    both = [{"key": f"k{n}", "label": label(n)} for label in (truth, lambda n: other(truth(n))) for n in range(N)]
    with pytest.raises(feedback.Disbelieved, match="contradict earlier ones"):
        feedback.add_labels(log, both)
    assert not labels(log)


@pytest.mark.practice("manipulation-protection")
@pytest.mark.parametrize("wrong", ["the first labels", "the last labels"])
def test_a_large_delivery_is_believed_or_kept_aside_as_a_whole(
    log: prediction_log.PredictionLog, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr(feedback, "PORTION", N // 4)
    feedback.add_labels(log, [{"key": f"k{n}", "label": truth(n)} for n in range(N // 2)])
    again = [{"key": f"k{n}", "label": other(truth(n))} for n in range(N // 2)]
    new = [{"key": f"k{n}", "label": truth(n)} for n in range(N // 2, N)]
    before = labels(log)
    with pytest.raises(feedback.Disbelieved, match=f"{N} labels of feedback are kept aside"):
        feedback.add_labels(log, again + new if wrong == "the first labels" else new + again)
    assert labels(log) == before and aside(log) == N


@pytest.mark.practice("delayed-labels")
def test_what_became_of_the_labels_is_counted_for_good(
    log: prediction_log.PredictionLog, run: Callable[..., Any]
) -> None:
    feedback.add_labels(log, [{"key": "k1", "label": truth(1)}, {"key": "nobody", "label": truth(2)}])
    feedback.add_labels(log, [{"key": "k1", "label": truth(1)}])
    told = run("prediction-log", "--json")
    assert told["labels"] == {"added": 2, "early": 1, "duplicate": 1}
    assert (told["predictions"], told["without_prediction"]) == (N, 1)


@pytest.mark.practice("delayed-labels")
def test_labels_that_wait_for_the_store_do_not_hold_up_predictions(
    serve: Callable[..., Any], handed_over: Path
) -> None:
    row = read_note(handed_over / "models/model.skops")["example"]["row"]
    answers: list[httpx.Response] = []

    def deliver(n: int) -> None:
        answers.append(httpx.post(f"{http.base_url}/feedback", json=[{"key": f"k{n}", "label": 1}], timeout=60))

    with serve(handed_over) as (http, _):
        assert http.post("/feedback", json=[{"key": "before", "label": 1}]).status_code == 200
        with contextlib.closing(sqlite3.connect("data/predictions.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            senders = [threading.Thread(target=deliver, args=[n]) for n in range(70)]  # more than `at_once`
            for sender in senders:
                sender.start()
            while len(answers) < 60:
                time.sleep(0.05)
            assert [http.post("/predict", json=row).status_code for _ in range(12)] == [200] * 12
            assert {answer.status_code for answer in answers} == {503}
            assert any("8 deliveries wait for the store; send them again" in answer.text for answer in answers)
            other.execute("ROLLBACK")
        for sender in senders:
            sender.join()
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert http.post("/feedback", json=[{"key": "after", "label": 1}]).status_code == 200
