"""The rules that an experiment is judged by, each held against numbers on both sides of its limit; no store, no service."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flight_delays import data, model
from mlops_ladder.loop import experiment, feedback, prediction_log
from mlops_ladder.loop.experiment import Arm, Plan, State, Stop
from projects import FLIGHTS

BINARY = data.PROBLEM == "classification"
STOP = Stop(failures=3, failure_rate=0.1, answer_s=10, slower=2, slow_ms=50, window=4)
HIGHER, LOWER = (next(name for name, up in model.HIGHER_IS_BETTER.items() if up is side) for side in (True, False))


def state(mode: str = "canary", age: timedelta = timedelta(0), **changes: Any) -> State:
    started = experiment.now() - age
    rules = {"metric": LOWER, "margin": 0.01, "effect": 0.02, "alpha": 0.05, "max_days": 7, "stop": STOP}
    who = {"id": "e", "mode": mode, "champion": "1", "challenger": "2", "by": "ada", "reason": "a test"}
    plan = Plan(shares=[0.5], requests=1_000, labels=200)
    return State(**rules | who | {"started": started, "since": started, "plan": plan, "entity": "who"} | changes)


def rows(skill: float, n_rows: int = 400, n_groups: int = 50) -> np.ndarray:
    """Return rows as (prediction, label, group), the better the more SKILL, 0 to 1."""
    number, label = np.arange(n_rows), np.arange(n_rows) // 3 % 2
    predicted = 0.5 + skill * (label - 0.5) * 0.8 + 0.1 * np.sin(7.0 * number)
    return np.column_stack([np.clip(predicted, 0, 1), label, number % n_groups]).astype(float)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Brier score alone stands in for all metrics, as each step takes it for 50 groups of each arm."""
    monkeypatch.setattr(experiment, "measure", lambda _, __, rows: float(((rows[:, 0] - rows[:, 1]) ** 2).mean()))


def decide(ours: float, theirs: float, n_rows: int = 400, mode: str = "canary", **changes: Any) -> tuple[str, str]:
    arms = (Arm(requests=n_rows, rows=rows(skill, n_rows)) for skill in (ours, theirs))
    return experiment.decide(FLIGHTS, state(mode, **changes), *arms)


@pytest.mark.practice("canary-release")
@pytest.mark.parametrize(
    ("failures", "requests", "stopped"), [(3, 27, True), (3, 28, False), (2, 0, False), (30, 270, True), (4, 0, True)]
)
def test_failures_stop_it_when_they_are_many_and_a_large_share(failures: int, requests: int, stopped: bool) -> None:
    why = experiment.broken(STOP, Arm(requests=requests, failures=failures), Arm(requests=1, failures=50))
    assert why == (f"{failures} of {failures + requests} requests failed or took more than 10 s" if stopped else "")


@pytest.mark.practice("canary-release")
@pytest.mark.parametrize(
    ("ours", "theirs", "stopped"),
    [
        ([0.3] * 4, [0.1] * 4, True),
        ([0.3] * 3, [0.1] * 4, False),
        ([0.3] * 4, [0.1] * 3, False),
        ([0.2] * 4, [0.1] * 4, False),
        ([0.201] * 4, [0.1] * 4, True),
        ([0.04] * 4, [0.01] * 4, False),
        ([0.051] * 4, [0.01] * 4, True),
        ([0.3] * 4, [0.3] * 4, False),
        ([0.01] * 97 + [0.3] * 3, [0.01] * 100, False),
        ([0.01] * 90 + [0.3] * 10, [0.01] * 100, True),
    ],
)
def test_slowness_stops_it_when_it_is_felt_and_beyond_the_champions(
    ours: list[float], theirs: list[float], stopped: bool
) -> None:
    why = experiment.broken(STOP, Arm(seconds=np.array(ours)), Arm(seconds=np.array(theirs)))
    assert why.startswith("it is slow: 95 % of its answers take up to") is stopped and bool(why) is stopped


@pytest.mark.practice("live-ab-testing")
def test_what_is_better_wins_what_is_worse_ends_and_what_is_alike_goes_on_to_its_labels(quick: None) -> None:
    result, why = decide(0.9, 0.2, mode="ab")
    assert result == "promoting" and why.startswith(f"it is better: {LOWER} ") and "evidence 1e+06, 20 is proof" in why
    result, why = decide(0.2, 0.9, mode="ab")
    assert result == "aborted" and why.startswith(f"it is worse: {LOWER} ")
    assert decide(0.2, 0.9, n_rows=199)[0] == "aborted", "nobody waits for labels when it is sure"
    assert decide(0.9, 0.2, n_rows=199)[0] == "", "a canary is not promoted before it has its labels"
    alike = {"n_rows": 400, "effect": 1e-9}
    assert decide(0.5, 0.5, mode="ab", **alike)[0] == "aborted"
    assert decide(0.5, 0.5, mode="shadow", **alike)[0] == "passed"
    assert decide(0.5, 0.5, **alike)[0] == "promoting"
    assert decide(0.5, 0.5, n_rows=199, effect=1e-9)[0] == ""
    assert decide(0.5, 0.5, n_rows=200, effect=1e-9)[0] == "promoting"


@pytest.mark.practice("canary-release")
def test_a_step_that_held_is_followed_by_the_next_unless_it_looks_worse_than_the_margin(quick: None) -> None:
    plan = {"plan": Plan(shares=[0.1, 0.5], requests=1_000, labels=200), "effect": 1e-9}
    result, why = decide(0.5, 0.5, **plan)
    assert result == "next" and why.startswith("step 1 held: ") and "40 is proof" in why
    assert decide(0.5, 0.5, step=1, **plan)[0] == "promoting"
    worse = experiment.compare(FLIGHTS, LOWER, rows(0.45), rows(0.5))
    assert worse is not None and worse[0] < 0
    assert decide(0.45, 0.5, margin=-worse[0] * 1.01, **plan)[0] == "next"
    assert decide(0.45, 0.5, margin=-worse[0] * 0.99, **plan)[0] == "aborted"


@pytest.mark.practice("canary-release")
def test_time_ends_only_what_is_not_decided(quick: None) -> None:
    days = timedelta(days=1)
    assert decide(0.5, 0.5, n_rows=100, age=6.9 * days)[0] == ""
    result, why = decide(0.5, 0.5, n_rows=100, age=7.1 * days)
    assert (result, why.partition(":")[0]) == ("aborted", "no decision within 7 days")
    assert decide(0.5, 0.5, age=7.1 * days, effect=1e-9)[0] == "promoting"


@pytest.mark.practice("canary-release")
def test_without_labels_most_of_the_requests_decide_and_failures_are_requests_too() -> None:
    calm = {"plan": Plan(shares=[0.5], requests=100, labels=0)}
    for arm, result in ((Arm(requests=90), "promoting"), (Arm(requests=89), ""), (Arm(89, 1), "promoting")):
        assert experiment.decide(FLIGHTS, state("blue-green", **calm), arm, Arm())[0] == result


@pytest.mark.practice("live-ab-testing")
@pytest.mark.skipif(not BINARY, reason="the rows are of two classes")
@pytest.mark.parametrize("metric", [HIGHER, LOWER])
def test_the_gain_is_above_0_for_what_is_better_whichever_way_the_metric_counts(metric: str) -> None:
    compare = lambda ours, theirs: experiment.compare(FLIGHTS, metric, ours, theirs)
    good, bad = rows(0.9, 100, 20), rows(0.1, 100, 20)
    (gain, error), (back, same_error) = compare(good, bad), compare(bad, good)
    assert gain > 0 and back == -gain and error > 0 and same_error == pytest.approx(error)
    assert compare(good, good) == (0.0, 1e-9)


@pytest.mark.practice("live-ab-testing")
def test_of_too_few_groups_or_rows_nothing_is_said(quick: None) -> None:
    def compare(ours: np.ndarray, theirs: np.ndarray) -> Any:
        return experiment.compare(FLIGHTS, LOWER, ours, theirs)

    enough, few = rows(0.5, 200, experiment.FEWEST), rows(0.5, 200, experiment.FEWEST - 1)
    assert compare(enough, enough) and compare(few, few) is None
    at_least, fewer = rows(0.4, experiment.FEWEST), rows(0.4, experiment.FEWEST - 1)
    assert compare(at_least, enough) and compare(enough, at_least)
    assert compare(fewer, enough) is None and compare(enough, fewer) is None


@pytest.mark.practice("live-ab-testing")
def test_evidence_is_that_of_the_formula_and_never_overflows() -> None:
    assert experiment.likelihood_ratio(2, 1, 1) == pytest.approx(np.exp(1) / np.sqrt(2))
    assert experiment.likelihood_ratio(-2, 1, 1) == experiment.likelihood_ratio(2, 1, 1)
    assert experiment.likelihood_ratio(0, 1, 2) == pytest.approx(1 / np.sqrt(5))
    assert experiment.likelihood_ratio(3, 2, 0.5) == pytest.approx(
        np.sqrt(4 / 4.25) * np.exp(0.25 * 9 / (2 * 4 * 4.25))
    )
    assert np.isfinite(experiment.likelihood_ratio(1e6, 1e-9, 1))


@pytest.mark.practice("canary-release")
def test_an_account_gives_no_more_than_it_holds_and_takes_back_what_was_not_used(workdir: Path) -> None:
    log, plan = prediction_log.open_log(FLIGHTS), Plan(shares=[0.1, 0.5], requests=10, labels=0)
    first, second = (state(plan=plan, step=step) for step in (0, 1))
    for one in (first, second):
        experiment.allow(log, one)
    assert [experiment.take(log, first, n) for n in (4, 4, 4, 1)] == [4, 4, 2, 0]
    assert [experiment.take(log, first, n) for n in (-3, 5)] == [-3, 3]
    assert experiment.take(log, second, 12) == 10, "each step has its own"
    assert experiment.take(log, state(plan=plan, id="another"), 1) == 0, "none was opened"
    experiment.allow(log, first)
    assert experiment.take(log, first, 12) == 10


@pytest.mark.practice("live-ab-testing")
def test_each_arm_is_judged_by_its_own_callers_on_the_same_days(workdir: Path) -> None:
    trial = state("ab", age=timedelta(hours=12))
    sides = {side: [f"N{n}" for n in range(99) if experiment.assigned("e", f"N{n}", 0.5) == side] for side in (0, 1)}
    mine, theirs = sides[1][0], sides[0][0]
    nobody = next(f"q{n}" for n in range(99) if experiment.assigned("e", f"q{n}", 0.5))
    asked = [  # request id, row, arm, version, entity, hours since the step began
        ("a", 0, "challenger", "2", mine, 1.0),
        ("a", 1, "challenger", "2", mine, 1.0),
        ("b", 0, "champion", "1", theirs, 0.5),
        ("late", 0, "champion", "1", theirs, 2.0),
        ("fallen back", 0, "champion", "1", mine, 0.5),
        ("of the other side", 0, "challenger", "2", theirs, 0.5),
        ("before", 0, "champion", "1", theirs, -1.0),
        ("another version", 0, "champion", "3", theirs, 0.5),
        (nobody, 0, "challenger", "2", nobody, 0.5),
        ("not labelled", 0, "challenger", "2", mine, 0.5),
    ]
    log, since = prediction_log.open_log(FLIGHTS), prediction_log.naive(trial.since)
    names = ("request_id", "row", "arm", "version", "entity")
    log.write(
        (
            dict(zip(names, facts, strict=True))
            | {"prediction": 0.5, "seconds": n / 100, "at": since + timedelta(hours=hours)}
            for n, (*facts, hours) in enumerate(asked)
        ),
        [
            {"arm": arm, "version": version, "status": 500, "at": since + timedelta(hours=hours)}
            for arm, version, hours in (
                [("challenger", "2", 1)] * 3 + [("challenger", "2", -1), ("champion", "1", 1), ("champion", "2", 1)]
            )
        ],
    )
    places = [{"request_id": name, "row": row} for name, row, *_ in asked if name != "not labelled"]
    feedback.add_labels(log, [place | {"label": 1.0} for place in places], override=True)
    ours, others = experiment.observe(FLIGHTS, log, trial)
    assert (ours.requests, ours.failures, len(ours.rows), ours.paired) == (2, 3, 2, False)
    assert (others.requests, others.failures, len(others.rows)) == (2, 1, 1)
    assert sorted(ours.seconds) == [0.0, 0.09] and sorted(others.seconds) == [0.02, 0.03]
    assert ours.rows[:, :2].tolist() == [[0.5, 1.0]] * 2
