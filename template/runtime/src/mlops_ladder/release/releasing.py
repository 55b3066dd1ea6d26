"""What `deploy` and `rollback` share: the copy in an environment, its release tests, the move and what follows it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..core import files
from ..core.errors import ProjectError, Refused
from ..core.files import write_json
from ..core.progress import say
from ..core.project import Project
from ..data import store
from ..data.rows import answered, as_predictions, as_records, read_note
from ..training import tracking
from ..training.tracking import contents, digest_of, hashes
from . import environments
from .environments import ALIAS

if TYPE_CHECKING:
    from mlflow import MlflowClient

N_ROWS = 60  # held-out rows a candidate must answer as offline; a wrong type or a lost column shows in the first few
START_S = 300  # until a candidate listens; importing everything takes seconds, on a very busy machine minutes
TESTS = Path("tests/release")
TRIAL = "SERVICE_ON_TRIAL"  # set where `serve` is only tried: no caller gets what it answers, so it logs nothing
SERVE = """
import os, sys, threading

from {package}.__main__ import main

# ends with whoever started it, however that ended: then nobody holds the other end of standard input any more
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
sys.exit(main(["serve", *sys.argv[1:]]))
"""
FAST = "gates/model.onnx"  # the ONNX form of a version, among the artifacts of its run and of its copies


@contextlib.contextmanager
def working(project: Project, name: str) -> Iterator[None]:
    """Hold environment NAME, alone on this machine; raises ProjectError when another holds it or a store fails."""
    environments.open_store(project, name)  # makes its folder
    with environments.reached(), files.locked(project.path("environments") / name / ".lock"):
        yield


def close_records(project: Project, client: MlflowClient, model: str) -> None:
    """Close the records of releases that were killed: done when the version was put into use, else never happened."""
    counted = {run.info.run_id for run in environments.records(project, client, model)}
    for run in tracking.search(project, client, "attributes.status = 'RUNNING'", releases=True):
        client.set_terminated(run.info.run_id, "FINISHED" if run.info.run_id in counted else "KILLED")


def gather(origin: MlflowClient, made: Any) -> dict[str, Path]:
    """Return what is released of version MADE, {path: file}: its artifact and, where its gates chose it, its ONNX form."""
    folder = fetch(origin, made)
    tracking.unchanged(made, folder)
    found = contents(folder)
    if made.tags.get("fast_path") == "onnx":
        found[FAST] = Path(origin.download_artifacts(made.run_id, FAST))
        tracking.unchanged_fast(made, found[FAST])
    return found


def fetch(client: MlflowClient, made: Any) -> Path:
    """Return a folder with the artifact of a registered version, to read."""
    uri = client.get_model_version_download_uri(made.name, str(made.version))
    return Path(tracking.library().artifacts.download_artifacts(uri, tracking_uri=client.tracking_uri))


def copy(project: Project, name: str, client: MlflowClient, origin: MlflowClient, made: Any) -> Any:
    """Return version MADE of the store ORIGIN as environment NAME has it: the same bytes, copied there once."""
    found, version = gather(origin, made), str(made.version)
    digest = digest_of(found)
    there = environments.find_copy(client, made.name, version)
    if there is None or there.tags["digest"] != digest or digest_of(contents(fetch(client, there))) != digest:
        there = send(project, name, client, made, found, digest, origin.get_run(made.run_id))
    for key, value in made.tags.items():  # who approved it is known later than the first copy
        if there.tags.get(key) != value:
            client.set_model_version_tag(there.name, str(there.version), key, value)
    return client.get_model_version(there.name, str(there.version))


def send(
    project: Project, name: str, client: MlflowClient, made: Any, found: dict[str, Path], digest: str, run: Any
) -> Any:
    """Return a new copy of the files FOUND; registered last, so that one which is there is whole."""
    from mlflow.exceptions import MlflowException

    place = f"{store.read(project).workspace}/copies"
    if not client.get_experiment_by_name(place):
        where = environments.read(project, name).artifacts
        client.create_experiment(place, str(project.path(where).resolve()) if where and "://" not in where else where)
    tags = {**made.tags, "origin_version": str(made.version), "origin_run": made.run_id, "digest": digest}
    kept = client.create_run(client.get_experiment_by_name(place).experiment_id, tags=tags)
    manifest = {
        "model": made.name,
        "version": str(made.version),
        "digest": digest,
        "files": hashes(found),
        **{key: run.data.tags.get(key, "unknown") for key in ("commit", "data", "lock", "python")},
        "run": made.run_id,
        "settings": run.data.params,
    }
    with tempfile.TemporaryDirectory() as part:
        whole = Path(part) / "model"
        for inside, file in found.items():
            (whole / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, whole / inside)
        write_json(Path(part) / "release.json", manifest)
        client.log_artifacts(kept.info.run_id, part)
    client.set_terminated(kept.info.run_id)
    try:
        client.get_registered_model(made.name)
    except MlflowException:
        client.create_registered_model(made.name)
    there = client.create_model_version(
        made.name, f"{kept.info.artifact_uri}/model", kept.info.run_id, tags, await_creation_for=0
    )
    if (arrived := digest_of(contents(fetch(client, there)))) != digest:
        client.delete_model_version(there.name, str(there.version))
        raise ProjectError(
            f"version {made.version} arrived in {name} with other bytes: {arrived[:12]}, not {digest[:12]}"
        )
    return there


def try_service(project: Project, name: str, there: Any, client: MlflowClient, rows: pd.DataFrame) -> list[str]:
    """Start the service on the copy THERE and return what it does wrong, one sentence each.

    It must be healthy, say which version it is, answer ROWS as the version does offline, and pass tests/release.
    """
    folder, version = fetch(client, there), there.tags["origin_version"]
    note = read_note(folder / "artifacts/HANDOFF.md")
    rows = rows[list(note["columns"])].iloc[np.linspace(0, len(rows) - 1, min(N_ROWS, len(rows))).astype(int)]
    if rows.empty:
        return ["there is no held-out row to ask it about"]
    offline = as_predictions(note, tracking.library().pyfunc.load_model(str(folder)).predict(rows))
    import httpx

    with started(project, f"env:{name}/{version}") as (url, key):
        try:
            return [*wrong_answers(url, key, version, as_records(rows), offline), *failed_tests(project, url, key)]
        except (httpx.HTTPError, LookupError, ValueError) as error:
            return [f"the service does not answer as it should: {type(error).__name__}: {error}"]


def wrong_answers(url: str, key: str, version: str, rows: list[dict[str, Any]], offline: np.ndarray) -> list[str]:
    import httpx

    keys = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, timeout=30, verify=False, headers=keys) as client:  # its certificate names another
        for path, name in (("/health", None), ("/ready", "model_version"), ("/model", "version")):
            answer = client.get(path)
            if answer.status_code != 200 or (name and answer.json()[name] != version):
                return [f"{path} answers {answer.status_code} {answer.text[:120]}, must be 200 and version {version}"]
        asked = [rows[:1], rows[-1:], rows]  # a row alone takes another way than many together
        answers = [client.post("/predict", json=some) for some in asked]
        if refused := [answer for answer in answers if answer.status_code != 200]:
            return [f"/predict answers a held-out row {refused[0].status_code} {refused[0].text[:120]}"]
        served = np.array([value for answer in answers for value in answered(answer.json())])
    expected = np.concatenate([offline[:1], offline[-1:], offline])
    if served.shape != expected.shape:
        return [
            f"{len(expected)} held-out rows are answered by predictions of shape {served.shape}, not {expected.shape}"
        ]
    close = np.isclose(served, expected, rtol=1e-5, atol=1e-5)  # what another runtime may differ by in float32
    apart = ~close.reshape(len(expected), -1).all(axis=1)
    if apart.any():
        return [f"{apart.sum()} of {len(expected)} held-out rows are answered otherwise than offline"]
    return []


def failed_tests(project: Project, url: str, key: str) -> list[str]:
    """Run the project's own tests/release against the service at URL, which takes KEY; no test is no pass."""
    if not project.path(TESTS).is_dir():
        return [f"there is no {TESTS}, whose tests say what consumers rely on: one that asks for /ready is a start"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        "--no-header",
        str(TESTS),
    ]
    done = subprocess.run(
        command,
        cwd=project.folder,
        env=os.environ | {"SERVICE_URL": url, "SERVICE_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return []
    return [f"{TESTS} fails: " + "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-6:])]


@contextlib.contextmanager
def started(project: Project, uri: str) -> Iterator[tuple[str, str]]:
    """Start `serve` on the model at URI in a process of its own, which ends with this one; give its address and a key."""
    key = secrets.token_urlsafe()
    keys = f"{os.environ.get('SERVICE_KEYS', '')}\nrelease admin {hashlib.sha256(key.encode()).hexdigest()}"
    command = [sys.executable, "-c", SERVE.format(package=project.package), "--model", uri]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0"],
            cwd=project.folder,
            env=os.environ | {"SERVICE_KEYS": keys, TRIAL: "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        timer = threading.Timer(START_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # printed once it listens
            if not line.startswith("serving "):
                process.wait()
                log.seek(0)
                raise Refused(
                    f"the service does not start on it: {log.read().strip()[-600:] or f'it does not listen within {START_S} s'}"
                )
            timer.cancel()
            yield line.split()[-1], key
        finally:
            timer.cancel()
            process.kill()


def move(project: Project, client: MlflowClient, facts: dict[str, str]) -> None:
    """Put the version of FACTS into use, or with `copy` "none" take the champion away, and record it."""
    with tracking.release(project, client, facts):
        if facts["copy"] == "none":
            client.delete_registered_model_alias(facts["model"], ALIAS)
        else:
            client.set_registered_model_alias(facts["model"], ALIAS, facts["copy"])


def facts_of(name: str, model: str, there: Any | None, **given: str) -> dict[str, str]:
    """Return the record of a release: what, from what, by whom, why, approved by whom, when."""
    tags = there.tags if there else {}
    kept = ("digest", "origin_run", "validation_status", "approved_by", "approved_at", "approved_as", "approved_reason")
    return {
        "environment": name,
        "model": model,
        "version": tags.get("origin_version", "none"),
        "copy": str(there.version) if there else "none",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **{key: tags.get(key, "none") for key in kept},
        **given,
    }


def take_back(project: Project, name: str, client: MlflowClient, model: str, by: str, reason: str) -> dict[str, str]:
    """Put the version into use that was there before the one in use, as recorded; return the record of that."""
    left = environments.in_use(environments.history(project, client, model))
    before = client.get_model_version(model, left[-2]["copy"]) if len(left) > 1 else None
    if before and digest_of(contents(fetch(client, before))) != before.tags["digest"]:
        version = before.tags["origin_version"]
        raise ProjectError(f"the copy of version {version} in {name} is damaged: `deploy {version} --env {name}` anew")
    gone = {"before": left[-1]["version"], "left": left[-1]["digest"]}
    facts = facts_of(name, model, before, kind="rollback", by=by, reason=reason, **gone)
    move(project, client, facts)
    return facts


def lagging(project: Project, name: str, version: str) -> list[str]:
    """Return which endpoints of NAME that are up do not answer with VERSION within answer_s, one sentence each."""
    env = environments.read(project, name)
    until, up = time.monotonic() + env.answer_s, [url for url in env.endpoints if answering(url)]
    for url in set(env.endpoints) - set(up):
        say(f"{url} is not up: it takes version {version} when it starts")
    while late := [f"{url} answers {said or 'no more'}" for url in up if (said := answering(url)) != f"200 {version}"]:
        if time.monotonic() > until:
            return [f"{line}, must be version {version} within {env.answer_s:g} s" for line in late]
        time.sleep(0.1)
    return []


def answering(url: str) -> str:
    """Return the status and the model's version that the service at URL answers with, "" when it is not up."""
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/ready", timeout=5)
    except httpx.HTTPError:
        return ""
    return f"{answer.status_code} {answer.headers.get('x-model-version', 'without a version')}"
