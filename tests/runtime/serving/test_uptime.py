"""Whether the services are up: looked at, logged, told."""

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from flight_delays.__main__ import main


@pytest.mark.practice("compliance-infra-monitoring")
def test_a_service_that_is_down_is_told_and_logged(
    handed_over: Path, client: httpx.Client, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    up = str(client.base_url)
    with serve(handed_over) as (other, process):
        down = str(other.base_url)
        assert main(["uptime", up, down]) == 0
        process.kill()
        process.wait()
    assert main(["uptime", up, down]) == 3
    assert f"{down} is not ready" in capsys.readouterr().err
    assert main(["uptime", "--report", "--json"]) == 0
    found = {one["url"]: one for one in json.loads(capsys.readouterr().out)}
    assert (found[up]["share"], found[down]["share"], found[down]["looks"]) == (1.0, 0.5, 2)
    assert found[down]["last_down"] and not found[up]["last_down"]
    assert main(["uptime"]) == 2


@pytest.mark.practice("compliance-infra-monitoring")
def test_what_answers_otherwise_than_in_http_is_down(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"220 mail\r\n"), daemon=True).start()
        assert main(["uptime", f"http://127.0.0.1:{server.getsockname()[1]}"]) == 3
    assert "is not ready: 220 mail" in capsys.readouterr().err
    assert (workdir / "data/uptime.jsonl").read_text().count("220 mail") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_command_that_is_told_to_stop_does_so_even_as_the_first_process_of_a_container(workdir: Path) -> None:
    """There nothing but a handler of its own hears SIGTERM; with one it ends with 143, without one by the signal."""
    first = "import os, runpy; os.getpid = lambda: 1; runpy.run_module('flight_delays', run_name='__main__')"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen([sys.executable, "-c", first, "uptime", url]) as looking:
            caller, _ = silent.accept()
            looking.send_signal(signal.SIGTERM)
            assert looking.wait() == 128 + signal.SIGTERM
            caller.close()
    assert not (workdir / "data/uptime.jsonl").exists()  # a look that did not end is none
