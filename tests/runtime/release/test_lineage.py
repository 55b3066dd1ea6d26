"""Where a prediction comes from and why, and what an auditor gets: `lineage`, `explain`, `audit-pack`."""

import http.server
import json
import re
import shutil
import threading
import tomllib
from collections.abc import Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from flight_delays import data, model
from flight_delays.__main__ import main
from mlops_ladder import Project
from mlops_ladder.core import files
from mlops_ladder.data import data_sets, versions
from mlops_ladder.data.rows import read_note
from mlops_ladder.release import approve, audit_pack, explain, judgement, releasing
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT

PROJECT = ROOT
LOCK = f"""version = 1
[[package]]
name = "own"
version = "0.1.0"
source = {{ editable = "." }}
dependencies = [{{ name = "pandas" }}, {{ name = "nowhere", marker = "sys_platform == 'none'" }}]
[package.dev-dependencies]
level-2 = [{{ name = "httpx" }}]
level-0 = [{{ name = "left-out" }}]
[[package]]
name = "pandas"
version = "{installed("pandas")}"
[[package]]
name = "httpx"
version = "{installed("httpx")}"
"""


@pytest.fixture(scope="module")
def registered(trained: Path, tmp_path_factory: pytest.TempPathFactory, git: Any) -> Path:
    """A trained project with version 1, a short lock file and all answers that an audit asks for: read it only."""
    folder = tmp_path_factory.mktemp("registered") / "project"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("mlruns", "mlflow.db", "registered.json"))
    shutil.copy(trained.parent / "empty.db", folder / "mlflow.db")
    for name in ("docs/governance/policy.yml", "docs/readiness.toml", "data/catalog.yml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = (PROJECT / name).read_text(encoding="utf-8")
        text = re.sub(r"^( *answer(?: =|:)).*$", r'\1 "yes"', text, flags=re.MULTILINE)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copytree(PROJECT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "uv.lock").write_text(LOCK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        git("add", "--all")
        git("commit", "--quiet", "--message", "Answer")
        assert main(["train"]) == 0
        chosen, client = tracking.open_store(FLIGHTS)
        client.log_text(tracking.find_version(client, chosen.model, "1").run_id, "{}", "gates/gates.json")
        approval = {"approved_by": "grace@example.org", "approved_at": "2026-01-01", "approved_reason": "agreed"}
        for key, value in {"validation_status": "passed", "gates": '{"quality": true}', **approval}.items():
            client.set_model_version_tag(chosen.model, "1", key, value)
    return folder


@pytest.fixture
def place(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `registered` to write to, made the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(registered, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def example(place: Path) -> dict[str, Any]:
    """The example of version 1's note; its row stands in row.json."""
    chosen, client = tracking.open_store(FLIGHTS)
    found = read_note(tracking.download(client, chosen.model, "1") / "HANDOFF.md")["example"]
    Path("row.json").write_text(json.dumps(found["row"]))
    return found


@pytest.fixture
def vulnerable() -> Iterator[tuple[str, set[str]]]:
    """Address of a service that answers as osv.dev does, and the packages that it calls vulnerable."""
    names: set[str] = set()

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
            found = [{"id": "PYSEC-1", "affected": []}] if asked in names else []
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": found} if found else {}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", names
        server.shutdown()


def edit_policy(**security: Any) -> None:
    file = Path("docs/governance/policy.yml")
    policy = yaml.safe_load(file.read_text(encoding="utf-8"))
    policy["security"] |= security
    file.write_text(yaml.safe_dump(policy), encoding="utf-8")


@pytest.mark.practice("end-to-end-lineage")
def test_an_answer_is_traced_to_the_raw_data(place: Path, example: Any, run: Any, serve: Any, git: Any) -> None:
    chosen, client = tracking.open_store(FLIGHTS)
    opened = releasing.fetch(client, tracking.find_version(client, chosen.model, "1")) / "artifacts/code/__pycache__"
    opened.mkdir(exist_ok=True)
    (opened / "data.cpython-311.pyc").touch()  # as whoever opens the version leaves it
    with serve(place, "--model", f"models:/{chosen.model}/1") as (client, _):
        answer = client.post("/predict", json=example["row"])
        Path("answer.json").write_text(answer.text)
        by_endpoint = run("lineage", "--endpoint", str(client.base_url), "--json")
    by_answer = run("lineage", "--response", "answer.json", "--json")
    assert by_endpoint[0]["said"].endswith("answers with version 1")
    assert answer.json()["request_id"] in by_answer[0]["said"]
    assert by_endpoint[1:] == by_answer[1:] == run("lineage", "1", "--json")
    links = {link["name"]: link["facts"] for link in by_answer}
    assert links["commit"]["commit"] == git("rev-parse", "HEAD")
    assert links["environment"]["lock"] == files.sha256(Path("uv.lock"))
    raw = {file.name: files.sha256(file) for file in Path("data/raw").iterdir()}
    found = [link["facts"] for link in by_answer if link["name"] == "source"]
    assert {one["file"]: one["sha256"] for one in found} == raw
    assert {one["origin"] for one in found} == {f"data/sample/{name}" for name in raw}


def change_raw(client: Any, made: Any, git: Any) -> None:
    file = next(Path("data/raw").iterdir())
    file.write_bytes(file.read_bytes() + b" ")


def change_commit(client: Any, made: Any, git: Any) -> None:
    file = next(Path("src").glob("*/features.py"))
    file.write_text(file.read_text() + "\n")
    git("commit", "--quiet", "--all", "--message", "Edit")
    client.set_tag(made.run_id, "commit", git("rev-parse", "HEAD"))


def change_runtime(client: Any, made: Any, git: Any) -> None:
    file = Path("runtime/src/mlops_ladder/data/rows.py")
    file.write_text(file.read_text() + "\n")
    git("commit", "--quiet", "--all", "--message", "Edit")
    client.set_tag(made.run_id, "commit", git("rev-parse", "HEAD"))


def change_lock(client: Any, made: Any, git: Any) -> None:
    client.set_tag(made.run_id, "lock", "0" * 64)


def change_kept_bytes(client: Any, made: Any, git: Any) -> None:
    for file in Path(".dvc/cache/files/md5").glob("*/*"):
        file.chmod(0o644)
        if file.suffix != ".dir":
            file.write_bytes(b"other")


@pytest.mark.practice("end-to-end-lineage")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_raw, "was changed, and not by `ingest`"),
        (change_commit, "features.py is not the commit's (1 differ)"),
        (change_runtime, "_runtime/data/rows.py is not the commit's (1 differ)"),
        (change_lock, "the lock file kept with the run is another"),
        (change_kept_bytes, "its kept bytes are not those of the data version"),
    ],
)
def test_a_link_that_does_not_hold_is_refused(place: Path, run: Any, git: Any, change: Any, said: str) -> None:
    chosen, client = tracking.open_store(FLIGHTS)
    change(client, tracking.find_version(client, chosen.model, "1"), git)
    assert said in run("lineage", "1", exit_code=3)


def test_raw_data_that_is_gone_is_said_and_breaks_nothing(place: Path, run: Any) -> None:
    shutil.rmtree("data/raw")
    assert run("lineage", "1").count("is gone") == len(list(Path("data/sample").iterdir()))


def test_what_leads_to_no_registered_version_is_named(place: Path, run: Any) -> None:
    Path("answer.json").write_text('{"model_version": "2147400c04ac", "request_id": "a"}')
    assert "is a model file, not a registered version" in run("lineage", "--response", "answer.json", exit_code=2)
    Path("answer.json").write_text("{}")
    assert "is no answer of the service" in run("lineage", "--response", "answer.json", exit_code=1)
    assert "does not tell its model" in run("lineage", "--endpoint", "http://127.0.0.1:9", exit_code=1)
    assert "has no version 7" in run("lineage", "7", exit_code=1)


@pytest.mark.practice("explainability")
def test_the_column_that_decides_is_named_first() -> None:
    generator = np.random.default_rng(0)
    rows = pd.DataFrame({"number": generator.normal(size=60), "text": ["a", "b"] * 30, "noise": range(60)})
    rows["time"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(rows["noise"], "h")

    def predict(rows: pd.DataFrame) -> np.ndarray:
        return (3 * rows["number"] + (rows["text"] == "a") + rows["time"].dt.hour / 100).to_numpy()

    row, others = rows.tail(1).assign(number=5.0, text="a"), rows.head(50)
    shares, errors = explain.shapley(predict, row, others)
    assert max(shares, key=lambda name: abs(shares[name])) == "number"
    assert shares["noise"] == 0
    assert shares["number"] == pytest.approx(15 - 3 * others["number"].mean())  # exact where columns only add up
    assert shares["text"] == pytest.approx(1 - (others["text"] == "a").mean())
    assert sum(shares.values()) == pytest.approx(predict(row)[0] - predict(others).mean())
    assert explain.shapley(predict, row, others) == (shares, errors), "the same each time"


@pytest.mark.practice("explainability", "model-recreation")
def test_a_prediction_is_explained_by_its_version_whatever_the_code_became(place: Path, example: Any, run: Any) -> None:
    file = next(Path("src").glob("*/features.py"))
    file.write_text(file.read_text() + "\nraise RuntimeError('edited since')\n")
    told = run("explain", "row.json", "--version", "1", "--json")
    assert told["prediction"] == pytest.approx(example["prediction"])
    assert told["average"] + sum(told["shares"].values()) == pytest.approx(told["prediction"])
    assert set(told["shares"]) == set(example["row"])
    assert f"{model.OUTPUT} {told['prediction']:.4f} by version 1" in run("explain", "row.json")
    chosen, client = tracking.open_store(FLIGHTS)
    made = tracking.find_version(client, chosen.model, "1")
    worth = json.loads(tracking.read_artifact(client, client.get_run(made.run_id), "evaluation/metrics.json"))
    assert worth["importance"], "each candidate's columns are ranked when it is evaluated"


@pytest.mark.practice("explainability")
def test_the_average_is_that_of_the_rows_of_a_data_set_that_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data.read(PROJECT / "data/sample")
    cut = str(rows[data.TIME].median())

    def restore(project: Project, version: str, folder: Path) -> None:
        (folder / data_sets.ROWS).mkdir()
        rows.to_parquet(folder / data_sets.ROWS / "all.parquet")

    monkeypatch.setattr(versions, "restore", restore)
    found = explain.typical(FLIGHTS, "retraining@0123", data.__package__, {"cuts": [cut, cut], "sample": 1})
    assert len(found) == explain.N_ROWS and found[data.KEY].isin(rows.loc[rows[data.TIME] < cut, data.KEY]).all()


@pytest.mark.practice("explainability")
def test_without_a_version_it_is_the_one_in_use_that_explains(
    place: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("row.json").write_text("{}")
    monkeypatch.setattr(judgement, "in_use", lambda project: "7")
    assert "has no version 7" in run("explain", "row.json", exit_code=1)


@pytest.mark.practice("model-recreation")
def test_an_old_version_is_made_again_without_a_difference(place: Path, run: Any) -> None:
    differences = run("reproduce", "1", "--json")["differences"]
    assert set(differences.values()) == {0}


def test_a_row_that_is_none_is_refused(place: Path, run: Any) -> None:
    Path("row.json").write_text("[]")
    assert "must hold one row" in run("explain", "row.json", exit_code=2)
    Path("row.json").write_text("{}")
    assert "is missing" in run("explain", "row.json", exit_code=1)


@pytest.mark.practice("compliance-review")
def test_an_audit_pack_is_complete_and_its_hashes_hold(place: Path, run: Any, vulnerable: Any) -> None:
    edit_policy(vulnerability_service=vulnerable[0])
    chosen, client = tracking.open_store(FLIGHTS)
    client.set_model_version_tag(chosen.model, "1", "approved_as", approve.Kind.POLICY)
    assert "audit pack of" in run("audit-pack", "1", "--to", "audit/1")
    listed = [line.split("  ") for line in Path("audit/1/SHA256SUMS").read_text().splitlines()]
    there = {file.relative_to("audit/1").as_posix() for file in Path("audit/1").rglob("*") if file.is_file()}
    assert there - {"SHA256SUMS"} == {name for _, name in listed}
    assert all(files.sha256(Path("audit/1", name)) == sha256 for sha256, name in listed)
    assert {"model-card.md", "data-sheet.md", "lineage.json", "gates.json", "approvals.json", "policy.yml"} < there
    assert json.loads(Path("audit/1/approvals.json").read_text())["approval"]["approved_as"].startswith("a policy")
    table = Path("audit/1/dependencies.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["package", "httpx", "pandas"], "tools and other systems left out"
    assert "BSD" in table[1]
    assert data.TARGET in Path("audit/1/data-sheet.md").read_text()
    assert "never written over" in run("audit-pack", "1", "--to", "audit/1", exit_code=2)


@pytest.mark.practice("compliance-review")
def test_what_the_runtime_needs_at_the_levels_of_the_project_counts_as_a_dependency() -> None:
    needed = dict(audit_pack.packages(tomllib.loads((PROJECT / "uv.lock").read_text(encoding="utf-8"))))
    assert {"mlops-ladder", "httpx", "mlflow", "onnxruntime", "polars"} <= needed.keys()
    assert not {"pytest", "mypy", "ipykernel", "schemathesis"} & needed.keys()


@pytest.mark.practice("compliance-review")
def test_an_incomplete_audit_pack_is_refused_and_names_all_that_is_missing(place: Path, run: Any) -> None:
    chosen, client = tracking.open_store(FLIGHTS)
    for key in ("validation_status", "approved_by"):
        client.delete_model_version_tag(chosen.model, "1", key)
    Path("data/catalog.yml").write_text("datasets: {}\nothers: []\n")
    shutil.copy(PROJECT / "docs/governance/policy.yml", "docs/governance/policy.yml")
    file = Path("docs/governance/policy.yml")
    file.write_text(re.sub(r"(ask: .*\n +answer:).*", r"\1", file.read_text()))
    edit_policy(vulnerability_service="http://127.0.0.1:9")
    said = run("audit-pack", "1", "--to", "packs/1", exit_code=3)
    assert "gates.json: the gates are not run" in said
    assert "approvals.json: nobody approved it" in said
    assert "data-sheet.md: data set raw is not in data/catalog.yml" in said
    assert "policy.yml: checklist compliance" in said
    assert "dependencies.csv: not checked for vulnerabilities at http://127.0.0.1:9" in said
    assert list(Path("packs").iterdir()) == []


@pytest.mark.practice("compliance-review", "security-policies")
def test_known_vulnerabilities_refused_licences_and_self_approval_keep_a_pack_from_being_made(
    place: Path, run: Any, vulnerable: Any
) -> None:
    service, names = vulnerable
    names.add("pandas")
    edit_policy(vulnerability_service=service, refused_licences=["BSD"])
    chosen, client = tracking.open_store(FLIGHTS)
    client.set_model_version_tag(chosen.model, "1", "approved_by", "ada@example.org")
    said = run("audit-pack", "1", "--to", "audit/1", exit_code=3)
    assert f"pandas {installed('pandas')}: PYSEC-1" in said
    assert f"httpx {installed('httpx')}: licence BSD" in said
    assert "ada@example.org trained it and approved it" in said


@pytest.mark.practice("security-policies")
def test_vulnerabilities_are_found_offline_and_accepted_until_a_day(place: Path, run: Any) -> None:
    Path("osv").mkdir()
    words = ("audit-pack", "1", "--to", "audit/1", "--vulnerabilities", "osv")
    assert "holds no OSV record" in run(*words, exit_code=3)
    names = {"PYSEC-2": [{"introduced": "0"}], "PYSEC-3": [{"introduced": "0"}, {"fixed": "0.1"}]}
    for name, events in names.items():
        package = {"ecosystem": "PyPI", "name": "HTTPX"}
        record = {"id": name, "affected": [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}]}]}
        Path(f"osv/{name}.json").write_text(json.dumps(record))
    said = run(*words, exit_code=3)
    assert f"httpx {installed('httpx')}: PYSEC-2;" in said
    edit_policy(accepted_vulnerabilities={"PYSEC-2": {"reason": "never called", "until": "2000-01-01"}})
    assert "PYSEC-2 was accepted until 2000-01-01" in run(*words, exit_code=3)
    edit_policy(accepted_vulnerabilities={"PYSEC-2": {"reason": "never called", "until": "2100-01-01"}})
    assert "audit pack of" in run(*words)
