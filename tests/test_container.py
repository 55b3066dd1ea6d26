"""The generated project's image: linted, built from the file as it is, run as a cluster runs it, asked over HTTP.

No registry of images is to be had here, so a small Debian stands in for the base image under its name. The image is built with
buildah and run with podman, both in a store of their own, gone with the run's temporary folder, so that the stand-in is never
taken for what it stands for; `.ci/run` installs them. Elsewhere these tests fail and say what is missing.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import act
import pytest
from conftest import Render, commit, free_port, git, once, package_of, reads, sources

LEVEL = 3  # at which the image appears
IMAGE = "localhost/mlops-ladder-test"
TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
DEBIAN = "python3,python3-venv,python3-pip,ca-certificates"
# As python:3.11-slim is: `python` and `pip` on the path, pip free to install. The certificates are this machine's.
STANDIN = """FROM localhost/mlops-ladder-debian
RUN ln -sf /usr/bin/python3 /usr/local/bin/python && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
"""
# What runs it here, where there is neither systemd nor a network of its own for containers.
ENGINE = "--runtime /usr/sbin/runc --cgroup-manager cgroupfs"
LIMITS = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
# Not the machine's own images. No mount stays behind: the store is not mounted on itself.
STORE = """[storage]
driver = "overlay"
graphroot = "{0}/images"
runroot = "{0}/running"
[storage.options.overlay]
skip_mount_home = "true"
"""
# What deploy/k8s asks for: nothing but /tmp can be written, no capability, no way to get one.
LOCKED = "--read-only --read-only-tmpfs=false --tmpfs /tmp --cap-drop=ALL --security-opt=no-new-privileges"


def run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{(done.stdout + done.stderr)[-3000:]}"
    return done.stdout.strip()


def test_the_containerfile_is_linted(rendered: Render) -> None:
    file = rendered(LEVEL) / "Containerfile"
    run(act.tool("hadolint"), file)
    spoiled = reads(file).replace('"uv>=0.9,<1"', "uv").encode()
    done = subprocess.run([act.tool("hadolint"), "-"], input=spoiled, capture_output=True, check=False)
    assert done.returncode != 0 and b"DL3013" in done.stdout


def test_the_image_session_builds_and_pushes_under_a_name_of_the_commit(
    project: Render, environment: Render, tmp_path: Path
) -> None:
    folder, python = project(LEVEL), environment(LEVEL)
    (tmp_path / "podman").write_text(f'#!/bin/sh\necho "$@" "$(cat $REGISTRY_AUTH_FILE)" >> {tmp_path}/asked\n')
    (tmp_path / "podman").chmod(0o755)
    more = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "REGISTRY_AUTH_FILE": os.devnull}
    more |= {"IMAGE_REGISTRY": "registry.example.org/team", "REGISTRY_AUTH": '{"auths": {}}'}
    words = [python, "-m", "nox", "-s", "image"]
    done = subprocess.run(words, cwd=folder, env=os.environ | more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    name = f"registry.example.org/team/flight-delays:0.1.0-{git(folder, 'rev-parse', 'HEAD')[:12]}"
    built, pushed = (line.strip() for line in reads(tmp_path / "asked").splitlines())
    assert built == f"build --format docker --file Containerfile --tag {name} ."
    assert pushed == f'push {name} {{"auths": {{}}}}'


@pytest.fixture(scope="session")
def image(shared: Path, rendered: Render) -> Iterator[str]:
    """The image of the highest level's project, built as `nox -s image` builds it; its project is in shared/image."""
    missing = [name for name in TOOLS if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.fail(f"container test not run: no {', '.join(missing) or 'root'} here; on Debian, as root: .ci/run")

    store = shared / "containers"
    store.mkdir(exist_ok=True)
    (store / "storage.conf").write_text(STORE.format(store), encoding="utf-8")
    os.environ["CONTAINERS_STORAGE_CONF"] = str(store / "storage.conf")

    def make(folder: Path) -> None:
        shutil.copytree(rendered(LEVEL), folder)
        run("uv", "lock", "--quiet", cwd=folder)
        [base] = re.findall(r"^ARG BASE=(\S+)$", reads(folder / "Containerfile"), re.MULTILINE)
        root = folder.parent / "debian.tar"
        run("mmdebstrap", "--variant=minbase", f"--include={DEBIAN}", "bookworm", root)
        run("podman", "import", "--quiet", root, "localhost/mlops-ladder-debian")
        root.unlink()
        stand = folder.parent / "standin"
        stand.mkdir()
        (stand / "Containerfile").write_text(STANDIN, encoding="utf-8")
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", stand)
        build = ["bud", "--isolation", "chroot", "--pull-never", "--format", "docker", "--layers"]
        run("buildah", *build, "--tag", base, cwd=stand)
        packages = f"{run('uv', 'cache', 'dir')}:/root/.cache/uv"  # not fetched anew for a test
        run("buildah", *build, "--volume", packages, "--file", "Containerfile", "--tag", IMAGE, ".", cwd=folder)

    once(shared / "image", make)
    yield IMAGE
    del os.environ["CONTAINERS_STORAGE_CONF"]


@contextlib.contextmanager
def started(*words: str | Path) -> Iterator[str]:
    """Run the image with WORDS, podman's and then the command's; give the container's id, and remove it."""
    container = run("podman", "run", "--detach", *ENGINE.split(), *LIMITS.split(), *words)
    try:
        yield container.splitlines()[-1]
    finally:
        subprocess.run(["podman", "rm", "--force", "--time", "0", container], capture_output=True, check=False)


def once_through(image: str, program: str, *words: str) -> str:
    """Return what PROGRAM of the image prints."""
    how = [*ENGINE.split(), *LIMITS.split(), "--rm", "--network", "none", "--entrypoint", program]
    return run("podman", "run", *how, image, *words)


def inside(container: str, code: str) -> str:
    """Return what Python CODE prints in a running container."""
    return run("podman", "exec", container, "python", "-c", code)


def said(container: str) -> str:
    done = subprocess.run(["podman", "logs", container], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def stopped(container: str) -> int:
    """Return the exit code of a container that is told to stop, as a cluster does it; 137 when it had to be killed."""
    run("podman", "stop", "--time", "60", container)
    return int(run("podman", "inspect", "--format", "{{.State.ExitCode}}", container))


def wait_for(container: str, url: str) -> None:
    code = f"import urllib.request as r; print(r.urlopen('{url}').status)"
    for _ in range(240):
        done = subprocess.run(["podman", "exec", container, "python", "-c", code], capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.5)
    raise AssertionError(said(container))


@pytest.fixture(scope="session")
def handed_over(shared: Path, rendered: Render, environment: Render) -> Path:
    """The project with a model file in models/, fitted by its own suite's fixture code."""

    def make(folder: Path) -> None:
        shutil.copytree(rendered(LEVEL), folder)
        package = package_of(folder)
        code = f"""
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for a busy machine's cores take many times as long
sys.path[:0] = ["src", "runtime/src"]
from {package} import data, features, model
from {package}.__main__ import PROJECT
from mlops_ladder.training import handoff
rows = data.read("data/sample")
old, new = rows.iloc[:20_000], rows.iloc[20_000:25_000]
handoff.hand_over(PROJECT, model.make().fit(features.build(old), old[data.TARGET]), old, new, contact="the tests")
"""
        run(environment(LEVEL), "-c", code, cwd=folder)

    return once(shared / "handed-over", make)


@pytest.mark.slow
def test_the_image_answers_over_http_without_root_or_a_writable_disk(image: str, handed_over: Path) -> None:
    mount = f"{handed_over}/models:/app/models:ro"
    with started("--network", "none", *LOCKED.split(), "--volume", mount, image) as container:
        wait_for(container, "http://127.0.0.1:8000/ready")
        row = json.loads(
            inside(
                container,
                "import json, urllib.request as r; "
                "print(json.dumps(json.load(r.urlopen('http://127.0.0.1:8000/model'))['example']['row']))",
            )
        )
        ask = (
            "import urllib.request as r; print(r.urlopen(r.Request('http://127.0.0.1:8000/predict', "
            f"{json.dumps(row).encode()!r}, {{'content-type': 'application/json'}})).read().decode())"
        )
        [value] = json.loads(inside(container, ask))["predictions"]
        assert 0 < value < 1
        assert inside(container, "import os; print(os.getuid(), os.getgid())") == "10001 10001"
        refused = inside(container, "try:\n  open('/app/x', 'w')\nexcept OSError as error:\n  print(error)")
        assert "Read-only file system" in refused
        assert inside(container, "open('/tmp/x', 'w').close(); print('ok')") == "ok"
        run("podman", "healthcheck", "run", container)  # exits 1 when it is not healthy
        assert stopped(container) == 0


@pytest.mark.slow
def test_the_first_process_of_a_container_ends_when_it_is_told_to(image: str) -> None:
    """Unless it asks for SIGTERM it does not hear it there, and is killed only once whoever stops it has lost patience."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        how = ["--network", "host", *LOCKED.split(), "--env", f"MLFLOW_TRACKING_URI={url}", image]
        for words in (["uptime", url], ["serve", "--model", "models:/none@champion"]):
            with started(*how, *words) as container:
                caller, _ = silent.accept()  # it waits for an answer
                assert stopped(container) == 128 + signal.SIGTERM
                caller.close()


@pytest.mark.slow
def test_batch_scoring_that_is_stopped_leaves_whole_parts_and_goes_on_from_there(
    image: str, handed_over: Path, tmp_path: Path
) -> None:
    rows, scores = tmp_path / "rows", tmp_path / "scores"
    for folder in (rows, scores):
        folder.mkdir()
        os.chown(folder, 10001, 10001)
    month = min((handed_over / "data/sample").iterdir())
    for number in range(200):  # more than are scored before it is stopped
        shutil.copy(month, rows / f"{number:03}.parquet")
    mounts = [f"{handed_over}/models:/app/models:ro", f"{rows}:/app/data/rows:ro", f"{scores}:/app/data/scores"]
    how = ["--network", "none", *LOCKED.split(), *(word for mount in mounts for word in ("--volume", mount)), image]
    words = ["score-batch", "--model", "models/model.skops", "--input", "data/rows", "--output", "data/scores"]
    with (
        started(*how, *words) as container,
        subprocess.Popen(["podman", "logs", "--follow", container], stderr=subprocess.PIPE, text=True) as log,
    ):
        assert any(line.startswith("3 of 200") for line in log.stderr or ()), said(container)
        assert stopped(container) == 128 + signal.SIGTERM
    done = {file.name for file in scores.glob("*.parquet")}
    assert 3 <= len(done) < 200
    for file in sorted(rows.iterdir())[:-2]:
        if file.name not in done:
            file.unlink()
    told = run("podman", "run", "--rm", *ENGINE.split(), *LIMITS.split(), *how, *words)
    assert f"2 of {len(done) + 2} parts were new or changed" in told


@pytest.mark.slow
def test_the_image_holds_what_serving_needs_and_nothing_else(image: str, handed_over: Path) -> None:
    listing = "import importlib.metadata as m; print(*sorted({d.name.lower() for d in m.distributions()}))"
    names = set(once_through(image, "python", "-c", listing).split())
    assert {"fastapi", "mlflow", "onnxruntime", "mlops-ladder", package_of(handed_over).replace("_", "-")} <= names
    assert not names & {"pytest", "nox", "mypy", "dvc", "great-expectations", "optuna", "matplotlib", "notebook"}
    [base] = re.findall(r"^ARG BASE=(\S+)$", reads(handed_over / "Containerfile"), re.MULTILINE)
    size, below = (int(run("podman", "image", "inspect", "--format", "{{.Size}}", name)) for name in (image, base))
    assert (size - below) / 2**20 < 750  # MiB; two thirds of what a plain `uv sync` of these groups takes
    layers = run("podman", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "uv sync" not in layers  # what built it stays behind
    files = once_through(image, "ls", "-A", "/app").split()
    assert sorted(files) == [".venv", "conf"]


@pytest.mark.slow
def test_the_image_serves_the_champion_of_a_tracking_server(
    image: str, project: Render, environment: Render, tmp_path: Path
) -> None:
    """A server in place of the SQLite file is what a cluster has."""
    folder, python = project(LEVEL), environment(LEVEL)
    git(folder, "config", "user.email", "ada@example.org")
    for file in sorted((folder / "data/sample").iterdir())[3:]:
        file.unlink()  # a quarter of a year is enough
    (folder / "uv.lock").write_text("version = 1\n")  # a run keeps its lock file; what it says is not read here
    commit(folder)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = f"-m mlflow server --backend-store-uri sqlite:///{tmp_path}/runs.db --artifacts-destination {tmp_path}/kept"
    environ = os.environ | {"MLFLOW_TRACKING_URI": url, "PYTHONPATH": sources(folder), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [python, *words.split(), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            cwd=tmp_path, stdout=log, stderr=log, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.5)
            for command in (["train"], ["promote", "1", "--reason", "the test"]):
                command = [python, "-m", package_of(folder), *command]
                done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
            model = re.search(r"^model: (\S+)", reads(folder / "conf/training.yml"), re.MULTILINE)
            assert model
            at = str(free_port())
            network = ["--network", "host", *LOCKED.split(), "--env", f"MLFLOW_TRACKING_URI={url}"]
            serve = ["serve", "--port", at, "--model", f"models:/{model[1]}@champion"]
            with started(*network, image, *serve) as container:
                wait_for(container, f"http://127.0.0.1:{at}/ready")
                assert '"1"' in inside(
                    container,
                    f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{at}/ready').read().decode())",
                )
        finally:
            server.terminate()
            server.wait(timeout=20)
