"""Sessions of level 3: build the image, put it on a cluster, test a whole environment. The template's file."""

import os
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENTS = sorted(folder.name for folder in ROOT.glob("deploy/k8s/overlays/*"))


@nox.session
def image(session: nox.Session) -> None:
    """Build the image with podman, docker or buildah; push it where IMAGE_REGISTRY names a registry.

    REGISTRY_AUTH holds what `podman login` or `docker login` writes; without it this machine's own login counts.
    """
    engine = next(filter(shutil.which, ("podman", "docker", "buildah")), None)
    if not engine:
        session.error("no podman, docker or buildah here: install one of them")
    # The health check is part of Docker's format; that of OCI has none.
    words = ["--format", "docker"] if engine != "docker" else []
    session.run(engine, "build", *words, "--file", "Containerfile", "--tag", name(), ".", external=True)
    if os.environ.get("IMAGE_REGISTRY"):
        with tempfile.TemporaryDirectory() as folder:  # only its owner can read it
            (Path(folder) / "config.json").write_text(os.environ.get("REGISTRY_AUTH") or "{}", encoding="utf-8")
            login = {"REGISTRY_AUTH_FILE": f"{folder}/config.json", "DOCKER_CONFIG": folder}
            session.run(engine, "push", name(), external=True, env=login if os.environ.get("REGISTRY_AUTH") else {})


@nox.session(name="roll-out")
def roll_out(session: nox.Session) -> None:
    """Put this commit's image on the cluster of `-- ENVIRONMENT`, whose kubeconfig is in CLUSTER; wait until it answers."""
    environment = chosen(session)
    if not os.environ.get("CLUSTER"):
        return session.warn(f"no cluster for {environment}: CLUSTER is not set, so no image is rolled out")
    made = kubectl(session, "kustomize", f"deploy/k8s/overlays/{environment}")
    manifest = made.replace(f"image: {PROJECT['name']}:unset", f"image: {name()}")
    with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig") as config:  # only its owner can read it
        config.write(os.environ["CLUSTER"])
        config.flush()
        here = ("--kubeconfig", config.name, "--namespace", environment)
        kubectl(session, *here, "apply", "--filename", "-", given=manifest)
        kubectl(session, *here, "rollout", "status", f"deployment/{PROJECT['name']}-service", "--timeout=10m")


@nox.session
def system(session: nox.Session) -> None:
    """Test `-- ENVIRONMENT` from the upstream feed to the downstream consumer, against the service that it has."""
    words = ["run", "pytest", "tests/system", *session.posargs[1:]]
    session.run("uv", *words, external=True, env={"SYSTEM_ENVIRONMENT": chosen(session)})


def chosen(session: nox.Session) -> str:
    environment = session.posargs[0] if session.posargs else "none"
    if environment not in ENVIRONMENTS:
        session.error(f"the environment is {environment}, must be one of {', '.join(ENVIRONMENTS)}")
    return environment


def name() -> str:
    """Return the image's name: the registry, the project, its version and its commit, so that no two share one."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    registry = os.environ.get("IMAGE_REGISTRY", "").rstrip("/")
    return f"{registry + '/' * bool(registry)}{PROJECT['name']}:{PROJECT['version']}-{commit.stdout.strip() or 'none'}"


def kubectl(session: nox.Session, *words: str, given: str = "") -> str:
    if not shutil.which("kubectl"):
        session.error("no kubectl here: install it")
    done = subprocess.run(["kubectl", *words], cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        session.error(f"kubectl {words[0]}: {done.stderr.strip()}")
    return done.stdout
