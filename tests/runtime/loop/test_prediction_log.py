"""The prediction log: what is answered is in it, or it is said how much is not; and what must not be in it never is."""

import contextlib
import io
import json
import re
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pandas as pd
import polars as pl
import pytest
import yaml
from flight_delays import data, features
from flight_delays.__main__ import main
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.data.rows import as_records, read_note
from mlops_ladder.loop import feedback, prediction_log, stream_features
from projects import FLIGHTS, ROOT

PROJECT = ROOT
HIDDEN = next(name for name in features.COLUMNS if data.SCHEMA[name]["type"] == "number")
SENT = next(name for name in features.COLUMNS if name not in (HIDDEN, data.KEY) and "values" in data.SCHEMA[name])
FREE = next(  # a text of any kind, that is logged
    (
        name
        for name, rule in data.SCHEMA.items()
        if rule["type"] in ("text", "category") and "values" not in rule and name not in (data.TARGET, *data.LEAKS)
    ),
    None,
)
SECONDS = 120  # at most, for what takes a fraction of one: the machine may be busy


def configure(folder: Path, name: str = "prediction_log", **changes: Any) -> None:
    file = folder / f"conf/{name}.yml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def in_log(folder: Path, **wanted: Any) -> pl.DataFrame:
    """Return what the log in FOLDER holds; nothing while there is none."""
    with contextlib.chdir(folder):
        frames = (
            list(prediction_log.open_log(FLIGHTS).frames(**wanted)) if Path("data/predictions.db").is_file() else []
        )
    return pl.concat(frames) if frames else pl.DataFrame(schema=prediction_log.COLUMNS)


def told(http: httpx.Client, **words: Any) -> dict[str, Any]:
    return http.get("/model", **words).json()["log"]


@pytest.fixture(scope="module")
def logged(serve: Callable[..., Any], models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service that asks for keys, writes at once, and does not log the column HIDDEN."""
    folder = tmp_path_factory.mktemp("logged")
    shutil.copytree(PROJECT / "conf", folder / "conf")
    shutil.copytree(models, folder / "models")
    configure(
        folder,
        flush_s=0.05,
        entity=SENT,
        never_logged=[HIDDEN[:-1] + "*", "*contact*"],
        out_of_range={"requests": 5, "share": 0.5, "window_s": 600},
    )
    configure(folder, "limits", deadline_s=5)
    keys = {}
    for name, scope in (("boss", "admin"), ("shop", "predict"), ("prober", "predict")):
        said = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(said):
            assert main(["keys", "add", name, "--scope", scope]) == 0
        keys[name] = {"authorization": f"Bearer {said.getvalue().strip()}"}
    row = read_note(models / "model.skops")["example"]["row"]
    with serve(folder) as (http, _):
        yield SimpleNamespace(folder=folder, http=http, keys=keys, row=row)


def ask(logged: Any, rows: Any = None, name: str = "shop", **headers: str) -> httpx.Response:
    return logged.http.post("/predict", json=rows or logged.row, headers=logged.keys[name] | headers)


def of_request(logged: Any, answer: httpx.Response) -> pl.DataFrame:
    """Return the rows of the log that ANSWER left there."""
    request_id, n_rows = answer.json()["request_id"], len(answer.json()["predictions"])
    until(lambda: in_log(logged.folder).filter(request_id=request_id).height == n_rows)
    return in_log(logged.folder).filter(request_id=request_id)


@pytest.mark.practice("prediction-logging", "feedback-loop")
def test_what_was_answered_is_in_the_log_with_what_it_was_made_of(logged: Any) -> None:
    rows = [logged.row, logged.row | {data.KEY: "k-1"}]
    answer = ask(logged, rows).json()
    found = of_request(logged, ask(logged, rows, **{"x-request-id": "mine"}))
    assert found["prediction"].to_list() == answer["predictions"]
    assert found["key"].to_list() == ["mine/0", "k-1"]
    assert set(found["version"]) == {answer["model_version"]} and set(found["arm"]) == {"champion"}
    assert found["answered"].all() and (found["seconds"] > 0).all()
    assert found["entity"].to_list() == [logged.row[SENT]] * 2
    for name in set(features.COLUMNS) - {HIDDEN}:
        sent = logged.row[name]
        kind = data.SCHEMA[name]["type"]
        assert found[name].to_list() == [pd.Timestamp(sent) if kind == "time" else sent] * 2, name
        assert found[name].dtype == {"number": pl.Float64, "time": pl.Datetime("us")}.get(kind, found[name].dtype)
    counts = told(logged.http, headers=logged.keys["shop"])
    assert counts["written"] >= 4 and counts["error"] is None and counts["when_full"] == "drop"
    metrics = logged.http.get("/metrics", headers=logged.keys["boss"]).text
    assert 'prediction_log_rows_total{outcome="written"}' in metrics and "prediction_log_waiting_rows" in metrics


@pytest.mark.practice("prediction-logging")
def test_a_request_id_that_is_sent_twice_is_logged_once_and_counted(logged: Any) -> None:
    before = told(logged.http, headers=logged.keys["shop"])["repeated"]
    for _ in range(2):
        of_request(logged, ask(logged, **{"x-request-id": "twice"}))
    until(lambda: told(logged.http, headers=logged.keys["shop"])["repeated"] == before + 1)


@pytest.mark.practice("prediction-logging")
def test_a_column_that_is_never_logged_is_not_in_the_log(logged: Any) -> None:
    found = of_request(logged, ask(logged))
    assert HIDDEN not in found.columns
    files = logged.folder.glob("data/predictions.db*")
    assert not any(f'"{HIDDEN}"'.encode() in file.read_bytes() for file in files)
    assert (logged.folder / "data/predictions.db").stat().st_mode & 0o077 == 0


@pytest.mark.practice("prediction-logging")
def test_what_is_forgotten_is_gone_from_the_files_too(logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "somebody-who-asks-to-be-forgotten"
    of_request(logged, ask(logged, logged.row | {data.KEY: key}, **{"x-request-id": "forget-me"}))
    send_labels(logged, [{"key": key, "label": 1}])
    monkeypatch.chdir(logged.folder)
    assert main(["prediction-log", "--forget", "forget-me"]) == 0
    files = list(logged.folder.glob("data/predictions.db*"))
    assert files and not any(key.encode() in file.read_bytes() for file in files)
    assert in_log(logged.folder).filter(request_id="forget-me").is_empty()


@pytest.mark.practice("prediction-logging")
def test_bytes_that_somebody_still_reads_are_not_said_to_be_gone(
    logged: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_request(logged, ask(logged, logged.row, **{"x-request-id": "read-meanwhile"}))
    prepare = prediction_log.prepare

    def impatient(connection: Any, record: Any) -> None:
        prepare(connection, record)
        connection.execute("PRAGMA busy_timeout = 100")

    monkeypatch.setattr(prediction_log, "prepare", impatient)
    monkeypatch.chdir(logged.folder)
    with contextlib.closing(sqlite3.connect("data/predictions.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM predictions").fetchone()[0] > 0
        assert main(["prediction-log", "--forget", "read-meanwhile"]) == 1
        assert "1 predictions are deleted, but their bytes stay" in capsys.readouterr().err
    assert main(["prediction-log", "--forget", "read-meanwhile"]) == 0


@pytest.mark.practice("prediction-logging")
def test_a_request_that_fails_leaves_a_row(logged: Any) -> None:
    body = json.dumps(logged.row).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\nauthorization: {logged.keys['shop']['authorization']}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((logged.http.base_url.host, logged.http.base_url.port)) as caller:
        caller.sendall(head.encode() + body[:10])  # and no more, so that the deadline passes
        caller.settimeout(SECONDS)
        assert caller.recv(65536).startswith(b"HTTP/1.1 503")

    def failures() -> int:
        with contextlib.chdir(logged.folder):
            return prediction_log.open_log(FLIGHTS).status()["failures"]

    until(failures)


def send_labels(logged: Any, labels: list[dict[str, Any]], name: str = "boss") -> httpx.Response:
    return logged.http.post("/feedback", json=labels, headers=logged.keys[name])


@pytest.mark.practice("delayed-labels", "feedback-loop")
def test_labels_that_come_over_http_are_joined_by_key_and_by_request_id(logged: Any) -> None:
    answer = ask(logged, [logged.row | {data.KEY: "by-key"}, logged.row])
    place = {"request_id": answer.json()["request_id"], "row": 1}
    given = send_labels(logged, [{"key": "by-key", "label": 1}, place | {"label": 0, "at": "2013-07-04T10:00:00Z"}])
    assert given.status_code == 200 and given.json()["labels"]["added"] == 2
    assert of_request(logged, answer)["label"].to_list() == [1.0, 0.0]
    assert send_labels(logged, [{"key": "by-key", "label": 1}]).json()["labels"] == {"duplicate": 1}
    assert 'feedback_labels_total{outcome="added"}' in logged.http.get("/metrics", headers=logged.keys["boss"]).text


@pytest.mark.practice("manipulation-protection")
def test_labels_take_a_key_of_scope_admin_and_must_be_labels(logged: Any) -> None:
    refused = send_labels(logged, [{"key": "any", "label": 1}], "shop")
    assert refused.status_code == 403 and "scope admin" in refused.json()["error"]
    for wrong in ([{"label": 1}], [{"key": "a", "request_id": "b", "label": 1}], [{"key": "a"}], {"key": "a"}):
        answer = send_labels(logged, wrong)
        assert answer.status_code == 422 and "label" in answer.json()["error"], wrong
    assert send_labels(logged, [{"key": "far-out", "label": 1e12}]).json()["labels"] == {"out_of_range": 1}


@pytest.mark.practice("manipulation-protection")
def test_a_caller_who_tries_what_is_out_of_range_is_turned_away_and_others_are_not(logged: Any) -> None:
    wrong = logged.row | {data.TIME: "never"}
    answers = [ask(logged, wrong, "prober") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [422] * 6 + [429]
    assert "6 of 6 requests of prober were out of range" in answers[-1].json()["error"]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert ask(logged, name="prober").status_code == 429
    assert ask(logged).status_code == 200
    for _ in range(7):  # among others that are right
        ask(logged)
        ask(logged, wrong)
    assert ask(logged).status_code == 200


@pytest.mark.practice("prediction-logging")
def test_after_a_kill_the_next_start_says_how_many_predictions_were_lost(
    serve: Callable[..., Any], handed_over: Path
) -> None:
    configure(handed_over, flush_rows=3, flush_s=3600.0)
    row = read_note(handed_over / "models/model.skops")["example"]["row"]
    with serve(handed_over) as (http, process):
        assert http.post("/predict", json=[row] * 3).status_code == 200
        until(lambda: in_log(handed_over).height == 3)
        time.sleep(0.5)  # until it waits for the next batch
        for _ in range(2):  # one less than that
            assert http.post("/predict", json=row).status_code == 200
        process.kill()
        process.wait()
    (handed_over / "data/writers/0.count").touch()  # of one that a full disk did not let begin
    with serve(handed_over) as (http, _):
        until(lambda: told(http)["lost_before"] == 2)
        assert http.post("/predict", json=[row] * 3).status_code == 200
        until(lambda: in_log(handed_over).height == 6)
        assert 'prediction_log_rows_total{outcome="lost_before"} 2.0' in http.get("/metrics").text
    assert not (handed_over / "data/writers/0.count").exists()
    assert "at most 2 predictions" in (handed_over / "serve.log").read_text()
    assert prediction_log.open_log(FLIGHTS).status()["lost"] == 2


@pytest.mark.practice("prediction-logging")
@pytest.mark.parametrize("when_full", ["drop", "refuse"])
def test_while_the_store_is_away_every_prediction_is_kept_or_counted(
    serve: Callable[..., Any], handed_over: Path, when_full: str
) -> None:
    configure(handed_over, flush_rows=2, flush_s=0.05, queue_rows=5, when_full=when_full)
    row, file, away = read_note(handed_over / "models/model.skops")["example"]["row"], "predictions.db", "away.db"
    with serve(handed_over) as (http, process):
        http.post("/predict", json=row)
        until(lambda: in_log(handed_over).height == 1)
        (handed_over / "data" / file).rename(handed_over / "data" / away)
        answers = [http.post("/predict", json=row).status_code for _ in range(8)]
        until(lambda: told(http)["error"])
        assert "is gone: bring it back" in told(http)["error"]
        assert "prediction_log_away 1.0" in http.get("/metrics").text
        (handed_over / "data" / away).rename(handed_over / "data" / file)
        until(lambda: told(http)["error"] is None)
        assert answers == ([200] * 8 if when_full == "drop" else [200] * 5 + [503] * 3)
        assert told(http)["dropped"] == (3 if when_full == "drop" else 0)
        assert http.post("/predict", json=row).status_code == 200
        process.terminate()  # in order: nothing that waits is lost
        assert process.wait(SECONDS) == 0
    assert in_log(handed_over).height == 7
    assert not list(handed_over.glob("data/writers/*.count"))
    assert prediction_log.open_log(FLIGHTS).status()["dropped"] == (3 if when_full == "drop" else 0)


@pytest.mark.practice("prediction-logging")
@pytest.mark.skipif(FREE is None, reason="no column of SCHEMA is free text")
def test_while_the_log_is_locked_long_texts_do_not_fill_the_memory(
    serve: Callable[..., Any], handed_over: Path
) -> None:
    configure(handed_over, queue_bytes=20_000_000, flush_bytes=5_000_000, flush_s=0.05)
    row = read_note(handed_over / "models/model.skops")["example"]["row"]
    long = [row | {FREE: "x" * 990 + "\U0001f600"}] * 500  # that one character makes Python keep 4 bytes for each
    body = json.dumps(long, ensure_ascii=False).encode()

    def ask_long(http: httpx.Client) -> None:
        answer = http.post("/predict", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text

    def megabytes(http: httpx.Client) -> float:
        found = re.search(r"^process_resident_memory_bytes (.*)$", http.get("/metrics").text, re.MULTILINE)
        return float(found[1]) / 1e6 if found else 0

    with serve(handed_over) as (http, _):
        for _ in range(5):
            ask_long(http)
        until(lambda: told(http)["written"] == 5 * 500)
        before = megabytes(http)
        with contextlib.closing(sqlite3.connect("data/predictions.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(100):  # 200 MB of text
                ask_long(http)
            assert told(http)["dropped"] > 0 and megabytes(http) - before < 80
            other.execute("ROLLBACK")
        until(lambda: told(http)["written"] + told(http)["dropped"] == 105 * 500)
        assert told(http)["written"] > 5 * 500, "what fits waits, and is written"


def entries(workdir: Path, n_rows: int) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return rows of the sample and the same as the service would log them, a minute after each other."""
    rows = data.read(workdir / "data/raw")
    rows = rows.iloc[:: len(rows) // n_rows][:n_rows].reset_index(drop=True)
    sent = as_records(rows[list(dict.fromkeys([data.KEY, *features.COLUMNS]))])
    start = prediction_log.now() - timedelta(days=1)
    return rows, [
        {"request_id": f"r{n}", "inputs": row, "prediction": n / n_rows, "at": start + timedelta(minutes=n)}
        for n, row in enumerate(sent)
    ]


@pytest.mark.practice("streaming-transforms")
def test_what_the_stream_makes_of_the_log_equals_the_batch(workdir: Path) -> None:
    rows, logged = entries(workdir, 50)
    log, live = prediction_log.open_log(FLIGHTS), Path("data/prepared/live")
    live.mkdir(parents=True)
    for part in (logged[30:37], logged[:30], [], logged[37:]):  # in whatever order they arrive
        log.write(part)
        stream_features.consume(log, live, 7)
        (live / ".000000000050.parquet.part").write_bytes(b"of a run that was killed")
    assert stream_features.consume(log, live, 7) == (0, 0)
    streamed = pd.concat(map(pd.read_parquet, sorted(live.glob("*.parquet")))).set_index("key")
    batch = features.build(rows[features.COLUMNS]).set_index(pd.Index(rows[data.KEY].astype("str"), name="key"))
    assert len(streamed) == len(batch) and max(map(len, map(pd.read_parquet, live.glob("*.parquet")))) == 7
    pd.testing.assert_frame_equal(streamed[batch.columns].loc[batch.index], batch, check_dtype=False)
    assert main(["stream-features", "--rows", "0"]) == 2


@pytest.mark.practice("streaming-transforms")
def test_a_column_that_the_log_has_too_is_streamed_as_it_was_sent(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = prediction_log.open_log(FLIGHTS)
    log.write([*entries(workdir, 20)[1], {"request_id": "nobody", "entity": 0.0, "prediction": 0.5}])
    [(_, frame)] = log.after(0)
    assert frame["entity"][-1] == "0.0"
    sent, name = frame[:20], next(one for one in features.COLUMNS if one not in prediction_log.NAMES)
    monkeypatch.setattr(prediction_log, "NAMES", [*prediction_log.NAMES, name])
    clash = sent.rename({name: f"input_{name}"}).with_columns(pl.lit("the log's own").alias(name))
    pd.testing.assert_frame_equal(stream_features.transform(FLIGHTS, clash), stream_features.transform(FLIGHTS, sent))


@pytest.mark.practice("fast-metric-pipeline")
def test_the_log_is_read_oldest_first_in_bounded_pieces(workdir: Path) -> None:
    _, logged = entries(workdir, 40)
    log = prediction_log.open_log(FLIGHTS)
    log.write(reversed(logged))
    log.write([logged[0] | {"arm": "shadow"}, logged[1] | {"endpoint": "/second/predict", "request_id": "other"}])
    feedback.add_labels(log, [{"request_id": f"r{n}", "label": n % 2} for n in range(10)])
    pieces = list(log.frames(chunk_rows=7))
    assert max(piece.height for piece in pieces) == 7 and sum(piece.height for piece in pieces) == 41
    assert pl.concat(pieces)["at"].is_sorted()
    since, end = logged[5]["at"], logged[20]["at"]
    assert pl.concat(log.frames(since, end, "champion"))["request_id"].to_list() == [f"r{n}" for n in range(5, 20)]
    assert pl.concat(log.frames(labelled=True, arm="champion"))["label"].to_list() == [0.0, 1.0] * 5
    assert pl.concat(log.frames(labelled=False)).height == 30
    assert not pl.concat(log.frames(arm="shadow"))["answered"].any()


@pytest.mark.practice("prediction-logging")
def test_what_is_older_than_it_may_be_is_deleted(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, logged = entries(workdir, 10)
    configure(workdir, keep_days=30)
    log = prediction_log.open_log(FLIGHTS)
    for row in logged[:4]:
        row["at"] -= timedelta(days=31)
    log.write(logged)
    assert main(["prediction-log", "--prune", "--forget", "r9"]) == 0
    assert "deleted 5 predictions" in capsys.readouterr().out
    assert pl.concat(log.frames())["request_id"].to_list() == [f"r{n}" for n in range(4, 9)]


@pytest.mark.practice("prediction-logging")
def test_from_each_table_what_is_old_is_deleted_and_what_is_not_stays(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(workdir, keep_days=30)
    log, now = prediction_log.open_log(FLIGHTS), prediction_log.now()
    for name, at in (("old", now - timedelta(days=31)), ("new", now)):
        monkeypatch.setattr(feedback, "now", lambda at=at: at)
        log.write([{"request_id": name, "key": name, "prediction": 0.5, "at": at}], [{"at": at, "status": 500}])
        given = [{"key": name, "label": 1.0}, {"key": f"{name}-early", "label": 1.0}, {"key": name, "label": 1e12}]
        feedback.add_labels(log, [*given, {"key": f"{name}-kept", "label": 1.0}])
    log.write([{"request_id": "kept", "key": "old-kept", "prediction": 0.5, "at": now}])
    assert [log.prune(), log.prune()] == [1, 0]
    tables = (prediction_log.PREDICTIONS, prediction_log.LABELS, prediction_log.ASIDE)
    with log.connection() as connection:
        kept = {table.name: {row.key for row in connection.execute(table.select())} for table in tables}
    assert kept == {
        "predictions": {"new", "old-kept"},
        "labels": {"new", "new-early", "new-kept", "old-kept"},
        "label_conflicts": {"new"},
    }
    assert log.status()["failures"] == 1


@pytest.mark.practice("prediction-logging")
def test_a_log_that_cannot_be_what_is_asked_for_is_refused(workdir: Path) -> None:
    for changes, said in (
        ({"url": "postgresql://me:secret@host/db"}, "holds a password"),
        ({"url": "mysql://host/db"}, "url"),
        ({"entity": HIDDEN, "never_logged": [HIDDEN]}, "never_logged"),
        ({"when_full": "shrug"}, "when_full"),
    ):
        shutil.copy(PROJECT / "conf/prediction_log.yml", workdir / "conf")
        configure(workdir, **changes)
        with pytest.raises(ProjectError, match=said):
            prediction_log.open_log(FLIGHTS)
