"""Level 3, each practice once: judged, signed off, released, answered, traced back and taken back. The template's file."""

import contextlib
import hashlib
import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml
from released import risks, weigh

pytest_plugins = ["released"]

PROJECT = Path(__file__).parents[2]
OTHER_PANDAS = "3.0.0"  # than uv.lock has
Run = Callable[..., Any]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load(file: Path | str) -> Any:
    return yaml.safe_load(Path(file).read_text(encoding="utf-8"))


def edit(name: str, change: Callable[[Any], Any]) -> None:
    content = load(name)
    change(content)
    Path(name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


# Judged


@pytest.mark.practice(
    "model-behaviour-tests", "fairness-assessment", "footprint-budget", "release-tests-per-model", "compliance-tags"
)
def test_what_every_gate_passes_is_tagged_so_and_what_misses_a_limit_is_refused(
    prod: Any, data: ModuleType, package: str
) -> None:
    good, weak = prod.version("1").tags, prod.version("2").tags
    assert good["validation_status"] == "passed" and set(json.loads(good["gates"]).values()) == {"passed"}
    judged = {"quality", "slices", "behaviour", "fairness", "contract", "parity", "sanity", "footprint"}
    assert judged <= set(json.loads(good["gates"])) and prod.refused("1") == set()
    assert weak["validation_status"] == "refused"
    groups = importlib.import_module(f"{package}.behaviour").groups(data.read(prod.folder / "data/raw"))
    declared = {"slices": data.SLICES, "fairness": list(groups)}  # what judges nothing passes as not declared
    judged -= {"parity", "sanity", *(name for name, columns in declared.items() if not columns)}
    assert judged <= prod.refused("2")
    for gate in judged & {"behaviour", "fairness", "footprint"}:
        asked = [one["what"] for one in prod.report("1") if one["gate"] == gate]
        assert asked and f"{gate}: " in prod.said["weak"], gate
    page = (prod.folder / "models/gates/2/gates.html").read_text(encoding="utf-8")
    assert "<h2>behaviour: refused</h2>" in page
    kept = [item.path for item in prod.store().list_artifacts(prod.version("1").run_id, "gates")]
    assert {"gates/gates.html", "gates/gates.json"} <= set(kept)


@pytest.mark.practice("offline-ab-evaluation")
def test_a_candidate_is_compared_with_the_version_in_production_on_the_same_rows(prod: Any) -> None:
    against = {
        number: [one for one in prod.report(number) if "over champion 1" in one["what"]] for number in ("1", "2", "3")
    }
    assert not against["1"], "nothing was in production then"
    assert against["2"] and not all(one["passed"] for one in against["2"])
    assert against["3"] and all(one["passed"] for one in against["3"])


@pytest.mark.practice("registry-event-triggers")
def test_registering_a_version_has_it_judged_exactly_once(prod: Any, run: Run) -> None:
    said = prod.said
    assert [(one["version"], one["status"]) for one in said["on-register"]] == [("1", "passed")]
    assert said["on-register again"] == []
    assert [(one["version"], one["status"]) for one in said["on-register later"]] == [("3", "passed")]
    assert run("on-register", "--json") == []


@pytest.mark.practice("model-io-contract")
def test_a_change_that_breaks_a_consumer_is_found_before_the_release(in_prod: Any, released: Any, run: Run) -> None:
    assert released.said["no contract"], "without one nobody knows what consumers rely on"
    run("export-contract", "--check")
    agreed = json.loads(Path("contracts/model.schema.json").read_text(encoding="utf-8"))
    agreed["output"]["properties"] = {"score": {"type": "number"}}
    Path("contracts/consumer.json").write_text(json.dumps(agreed), encoding="utf-8")
    assert "score is read and no longer given" in run("export-contract", "--check", exit_code=3)


# Released


@pytest.mark.practice("multi-environment", "automated-model-deployment", "all-artifacts-versioned")
def test_a_version_reaches_prod_as_the_very_bytes_that_were_judged_in_dev(prod: Any) -> None:
    assert (prod.in_use("test"), prod.in_use("prod")) == ("3", "3")
    origin = prod.store()
    made = prod.version("3")
    trained = origin.get_run(made.run_id)
    for name in ("test", "prod"):
        client = prod.store(name)
        there = client.get_model_version_by_alias(prod.model, "champion")
        place = Path(client.get_run(there.run_id).info.artifact_uri.removeprefix("file://"))
        assert {"environments", name} < set(place.parts)
        manifest = json.loads((place / "release.json").read_text(encoding="utf-8"))
        assert manifest["files"] == {path: sha256(place / "model" / path) for path in manifest["files"]}
        assert "MLmodel" in manifest["files"] and any(path.endswith("features.py") for path in manifest["files"])
        facts = {key: manifest[key] for key in ("commit", "data", "lock")}
        assert facts == {key: trained.data.tags[key] for key in facts}
        assert there.tags["origin_run"] == made.run_id and there.tags["digest"] == manifest["digest"]


@pytest.mark.practice("human-approval-gate", "access-control", "compliance-tags", "security-policies")
def test_nothing_goes_to_prod_without_a_second_person_a_role_and_the_policys_tags(in_prod: Any, run: Run) -> None:
    history = run("deploy", "--history", "--env", "prod", "--json")
    assert [(one["version"], one["before"]) for one in history] == [("3", "1"), ("1", "none")]
    assert {one["approved_by"] for one in history} == {"grace@example.org"}
    assert [one["approved_reason"] for one in history] == ["reviewed 3", "reviewed 1"]
    for key, value, why in (("dirty", "true", "its tag dirty is true"), ("owner", "", "no tag owner")):
        before = in_prod.version("1").tags[key]
        in_prod.store().set_model_version_tag(in_prod.model, "1", key, value)
        assert why in run("deploy", "1", "--env", "prod", exit_code=3)
        in_prod.store().set_model_version_tag(in_prod.model, "1", key, before)
    edit("conf/roles.yml", lambda conf: conf["roles"]["engineer"].update(people=["linus@example.org"]))
    for words in (["deploy", "1"], ["rollback"]):
        refused = run(*words, "--env", "prod", "--reason", "why", exit_code=3)
        assert f"grace@example.org may not {words[0]} in prod" in refused
    assert in_prod.in_use() == "3"


@pytest.mark.practice("human-approval-gate", "staging-system-test", "app-integration-tests", "release-tests-per-model")
def test_each_step_on_the_way_to_prod_refused_what_was_not_ready(prod: Any) -> None:
    said = prod.said
    assert "ada@example.org may not deploy in prod" in said["no role"]
    assert "never deployed to test" in said["not ready"] and "never deployed" not in said["not approved"]
    assert "ada@example.org trained it" in said["own approval"]
    assert "nobody approved it" in said["not approved"]
    assert "its gates say refused" in said["refused by its gates"]
    assert "gates of version 2 say refused" in said["refused for approval"]
    assert "the consumer breaks" in said["consumer"]
    tried = (prod.folder / "consumed").read_text(encoding="utf-8").split()
    assert tried == ["1", "1", "3", "3", "3"], "each release, and the one refused, was tried by the consumer's tests"


@pytest.mark.practice("automated-app-integration", "multiple-endpoints")
def test_a_release_reaches_callers_on_every_endpoint_without_a_failed_request(prod: Any) -> None:
    answers = prod.said["answers"]
    assert {status for status, _ in answers} == {200}
    assert [version for version, _ in itertools.groupby(one for _, one in answers)] == ["1", "3"]
    for prefix, version in (("", "3"), ("/first", "1"), ("/test", "3")):
        told = prod.http.post(f"{prefix}/predict", json=prod.row).json()
        assert told["model_version"] == version, prefix
        assert prod.http.get(f"{prefix}/model").json()["version"] == version, prefix


@pytest.mark.practice("model-composition", "framework-agnostic-serving")
def test_a_model_of_another_framework_answers_alone_and_fed_by_this_one(prod: Any, data: ModuleType) -> None:
    one, other = risks(data)
    answer = prod.http.post("/other/predict", json=[{"risk": one, "weight": 7}, {"risk": other, "weight": 0}])
    assert answer.json()["predictions"] == [weigh(one) + 7, weigh(other)]
    assert prod.http.post("/other/predict", json={"risk": one, "weight": "heavy"}).status_code == 422
    [risk] = prod.http.post("/predict", json=prod.row).json()["predictions"]
    fed = prod.http.post("/both/predict", json=prod.row | {"weight": 100.0})
    assert fed.json()["predictions"] == pytest.approx([weigh(risk) + 100], rel=1e-6)
    refused = prod.http.post("/both/predict", json=prod.row | {"weight": 100.0, "risk": one})
    assert (refused.status_code, refused.json()["error"]) == (422, "row 0: risk is no column of this model")


@pytest.mark.practice("model-rollback")
def test_a_rollback_puts_the_version_before_into_use_and_no_further(in_prod: Any, run: Run) -> None:
    told = run("rollback", "--env", "prod", "--reason", "too many late alarms", "--json")
    assert (told["kind"], told["version"], told["before"]) == ("rollback", "1", "3")
    assert (in_prod.in_use("prod"), in_prod.in_use("test")) == ("1", "3")
    history = run("deploy", "--history", "--env", "prod")
    assert "version 1 rolled back to (before: 3), by grace@example.org: too many late alarms" in history
    assert "no version before it" in run("rollback", "--env", "prod", "--reason", "again", exit_code=3)
    assert in_prod.in_use("prod") == "1"


@pytest.mark.practice("compliance-infra-monitoring")
def test_a_service_that_is_down_is_told_and_logged(prod: Any, run: Run, monkeypatch: Any, tmp_path: Path) -> None:
    shutil.copytree(prod.folder / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    up = str(prod.http.base_url)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nothing listens
        down = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        run("uptime", up)
        assert f"{down} is not ready" in run("uptime", up, down, exit_code=3)
    found = {one["url"]: one for one in run("uptime", "--report", "--json")}
    assert (found[up]["share"], found[down]["share"]) == (1.0, 0.0)
    assert found[down]["last_down"] and not found[up]["last_down"]


# Who may ask


@pytest.mark.practice("endpoint-security", "framework-agnostic-serving")
def test_who_has_no_key_or_asks_too_much_is_turned_away_and_all_is_said_over_tls(
    cloned: Path, models: Path, tmp_path: Path, run: Run, configure: Run, serve: Run, monkeypatch: Any
) -> None:
    shutil.copytree(cloned / "conf", tmp_path / "conf")
    shutil.copytree(models, tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)
    configure("serving", tls_certificate="certificate.pem", tls_key="key.pem")
    configure("limits", require_key=True, rate_per_s=5, burst=20, at_once=64, deadline_s=30)
    configure("endpoints", models={}, chains={})
    keys = {}
    for name, scope in (("boss", "admin"), ("shop", "predict"), ("busy", "predict")):
        shown = run("keys", "add", name, "--scope", scope).strip()
        keys[name] = {"authorization": f"Bearer {shown}"}
        assert shown not in Path("data/keys").read_text(encoding="utf-8"), "kept as a hash"
    secure = ssl.create_default_context(cafile="certificate.pem")
    with serve(tmp_path) as (plain, _), httpx.Client(base_url=plain.base_url, verify=secure, timeout=30) as http:
        row = http.get("/model", headers=keys["boss"]).json()["example"]["row"]
        assert http.post("/predict", json=row, headers=keys["shop"]).status_code == 200
        for headers in ({}, {"authorization": "Bearer guessed"}):
            refused = http.post("/predict", json=row, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert http.get("/metrics", headers=keys["shop"]).status_code == 403
        assert http.get("/metrics", headers=keys["boss"]).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(str(http.base_url).replace("https", "http") + "/health")
        turned = [http.get("/model", headers=keys["busy"]).status_code for _ in range(100)]
        assert turned[0] == 200 and 429 in turned
        assert http.get("/model", headers=keys["shop"]).status_code == 200, "others are not"
        for wrong in (b"", b"[", b'{"a": NaN}', b"[]", b'"x"', b"\xff", b"[" * 1000, b'{"a": 1}'):
            answer = http.post("/predict", content=wrong, headers=keys["boss"] | {"content-type": "application/json"})
            assert answer.status_code in (400, 413, 422, 429) and answer.json()["error"], wrong
        run("keys", "remove", "shop")
        gone = [http.post("/predict", json=row, headers=keys["shop"]).status_code for _ in range(1)]
        while gone[-1] != 401:
            assert len(gone) < 600
            with contextlib.suppress(httpx.HTTPError):
                gone.append(http.post("/predict", json=row, headers=keys["shop"]).status_code)


# Scored and prepared alike


@pytest.mark.practice("batch-scoring-pipeline", "tests-for-all-code")
def test_a_batch_is_what_the_service_answers_and_takes_and_refuses_the_same_rows(
    prod: Any, run: Run, tmp_path: Path, data: ModuleType, features: ModuleType, close: Any
) -> None:
    rules = {name: data.SCHEMA[name] for name in features.COLUMNS}
    rows = data.read(prod.folder / "data/raw").head(20).reset_index(drop=True)
    for number, (name, rule) in enumerate(rules.items()):
        at = number % len(rows)
        if rule.get("null"):
            rows.loc[at, name] = None
        elif rule["type"] == "category" and "values" not in rule:
            rows[name] = rows[name].astype("str")
            rows.loc[at, name] = "never seen"
    (tmp_path / "in").mkdir()
    rows.to_parquet(tmp_path / "in/rows.parquet", index=False)
    into = ("score-batch", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    assert "predictions of version 3 " in run(*into)
    [file] = (tmp_path / "out").rglob("*.parquet")
    scored = pd.read_parquet(file)
    sent = json.loads(rows[list(rules)].to_json(orient="records", date_format="iso"))
    for one in sent:
        one.update({name: one[name].rstrip("Z") for name in one if rules[name]["type"] == "time" and one[name]})
    together = prod.http.post("/predict", json=sent).json()
    alone = [prod.http.post("/predict", json=one).json()["predictions"][0] for one in sent]
    assert alone == close(together["predictions"], rel=1e-5, abs=1e-5)
    assert scored[together["output"]].tolist() == close(alone, rel=1e-5, abs=1e-5)
    before = file.stat().st_mtime_ns
    run(*into)
    assert file.stat().st_mtime_ns == before, "what is scored is not scored again"
    required = next(name for name, rule in rules.items() if not rule.get("null"))
    assert prod.http.post("/predict", json=sent[0] | {required: None}).status_code == 422
    rows.astype({required: "object"}).assign(**{required: None}).to_parquet(tmp_path / "in/rows.parquet", index=False)
    assert required in run(*into, exit_code=3)


# Data


@pytest.mark.practice("data-governance", "central-data-management")
def test_every_data_set_is_in_a_catalogue_that_other_projects_are_found_in_too(
    in_prod: Any, run: Run, tmp_path: Path
) -> None:
    run("catalog", "--cards")
    run("catalog", "--check")
    entry = {"what": "crews on duty", "path": "data/crews", "owner": "grace@example.org", "class": "personal"}
    entry |= {"retention_days": 30, "masked": ["name"], "consumers": []}
    other = tmp_path / "other/data/catalog.yml"
    other.parent.mkdir(parents=True)
    other.write_text(yaml.safe_dump({"datasets": {"crews": entry}, "others": []}), encoding="utf-8")
    edit("data/catalog.yml", lambda content: content.update(others=[str(other)]))
    [found] = run("catalog", "--find", "crews", "--json")
    assert (found["owner"], found["where"]) == ("grace@example.org", str(tmp_path / "other/data/crews"))
    shutil.copytree("data/raw", "data/passengers")
    assert "data/passengers holds data and is not in data/catalog.yml" in run("catalog", "--check", exit_code=3)


@pytest.mark.practice("model-catalogue")
def test_a_released_version_has_a_current_card_or_the_check_refuses(in_prod: Any, run: Run) -> None:
    run("promote", "3", "--reason", "agreed with operations")
    assert "released version 3 has no card" in run("catalog", "--check", exit_code=3)
    run("catalog", "--cards")
    run("catalog", "--check")
    [card] = Path("docs/models").glob("*-3.md")
    assert "reviewed 3" in card.read_text(encoding="utf-8") or "agreed" in card.read_text(encoding="utf-8")
    card.write_text("# Best of all models\n", encoding="utf-8")
    assert "another card than the registry's facts" in run("catalog", "--check", exit_code=3)


@pytest.mark.practice("production-data-access", "access-control")
def test_rows_leave_prod_masked_and_only_by_who_may(in_prod: Any, run: Run, data: ModuleType) -> None:
    held = pd.read_parquet(next(Path("data/raw").glob("*.parquet"))).columns  # a key may be made by data.read
    given = [name for name in data.SCHEMA if name in held and name not in (data.KEY, data.TARGET)]
    column = min(given, key=lambda name: data.SCHEMA[name]["type"] != "number")  # a number, where there is one
    hidden = [name for name in (data.KEY, column) if name in held]
    edit("conf/environments/prod.yml", lambda conf: conf.update(masked=hidden))
    told = run("replicate-data", "--env", "dev", "--json")
    rows, masked = data.read("data/raw"), data.read(told["data"])
    assert told["rows"] == len(masked) == len(rows)
    assert masked[data.KEY].is_unique
    assert data.KEY not in held or not set(rows[data.KEY]) & set(masked[data.KEY])
    assert rows[column].tolist() != masked[column].tolist(), "another row's"
    edit("conf/environments/prod.yml", lambda conf: conf["may"].pop("replicate"))
    assert "may not replicate in prod" in run("replicate-data", "--env", "dev", "--name", "again", exit_code=3)
    assert not Path("data/again").exists()


TABLES = """
import pandas as pd
from .data import KEY, SLICES, TARGET, TIME

def past(rows):
    known = rows.assign(day=rows[TIME].dt.floor("D"), target=rows[TARGET].astype("float64"))
    sums = known.groupby([SLICES[0], "day"], observed=True)["target"].agg(["sum", "count"])
    sums = sums.groupby(level=0, observed=True).cumsum().query("count > 0").reset_index()
    sums["moment"] = sums["day"] + pd.Timedelta("HOURSh")
    return sums.assign(past_mean=sums["sum"] / sums["count"])

TABLES = dict(past=dict(key=[SLICES[0]], features=["past_mean"], known_after="6h", max_age="3D", build=past))
"""
COLUMN = """
SCHEMA |= {"past_mean": {"type": "number", "null": True}}
_read = read

def read(folder="data/raw"):
    rows = _read(folder)
    return rows.reindex(columns=[*rows, *(name for name in SCHEMA if name not in rows)])
"""


@pytest.mark.practice("feature-store")
def test_a_feature_table_is_computed_once_joined_as_known_then_and_shared(
    cloned: Path, call: Run, package: str, tmp_path: Path, data: ModuleType
) -> None:
    if not (data.TIME and data.SLICES):
        pytest.skip("this table is of a slice in the course of time: data.py declares no TIME or no SLICES")
    project, hub = tmp_path / "project", tmp_path / "hub"
    shutil.copytree(cloned, project)
    shutil.copytree(project / "data/sample", project / "data/raw")
    places = {"offline": str(hub / "tables"), "online": f"sqlite:///{hub}/online.db"}
    (project / "conf/features.yml").write_text(yaml.safe_dump(places), encoding="utf-8")
    hub.mkdir()
    code = project / "src" / package
    with (code / "data.py").open("a", encoding="utf-8") as source:
        source.write(COLUMN)

    def compute(folder: Path) -> Any:
        own = os.pathsep.join(str(folder / inside) for inside in ("src", "runtime/src"))
        return call(folder, sys.executable, "-m", package, "feature-tables", "--json", PYTHONPATH=own)

    (code / "tables.py").write_text(TABLES.replace("HOURS", "1"), encoding="utf-8")
    leaking = compute(project)  # a day's mean, said to be known an hour into that day
    assert leaking.returncode == 3 and "past" in leaking.stderr, leaking.stderr
    (code / "tables.py").write_text(TABLES.replace("HOURS", "30"), encoding="utf-8")
    done = compute(project)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["new"] == ["past"] and list(hub.glob("tables/**/*.parquet"))
    rows = pd.concat([pd.read_parquet(file) for file in (project / "data/featured").glob("*.parquet")])
    whole = data.read(project / "data/raw").merge(rows[[data.KEY, "past_mean"]], on=data.KEY)
    slice_, day = whole[data.SLICES[0]], whole[data.TIME].dt.floor("D")
    at = whole[whole["past_mean"].notna()].sort_values(data.TIME).index[-1]
    earlier = whole[(slice_ == slice_[at]) & (day + pd.Timedelta("30h") <= whole.loc[at, data.TIME])]
    assert whole.loc[at, "past_mean"] == pytest.approx(earlier[data.TARGET].astype("float64").mean())
    other = tmp_path / "another-project"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("featured"))
    again = json.loads(compute(other).stdout)
    assert (again["new"], again["tables"]) == ([], made["tables"]), "one computes, all look up"


# Traced


@pytest.mark.practice("end-to-end-lineage")
def test_an_answer_is_traced_to_the_raw_data_and_a_broken_link_is_refused(
    in_prod: Any, released: Any, run: Run, git: Run, tmp_path: Path
) -> None:
    answer = released.http.post("/predict", json=released.row)
    (tmp_path / "answer.json").write_text(answer.text, encoding="utf-8")
    told = run("lineage", "--response", str(tmp_path / "answer.json"), "--json")
    assert answer.json()["request_id"] in told[0]["said"]
    assert told[1:] == run("lineage", "3", "--json")
    links = {link["name"]: link["facts"] for link in told}
    run_of = in_prod.store().get_run(in_prod.version("3").run_id).data.tags
    assert links["commit"]["commit"] == run_of["commit"] and run_of["commit"] in git("log", "--format=%H")
    raw = {file.name: sha256(file) for file in Path("data/raw").glob("*.parquet")}
    assert {link["facts"]["file"]: link["facts"]["sha256"] for link in told if link["name"] == "source"} == raw
    file = next(Path("data/raw").glob("*.parquet"))
    file.write_bytes(file.read_bytes() + b" ")
    assert "was changed, and not by `ingest`" in run("lineage", "3", exit_code=3)


@pytest.fixture(scope="module")
def remaking(
    released: Any, call: Run, package: str, tmp_path_factory: Any
) -> Iterator[Future[subprocess.CompletedProcess[str]]]:
    """What `reproduce 1` comes to, which runs beside the other tests: processes of its own train anew."""
    folder = released.copy_to(tmp_path_factory.mktemp("remade") / "project")
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(call, folder, sys.executable, "-m", package, "reproduce", "1", "--json")


@pytest.fixture(autouse=True)
def early(request: pytest.FixtureRequest) -> None:
    """Begin what takes long with the first test that has the released project, not with the one that waits for it."""
    if "released" in request.fixturenames and wanted(request, "test_an_old_prediction"):
        request.getfixturevalue("remaking")


def wanted(request: pytest.FixtureRequest, name: str) -> bool:
    return any(item.name.startswith(name) for item in request.session.items)


@pytest.mark.practice("explainability", "model-recreation")
def test_an_old_prediction_is_explained_and_its_model_made_again_without_a_difference(
    in_prod: Any, run: Run, package: str, released: Any, remaking: Future[subprocess.CompletedProcess[str]]
) -> None:
    Path("row.json").write_text(json.dumps(released.row), encoding="utf-8")
    answer = released.http.post("/first/predict", json=released.row).json()
    [answered] = [max(one.values()) for one in answer.get("probabilities", [])] or answer["predictions"]
    file = Path("src") / package / "features.py"
    file.write_text(file.read_text(encoding="utf-8") + "\nraise RuntimeError('edited since')\n", encoding="utf-8")
    told = run("explain", "row.json", "--version", "1", "--json")
    assert told["prediction"] == pytest.approx(answered, rel=1e-4)
    assert told["average"] + sum(told["shares"].values()) == pytest.approx(told["prediction"])
    assert set(told["shares"]) == set(released.row)
    made_again = remaking.result()
    assert made_again.returncode == 0, made_again.stderr
    assert set(json.loads(made_again.stdout)["differences"].values()) == {0}


@pytest.mark.practice("compliance-review", "security-policies")
def test_an_audit_pack_is_whole_with_hashes_that_hold_or_it_is_not_made(in_prod: Any, run: Run, tmp_path: Path) -> None:
    (tmp_path / "osv").mkdir()
    known = {"id": "PYSEC-1", "affected": [{"package": {"name": "no-such-package", "ecosystem": "PyPI"}}]}
    (tmp_path / "osv/PYSEC-1.json").write_text(json.dumps(known), encoding="utf-8")
    words = ("audit-pack", "3", "--vulnerabilities", str(tmp_path / "osv"), "--to", "packs/3")
    answer("")
    assert "policy.yml: checklist compliance" in run(*words, exit_code=3) and not Path("packs/3").exists()
    answer("yes")
    run(*words)
    listed = dict(line.split("  ")[::-1] for line in Path("packs/3/SHA256SUMS").read_text().splitlines())
    there = {file.relative_to("packs/3").as_posix() for file in Path("packs/3").rglob("*") if file.is_file()}
    assert there - {"SHA256SUMS"} == set(listed)
    assert all(sha256(Path("packs/3", name)) == known for name, known in listed.items())
    assert {"model-card.md", "data-sheet.md", "lineage.json", "gates.json", "approvals.json", "policy.yml"} < there
    assert "grace@example.org" in Path("packs/3/approvals.json").read_text(encoding="utf-8")


# Governed


def answer(word: str) -> None:
    """Answer every question of the policy's checklists and of the readiness assessment."""
    edit(
        "docs/governance/policy.yml",
        lambda content: [
            question.update(answer=word) for asked in content["checklists"].values() for question in asked
        ],
    )
    file = Path("docs/readiness.toml")
    text = re.sub(r'^answer = ".*"$', f'answer = "{word}"', file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    file.write_text(text, encoding="utf-8")


@pytest.mark.practice("ethics-principles", "misuse-assessment", "security-policies")
def test_the_project_holds_to_its_policy_and_a_breach_is_refused(in_prod: Any, run: Run) -> None:
    run("policy")
    kept = Path("docs/governance/policy.yml").read_text(encoding="utf-8")
    untested = {"means": "well", "tests": ["tests/test_no.py::test_it"]}
    breaches: dict[str, Callable[[Any], Any]] = {
        "is no test here": lambda content: content["principles"].update(New=untested),
        "nothing is decided": lambda content: content["threats"][0].update(decision="open"),
        "environment dev reads": lambda content: content["security"]["classes"].update(dev=[]),
    }
    for said, breach in breaches.items():
        edit("docs/governance/policy.yml", breach)
        assert said in run("policy", exit_code=3)
        Path("docs/governance/policy.yml").write_text(kept, encoding="utf-8")


@pytest.mark.practice("readiness-assessment", "ml-success-consistency", "asset-reuse-review")
def test_a_checkpoint_is_passed_when_its_lists_and_readiness_are_answered(in_prod: Any, run: Run) -> None:
    names = load("docs/governance/policy.yml")["checkpoints"]
    answer("")
    for name in names:
        assert "(not answered)" in run("policy", "--checkpoint", name, exit_code=3)
    answer("yes")
    for name in names:
        assert f"checkpoint {name} is passed" in run("policy", "--checkpoint", name)


@pytest.mark.practice("enablement-materials", "architecture-patterns", "ml-engineer-role")
def test_what_roles_learn_and_patterns_are_built_of_is_there(prod: Any, help_of: Run) -> None:
    rules = load("docs/governance/policy.yml")
    named = {word for role in rules["roles"].values() for word in role["learns"]}
    named |= {word for pattern in rules["patterns"].values() for word in pattern["built_of"]}
    assert [word for word in named if not Path(word).is_file() and not help_of(word)] == []
    assert "ml-engineer" in rules["roles"]


@pytest.mark.practice("fast-onboarding")
def test_the_commands_of_the_first_day_run(in_prod: Any, run: Run) -> None:
    page = Path("docs/governance/README.md").read_text(encoding="utf-8")
    [day] = re.findall(r"## First day\n.*?```bash\n(.*?)```", page, re.DOTALL)
    lines = re.findall(r"^uv run python -m \w+ (.+)$", day, re.MULTILINE)
    assert lines
    for line in lines:
        run(*shlex.split(line))


@pytest.mark.practice("code-review")
def test_a_review_by_a_second_person_is_asked_for_every_file() -> None:
    page = (PROJECT / "docs/governance/README.md").read_text(encoding="utf-8")
    assert "read by a second person" in page
    owners = PROJECT / ".github/CODEOWNERS"
    if owners.is_file():
        assert re.search(r"^\* +@\S+", owners.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.practice("shared-artifact-repository")
def test_definitions_go_from_one_project_to_another_and_a_changed_one_is_refused(
    prod: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = load("conf/data.yml")["workspace"]
    run("share", "--to", str(tmp_path / "hub"))
    shutil.copytree("conf", tmp_path / "other/conf")
    monkeypatch.chdir(tmp_path / "other")
    assert [one["project"] for one in run("share", "--from", str(tmp_path / "hub"), "--json")] == [name]
    run("share", "--from", str(tmp_path / "hub"), "--take", name)
    taken = Path("shared", name, "training.yml")
    assert taken.read_bytes() == (prod.folder / "conf/training.yml").read_bytes()
    (tmp_path / "hub" / name / "training.yml").write_text("seed: 7\n", encoding="utf-8")
    assert "is not what" in run("share", "--from", str(tmp_path / "hub"), "--take", name, exit_code=3)


# Delivered


BASE = PROJECT / "deploy/k8s/base"


def documents() -> dict[tuple[str, str], Any]:
    every = [yaml.safe_load_all(file.read_text(encoding="utf-8")) for file in sorted(BASE.glob("[!k]*.yaml"))]
    return {(one["kind"], one["metadata"]["name"]): one["spec"] for one in itertools.chain(*every)}


def pods() -> dict[str, Any]:
    base = documents()
    batch = base["CronJob", "score-batch"]["jobTemplate"]["spec"]["template"]["spec"]
    return {"service": base["Deployment", "service"]["template"]["spec"], "score-batch": batch}


@pytest.mark.practice("infrastructure-as-code", "container-image")
def test_image_and_cluster_are_files_that_agree_with_each_other_and_hold_no_secret(help_of: Run) -> None:
    container_file = (PROJECT / "Containerfile").read_text(encoding="utf-8")
    [port] = re.findall(r"^EXPOSE (\d+)$", container_file, re.MULTILINE)
    assert f"http://127.0.0.1:{port}/health" in container_file
    overlays = sorted((PROJECT / "deploy/k8s/overlays").iterdir())
    assert [overlay.name for overlay in overlays] == sorted(
        file.stem for file in (PROJECT / "conf/environments").glob("*.yml")
    )
    for overlay in overlays:
        made = load(overlay / "kustomization.yaml")
        [given] = made["configMapGenerator"]
        assert f"ENVIRONMENT={overlay.name}" in given["literals"] and made["namespace"] == overlay.name
    user = re.search(r"^USER (\d+):\1$", container_file, re.MULTILINE)
    for name, pod in pods().items():
        [one] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and user and pod["securityContext"]["runAsUser"] == int(user[1])
        assert one["securityContext"]["readOnlyRootFilesystem"] and "env:$(ENVIRONMENT)" in one["args"], name
        command, *words = one["args"]
        told = help_of(command)
        assert all(word.partition("=")[0] in told for word in words if word.startswith("--")), name
    [service] = pods()["service"]["containers"]
    assert service["ports"] == [{"name": "http", "containerPort": int(port)}]
    for file in [*PROJECT.glob("deploy/k8s/**/*.yaml"), PROJECT / "Containerfile"]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(?i)(password|_token|secret_key|api_key)\w*[\"']?\s*[:=]\s*[\"']?\w", text), file


@pytest.mark.practice("kubernetes-autoscaling")
def test_the_service_scales_with_its_load_and_survives_a_drained_machine() -> None:
    base = documents()
    scaler, budget = base["HorizontalPodAutoscaler", "service"], base["PodDisruptionBudget", "service"]
    assert scaler["scaleTargetRef"]["name"] == "service" and 1 < scaler["minReplicas"] < scaler["maxReplicas"]
    assert "replicas" not in base["Deployment", "service"], "a roll-out would undo what the autoscaler did"
    assert budget["maxUnavailable"] < scaler["minReplicas"]
    assert "cpu" in pods()["service"]["containers"][0]["resources"]["requests"], "of which the load is a share"


@pytest.mark.practice("commit-triggered-release", "staging-system-test")
def test_one_commit_goes_through_every_link_of_the_chain_in_order(call: Run, cloned: Path) -> None:
    listed = call(cloned, sys.executable, "-m", "nox", "--list").stdout
    sessions = set(re.findall(r"^[*-] ([\w-]+)", listed, re.MULTILINE))
    assert {"image", "roll-out", "system", "build", "run"} <= sessions
    file = PROJECT / ".github/workflows/deliver.yml"
    if not file.is_file():
        return
    jobs = load(file)["jobs"]

    def before(job: str) -> set[str]:
        needs = jobs[job].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*map(before, direct))

    for earlier, later in itertools.pairwise(("check", "train", "gate", "test", "system-test", "production")):
        assert earlier in before(later), f"{later} does not wait for {earlier}"
    assert jobs["production"]["environment"] == "production", "people guard it"
    for job in jobs.values():
        for line in (step["run"] for step in job["steps"] if "run" in step):
            assert shlex.split(line.removeprefix("uv run nox -s "))[0] in sessions, line


# The pipeline as what is deployed


def deliver(folder: Path, call: Run, package: str) -> Path:
    """Build the training pipeline, deploy it to test and run it once by the line of its schedule."""
    python, place = sys.executable, folder / "environments/test/pipeline"
    for words in (["nox", "-s", "build"], [package, "deploy-pipeline", "--env", "test"]):
        done = call(folder, python, "-m", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    line = (place / "crontab").read_text(encoding="utf-8")
    assert line.startswith("17 4 * * 1 ")
    done = call(folder, "/bin/sh", "-c", line.split(" ", 5)[5])
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "said.txt").write_text(done.stdout, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True, scope="module")
def delivering(
    request: pytest.FixtureRequest,
    cloned: Path,
    call: Run,
    configure: Run,
    git: Run,
    package: str,
    tmp_path_factory: Any,
) -> Iterator[Future[Path] | None]:
    """A project whose pipeline is being delivered, beside the other tests: two environments are installed for it."""
    if not wanted(request, "test_the_pipeline"):
        yield None
        return
    folder = tmp_path_factory.mktemp("delivered") / "project"
    shutil.copytree(cloned, folder)
    with contextlib.chdir(folder):
        configure("pipeline", schedule="17 4 * * 1", isolated={"evaluate": [f"pandas=={OTHER_PANDAS}"]})
        configure("environments/dev", tracking_uri=None)
        configure(
            "environments/test", may={"deploy": ["anybody"]}, tracking_uri="sqlite:///environments/test/mlflow.db"
        )
        git("add", "--all")
        git("commit", "--quiet", "--message", "Isolate the evaluation")
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(deliver, folder, call, package)


@pytest.mark.practice("pipeline-ci", "pipeline-cd", "pipeline-as-deployment-unit", "containerised-components")
def test_the_pipeline_is_built_once_deployed_whole_and_trains_by_its_schedule(
    delivering: Future[Path], run: Run, git: Run, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(delivering.result())
    [wheel] = Path("dist").glob(f"{package}-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/{name}.py" for name in ("data", "features", "model", "__main__")} <= inside
    assert "--hash=sha256:" in Path("dist/requirements.txt").read_text(encoding="utf-8")
    place = Path("environments/test/pipeline")
    installed = json.loads((place / "pipeline.json").read_text(encoding="utf-8"))
    assert installed["version"] in (place / "said.txt").read_text(encoding="utf-8")
    made = [one for one in run("runs", "--json")]
    assert len(made) == 1, "the scheduled run is on record"
    note = (place / "work/models/candidate/evaluation/HANDOFF.md").read_text(encoding="utf-8")
    assert f'"pandas": "{OTHER_PANDAS}"' in note, "`evaluate` ran with packages of its own"
    assert run("deploy-pipeline", "--env", "test", "--json") == installed, "the same again changes nothing"
    file = Path("src") / package / "model.py"
    file.write_text(file.read_text(encoding="utf-8") + "\n# another\n", encoding="utf-8")
    git("commit", "--quiet", "--all", "--message", "Change the model")
    assert "model.py differs" in run("deploy-pipeline", "--env", "test", exit_code=3)
