"""Image, cluster and delivery chain are files that agree with conf/ and with the commands. The template's file."""

import argparse
import itertools
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlops_ladder.core import commands, settings
from mlops_ladder.release import environments
from mlops_ladder.serving.app import Serving
from projects import FLIGHTS, ROOT

PROJECT = ROOT
OVERLAYS = sorted((PROJECT / "deploy/k8s/overlays").iterdir())
BASE = {
    (document["kind"], document["metadata"]["name"]): document["spec"]
    for file in sorted((PROJECT / "deploy/k8s/base").glob("[!k]*.yaml"))
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
}
PODS = {
    "service": BASE["Deployment", "service"]["template"],
    "score-batch": BASE["CronJob", "score-batch"]["jobTemplate"]["spec"]["template"],
}
CONTAINERFILE = (PROJECT / "Containerfile").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def container(name: str) -> dict[str, Any]:
    [found] = PODS[name]["spec"]["containers"]
    return found


def literals(overlay: Path) -> dict[str, str]:
    """Return the variables that an overlay gives its pods."""
    [made] = yaml.safe_load((overlay / "kustomization.yaml").read_text(encoding="utf-8"))["configMapGenerator"]
    return dict(text.split("=", 1) for text in made["literals"])


@pytest.mark.practice("infrastructure-as-code", "container-image")
def test_image_and_cluster_use_the_port_of_the_configuration() -> None:
    port = settings.read(FLIGHTS, "serving", Serving).port
    assert container("service")["ports"] == [{"name": "http", "containerPort": port}]
    assert f"EXPOSE {port}\n" in CONTAINERFILE
    assert f"http://127.0.0.1:{port}/health" in CONTAINERFILE
    probes = [container("service")[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    targets = [*(probe["port"] for probe in probes), BASE["Service", "service"]["ports"][0]["targetPort"]]
    assert set(targets) == {"http"}


@pytest.mark.practice("infrastructure-as-code")
def test_the_cluster_waits_until_the_last_request_is_answered() -> None:
    conf, pod = settings.read(FLIGHTS, "serving", Serving), PODS["service"]["spec"]
    hold = container("service")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > hold + conf.drain_s + conf.grace_s
    probe = container("service")["readinessProbe"]
    assert hold >= probe["periodSeconds"] * probe["failureThreshold"]  # by then nobody sends requests there


@pytest.mark.practice("infrastructure-as-code")
def test_each_environment_of_the_configuration_has_an_overlay() -> None:
    names = sorted(file.stem for file in (PROJECT / "conf/environments").glob("*.yml"))
    assert [overlay.name for overlay in OVERLAYS] == names


@pytest.mark.practice("infrastructure-as-code")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_runs_its_own_environment(overlay: Path) -> None:
    made, given = yaml.safe_load((overlay / "kustomization.yaml").read_text(encoding="utf-8")), literals(overlay)
    assert made["namespace"] == given["ENVIRONMENT"] == overlay.name
    for name in PODS:
        assert "env:$(ENVIRONMENT)" in container(name)["args"]
        assert {"configMapRef": {"name": "environment"}} in container(name)["envFrom"]


@pytest.mark.practice("infrastructure-as-code")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_pods_reach_the_store_of_their_environment(overlay: Path) -> None:
    stated = settings.read(FLIGHTS, f"environments/{overlay.name}", environments.Environment).tracking_uri
    given = literals(overlay).get("MLFLOW_TRACKING_URI")
    assert bool(stated) != bool(given)  # it is said in one place
    uri = str(stated or given)
    if uri.startswith("sqlite"):
        file = Path("/app") / uri.partition(":///")[2]
        for name in PODS:
            mounts = [mount["mountPath"] for mount in container(name)["volumeMounts"]]
            assert any(file.is_relative_to(path) for path in mounts), f"{file} is on no volume of {name}"
    else:
        scheme, port = re.match(r"(https?)://[^/:]+(?::(\d+))?", uri).groups()  # type: ignore[union-attr]
        for name in PODS:
            ports = [one["port"] for rule in BASE["NetworkPolicy", name]["egress"] for one in rule["ports"]]
            assert int(port or {"http": 80, "https": 443}[scheme]) in ports, f"{name} may not call {uri}"


@pytest.mark.practice("kubernetes-autoscaling")
def test_the_service_scales_with_its_load_and_survives_a_drained_machine() -> None:
    scaler, budget = BASE["HorizontalPodAutoscaler", "service"], BASE["PodDisruptionBudget", "service"]
    assert scaler["scaleTargetRef"]["name"] == "service" and ("Deployment", "service") in BASE
    assert 1 < scaler["minReplicas"] < scaler["maxReplicas"]
    assert "replicas" not in BASE["Deployment", "service"]  # a roll-out would undo what the autoscaler did
    assert budget["maxUnavailable"] < scaler["minReplicas"]
    assert "cpu" in container("service")["resources"]["requests"]  # of which the load is a share
    assert BASE["CronJob", "score-batch"]["concurrencyPolicy"] == "Forbid"


@pytest.mark.practice("kubernetes-autoscaling", "container-image")
@pytest.mark.parametrize("name", PODS)
def test_a_pod_can_do_no_more_than_it_needs(name: str) -> None:
    spec, one = PODS[name]["spec"], container(name)
    user = re.search(r"^USER (\d+):\1$", CONTAINERFILE, re.MULTILINE)
    assert user and spec["securityContext"]["runAsUser"] == int(user[1]) > 0
    assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory", "ephemeral-storage"} == set(one["resources"]["limits"])
    labels = PODS[name]["metadata"]["labels"]
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        if policy := BASE.get((kind, name)):
            assert (policy.get("podSelector") or policy["selector"])["matchLabels"].items() <= labels.items()
    assert ("NetworkPolicy", name) in BASE


@pytest.mark.practice("infrastructure-as-code", "container-image")
def test_no_secret_stands_in_image_or_cluster() -> None:
    assert not [kind for kind, _ in BASE if kind == "Secret"]
    files = [*PROJECT.glob("deploy/k8s/**/*.yaml"), PROJECT / "Containerfile"]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(?i)(password|_token|secret_key|api_key)\w*[\"']?\s*[:=]\s*[\"']?\w", text), file
        assert not re.search(r"://[^/\s:]+:[^/\s@]+@", text), file
    kept = (PROJECT / ".containerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in kept and {line for line in kept if line.startswith("!")} == {
        "!.copier-answers.yml",
        "!conf",
        "!pyproject.toml",
        "!runtime",
        "!src",
        "!uv.lock",
    }


@pytest.mark.practice("kubernetes-autoscaling")
@pytest.mark.parametrize("name", PODS)
def test_a_pod_calls_a_command_that_is_there(name: str) -> None:
    understood(container(name)["args"])


def understood(words: list[str]) -> None:
    """Fail unless the package has the command and its parser takes the options."""
    command, *rest = words
    assert command in commands.known(FLIGHTS), f"no command {command}"
    parser = argparse.ArgumentParser(exit_on_error=False)
    commands.load(FLIGHTS, command).arguments(parser)
    _, unknown = parser.parse_known_args(rest)
    assert not unknown, f"{command} has no {unknown}"


@pytest.mark.practice("staging-system-test", "commit-triggered-release")
def test_the_chain_s_sessions_are_there() -> None:
    text = (PROJECT / "nox_delivery.py").read_text(encoding="utf-8")
    for name in ("image", "roll-out", "system"):
        assert re.search(rf'@nox\.session(\(name="{name}"\)|\ndef {name}\()', text) or f'name="{name}"' in text, name


CHAIN = ("check", "train", "gate", "test", "system-test", "production", "pipeline")
DELIVER = yaml.safe_load((PROJECT / ".github/workflows/deliver.yml").read_text(encoding="utf-8"))


def before(job: str) -> set[str]:
    """Return all jobs that must be green before JOB starts."""
    needs = DELIVER["jobs"][job].get("needs", [])
    direct = {needs} if isinstance(needs, str) else set(needs)
    return direct.union(*map(before, direct))


@pytest.mark.practice("commit-triggered-release")
def test_a_commit_goes_through_every_link_in_order() -> None:
    assert DELIVER[True] == {"push": {"branches": ["main"]}}
    for earlier, later in itertools.pairwise(CHAIN):
        assert earlier in before(later), f"{later} does not wait for {earlier}"
    for name, job in DELIVER["jobs"].items():
        assert "always()" not in str(job.get("if", "")) and not job.get("continue-on-error"), name


@pytest.mark.practice("commit-triggered-release")
def test_people_guard_what_goes_to_an_environment() -> None:
    jobs = DELIVER["jobs"]
    assert jobs["test"]["environment"] == "test" and jobs["production"]["environment"] == "production"
    for name, job in jobs.items():
        for line in (step.get("run", "") for step in job["steps"]):
            if "prod" in shlex.split(line):
                assert job["environment"] == "production", name


@pytest.mark.practice("commit-triggered-release", "pipeline-ci")
def test_each_step_is_a_command_that_a_person_can_type() -> None:
    lines = [step["run"] for job in DELIVER["jobs"].values() for step in job["steps"] if "run" in step]
    assert lines and all(line.startswith("uv run nox -s ") for line in lines)
    for line in lines:
        session, *words = shlex.split(line.removeprefix("uv run nox -s "))
        if session == "run":
            understood(words[1:])


@pytest.mark.practice("code-review")
def test_somebody_is_asked_to_review_every_file_of_code() -> None:
    lines = (PROJECT / ".github/CODEOWNERS").read_text(encoding="utf-8").splitlines()
    rules = [line.split() for line in lines if line and not line.startswith("#")]
    for file in [*PROJECT.glob("src/**/*.py"), *PROJECT.glob("conf/**/*.yml"), *PROJECT.glob("deploy/**/*.yaml")]:
        path = f"/{file.relative_to(PROJECT).as_posix()}"
        fits = [owners for pattern, *owners in rules if fnmatch(path, f"{pattern}*") or pattern == "*"]
        assert fits and fits[-1], path
    asked = (PROJECT / ".github/pull_request_template.md").read_text(encoding="utf-8")
    assert "numbers before and after" in asked  # what a reviewer of a model needs
