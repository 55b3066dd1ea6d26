"""Tables that lack what the flights have, at level 3: what is not declared is not judged, what is too small says why."""

from pathlib import Path
from typing import Any

import pytest
import small_project
from mlops_ladder.core import commands, settings
from mlops_ladder.release import catalog, deploy, explain
from mlops_ladder.release.gates import fairness, parity, quality, sanity, slices
from mlops_ladder.release.judgement import Candidate, Finding, Release
from mlops_ladder.training import tracking
from small_project import BEHAVIOUR, DATA, coins

N_ROWS = 600


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """Version 1 of 600 coins without time, slices, groups and categories."""
    return trained(tmp_path_factory.mktemp("coins") / "coins")


def trained(folder: Path, **texts: str) -> Candidate:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.library()
        rows = coins(N_ROWS).assign(mint=lambda rows: rows["size"].gt(1).map({True: "A", False: "B"}))
        project = small_project.make(folder, rows, **texts)
        patch.chdir(folder)
        assert commands.main(project, ["train"]) == 0
        chosen, client = tracking.open_store(project)
    return Candidate(project, client, chosen.model, "1")


def limits(candidate: Candidate, **changes: dict[str, Any]) -> Release:
    known = settings.read(candidate.project, "release", Release)
    return known.model_copy(update={name: getattr(known, name).model_copy(update=changes[name]) for name in changes})


def refused(findings: list[Finding]) -> str:
    return "\n".join(str(one) for one in findings if not one.passed)


def test_what_the_project_does_not_declare_is_not_judged_and_passes(candidate: Candidate) -> None:
    asked = limits(candidate)
    for gate, where in ((slices, "SLICES in data.py"), (fairness, "groups() in behaviour.py")):
        [told] = gate.check(candidate, asked)
        assert told.passed and told.found == f"not declared: {where} names none"


def test_rows_without_a_time_are_judged_on_the_part_that_the_hash_holds_out(candidate: Candidate) -> None:
    assert len(candidate.rows) == sum(candidate.run.data.metrics[f"{part}_rows"] for part in ["test"])
    assert refused(quality.check(candidate, limits(candidate, quality={"rows": 100}))) == ""
    assert refused(sanity.check(candidate, limits(candidate))) == ""
    assert "served" not in refused(parity.check(candidate, limits(candidate)))
    held_out = deploy.held_out(candidate.project, candidate.client, candidate.run)
    assert set(held_out["coin"]) == set(candidate.rows["coin"])
    card = catalog.card(candidate.project, tracking.open_store(candidate.project)[0], candidate.client, "1")
    assert "without a time" in card and "split by the hash of coin, seed 0" in card


def test_a_prediction_on_a_row_without_a_time_is_explained(candidate: Candidate, monkeypatch: Any) -> None:
    monkeypatch.chdir(candidate.project.folder)
    told = explain.explain(candidate.project, {"size": 2.0}, "1")
    assert told["shares"]["size"] > 0.2
    assert told["average"] + told["shares"]["size"] == pytest.approx(told["prediction"])


def test_too_few_rows_are_refused_with_the_key_and_file_that_stop(candidate: Candidate) -> None:
    asked = limits(candidate)
    assert "(quality.rows in conf/release.yml)" in refused(quality.check(candidate, asked))


def test_declared_slices_and_groups_that_are_too_small_are_refused(tmp_path: Path) -> None:
    mint = '"size": {"type": "number"},\n    "mint": {"type": "category"},'
    sliced = DATA.replace("None, [], []", 'None, ["mint"], []').replace('"size": {"type": "number"},', mint)
    grouped = BEHAVIOUR.replace("{}", 'rows[["mint"]]')
    found = trained(tmp_path / "coins", data=sliced, behaviour=grouped)
    asked = limits(found, slices={"rows": N_ROWS}, fairness={"rows": N_ROWS})
    assert "(slices.rows in conf/release.yml)" in refused(slices.check(found, asked))
    assert "(fairness.rows in conf/release.yml)" in refused(fairness.check(found, asked))
    asked = limits(found, slices={"rows": 10, "metrics": asked.slices.metrics}, fairness={"rows": 10})
    assert all("not declared" not in one.found for one in slices.check(found, asked) + fairness.check(found, asked))
