"""Replaying recorded rows: in order, labels late, drift and outages as asked for, and the same for the same seed."""

import argparse
import http.server
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from flight_delays import data, features
from mlops_ladder.core.errors import ProjectError, UsageError
from mlops_ladder.loop import on_alert, simulate
from projects import FLIGHTS, ROOT

PROJECT = ROOT
NUMBER = next(name for name in features.COLUMNS if data.SCHEMA.get(name, {}).get("type") == "number")


class Service(http.server.BaseHTTPRequestHandler):
    """Stands for the service: keeps what it is sent, refuses what has an unknown column."""

    sent: list[tuple[str, Any]]

    def do_GET(self) -> None:
        self.answer(200, {"version": "1"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.sent.append((self.path, body))
        wrong = self.path == "/predict" and "unknown" in body
        self.answer(422 if wrong else 200, {"predictions": [0.5], "model_version": "1"})

    def answer(self, status: int, content: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    kept: list[tuple[str, Any]] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Kept", (Service,), {"sent": kept})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", kept
        server.shutdown()


def replay(url: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replay two weeks of January and return the counts."""
    parser = argparse.ArgumentParser()
    simulate.arguments(parser)
    period = ["--from", "2013-01-01", "--until", "2013-01-15", "--share", "0.3", "--rows", str(PROJECT / "data/sample")]
    options = parser.parse_args(["--url", url, *period, *words])
    shifts, outages = [simulate.shift(FLIGHTS, text) for text in options.drift], [*map(simulate.span, options.outage)]
    monkeypatch.setattr(simulate.Replay, "tell", lambda self, frozen: dict(self.counts))
    return simulate.Replay(FLIGHTS, options, *simulate.read(FLIGHTS, options, shifts, outages)).run()


@pytest.mark.practice("uninterrupted-e2e")
def test_rows_are_asked_in_the_order_of_time_and_labelled_days_later(
    service: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, sent = service
    replay(url, "--label-days", "3", "--every", "1", monkeypatch=monkeypatch)
    times, now = {}, ""
    for path, body in sent:
        if path == "/predict":
            assert data.TARGET not in body and not set(data.LEAKS) & set(body)
            assert body[data.TIME] >= now
            now = times[body[data.KEY]] = body[data.TIME]
        elif len(times) < sum(kind == "/predict" for kind, _ in sent):  # after the last row all labels are due
            latest = max(times[one["key"]] for one in body)
            assert (datetime.fromisoformat(now) - datetime.fromisoformat(latest)).days >= 1
    labelled = [one["key"] for path, body in sent if path == "/feedback" for one in body]
    assert sorted(labelled) == sorted(times)


def test_the_same_seed_sends_the_same_and_another_does_not(
    service: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, sent = service
    told = []
    for seed in ("1", "1", "2"):
        sent.clear()
        replay(url, "--seed", seed, "--bad", "0.1", monkeypatch=monkeypatch)
        told.append(list(sent))
    assert told[0] == told[1] != told[2]


def test_drift_outages_and_bad_requests_are_as_asked_for(
    service: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, sent = service
    replay(url, monkeypatch=monkeypatch)
    plain = {body[data.KEY]: body for path, body in sent if path == "/predict"}
    sent.clear()
    words = ["--drift", f"{NUMBER}=1@2013-01-08", "--outage", "2013-01-03/2013-01-05", "--bad", "0.2"]
    counts = replay(url, *words, monkeypatch=monkeypatch)
    asked = {body[data.KEY]: body for path, body in sent if path == "/predict" and "unknown" not in body}
    assert counts["broken requests answered 422"] > 0.1 * len(asked)
    assert not any("2013-01-03" <= body[data.TIME] < "2013-01-05" for body in asked.values())
    both = [(plain[key], body) for key, body in asked.items() if key in plain]
    moved = {(body[data.TIME] >= "2013-01-08", round(body[NUMBER] - before[NUMBER], 6)) for before, body in both}
    assert moved - {(True, 0)} == {(False, 0), (True, 1)}, "by one, but where the schema ends"
    words = ["--from", "2013-01-02T02:00+02:00", "--outage", "2013-01-03T00:00Z/2013-01-15T00:00Z"]
    sent.clear()
    replay(url, *words, monkeypatch=monkeypatch)
    assert {body[data.TIME][:10] for path, body in sent if path == "/predict"} == {"2013-01-02"}, "a zone counts"
    with pytest.raises(UsageError, match="temperature=15@"):
        simulate.shift(FLIGHTS, f"{data.SLICES[0]}=1@2013-01-01")


def test_time_goes_by_at_the_speed_that_is_asked_for(
    service: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = service
    moments: list[tuple[str, float]] = []
    ask = simulate.Replay.ask

    def seen(self: simulate.Replay, client: Any, number: int, record: dict[str, Any]) -> None:
        moments.append((record[data.TIME], time.monotonic()))
        ask(self, client, number, record)

    monkeypatch.setattr(simulate.Replay, "ask", seen)
    replay(url, "--share", "0.02", "--speed", "5", monkeypatch=monkeypatch)
    first, last = (datetime.fromisoformat(moments[place][0]) for place in (0, -1))
    took_s = moments[-1][1] - moments[0][1]
    assert took_s >= 0.95 * (last - first) / timedelta(days=5), "five days a second, not faster"


@pytest.mark.parametrize("words", [["--every", "0"], ["--label-days", "-1"], ["--speed", "0"]])
def test_time_goes_on(words: list[str], run: Any) -> None:
    assert "time goes on" in run("simulate", "--url", "http://127.0.0.1:9", *words, exit_code=2)


@pytest.mark.practice("uninterrupted-e2e")
def test_each_turn_of_the_loop_measures_what_was_asked_in_its_own_window(
    service: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = service
    asked: list[tuple[str, ...]] = []
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(simulate.experiment, "status", lambda _: [])
    monkeypatch.setattr(simulate.time, "sleep", lambda _: None)
    monkeypatch.setattr(simulate, "command", lambda _, *words: (asked.append(words) or 0, {}, ""))
    replay(url, "--loop", "--every", "4", monkeypatch=monkeypatch)
    simulated = [datetime.fromisoformat(words[-1]).day for words in asked if words[0] == "retrain"]
    assert simulated == [5, 9, 13, 17]
    real = [datetime.fromisoformat(words[-1]) for words in asked if words[:2] == ("monitor", "--since")]
    assert len(real) == 4 and len(set(real)) == 1, "a month is looked back at, and all of it was in these turns"
    asked.clear()
    monkeypatch.setattr(simulate, "window", lambda _: timedelta(days=4))
    replay(url, "--loop", "--every", "4", monkeypatch=monkeypatch)
    real = [datetime.fromisoformat(words[-1]) for words in asked if words[:2] == ("monitor", "--since")]
    assert real == sorted(set(real)) and len(real) == 4, "of each turn its own rows"


def test_each_month_is_one_line_that_says_what_happened_and_why(
    service: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = service
    fired = {"name": "decay", "fired": True}
    answers = {
        "monitor": (
            3,
            {"signals": [fired, fired | {"name": "volume", "fired": False}]},
            "error: version 1: 1 of 2 signals fired",
        ),
        "experiment": (0, {"result": "promoted", "why": "it held: 881 labelled rows"}, ""),
        "retrain": (3, {"id": 1, "outcome": "refused", "version": "3", "why": "decay: 0.03", "result": "slices"}, ""),
    }
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(simulate.experiment, "status", lambda _: [{"ended": None, "challenger": "2"}])
    monkeypatch.setattr(simulate.time, "sleep", lambda _: None)
    monkeypatch.setattr(simulate, "command", lambda _, *words: answers[words[0]])
    replay(url, "--loop", "--every", "7", "--until", "2013-02-08", "--share", "0.02", monkeypatch=monkeypatch)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("month 1 of 2, 2013-01: ") and second.startswith("month 2 of 2, 2013-02: ")
    assert "rows answered by version 1" in first and "decay in 4 of 4 reports" in first and "error:" not in first
    assert "version 2 promoted: it held: 881 labelled rows" in first
    assert "retraining 1, because of decay: 0.03: version 3 refused: slices" in first
    answers["monitor"] = (1, {}, "error: no store")
    with pytest.raises(ProjectError, match="monitor .* ended with exit code 1 .*: error: no store"):
        replay(url, "--loop", "--share", "0.02", monkeypatch=monkeypatch)


def test_the_headline_says_what_would_have_happened() -> None:
    month = {"frozen": {"brier": 0.21}, "loop": {"brier": 0.19}}
    told = {"frozen_version": "1", "overall": {"rows": 4_000, **month}, "months": [month], "higher_is_better": {"brier": False},
            "retrainings": [{"outcome": "promoted"}, {"outcome": "refused"}]}  # fmt: skip
    assert simulate.headline(told) == (
        "The loop came to brier 0.1900 over 4,000 rows, 0.0200 better than version 1 alone, which would have come to 0.2100; "
        "it was better in 1 of 1 months. 2 retrainings: 1 promoted, 1 refused."
    )
    assert simulate.headline(told | {"overall": None, "retrainings": []}) == "Nothing was retrained."


@pytest.mark.practice("metric-triggered-retraining")
def test_an_alert_that_fires_starts_the_policy_and_a_stranger_nothing() -> None:
    class Starter:
        def __init__(self) -> None:
            self.asked: list[list[str]] = []

        def start(self, alerts: list[str]) -> bool:
            self.asked.append(alerts)
            return True

    starter: Any = Starter()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), on_alert.receiver("secret", starter)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, known = f"http://127.0.0.1:{server.server_port}/", {"authorization": "Bearer secret"}
        alert = {"status": "firing", "labels": {"alertname": "ModelDecays", "retrain": "true"}}
        for headers in ({}, {"authorization": "Bearer guess"}):
            assert httpx.post(url, json={"alerts": [alert]}, headers=headers).status_code == 401
        assert httpx.post(url, json={"alerts": "none"}, headers=known).status_code == 400
        assert httpx.post(url, content=b"x" * (on_alert.MOST + 1), headers=known).status_code == 413
        resolved = httpx.post(url, json={"alerts": [alert | {"status": "resolved"}]}, headers=known)
        assert (resolved.json()["started"], starter.asked) == (False, [])
        told = httpx.post(url, json={"alerts": [alert]}, headers=known)
        assert (told.status_code, told.json()["started"]) == (202, True)
        assert httpx.get(f"{url}health").status_code == 200
        server.shutdown()
    assert starter.asked == [["ModelDecays"]]


def test_one_retraining_is_started_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    starter = on_alert.Starter(FLIGHTS)
    assert [starter.start(["ModelDecays"]), starter.start(["ModelDecays"])] == [True, False]
    assert starter.child is not None and starter.child.wait() != 0  # there is no project here
    assert starter.start([])
    starter.child.wait()
