"""The generated project on Kubernetes: what kustomize makes of each overlay, checked strictly against the API's schemas."""

import shutil
import subprocess
from pathlib import Path

import act
import pytest
import yaml
from conftest import Render, reads

LEVEL = 3  # at which the manifests appear
ENVIRONMENTS = ["dev", "test", "prod"]
KINDS = {
    "ConfigMap",
    "CronJob",
    "Deployment",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Service",
}


def build(folder: Path, environment: str) -> str:
    """Return the manifests of an environment, as `kubectl apply -k` would send them."""
    words = [act.tool("kubectl"), "kustomize", f"deploy/k8s/overlays/{environment}"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # nor anything deprecated
    return done.stdout


def validate(manifests: str, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "manifests.yaml"
    file.write_text(manifests, encoding="utf-8")
    words = [act.tool("kubernetes-validate"), "--strict", str(file)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_manifest_of_an_overlay_is_valid(environment: str, rendered: Render, tmp_path: Path) -> None:
    made = build(rendered(LEVEL), environment)
    done = validate(made, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    documents = list(yaml.safe_load_all(made))
    assert {document["kind"] for document in documents} == KINDS
    assert {document["metadata"]["namespace"] for document in documents} == {environment}
    assert done.stderr.count(" passed for ") + done.stdout.count(" passed for ") == len(documents)


def test_the_retraining_is_a_valid_job_that_runs_alone(rendered: Render, tmp_path: Path) -> None:
    made = build(rendered(4), "../retraining")
    done = validate(made, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [one for one in yaml.safe_load_all(made) if one["kind"] == "CronJob"]
    assert [(one["spec"]["concurrencyPolicy"], one["metadata"]["namespace"]) for one in jobs] == [("Forbid", "prod")]
    ((container,),) = [one["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"] for one in jobs]
    assert container["command"] == ["python", "-m", "nox", "-s", "loop"]  # the whole turn, as everywhere else


def test_the_retraining_reaches_the_service_that_it_releases_to(rendered: Render) -> None:
    [policy] = [one for one in specs(rendered(4), "../retraining") if one["kind"] == "NetworkPolicy"]
    [service] = [one for one in specs(rendered(4), "prod") if one["kind"] == "Deployment"]
    [port] = service["spec"]["template"]["spec"]["containers"][0]["ports"]
    let_out = [one["port"] for rule in policy["spec"]["egress"] for one in rule["ports"]]
    assert port["containerPort"] in let_out


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("containerPort: 8000", 'containerPort: "8000"'),
        ("livenessProbe:", "livenesProbe:"),
        ("maxReplicas: 20", "maxReplicas: many"),
    ],
)
def test_a_wrong_manifest_is_noticed(right: str, wrong: str, rendered: Render, tmp_path: Path) -> None:
    made = build(rendered(LEVEL), "prod")
    assert right in made
    assert validate(made.replace(right, wrong), tmp_path).returncode != 0


def test_overlays_differ_where_they_should_and_nowhere_else(rendered: Render) -> None:
    made = {name: {one["kind"]: one["spec"] for one in specs(rendered(LEVEL), name)} for name in ENVIRONMENTS}
    for kind in KINDS - {"ConfigMap", "HorizontalPodAutoscaler", "CronJob", "Deployment"}:
        assert made["dev"][kind] == made["test"][kind] == made["prod"][kind], kind
    scale = [made[name]["HorizontalPodAutoscaler"]["maxReplicas"] for name in ENVIRONMENTS]
    assert scale == sorted(scale)
    assert [made[name]["CronJob"].get("suspend", False) for name in ENVIRONMENTS] == [True, True, False]
    pods = [made[name]["Deployment"]["template"]["spec"]["containers"][0] for name in ENVIRONMENTS]
    assert pods[0]["envFrom"][0]["configMapRef"]["name"].startswith("environment-")
    assert len({pod["envFrom"][0]["configMapRef"]["name"] for pod in pods}) == 3  # a change of it rolls out new pods


def specs(folder: Path, environment: str) -> list[dict]:
    return [one for one in yaml.safe_load_all(build(folder, environment)) if "spec" in one]


def test_a_roll_out_puts_the_commit_s_image_on_the_cluster(
    project: Render, environment: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubectl renders for real and writes down what it would apply: no API server is to be had."""
    folder, python = project(LEVEL), environment(LEVEL)
    asked = tmp_path / "asked"
    script = f"""#!/bin/sh
case "$*" in kustomize*) exec "{act.tool("kubectl")}" "$@";; esac
echo "$@" >> {asked}
case "$*" in *apply*) cat >> {asked};; esac
"""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").write_text(script, encoding="utf-8")
    (tmp_path / "bin/kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(shutil.which('git') or '').parent}")
    words = [python, "-m", "nox", "-s", "roll-out", "--", "test"]

    none = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert none.returncode == 0 and "no cluster for test" in none.stderr and not asked.exists()

    monkeypatch.setenv("CLUSTER", "apiVersion: v1\nkind: Config\n")
    monkeypatch.setenv("IMAGE_REGISTRY", "registry.example.org/team")
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True).stdout
    images = {line.strip() for line in reads(asked).splitlines() if "image:" in line}
    assert images == {f"image: registry.example.org/team/flight-delays:0.1.0-{head[:12]}"}
    assert "rollout status deployment/flight-delays-service" in reads(asked)
