"""Who may ask the service, how much, how often and how long it may take; all of it over TLS."""

import contextlib
import io
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flight_delays.__main__ import main
from mlops_ladder.data.rows import read_note
from projects import ROOT

PROJECT = ROOT
LIMITS = "require_key: true\nrate_per_s: 5\nburst: 20\nat_once: 3\ndeadline_s: 5\n"


@pytest.fixture(scope="module")
def guarded(
    serve: Callable[..., Any], models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A service that speaks TLS and asks for keys; `key(name, scope)` makes one."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copytree(PROJECT / "conf", folder / "conf")
    shutil.copytree(models, folder / "models")
    (folder / "conf/limits.yml").write_text(LIMITS)
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(["openssl", *words.split(), *files], cwd=folder, check=True, capture_output=True)
    conf = folder / "conf/serving.yml"
    text = conf.read_text().replace("tls_certificate: null", "tls_certificate: certificate.pem")
    conf.write_text(text.replace("tls_key: null", "tls_key: key.pem"))
    secure = ssl.create_default_context(cafile=folder / "certificate.pem")

    def key(name: str, scope: str = "predict") -> dict[str, str]:
        said = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(said):
            assert main(["keys", "add", name, "--scope", scope]) == 0
        return {"authorization": f"Bearer {said.getvalue().strip()}"}

    first = key("first", "admin")
    row = read_note(models / "model.skops")["example"]["row"]
    with serve(folder) as (plain, _), httpx.Client(base_url=plain.base_url, verify=secure, timeout=30) as http:
        yield SimpleNamespace(http=http, key=key, first=first, folder=folder, row=row, secure=secure)


def ask(guarded: Any, key: dict[str, str] | None = None) -> httpx.Response:
    return guarded.http.post("/predict", json=guarded.row, headers=key or {})


def taken(guarded: Any, name: str, scope: str = "predict") -> dict[str, str]:
    """Return a new key, once the service has read it."""
    key = guarded.key(name, scope)
    end = time.monotonic() + 30
    while guarded.http.get("/openapi.json", headers=key).status_code == 401:
        assert time.monotonic() < end
        time.sleep(0.1)
    return key


@pytest.mark.practice("endpoint-security")
def test_predictions_are_made_for_those_who_have_a_key_and_over_tls(guarded: Any) -> None:
    key = taken(guarded, "shop")
    assert ask(guarded, key).status_code == 200
    for headers in ({}, {"authorization": "Bearer guessed"}, {"authorization": key["authorization"].split()[1]}):
        refused = ask(guarded, headers)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer KEY" in refused.json()["error"] and refused.json()["request_id"]
    with pytest.raises(httpx.HTTPError):
        httpx.get(str(guarded.http.base_url).replace("https", "http") + "/health")
    with pytest.raises(httpx.HTTPError, match="certificate"):
        httpx.get(f"{guarded.http.base_url}/health")  # by whoever does not trust this certificate


@pytest.mark.practice("endpoint-security")
def test_a_key_for_predictions_opens_nothing_else(guarded: Any) -> None:
    key = taken(guarded, "caller")
    assert guarded.http.get("/model", headers=key).status_code == 200
    assert guarded.http.get("/", headers=key).is_redirect  # to /docs, which this key may see
    refused = guarded.http.get("/metrics", headers=key)
    assert refused.status_code == 403 and "scope admin" in refused.json()["error"]
    assert guarded.http.get("/metrics", headers=guarded.first).status_code == 200
    assert guarded.http.get("/metrics").status_code == 401


@pytest.mark.practice("endpoint-security")
def test_a_key_is_shown_once_and_kept_as_a_hash(guarded: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    key = guarded.key("once")["authorization"].split()[1]
    kept = guarded.folder / "data/keys"
    assert "once predict " in kept.read_text() and key not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    monkeypatch.chdir(guarded.folder)
    assert main(["keys", "list"]) == 0
    said = capsys.readouterr().out
    assert "once predict\n" in said and key not in said
    assert main(["keys", "add", "once"]) == 1
    assert main(["keys", "remove", "nobody"]) == 1
    assert main(["keys", "add", "two words"]) == 2


@pytest.mark.practice("endpoint-security")
def test_a_removed_key_is_no_longer_taken(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = taken(guarded, "former")
    monkeypatch.chdir(guarded.folder)
    assert main(["keys", "remove", "former"]) == 0
    end = time.monotonic() + 30
    while ask(guarded, key).status_code != 401:
        assert time.monotonic() < end
        time.sleep(0.3)


@pytest.mark.practice("endpoint-security")
def test_a_key_of_the_environment_is_neither_copied_nor_said_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVICE_KEYS", f"desk predict {'0' * 64}")
    assert main(["keys", "add", "other"]) == 0
    assert "desk" not in Path("data/keys").read_text()
    assert main(["keys", "add", "desk"]) == 1 and main(["keys", "remove", "desk"]) == 1
    assert "SERVICE_KEYS" in capsys.readouterr().err
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr().out == "other predict\ndesk predict\n"


@pytest.mark.practice("endpoint-security")
def test_wrong_keys_are_turned_away_when_they_come_too_often_and_right_ones_are_not(guarded: Any) -> None:
    caller = taken(guarded, "neighbour")
    for headers, why in (({"authorization": "Bearer guessed"}, "wrong"), ({}, "none")):
        answers = [guarded.http.get("/model", headers=headers) for _ in range(100)]
        turned = [answer for answer in answers if answer.status_code == 429]
        assert turned and {answer.status_code for answer in answers} <= {401, 429}, why
        assert "without a known key asks more than 5 times a second" in turned[0].json()["error"]
        assert guarded.http.get("/model", headers=caller).status_code == 200
        time.sleep(max(int(answer.headers["retry-after"]) for answer in turned) + 5)
    answers = [guarded.http.get("/metrics", headers=caller).status_code for _ in range(100)]
    assert set(answers) == {403, 429}, "a key of another scope"
    time.sleep(5)


@pytest.mark.practice("endpoint-security")
def test_keys_that_are_made_and_removed_at_once_are_all_kept_and_all_gone(tmp_path: Path) -> None:
    def at_once(*calls: list[str]) -> None:
        words = [[sys.executable, "-m", "flight_delays", "keys", *call] for call in calls]
        running = [subprocess.Popen(call, cwd=tmp_path, stdout=subprocess.DEVNULL) for call in words]
        assert [one.wait() for one in running] == [0] * len(calls)

    at_once(*(["add", f"shop-{number}"] for number in range(12)))
    kept = [line.split()[0] for line in (tmp_path / "data/keys").read_text().splitlines()]
    assert sorted(kept) == sorted(f"shop-{number}" for number in range(12))
    at_once(*(["remove", f"shop-{number}"] for number in range(11)))
    assert (tmp_path / "data/keys").read_text().split()[0] == "shop-11"


@pytest.mark.practice("endpoint-security")
def test_who_asks_too_often_waits_and_others_do_not(guarded: Any) -> None:
    key, other = taken(guarded, "busy"), taken(guarded, "calm")
    answers = [guarded.http.get("/model", headers=key) for _ in range(200)]
    turned = [answer for answer in answers if answer.status_code == 429]
    assert turned and answers[0].status_code == 200
    assert "busy asks more than 5 times a second" in turned[0].json()["error"]
    assert guarded.http.get("/model", headers=other).status_code == 200
    assert guarded.http.get("/health").status_code == 200
    time.sleep(int(turned[-1].headers["retry-after"]))
    assert guarded.http.get("/model", headers=key).status_code == 200
    assert 'http_requests_turned_away_total{status="429"}' in guarded.http.get("/metrics", headers=guarded.first).text


@pytest.mark.practice("endpoint-security")
def test_too_many_at_once_and_too_slow_are_told_to_come_back(guarded: Any) -> None:
    key = taken(guarded, "slow")
    body = json.dumps(guarded.row).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\nauthorization: {key['authorization']}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    address = (guarded.http.base_url.host, guarded.http.base_url.port)
    callers = []
    for _ in range(3):
        caller = guarded.secure.wrap_socket(socket.create_connection(address), server_hostname=address[0])
        caller.sendall(head.encode() + body[:10])  # and no more: each is a request that does not end
        callers.append(caller)
    time.sleep(0.3)
    full = ask(guarded, key)
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert "3 requests are being answered" in full.json()["error"]
    assert guarded.http.get("/ready").status_code == 200
    for caller in callers:
        caller.settimeout(60)
        said = ""
        while not said.endswith("}"):
            said += caller.recv(65536).decode()
        assert said.startswith("HTTP/1.1 503") and "no answer within 5 s" in said and "retry-after: 1" in said
        caller.close()
    assert ask(guarded, key).status_code == 200


def with_keys(folder: Path) -> tuple[dict[str, str], dict[str, str], Path]:
    """Return what two callers with keys of scope admin send, and the file of the keys in FOLDER."""
    keys = []
    for name in ("first", "second"):
        said = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(said):
            assert main(["keys", "add", name, "--scope", "admin"]) == 0
        keys.append({"authorization": f"Bearer {said.getvalue().strip()}"})
    return keys[0], keys[1], folder / "data/keys"


DAMAGES = {"half a line": b"first admin 00", "no text": b"\xff\xfe\x00", "nought": bytes(80), "a word more": b"x"}


@pytest.mark.practice("endpoint-security")
def test_while_the_keys_are_damaged_those_before_hold_and_when_they_are_gone_none_does(
    serve: Callable[..., Any], handed_over: Path
) -> None:
    first, second, file = with_keys(handed_over)
    whole = file.read_bytes()

    def until(status: int, headers: dict[str, str], said: str = "") -> None:
        end = time.monotonic() + 30
        while (answer := http.get("/metrics", headers=headers)).status_code != status or said not in answer.text:
            assert time.monotonic() < end, answer.text
            time.sleep(0.1)

    with serve(handed_over) as (http, _):
        for what, damage in DAMAGES.items():
            file.write_bytes(whole[:-1] + b" x\n" if what == "a word more" else damage)
            until(200, first, "keys_damaged 1.0")
            assert http.get("/model").status_code == 401 and http.get("/model", headers=second).status_code == 200
            file.write_bytes(whole)
            until(200, second, "keys_damaged 0.0")
        file.unlink()
        until(401, first)
        assert http.get("/model").status_code == 401, "gone is closed, not open"
        file.write_bytes(whole)
        until(200, first, "keys_known 2.0")
        with contextlib.chdir(handed_over):
            assert main(["keys", "remove", "first"]) == main(["keys", "remove", "second"]) == 0
        until(401, second)
        assert http.get("/model").status_code == 401 and http.get("/health").status_code == 200
    log = (handed_over / "serve.log").read_text()
    assert "data/keys, line 1, is not `NAME SCOPE SHA256`" in log and "data/keys is no text" in log
    assert "the 2 keys read before hold" in log and "data/keys is gone" in log
    assert "Traceback" not in log


@pytest.mark.practice("endpoint-security")
@pytest.mark.parametrize("left", ["an empty file", "no file"])
def test_a_service_that_starts_without_the_keys_it_had_answers_nobody(
    serve: Callable[..., Any], handed_over: Path, left: str
) -> None:
    _, _, file = with_keys(handed_over)
    with contextlib.chdir(handed_over):
        assert main(["keys", "remove", "first"]) == main(["keys", "remove", "second"]) == 0
    if left == "no file":
        file.unlink()
    with serve(handed_over) as (http, _):
        assert http.get("/model").status_code == 401
        key, _, _ = with_keys(handed_over)
        assert http.get("/model", headers=key).status_code == 200, "a new key counts at once"
    assert "there is no key, so nobody is answered" in (handed_over / "serve.log").read_text()


@pytest.mark.practice("endpoint-security")
def test_a_service_does_not_start_with_damaged_keys(handed_over: Path) -> None:
    _, _, file = with_keys(handed_over)
    file.write_bytes(DAMAGES["half a line"])
    command = [sys.executable, "-m", "flight_delays", "serve", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: data/keys, line 1, is not"), done.stderr
    assert "Traceback" not in done.stderr
    file.write_bytes(DAMAGES["no text"])
    assert main(["keys", "list"]) == main(["keys", "add", "third"]) == 1


@pytest.mark.practice("endpoint-security")
def test_the_deadline_counts_from_the_first_byte(serve: Callable[..., Any], handed_over: Path) -> None:
    (handed_over / "conf/limits.yml").write_text(
        LIMITS.replace("true", "false").replace("deadline_s: 5", "deadline_s: 3")
    )
    with serve(handed_over) as (http, _), socket.create_connection((http.base_url.host, http.base_url.port)) as caller:
        body = json.dumps(read_note(handed_over / "models/model.skops")["example"]["row"]).encode()
        head = b"host: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        caller.sendall(b"POST /predict HTTP/1.1\r\n")
        time.sleep(3.5)
        caller.sendall(head + body)
        assert caller.recv(65536).startswith(b"HTTP/1.1 503")


@pytest.mark.practice("endpoint-security")
def test_the_openapi_document_tells_of_keys_and_limits(guarded: Any) -> None:
    document = guarded.http.get("/openapi.json", headers=guarded.first).json()
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    assert {"401", "403", "413", "429", "503"} < set(document["paths"]["/predict"]["post"]["responses"])
