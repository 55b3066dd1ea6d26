"""Gates: what each refuses, that they fail closed, what is kept of a judgement, and that each version is judged once."""

import contextlib
import copy
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from flight_delays import behaviour, data, model
from flight_delays.__main__ import main
from mlops_ladder.core import settings
from mlops_ladder.release import environments, fast_path, judgement
from mlops_ladder.release.gates import behaviour as behaving
from mlops_ladder.release.gates import contract, fairness, footprint, parity, quality, sanity, slices
from mlops_ladder.release.judgement import Candidate, Champion, Finding, Release
from mlops_ladder.serving.contract import Contract
from mlops_ladder.training import tracking
from projects import FLIGHTS

Change = Callable[[pd.DataFrame, np.ndarray], np.ndarray]
CLASSIFICATION = data.PROBLEM == "classification"
SCALE, BIAS = (1, 0.2) if CLASSIFICATION else (10, 40)  # in the unit of the predictions


@pytest.fixture(scope="module")
def judged(trained: Path) -> Iterator[Candidate]:
    """The version of `trained`, its rows and predictions read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        chosen, client = tracking.open_store(FLIGHTS)
        candidate = Candidate(FLIGHTS, client, chosen.model, "1")
        assert len(candidate.predicted) == len(candidate.baseline) > 0 and candidate.champion is None
        yield candidate


@pytest.fixture
def candidate(judged: Candidate, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Candidate:
    """The same to alter, its report's folder the test's own, with the project it is of as the current folder."""
    monkeypatch.chdir(trained)
    own = copy.copy(judged)
    own.folder = tmp_path / "report"
    return own


@pytest.fixture
def limits(trained: Path) -> Release:
    with contextlib.chdir(trained):
        read = settings.read(FLIGHTS, "release", Release)
    fewer = {"quality": {"resamples": 50}, "parity": {"rows": 20}}  # than a release takes: faster
    return read.model_copy(update={name: getattr(read, name).model_copy(update=of) for name, of in fewer.items()})


class Altered:
    """An opened version whose predictions are changed on the way out."""

    def __init__(self, opened: Any, change: Change) -> None:
        self.opened, self.change, self.note = opened, change, opened.note

    def predict(self, context: Any, rows: pd.DataFrame) -> pd.DataFrame:
        told = self.opened.predict(context, rows)
        return told.assign(**{model.OUTPUT: self.change(rows, told[model.OUTPUT].to_numpy())})


def altered(candidate: Candidate, change: Change) -> Candidate:
    """Return CANDIDATE with a model that predicts what CHANGE makes of its predictions."""
    other = copy.copy(candidate)
    other.__dict__["opened"] = Altered(candidate.opened, change)
    other.__dict__.pop("predicted", None)
    return other


def mirrored(rows: pd.DataFrame, predicted: np.ndarray) -> np.ndarray:
    """Return the least for what was the largest and the other way round."""
    return SCALE - predicted


def refused(findings: list[Finding]) -> list[str]:
    return [one.what for one in findings if not one.passed]


@pytest.mark.practice("model-behaviour-tests")
def test_quality_refuses_a_model_that_is_no_better_than_none(candidate: Candidate, limits: Release) -> None:
    shuffled = np.random.default_rng(0).permutation
    assert refused(quality.check(candidate, limits)) == []
    noise = altered(candidate, lambda rows, predicted: shuffled(predicted))
    assert {"metrics", f"{model.PRIMARY} over the baseline"} <= set(refused(quality.check(noise, limits)))


@pytest.mark.practice("model-behaviour-tests")
def test_quality_refuses_too_few_rows_to_tell(candidate: Candidate, limits: Release) -> None:
    asked = limits.quality.model_copy(update={"rows": len(candidate.rows) + 1})
    findings = quality.check(candidate, limits.model_copy(update={"quality": asked}))
    assert refused(findings) == ["held-out rows"]


def blend(candidate: Candidate, share: float) -> np.ndarray:
    """Return predictions that know SHARE of the truth."""
    return (1 - share) * candidate.predicted + share * candidate.truth.astype("float64").to_numpy()


@pytest.mark.practice("offline-ab-evaluation")
def test_quality_takes_only_what_is_no_worse_than_the_champion_on_the_same_rows(
    candidate: Candidate, limits: Release
) -> None:
    every = np.ones(len(candidate.rows), dtype=bool)
    candidate.__dict__["champion"] = Champion("7", blend(candidate, 0.2), every)
    told = quality.against_champion(candidate, limits.quality)
    assert set(refused(told)) == {f"{name} over champion 7" for name in limits.quality.over_champion}
    assert all("interval -" in one.found for one in told if not one.passed)
    better = altered(candidate, lambda rows, predicted: blend(candidate, 0.3))
    assert refused(quality.against_champion(better, limits.quality)) == []
    candidate.__dict__["champion"] = Champion("7", candidate.predicted, every)
    assert refused(quality.against_champion(candidate, limits.quality)) == [], "the same model is no worse"


@pytest.mark.practice("offline-ab-evaluation")
def test_quality_never_compares_on_rows_that_the_champion_was_trained_on(candidate: Candidate, limits: Release) -> None:
    late = np.zeros(len(candidate.rows), dtype=bool)
    late[-10:] = True
    candidate.__dict__["champion"] = Champion("7", candidate.predicted, late)
    [finding] = quality.against_champion(candidate, limits.quality)
    assert not finding.passed and finding.found == "10"


@pytest.mark.practice("offline-ab-evaluation")
def test_the_champion_predicts_the_candidates_rows_with_its_own_code(candidate: Candidate) -> None:
    candidate.__dict__.pop("champion")
    candidate.client.set_registered_model_alias(candidate.name, "champion", "1")
    try:
        assert candidate.champion is not None
        assert np.array_equal(candidate.champion.predicted, candidate.predicted)
        assert candidate.champion.unseen.all()
    finally:
        candidate.client.delete_registered_model_alias(candidate.name, "champion")


@pytest.mark.practice("offline-ab-evaluation")
def test_rows_that_the_champion_learned_from_are_left_out_of_the_comparison(
    candidate: Candidate, limits: Release
) -> None:
    learned, later = candidate.splits["train"].tail(40), candidate.splits["test"].tail(60)
    candidate.__dict__["splits"] = candidate.splits | {"test": pd.concat([learned, later])}
    for name in ("champion", "rows", "predicted"):
        candidate.__dict__.pop(name)
    candidate.client.set_registered_model_alias(candidate.name, "champion", "1")
    try:
        assert candidate.champion is not None
        assert candidate.champion.unseen.tolist() == [False] * 40 + [True] * 60
        asked = limits.quality.model_copy(update={"rows": 61})
        [finding] = quality.against_champion(candidate, asked)
        assert not finding.passed and finding.found == "60"
    finally:
        candidate.client.delete_registered_model_alias(candidate.name, "champion")


@pytest.mark.practice("model-behaviour-tests")
def test_slices_refuses_a_model_that_fails_in_one_of_them(candidate: Candidate, limits: Release) -> None:
    column = data.SLICES[0]
    value = candidate.rows[column].value_counts().index[0]
    assert refused(slices.check(candidate, limits)) == []

    def fail_there(rows: pd.DataFrame, predicted: np.ndarray) -> np.ndarray:
        wrong = 1 - predicted if CLASSIFICATION else predicted + 100
        return np.where(candidate.rows[column] == value, wrong, predicted)

    fails = altered(candidate, fail_there)
    assert f"{column} {value}" in refused(slices.check(fails, limits))


@pytest.mark.practice("model-behaviour-tests")
def test_behaviour_refuses_a_model_that_has_learned_the_wrong_direction(candidate: Candidate, limits: Release) -> None:
    findings = behaving.check(candidate, limits)
    assert refused(findings) == []
    kinds = {kind for kind in ("invariance", "direction", "minimum") for one in findings if one.what.startswith(kind)}
    assert kinds == {"invariance", "direction", "minimum"}
    told = refused(behaving.check(altered(candidate, mirrored), limits))
    assert [name for name in told if name.startswith("direction")]
    assert [name for name in told if name.startswith("minimum")]


@pytest.mark.practice("model-behaviour-tests")
def test_behaviour_refuses_a_model_that_depends_on_what_must_not_matter(candidate: Candidate, limits: Release) -> None:
    at_random = np.random.default_rng(0).random
    moody = altered(candidate, lambda rows, predicted: predicted * (0.5 + at_random(len(predicted)) / 2))
    assert [name for name in refused(behaving.check(moody, limits)) if name.startswith("invariance")]


@pytest.mark.practice("model-behaviour-tests")
def test_behaviour_that_is_not_tested_is_refused(
    candidate: Candidate, limits: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in behaving.of_kind(FLIGHTS, "direction"):
        monkeypatch.delattr(behaviour, name)
    assert refused(behaving.check(candidate, limits)) == ["direction"]


@pytest.mark.practice("fairness-assessment")
def test_fairness_refuses_a_planted_bias(candidate: Candidate, limits: Release) -> None:
    assert refused(fairness.check(candidate, limits)) == []
    group = behaviour.groups(candidate.rows).iloc[:, 0]
    raised = (group == group.value_counts().index[0]).to_numpy()
    biased = altered(candidate, lambda rows, predicted: predicted + BIAS * raised)
    assert f"bias by {group.name} differs" in refused(fairness.check(biased, limits))


@pytest.mark.practice("fairness-assessment")
def test_fairness_refuses_when_there_are_no_two_groups_to_compare(candidate: Candidate, limits: Release) -> None:
    asked = limits.fairness.model_copy(update={"rows": len(candidate.rows)})
    findings = fairness.check(candidate, limits.model_copy(update={"fairness": asked}))
    assert findings and not any(one.passed for one in findings)


@pytest.fixture
def agreed(candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The contract that `export-contract` writes, in a folder of the test's own."""
    assert candidate.note
    monkeypatch.chdir(tmp_path)
    assert main(["export-contract"]) == 0
    return json.loads(Path("contracts/model.schema.json").read_text())


@pytest.mark.practice("model-io-contract")
def test_contract_takes_what_consumers_send_and_refuses_without_one(
    agreed: dict, candidate: Candidate, limits: Release
) -> None:
    assert refused(contract.check(candidate, limits)) == []
    shutil.rmtree("contracts")
    assert refused(contract.check(candidate, limits)) == ["consumers"]
    assert main(["export-contract", "--check"]) == 3


@pytest.mark.practice("model-io-contract")
def test_contract_refuses_each_change_that_breaks_a_consumer(
    agreed: dict, candidate: Candidate, limits: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(iter(agreed["input"]["required"]))
    sends_more, leaves_out, sends_list, reads_other, expects_less = (copy.deepcopy(agreed) for _ in range(5))
    sends_more["input"]["properties"]["colour"] = {"type": "string"}
    leaves_out["input"]["required"].remove(name)
    sends_list["input"]["properties"][name] = {"type": "array"}
    reads_other["output"]["properties"] = {"score": {"type": "number"}}
    expects_less["output"]["properties"][model.OUTPUT] |= {"maximum": 0.5}
    cases = [
        (sends_more, "colour is sent and no longer taken"),
        (leaves_out, f"{name} is needed and may be left out"),
        (sends_list, f"{name} takes less than is sent"),
        (reads_other, "score is read and no longer given"),
        (expects_less, f"{model.OUTPUT} gives more than is expected"),
    ]
    for consumer, why in cases:
        Path("contracts/consumer.json").write_text(json.dumps(consumer))
        first, second = contract.check(candidate, limits)
        assert (first.what, first.passed) == ("consumer.json", False) and why in first.found
        assert second.passed, "the others' contracts hold"
        assert main(["export-contract", "--check"]) == 3
        assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inner", "outer", "fits"),
    [
        ({"type": "integer"}, {"type": "number"}, True),
        ({"type": "number"}, {"type": "string"}, False),
        ({"type": "number", "minimum": 0, "maximum": 5}, {"type": "number", "minimum": 0}, True),
        ({"type": "number", "minimum": 0}, {"type": "number", "minimum": 0, "maximum": 5}, False),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, True),
        ({"enum": ["a", "b"]}, {"const": "a"}, False),
        ({"enum": ["a", "b"]}, {"type": "string"}, True),
        ({"type": "string"}, {"enum": ["a", "b"]}, False),
        ({"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, True),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}, False),
        ({"enum": [7]}, {"type": "number", "maximum": 5}, False),
        ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 3}, True),
        ({"type": "string", "maxLength": 4}, {"type": "string", "maxLength": 3}, False),
        ({"type": "string"}, {"type": "string", "maxLength": 1000}, True),
        ({"type": "string"}, {"type": "string", "maxLength": 999}, False),
        ({"const": "abc"}, {"type": "string", "maxLength": 3}, True),
        ({"const": "abcd"}, {"type": "string", "maxLength": 3}, False),
    ],
)
def test_a_schema_fits_when_each_of_its_values_does(inner: dict, outer: dict, fits: bool) -> None:
    assert contract.within(inner, outer) is fits


def test_parity_holds_and_writes_the_fast_path(candidate: Candidate, limits: Release) -> None:
    assert refused(parity.check(candidate, limits)) == []
    inputs = candidate.opened.features.build(candidate.rows[candidate.columns])
    fast = fast_path.FastPath((candidate.folder / "model.onnx").read_bytes())
    np.testing.assert_allclose(fast.predict(inputs), candidate.predicted, rtol=1e-5, atol=1e-5)


def test_parity_refuses_a_service_that_prepares_rows_another_way(
    candidate: Candidate, limits: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Contract.table
    monkeypatch.setattr(Contract, "table", lambda self, rows: prepared_otherwise(table(self, rows)))
    assert refused(parity.check(candidate, limits)) == ["served against offline"]
    assert not (candidate.folder / "model.onnx").exists()


def prepared_otherwise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ROWS with each missing number as 0, as somebody thought it should be."""
    return rows.apply(lambda column: column.fillna(0) if column.dtype == "float64" else column)


@pytest.mark.parametrize("fault", ["unknown estimator", "other thresholds"])
def test_a_model_that_onnx_cannot_reproduce_is_served_by_scikit_learn(
    fault: str, candidate: Candidate, limits: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "unknown estimator":
        monkeypatch.setattr(candidate.opened, "fitted", object())
    else:
        predict = fast_path.FastPath.predict
        monkeypatch.setattr(fast_path.FastPath, "predict", lambda self, inputs: predict(self, inputs) + 1e-3)
    finding = parity.convert(candidate, limits.parity.fast_path)
    assert finding.passed and finding.found.startswith("sklearn")
    assert not (candidate.folder / "model.onnx").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rows, predicted: np.where(np.arange(len(predicted)) == 3, np.nan, predicted), "predictions"),
        (lambda rows, predicted: predicted + 10_000, "predictions"),
        (lambda rows, predicted: np.full(len(predicted), 0.3), "distinct predictions"),
        (lambda rows, predicted: predicted * 0.5 + predicted[0] * 0.1, "another order of rows"),
        (lambda rows, predicted: np.where(rows.isna().any(axis=1), np.inf, predicted), "odd rows"),
    ],
)
def test_sanity_refuses_predictions_that_cannot_be(
    change: Change, what: str, candidate: Candidate, limits: Release
) -> None:
    assert refused(sanity.check(candidate, limits)) == []
    assert what in refused(sanity.check(altered(candidate, change), limits))


@pytest.mark.practice("footprint-budget")
def test_footprint_refuses_what_is_too_large_or_too_slow(candidate: Candidate, limits: Release) -> None:
    budget = dict.fromkeys(("file_mb", "memory_mb", "p99_ms"), 0.001)
    tight = limits.model_copy(update={"footprint": limits.footprint.model_copy(update=budget)})
    assert refused(footprint.check(candidate, tight)) == [
        "model file",
        "memory of a serving process",
        "processor time of one row",
    ]


@pytest.fixture
def only_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One gate, the fastest, stands in for all."""
    monkeypatch.setattr(judgement, "gate_names", lambda project: ["slices"])


def test_a_gate_that_breaks_finds_nothing_or_is_gone_is_a_refusal(
    candidate: Candidate, limits: Release, only_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> list[Finding]:
        raise RuntimeError("no such thing")

    alone = limits.model_copy(update={"gates": ["slices"]})
    assert refused(judgement.run_gates(candidate, alone)) == []
    monkeypatch.setattr(slices, "check", broken)
    [finding] = judgement.run_gates(candidate, alone)
    assert not finding.passed and "no such thing" in finding.found
    monkeypatch.setattr(slices, "check", lambda *_: [])
    assert refused(judgement.run_gates(candidate, alone)) == ["the gate"]
    gone = limits.model_copy(update={"gates": ["taken_away"]})
    assert "taken_away: the gate: not judged" in str(judgement.run_gates(candidate, gone)[0])


def test_no_rows_to_judge_by_is_a_refusal(
    candidate: Candidate, limits: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate.__dict__["splits"] = candidate.splits | {"test": candidate.splits["test"].head(0)}
    for name in ("rows", "predicted", "baseline"):
        candidate.__dict__.pop(name)
    judging = ["quality", "slices", "behaviour", "fairness", "parity", "sanity"]
    monkeypatch.setattr(judgement, "gate_names", lambda project: judging)
    findings = judgement.run_gates(candidate, limits.model_copy(update={"gates": judging}))
    assert {one.gate for one in findings if not one.passed} == set(judging)
    assert {one.found for one in findings} == {"not judged: there are no held-out rows to judge by"}


# the command


@pytest.fixture
def made(workplace: Path, run: Any, git: Any) -> Any:
    """Version 1, registered in `workplace`, as the registry has it, with a contract that its consumers agreed on."""
    limit("quality.resamples", 100)
    limit("parity.rows", 20)
    git("commit", "--all", "--quiet", "--message", "Judge faster")
    result = run("train", "--json")
    run("export-contract")
    return look_up(result["model"], result["version"])


def look_up(name: str, version: str = "1") -> Any:
    return tracking.find_version(tracking.open_store(FLIGHTS)[1], name, version)


def limit(key: str, value: Any) -> None:
    """Write VALUE over KEY of conf/release.yml."""
    file = Path("conf/release.yml")
    content = yaml.safe_load(file.read_text())
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    place[last] = value
    file.write_text(yaml.safe_dump(content))


@pytest.mark.practice("model-behaviour-tests", "release-tests-per-model", "footprint-budget", "compliance-tags")
def test_a_version_that_every_gate_passes_is_tagged_and_its_report_kept(made: Any, run: Any) -> None:
    result = run("gate", "1", "--json")
    names = ["quality", "slices", "behaviour", "fairness", "contract", "parity", "sanity", "footprint"]
    assert result["gates"] == dict.fromkeys([*names, *judgement.gate_names(FLIGHTS)], "passed")
    tags = look_up(made.name).tags
    assert (tags["validation_status"], tags["fast_path"]) == ("passed", "onnx")
    assert json.loads(tags["gates"]) == result["gates"]
    _, client = tracking.open_store(FLIGHTS)
    assert {"gates/gates.html", "gates/gates.json", "gates/model.onnx"} <= {
        item.path for item in client.list_artifacts(made.run_id, "gates")
    }
    kept = json.loads(tracking.read_artifact(client, client.get_run(made.run_id), "gates/gates.json"))
    assert kept == result
    page = Path("models/gates/1/gates.html").read_text()
    assert all(f"<h2>{name}: passed</h2>" in page for name in names)


@pytest.mark.practice("offline-ab-evaluation")
def test_the_champion_is_what_production_uses(made: Any, trained: Path) -> None:
    chosen, client = tracking.open_store(FLIGHTS)
    assert Candidate(FLIGHTS, client, chosen.model, "1").champion is None
    Path("environments/prod").mkdir(parents=True)
    shutil.copy(trained.parent / "empty.db", "environments/prod/mlflow.db")
    _, production = environments.open_store(FLIGHTS, "prod")
    production.create_registered_model(made.name)
    copied = production.create_model_version(made.name, "copied", tags={"origin_version": "1"})
    production.set_registered_model_alias(made.name, "champion", copied.version)
    champion = Candidate(FLIGHTS, client, chosen.model, "1").champion
    assert (
        champion is not None
        and champion.version == "1" == judgement.in_use(FLIGHTS)
        and judgement.in_use(FLIGHTS, "test") is None
    )


@pytest.mark.practice("compliance-tags", "offline-ab-evaluation")
def test_a_refused_version_says_so_with_exit_3(made: Any, run: Any, only_slices: None) -> None:
    limit("gates", ["slices", "quality"])
    limit("quality.rows", 10_000_000)
    told = run("gate", "1", exit_code=3)
    assert "quality: held-out rows" in told and "must be 10,000,000 or more" in told
    assert look_up(made.name).tags["validation_status"] == "refused"
    assert "quality: refused" in Path("models/gates/1/gates.html").read_text()


@pytest.mark.practice("compliance-tags")
def test_an_override_takes_the_role_and_is_recorded(made: Any, run: Any, only_slices: None, git: Any) -> None:
    limit("gates", ["slices"])
    limit("slices.rows", 10_000_000)
    words = ("gate", "1", "--override", "slices", "--reason", "the fair is over, agreed with operations")
    prod = Path("conf/environments/prod.yml")
    prod.write_text(yaml.safe_dump(yaml.safe_load(prod.read_text()) | {"may": {"override": ["engineer"]}}))
    Path("conf/roles.yml").write_text("roles:\n  engineer:\n    people: [grace@example.org]\n    may: [promote]\n")
    assert "ada@example.org may not override" in run(*words, exit_code=3)
    assert "validation_status" not in look_up(made.name).tags
    git("config", "user.email", "Grace@Example.org")
    assert "is not what the last commit says" in run(*words, exit_code=1)
    git("commit", "--quiet", "--all", "--message", "Say who may")
    git("config", "user.email", "grace@example.org")
    assert "is overridden (slices)" in run(*words)
    tags = look_up(made.name).tags
    assert tags["validation_status"] == "overridden"
    assert json.loads(tags["gate_overrides"]) == {
        "slices": {"by": "grace@example.org", "reason": "the fair is over, agreed with operations"}
    }
    run("gate", "1", exit_code=3)
    assert look_up(made.name).tags["validation_status"] == "refused", "an override is for one judgement"
    assert "--reason" in run("gate", "1", "--override", "slices", exit_code=2)
    assert "no gate 'luck'" in run("gate", "1", "--override", "luck", "--reason", "x", exit_code=2)


def test_a_version_whose_files_are_gone_is_refused(made: Any, run: Any) -> None:
    for file in Path("mlruns").rglob("model.skops"):
        file.unlink()
    told = run("gate", "1", exit_code=3)
    assert "quality: the gate: not judged" in told
    assert look_up(made.name).tags["validation_status"] == "refused"


@pytest.mark.practice("registry-event-triggers")
def test_registering_a_version_gates_it_exactly_once(made: Any, run: Any, only_slices: None) -> None:
    limit("gates", ["slices"])
    run("train", "--set", "parameters.max_iter=20")
    assert [one["version"] for one in run("on-register", "--json")] == ["1", "2"]
    assert run("on-register", "--json") == []
    assert {judgements(made.name, version) for version in ("1", "2")} == {1}


def judgements(name: str, version: str) -> int:
    _, client = tracking.open_store(FLIGHTS)
    return len(client.list_artifacts(look_up(name, version).run_id, "gates/history"))


@pytest.mark.practice("registry-event-triggers")
def test_a_refusal_on_registering_is_exit_3(made: Any, run: Any, only_slices: None) -> None:
    limit("gates", ["slices"])
    limit("slices.rows", 10_000_000)
    assert "refused: version 1" in run("on-register", exit_code=3)


@pytest.mark.practice("registry-event-triggers")
def test_a_gating_that_was_killed_is_done_again(
    made: Any, run: Any, only_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> list[Finding]:
        raise KeyboardInterrupt

    limit("gates", ["slices"])
    with monkeypatch.context() as patch:
        patch.setattr(slices, "check", killed)
        run("on-register", exit_code=130)
    assert "validation_status" not in look_up(made.name).tags
    assert [one["status"] for one in run("on-register", "--json")] == ["passed"]
    with monkeypatch.context() as patch:
        patch.setattr(slices, "check", killed)
        run("gate", "1", exit_code=130)
    assert "validation_status" not in look_up(made.name).tags, "nobody knows any more that it passes"


@pytest.mark.practice("registry-event-triggers", "compliance-tags")
def test_a_version_that_passed_must_pass_again_when_it_is_judged_again(
    made: Any, run: Any, only_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    limit("gates", ["slices"])
    run("gate", "1")
    limit("slices.rows", 10_000_000)
    monkeypatch.setattr(tracking, "announce", killed)  # on the way to the audit log
    run("gate", "1", exit_code=130)
    assert "validation_status" not in look_up(made.name).tags


@pytest.mark.practice("registry-event-triggers")
def test_two_at_once_gate_a_version_once(
    made: Any, run: Any, only_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, begun, go_on = slices.check, threading.Event(), threading.Event()

    def slow(*given: Any) -> list[Finding]:
        begun.set()
        assert go_on.wait(60)
        return check(*given)

    limit("gates", ["slices"])
    monkeypatch.setattr(slices, "check", slow)
    codes: list[int] = []
    first = threading.Thread(target=lambda: codes.append(main(["on-register"])))
    first.start()
    assert begun.wait(60)
    assert run("on-register", "--json") == []
    go_on.set()
    first.join(60)
    assert codes == [0]
    assert judgements(made.name, "1") == 1
