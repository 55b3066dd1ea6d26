"""Receive alerts from Alertmanager by webhook and have the policy decide: each starts `retrain --if-triggered`.

RETRAIN_TOKEN=... python -m {package} on-alert --port 9095

Whoever posts must know RETRAIN_TOKEN (Alertmanager: http_config.authorization.credentials). An alert that fires and has the
label `retrain: "true"` counts as a trigger by itself; others make the policy look at the reports. GET /health answers as long as it runs.
"""

import argparse
import hmac
import http.server
import json
import os
import signal
import subprocess
import threading
from typing import Any

from ..core.errors import ProjectError
from ..core.progress import say
from ..core.project import Project

TOKEN = "RETRAIN_TOKEN"
MOST = 1_000_000  # bytes of a body


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9095, help="port, 0 takes a free one (default: %(default)s)")


def run(project: Project, options: argparse.Namespace) -> None:
    token = os.environ.get(TOKEN)
    if not token:
        raise ProjectError(f"{TOKEN} is not set: anybody could have it train; set it here and in Alertmanager")
    with http.server.ThreadingHTTPServer((options.host, options.port), receiver(token, Starter(project))) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"waiting for alerts on http://{options.host}:{server.server_port}", flush=True)
        server.serve_forever()


class Starter:
    """Starts retrainings, one after the other; what fires meanwhile, Alertmanager sends again."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.lock = threading.Lock()
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, alerts: list[str]) -> bool:
        """Start a retraining if the policy says so, unless one is being decided or done; return whether it was started."""
        with self.lock:
            if self.child and self.child.poll() is None:
                return False
            words = ["notify", "retrain", "--if-triggered", *(f"--alert={name}" for name in alerts)]
            self.child = subprocess.Popen(self.project.command(*words), cwd=self.project.folder)
            say(f"alert {', '.join(alerts) or 'without a trigger'}: {' '.join(words[1:])}")
            return True


def receiver(token: str, starter: Starter) -> type[http.server.BaseHTTPRequestHandler]:
    class Receiver(http.server.BaseHTTPRequestHandler):
        timeout = 10  # seconds for a body that does not come

        def do_GET(self) -> None:
            self.answer(
                *((200, {"status": "alive"}) if self.path == "/health" else (404, {"error": "POST alerts to /"}))
            )

        def do_POST(self) -> None:
            given = self.headers.get("authorization", "").encode()
            length = self.headers.get("content-length", "")
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                return self.answer(401, {"error": f"send what {TOKEN} holds as Bearer token"})
            if not length.isdigit() or int(length) > MOST:
                return self.answer(413, {"error": f"the body must have a length of up to {MOST:,} bytes"})
            try:
                alerts = json.loads(self.rfile.read(int(length)))["alerts"]
                firing = [one["labels"] for one in alerts if one["status"] == "firing"]
                names = [str(one["alertname"]) for one in firing if one.get("retrain") == "true"]
            except (ValueError, KeyError, TypeError):
                return self.answer(400, {"error": "the body is not what Alertmanager sends"})
            self.answer(202, {"started": bool(firing) and starter.start(names), "alerts": names})

        def answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: what was started is said by Starter."""

    return Receiver
