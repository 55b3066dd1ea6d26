"""Level 4, each practice once: what is answered is logged, watched, learned from, tried on callers and put on record.

The template's file.
"""

import json
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import yaml

pytest_plugins = ["released", "looped"]

PROJECT = Path(__file__).parents[2]
Run = Callable[..., Any]


def load(file: Path | str) -> Any:
    return yaml.safe_load(Path(file).read_text(encoding="utf-8"))


def signals(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [one for one in report["signals"] if one["name"] == name]


def fired(report: dict[str, Any]) -> set[str]:
    return {one["name"] for one in report["signals"] if one["fired"]}


# Logged


@pytest.mark.practice("prediction-logging")
def test_what_is_answered_is_in_the_log_and_what_is_forgotten_is_not(loop: Any, run: Run, data: ModuleType) -> None:
    key = loop.key(1)
    row = loop.row | {data.KEY: key}
    headers = loop.keys["shop"] | {"x-request-id": "forget-me"}
    answer = loop.http.post("/predict", json=row, headers=headers).json()
    query = "SELECT version, key, arm, prediction FROM predictions WHERE request_id = 'forget-me'"
    [(*facts, prediction)] = loop.wait(lambda: loop.log(query))
    assert facts == [answer["model_version"], str(key), "champion"]
    [answered] = answer["predictions"]  # the log keeps a label as a number that stands for it
    assert isinstance(prediction, float) if isinstance(answered, str) else prediction == answered
    run("prediction-log", "--forget", "forget-me")
    assert loop.log(query) == []
    assert not any(str(key).encode() in file.read_bytes() for file in Path("data").glob("predictions.db*"))
    counts = loop.http.get("/model", headers=loop.keys["shop"]).json()["log"]
    assert counts["written"] > 4_000 and counts["error"] is None and counts["dropped"] == 0


@pytest.mark.practice("delayed-labels", "feedback-loop")
def test_labels_find_their_predictions_whenever_and_however_often_they_come(
    loop: Any, run: Run, data: ModuleType
) -> None:
    before = run("prediction-log", "--json")["labels"]
    [label] = json.loads(loop.calm["label"].head(1).to_json(orient="values"))
    key = loop.key(2)
    given = [{"key": str(key), "label": label}]
    answers = [loop.http.post("/feedback", json=given, headers=loop.keys["boss"]).json() for _ in range(2)]
    assert answers[0]["labels"]["early"] == 1 and answers[1]["labels"] == {"duplicate": 1}
    loop.send(pd.DataFrame([loop.calm.iloc[0].to_dict() | {data.KEY: key}]))
    query = "SELECT count(*) FROM predictions JOIN labels USING (key) WHERE key = ?"
    assert loop.log(query, str(key)) == [(1,)]
    after = run("prediction-log", "--json")["labels"]
    assert after["duplicate"] == before.get("duplicate", 0) + 1
    assert "added" in loop.said["feedback"]
    unlabelled = signals(loop.said["calm"], "decay")[0]
    assert unlabelled["value"] is not None, "measured on labels that came after the predictions"


@pytest.mark.practice("manipulation-protection")
def test_who_sends_what_is_wrong_is_not_believed_and_a_touched_model_is_not_opened(
    loop: Any, after: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: ModuleType
) -> None:
    assert "--override" in loop.said["disbelieved"], "labels that say the opposite of the predictions"
    label = [{"key": "any", "label": 1}]
    assert loop.http.post("/feedback", json=label, headers=loop.keys["shop"]).status_code == 403
    wrong = loop.row | {next(iter(loop.row)): {"never": "seen"}}
    answers = [loop.http.post("/predict", json=wrong, headers=loop.keys["prober"]).status_code for _ in range(8)]
    assert answers[0] == 422 and answers[-1] == 429
    assert loop.http.post("/predict", json=loop.row, headers=loop.keys["shop"]).status_code == 200
    monkeypatch.setenv("HOME", str(tmp_path))
    run("sign", "--make-key")
    [private] = tmp_path.glob(".config/*/*.key")
    assert private.stat().st_mode & 0o077 == 0
    run("sign", "1")
    shutil.copytree("data/raw", "rows")
    batch = ("score-batch", "--input", "rows", "--output", "scored", "--model")
    run(*batch, f"models:/{after.model}/1")
    assert "nobody signed it" in run(*batch, f"models:/{after.model}/3", exit_code=3)
    client, made = after.store(), after.version("1")
    place = Path(client.get_model_version_download_uri(made.name, "1").removeprefix("file://"))
    if not place.is_dir():  # models:/m-..., a logged model
        place = next(file.parent for file in after.folder.rglob("MLmodel") if made.run_id in file.read_text())
    with (place / "artifacts/HANDOFF.md").open("a", encoding="utf-8") as page:
        page.write("\n")
    shutil.rmtree("scored")
    assert "not those that were signed" in run(*batch, f"models:/{after.model}/1", exit_code=3)


@pytest.mark.practice("streaming-transforms")
def test_what_the_stream_makes_of_the_log_equals_the_batch(
    after: Any, looped: Any, run: Run, data: ModuleType, features: ModuleType
) -> None:
    run("stream-features")
    [live] = Path("data").rglob("live")
    streamed = pd.concat(map(pd.read_parquet, sorted(live.glob("*.parquet")))).drop_duplicates("key").set_index("key")
    rows = looped.calm.drop_duplicates(data.KEY)
    batch = features.build(rows[features.COLUMNS]).set_index(pd.Index(rows[data.KEY].astype("str"), name="key"))
    both = streamed.loc[batch.index, list(batch)]
    for name in features.NUMBERS:
        assert both[name].astype("float64").tolist() == pytest.approx(
            batch[name].astype("float64").tolist(), nan_ok=True
        ), name
    n_files = len(list(live.glob("*.parquet")))
    run("stream-features")
    assert len(list(live.glob("*.parquet"))) == n_files, "each prediction once"


# Watched


@pytest.mark.practice(
    "data-drift-detection", "performance-degradation-detection", "issue-analysis", "monitoring-catalogue"
)
def test_what_has_turned_fires_and_is_named_first_and_what_is_as_before_does_not(loop: Any) -> None:
    calm, turned = loop.said["calm"], loop.said["turned"]
    assert not signals(calm, "decay")[0]["fired"]
    assert not any(one["fired"] for one in signals(calm, "input_drift") if one.get("column") == loop.number)
    assert turned["exit"] == 3 and {"decay", "input_drift"} <= fired(turned)
    assert any(one["fired"] for one in signals(turned, "input_drift") if one.get("column") == loop.number)
    assert turned["causes"], "the likeliest first"
    for report in (calm, turned):
        assert report["exit"] == (3 if fired(report) else 0)
        assert {one["name"] for one in report["signals"]} == set(load("conf/monitoring.yml")["signals"])


@pytest.mark.practice("deployed-model-metrics", "registry-monitoring-integration", "inference-audit")
def test_the_version_itself_says_how_it_does_in_production_and_for_whom(loop: Any, model: ModuleType) -> None:
    [decay] = signals(loop.said["turned"], "decay")
    made = loop.version("3")
    assert float(made.tags[f"live_{model.PRIMARY}"]) == pytest.approx(decay["now"], rel=1e-3)
    assert made.tags["monitored_at"]
    judged = [one for one in loop.said["turned"]["signals"] if one["kind"] == "fairness"]
    assert judged and all(one["value"] is not None or one["why"] for one in judged)
    pages = list(Path("reports/monitoring").glob("*.html"))
    assert pages and not re.search(r"""(src|href)=|<script|@import""", pages[0].read_text(encoding="utf-8"))


@pytest.mark.practice("alerts", "markers", "operational-ownership")
def test_what_fires_reaches_a_named_person_with_a_runbook_and_the_alert_rules(loop: Any) -> None:
    said = loop.said["turned"]["said"]
    assert "trainer" in said and "docs/runbook.md#decay" in said
    assert all(one["owner"] and one["runbook"] and one["action"] for one in loop.said["turned"]["signals"])
    sections = re.findall(r"^## (\S+)$", Path("docs/runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert "decay" in sections
    loop.http.post("/predict", json=loop.row, headers=loop.keys["shop"]).raise_for_status()
    metrics = loop.http.get("/metrics", headers=loop.keys["boss"]).text
    assert re.search(r'^monitoring_fired\{.*signal="decay".*\} 1\.0$', metrics, re.MULTILINE)
    rules = [rule for group in load("deploy/monitoring/rules.yml")["groups"] for rule in group["rules"]]
    assert any("monitoring_fired" in rule["expr"] for rule in rules)
    asked = {name for rule in rules for name in re.findall(r"\b(?:monitoring|http|prediction)_\w+", rule["expr"])}
    known = set(re.findall(r"^(?:# (?:TYPE|HELP) )?(\w+)", metrics, re.MULTILINE))
    assert asked - known == set(), "a rule reads what the service does not export"


@pytest.mark.practice("fast-metric-pipeline", "data-drift-detection")
def test_drift_is_the_same_however_the_rows_arrive(loop: Any, run: Run, tmp_path: Path) -> None:
    columns = [loop.number]
    before, now = loop.calm[columns].reset_index(drop=True), loop.drifted[columns].reset_index(drop=True)
    (tmp_path / "parts").mkdir()
    before.to_parquet(tmp_path / "before.parquet")
    now.to_parquet(tmp_path / "now.parquet")
    for start in range(0, len(now), 117):
        now.iloc[start : start + 117].to_parquet(tmp_path / f"parts/{start:06}.parquet")
    first = str(tmp_path / "before.parquet")
    whole = run("drift", first, str(tmp_path / "now.parquet"), "--json", exit_code=3)
    assert run("drift", first, str(tmp_path / "parts"), "--json", exit_code=3) == whole
    assert whole[loop.number]["drifted"]
    run("drift", first, first)


@pytest.mark.practice("central-dashboard", "cost-utilisation-monitoring")
def test_one_page_joins_traffic_quality_versions_experiments_and_cost(after: Any, run: Run) -> None:
    told = run("dashboard", "--json")
    [line] = told["models"]
    assert line["predictions"] > 4_000 and line["version"] == after.in_use()
    assert told["spent_seconds"]["training"] > 0 and line["cost"] > 0
    page = Path("reports/dashboard.html").read_text(encoding="utf-8")
    for text in ("Traffic", "Latency", "Quality", "Drift", "Versions", "Experiments", "Retrainings", "Cost of compute"):
        assert text in page
    assert not re.search(r"""(src|href)=|<script|@import""", page)


# Learned from


@pytest.mark.practice("metric-triggered-retraining", "trigger-policy")
def test_decay_retrains_calm_does_not_and_a_pause_is_kept(after: Any, looped: Any, run: Run, configure: Run) -> None:
    assert looped.said["not triggered"]["outcome"] == "nothing"
    assert [one["why"].partition(":")[0] for one in run("retrain", "--history", "--json")] == ["decay", "by_hand"]
    configure("retraining", new_data={"rows": 1}, least_rows=1, cooldown_h=24)
    assert "the next may after" in run("retrain", "--if-triggered")
    assert len(run("retrain", "--history", "--json")) == 2


@pytest.mark.practice("gated-retraining", "alerts")
def test_a_retraining_that_a_gate_refuses_changes_nothing_and_people_hear_of_it(loop: Any) -> None:
    said = loop.said
    assert "version 5 is refused by" in said["refused"] and "quality" in said["refused"]
    assert (said["kept"], loop.version("5").tags["validation_status"]) == ("4", "refused")
    issues = [file.read_text(encoding="utf-8") for file in Path("reports").rglob("*.md")]
    [issue] = [text for text in issues if "is refused" in text]
    assert "Owner: trainer" in issue and "docs/runbook.md#retraining" in issue and "quality" in issue


@pytest.mark.practice("uninterrupted-e2e", "feedback-loop", "frequent-model-updates")
def test_from_labels_to_a_new_version_that_the_running_service_answers_with(loop: Any, run: Run) -> None:
    first, _ = run("retrain", "--history", "--json")
    assert (first["outcome"], first["version"]) == ("promoted", "4")
    assert (loop.in_use("test"), loop.in_use("prod")) == ("4", "4")
    assert loop.http.post("/predict", json=loop.row, headers=loop.keys["shop"]).json()["model_version"] == "4"
    client = loop.store()
    old, new = (client.get_run(loop.version(number).run_id) for number in ("3", "4"))
    assert new.data.tags["data"].startswith("retraining@") and new.data.tags["data"] != old.data.tags["data"]
    assert new.data.params["trained_before"] > old.data.params["trained_before"]
    tags = loop.version("4").tags
    assert set(json.loads(tags["gates"]).values()) == {"passed"} and tags["approved_by"] == "policy:retraining"
    assert any("over champion 3" in one["what"] for one in loop.report("4")), "on the same rows"


# Tried on callers


@pytest.mark.practice("canary-release")
def test_a_canary_answers_its_share_of_callers_and_wins_by_their_labels(loop: Any) -> None:
    seen = Counter(answer["model_version"] for answer in loop.said["tried"])
    assert set(seen) == {"3", "4"} and 0.3 < seen["4"] / sum(seen.values()) < 0.7
    versions = defaultdict(set)
    for entity, version in loop.log("SELECT entity, version FROM predictions WHERE arm = 'challenger'"):
        versions[entity].add(version)
    assert versions and {frozenset(one) for one in versions.values()} == {frozenset({"4"})}
    assert loop.said["canary"]["result"] == "promoted"


@pytest.mark.practice("change-impact-measurement", "model-dependency-management")
def test_the_impact_of_a_version_is_told_by_slice_and_for_the_model_it_feeds(
    loop: Any, run: Run, data: ModuleType
) -> None:
    told = run("impact", "2", "3", "--json")
    assert told["mean_change"] > 0
    assert {one["slice"].split()[0] for one in told["slices"]} <= set(data.SLICES)
    assert told["slices"] or not data.SLICES
    [fed] = told["fed"]
    assert (fed["endpoint"], fed["model"]) == ("/both", "pyfunc:/other/1")
    assert fed["mean_change"] > 0 or data.PROBLEM == "multiclass"  # both may choose the same label of each row
    same = run("impact", "3", "3", "--json")
    assert (same["mean_change"], same["fed"][0]["mean_change"]) == (0, 0)
    assert run("impact", "--graph") == "the main model -> pyfunc:/other/1 as risk, at /both\n"
    assert [one for one in loop.report("5") if one["gate"] == "dependents" and "/both" in one["what"]]


# On record


@pytest.mark.practice("audit-trail")
def test_who_did_what_when_and_why_is_on_record_and_a_touched_line_is_found(after: Any, run: Run) -> None:
    lines = run("audit", "show", "--json")
    done = [(one["action"], one["who"]) for one in lines]
    for step in ("register", "gate", "deploy", "retrain", "experiment started", "experiment promoted"):
        assert step in {action for action, _ in done}, step
    assert ("approve", "grace@example.org") in done and ("approve", "policy:retraining") in done
    outcomes = [one["facts"]["outcome"] for one in lines if one["action"] == "retrained"]
    assert outcomes == ["on trial", "promoted", "refused"]
    believed = [one for one in lines if one["action"] == "override"]
    assert believed and believed[0]["why"] == "the world has turned"
    assert all(one["at"] and one["why"] for one in lines)
    run("audit", "verify")
    file = Path("audit/audit.jsonl")
    file.write_text(file.read_text(encoding="utf-8").replace("reviewed 1", "reviewed x"), encoding="utf-8")
    assert "was changed" in run("audit", "verify", exit_code=3)


# Several projects, and people


@pytest.mark.practice("ai-factory-scale")
def test_one_command_looks_at_every_project_and_runs_in_each(
    after: Any, cloned: Path, run: Run, tmp_path: Path
) -> None:
    shutil.copytree(cloned, tmp_path / "new")
    places = [str(after.folder), str(tmp_path / "new")]
    shutil.rmtree("reports/monitoring")  # on which it is not well: what fired needs a person
    [here] = run("portfolio", places[0], "--json")
    assert here["in_use"]["prod"] == "4" and here["health"] == "well"
    said = run("portfolio", *places, exit_code=3)
    assert "1 of 2 projects need a person: new" in said, "nothing was trained there"
    code = "import pathlib, sys; pathlib.Path('ran').touch(); sys.exit(not pathlib.Path('mlflow.db').exists())"
    said = run("portfolio", *places, "--run", sys.executable, "-c", code, exit_code=3)
    assert all(Path(place, "ran").exists() for place in places) and "1 of 2 projects need a person" in said


@pytest.mark.practice("comprehensive-data-architecture")
def test_two_projects_share_one_store_with_one_layout_and_find_each_others_data(
    cloned: Path, run: Run, configure: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, names = tmp_path / "shared", ("planes", "trains")
    facts = {"owner": "data", "class": "internal", "retention_days": None, "masked": [], "consumers": []}
    for name, other in zip(names, reversed(names), strict=True):
        folder = tmp_path / name
        shutil.copytree(cloned, folder)
        monkeypatch.chdir(folder)
        configure("data", workspace=name, store=str(shared))
        entries = {part: {"what": part, "path": str(shared / name / part), **facts} for part in ("raw", "prepared")}
        content = {"datasets": entries, "others": [str(tmp_path / other / "data/catalog.yml")]}
        Path("data/catalog.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
        run("ingest")
        run("prepare")
    planes, trains = (
        sorted(file.relative_to(shared / name) for file in (shared / name).rglob("*.*") if file.is_file())
        for name in names
    )
    assert planes == trains and {file.parts[0] for file in planes} >= {"raw", "prepared"}
    assert {folder.name for folder in shared.iterdir()} == {*names}, "nothing lies outside a project's room"
    found = {one["where"] for one in run("catalog", "--find", "raw", "--json")}
    assert {str(shared / name / "raw") for name in names} <= found
    shutil.copytree(shared / "trains/raw", shared / "trains/private")
    assert "private holds data and is not in" in run("catalog", "--check", exit_code=3)


def gaps(ownership: dict[str, Any]) -> list[str]:
    """Return what of the loop nobody looks after, a sentence each."""
    stages = ownership["stages"]
    sections = re.findall(r"^## (\S+)$", (PROJECT / "docs/runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    answered = Counter(section for stage in stages.values() for section in stage["runbook"])
    found = [f"section {name} is answered for {answered[name]} times" for name in sections if answered[name] != 1]
    found += [f"stage {name} is no team" for name, one in stages.items() if len({one["answers"], *one["with"]}) < 3]
    if "security-expert" not in {stage["answers"] for stage in stages.values()} or not ownership["security"]:
        found.append("no security expert takes part")
    if not ownership["strategy"]["decision"] or not ownership["strategy"]["governed"]:
        found.append("nobody says what predictions are for")
    return found


@pytest.mark.practice("cross-functional-team", "security-expert-involvement", "ml-strategic")
def test_nothing_of_the_loop_is_without_somebody_who_answers_for_it(help_of: Run) -> None:
    ownership = load(PROJECT / "docs/ownership.yml")
    assert gaps(ownership) == []
    for one in [*ownership["security"], *ownership["strategy"]["governed"]]:
        name, *words = one["command"].split()
        told = help_of(name)
        assert all(word in told for word in words if word.startswith("--")), one["command"]
    ownership["security"].clear()
    stage = next(iter(ownership["stages"].values()))
    stage["with"] = []
    assert {"no security expert takes part"} < {*gaps(ownership)}
    page = (PROJECT / "docs/SECURITY.md").read_text(encoding="utf-8")
    assert "ownership.yml" in page.partition("## Found a hole?")[2].partition("\n## ")[0]


# Last, for it puts other versions into use for a while


@pytest.mark.practice("live-ab-testing", "full-scale-trials", "blue-green-deployment")
def test_a_shadow_answers_nobody_what_is_worse_is_stopped_and_blue_green_takes_all(loop: Any, run: Run) -> None:
    shadow, ab, swap = (loop.tried(n) for n in (1, 2, 3))
    run("experiment", "start", "3", "--mode", "shadow", "--reason", "at full scale")
    decision, answers = loop.step(shadow, exit_code=3)
    assert decision["result"] == "aborted" and f"{len(shadow)} requests" in decision["why"]
    assert {answer["model_version"] for answer in answers} == {"4"}, "it scores everything and answers nobody"
    run("experiment", "start", "3", "--mode", "ab", "--reason", "is it better?")
    decision, answers = loop.step(ab, exit_code=3)
    assert decision["result"] == "aborted" and "worse" in decision["why"]
    assert {answer["model_version"] for answer in answers} == {"3", "4"}, "each answered half"
    loop.wait(lambda: not loop.experiment()["running"])
    assert {answer["model_version"] for answer in loop.send_each(ab.head(20))} == {"4"}, (
        "everybody has the champion again"
    )
    run("experiment", "start", "3", "--mode", "blue-green", "--reason", "all at once")
    loop.wait(lambda: loop.experiment()["running"])
    loop.wait(lambda: loop.send_each(swap.head(5)) and loop.experiment()["answered"] >= 40)
    loop.wait(lambda: run("experiment", "step", "--json")["result"] == "promoted")
    assert loop.in_use() == "3"
    loop.wait(lambda: loop.send_each(swap.head(1))[0]["model_version"] == "3")  # no request failed, see send_each
    run("rollback", "--env", "prod", "--reason", "the test is over")
    loop.wait(lambda: loop.send_each(swap.head(1))[0]["model_version"] == "4")
