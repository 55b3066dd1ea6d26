"""What stands in docs/governance and data/catalog.yml is true of the project, and a breach of it is refused."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlops_ladder import Project
from mlops_ladder.core import commands, maturity
from mlops_ladder.data import store
from mlops_ladder.release import catalog, data_sets, policy
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT

PROJECT = ROOT
PAGE = PROJECT / "docs/governance/README.md"


@pytest.fixture
def governed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with the project's pages, settings and tests, but without data."""
    for name in ("conf", "docs", "tests"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").mkdir()
    shutil.copy(PROJECT / "data/catalog.yml", tmp_path / "data/catalog.yml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained`, made the current folder, with the governance files committed."""
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    shutil.copytree(PROJECT / "docs", folder / "docs")
    shutil.copy(PROJECT / ".copier-answers.yml", folder)
    shutil.copy(PROJECT / "data/catalog.yml", folder / "data/catalog.yml")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def edit(change: Any) -> None:
    content = yaml.safe_load(policy.FILE.read_text(encoding="utf-8"))
    change(content)
    policy.FILE.write_text(yaml.safe_dump(content), encoding="utf-8")


def answer(word: str) -> None:
    edit(lambda content: [question.update(answer=word) for one in content["checklists"].values() for question in one])
    text = maturity.QUESTIONS.read_text(encoding="utf-8")
    text = re.sub(r'^answer = ".*"$', f'answer = "{word}"', text, flags=re.MULTILINE)
    maturity.QUESTIONS.write_text(text, encoding="utf-8")


@pytest.mark.practice("ethics-principles", "misuse-assessment", "security-policies")
def test_the_project_holds_to_its_policy(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert "principles are tied to tests" in run("policy")


@pytest.mark.practice("security-policies", "data-governance")
def test_a_project_in_another_folder_is_held_to_its_own_policy_and_catalogue(
    governed: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (governed / "data/raw").mkdir()
    (governed / "data/raw/all.parquet").touch()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    project = Project(FLIGHTS.package, FLIGHTS.source, folder=governed)
    assert (policy.breaches(project, policy.read(project)), catalog.uncatalogued(project)) == ([], [])
    assert any(name.startswith("tests/") for name in policy.tests(project)), "as the policy names them"
    (governed / "data/strange").mkdir()
    (governed / "data/strange/all.parquet").touch()
    assert len(catalog.uncatalogued(project)) == 1


OLD = {"reason": "never called", "until": "2000-01-01"}
BREACHES = {
    "is no test here": lambda p: p["principles"].update(New={"means": "well", "tests": ["tests/test_no.py::test_it"]}),
    "nothing is decided": lambda p: p["threats"][0].update(decision="open"),
    "by whom": lambda p: p["threats"][0].update(decision="accepted", by=""),
    "was accepted until": lambda p: p["security"].update(accepted_vulnerabilities={"A": OLD}),
    "does not say which data": lambda p: p["security"]["classes"].pop("prod"),
    "environment dev reads raw, which is": lambda p: p["security"]["classes"].update(dev=["public"]),
}


@pytest.mark.practice("ethics-principles", "misuse-assessment", "security-policies")
@pytest.mark.parametrize("said", BREACHES)
def test_a_breach_of_the_policy_is_refused(governed: Path, run: Any, said: str) -> None:
    data_sets.FILE.write_text(data_sets.FILE.read_text().replace("class: public", "class: internal"))
    edit(BREACHES[said])
    assert said in run("policy", exit_code=3)


@pytest.mark.practice("security-policies")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("data/raw/", "environment dev reads raw, which is"),
        ("./data/raw/2013", "environment dev reads raw, which is"),
        ("/srv/anything", "environment dev reads /srv/anything, which is not in data/catalog.yml"),
    ],
)
def test_data_that_must_not_be_there_is_found_however_its_path_is_written(
    governed: Path, run: Any, data: str, said: str
) -> None:
    file = Path("conf/environments/dev.yml")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"data": data}))
    data_sets.FILE.write_text(data_sets.FILE.read_text().replace("class: public", "class: internal"))
    edit(lambda content: content["security"]["classes"].update(dev=["public"]))
    assert said in run("policy", exit_code=3)


def test_a_misspelt_key_of_the_policy_is_named(governed: Path, run: Any) -> None:
    edit(lambda content: content["threats"][0].update(desicion="open"))
    assert "threats.0.desicion" in run("policy", exit_code=1)


@pytest.mark.practice("readiness-assessment", "ml-success-consistency", "asset-reuse-review")
@pytest.mark.parametrize("name", ["start", "release", "quarter"])
def test_a_checkpoint_is_passed_when_its_lists_and_readiness_are_answered(governed: Path, run: Any, name: str) -> None:
    answer("")
    said = run("policy", "--checkpoint", name, exit_code=3)
    assert "(not answered)" in said
    assert "readiness is 0 of 100" in said
    answer("yes")
    assert f"checkpoint {name} is passed" in run("policy", "--checkpoint", name)


@pytest.mark.practice("enablement-materials", "fast-onboarding", "architecture-patterns", "ml-engineer-role")
def test_what_roles_learn_and_patterns_are_built_of_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    rules = policy.read(FLIGHTS)
    named = [word for role in rules.roles.values() for word in role.learns]
    named += [word for pattern in rules.patterns.values() for word in pattern.built_of]
    assert [word for word in named if word not in commands.known(FLIGHTS) and not Path(word).is_file()] == []
    assert "ml-engineer" in rules.roles


@pytest.mark.practice("fast-onboarding")
def test_the_commands_of_the_first_day_run(place: Path, run: Any) -> None:
    [day] = re.findall(r"## First day\n.*?```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = re.findall(r"^uv run python -m \w+ (.+)$", day, re.MULTILINE)
    started = time.monotonic()
    for line in lines:
        run(*line.split())
    assert time.monotonic() - started < 600
    assert "lineage 1" in lines


@pytest.mark.practice("code-review")
def test_a_review_is_asked_for_every_file() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "read by a second person" in text
    if (PROJECT / ".github").is_dir():
        owners = (PROJECT / ".github/CODEOWNERS").read_text(encoding="utf-8")
        assert re.search(r"^\* +@\S+", owners, re.MULTILINE)
        assert '"required_approving_review_count": 1' in text


@pytest.mark.practice("data-governance")
def test_every_data_set_is_in_the_catalogue(place: Path, run: Any) -> None:
    assert "every data set is in the catalogue" in run("catalog", "--check")
    (place / "data/passengers").mkdir()
    shutil.copy(next((place / "data/raw").iterdir()), place / "data/passengers/list.parquet")
    assert "data/passengers holds data and is not in data/catalog.yml" in run("catalog", "--check", exit_code=3)


def test_a_data_set_without_an_owner_is_an_error(place: Path, run: Any) -> None:
    content = yaml.safe_load(data_sets.FILE.read_text(encoding="utf-8"))
    name = next(iter(content["datasets"]))
    content["datasets"][name]["owner"] = ""
    data_sets.FILE.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert f"datasets.{name}.owner" in run("catalog", exit_code=1)


@pytest.mark.practice("central-data-management")
def test_data_of_another_project_is_found_by_the_path_of_its_catalogue(place: Path, run: Any, tmp_path: Path) -> None:
    entry = {"what": "crews on duty", "path": "data/crews", "owner": "grace@example.org", "class": "personal"}
    entry |= {"retention_days": 30, "masked": ["name"], "consumers": []}
    other = tmp_path / "other/data/catalog.yml"
    other.parent.mkdir(parents=True)
    other.write_text(yaml.safe_dump({"datasets": {"crews": entry}, "others": []}))
    content = yaml.safe_load(data_sets.FILE.read_text(encoding="utf-8"))
    data_sets.FILE.write_text(yaml.safe_dump({**content, "others": [str(other)]}), encoding="utf-8")
    [found] = run("catalog", "--find", "crews", "--json")
    assert (found["owner"], found["where"]) == ("grace@example.org", str(tmp_path / "other/data/crews"))
    other.unlink()
    assert "there is no catalogue" in run("catalog", exit_code=1)


@pytest.mark.practice("model-catalogue")
def test_a_released_version_without_a_current_card_is_refused(place: Path, run: Any) -> None:
    chosen, _ = tracking.open_store(FLIGHTS)
    assert "every released version has its card" in run("catalog", "--check"), "nothing is released yet"
    run("promote", "1", "--reason", "agreed with operations")
    assert "released version 1 has no card" in run("catalog", "--check", exit_code=3)
    run("catalog", "--cards")
    card = place / f"docs/models/{chosen.model}-1.md"
    assert "agreed with operations" in card.read_text(encoding="utf-8")
    assert "every released version has its card" in run("catalog", "--check")
    card.write_text("# Best of all models\n")
    assert "another card than the registry's facts" in run("catalog", "--check", exit_code=3)


@pytest.mark.practice("shared-artifact-repository")
def test_definitions_go_from_one_project_to_another_with_their_hashes(
    place: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: Any
) -> None:
    hub, name = tmp_path / "hub", store.read(FLIGHTS).workspace
    git("add", "--all")
    assert "is shared as committed" in run("share", "--to", str(hub), exit_code=3)
    git("commit", "--quiet", "--message", "Describe the data")
    run("share", "--to", str(hub))
    other = tmp_path / "other"
    shutil.copytree(place / "conf", other / "conf")
    monkeypatch.chdir(other)
    [listed] = run("share", "--from", str(hub), "--json")
    assert listed["project"] == name
    run("share", "--from", str(hub), "--take", name)
    taken = other / "shared" / name
    assert (taken / "training.yml").read_bytes() == (place / "conf/training.yml").read_bytes()
    assert (taken / "uv.lock").read_bytes() == (place / "uv.lock").read_bytes()
    (hub / name / "training.yml").write_text("seed: 7\n")
    assert "is not what" in run("share", "--from", str(hub), "--take", name, exit_code=3)
    listing = hub / name / "definitions.json"
    told = json.loads(listing.read_text())
    told["files"]["training"]["file"] = "../training.yml"
    listing.write_text(json.dumps(told))
    assert "no plain file name" in run("share", "--from", str(hub), "--take", name, exit_code=3)
