"""The real chain: a commit goes through deliver.yml to a production service that runs and is asked all the while."""

import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import act
import pytest
import yaml
from conftest import Render, commit, free_port, git, package_of, reads, sources

pytestmark = pytest.mark.slow

LEVEL = 3  # where deliver.yml appears
N_FILES = 3  # of data/sample: a quarter of a year, so that each training takes seconds
BUSY_S = 3600  # longest that anything here is waited for, on a very busy machine; an idle one needs minutes
PUSHER = "nektos/act@users.noreply.github.com"  # who act says pushed, as the workflow writes people
REVIEWER = "grace@example.org"
# The generated project's own suite is run whole by test_generated.py; here the tests of the user's files and of the system.
TESTS = "--no-cov --ignore=tests/acceptance --ignore=tests/test_notebook.py"

# What stands in for the hosting service, around the real uv: a runner whose environment is in step already, so that `uv sync`
# has only to say where this job's source is; and the sign-off, for which the job of the environment `production` waits.
RUNNER = """#!/bin/sh
if [ "$1" != sync ]; then exec "{uv}" "$@"; fi
echo "PYTHONPATH=$PWD/src:$PWD/runtime/src" >> "$GITHUB_ENV"
if [ "$GITHUB_JOB" = production ]; then
    touch "$STORE/waiting"
    until [ -e "$STORE/let-go-on" ]; do sleep 0.2; done
fi
"""
# Everything before the gates, in no time: version 2 is made already.
MADE = """#!/bin/sh
case "$GITHUB_JOB: $*" in
    "check: "*" build") mkdir -p dist && touch dist/package.whl ;;
    train:*--output*) for last; do :; done; echo version=2 >> "$last" ;;
    gate:*) exec runner "$@" ;;
esac
"""
# The image is built and run for real by test_container.py.
ENGINE = '#!/bin/sh\necho "$@" >> "$STORE/podman.txt"\n'

# Brings the first version to production in one process, past the gates and the copies of text: what is tested comes after.
BEFORE = """
from {package}.__main__ import PROJECT, main
from mlops_ladder.release import environments, releasing
from mlops_ladder.training import tracking
assert main(["train"]) == 0
chosen, origin = environments.open_store(PROJECT, "dev")
origin.set_model_version_tag(chosen.model, "1", "validation_status", "passed")
client = environments.open_store(PROJECT, "prod")[1]
there = releasing.copy(PROJECT, "prod", client, origin, tracking.find_version(origin, chosen.model, "1"))
given = {{"before": "none", "by": "{reviewer}", "reason": "the first", "left": "none"}}
releasing.move(PROJECT, client, releasing.facts_of("prod", chosen.model, there, kind="deploy", **given))
"""


class Team(NamedTuple):
    """A project whose version 1 is in production, and what its people and jobs share."""

    folder: Path  # the repository
    python: Path
    store: str  # address of the MLflow server of dev
    service: str  # address of the service that runs in production
    state: Path  # what outlives each job: stores, data versions, the pipeline's home

    def types(self, *words: str, by: str, at: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the package as BY would in a clone of their own, AT."""
        return command(at or self.folder, self.python, "-m", package_of(self.folder), *words, by=by, store=self.store)


def command(folder: Path, python: Path, *words: str, by: str, store: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": sources(folder), "MLFLOW_TRACKING_URI": store, "OMP_NUM_THREADS": "1"}
    environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.email", "GIT_CONFIG_VALUE_0": by}
    return subprocess.run([python, *words], cwd=folder, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def team(project: Render, environment: Render, tmp_path: Path) -> Iterator[Team]:
    """A team's project at work: a server for runs and versions, a folder for all else, a service in production."""
    folder, python, state = project(LEVEL), environment(LEVEL), tmp_path / "state"
    package, service = package_of(folder), f"http://127.0.0.1:{free_port()}"
    for file in sorted((folder / "data/sample").iterdir())[N_FILES:]:
        file.unlink()
    settle(folder, state, service)
    done = subprocess.run(["uv", "lock", "--quiet"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commit(folder, "Share the stores")
    port = free_port()
    server = [python, *f"-m mlflow server --workers 1 --port {port}".split()]
    server += ["--backend-store-uri", f"sqlite:///{state}/dev.db", "--artifacts-destination", str(state / "dev")]
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(started(server, state, f"http://127.0.0.1:{port}", "/health"))
        text = BEFORE.format(package=package, reviewer=REVIEWER)
        done = command(folder, python, "-c", text, by=PUSHER, store=store)
        assert done.returncode == 0, done.stdout + done.stderr
        git(tmp_path, "clone", "-q", str(folder), "production")
        serve = [python, *f"-m {package} serve --model env:prod --port {service.rpartition(':')[2]}".split()]
        stack.enter_context(started(serve, tmp_path / "production", service, "/ready"))
        yield Team(folder, python, store, service, state)


def settle(folder: Path, state: Path, service: str) -> None:
    """Write what a team writes into its configuration once: where the stores are, who is who, what runs in production."""
    state.mkdir()
    edits: dict[str, dict[str, Any]] = {
        f"environments/{name}": {
            "tracking_uri": f"sqlite:///{state}/{name}.db",
            "artifacts": str(state / name),
            "endpoints": [service] if name == "prod" else [],
            "answer_s": BUSY_S,
        }
        for name in ("test", "prod")
    }
    edits["roles"] = {
        "roles": {
            "data-scientist": {"people": ["anyone"], "may": ["train", "tune"]},
            "engineer": {"people": [PUSHER, REVIEWER], "may": ["promote"]},
        }
    }
    for name, changes in edits.items():
        file = folder / f"conf/{name}.yml"
        file.write_text(yaml.safe_dump(yaml.safe_load(reads(file)) | changes), encoding="utf-8")
    remote = folder / ".dvc/config"
    assert "url = ../data/versions" in reads(remote)
    remote.write_text(reads(remote).replace("../data/versions", str(state / "data")), encoding="utf-8")


@contextlib.contextmanager
def started(words: list[Any], folder: Path, url: str, ready: str) -> Iterator[str]:
    """Run a server in FOLDER until the block ends; gives its URL once READY there answers."""
    environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "OMP_NUM_THREADS": "1"}
    environ |= {"PYTHONPATH": sources(folder)}
    with (
        (folder / "log.txt").open("w") as log,
        subprocess.Popen(words, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            until = time.monotonic() + BUSY_S
            while not answers(url + ready):
                assert process.poll() is None and time.monotonic() < until, (folder / "log.txt").read_text()[-3000:]
                time.sleep(0.2)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers too


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


@contextlib.contextmanager
def asked(service: str) -> Iterator[list[str]]:
    """Ask SERVICE for a prediction again and again while the block runs; gives the versions that answered, or the errors."""
    with urllib.request.urlopen(f"{service}/model", timeout=60) as answer:
        row = json.dumps(json.load(answer)["example"]["row"]).encode()
    question = urllib.request.Request(f"{service}/predict", row, {"Content-Type": "application/json"})
    told: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                with urllib.request.urlopen(question, timeout=60) as answer:
                    told.append(json.load(answer)["model_version"])
            except OSError as error:  # every status but 200 is one of these
                told.append(str(error))

    consumer = threading.Thread(target=ask)
    consumer.start()
    try:
        yield told
    finally:
        over.set()
        consumer.join()


def deliver(team: Team, store: Path, **programs: str) -> dict[str, str]:
    """Run deliver.yml on what is committed, with the real commands but for PROGRAMS; return the result of each job."""
    runner = RUNNER.format(uv=shutil.which("uv"))
    programs = {"uv": runner, "runner": runner, "podman": ENGINE} | programs
    environ = {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": str(team.python.parent.parent), "PYTEST_ADDOPTS": TESTS}
    variables = {"MLFLOW_TRACKING_URI": team.store, "PIPELINE_HOME": str(team.state / "pipeline")}
    return act.run(
        team.folder, "deliver", "push", store, programs=programs, timeout_s=BUSY_S, env=environ, var=variables
    )


def test_a_commit_goes_to_production_without_a_failed_request_and_one_that_its_gates_refuse_does_not(
    team: Team, tmp_path: Path
) -> None:
    store, desk = tmp_path / "run", tmp_path / "desk"
    [model] = team.folder.glob("src/*/model.py")
    assert '"max_iter": 150' in reads(model)
    model.write_text(
        reads(model).replace('"max_iter": 150', '"max_iter": 40'), encoding="utf-8"
    )  # a quarter needs no more
    commit(team.folder, "Fit fewer trees")
    git(tmp_path, "clone", "-q", str(team.folder), desk.name)  # a colleague's, from which they sign off

    with asked(team.service) as told, concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(deliver, team, store)
        try:
            while not (store / "waiting").exists() and not running.done():
                time.sleep(0.2)
            assert not running.done(), f"{running.result()}\n{act.said(store)}"
            assert set(told) == {"1"}
            # What the workflow does next is refused, whoever lets it go on, until somebody else has signed.
            refused = team.types("deploy", "2", "--env", "prod", by=PUSHER, at=desk)
            assert refused.returncode == 3 and "nobody approved it" in refused.stderr, refused.stderr
            signing = ("approve", "2", "--reason", "reviewed with operations")
            for person, why in ((PUSHER, "trained it and cannot approve it"), ("eve@example.org", "may not approve")):
                refused = team.types(*signing, by=person, at=desk)
                assert refused.returncode == 3 and why in refused.stderr, refused.stderr
            done = team.types(*signing, by=REVIEWER, at=desk)
            assert done.returncode == 0, done.stderr
        finally:
            (store / "let-go-on").touch()
        results = running.result()

    jobs = ["check", "image", "train", "gate", "test", "system-test", "production", "pipeline"]
    assert results == dict.fromkeys(jobs, "success"), act.said(store)
    assert told == sorted(told) and set(told) == {"1", "2"}, set(told)  # no error, and one swap
    ready = json.load(urllib.request.urlopen(f"{team.service}/ready", timeout=60))
    assert ready["model_version"] == "2"

    done = team.types("deploy", "--history", "--env", "prod", "--json", by=REVIEWER, at=desk)
    now, before = json.loads(done.stdout)
    assert (now["version"], now["before"], before["version"]) == ("2", "1", "1")
    assert (now["by"], now["approved_by"], now["reason"]) == (PUSHER, REVIEWER, "reviewed with operations")
    pipeline = json.loads(reads(team.state / "pipeline/pipeline.json"))
    assert pipeline["commit"] == git(team.folder, "rev-parse", "HEAD").strip()
    assert reads(store / "podman.txt").startswith("build ")

    asked_more = team.folder / "conf/success.yml"
    assert "min: 0.6" in reads(asked_more)
    asked_more.write_text(reads(asked_more).replace("min: 0.6", "min: 0.9"), encoding="utf-8")
    commit(team.folder, "Ask for more")
    results = deliver(team, store, uv=MADE)
    done = ["check", "image", "train"]
    assert results == dict.fromkeys(done, "success") | {"gate": "failure"}, act.said(store)
    assert "roc_auc" in act.said(store) and "version 2 is refused" in act.said(store)
    ready = json.load(urllib.request.urlopen(f"{team.service}/ready", timeout=60))
    assert ready["model_version"] == "2"
