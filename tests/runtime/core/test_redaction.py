"""No password or token stands in what is printed, sent or kept; all else stays as it is."""

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flight_delays.__main__ import main
from mlops_ladder.core import files, redaction
from mlops_ladder.loop import audit
from projects import FLIGHTS, ROOT

SECRET = "hunter2-s3cret"


@pytest.mark.practice("security-policies")
@pytest.mark.parametrize(
    "text",
    [
        "postgresql://reader:{}@db:5432/flights cannot be reached",
        "postgresql://reader:p@{}@db/flights",
        "https://{}@git.example.org/a.git",
        "https://store/a.parquet?token={}&page=2",
        "https://store/a.parquet?page=2&X-Amz-Signature={}",
        "https://account.blob/x?sv=2024&sig={}",
        "https://host/hook?password={}#top",
        "host=db user=reader password={} port=5432",
        "Server=db;PWD={};Database=flights",
        "Authorization: Bearer {}",
        '{{"url": "https://host/?api_key={}", "n": 1}}',
        "the value {} of a variable",
    ],
)
def test_a_secret_is_taken_out_of_a_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "variable" in text:
        monkeypatch.setenv("DB_PASSWORD", SECRET)
    whole = text.format(SECRET)
    hidden = redaction.redact(whole)
    assert SECRET not in hidden and hidden != whole
    assert redaction.redact(hidden) == hidden, "once is enough"
    if whole.startswith("{"):
        assert json.loads(hidden)["n"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/predict answers 503",
        "http://127.0.0.1:8000/ask@once",
        "postgresql://reader:${DB_PASSWORD}@db/flights",
        "https://store/a.parquet?page=2&sort=token",
        "ada@example.org trained it; ask grace@example.org",
        "sqlite:///mlflow.db, models:/flights@champion",
        "conf/limits.yml: burst=20 rate=5",
        "ssh://git@host/a.git",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redaction.redact(text) == text


@pytest.mark.practice("security-policies")
def test_a_password_on_the_command_line_stands_in_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"postgresql+nothing://reader:{SECRET}@127.0.0.1:1/db#flights"
    for words in (["drift", url, url], [url], ["drift", url, url, f"--{url}"]):
        try:
            assert main(words) != 0
        except SystemExit as ended:  # argparse
            assert ended.code == 2
        said = capsys.readouterr()
        assert said.err and SECRET not in said.out + said.err


def test_a_traceback_holds_no_password(tmp_path: Path) -> None:
    code = "import sys; from mlops_ladder.core import redaction\nwith redaction.output():\n"
    code += "    raise RuntimeError('no ' + sys.argv[1])"
    words = [sys.executable, "-c", code, f"mysql://a:{SECRET}@host/db"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "RuntimeError: no mysql://a:***@host/db" in done.stderr


@pytest.mark.practice("security-policies", "audit-trail")
def test_what_is_kept_holds_no_password(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(trained.parent / "empty.db", tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    url = f"https://reader:{SECRET}@host/data?page=2"
    audit.record(FLIGHTS, "test", "version 1", f"rows of {url}", source=url, more=[{"url": url}])
    files.write_json(tmp_path / "result.json", {"source": [url], "rows": 3})
    for file in (tmp_path / "result.json", tmp_path / "audit/audit.jsonl"):
        text = file.read_text()
        assert SECRET not in text and "https://reader:***@host/data?page=2" in text
    assert files.read_json(tmp_path / "result.json")["rows"] == 3


def test_rows_on_stdout_are_left_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with redaction.output():
        redaction.plain(sys.stdout).write("id,link\n1,https://a:b@host\n")
        print("https://a:b@host")
    assert capsys.readouterr().out == "id,link\n1,https://a:b@host\nhttps://a:***@host\n"


def test_notify_sends_no_password(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    taken: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.chdir(ROOT)
    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NOTIFY_URL", f"json://127.0.0.1:{server.server_port}/hook")
        monkeypatch.setenv("NOTIFY_MAIL", f"json://127.0.0.1:{server.server_port}/hook")
        main(["notify", "--message", f"lost https://a:{SECRET}@host/x"])
        server.shutdown()
    assert taken and SECRET not in "".join(taken) and "a:***@host" in taken[0]
