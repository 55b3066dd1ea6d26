"""Who looks after what: data of several projects in one architecture, and nothing of the loop that nobody answers for."""

import argparse
import copy
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from flight_delays import data
from mlops_ladder.core import commands, maturity, settings
from mlops_ladder.data import feature_tables, store
from mlops_ladder.loop import prediction_log
from mlops_ladder.release import catalog, data_sets, policy
from projects import FLIGHTS, ROOT

PROJECT = ROOT
OWNERSHIP = yaml.safe_load((PROJECT / "docs/ownership.yml").read_text(encoding="utf-8"))


@pytest.mark.practice("comprehensive-data-architecture")
def test_two_projects_share_one_store_with_one_layout_and_find_each_others_data(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    month, shared = min((PROJECT / "data/sample").iterdir()), tmp_path / "shared"
    (tmp_path / "source").mkdir()
    shutil.copy(month, tmp_path / "source")
    names = ("planes", "trains")
    for name, other in zip(names, reversed(names), strict=True):
        folder = tmp_path / name
        shutil.copytree(PROJECT / "conf", folder / "conf")
        source = {"url": str(tmp_path / "source"), "table": None}
        place = {"workspace": name, "store": str(shared), "source": source}
        (folder / "conf/data.yml").write_text(yaml.safe_dump(place))
        entries = yaml.safe_load((PROJECT / "data/catalog.yml").read_text(encoding="utf-8"))
        for entry in entries["datasets"].values():
            entry["path"] = re.sub("^data/", f"{shared / name}/", entry["path"])
        entries["others"] = [str(tmp_path / other / "data/catalog.yml")]
        (folder / "data").mkdir()
        (folder / "data/catalog.yml").write_text(yaml.safe_dump(entries))
    for name in names:
        monkeypatch.chdir(tmp_path / name)
        run("ingest")
        run("prepare")
    planes, trains = (
        sorted(file.relative_to(shared / name) for file in (shared / name).rglob("*.*") if file.is_file())
        for name in names
    )
    assert planes == trains and {file.parts[0] for file in planes} >= {"raw", "prepared", "manifest.json"}
    assert {folder.name for folder in shared.iterdir()} == {*names}, "nothing lies outside a project's room"
    theirs = [one for one in catalog.datasets(FLIGHTS) if one["name"] == "raw" and names[0] in one["where"]]
    assert len(data.read(theirs[0]["where"])) == len(data.read(store.read(FLIGHTS).raw)) > 0
    assert catalog.uncatalogued(FLIGHTS) == []
    shutil.copytree(store.read(FLIGHTS).raw, store.read(FLIGHTS).home / "private")
    assert "private holds data and is not in" in catalog.uncatalogued(FLIGHTS)[0]


@pytest.mark.practice("comprehensive-data-architecture")
def test_wherever_rows_are_kept_the_catalogue_says_so_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    log, entries = settings.read(FLIGHTS, "prediction_log", prediction_log.Conf), data_sets.read(FLIGHTS).datasets
    by_path = {entry.path: entry for entry in entries.values()}
    kept = log.url.removeprefix("sqlite:///")
    tables = str(settings.read(FLIGHTS, "features", feature_tables.Features).offline)
    assert {kept, tables, "data/retraining"} <= set(by_path)
    days = by_path[kept].retention_days
    assert days is None or log.keep_days <= days, "the log keeps rows for longer than the catalogue says"


def gaps(ownership: dict[str, Any]) -> list[str]:
    """Return what nobody looks after, or what is named there and does not exist, a sentence each."""
    stages, joining = ownership["stages"], ownership["joining"]
    roles = {*policy.read(FLIGHTS).roles, *joining}
    runbook = Path("docs/runbook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\S+)$", runbook, re.MULTILINE)
    answered = Counter(section for stage in stages.values() for section in stage["runbook"])
    found = [f"section {name} is answered for {answered[name]} times" for name in sections if answered[name] != 1]
    found += [f"{name} is no section" for name in answered if name not in sections]
    working = {role for stage in stages.values() for role in [stage["answers"], *stage["with"]]}
    found += [f"role {role} has no stage" for role in sorted(roles - working)]
    found += [f"{role} is no role" for role in sorted(working - roles)]
    for name, stage in stages.items():
        if len({stage["answers"], *stage["with"]}) < 3:
            found.append(f"stage {name} is no team")
        found += [f"{word} is no command" for word in stage["runs"] if word not in commands.known(FLIGHTS)]
    meetings = [*ownership["security"], *ownership["strategy"]["governed"]]
    found += [f"`{one['command']}` does not exist" for one in meetings if not exists(one["command"])]
    if any(one["person"] == "" for one in joining.values()):
        found.append("a person is left empty")
    if "security-expert" not in {stage["answers"] for stage in stages.values()} or not ownership["security"]:
        found.append("no security expert takes part")
    strategy = ownership["strategy"]
    if strategy["decides"] not in roles or not strategy["decision"] or not strategy["governed"]:
        found.append("nobody says what predictions are for")
    asked = maturity.read_questions(FLIGHTS)
    found += [f"question {name} is not asked" for name in strategy["readiness"] if name not in asked]
    return found


def exists(words: str) -> bool:
    """Return whether a command takes WORDS."""
    name, *rest = words.split()
    parser = argparse.ArgumentParser(exit_on_error=False)
    try:
        commands.load(FLIGHTS, name).arguments(parser)
        parser.parse_args(rest)
    except (ImportError, argparse.ArgumentError, SystemExit):
        return False
    return True


@pytest.mark.practice("cross-functional-team", "security-expert-involvement", "ml-strategic")
def test_nothing_of_the_loop_is_without_somebody_who_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert gaps(OWNERSHIP) == []


BREACHES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "section decay is answered for 0 times": lambda all: all["stages"]["model"]["runbook"].remove("decay"),
    "sunshine is no section": lambda all: all["stages"]["data"]["runbook"].append("sunshine"),
    "role data-engineer has no stage": lambda all: [alone(one, "data-engineer") for one in all["stages"].values()],
    "stage loop is no team": lambda all: all["stages"]["loop"].update({"with": ["ml-engineer"]}),
    "gardener is no role": lambda all: all["stages"]["loop"]["with"].append("gardener"),
    "fly is no command": lambda all: all["stages"]["data"]["runs"].append("fly"),
    "`audit --burn` does not exist": lambda all: all["security"][0].update(command="audit --burn"),
    "no security expert takes part": lambda all: all["security"].clear(),
    "a person is left empty": lambda all: all["joining"]["sponsor"].update(person=""),
    "nobody says what predictions are for": lambda all: all["strategy"].update(decides="whoever"),
    "question strategy.luck is not asked": lambda all: all["strategy"]["readiness"].append("strategy.luck"),
}


def alone(stage: dict[str, Any], role: str) -> None:
    """Take ROLE out of a stage."""
    stage["with"] = [one for one in stage["with"] if one != role]
    if stage["answers"] == role:
        stage["answers"] = "ml-engineer"


@pytest.mark.practice("cross-functional-team", "security-expert-involvement", "ml-strategic")
@pytest.mark.parametrize("said", BREACHES)
def test_what_nobody_looks_after_is_named(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    changed = copy.deepcopy(OWNERSHIP)
    BREACHES[said](changed)
    assert said in gaps(changed)


@pytest.mark.practice("security-expert-involvement")
def test_who_finds_a_hole_reads_whom_to_tell() -> None:
    text = (PROJECT / "docs/SECURITY.md").read_text(encoding="utf-8")
    first = text.partition("## Found a hole?")[2].partition("\n## ")[0]
    assert "ownership.yml" in first and re.search(r"^> \S", first, re.MULTILINE), "an address, or that there is none"
