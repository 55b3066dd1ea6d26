"""The alert rules of the generated project: what each fires on, who is told, and once for real, from gauge to webhook.

They need Debian's prometheus and prometheus-alertmanager, which `.ci/run` installs. Elsewhere these tests fail and say so.
"""

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Render, free_port, package_of, reads, sources

LEVEL = 4  # at which the rules appear
TOOLS = {"promtool": "prometheus", "prometheus": "prometheus", "amtool": "prometheus-alertmanager"}
TOOLS["prometheus-alertmanager"] = "prometheus-alertmanager"
SERIES = '{signal="decay",of="",kind="decay",owner="data-scientist",runbook="docs/runbook.md#decay",action="ACTION",version="1"}'
WAIT_S = 120  # it takes about six; a busy machine takes longer


@pytest.fixture(autouse=True)
def tools() -> None:
    absent = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    assert not absent, f"alert test not run: apt-get install {' '.join(absent)}"


@pytest.fixture
def rules(rendered: Render, tmp_path: Path) -> Path:
    """Return a copy of deploy/monitoring of the test's own."""
    return Path(shutil.copytree(rendered(LEVEL) / "deploy/monitoring", tmp_path / "monitoring"))


def call(*words: str) -> tuple[int, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def change(file: Path, old: str, new: str) -> None:
    text = reads(file)
    assert old in text, f"{file.name} has no {old!r} any more"
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_rules_and_routes_are_valid(rules: Path) -> None:
    for words in (
        ("promtool", "check", "rules", "rules.yml"),
        ("promtool", "check", "config", "prometheus.yml"),
        ("amtool", "check-config", "alertmanager.yml"),
    ):
        code, said = call(*words[:-1], str(rules / words[-1]))
        assert code == 0, said


def test_each_alert_fires_when_it_should_and_not_before(rules: Path) -> None:
    code, said = call("promtool", "test", "rules", str(rules / "rules_test.yml"))
    assert code == 0, said
    alerts = {line.split()[-1] for line in reads(rules / "rules.yml").splitlines() if "- alert:" in line}
    assert all(f"alertname: {name}" in reads(rules / "rules_test.yml") for name in alerts)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(monitoring_fired) == 1", "(monitoring_fired) == 2"),
        ("(monitoring_fired) == 1", "(monitoring_fired) >= 0"),
        ("> 0.01", "> 0.5"),
    ],
    ids=["never", "always", "too late"],
)
def test_an_alert_that_never_or_always_fires_is_noticed(rules: Path, old: str, new: str) -> None:
    change(rules / "rules.yml", old, new)
    code, said = call("promtool", "test", "rules", str(rules / "rules_test.yml"))
    assert code == 1 and "FAILED" in said


@pytest.mark.parametrize(("action", "receivers"), [("retrain", "retraining,people"), ("warn", "people")])
def test_who_is_told_depends_on_what_it_should_lead_to(action: str, receivers: str, rules: Path) -> None:
    conf = f"--config.file={rules / 'alertmanager.yml'}"
    code, said = call("amtool", "config", "routes", "test", conf, "alertname=ModelSignal", f"action={action}")
    assert (code, said.splitlines()[0]) == (0, receivers)


@contextlib.contextmanager
def listening(answer: Callable[[http.server.BaseHTTPRequestHandler], bytes]) -> Iterator[int]:
    """Serve what ANSWER makes of each request, in a thread; give the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer(self)
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextlib.contextmanager
def running(folder: Path, *words: str, name: str = "", **variables: str) -> Iterator[None]:
    with (folder / f"{name or words[0]}.log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, env=os.environ | variables)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_a_signal_that_fires_starts_the_retraining_and_reaches_people_with_owner_and_runbook(
    rules: Path, project: Render, environment: Render
) -> None:
    folder, on_alert = project(LEVEL), free_port()
    fired, received = {"retrain": 0, "warn": 0}, []

    def metrics(_: Any) -> bytes:
        lines = [f"monitoring_fired{SERIES.replace('ACTION', action)} {value}" for action, value in fired.items()]
        lines.append(
            f"monitoring_report_timestamp_seconds {time.time()}\nmodel_followed_timestamp_seconds {time.time()}"
        )
        return ("\n".join(lines) + "\n").encode()

    def webhook(request: http.server.BaseHTTPRequestHandler) -> bytes:
        body = json.loads(request.rfile.read(int(request.headers["content-length"])))
        received.append((request.path, request.headers.get("authorization"), body["alerts"]))
        if request.path != "/retraining":
            return b"{}"
        headers = {"authorization": request.headers["authorization"], "content-type": "application/json"}
        passed_on = urllib.request.Request(f"http://127.0.0.1:{on_alert}/", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(passed_on, timeout=WAIT_S) as answer:
            return answer.read()

    (rules / "token").write_text("secret", encoding="utf-8")
    with listening(metrics) as service, listening(webhook) as hook:
        manager, prometheus = free_port(), free_port()
        change(rules / "prometheus.yml", "15s", "1s")
        change(rules / "prometheus.yml", "127.0.0.1:8000", f"127.0.0.1:{service}")
        change(rules / "prometheus.yml", "127.0.0.1:9093", f"127.0.0.1:{manager}")
        change(rules / "rules.yml", "for: 1m", "for: 0s")
        change(rules / "alertmanager.yml", "group_wait: 30s", "group_wait: 0s")
        change(rules / "alertmanager.yml", "group_interval: 5m", "group_interval: 1s")
        change(rules / "alertmanager.yml", "http://127.0.0.1:9095/", f"http://127.0.0.1:{hook}/retraining")
        change(rules / "alertmanager.yml", "http://127.0.0.1:9096/", f"http://127.0.0.1:{hook}/people")
        change(rules / "alertmanager.yml", "/run/secrets/retrain-token", str(rules / "token"))
        alone = ["--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{manager}", "--storage.path=alerts"]
        asking = [f"--web.listen-address=127.0.0.1:{prometheus}", "--storage.tsdb.path=series"]
        receiver = [str(environment(LEVEL)), "-m", package_of(folder), "on-alert", "--port", str(on_alert)]
        secret = {"RETRAIN_TOKEN": "secret", "PYTHONPATH": sources(folder)}
        with (
            running(folder, *receiver, name="on-alert", **secret),
            running(rules, "prometheus-alertmanager", "--config.file=alertmanager.yml", *alone),
            running(rules, "prometheus", "--config.file=prometheus.yml", *asking),
        ):
            wait_for(lambda: any(up(prometheus, "monitoring_fired")), rules)
            wait_for(lambda: "waiting for alerts" in reads(folder / "on-alert.log"), folder)
            assert not received and "retrain" not in reads(folder / "on-alert.log"), "nothing has fired yet"
            fired["retrain"] = 1
            wait_for(lambda: {"/retraining", "/people"} <= {path for path, _, _ in received}, rules)
            # the retraining itself: it looked for what is in use, which this project has not got yet
            wait_for(lambda: "nothing is in use in prod" in reads(folder / "on-alert.log"), folder)
            fired["warn"] = 1
            wait_for(lambda: any(one["labels"]["action"] == "warn" for _, _, some in received for one in some), rules)
    for path, authorization, alerts in received:
        for alert in alerts:
            assert alert["labels"]["alertname"] == "ModelSignal"
            assert alert["labels"]["owner"] == "data-scientist"
            assert alert["annotations"]["runbook"] == "docs/runbook.md#decay"
            assert path == "/people" or (alert["labels"]["action"], authorization) == ("retrain", "Bearer secret")


def up(port: int, metric: str) -> Iterator[Any]:
    import urllib.request

    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={metric}") as answer,
    ):
        yield from json.loads(answer.read())["data"]["result"]


def wait_for(holds: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "\n".join(reads(file)[-2000:] for file in folder.glob("*.log"))
        time.sleep(0.2)
