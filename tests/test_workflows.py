"""Every workflow of every level: run with act for each event it declares, turned red by a fault, and read as YAML."""

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import act
import pandas as pd
import pytest
import yaml
from conftest import LEVELS, ROOT, Render, commit, free_port, git, package_of, reads, sources

QUICK = {"PYTEST_ADDOPTS": "--no-cov tests/test_features.py"}  # the wiring is shown here; test_generated runs all tests
WITH_CI = [level for level in LEVELS if level >= 1]
WORKFLOWS = sorted(path.stem for path in (ROOT / "template/.github/workflows").glob("*.yml"))
TAG = {"ref": "refs/tags/v0.1.0"}

# What a job may do beyond reading the repository.
ALLOWED = {("release", "publish"): {"contents": "write"}}
# How a line of a workflow may begin: with a session that a person can type, or with GitHub's own release command.
LINES = ("uv run nox -s ", "gh release create ")


def nothing(*_: Path) -> None:
    pass


def break_a_test(folder: Path) -> None:
    with (folder / "tests/test_features.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef test_broken() -> None:\n    raise AssertionError\n")


def lose_the_source(folder: Path) -> None:
    conf = folder / "conf/data.yml"
    conf.write_text(reads(conf).replace("url: data/sample", "url: data/elsewhere"), encoding="utf-8")


def spoil_the_source(folder: Path) -> None:
    """Make the first month's distances negative, which SCHEMA does not allow."""
    file = min((folder / "data/sample").iterdir())
    rows = pd.read_parquet(file)
    rows.assign(distance=-rows["distance"]).to_parquet(file, index=False)


def model_is_offered(folder: Path, store: Path) -> None:
    assert json.loads(reads(store / "training/candidate/registered.json"))["version"] == "1"
    assert (store / "training/mlflow.db").is_file()


def comparison_is_offered(folder: Path, store: Path) -> None:
    assert "| **roc_auc** |" in reads(store / "comment/comment.md")
    assert "nothing is registered" in reads(store / "comment/comment.md")


def sample_is_offered(folder: Path, store: Path) -> None:
    assert {path.name for path in (store / "gathered").iterdir()} == {"raw", "manifest.json"}
    sample = {path.name for path in (folder / "data/sample").iterdir()}
    assert {path.name for path in (store / "gathered/raw").iterdir()} == sample


def release_is_made(folder: Path, store: Path) -> None:
    asked = reads(store / "gh.txt").splitlines()
    assert asked[:3] == ["release", "create", "v0.1.0"]
    wheels = [f"{package_of(folder)}-0.1.0-py3-none-any.whl", f"mlops_ladder-{runtime_version()}-py3-none-any.whl"]
    assert {f"dist/{name}" for name in ("CHANGELOG.md", "requirements.txt", *wheels)} <= set(asked)


def runtime_version() -> str:
    return tomllib.loads(reads(ROOT / "template/runtime/pyproject.toml"))["project"]["version"]


def commands(fail: str = "nothing fails") -> dict[str, str]:
    """Return a stand-in for uv: it writes down what it is asked to do and fails when that holds FAIL.

    So a chain of hours is run in seconds, link by link; that the commands are there and take these options is tested in the
    generated project, and the whole chain once with the real ones in test_delivery.py.
    """
    return {
        "uv": f"""#!/bin/sh
echo "$@" >> "$STORE/asked.txt"
case "$*" in
    *"{fail}"*) echo "refused: {fail}"; sleep 1; exit 3 ;; # act loses what is printed at the very end
    *" loop") mkdir -p reports models/gates audit ;;
    *" build") mkdir -p dist && touch dist/package.whl ;;
    *--output*) for last; do :; done; echo version=7 >> "$last" ;;
esac
"""
    }


def commit_is_in_production(folder: Path, store: Path) -> None:
    asked = [line.removeprefix("run nox -s ") for line in reads(store / "asked.txt").splitlines() if line != "sync"]
    asked = [re.sub(r"--output .*", "--output FILE", line) for line in asked if line != "image"]  # beside the training
    assert asked == [
        "lint types tests",
        "build",
        "run -- deploy-pipeline --env dev --run --output FILE",
        "run -- gate 7",
        "run -- deploy 7 --env test",
        "roll-out -- test",
        "system -- test",
        "run -- deploy 7 --env prod",
        "roll-out -- prod",
        "run -- deploy-pipeline --env prod --to /pipelines",
    ]
    assert (store / "pipeline/package.whl").is_file()


def loop_has_turned(folder: Path, store: Path) -> None:
    assert reads(store / "asked.txt").splitlines()[-1] == "run nox -s loop"


class Case(NamedTuple):
    """One run: what the workflow is given and what becomes of its jobs; a job that is not named must not run."""

    workflow: str
    event: str
    green: set[str]
    red: frozenset[str] = frozenset()
    says: str = ""  # part of what a red run prints
    prepare: Callable[[Path], None] = nothing  # edits the project before the run
    payload: dict[str, Any] | None = None
    look: Callable[[Path, Path], None] = nothing  # at the project and at what the run left in the store
    programs: dict[str, str] | None = None  # scripts that stand in for programs
    var: dict[str, str] = MappingProxyType({})  # type: ignore[assignment]  # the repository's variables


CHECKS = {"check (lint)", "check (types)", "check (tests)"}
DELIVERY = {"MLFLOW_TRACKING_URI": "http://store.example.org", "PIPELINE_HOME": "/pipelines"}
# A link that fails, the job that it is in and those that ran before.
LINKS = [
    ("lint types tests", "check", set()),
    ("build", "check", set()),
    ("image", "image", {"check", "train", "gate"}),
    ("deploy-pipeline --env dev", "train", {"check", "image"}),
    ("gate 7", "gate", {"check", "image", "train"}),
    ("deploy 7 --env test", "test", {"check", "image", "train", "gate"}),
    ("roll-out -- test", "test", {"check", "image", "train", "gate"}),
    ("system -- test", "system-test", {"check", "image", "train", "gate", "test"}),
    ("deploy 7 --env prod", "production", {"check", "image", "train", "gate", "test", "system-test"}),
    ("roll-out -- prod", "production", {"check", "image", "train", "gate", "test", "system-test"}),
]
WHOLE = {"check", "image", "train", "gate", "test", "system-test", "production", "pipeline"}
CASES = [
    Case("ci", "push", {*CHECKS, "build"}),
    Case("ci", "pull_request", {*CHECKS, "build"}),
    Case("ci", "push", CHECKS - {"check (tests)"}, frozenset({"check (tests)"}), "test_broken", break_a_test),
    Case("deliver", "push", WHOLE, look=commit_is_in_production, programs=commands(), var=DELIVERY),
    Case("deliver", "push", set()),  # no store: nothing could be handed on
    *(
        Case("deliver", "push", done, frozenset({job}), f"refused: {link}", programs=commands(link), var=DELIVERY)
        for link, job, done in LINKS
    ),
    Case("ingest", "schedule", {"ingest"}),
    Case("ingest", "workflow_dispatch", {"ingest"}, look=sample_is_offered),
    Case("ingest", "schedule", set(), frozenset({"ingest"}), "data/elsewhere", lose_the_source),
    Case("release", "push", {"build", "publish"}, payload=TAG, look=release_is_made),
    Case("release", "push", set(), frozenset({"build"}), "the tag is v9.9.9", payload={"ref": "refs/tags/v9.9.9"}),
    Case("release", "push", set(), frozenset({"build"}), "test_broken", break_a_test, TAG),
    *(
        Case("retrain", event, {"retrain"}, payload=payload, look=loop_has_turned, programs=commands(), var=DELIVERY)
        for event, payload in (
            ("schedule", None),
            ("repository_dispatch", {"action": "retrain"}),
            ("workflow_dispatch", {"inputs": {"reason": "to try"}}),
        )
    ),
    Case("retrain", "schedule", set()),  # no store: nothing is in use
    Case(
        "retrain", "schedule", set(), frozenset({"retrain"}), "refused: loop", programs=commands("loop"), var=DELIVERY
    ),
    Case("train", "schedule", {"train"}, look=model_is_offered),
    Case("train", "workflow_dispatch", {"train"}),
    Case("train", "schedule", set(), frozenset({"train"}), "distance", spoil_the_source),
    Case("train-sample", "pull_request", {"sample"}, look=comparison_is_offered),
    Case("train-sample", "pull_request", set(), frozenset({"sample"}), "distance", spoil_the_source),
]


def level_of(workflow: str) -> int:
    """Return the level at which a workflow appears."""
    (level,) = [
        n for n in LEVELS if f"/workflows/{workflow}.yml\n" in reads(next(ROOT.glob(f"levels/{n}-*/files.yml")))
    ]
    return level


def runs() -> list[Any]:
    """Each case at the level where its workflow appears, and CI's everyday run at the highest level too."""
    at = [(level_of(case.workflow), case) for case in CASES]
    at += [(LEVELS[-1], CASES[0])] * (LEVELS[-1] > level_of("ci"))
    return [pytest.param(level, case, id=f"{level}-{case.workflow}-{case.event}-{case.says}") for level, case in at]


def run(project: Path, case: Case, store: Path, **more: dict[str, str]) -> dict[str, str]:
    case.prepare(project)
    done = subprocess.run(["uv", "lock", "--quiet"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commit(project)
    more = {"env": QUICK, "var": dict(case.var), **more}
    return act.run(project, case.workflow, case.event, store, case.payload, case.programs, **more)


@pytest.mark.slow
@pytest.mark.parametrize(("level", "case"), runs())
def test_workflow_runs_the_jobs_it_should_and_no_other(level: int, case: Case, project: Render, tmp_path: Path) -> None:
    folder, store = project(level), tmp_path / "store"
    results = run(folder, case, store)
    assert results == dict.fromkeys(case.green, "success") | dict.fromkeys(case.red, "failure"), act.said(store)
    assert case.says in act.said(store)
    case.look(folder, store)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_event_of_a_workflow_is_run_and_a_fault_turns_it_red(workflow: str) -> None:
    document = yaml.safe_load(reads(ROOT / f"template/.github/workflows/{workflow}.yml"))
    mine = [case for case in CASES if case.workflow == workflow]
    assert {case.event for case in mine if not case.red} == set(act.triggers(document))
    assert any(case.red for case in mine), "no case turns it red"
    assert all(case.says for case in mine if case.red), "red for which reason?"


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    told: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()


@pytest.mark.slow
def test_a_scheduled_training_that_fails_tells_the_operators(project: Render, tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        case = Case("train", "schedule", set(), prepare=spoil_the_source)
        secret = {"NOTIFY_URL": f"json://127.0.0.1:{server.server_port}/train"}
        results = run(project(2), case, tmp_path / "store", secret=secret)
        server.shutdown()
    assert results == {"train": "failure"}, act.said(tmp_path / "store")
    [told] = Receiver.told
    assert "exit code 3" in told and "distance" in told


@pytest.mark.slow
def test_a_report_counts_in_the_next_run_whatever_came_of_the_one_before(project: Render, tmp_path: Path) -> None:
    """`at_least: 2 of 3` would never hold where each run has only its own."""
    turn = 'ls reports/monitoring >> "$STORE/found.txt"; mkdir -p reports/monitoring; date > reports/monitoring/1.json'
    programs = {"uv": f'#!/bin/sh\ncase "$*" in *" loop") {turn}; sleep 1; exit 3 ;; esac\n'}
    folder, store = project(level_of("retrain")), tmp_path / "store"
    for found in ("", "1.json\n"):
        assert act.run(folder, "retrain", "schedule", store, programs=programs, var=DELIVERY) == {"retrain": "failure"}
        assert reads(store / "found.txt") == found


@pytest.mark.slow
def test_release_goes_to_the_package_feed_where_there_is_one(project: Render, tmp_path: Path) -> None:
    folder, store = project(1), tmp_path / "store"
    (tmp_path / "index").mkdir()
    port = free_port()
    words = [act.tool("pypi-server"), *f"run -i 127.0.0.1 -p {port} -a . -P .".split(), tmp_path / "index"]
    index = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        feed = {"PACKAGE_FEED_URL": f"http://127.0.0.1:{port}/"}
        case = Case("release", "push", set(), payload=TAG)
        results = run(folder, case, store, var=feed, secret={"PACKAGE_FEED_TOKEN": "a-secret-token"})
    finally:
        index.terminate()
        index.wait(timeout=10)
    assert results == dict.fromkeys(["build", "publish", "feed"], "success"), act.said(store)
    names = [f"{package_of(folder)}-0.1.0", f"mlops_ladder-{runtime_version()}"]
    files = {f"{name}{end}" for name in names for end in ("-py3-none-any.whl", ".tar.gz")}
    assert {path.name for path in (tmp_path / "index").iterdir()} == files
    assert "a-secret-token" not in reads(store / "log.txt")


@pytest.mark.parametrize("level", WITH_CI)
def test_every_workflow_keeps_the_rules(level: int, rendered: Render) -> None:
    for path in sorted(rendered(level).glob(".github/workflows/*.yml")):
        assert not faults(path.stem, reads(path))
    for path in sorted(rendered(level).glob(".github/actions/*/action.yml")):
        assert not faults_of_pins(reads(path))


def test_an_action_has_one_pin_everywhere(rendered: Render) -> None:
    files = rendered(LEVELS[-1]).glob(".github/**/*.yml")
    found = {pin for path in files for pin in act.pins(reads(path)) if not pin[0].startswith("./")}
    names = [name.partition("@")[0] for name, _ in found]
    assert len(names) == len(set(names)), found


def test_branches_and_tags_that_start_a_workflow() -> None:
    """act passes over these filters, so they are read."""
    on = {
        name: act.triggers(yaml.safe_load(reads(ROOT / f"template/.github/workflows/{name}.yml"))) for name in WORKFLOWS
    }
    assert on["ci"] == {"push": {"branches": ["main"]}, "pull_request": None}
    assert on["deliver"] == {"push": {"branches": ["main"]}}
    assert on["ingest"] == {"schedule": [{"cron": "17 5 2 * *"}], "workflow_dispatch": None}
    assert on["train"] == {"schedule": [{"cron": "17 4 * * 1"}], "workflow_dispatch": None}
    assert on["train-sample"] == {"pull_request": None}
    reason = {"description": "Why now; empty leaves it to the policy", "required": False, "default": ""}
    assert on["retrain"] == {
        "schedule": [{"cron": "41 5 * * *"}],
        "repository_dispatch": {"types": ["retrain"]},
        "workflow_dispatch": {"inputs": {"reason": reason}},
    }
    assert on["release"] == {"push": {"tags": ["v*"]}}


# What registers or gates a version, which level 4 signs, and what it keeps a record of.
SIGNED = re.compile(r"-- (notify train|deploy-pipeline .*--run|gate)\b|-s loop")
RECORDED = re.compile(rf"{SIGNED.pattern}|-- deploy ")

GOOD = reads(ROOT / "template/.github/workflows/release.yml")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# What: ", "# ", "two lines"),
        ("permissions:\n  contents: read\n", "", "permissions"),
        ("permissions:\n  contents: read\n", "permissions: write-all\n", "permissions"),
        ("contents: write", "packages: write", "permissions"),
        ("concurrency:\n  group: release", "env:\n  group: release", "concurrency"),
        ("    timeout-minutes: 45\n", "", "timeout"),
        ("actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "actions/checkout@v7", "pinned"),
        ("273ba90b1 # v7.0.1", "273ba90b1", "pinned"),
        ("uv run nox -s publish", "twine upload dist/*", "twine"),
        ('"$GITHUB_REF_NAME" dist/*', "${{ github.ref_name }} dist/*", "injected"),
        ("    environment: package-feed", "    env: {A: b}", "secret"),
    ],
)
def test_a_spoiled_workflow_is_noticed(old: str, new: str, fault: str) -> None:
    assert not faults("release", GOOD)
    assert old in GOOD
    assert any(fault in each for each in faults("release", GOOD.replace(old, new)))


@pytest.mark.parametrize(
    ("workflow", "name", "jobs"),
    [
        ("train", "MODEL_SIGNING_KEY", {"train"}),
        ("train", "AUDIT_LOG", {"train"}),
        ("deliver", "MODEL_SIGNING_KEY", {"train", "gate"}),
        ("deliver", "AUDIT_LOG", {"train", "gate", "test", "production"}),
        ("retrain", "MODEL_SIGNING_KEY", {"retrain"}),
        ("retrain", "AUDIT_LOG", {"retrain"}),
    ],
)
def test_a_job_that_cannot_sign_or_record_what_it_makes_is_noticed(workflow: str, name: str, jobs: set[str]) -> None:
    text = reads(ROOT / f"template/.github/workflows/{workflow}.yml")
    without = re.sub(rf"^ *{name}: .*\n", "", text, flags=re.MULTILINE)
    assert not faults(workflow, text)
    assert {line.split()[0] for line in faults(workflow, without)} == jobs


def faults(workflow: str, text: str) -> list[str]:
    """Return what is wrong with a workflow, in words."""
    document = yaml.safe_load(text)
    found = faults_of_pins(text)
    if not re.match(r"# What: .*\n# When: .*\nname: ", text):
        found.append("it does not begin with two lines of comment, What and When")
    if document.get("permissions") != {"contents": "read"}:
        found.append("permissions are not {contents: read}")
    if not {"group", "cancel-in-progress"} <= set(document.get("concurrency", {})):
        found.append("concurrency does not say what happens to a run under way")
    for name, job in document["jobs"].items():
        for step in job.get("steps", []):
            given = {**document.get("env", {}), **job.get("env", {}), **step.get("env", {})}
            if SIGNED.search(step.get("run", "")) and "MODEL_SIGNING_KEY" not in given:
                found.append(f"{name} has nothing to sign with: once a model must be signed, it is refused")
            if RECORDED.search(step.get("run", "")) and "AUDIT_LOG" not in given:
                found.append(f"{name} does not say where it is recorded")
        if job.get("permissions", {}) != ALLOWED.get((workflow, name), {}):
            found.append(f"{name} has the permissions {job.get('permissions')}")
        if not job.get("timeout-minutes"):
            found.append(f"{name} has no timeout")
        if "secrets." in str(job) and not job.get("environment"):
            found.append(f"{name} takes a secret that no environment guards")
        for line in "\n".join(step.get("run", "") for step in job.get("steps", [])).splitlines():
            if line and not line.startswith(LINES):
                found.append(f"{line}: make it a nox session, so that a person can type it")
            if re.search(r"\$\{\{ (?!matrix\.)", line):
                found.append(f"{line}: text from outside is injected into a shell, hand it over in env")
    return found


def faults_of_pins(text: str) -> list[str]:
    return [
        f"{name} is not pinned to a commit with its version beside it"
        for name, comment in act.pins(text)
        if not name.startswith("./") and not (re.search(r"@[0-9a-f]{40}$", name) and re.match(r" # v\d", comment))
    ]


# `$/` in place of `./` for an action of the same repository, which zizmor 1.32 proposes, act and actionlint cannot read.
ZIZMOR = "rules: {self-repository: {disable: true}}\n"
TOOLS = {
    "zizmor": (["zizmor", "--offline", "--quiet", "--no-progress", "--config", "zizmor.yml"], "workflows/*.yml"),
    "actionlint": (["actionlint"], "workflows/*.yml"),
    "workflows": (["check-jsonschema", "--builtin-schema", "vendor.github-workflows"], "workflows/*.yml"),
    "actions": (["check-jsonschema", "--builtin-schema", "vendor.github-actions"], "actions/*/action.yml"),
    "issue forms": (["check-jsonschema", "--builtin-schema", "vendor.github-issue-forms"], "ISSUE_TEMPLATE/*.yml"),
    "dependabot": (["check-jsonschema", "--builtin-schema", "vendor.dependabot"], "dependabot.yml"),
}


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("level", WITH_CI)
def test_linters_of_github_files_find_nothing(level: int, name: str, project: Render) -> None:
    done = lint(project(level), name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        (
            "zizmor",
            "workflows/release.yml",
            "273ba90b1 # v7.0.1",
            "273ba90b1 # v1.0.0\n      - run: echo ${{ github.ref_name }}",
        ),
        ("actionlint", "workflows/ci.yml", "matrix.session", "matrix.sesion"),
        ("workflows", "workflows/ci.yml", "runs-on:", "run-on:"),
        ("actions", "actions/setup/action.yml", "      shell: bash\n", ""),
        ("issue forms", "ISSUE_TEMPLATE/build.yml", "type: textarea", "type: area"),
        ("dependabot", "dependabot.yml", "interval: monthly", "interval: at times"),
    ],
)
def test_linters_of_github_files_find_a_fault(name: str, file: str, old: str, new: str, project: Render) -> None:
    folder = project(1)
    path = folder / ".github" / file
    assert old in reads(path)
    path.write_text(reads(path).replace(old, new), encoding="utf-8")
    assert lint(folder, name).returncode != 0


def test_linters_find_nothing_in_the_templates_own_workflows(tmp_path: Path) -> None:
    """They are not run here: GitHub starts them by the clock."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    for name in ("zizmor", "actionlint", "workflows"):
        done = lint(tmp_path, name)
        assert done.returncode == 0, done.stdout + done.stderr


def lint(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    (program, *words), pattern = TOOLS[name]
    (folder / "zizmor.yml").write_text(ZIZMOR, encoding="utf-8")
    files = sorted(folder.glob(f".github/{pattern}"))
    return subprocess.run([act.tool(program), *words, *files], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("level", WITH_CI)
def test_without_ci_nothing_of_github_is_there_and_the_rest_is_the_same(level: int, rendered: Render) -> None:
    bare, whole = rendered(level, ci="none"), rendered(level)
    names = {path.relative_to(bare).as_posix() for path in bare.rglob("*") if path.is_file()}
    assert not any(name.startswith(".github") for name in names)
    others = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert {name for name in others if not name.startswith(".github/")} == names


def here(folder: Path, python: Path) -> dict[str, str]:
    """Return the variables with which `uv run` takes PYTHON's environment as it is, and the package from FOLDER."""
    shared = {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": str(python.parent.parent)}
    return {**os.environ, **shared, "PYTHONPATH": sources(folder), **QUICK}


@pytest.mark.slow
@pytest.mark.parametrize("ci", ["github", "none"])
@pytest.mark.parametrize("level", WITH_CI)
def test_hooks_are_green_on_a_fresh_project(level: int, ci: str, project: Render, environment: Render) -> None:
    folder, python = project(level, ci=ci), environment(level)
    words = [python, "-m", "nox", "-s", "lint", "types"]
    done = subprocess.run(words, cwd=folder, env=here(folder, python), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_push_with_a_failing_test_is_refused(project: Render, environment: Render, tmp_path: Path) -> None:
    folder, python = project(1, ci="none"), environment(1)
    git(tmp_path, "init", "-q", "--bare", "remote")
    git(folder, "remote", "add", "origin", str(tmp_path / "remote"))
    subprocess.run([python, "-m", "pre_commit", "install"], cwd=folder, check=True, capture_output=True)

    def push() -> subprocess.CompletedProcess[str]:
        words = ["git", "push", "origin", "main"]
        return subprocess.run(words, cwd=folder, env=here(folder, python), capture_output=True, text=True, check=False)

    assert push().returncode == 0
    good = git(tmp_path / "remote", "rev-parse", "main")
    break_a_test(folder)
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "--no-verify", "-m", "Break a test")
    refused = push()
    assert refused.returncode == 1
    assert "test_broken" in refused.stdout + refused.stderr
    assert git(tmp_path / "remote", "rev-parse", "main") == good


@pytest.mark.parametrize("level", LEVELS[1:])
def test_sessions_and_commands_of_a_level_are_there_on_the_next(
    level: int, rendered: Render, environment: Render
) -> None:
    assert verbs(rendered(level - 1), environment(level)) <= verbs(rendered(level), environment(level))


def test_sessions_of_your_own_are_found(project: Render, environment: Render) -> None:
    folder = project(1)
    (folder / "nox_mine.py").write_text("import nox\n\n\n@nox.session\ndef mine(session):\n    pass\n")
    assert "mine" in verbs(folder, environment(1))


def verbs(folder: Path, python: Path) -> set[str]:
    """Return the names of the nox sessions, if any, and of the package's commands."""
    calls = (["nox", "-l"], [package_of(folder), "--help"])
    environ = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": sources(folder)}  # FOLDER is shared
    sessions, commands = (
        subprocess.run(
            [python, "-m", *words], cwd=folder, env=environ, capture_output=True, text=True, check=False
        ).stdout
        for words in calls
    )
    assert "maturity" in commands
    return set(re.findall(r"^[*-] (\S+)", sessions, re.MULTILINE)) | set(
        re.findall(r"^  ([a-z-]+)  ", commands, re.MULTILINE)
    )


def wait_for(url: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at {url}")
