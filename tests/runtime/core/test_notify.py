"""What operators are told when a command fails: by a webhook and by mail, to real receivers on this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiosmtpd.controller import Controller
from flight_delays.__main__ import main

FAILING = ["maturity", "--list"]  # quick, and ends with exit code 1 here: `workdir` has no .copier-answers.yml
PACKAGE = "flight_delays"


class Webhook(BaseHTTPRequestHandler):
    taken: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The messages that the webhook in NOTIFY_URL takes."""
    monkeypatch.setattr(Webhook, "taken", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NOTIFY_URL", f"json://127.0.0.1:{server.server_port}/hook")
        yield Webhook.taken
        server.shutdown()


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The mails, as text, that the server in NOTIFY_MAIL takes."""
    taken: list[str] = []

    class Inbox:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            mail = message_from_bytes(envelope.content)
            parts = [part.get_payload(decode=True) or b"" for part in mail.walk()]
            taken.append(
                "\n".join([*envelope.rcpt_tos, str(mail["Subject"]), *(bytes(part).decode() for part in parts)])
            )
            return "250 taken"

    controller = Controller(Inbox(), hostname="127.0.0.1", port=free_port())
    controller.start()
    address = f"mailto://127.0.0.1:{controller.port}?from=pipeline@example.org&to=ops@example.org&mode=insecure"
    monkeypatch.setenv("NOTIFY_MAIL", address)
    yield taken
    controller.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def receivers(folder: Path, *names: str) -> None:
    conf = folder / "conf/notify.yml"
    text = conf.read_text(encoding="utf-8")
    wanted = ", ".join('"${' + name + '}"' for name in names)
    conf.write_text(text.replace('"${NOTIFY_URL}"', wanted), encoding="utf-8")


@pytest.mark.practice("pipeline-failure-alerts")
def test_a_failing_command_tells_the_webhook_what_failed_and_why(
    workdir: Path, webhook: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    (workdir / "half.parquet").write_bytes(b"PAR1")
    assert main(["notify", "validate", "--file", "half.parquet"]) == 3
    [message] = webhook
    assert f"{PACKAGE} validate: exit code 3" in message["title"]
    assert message["type"] == "failure"
    assert "fails on half.parquet" in message["message"]
    assert "fails on half.parquet" in capfd.readouterr().err  # and the person who typed it sees it too


@pytest.mark.practice("pipeline-failure-alerts")
def test_a_failing_command_sends_a_mail(workdir: Path, webhook: list[dict[str, Any]], mailbox: list[str]) -> None:
    receivers(workdir, "NOTIFY_URL", "NOTIFY_MAIL")
    assert main(["notify", *FAILING]) == 1
    [mail] = mailbox
    assert mail.startswith("ops@example.org")
    assert "exit code 1" in mail and ".copier-answers.yml" in mail
    assert len(webhook) == 1


@pytest.mark.practice("pipeline-failure-alerts")
def test_a_command_that_works_tells_nobody(
    workdir: Path, webhook: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["notify", "maturity", "--help"]) == 0
    assert "usage:" in capfd.readouterr().out
    assert webhook == []


def test_only_the_last_lines_are_sent(workdir: Path, webhook: list[dict[str, Any]]) -> None:
    conf = workdir / "conf/notify.yml"
    conf.write_text(conf.read_text(encoding="utf-8").replace("last_lines: 20", "last_lines: 1"), encoding="utf-8")
    assert main(["notify", "maturity", "--lost"]) == 2  # argparse prints its usage and then, last, the error
    assert webhook[0]["message"].count("\n") == 0 and "--lost" in webhook[0]["message"]


def test_a_message_of_ones_own_is_sent(workdir: Path, webhook: list[dict[str, Any]]) -> None:
    assert main(["notify", "--message", "the nightly run failed"]) == 0
    assert webhook[0]["message"] == "the nightly run failed"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (None, r"\${NOTIFY_URL} needs the environment variable NOTIFY_URL"),
        ("", r"\${NOTIFY_URL} is no address"),  # how a workflow hands over a secret that nobody set
        ("nonsense-secret", r"\${NOTIFY_URL} is no address"),
        ("slack://secret", r"\${NOTIFY_URL} is no address"),
        ("json://operator:secret@127.0.0.1:9/secret", r"\${NOTIFY_URL} did not take it: .*127.0.0.1"),
    ],
)
def test_who_cannot_be_told_is_named_and_the_failure_stays_the_commands(
    address: str | None, reason: str, workdir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NOTIFY_URL", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_URL", address)
    assert main(["notify", "--message", "a test"]) == 1
    assert main(["notify", *FAILING]) == 1
    assert main(["notify", "maturity", "--lost"]) == 2
    said = capfd.readouterr().err
    assert len(re.findall(f"not told to 1 of 1 receivers: {reason}", said)) == 3
    assert "secret" not in said


def test_the_second_receiver_is_told_when_the_first_cannot_be(
    workdir: Path, webhook: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    receivers(workdir, "NOTIFY_ABSENT", "NOTIFY_URL")
    assert main(["notify", "--message", "a test"]) == 1
    assert len(webhook) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with a name and signals are POSIX")
def test_a_command_that_is_stopped_from_outside_is_told(handed_over: Path, webhook: list[dict[str, Any]]) -> None:
    os.mkfifo("rows.csv")  # to score it is to wait for it
    command = [sys.executable, "-m", PACKAGE, "notify", "score", "rows.csv"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        writer = opened(handed_over / "rows.csv")
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 128 + signal.SIGTERM
        os.close(writer)
    [message] = webhook
    assert f"exit code {128 + signal.SIGTERM}" in message["title"]


def opened(pipe: Path) -> int:
    """Return the pipe's end for writing as soon as somebody reads it."""
    for _ in range(600):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.1)
    raise AssertionError("nobody read the pipe for a minute")


@pytest.mark.parametrize("words", [[], ["--message", "a", "train"]])
def test_neither_or_both_of_command_and_message_is_a_usage_error(words: list[str], workdir: Path) -> None:
    assert main(["notify", *words]) == 2


def test_an_address_without_a_part_from_the_environment_is_an_error(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "conf/notify.yml").write_text("receivers: [mailto://me:secret@host]\nlast_lines: 20\n", encoding="utf-8")
    assert main(["notify", *FAILING]) == 1
    assert "receivers.0" in capsys.readouterr().err
