"""Each practice of level 1 that runs, once, by the command or the service as people use it, on the sample. The template's file."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

Call = Callable[..., subprocess.CompletedProcess[str]]
MODEL, NOTE = Path("models/model.skops"), Path("models/HANDOFF.md")
JSON = {"content-type": "application/json"}


# The organisation, the repository and what is released of it.


@pytest.mark.practice("enterprise-data-readiness", "ml-champions")
def test_the_answers_about_data_and_champions_are_scored(workdir: Path, run: Any) -> None:
    file = Path("docs/readiness.toml")
    sections = tomllib.loads(file.read_text(encoding="utf-8"))

    def answer(**answers: str) -> None:
        lines = [
            f'[{section}.{name}]\nquestion = {json.dumps(asked["question"])}\nanswer = "{answers.get(section, "yes")}"\n'
            f"weight = {asked['weight']}\n"
            for section, questions in sections.items()
            for name, asked in questions.items()
        ]
        file.write_text("\n".join(lines), encoding="utf-8")

    answer()
    scores = run("maturity", "--questions", "--json")["readiness"]
    assert scores["data"]["score"] == scores["strategy"]["score"] == scores["all"]["score"] == 100
    answer(strategy="no")
    scores = run("maturity", "--questions", "--json")["readiness"]
    assert scores["strategy"]["score"] == 0 and scores["data"]["score"] == 100 > scores["all"]["score"]
    answer(data="perhaps")
    assert 'answer yes, partly, no or ""' in run("maturity", "--questions", exit_code=1)


@pytest.mark.practice("source-control")
def test_the_hooks_let_a_clean_commit_in_and_refuse_a_bad_one(workdir: Path, call: Call) -> None:
    assert call(workdir, sys.executable, "-m", "pre_commit", "install", "--hook-type=pre-commit").returncode == 0
    bad = {
        "unused.py": ("import os\n\nprint(undefined)\n", "F821"),
        "conflict.yml": ("a: 1\n<<<<<<< before updating\nb: 1\n", "conflict"),
        "deploy.txt": ("-----BEGIN RSA PRIVATE " + "KEY-----\n", "Private key found"),
        "large.bin": ("x" * 1_100_000, "exceeds 1000 KB"),
    }
    for name, (text, _) in bad.items():
        (workdir / name).write_text(text, encoding="utf-8")
    before = call(workdir, "git", "rev-parse", "HEAD").stdout
    call(workdir, "git", "add", *bad)
    refused = call(workdir, "git", "commit", "--message=Spoil it")
    assert refused.returncode == 1
    assert not [complaint for _, complaint in bad.values() if complaint not in refused.stdout + refused.stderr]
    assert call(workdir, "git", "rev-parse", "HEAD").stdout == before

    call(workdir, "git", "reset", "--quiet", "--hard")
    (workdir / "notes.md").write_text("Agreed.\n", encoding="utf-8")
    call(workdir, "git", "add", "notes.md")
    done = call(workdir, "git", "commit", "--message=Note it")
    assert done.returncode == 0, done.stdout + done.stderr
    assert call(workdir, "git", "check-ignore", *workdir.glob("data/raw/*")).returncode == 0
    assert call(workdir, "git", "check-ignore", *workdir.glob("data/sample/*")).returncode == 1


@pytest.mark.practice("ci-pipeline")
def test_ci_runs_sessions_that_a_person_can_run_and_that_refuse_what_is_wrong(
    workdir: Path, call: Call, package: str
) -> None:
    """`lint` and `types` run here; `tests` is what runs now, and a release builds."""
    sessions = {name for line in lines_on_each_change(workdir) for name in sessions_of(line)}
    assert {"lint", "types", "tests"} <= sessions
    done = nox(call, workdir, "lint", "types")
    assert done.returncode == 0, done.stdout + done.stderr
    (workdir / "src" / package / "wrong.py").write_text('N: int = "three"\nprint(undefined)\n', encoding="utf-8")
    done = nox(call, workdir, "lint", "types")
    assert done.returncode != 0
    assert "F821" in done.stdout and "Incompatible types" in done.stdout


@pytest.mark.practice("standard-ml-platform")
def test_workflows_and_hooks_call_only_sessions_and_commands_that_there_are(
    workdir: Path, call: Call, package: str
) -> None:
    listed = call(workdir, sys.executable, "-m", "nox", "--list").stdout
    there = set(re.findall(r"^[*-] (\S+)", listed, re.MULTILINE))
    commands = commands_in(call(workdir, sys.executable, "-m", package, "--help").stdout)
    workflows = sorted(workdir.glob(".github/workflows/*.yml"))  # none with the answer `ci: none`
    for line in lines_on_each_change(workdir) + [line for file in workflows for line in lines_of(file)]:
        assert sessions_of(line) <= there, line
        if sessions_of(line) == {"run"}:
            assert line.partition(" -- ")[2].split()[0] in commands, line
    done = call(workdir, sys.executable, "-m", "nox", "-s", "run", "--", "no-such-command")
    assert done.returncode == 2 and "no command 'no-such-command'" in done.stderr


@pytest.mark.practice("project-template")
def test_the_project_knows_the_template_that_it_came_from(workdir: Path) -> None:
    answers = yaml.safe_load(Path(".copier-answers.yml").read_text(encoding="utf-8"))
    assert answers["_src_path"]
    assert {"level", "package_name", "problem", "ci"} <= set(answers)  # with these `copier update` asks nothing


@pytest.fixture(scope="module")
def released(cloned: Path, call: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after `nox -s release`, with what it said in said.txt; its remote lies beside it."""
    folder = tmp_path_factory.mktemp("released") / "project"
    shutil.copytree(cloned, folder)
    call(folder.parent, "git", "init", "--quiet", "--bare", "remote")
    call(folder, "git", "remote", "add", "origin", str(folder.parent / "remote"))
    done = nox(call, folder, "release")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.practice("automated-app-release")
def test_a_release_tags_its_commit_once_by_its_version_and_pushes_the_tag(released: Path, call: Call) -> None:
    version = project_of(released)["version"]
    assert call(released.parent / "remote", "git", "tag").stdout.split() == [f"v{version}"]
    changelog = (released / "dist/CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog.startswith(f"## {version} (") and "- Start (" in changelog
    again, other = nox(call, released, "release"), nox(call, released, "release", "--", "--tag", "v9.9.9")
    assert again.returncode and "released already" in again.stdout + again.stderr
    assert (
        other.returncode and f"the tag is v9.9.9, pyproject.toml says version {version}" in other.stdout + other.stderr
    )


@pytest.mark.practice("automated-builds", "prediction-service", "scoring-script-version-control")
def test_what_was_built_of_the_commit_scores_and_serves_where_nothing_else_is(
    released: Path, handed_over: Path, call: Call, package: str, tmp_path: Path, close: Any
) -> None:
    assert call(tmp_path, "uv", "venv", "--quiet", "--python", sys.executable, "venv").returncode == 0
    [python] = [*tmp_path.glob("venv/bin/python"), *tmp_path.glob("venv/Scripts/python.exe")]
    for words in (["-r", released / "dist/requirements.txt"], ["--no-deps", *released.glob("dist/*.whl")]):
        done = call(tmp_path, "uv", "pip", "install", "--quiet", "--python", python, *words)
        assert done.returncode == 0, done.stderr
    script = python.with_name(package)
    note = read_note(handed_over / NOTE)
    pd.DataFrame([note["example"]["row"]] * 2).to_csv(handed_over / "rows.csv", index=False)
    done = call(handed_over, script, "score", "rows.csv", "--output", "scored.csv", PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    predicted = pd.read_csv(handed_over / "scored.csv")[note["output"]]
    assert list(predicted) == close([note["example"]["prediction"]] * 2)
    words, environment = [script, "serve", "--port", "0"], os.environ | {"PYTHONPATH": ""}
    with subprocess.Popen(words, cwd=handed_over, env=environment, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            address = service.stdout.readline().split()[-1]
            assert httpx.get(f"{address}/ready").status_code == 200
            service.send_signal(signal.SIGTERM)
            assert service.wait(timeout=60) == 0
        finally:
            service.kill()


@pytest.mark.practice("internal-package-feed")
def test_the_package_is_installed_from_the_feed_where_a_version_is_never_replaced(
    released: Path, call: Call, package: str, tmp_path: Path
) -> None:
    feed, project = tmp_path / "a feed", project_of(released)
    for _ in range(2):  # publishing the same once more changes nothing
        done = nox(call, released, "publish", PACKAGE_FEED=str(feed))
        assert done.returncode == 0, done.stdout + done.stderr
    into = ["--target", "installed", "--no-deps", "--no-cache", "--quiet", "--python", sys.executable]
    words = [f"--index-url={feed.as_uri()}", f"{project['name']}=={project['version']}"]
    done = call(tmp_path, "uv", "pip", "install", *into, *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "installed" / package / "__main__.py").is_file()

    [wheel] = feed.glob(f"{project['name']}/*.whl")
    wheel.write_bytes(b"what somebody installed")
    done = nox(call, released, "publish", PACKAGE_FEED=str(feed))
    assert done.returncode and "published once" in done.stdout + done.stderr
    assert wheel.read_bytes() == b"what somebody installed"


# Rows: gathered, kept and prepared.


@pytest.fixture
def source(workdir: Path, configure: Any) -> Path:
    """The configured source, a folder; the store of `workdir` is empty."""
    folder = Path(shutil.move(workdir / "data/raw", workdir / "source"))
    configure("data", source={"url": "source", "table": None})
    return folder


@pytest.mark.practice("automated-data-ingestion")
def test_ingest_gathers_each_file_once_and_refuses_a_broken_one(source: Path, workdir: Path, run: Any) -> None:
    first, second, *others = names(source)
    whole = (source / second).read_bytes()
    (source / second).write_bytes(whole[: len(whole) // 2])
    assert f"{second}: " in run("ingest", exit_code=3)
    assert names(workdir / "data/raw") == [first, *others], "the others are gathered"
    (source / second).write_bytes(whole)
    told = run("ingest", "--json")
    assert list(told["gathered"]) == [second] and told["unchanged"] == [first, *others]
    assert contents(workdir / "data/raw").keys() == contents(source).keys()
    before = contents(workdir / "data")
    assert run("ingest", "--json")["gathered"] == {}
    assert contents(workdir / "data") == before, "a second run changes nothing"
    known = json.loads((workdir / "data/manifest.json").read_text(encoding="utf-8"))["files"]
    assert [entry["origin"] for entry in known.values()] == [f"source/{name}" for name in names(source)]


@pytest.mark.practice("data-platform", "project-workspace")
def test_projects_that_share_a_store_have_a_room_each(
    source: Path, workdir: Path, run: Any, configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, other = tmp_path / "share", tmp_path / "other"
    shutil.copytree(workdir, other)
    configure("data", store=str(shared), workspace="one")
    run("ingest")
    run("prepare")
    assert names(shared / "one/raw") == names(source) and names(shared / "one/prepared")
    assert not (workdir / "data/raw").exists(), "nothing stays in the project"
    before = contents(shared / "one")
    monkeypatch.chdir(other)
    (other / "source" / names(source)[0]).unlink()
    configure("data", store=str(shared), workspace="two")
    run("ingest")
    assert names(shared) == ["one", "two"] and contents(shared / "one") == before
    assert names(shared / "two/raw") == names(source)[1:]


@pytest.mark.practice("data-preparation-pipeline")
def test_prepare_makes_the_inputs_of_all_rows_and_writes_only_what_differs(
    workdir: Path, run: Any, data: ModuleType, features: ModuleType
) -> None:
    run("prepare")
    prepared, rows = pd.read_parquet("data/prepared"), data.read("data/raw")
    inputs = features.build(rows)
    pd.testing.assert_frame_equal(prepared[list(inputs)], inputs)
    assert all(prepared[name].equals(rows[name]) for name in (data.KEY, data.TIME, data.TARGET) if name)
    before = contents(workdir / "data/prepared")
    run("prepare")
    assert contents(workdir / "data/prepared") == before
    max((workdir / "data/raw").iterdir()).unlink()
    run("prepare")
    assert 0 < len(data.read("data/raw")) == len(pd.read_parquet("data/prepared")) < len(rows)
    shutil.rmtree(workdir / "data/raw")
    assert "data/raw" in run("prepare", exit_code=1)


# The model: handed over, checked, answering.


@pytest.mark.practice("model-handed-to-engineers", "success-criteria")
def test_a_handed_over_model_is_taken_and_one_that_is_not_what_its_note_says_is_refused(
    handed_over: Path, run: Any, configure: Any, model: ModuleType
) -> None:
    results = run("check-handoff", str(MODEL), "--json")
    assert len(results) > 5 and all(result["passed"] for result in results)

    def refused() -> list[str]:
        return [one["check"] for one in run("check-handoff", str(MODEL), "--json", exit_code=3) if not one["passed"]]

    configure("success", metrics={model.PRIMARY: {"margin": 99}})
    assert refused() == ["criteria"]
    configure("success", metrics={model.PRIMARY: {"margin": 0}})
    note = NOTE.read_text(encoding="utf-8")
    number = r'("prediction": |"probabilities": {\s*"[^"]*": )[-+0-9.e]+'  # of several classes one a class
    NOTE.write_text(re.sub(number, r"\g<1>0.123", note), encoding="utf-8")
    assert refused() == ["example"]
    NOTE.write_text(note, encoding="utf-8")
    MODEL.write_bytes(MODEL.read_bytes() + b"\0")
    assert "checksum" in refused()


@pytest.mark.practice("prediction-service")
def test_the_service_predicts_one_row_and_many_and_says_what_it_is(client: httpx.Client) -> None:
    told = client.get("/model").json()
    row = told["example"]["row"]
    one, many = client.post("/predict", json=row), client.post("/predict", json=[row, row, row])
    assert (one.status_code, many.status_code) == (200, 200)
    assert many.json()["predictions"] == one.json()["predictions"] * 3
    assert one.headers["x-model-version"] == told["version"] == told["sha256"][:12]
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json()["status"] == "ready"
    assert client.get("/openapi.json").json()["components"]["schemas"]["Row"]["example"] == row


@pytest.mark.practice("prediction-service")
def test_the_service_does_not_start_without_a_model(workdir: Path, run: Any) -> None:
    assert f"no model file {MODEL}" in run("serve", "--port", "0", exit_code=1)


@pytest.mark.practice("app-unit-tests")
def test_the_service_names_each_cell_that_is_wrong_and_explains_what_is_no_row(client: httpx.Client) -> None:
    told = client.get("/model").json()
    row = told["example"]["row"]
    for name, rule in told["columns"].items():
        wrong: list[Any] = [[]] + ([] if rule.get("null") else [None])
        wrong += {"time": ["yesterday"], "number": ["12", True], "boolean": ["perhaps"]}.get(rule["type"], [5])
        wrong += [rule[key] + step for key, step in (("min", -1), ("max", 1)) if key in rule]
        for value in wrong:
            answer = client.post("/predict", json=[row, row | {name: value}])
            assert answer.status_code == 422, (name, value, answer.text)
            assert [(item["row"], item["column"]) for item in answer.json()["problems"]] == [(1, name)]
        answer = client.post("/predict", json={key: value for key, value in row.items() if key != name})
        assert (answer.status_code, answer.json()["error"]) == (422, f"row 0: {name} is missing")
    answers = {
        400: client.post("/predict", content=b'{"half": ', headers=JSON),
        404: client.get("/nowhere"),
        405: client.get("/predict"),
        413: client.post("/predict", content=b"[" + b"{}," * 4_000_000 + b"{}]", headers=JSON),
        415: client.post("/predict", content=b"a,b", headers={"content-type": "text/csv"}),
        422: client.post("/predict", json=[row] * 1001),
    }
    assert {status: answer.status_code for status, answer in answers.items()} == dict(
        zip(answers, answers, strict=True)
    )
    assert all(answer.json()["error"] for answer in answers.values())


@pytest.mark.practice("basic-model-integration-test")
def test_the_service_answers_each_row_as_score_does(
    client: httpx.Client, handed_over: Path, run: Any, data: ModuleType, features: ModuleType, close: Any
) -> None:
    note = read_note(NOTE)
    example = client.post("/predict", json=note["example"]["row"]).json()
    assert example["predictions"] == close([note["example"]["prediction"]])
    rows = data.read("data/raw").tail(60)[features.COLUMNS].reset_index(drop=True)
    for name in features.COLUMNS:
        if data.SCHEMA[name].get("null"):
            rows.loc[:20, name] = None
    rows.to_parquet("rows.parquet")
    run("score", "rows.parquet", "--output", "scored.parquet")
    batch = pd.read_parquet("scored.parquet")[note["output"]].tolist()
    records = json.loads(rows.to_json(orient="records", date_format="iso", double_precision=15))
    alone = [client.post("/predict", json=record).json()["predictions"][0] for record in records]
    together = client.post("/predict", json=records).json()["predictions"]
    assert alone == close(batch) and together == close(batch)


@pytest.mark.practice("operational-metrics")
def test_requests_and_their_latency_are_counted_by_route_and_status(client: httpx.Client) -> None:
    def counted() -> dict[tuple[str, str, str], float]:
        return {
            (sample.name, sample.labels["route"], sample.labels["status"]): sample.value
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
            if {"route", "status"} <= sample.labels.keys() and "le" not in sample.labels
        }

    row, before = client.get("/model").json()["example"]["row"], counted()
    for body in ([row] * 4, [row], row, {}, {}):
        client.post("/predict", json=body)
    client.get("/nowhere")
    gained = {key: value - before.get(key, 0) for key, value in counted().items()}
    for name in ("http_requests_total", "http_request_duration_seconds_count"):
        assert gained[name, "/predict", "200"] == 3
        assert gained[name, "/predict", "422"] == 2
        assert gained[name, "none", "404"] == 1
    assert gained["http_request_duration_seconds_sum", "/predict", "200"] > 0


def nox(call: Call, folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return call(folder, sys.executable, "-m", "nox", "--no-color", "-s", *words, **more)


def project_of(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_note(file: Path) -> dict[str, Any]:
    """Return the facts of a hand-off note."""
    return json.loads(file.read_text(encoding="utf-8").partition("```json")[2].partition("```")[0])


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of each file below FOLDER."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def commands_in(said: str) -> set[str]:
    """Return the commands that the help of the package lists."""
    return set(re.findall(r"^  ([a-z][a-z-]*) ", said, re.MULTILINE))


def lines_on_each_change(folder: Path) -> list[str]:
    """Return what runs on each change: in the workflow ci, or, with the answer `ci: none`, in the hooks alone."""
    answers = yaml.safe_load((folder / ".copier-answers.yml").read_text(encoding="utf-8"))
    if answers["ci"] == "github":
        return lines_of(folder / ".github/workflows/ci.yml")
    hooks = yaml.safe_load((folder / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    return ["uv run nox -s lint", *(hook["entry"] for hook in hooks if "pre-push" in hook.get("stages", []))]


def lines_of(workflow: Path) -> list[str]:
    """Return the command lines of a workflow, one for each entry of a job's matrix."""
    found = set()
    for job in yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {"": [""]})
        for line in "\n".join(step.get("run", "") for step in job.get("steps", [])).splitlines():
            found |= {line.replace("${{ matrix." + key + " }}", str(one)) for key in matrix for one in matrix[key]}
    return sorted(found - {""})


def sessions_of(line: str) -> set[str]:
    """Return the sessions in a line like `uv run nox -s lint types -- options`, none of another line."""
    words = line.partition(" -- ")[0].split()
    return set(words[4:]) if words[:4] == ["uv", "run", "nox", "-s"] else set()
