"""Several classes at level 3: the gates, the fast path, the batch, an explanation, and what they refuse."""

import json
import os
from collections.abc import Iterator

import pandas as pd
import pytest
from irises import MODEL, SPECIES, changed, committed, flowers, irises, module
from mlops_ladder import Project
from mlops_ladder.core import commands, settings
from mlops_ladder.release import explain, judgement
from mlops_ladder.release.gates import contract, fairness, parity, quality, sanity, slices
from mlops_ladder.release.judgement import Candidate, Release
from mlops_ladder.serving.servable import resolve
from mlops_ladder.training import tracking

LIMITS = {
    "quality": {"rows": 100, "over_champion": {"log_loss": {"measured": -0.01, "surely": -0.05}}},
    "slices": {"rows": 30, "metrics": {"accuracy": {"min": 0.6}}},
    "fairness": {"rows": 30, "decide": 0.5, "differences": {"bias": 0.15, "true_positive_rate": 0.5}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The irises with limits that fit them, two versions of them: 1 as it is, 2 whose probabilities do not add up."""
    project = irises(tmp_path_factory.mktemp("gates") / "irises")
    known = settings.read(project, "release", Release).model_dump()
    changed(project.folder, "release", **{name: known[name] | limits for name, limits in LIMITS.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(project.source.parent), os.environ.get("PYTHONPATH", "")]))
        tracking.library()
        assert commands.main(project, ["export-contract"]) == 0
        committed(project.folder)
        assert commands.main(project, ["train"]) == 0
        broken = MODEL.replace("return model.predict_proba(inputs)", "return 0.9 * model.predict_proba(inputs)")
        worse = Project(
            "irises",
            project.source,
            project.folder,
            {**project.modules, "model": module(project.source, "model", broken)},
        )
        assert commands.main(worse, ["train"]) == 0
        module(project.source, "model", MODEL)
        yield project


@pytest.fixture(scope="module")
def candidate(trained: Project) -> Candidate:
    chosen, client = tracking.open_store(trained)
    return Candidate(trained, client, chosen.model, "1")


@pytest.fixture(scope="module")
def limits(trained: Project) -> Release:
    return settings.read(trained, "release", Release)


def refused(findings: list[judgement.Finding]) -> list[str]:
    return [str(one) for one in findings if not one.passed]


def test_a_good_version_passes_every_gate(candidate: Candidate, limits: Release) -> None:
    findings = judgement.run_gates(candidate, limits)
    allowed = ("stable",)  # there is no champion yet: that gate has a test of its own
    assert [one for one in refused(findings) if not one.startswith(allowed)] == []
    assert {one.gate for one in findings} >= set(limits.gates)


def test_quality_and_slices_judge_by_the_metrics_of_model_py(candidate: Candidate, limits: Release) -> None:
    assert any(one.what == "log_loss over the baseline" for one in quality.check(candidate, limits))
    assert {one.what for one in slices.check(candidate, limits)} >= {"site dune", "site marsh"}


def test_fairness_is_judged_class_by_class(candidate: Candidate, limits: Release) -> None:
    found = fairness.check(candidate, limits)
    assert {one.what for one in found} == {
        f"{name} of {species} by site differs" for name in ("bias", "true_positive_rate") for species in SPECIES
    }
    strict = limits.fairness.model_copy(update={"differences": {"bias": -1.0}})
    assert len(refused(fairness.check(candidate, limits.model_copy(update={"fairness": strict})))) == len(SPECIES)


def test_a_rate_is_not_compared_with_a_group_that_has_none_of_the_rows_it_counts(
    candidate: Candidate, limits: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        candidate.project.behaviour, "groups", lambda rows: rows[["species"]]
    )  # each has one class alone
    found = {one.what: one for one in fairness.check(candidate, limits)}
    for species in SPECIES:
        rate, bias = (found[f"{name} of {species} by species differs"] for name in ("true_positive_rate", "bias"))
        assert (rate.passed, rate.found) == (True, "fewer than two groups have such rows")
        assert bias.found.count(" ") > 3, "all groups are compared where each has rows"


def test_the_service_gives_what_the_batch_gives_and_onnx_does_too(candidate: Candidate, limits: Release) -> None:
    served, fast = parity.check(candidate, limits)
    assert served.passed and fast.found.startswith("onnx"), fast


def test_sanity_holds_and_refuses_probabilities_that_do_not_add_up(candidate: Candidate, limits: Release) -> None:
    assert refused(sanity.check(candidate, limits)) == []
    worse = Candidate(candidate.project, candidate.client, candidate.name, "2")
    assert any("probabilities of a row add up to 1" in line for line in refused(sanity.check(worse, limits)))


def test_the_contract_names_label_and_probabilities_and_a_new_label_breaks_it(trained: Project) -> None:
    agreed = json.loads(trained.path("contracts/model.schema.json").read_text(encoding="utf-8"))
    assert agreed["output"]["properties"]["iris"] == {"enum": SPECIES}
    assert agreed["output"]["required"] == ["iris", *(f"iris_{name}" for name in SPECIES)]
    more = json.loads(json.dumps(agreed))
    more["output"]["properties"]["iris"]["enum"].append("mystery")
    assert contract.breaks(agreed, agreed) == []
    assert any(line.startswith("iris gives more than is expected") for line in contract.breaks(agreed, more))


def test_score_batch_adds_label_and_probabilities(trained: Project) -> None:
    source, target = trained.folder / "batch/in", trained.folder / "batch/out"
    source.mkdir(parents=True)
    flowers(50).drop(columns="species").to_parquet(source / "some.parquet")
    words = ["score-batch", "--input", str(source), "--output", str(target), "--model", "models:/irises/1"]
    assert commands.main(trained, words) == 0
    scored = pd.read_parquet(target / "some.parquet")
    names = [f"iris_{name}" for name in SPECIES]
    assert list(scored)[-5:] == ["iris", *names, "model_version"]
    assert scored[names].sum(axis=1).to_numpy() == pytest.approx(1)
    assert set(scored["iris"]) <= set(SPECIES)


def test_an_explanation_is_of_the_likeliest_class(trained: Project) -> None:
    row = resolve(trained, "models:/irises/1").example
    told = explain.explain(trained, row, "1")
    assert told["output"].removeprefix("iris_") in SPECIES and told["prediction"] > 1 / 3
    assert sum(told["shares"].values()) == pytest.approx(told["prediction"] - told["average"], abs=1e-6)
