"""Measure the service: the same model behind `serve`, `mlflow models serve` and an echo route of the same server.

    nox -s bench -- serve
    uv run bench/serve.py --seconds 10 --rounds 5 --swaps 100000

One process each, 16 connections, one row a request, sent by wrk (Debian has it) or, without it, by a client of its own,
which is slower than the servers it measures. Each ratio is taken in one run, interleaved; the median of several rounds.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import yaml
from train import make_project, run

CONNECTIONS = 16
# A route of the same server that predicts nothing: what the server itself can do.
ECHO = """
from fastapi import FastAPI, Request, Response


def extend(app, service):
    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")
"""
GATE = """
import sys
from bench_project import features
from bench_project.__main__ import PROJECT
from mlops_ladder.serving.registry import open_version
from mlops_ladder.training import tracking
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType

chosen, client = tracking.open_store(PROJECT)
fitted = open_version(PROJECT, client, chosen.model, "1").fitted
kinds = {name: StringTensorType([None, 1]) for name in features.CATEGORIES}
kinds |= {name: FloatTensorType([None, 1]) for name in features.NUMBERS}
form = to_onnx(fitted, initial_types=list(kinds.items()), options={id(fitted): {"zipmap": False}})
open("model.onnx", "wb").write(form.SerializeToString())
first = client.get_model_version(chosen.model, "1")
client.log_artifact(first.run_id, "model.onnx", "gates")
client.create_model_version(chosen.model, first.source, first.run_id)
for version in "12":
    client.set_model_version_tag(chosen.model, version, "fast_path", "onnx")
client.set_registered_model_alias(chosen.model, "champion", "1")
print(chosen.model)
"""
MOVE = """
import sys, time
from bench_project.__main__ import PROJECT
from mlops_ladder.training import tracking

_, client = tracking.open_store(PROJECT)
version = 1
while True:
    version = 3 - version
    client.set_registered_model_alias(sys.argv[1], "champion", str(version))
    time.sleep(3)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of load, each round (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--swaps", type=int, default=100_000, help="requests while the model is swapped")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        python = make_project(folder, 60_000, 3)
        run(folder, [python, "-m", "bench_project", "train"])
        run(folder, [python, "-c", GATE])
        (runtime := folder / "runtime/src/mlops_ladder").joinpath("serving/echo.py").write_text(ECHO, "utf-8")
        extend(runtime / "levels/level_3.py", '"serving.watch"', '"serving.watch", "serving.echo"')
        limits = folder / "conf/limits.yml"  # still counted, never reached
        limits.write_text(re.sub(r"(rate_per_s|burst): \d+", r"\1: 1000000000", limits.read_text("utf-8")), "utf-8")
        name = yaml.safe_load((folder / "conf/training.yml").read_text("utf-8"))["model"]
        ours = [python, "-m", "bench_project", "serve", "--port", "8761", "--model", f"models:/{name}@champion"]
        theirs = [python, "-m", "mlflow", "models", "serve", "-m", f"models:/{name}/1", "--env-manager", "local"]
        theirs += ["--port", "8762", "--workers", "1"]
        with started(folder, ours, 8761) as us, started(folder, theirs, 8762) as them:
            told = json.loads(urllib.request.urlopen("http://127.0.0.1:8761/model").read())
            row = told["example"]["row"]
            print(f"computed by {told['fast_path']}", flush=True)
            routes = {
                "predict": (8761, "/predict", row),
                "mlflow": (8762, "/invocations", {"dataframe_records": [row]}),
                "echo": (8761, "/echo", row),
            }
            rates: dict[str, list[float]] = {route: [] for route in routes}
            slow: dict[str, list[float]] = {route: [] for route in routes}
            for _ in range(options.rounds):
                for route, (port, path, body) in routes.items():
                    rate, p99_ms, failed = load(folder, port, path, json.dumps(body), options.seconds)
                    if failed:
                        sys.exit(f"{route}: {failed} requests failed")
                    rates[route].append(rate)
                    slow[route].append(p99_ms)
            rate = {route: statistics.median(values) for route, values in rates.items()}
            p99 = {route: statistics.median(values) for route, values in slow.items()}
            print(f"predict / mlflow models serve: {rate['predict'] / rate['mlflow']:.1f} (aim 40)")
            print(f"predict / echo of the same server: {rate['predict'] / rate['echo']:.2f} (aim 0.75)")
            for route in routes:
                print(f"{route}: {rate[route]:,.0f} requests/s, p99 {p99[route]:.1f} ms")
            print(f"memory: {memory(us):.0f} MB against {memory(them):.0f} MB of mlflow models serve", flush=True)
            swap(folder, python, name, row, options.swaps, us)
    return 0


def extend(level: Path, registered: str, by: str) -> None:
    """Have the file of a LEVEL register other extensions than it does."""
    text = level.read_text("utf-8")
    if text.count(registered) != 1:
        sys.exit(f"{level} does not register {registered} once: mend this bench")
    level.write_text(text.replace(registered, by), "utf-8")


def swap(folder: Path, python: str, name: str, row: dict, n_requests: int, us: subprocess.Popen) -> None:
    before, sent, failed = memory(us), 0, 0
    with subprocess.Popen([python, "-c", MOVE, name], cwd=folder, env=environ()) as mover:
        slow = []
        while sent < n_requests:
            rate, p99_ms, wrong = load(folder, 8761, "/predict", json.dumps(row), 10)
            sent, failed = sent + int(rate * 10), failed + wrong
            slow.append(p99_ms)
        mover.kill()
    told = json.loads(urllib.request.urlopen("http://127.0.0.1:8761/model").read())["watch"]
    print(f"swapped {told['swaps']} times under {sent:,} requests: {failed} failed (aim 0), p99 {max(slow):.1f} ms")
    print(f"memory after the swaps: {memory(us) - before:+.0f} MB")


@contextlib.contextmanager
def started(folder: Path, words: list[str], port: int) -> Iterator[subprocess.Popen]:
    with (folder / f"{port}.log").open("w") as log, subprocess.Popen(
        words, cwd=folder, env=environ(words[0]), stdout=log, stderr=log
    ) as process:  # fmt: skip
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                if process.poll() is not None:
                    break
                time.sleep(0.2)
            else:
                process.kill()
            if process.poll() is not None:
                sys.exit(f"{' '.join(words)} did not start:\n{(folder / f'{port}.log').read_text()}")
            yield process
        finally:
            process.terminate()


def load(folder: Path, port: int, path: str, body: str, seconds: int) -> tuple[float, float, int]:
    """Return requests a second, the 99th percentile of their latency in ms and how many failed."""
    if not shutil.which("wrk"):
        return asyncio.run(load_here(port, path, body.encode(), seconds))
    script = folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [==[{body}]==]\n"
        "done = function(summary, latency)\n"
        "  local e = summary.errors\n"
        "  local failed = e.connect + e.read + e.write + e.status + e.timeout\n"
        '  print(string.format("%d %d %d %d", summary.requests, summary.duration, latency:percentile(99), failed))\n'
        "end\n",
        "utf-8",
    )
    words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--timeout", "30s", "-s", str(script)]
    said = subprocess.run([*words, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True).stdout
    n, microseconds, p99, failed = map(int, said.strip().splitlines()[-1].split())
    return n / microseconds * 1e6, p99 / 1e3, failed


async def load_here(port: int, path: str, body: bytes, seconds: int) -> tuple[float, float, int]:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request, end, took = head.encode() + body, time.perf_counter() + seconds, []
    failed = 0

    async def connection() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", answer.lower())[1]))
            failed += b" 200 " not in answer[:20]
            took.append(time.perf_counter() - start)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return len(took) / (time.perf_counter() - start), statistics.quantiles(took, n=100)[98] * 1e3, failed


def memory(process: subprocess.Popen) -> float:
    """Return the resident memory of PROCESS and its children, MB (Linux)."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    family, grown = {process.pid}, True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        family, grown = family | children, bool(children)
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def environ(python: str = sys.executable) -> dict[str, str]:
    """Return what a process in the environment of PYTHON needs: mlflow starts the first uvicorn on the PATH."""
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "MLFLOW_TRACKING_URI")}
    return {
        **kept,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
        "PATH": f"{Path(python).parent}{os.pathsep}{kept['PATH']}",
    }


if __name__ == "__main__":
    sys.exit(main())
