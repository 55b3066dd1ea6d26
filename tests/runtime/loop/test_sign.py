"""Signed model files: what was made here is opened, and nothing else once conf/signing.pub names a key."""

import importlib.util
import os
import py_compile
import re
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flight_delays.__main__ import main
from mlops_ladder.core.errors import ProjectError, Refused
from mlops_ladder.loop import sign
from mlops_ladder.loop.service import signatures
from mlops_ladder.release import environments, releasing
from mlops_ladder.serving.servable import resolve
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT

PROJECT = ROOT
SECONDS = 60  # at most, for a look at the registry


@pytest.fixture(scope="module")
def signed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a key, its version 1 signed; the private key is in another folder, which is home."""
    folder = tmp_path_factory.mktemp("signed")
    shutil.copytree(trained, folder / "project")
    for name in ("test", "prod"):
        (folder / "project/environments" / name).mkdir(parents=True)
        shutil.copy(trained.parent / "empty.db", folder / "project/environments" / name / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "project")
        patch.setenv("HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert main(["sign", "--make-key"]) == 0
        assert main(["sign", "1"]) == 0
        yield folder


@pytest.fixture
def project(signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder, whose versions are copies of its own."""
    shutil.copytree(signed / "project", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(signed))
    return tmp_path / "project"


@pytest.fixture
def in_use(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, made the current folder, in which version 1, then 2, came to test and prod; nothing is signed."""
    folder = shutil.copytree(trained, tmp_path / "project")
    for name in ("test", "prod"):
        (folder / "environments" / name).mkdir(parents=True)
        shutil.copy(trained.parent / "empty.db", folder / "environments" / name / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["train", "--set", "seed=1"]) == 0
    for version in ("1", "2"):
        for name in ("test", "prod"):
            chosen, origin = environments.open_store(FLIGHTS, "dev")
            made = tracking.find_version(origin, chosen.model, version)
            _, client = environments.open_store(FLIGHTS, name)
            there = releasing.copy(FLIGHTS, name, client, origin, made)
            facts = {"kind": "deploy", "before": "none", "left": "none", "by": "ada@example.org", "reason": "a test"}
            releasing.move(FLIGHTS, client, releasing.facts_of(name, chosen.model, there, **facts))
    return folder


def copied(number: str = "1") -> tuple[Any, Any, Path]:
    """Return the store of the environment test, the copy of version NUMBER that is in use there, and its folder."""
    chosen, origin = environments.open_store(FLIGHTS, "dev")
    made = tracking.find_version(origin, chosen.model, number)
    _, client = environments.open_store(FLIGHTS, "test")
    there = releasing.copy(FLIGHTS, "test", client, origin, made)
    client.set_registered_model_alias(chosen.model, environments.ALIAS, there.version)
    return client, there, releasing.fetch(client, there)


@pytest.mark.practice("manipulation-protection")
def test_a_signed_version_is_opened_wherever_it_was_copied_to(project: Path) -> None:
    copied()
    assert resolve(FLIGHTS, "env:test").note["signature"] == "verified"


@pytest.mark.practice("manipulation-protection")
@pytest.mark.parametrize("file", ["artifacts/model.skops", "artifacts/HANDOFF.md", "python_env.yaml"])
def test_a_version_whose_files_were_touched_is_not_opened(project: Path, file: str) -> None:
    _, _, folder = copied()
    with (folder / file).open("ab") as content:
        content.write(b"\n")
    with pytest.raises(Refused, match="its files are not those that were signed"):
        resolve(FLIGHTS, "env:test")


def typed(page: str, heading: str) -> None:
    """Type the commands of PAGE's section HEADING, as they stand there."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.partition(f" {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    [block] = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    for line in block.splitlines():
        words = shlex.split(line)
        if words[:4] == ["uv", "run", "python", "-m"]:
            assert main(words[5:]) == 0, line
        else:
            subprocess.run(["bash", "-ec", line], check=True, env=os.environ)


@pytest.mark.practice("manipulation-protection")
def test_whoever_types_the_pages_is_served_on_and_a_key_that_got_out_opens_nothing(
    in_use: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    typed("levels/4-automated-retraining.md", "Signed versions")
    stolen = next(tmp_path.glob(".config/*/*.key")).read_text().strip()
    trusted = sign.PUBLIC.read_text()
    for uri in ("env:test", "env:prod", "env:prod/1"):
        assert resolve(FLIGHTS, uri).note["signature"] == "verified"
    typed("SECURITY.md", "A signing key got out")
    assert sign.PUBLIC.read_text() != trusted
    for uri in ("env:test", "env:prod", "env:prod/1"):
        assert resolve(FLIGHTS, uri).note["signature"] == "verified"
    run("rollback", "--env", "prod", "--reason", "to try")
    assert resolve(FLIGHTS, "env:prod").version == "1"
    monkeypatch.setenv("MODEL_SIGNING_KEY", stolen)
    assert "has no line in conf/signing.pub" in run("sign", "1", exit_code=1)
    sign.PUBLIC.write_text(trusted)
    with pytest.raises(Refused, match="not those that were signed"):
        resolve(FLIGHTS, "env:prod")


@pytest.mark.practice("manipulation-protection")
def test_neither_a_copy_with_other_files_nor_what_was_swapped_is_signed(project: Path, run: Any) -> None:
    _, _, folder = copied()
    with (folder / "artifacts/HANDOFF.md").open("a") as note:
        note.write("\n")
    assert "version 1 in test has other files" in run("sign", "1", exit_code=3)
    chosen, client = tracking.open_store(FLIGHTS)
    made = tracking.find_version(client, chosen.model, "1")
    with (releasing.fetch(client, made) / "artifacts/HANDOFF.md").open("a") as note:
        note.write("\n")
    assert "not those that were registered" in run("sign", "1", exit_code=3)


@pytest.mark.practice("manipulation-protection", "model-rollback")
def test_a_rollback_to_what_no_service_would_open_is_refused(
    in_use: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run("sign", "--make-key")
    run("sign", "2")
    assert "nobody signed it: `sign 1`" in run("rollback", "--env", "prod", "--reason", "why", exit_code=3)
    assert resolve(FLIGHTS, "env:prod").version == "2"
    run("sign", "1")
    run("rollback", "--env", "prod", "--reason", "why")
    assert resolve(FLIGHTS, "env:prod").version == "1"


@pytest.mark.practice("manipulation-protection")
def test_bytecode_that_was_planted_beside_signed_code_does_not_run(project: Path) -> None:
    Path("planted.py").write_text("open('ran', 'w').close()")
    chosen, client = tracking.open_store(FLIGHTS)
    folder = releasing.fetch(client, tracking.find_version(client, chosen.model, "1"))
    sources = (folder / "artifacts/code/features.py", next(folder.rglob("registered.py")))
    planted = [Path(importlib.util.cache_from_source(str(source))) for source in sources]
    try:
        for file in planted:
            py_compile.compile("planted.py", str(file), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        assert resolve(FLIGHTS, f"pyfunc:/{chosen.model}/1").version == "1"
        assert not Path("ran").exists()
    finally:
        for file in planted:  # the folder is that of all tests
            file.unlink(missing_ok=True)


@pytest.mark.practice("manipulation-protection")
def test_a_signature_fits_one_version_of_one_model_by_a_trusted_key(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client, there, _ = copied()
    client.set_model_version_tag(there.name, there.version, "origin_version", "2")
    with pytest.raises(Refused, match="version 2 is not opened"):
        resolve(FLIGHTS, "env:test")
    client.set_model_version_tag(there.name, there.version, "origin_version", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    sign.PUBLIC.unlink()
    assert main(["sign", "--make-key"]) == 0
    with pytest.raises(Refused, match="not those that were signed"):
        resolve(FLIGHTS, "env:test")
    client.delete_model_version_tag(there.name, there.version, "signature")
    with pytest.raises(Refused, match="nobody signed it"):
        resolve(FLIGHTS, "env:test")
    with sign.PUBLIC.open("a") as out:
        out.write("of somebody\n")
    with pytest.raises(ProjectError, match="is no public key"):
        resolve(FLIGHTS, "env:test")


@pytest.mark.practice("manipulation-protection")
def test_the_faster_form_is_signed_too(project: Path) -> None:
    client, there, folder = copied()
    file = project / "model.onnx"
    file.write_bytes(b"faster")
    client.log_artifact(there.run_id, str(file), "gates")
    client.set_model_version_tag(there.name, there.version, "fast_path", "onnx")
    with pytest.raises(Refused, match="nobody signed it"):
        signatures.verify(FLIGHTS, client, there.name, there.version, folder)
    sign.sign(FLIGHTS, client, client.get_model_version(there.name, there.version))
    assert signatures.verify(FLIGHTS, client, there.name, there.version, folder) == {"signature": "verified"}
    file.write_bytes(b"faster and other")
    client.log_artifact(there.run_id, str(file), "gates")
    with pytest.raises(Refused, match="not those that were signed"):
        signatures.verify(FLIGHTS, client, there.name, there.version, folder)


@pytest.mark.practice("manipulation-protection")
def test_a_running_service_keeps_the_old_version_when_the_new_ones_file_was_touched(
    project: Path, serve: Callable[..., Any]
) -> None:
    client, there, folder = copied()
    other = shutil.copytree(folder, project / "other")
    with (other / "artifacts/HANDOFF.md").open("a") as page:
        page.write("\n")
    moved = client.create_model_version(there.name, str(other), tags={**there.tags, "origin_version": "2"})
    with serve(project, "--model", "env:test") as (http, _):
        assert http.get("/model").json()["signature"] == "verified"
        client.set_registered_model_alias(there.name, environments.ALIAS, moved.version)
        until = time.monotonic() + SECONDS
        while not (told := http.get("/model").json())["watch"]["error"] and time.monotonic() < until:
            time.sleep(0.1)
    assert "are not those that were signed" in told["watch"]["error"]
    assert told["version"] == "1"


@pytest.mark.practice("manipulation-protection")
def test_what_is_trained_is_signed_by_whoever_has_the_key(
    workplace: Path, tmp_path: Path, run: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    said = run("sign", "--make-key")
    [private] = tmp_path.glob(".config/*/*.key")
    assert str(private) in said and stat.S_IMODE(private.stat().st_mode) == 0o600
    assert main(["train", "--json"]) == 0
    chosen, client = tracking.open_store(FLIGHTS)
    made = tracking.find_version(client, chosen.model, "1")
    assert resolve(FLIGHTS, f"models:/{made.name}/1").note["signature"] == "verified"
    assert private.read_text().strip() not in sign.PUBLIC.read_text()
    private.unlink()
    assert "no key to sign with" in run("sign", "1", exit_code=1)
