"""The service around the model: what it answers to good and to bad requests, what it counts, how it stops."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from mlops_ladder.core.errors import ProjectError, Refused
from mlops_ladder.data.rows import MAX_LENGTH, read_note
from mlops_ladder.serving.app import network
from mlops_ladder.serving.contract import Contract, Unanswerable
from mlops_ladder.serving.servable import resolve
from projects import FLIGHTS, ROOT, python_path
from prometheus_client.parser import text_string_to_metric_families

PROJECT = ROOT
JSON = {"content-type": "application/json"}


@pytest.fixture
def row(client: httpx.Client) -> dict[str, Any]:
    """A row that the service answers: the example of the hand-off note."""
    return client.get("/model").json()["example"]["row"]


@pytest.mark.practice("prediction-service")
def test_one_row_and_many_are_answered_alike(client: httpx.Client, row: dict[str, Any]) -> None:
    one, many = client.post("/predict", json=row), client.post("/predict", json=[row, row, row])
    assert (one.status_code, many.status_code) == (200, 200)
    assert many.json()["predictions"] == one.json()["predictions"] * 3


@pytest.mark.practice("prediction-service")
def test_health_ready_and_docs_answer(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json()["status"] == "ready"
    assert "openapi.json" in client.get("/docs").text
    root = client.get("/")
    assert root.is_redirect and root.next_request and root.next_request.url == client.base_url.join("/docs")
    assert "/" not in client.get("/openapi.json").json()["paths"]


@pytest.mark.practice("prediction-service")
def test_openapi_shows_typed_columns_and_a_real_example(client: httpx.Client) -> None:
    model, document = client.get("/model").json(), client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["Row"]
    assert schema["required"] == list(model["columns"])
    assert schema["example"] == model["example"]["row"]
    for name, rule in model["columns"].items():
        told = schema["properties"][name]
        (told, *null) = told.get("anyOf", [told])
        assert (null == [{"type": "null"}]) == rule.get("null", False), name
        assert told["type"] == {"number": "number", "boolean": "boolean"}.get(rule["type"], "string")
        assert (told.get("minimum"), told.get("maximum")) == (rule.get("min"), rule.get("max")), name
        assert told.get("enum", [told.get("const")] if "const" in told else None) == rule.get("values"), name


@pytest.mark.practice("prediction-service")
def test_model_tells_what_answers(client: httpx.Client) -> None:
    model = client.get("/model").json()
    assert model["version"] == model["sha256"][:12]
    assert model["metrics"] and model["columns"] and model["output"] and model["libraries"] == model["running"]
    assert "contact" not in model


@pytest.mark.practice("app-unit-tests")
def test_each_wrong_cell_is_named(client: httpx.Client, row: dict[str, Any]) -> None:
    columns = client.get("/model").json()["columns"]
    for name, rule in columns.items():
        wrong: list[Any] = [[], {}, float("nan"), float("inf")]
        wrong += [] if rule.get("null") else [None]
        wrong += [row[name] + "Z", "yesterday", 5] if rule["type"] == "time" else []
        wrong += ["12", True] if rule["type"] == "number" else []
        wrong += [rule[key] + step for key, step in (("min", -1), ("max", 1)) if key in rule]
        wrong += ["not one of them"] if "values" in rule else []
        for value in wrong:
            body = json.dumps([row, row | {name: value}])
            answer = client.post("/predict", content=body, headers=JSON)
            assert answer.status_code == 422, (name, value, answer.text)
            assert [(item["row"], item["column"]) for item in answer.json()["problems"]] == [(1, name)]
            assert answer.json()["error"].startswith(f"row 1: {name} is "), answer.text


GOOD = {"n": 1.5, "p": 100, "t": "2013-07-04T10:00:00", "c": "a", "s": None, "b": True, "f": "abc"}
CONTRACT = {
    "n": {"type": "number"},
    "p": {"type": "number", "min": 0, "max": 100},
    "t": {"type": "time"},
    "c": {"type": "category", "values": ["a", "b"]},
    "s": {"type": "text", "null": True},
    "b": {"type": "boolean"},
    "f": {"type": "category", "max_length": 3},
}


@pytest.mark.practice("app-unit-tests")
def test_contract_takes_exactly_the_types_of_its_columns() -> None:
    contract = Contract(FLIGHTS, CONTRACT)
    assert contract.parse(json.dumps(GOOD).encode()) == [GOOD | {"t": datetime(2013, 7, 4, 10)}]
    wrong: dict[str, list[Any]] = {
        "n": ["1.5", True, None, float("nan"), float("inf"), 10**400, [1]],
        "p": [-0.1, 100.1, 1e300],
        "t": ["2013-07-04T10:00:00Z", "2013-07-04T10:00:00+02:00", "4 July", "1372932000", 1372932000, None],
        "c": ["c", "A", "", 1, None],
        "s": [1, 1.5, False, ["a"], "x" * (MAX_LENGTH + 1)],
        "f": ["abcd", "abc\U0001f600"],
        "b": ["true", 1, 0, None],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(Unanswerable, match=f"^row 2: {name} is ") as refused:
                contract.parse(json.dumps([GOOD, GOOD, GOOD | {name: value}, {}]).encode())
            assert [(item["row"], item["column"]) for item in refused.value.problems] == [(2, name)]
    assert contract.parse(json.dumps(GOOD | {"s": "\U0001f600" * MAX_LENGTH}).encode())  # characters, not bytes
    with pytest.raises(Unanswerable, match="^row 0: shoe_size is no column of this model$"):
        contract.parse(json.dumps(GOOD | {"shoe_size": 43}).encode())


@pytest.mark.practice("app-unit-tests")
def test_missing_and_unknown_columns_are_named(client: httpx.Client, row: dict[str, Any]) -> None:
    for name in row:
        answer = client.post("/predict", json={key: value for key, value in row.items() if key != name})
        assert (answer.status_code, answer.json()["error"]) == (422, f"row 0: {name} is missing")
    answer = client.post("/predict", json=row | {"shoe_size": 43})
    assert (answer.status_code, answer.json()["error"]) == (422, "row 0: shoe_size is no column of this model")


@pytest.mark.practice("app-unit-tests")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b'{"half": ', 400),
        (b"\xff\xfe\x00", 400),
        (b"[" * 50_000, 400),
        (b'{"a":' * 50_000, 400),
        (b"[]", 422),
        (b"{}", 422),
        (b"null", 422),
        (b"17", 422),
        (b"[17]", 422),
        (b"[[]]", 422),
        (b"NaN", 422),
        (b"[" + b"{}," * 100_000 + b"{}]", 422),
        (b"{" + b",".join(b'"c%d":1' % i for i in range(50_000)) + b"}", 422),
    ],
    ids=lambda value: str(value[:12]) if isinstance(value, bytes) else str(value),
)
def test_bodies_that_are_no_rows_are_explained(client: httpx.Client, body: bytes, status: int) -> None:
    answer = client.post("/predict", content=body, headers=JSON)
    assert answer.status_code == status, answer.text[:300]
    assert answer.json()["error"]
    assert len(answer.content) < 20_000


@pytest.mark.practice("app-unit-tests")
def test_wrong_content_type_route_and_method_are_explained(client: httpx.Client, row: dict[str, Any]) -> None:
    for headers in ({"content-type": "text/csv"}, {}):
        assert client.post("/predict", content=json.dumps(row).encode(), headers=headers).status_code == 415
    for answer, status in ((client.get("/nowhere"), 404), (client.get("/predict"), 405)):
        assert answer.status_code == status
        assert answer.json()["error"] and answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.practice("app-unit-tests")
def test_every_answer_names_request_and_version(client: httpx.Client, row: dict[str, Any]) -> None:
    version = client.get("/model").json()["version"]
    for answer in (client.post("/predict", json=row), client.post("/predict", json={}), client.get("/health")):
        assert answer.headers["x-model-version"] == version
        assert answer.json().get("request_id", answer.headers["x-request-id"]) == answer.headers["x-request-id"]
    named = client.post("/predict", json=row, headers={"x-request-id": "order-17"})
    assert named.json()["request_id"] == named.headers["x-request-id"] == "order-17"
    forged = client.post("/predict", json=row, headers={"x-request-id": "17; drop"})
    assert forged.json()["request_id"] == forged.headers["x-request-id"] != "17; drop"


@pytest.mark.practice("operational-metrics")
def test_metrics_count_requests_and_latency_by_route_and_status(client: httpx.Client, row: dict[str, Any]) -> None:
    def counted() -> dict[tuple[str, str, str], float]:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return {
            (sample.name, sample.labels["route"], sample.labels["status"]): sample.value
            for family in families
            for sample in family.samples
            if "route" in sample.labels and sample.labels.get("le") in (None, "+Inf")
        }

    before = counted()
    for body in ([row] * 4, [row], row, {}, {}):
        client.post("/predict", json=body)
    client.get("/nowhere")
    client.get("/elsewhere")
    gained = {key: value - before.get(key, 0) for key, value in counted().items()}
    for name in ("http_requests_total", "http_request_duration_seconds_count", "http_request_duration_seconds_bucket"):
        assert gained[name, "/predict", "200"] == 3
        assert gained[name, "/predict", "422"] == 2
        assert gained[name, "none", "404"] == 2  # one label for all unknown paths
    assert gained["http_request_duration_seconds_sum", "/predict", "200"] > 0


@pytest.mark.practice("app-unit-tests")
def test_large_bodies_and_many_rows_are_refused(
    handed_over: Path, serve: Callable[..., Any], row: dict[str, Any]
) -> None:
    size = len(json.dumps(row))
    settings = handed_over / "conf/serving.yml"
    text = settings.read_text(encoding="utf-8").replace("1_000_000", str(10 * size)).replace("1_000 ", "3 ")
    settings.write_text(text, encoding="utf-8")

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield json.dumps(row).encode()

    with serve(handed_over) as (client, _):
        assert client.post("/predict", json=[row] * 3).status_code == 200
        answers = {
            "rows": client.post("/predict", json=[row] * 4),
            "bytes": client.post("/predict", json=[row] * 20),
            "bytes without a content-length": client.post("/predict", content=pieces(), headers=JSON),
        }
        assert [answer.status_code for answer in answers.values()] == [422, 413, 413]
        assert "at most 3" in answers["rows"].json()["error"]
        assert all(f"{10 * size:,} " in answers[name].json()["error"] for name in list(answers)[1:])
        assert client.post("/predict", json=row).status_code == 200


@pytest.mark.practice("prediction-service")
def test_stopping_loses_no_request_in_flight(handed_over: Path, serve: Callable[..., Any], row: dict[str, Any]) -> None:
    body = json.dumps([row] * 3).encode()
    with serve(handed_over) as (client, process):
        address = (client.base_url.host, client.base_url.port)
        callers = [socket.create_connection(address) for _ in range(4)]
        for caller in callers:  # half a request each: the service is at work on all of them
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            caller.sendall(head.encode() + b"\r\n" + body[:50])
        while "http_requests_in_flight 5.0" not in client.get("/metrics").text:
            time.sleep(0.01)

        process.send_signal(signal.SIGTERM)
        while (ready := client.get("/ready")).status_code == 200:
            time.sleep(0.01)
        assert ready.status_code == 503 and ready.headers["connection"] == "close"
        with pytest.raises(httpx.TransportError):
            while True:
                client.get("/health")
        time.sleep(0.5)  # well into the shutdown, which waits for nothing but these four
        for caller in callers:
            caller.sendall(body[50:])
            answer = b"".join(iter(lambda caller=caller: caller.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"]) == 3
            caller.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.practice("prediction-service")
def test_service_told_to_stop_answers_on_until_others_know(
    handed_over: Path, serve: Callable[..., Any], row: dict[str, Any]
) -> None:
    settings = handed_over / "conf/serving.yml"
    settings.write_text(settings.read_text(encoding="utf-8").replace("drain_s: 0.5", "drain_s: 60"), encoding="utf-8")
    with serve(handed_over) as (client, process):
        process.send_signal(signal.SIGTERM)
        while client.get("/ready").status_code == 200:
            time.sleep(0.01)
        time.sleep(0.5)
        assert client.post("/predict", json=row).status_code == 200


def test_caller_that_hangs_up_harms_nobody(client: httpx.Client, row: dict[str, Any]) -> None:
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"
    for _ in range(5):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as caller:
            caller.sendall(head)
    assert client.post("/predict", json=row).status_code == 200
    assert 'status="500"' not in client.get("/metrics").text


def address(client: httpx.Client) -> tuple[str, int]:
    return client.base_url.host, client.base_url.port or 0


def limit(folder: Path, **changes: Any) -> None:
    """Change conf/serving.yml."""
    file = folder / "conf/serving.yml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def until_closed(caller: socket.socket) -> bytes:
    """Return what CALLER is sent before the service closes the connection; it must, or this raises TimeoutError."""
    caller.settimeout(60)
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: caller.recv(65536), b""))
    return b""


HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.mark.practice("prediction-service")
def test_requests_that_never_end_are_cut_off_and_idle_connections_closed(
    handed_over: Path, serve: Callable[..., Any], row: dict[str, Any]
) -> None:
    limit(handed_over, receive_s=4, idle_s=2)
    line = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    sent = {  # what comes at once and, in turn, every half of a second; what is answered at last
        "nothing": (b"", b"", b""),
        "line ends": (b"\r\n", b"\r\n", b""),
        "an answered request": (line, b"", b"HTTP/1.1 200"),
        "an answered request and line ends": (line, b"\r\n", b"HTTP/1.1 200"),
        "a line that never ends": (b"GET /", b"a", b"HTTP/1.1 408"),
        "headers that never end": (HEAD, b"x-more: 1\r\n", b"HTTP/1.1 408"),
        "a header that never ends": (HEAD + b"x-more: ", b"1", b"HTTP/1.1 408"),
        "a body that never ends": (HEAD + b"content-length: 900000\r\n\r\n", b" ", b"HTTP/1.1 408"),
    }
    with serve(handed_over) as (client, _):
        callers = {what: socket.create_connection(address(client)) for what in sent}
        for what, caller in callers.items():
            caller.sendall(sent[what][0])
        slow = socket.create_connection(address(client))  # one that ends in time
        body = json.dumps(row).encode()
        slow.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body[:9])
        stopped = threading.Event()

        def drip() -> None:
            while not stopped.wait(0.5):
                for what, caller in callers.items():
                    with contextlib.suppress(OSError):
                        caller.sendall(sent[what][1])

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        time.sleep(2)
        slow.sendall(body[9:])
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        for what, caller in callers.items():
            answer = until_closed(caller)
            assert answer.startswith(sent[what][2]) and bool(answer) == bool(sent[what][2]), (what, answer)
        stopped.set()
        dripping.join()
        assert client.post("/predict", json=row).status_code == 200
        assert 'http_connections_ended_total{why="late"}' in client.get("/metrics").text


@pytest.mark.practice("prediction-service")
def test_headers_without_an_end_do_not_fill_the_memory(client: httpx.Client) -> None:
    with socket.create_connection(address(client)) as caller:
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                caller.sendall(b"x" * 10_000 if _ else HEAD + b"x-long: ")
        answer = until_closed(caller)
        assert not answer or answer.startswith(b"HTTP/1.1 431"), answer  # it may be lost with what came after it
    assert re.search(r'http_connections_ended_total{why="large"} [1-9]', client.get("/metrics").text)


@pytest.mark.practice("prediction-service")
@pytest.mark.parametrize("bound", ["connections", "connections_per_address"])
def test_connections_beyond_the_bound_are_refused_and_make_room_again(
    handed_over: Path, serve: Callable[..., Any], bound: str
) -> None:
    limit(handed_over, **{bound: 5}, receive_s=5)
    with serve(handed_over) as (client, _):
        callers = [socket.create_connection(address(client)) for _ in range(5)]
        for caller in callers:
            caller.sendall(HEAD)
        time.sleep(0.5)
        with socket.create_connection(address(client)) as late:
            answer = until_closed(late)
            assert answer.startswith(b"HTTP/1.1 503") and b"5 connections" in answer, answer
        for caller in callers:
            assert until_closed(caller).startswith(b"HTTP/1.1 408")
        assert client.get("/health").status_code == 200
        assert 'http_connections_ended_total{why="full"} 1.0' in client.get("/metrics").text
        assert "\nhttp_connections 1.0" in client.get("/metrics").text


def test_addresses_are_counted_by_whom_they_belong_to() -> None:
    assert network("10.0.0.1") == network("::ffff:10.0.0.1") != network("::ffff:10.0.0.2")
    assert network("2001:db8::1") == network("2001:db8::ffff:2%eth0") != network("2001:db8:0:1::1")


@pytest.mark.practice("prediction-service")
def test_a_caller_who_reads_no_answers_is_let_go(client: httpx.Client) -> None:
    line = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(address(client))
        caller.sendall(line * 1000)
        end = time.monotonic() + 120
        while not re.search(r'http_connections_ended_total{why="unread"} [1-9]', client.get("/metrics").text):
            assert time.monotonic() < end
            time.sleep(0.2)


EXTENSION = """
import contextlib

from . import servable
from .app import Endpoint, add_endpoint

class Seven(servable.Servable):
    async def predict(self, rows):
        if len(rows) == 5:
            raise RuntimeError("the secret cause")
        return [7.0 for _ in rows]


def resolve(project, uri):
    model = servable.open_file(project, project.path("models/model.skops"))
    model.__class__, model.version = Seven, uri
    return model


@contextlib.asynccontextmanager
async def life():
    yield
    print("flushed", flush=True)


def extend(app, service):
    service.lifespans.append(life)
    add_endpoint(app, service, Endpoint(servable.resolve(service.project, "seven:b"), "/b"))
    service.answered.append(lambda request, rows, answer: print(answer["request_id"], len(rows), flush=True))

    @app.post("/swap")
    async def swap(to: str):
        service.main.servable = servable.resolve(service.project, to)
"""
LEVEL = """
from ..core.levels import Level

LEVEL = Level(number=4, openers={"seven": "serving.seven"}, extensions=("serving.seven",))
"""


@pytest.mark.practice("app-unit-tests")
def test_later_level_adds_models_and_routes_and_swaps_without_an_edit(
    handed_over: Path, serve: Callable[..., Any], row: dict[str, Any]
) -> None:
    runtime = shutil.copytree(PROJECT / "runtime/src", handed_over / "runtime/src")
    (runtime / "mlops_ladder/serving/seven.py").write_text(EXTENSION, encoding="utf-8")
    (runtime / "mlops_ladder/levels/level_4.py").write_text(LEVEL, encoding="utf-8")
    with serve(handed_over, PYTHONPATH=python_path(runtime)) as (client, process):
        assert client.post("/b/predict", json=row).json()["predictions"] == [7.0]
        assert "/b/predict" in client.get("/openapi.json").json()["paths"]
        assert client.post("/predict", json=row).json()["predictions"] != [7.0]

        assert client.post("/swap?to=seven:c").status_code == 200
        answer = client.post("/predict", json=[row, row], headers={"x-request-id": "after"})
        assert (answer.json()["predictions"], answer.headers["x-model-version"]) == ([7.0, 7.0], "seven:c")
        assert [process.stdout.readline() for _ in range(3)][-1] == "after 2\n"

        failed = client.post("/predict", json=[row] * 5, headers={"x-request-id": "unlucky"})
        assert (failed.status_code, failed.headers["x-request-id"]) == (500, "unlucky")
        assert "secret" not in failed.text and "Traceback" not in failed.text
        log = (handed_over / "serve.log").read_text(encoding="utf-8")
        assert "request unlucky" in log and "the secret cause" in log
        assert client.post("/swap").json()["error"] == "query.to: Field required"

        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0].endswith("flushed\n")


@pytest.mark.practice("prediction-service")
def test_model_that_is_not_what_its_note_says_is_not_served(handed_over: Path) -> None:
    file, note = handed_over / "models/model.skops", handed_over / "models/HANDOFF.md"
    servable = resolve(FLIGHTS, str(file))
    assert servable.version == read_note(file)["sha256"][:12]

    text = note.read_text(encoding="utf-8")
    note.write_text(re.sub(r'("prediction": )[-0-9.e]+', r"\g<1>0.123", text), encoding="utf-8")
    with pytest.raises(Refused, match="the note says 0.123"):
        resolve(FLIGHTS, str(file))
    note.write_text(text.replace('"columns"', '"colums"'), encoding="utf-8")
    with pytest.raises(ProjectError, match="no JSON block with columns"):
        resolve(FLIGHTS, str(file))
    note.write_text(text.replace(servable.version, "0" * 12), encoding="utf-8")
    with pytest.raises(Refused, match="is not the file that the note beside it describes"):
        resolve(FLIGHTS, str(file))
    with pytest.raises(ProjectError, match="nothing here opens ftp: models"):
        resolve(FLIGHTS, "ftp://somewhere/model.skops")


@pytest.mark.practice("prediction-service")
def test_service_that_cannot_start_says_why_without_a_traceback(workdir: Path, client: httpx.Client) -> None:
    command = [sys.executable, "-m", "flight_delays", "serve", "--port", str(client.base_url.port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no model file models/model.skops")
