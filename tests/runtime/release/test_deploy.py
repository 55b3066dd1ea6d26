"""Environments: what lets a version in, how it gets there, what answers afterwards, and how it is taken back."""

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from flight_delays.__main__ import main
from mlops_ladder.core import files
from mlops_ladder.core.errors import ProjectError, Refused
from mlops_ladder.release import environments, releasing
from mlops_ladder.serving.servable import pin, resolve
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT

CONSUMER = """
import os, httpx

def test_the_consumer() -> None:
    told = httpx.get(os.environ["SERVICE_URL"] + "/ready").json()
    assert told["model_version"] == "2", "the consumer breaks"
"""
PATIENT = """
import os, pathlib, time, httpx

def test_as_long_as_it_answers() -> None:
    pathlib.Path("part").write_text(url := os.environ["SERVICE_URL"])
    pathlib.Path("part").rename("url")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        httpx.get(url + "/health")
        time.sleep(0.1)
"""

PROJECT = ROOT


@pytest.fixture(scope="session")
def judged(trained: Path, tmp_path_factory: pytest.TempPathFactory, git: Any) -> Path:
    """A copy of `trained` with the versions 1 and 2, which passed their gates; ada@example.org trained both."""
    folder = tmp_path_factory.mktemp("judged") / "project"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("mlruns", "mlflow.db", "registered.json"))
    for place in (folder, folder / "environments/test", folder / "environments/prod"):
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained.parent / "empty.db", place / "mlflow.db")
    (folder / ".git/info/exclude").write_text("environments/\n")
    shutil.copytree(PROJECT / "docs/governance", folder / "docs/governance")
    shutil.copy(PROJECT / "data/catalog.yml", folder / "data")
    with contextlib.chdir(folder):
        git("add", "--all")
        git("commit", "--quiet", "--message", "Govern")
        lock = yaml.safe_load(Path("dvc.lock").read_text())
        del lock["stages"]["register"]
        Path("dvc.lock").write_text(yaml.safe_dump(lock))
        for file in Path(".dvc/cache/runs").glob("*/*/*"):
            if "--stage register" in file.read_text():
                shutil.rmtree(file.parent)
        for words in ([], ["--set", "seed=1", "--set", "parameters.max_iter=20"]):
            assert main(["train", "--json", *words]) == 0
        chosen, client = tracking.open_store(FLIGHTS)
        for version in ("1", "2"):
            client.set_model_version_tag(chosen.model, version, "validation_status", "passed")
    return folder


@pytest.fixture(scope="session")
def released(judged: Path, tmp_path_factory: pytest.TempPathFactory, git: Any) -> Path:
    """A copy of `judged` in which version 1, then version 2, went to test and, signed off, to prod."""
    folder = shutil.copytree(judged, tmp_path_factory.mktemp("released") / "project")
    (folder / "tests/release").mkdir(parents=True)
    (folder / "tests/release/test_consumer.py").write_text(CONSUMER)
    with contextlib.chdir(folder):
        git("config", "user.email", "grace@example.org")
        for version in ("1", "2"):
            assert main(["approve", version, "--reason", f"reviewed {version}"]) == 0
            for name in ("test", "prod"):
                with pytest.MonkeyPatch.context() as patch:
                    if (version, name) != ("2", "prod"):  # one that is tried in the service shows as much as four
                        patch.setattr(releasing, "try_service", lambda *_: [])
                    assert main(["deploy", version, "--env", name]) == 0
    return folder


def enter(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(folder, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "project"


@pytest.fixture
def project(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `judged` as the current folder, in which grace@example.org works."""
    folder = enter(judged, tmp_path, monkeypatch)
    person("grace")
    return folder


@pytest.fixture
def in_prod(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `released` as the current folder."""
    return enter(released, tmp_path, monkeypatch)


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the release tests out, which start a service, where a test is about something else."""
    monkeypatch.setattr(releasing, "try_service", lambda *_: [])


def person(name: str) -> None:
    config = Path(".git/config")
    config.write_text(config.read_text().replace("ada@", f"{name}@").replace("grace@", f"{name}@"))


def champion(name: str) -> str | None:
    chosen, client = environments.open_store(FLIGHTS, name)
    there = environments.find_copy(client, chosen.model)
    return there and there.tags["origin_version"]


def edit(name: str, **changes: Any) -> None:
    file = Path(f"conf/environments/{name}.yml")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def commit(git: Any) -> None:
    git("commit", "--quiet", "--all", "--message", "Change who may do what")


def tag(version: str, key: str, value: str) -> None:
    chosen, client = environments.open_store(FLIGHTS, "dev")
    client.set_model_version_tag(chosen.model, version, key, value)


@pytest.mark.practice("multi-environment", "automated-model-deployment", "all-artifacts-versioned")
def test_a_version_reaches_prod_as_the_very_bytes_that_were_judged(in_prod: Path) -> None:
    chosen, origin = environments.open_store(FLIGHTS, "dev")
    made = tracking.find_version(origin, chosen.model, "2")
    source, trained = releasing.fetch(origin, made), origin.get_run(made.run_id)
    assert tracking.aliases(origin, chosen.model) == {"challenger": "2"}, "dev's own registry stays as it was"
    for name in ("test", "prod"):
        chosen, client = environments.open_store(FLIGHTS, name)
        there = environments.find_copy(client, chosen.model)
        folder = releasing.fetch(client, there)
        assert {"environments", name} < set(folder.parts)
        assert (there.tags["origin_version"], there.tags["origin_run"]) == ("2", made.run_id)
        manifest = json.loads(tracking.read_artifact(client, client.get_run(there.run_id), "release.json"))
        for place in (source, folder):
            assert manifest["files"] == {path: files.sha256(place / path) for path in manifest["files"]}
        assert {"MLmodel", "artifacts/model.skops", "artifacts/code/features.py"} < set(manifest["files"])
        assert {key: manifest[key] for key in ("commit", "data", "lock")} == {
            key: trained.data.tags[key] for key in ("commit", "data", "lock")
        }
        assert manifest["settings"]["seed"] == "1"


@pytest.mark.practice("app-integration-tests", "automated-model-deployment")
def test_the_service_of_an_environment_answers_with_its_version(in_prod: Path, serve: Any) -> None:
    with serve(in_prod, "--model", "env:prod") as (client, _):
        told = client.get("/model").json()
        answer = client.post("/predict", json=told["example"]["row"]).json()
    assert (told["version"], answer["model_version"]) == ("2", "2")
    assert answer["predictions"] == pytest.approx([told["example"]["prediction"]], rel=1e-6)
    assert resolve(FLIGHTS, "env:prod/1").version == "1"
    with pytest.raises(Exception, match="no version 7 in prod"):
        resolve(FLIGHTS, "env:prod/7")


@pytest.mark.practice("batch-scoring-pipeline")
def test_a_batch_is_scored_by_what_is_in_production(in_prod: Path, run: Any) -> None:
    (in_prod / "data/rows").mkdir()
    shutil.copy(min((in_prod / "data/sample").iterdir()), in_prod / "data/rows")
    assert "predictions of version 2 " in run("score-batch", "--input", "data/rows", "--output", "data/scored")


@pytest.mark.practice("human-approval-gate", "model-release-tracking")
def test_who_deployed_what_why_and_with_whose_approval_is_known_of_any_moment(in_prod: Path, run: Any) -> None:
    second, first = run("deploy", "--history", "--env", "prod", "--json")
    assert (first["version"], first["before"], second["version"], second["before"]) == ("1", "none", "2", "1")
    for one in (first, second):
        assert (one["by"], one["approved_by"]) == ("grace@example.org", "grace@example.org")
        assert one["reason"] == one["approved_reason"] == f"reviewed {one['version']}"
    at = ["deploy", "--history", "--env", "prod", "--json", "--at"]
    assert run(*at, second["at"]) == [second]
    assert run(*at, first["at"]) == [first if first["at"] < second["at"] else second]
    assert run(*at, "2020-01-01") == []
    assert "nothing was in use in prod then" in run("deploy", "--history", "--env", "prod", "--at", "2020-01-01")
    assert "version 2 deployed (before: 1), by grace@example.org" in run("deploy", "--history", "--env", "prod")


@pytest.mark.practice("compliance-tags", "security-policies")
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("validation_status", "refused", "its gates say refused"),
        ("validation_status", "", "its gates say"),
        ("dirty", "true", "its tag dirty is true"),
        ("owner", "", "no tag owner"),
        ("purpose", "experiment", "its tag purpose is experiment"),
    ],
)
def test_a_version_whose_tags_break_the_policy_is_refused(
    in_prod: Path, run: Any, key: str, value: str, said: str
) -> None:
    tag("1", key, value)
    assert said in run("deploy", "1", "--env", "prod", exit_code=3)
    assert champion("prod") == "2"
    assert len(run("deploy", "--history", "--env", "prod", "--json")) == 2


@pytest.mark.practice("human-approval-gate")
def test_without_an_approval_nothing_goes_to_prod(project: Path, untried: None, run: Any) -> None:
    run("deploy", "1", "--env", "test")
    assert "nobody approved it" in run("deploy", "1", "--env", "prod", exit_code=3)
    assert champion("prod") is None
    run("approve", "1", "--reason", "reviewed")
    run("deploy", "1", "--env", "prod")
    assert champion("prod") == "1"


@pytest.mark.practice("human-approval-gate", "access-control")
def test_who_trained_a_version_cannot_approve_it_unless_the_team_is_one(project: Path, run: Any, git: Any) -> None:
    person("ada")
    assert "ada@example.org trained it" in run("approve", "1", "--reason", "mine", exit_code=3)
    tag("1", "approved_by", "ada@example.org")  # past the command
    assert "ada@example.org trained it" in run("deploy", "1", "--env", "prod", exit_code=3)
    git("config", "user.email", "ADA@example.org")
    assert "ADA@example.org trained it" in run("approve", "1", "--reason", "mine", exit_code=3), "another case"
    git("config", "user.email", "ada@example.org")
    edit("prod", solo=True)
    refused = run("approve", "1", "--reason", "mine", exit_code=1)
    assert "conf/environments/prod.yml: solo is not what the last commit says" in refused
    assert "solo is not what" in run("deploy", "1", "--env", "prod", exit_code=1)
    commit(git)
    assert "is approved for prod by ada@example.org" in run("approve", "1", "--reason", "mine")
    assert "trained it" not in run("deploy", "1", "--env", "prod", exit_code=3)


@pytest.mark.practice("human-approval-gate", "compliance-tags")
def test_what_no_gate_has_passed_cannot_be_approved(project: Path, run: Any) -> None:
    tag("1", "validation_status", "refused")
    assert "gates of version 1 say refused" in run("approve", "1", "--reason", "please", exit_code=3)
    assert "--reason" in run("approve", "2", "--reason", " ", exit_code=2)


@pytest.mark.practice("access-control")
def test_only_who_has_the_role_may_approve_deploy_and_roll_back(in_prod: Path, run: Any, git: Any) -> None:
    roles = yaml.safe_load(Path("conf/roles.yml").read_text())
    roles["roles"]["engineer"]["people"] = ["linus@example.org"]
    Path("conf/roles.yml").write_text(yaml.safe_dump(roles))
    for words in (["approve", "1"], ["deploy", "1", "--env", "prod"], ["rollback", "--env", "prod"]):
        assert f"grace@example.org may not {words[0]} in prod" in run(*words, "--reason", "why", exit_code=3)
    person("linus")
    assert "conf/roles.yml: roles is not what" in run("approve", "1", "--reason", "seen", exit_code=1), "his own edit"
    commit(git)
    assert "grace@example.org approved it, who may not" in run("deploy", "1", "--env", "prod", exit_code=3)
    run("approve", "1", "--reason", "seen", "--json")
    assert "version 1 rolled back to" in run("rollback", "--env", "prod", "--reason", "why")
    edit("prod", may={"deploy": ["nobody"]})
    assert "no role of conf/roles.yml" in run("deploy", "1", "--env", "prod", exit_code=1)


@pytest.mark.practice("multi-environment", "staging-system-test")
def test_prod_takes_only_the_bytes_that_test_had_and_kept(project: Path, untried: None, run: Any) -> None:
    for version in ("1", "2"):
        run("approve", version, "--reason", "reviewed")
    assert "never deployed to test" in run("deploy", "1", "--env", "prod", exit_code=3)
    for version in ("1", "2"):
        run("deploy", version, "--env", "test")
    run("rollback", "--env", "test", "--reason", "slow")
    assert "rolled back in test" in run("deploy", "2", "--env", "prod", exit_code=3)
    run("deploy", "1", "--env", "prod")
    assert (champion("test"), champion("prod")) == ("1", "1")


@pytest.mark.practice("release-tests-per-model", "staging-system-test")
def test_a_version_that_fails_the_projects_own_release_tests_is_not_deployed(in_prod: Path, run: Any) -> None:
    assert "the consumer breaks" in run("deploy", "1", "--env", "prod", exit_code=3)
    shutil.rmtree("tests/release")
    assert "there is no tests/release" in run("deploy", "1", "--env", "prod", exit_code=3)
    assert champion("prod") == "2", "which passed them"
    assert len(run("deploy", "--history", "--env", "prod", "--json")) == 2


@pytest.mark.practice("release-tests-per-model", "app-integration-tests")
def test_a_service_that_answers_otherwise_than_offline_is_found(client: httpx.Client) -> None:
    url, told = str(client.base_url), client.get("/model").json()
    rows, offline = [told["example"]["row"]] * 4, np.full(4, told["example"]["prediction"])
    assert releasing.wrong_answers(url, "key", told["version"], rows, offline) == []
    [said] = releasing.wrong_answers(url, "key", told["version"], rows, offline + [0, 0, 0.01, 0])
    assert "1 of 6 held-out rows are answered otherwise" in said
    [said] = releasing.wrong_answers(url, "key", "7", rows, offline)
    assert "must be 200 and version 7" in said
    [said] = releasing.wrong_answers(url, "key", told["version"], [{}] * 4, offline)
    assert "422" in said


def test_a_candidate_that_does_not_start_is_refused_with_its_words(project: Path) -> None:
    environments.open_store(FLIGHTS, "test")  # says here, and not in the candidate's words, that the store was copied
    refused = pytest.raises(Refused, match="does not start on it.*no version in use in test")
    with refused, releasing.started(FLIGHTS, "env:test"):
        pass


@pytest.mark.practice("model-rollback")
def test_a_rollback_puts_the_version_before_into_use(in_prod: Path, run: Any) -> None:
    told = run("rollback", "--env", "prod", "--reason", "too many late alarms", "--json")
    assert (told["kind"], told["version"], told["before"]) == ("rollback", "1", "2")
    assert (champion("prod"), champion("test")) == ("1", "2")
    assert resolve(FLIGHTS, "env:prod").version == "1"
    assert "version 1 rolled back to (before: 2), by grace@example.org: too many" in run(
        "deploy", "--history", "--env", "prod"
    )
    assert "no version before it" in run("rollback", "--env", "prod", "--reason", "again", exit_code=3)
    assert champion("prod") == "1"


@pytest.mark.practice("audit-trail", "model-rollback")
def test_what_the_projects_own_log_would_not_hold_is_not_released(
    in_prod: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # the second time there is a log elsewhere, if the first one made it
        monkeypatch.setenv("AUDIT_LOG", str(tmp_path / "elsewhere.jsonl"))
        refused = run("rollback", "--env", "prod", "--reason", "why", exit_code=3)
        assert "is not the project's own log" in refused and "unset AUDIT_LOG" in refused
        assert champion("prod") == "2"
    monkeypatch.delenv("AUDIT_LOG")
    run("audit", "verify")
    Path("audit").rename(tmp_path / "share")
    monkeypatch.setenv("AUDIT_LOG", str(tmp_path / "share/audit.jsonl"))
    run("rollback", "--env", "prod", "--reason", "moved with all its lines")
    assert champion("prod") == "1"
    run("audit", "verify")


@pytest.mark.practice("audit-trail")
def test_what_came_into_use_past_the_log_is_found(
    in_prod: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("audit", "verify")
    shutil.copytree("audit", tmp_path / "kept")
    chosen, client = environments.open_store(FLIGHTS, "prod")
    in_use = tracking.aliases(client, chosen.model)["champion"]
    client.set_registered_model_alias(chosen.model, "champion", "1")
    assert f"prod: champion is {chosen.model} version 1" in run("audit", "verify", exit_code=3)
    client.set_registered_model_alias(chosen.model, "champion", in_use)
    run("audit", "verify")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")  # where no line is known of
    shutil.rmtree("audit")
    run("rollback", "--env", "prod", "--reason", "nobody shall know")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    shutil.rmtree("audit", ignore_errors=True)
    shutil.copytree(tmp_path / "kept", "audit")
    assert "prod: " in (found := run("audit", "verify", exit_code=3)) and "the log has no line of it" in found


@pytest.mark.practice("audit-trail")
def test_a_record_of_a_release_that_was_changed_in_its_store_is_found(in_prod: Path, run: Any) -> None:
    chosen, client = environments.open_store(FLIGHTS, "prod")
    [last, *_] = environments.records(FLIGHTS, client, chosen.model)
    client.set_tag(last.info.run_id, "by", "linus@example.org")
    assert "the log has another by" in run("audit", "verify", exit_code=3)


@pytest.mark.practice("model-rollback")
def test_a_rollback_goes_back_by_what_was_done_last_whatever_the_clock_said(
    in_prod: Path, untried: None, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: clock() - 86_400)
        run("deploy", "1", "--env", "prod")
    told = run("rollback", "--env", "prod", "--reason", "why", "--json")
    assert (told["version"], told["before"], champion("prod")) == ("2", "1", "2")
    told = run("deploy", "--history", "--env", "prod", "--json")
    assert [one["version"] for one in told] == ["2", "1", "2", "1"]


def test_a_moved_project_serves_deploys_and_goes_back_in_each_environment_from_its_own_folder(
    in_prod: Path, untried: None, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = in_prod.rename(in_prod.with_name("moved"))
    monkeypatch.chdir(moved)
    assert (resolve(FLIGHTS, "env:test").version, resolve(FLIGHTS, "env:prod").version) == ("2", "2")
    for name in ("test", "prod"):
        run("rollback", "--env", name, "--reason", "why")
        run("deploy", "1", "--env", name)
        chosen, client = environments.open_store(FLIGHTS, name)
        assert releasing.fetch(client, environments.find_copy(client, chosen.model)).is_relative_to(moved)
    assert not in_prod.exists()


def swap(client: Any, there: Any) -> Path:
    """Put another model in place of the one of version THERE, its note made to fit; return the model's file."""
    folder = releasing.fetch(client, there) / "artifacts"
    file, note = folder / "model.skops", folder / "HANDOFF.md"
    old = files.sha256(file)
    with zipfile.ZipFile(file, "a") as content:
        content.comment = b"another"
    note.write_text(note.read_text().replace(old, files.sha256(file)))
    return file


@pytest.mark.practice("end-to-end-lineage")
def test_a_model_that_was_swapped_in_an_environment_is_not_opened_and_lineage_names_it(
    in_prod: Path, untried: None, run: Any
) -> None:
    chosen, client = environments.open_store(FLIGHTS, "prod")
    swap(client, environments.find_copy(client, chosen.model))
    for look in (lambda: resolve(FLIGHTS, "env:prod"), lambda: resolve(FLIGHTS, pin(FLIGHTS, "env:prod"))):
        with pytest.raises(Refused, match="its files are not those that were registered"):
            look()
    assert resolve(FLIGHTS, "env:test").version == "2"
    assert "copy: its files there are not those that were deployed" in run("lineage", "2", exit_code=3)
    run("deploy", "2", "--env", "prod")
    assert resolve(FLIGHTS, "env:prod").version == "2"
    assert "copy        in prod, in use" in run("lineage", "2")


def test_a_model_that_was_swapped_where_it_was_made_is_neither_opened_nor_deployed(
    project: Path, untried: None, run: Any
) -> None:
    chosen, client = environments.open_store(FLIGHTS, "dev")
    swap(client, tracking.find_version(client, chosen.model, "1"))
    with pytest.raises(Refused, match="its files are not those that were registered"):
        resolve(FLIGHTS, f"models:/{chosen.model}/1")
    for words in (["deploy", "1", "--env", "test"], ["explain", "--version", "1", "row.json"]):
        Path("row.json").write_text("{}")
        assert "its files are not those that were registered" in run(*words, exit_code=3)
    assert "model: its bytes are not those that were evaluated" in run("lineage", "1", exit_code=3)
    assert "version 2 deployed" in run("deploy", "2", "--env", "test")


def test_a_faster_form_that_was_swapped_is_not_opened(project: Path, run: Any) -> None:
    chosen, client = environments.open_store(FLIGHTS, "dev")
    made = tracking.find_version(client, chosen.model, "1")
    Path("model.onnx").write_bytes(b"judged")
    client.log_artifact(made.run_id, "model.onnx", "gates")
    for key, value in {"fast_path": "onnx", "fast_sha256": files.sha256(Path("model.onnx"))}.items():
        client.set_model_version_tag(chosen.model, "1", key, value)
    assert "is not used" in resolve(FLIGHTS, f"models:/{chosen.model}/1").note["fast_path"]["why"], (
        "it is no ONNX, but the one"
    )
    Path("model.onnx").write_bytes(b"swapped")
    client.log_artifact(made.run_id, "model.onnx", "gates")
    with pytest.raises(Refused, match="model.onnx is not the one that its gates judged"):
        resolve(FLIGHTS, f"models:/{chosen.model}/1")
    assert "is not the one that its gates judged" in run("deploy", "1", "--env", "test", exit_code=3)


def test_a_damaged_copy_is_not_gone_back_to(released: Path, in_prod: Path, untried: None, run: Any) -> None:
    chosen, client = environments.open_store(FLIGHTS, "prod")
    there = environments.find_copy(client, chosen.model, "1")
    client.set_model_version_tag(chosen.model, there.version, "digest", "0" * 64)  # as if its bytes had changed
    assert "is damaged" in run("rollback", "--env", "prod", "--reason", "why", exit_code=1)
    assert champion("prod") == "2"
    run("deploy", "1", "--env", "prod")
    assert champion("prod") == "1"


@contextlib.contextmanager
def following(name: str) -> Iterator[str]:
    """Serve /ready as a service does that takes up what is in use in environment NAME."""

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("x-model-version", str(champion(name)))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.practice("multiple-endpoints")
def test_each_endpoint_that_is_up_takes_the_new_version(project: Path, untried: None, run: Any) -> None:
    with socket.socket() as nobody, following("test") as one, following("test") as other:
        nobody.bind(("127.0.0.1", 0))  # taken, and nothing listens
        down = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        edit("test", endpoints=[one, other, down])
        said = run("deploy", "1", "--env", "test")
    assert "version 1 deployed" in said
    assert f"{down} is not up" in said


@pytest.mark.practice("model-rollback", "multiple-endpoints")
def test_an_endpoint_that_stays_behind_has_the_version_taken_back(
    project: Path, untried: None, serve: Any, run: Any
) -> None:
    run("deploy", "1", "--env", "test")
    with serve(project, "--model", "env:test/1") as (client, _), following("test") as other:
        edit("test", endpoints=[other, str(client.base_url)], answer_s=1)
        said = run("deploy", "2", "--env", "test", exit_code=1)
    assert "must be version 2 within 1 s: taken back, version 1 is in use in test again" in said
    assert champion("test") == "1"
    kinds = [(one["kind"], one["version"]) for one in run("deploy", "--history", "--env", "test", "--json")]
    assert kinds == [("rollback", "1"), ("deploy", "2"), ("deploy", "1")]


def test_a_first_version_that_no_endpoint_takes_leaves_nothing_in_use(project: Path, untried: None, run: Any) -> None:
    with following("prod") as behind:
        edit("test", endpoints=[behind], answer_s=0.2)
        run("deploy", "1", "--env", "test", exit_code=1)
    assert champion("test") is None


def test_two_deploys_at_once_do_not_mix(project: Path, untried: None, run: Any) -> None:
    with releasing.working(FLIGHTS, "test"):
        assert "by another process: wait until it ends" in run("deploy", "1", "--env", "test", exit_code=1)
    run("deploy", "1", "--env", "test")
    assert champion("test") == "1"


@pytest.mark.parametrize("moment", ["copying", "before the move", "after the move"])
def test_a_killed_deploy_is_finished_by_running_it_again(
    project: Path, untried: None, run: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run("deploy", "1", "--env", "test")
    client = type(environments.open_store(FLIGHTS, "test")[1])
    step = {"copying": "create_model_version", "before the move": "set_registered_model_alias"}
    with monkeypatch.context() as patch:

        def kill(*_: Any, **__: Any) -> None:
            patch.undo()  # once
            raise KeyboardInterrupt

        patch.setattr(*((client, step[moment]) if moment in step else (releasing, "lagging")), kill)
        if moment == "after the move":
            release = tracking.release

            @contextlib.contextmanager
            def unfinished(*words: Any) -> Iterator[None]:
                with release(*words):
                    yield
                    raise KeyboardInterrupt

            patch.setattr(tracking, "release", unfinished)
        run("deploy", "2", "--env", "test", exit_code=130)
    monkeypatch.setattr(releasing, "try_service", lambda *_: [])
    told = run("deploy", "--history", "--env", "test", "--json")
    assert champion("test") == told[0]["version"] == ("2" if moment == "after the move" else "1")
    run("deploy", "2", "--env", "test")
    assert champion("test") == "2"
    versions = [one["version"] for one in run("deploy", "--history", "--env", "test", "--json")]
    assert versions == ["2", "1"]
    assert "version 1 rolled back to" in run("rollback", "--env", "test", "--reason", "why")


def test_the_store_of_what_is_in_use_is_opened_once_and_found_again_when_it_was_away(
    in_prod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, first = Path("environments/prod/mlflow.db"), pin(FLIGHTS, "env:prod")
    monkeypatch.setattr(tracking, "connect", None)
    store.rename("away.db")
    with pytest.raises(ProjectError, match="is gone: bring its file back"):
        pin(FLIGHTS, "env:prod")
    Path("away.db").rename(store)
    assert pin(FLIGHTS, "env:prod") == first


def test_a_deploy_that_is_killed_leaves_no_service_behind(in_prod: Path) -> None:
    (in_prod / "tests/release/test_consumer.py").write_text(PATIENT)
    words = ["-m", "flight_delays", "deploy", "1", "--env", "prod"]
    with subprocess.Popen([sys.executable, *words]) as deploying:
        while not Path("url").exists():
            assert deploying.poll() is None
            time.sleep(0.1)
        deploying.kill()
    end = time.monotonic() + 50
    with pytest.raises(httpx.ConnectError):
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ReadError):
                httpx.get(Path("url").read_text() + "/health")
            time.sleep(0.1)


def test_a_store_that_cannot_be_written_is_named_and_nothing_changes(project: Path, untried: None, run: Any) -> None:
    run("deploy", "1", "--env", "test")
    chosen, client = environments.open_store(FLIGHTS, "test")
    place = Path(client.get_run(environments.find_copy(client, chosen.model).run_id).info.artifact_uri).parents[1]
    kept = place.rename(place.with_name("kept"))
    place.write_text("not a folder")
    assert "Not a directory" in run("deploy", "2", "--env", "test", exit_code=1)
    place.unlink()
    kept.rename(place)
    assert champion("test") == "1"
    Path("environments/test/mlflow.db").write_bytes(b"no database at all" * 100)
    assert "not a database" in run("deploy", "2", "--env", "test", exit_code=1)


def test_an_environment_that_is_not_there_or_is_devs_own_is_named(project: Path, run: Any) -> None:
    assert "there are: dev, prod, test" in run("deploy", "1", "--env", "staging", exit_code=2)
    assert "deploy them to another" in run("deploy", "1", "--env", "dev", exit_code=2)
    edit("test", tracking_uri="sqlite:///mlflow.db")
    assert "is that of dev" in run("deploy", "1", "--env", "test", exit_code=1)
    edit("test", may={"publish": ["engineer"]})
    assert "conf/environments/test.yml: may.publish" in run("deploy", "1", "--env", "test", exit_code=1)
