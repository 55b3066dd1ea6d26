"""When a model is trained anew: each trigger fires and does not fire, and what holds it back."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.loop import feedback, triggers
from mlops_ladder.loop.triggers import Hysteresis, Policy, Situation
from projects import FLIGHTS, ROOT

NOW = datetime(2026, 6, 1)
PROJECT = ROOT


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Policy:
    monkeypatch.chdir(PROJECT)
    return triggers.read(FLIGHTS)


@pytest.fixture
def calm(policy: Policy) -> Situation:
    """A month after the first training, in which nothing happened and enough labels came."""
    day = timedelta(days=1)
    return Situation(NOW, "1", NOW - 30 * day, NOW - 31 * day, NOW - day, new_rows=policy.least_rows)


def report(kind: str = "decay", fired: bool = True, version: str = "1", **place: str) -> dict[str, Any]:
    signal = {"name": "roc_auc", "kind": kind, "value": 0.6, "threshold": 0.65, "fired": fired}
    return {"version": version, "signals": [{**signal, "owner": "ops", "runbook": "docs/runbook.md#decay", **place}]}


def daily(*reports: dict[str, Any], hours: float = 24) -> list[dict[str, Any]]:
    """Return REPORTS as they come from day to day, each on the 30 days before it."""
    ends = [NOW + timedelta(hours=hours * number) for number in range(len(reports))]
    windows = [{"since": str(end - timedelta(days=30)), "until": str(end)} for end in ends]
    return [one | {"window": window} for one, window in zip(reports, windows, strict=True)]


def attempt(began: datetime, outcome: str | None = "promoted", cause: str = "decay: roc_auc") -> dict[str, Any]:
    return {"began": began.isoformat(), "outcome": outcome, "triggers": json.dumps([cause]), "before": "1"}


def fired(policy: Policy, now: Situation) -> list[str]:
    return [one.name for one in triggers.decide(FLIGHTS, policy, now).fired]


@pytest.mark.practice("trigger-policy")
def test_nothing_new_fires_nothing(policy: Policy, calm: Situation) -> None:
    verdict = triggers.decide(FLIGHTS, policy, calm)
    assert (verdict.fired, verdict.warned, verdict.go) == ([], [], False)


@pytest.mark.practice("trigger-policy", "metric-triggered-retraining")
@pytest.mark.parametrize(
    ("name", "below", "above"),
    [
        ("new_data", {"new_rows": 19_999}, {"new_rows": 20_000}),
        ("age", {"learned_until": NOW - timedelta(days=120)}, {"learned_until": NOW - timedelta(days=121)}),
        ("schedule", {"trained": NOW - timedelta(days=89)}, {"trained": NOW - timedelta(days=90)}),
    ],
)
def test_an_amount_fires_at_its_limit_and_never_when_it_is_left_out(
    policy: Policy, calm: Situation, name: str, below: dict[str, Any], above: dict[str, Any]
) -> None:
    assert fired(policy, replace(calm, **below)) == []
    assert fired(policy, replace(calm, **above)) == [name]
    assert fired(policy.model_copy(update={name: None}), replace(calm, **above)) == []
    [trigger] = triggers.decide(FLIGHTS, policy, replace(calm, **above)).fired
    amount, _, limit = trigger.why.partition(", ")
    assert limit == f"{amount.partition(' ')[0]} or more"
    assert (trigger.owner, trigger.runbook) == (policy.owner, policy.runbook)


@pytest.mark.practice("trigger-policy", "metric-triggered-retraining")
@pytest.mark.parametrize(
    ("pattern", "fires"),
    [
        ([True], False),
        ([True, True], True),
        ([True, False, True], True),
        ([True, True, False], False),
        ([True, False, False, True], False),
        ([False, False, False], False),
    ],
)
def test_decay_fires_when_it_is_seen_often_enough_and_in_the_newest_report(
    policy: Policy, calm: Situation, pattern: list[bool], fires: bool
) -> None:
    verdict = triggers.decide(FLIGHTS, policy, replace(calm, reports=daily(*(report(fired=one) for one in pattern))))
    assert verdict.go == fires
    assert [(one.name, one.owner, one.runbook) for one in verdict.fired] == fires * [
        ("decay: roc_auc", "ops", "docs/runbook.md#decay")
    ]


@pytest.mark.practice("trigger-policy")
def test_reports_on_another_version_or_another_slice_confirm_nothing(policy: Policy, calm: Situation) -> None:
    assert fired(policy, replace(calm, reports=daily(report(version="0"), report()))) == []
    assert fired(policy, replace(calm, reports=daily(report(slice="JFK"), report(slice="LGA")))) == []
    assert fired(policy, replace(calm, reports=daily(*[report(slice="JFK")] * 2))) == ["decay: roc_auc of JFK"]


@pytest.mark.practice("trigger-policy")
@pytest.mark.parametrize("key", ["name", "kind", "column", "slice"])
def test_another_signal_confirms_nothing(policy: Policy, calm: Situation, key: str) -> None:
    other = report()
    other["signals"][0][key] = "another"
    assert fired(policy, replace(calm, reports=daily(other, report()))) == []
    why = "0.6, beyond the threshold 0.65 in 2 of 2 reports"
    assert triggers.decide(FLIGHTS, policy, replace(calm, reports=daily(report(), report()))).fired[0].why == why


@pytest.mark.practice("trigger-policy")
def test_looking_twice_at_the_same_rows_confirms_nothing(policy: Policy, calm: Situation) -> None:
    assert fired(policy, replace(calm, reports=daily(report(), report(), hours=0.1))) == []
    assert fired(policy, replace(calm, reports=daily(report(), report(), hours=8))) == ["decay: roc_auc"]


@pytest.mark.practice("trigger-policy")
def test_drift_without_decay_warns_and_retrains_only_when_the_policy_says_so(policy: Policy, calm: Situation) -> None:
    drifting = replace(calm, reports=daily(*[report("drift", column="temperature")] * 3))
    verdict = triggers.decide(FLIGHTS, policy, drifting)
    assert (verdict.go, [one.name for one in verdict.warned]) == (False, ["drift: roc_auc of temperature"])
    eager = policy.signals["drift"].model_copy(update={"then": "retrain"})
    assert triggers.decide(FLIGHTS, policy.model_copy(update={"signals": {"drift": eager}}), drifting).go


@pytest.mark.practice("trigger-policy")
def test_decay_that_is_only_reckoned_from_drift_warns(policy: Policy, calm: Situation) -> None:
    reports = daily(*[report()] * 3)
    for one in reports:
        one["signals"][0]["name"] = "expected_decay"
    verdict = triggers.decide(FLIGHTS, policy, replace(calm, reports=reports))
    assert (verdict.go, [one.name for one in verdict.warned]) == (False, ["decay: expected_decay"])


@pytest.mark.practice("trigger-policy")
def test_after_a_retraining_there_is_a_pause(policy: Policy, calm: Situation) -> None:
    due = replace(calm, new_rows=20_000)
    pause = timedelta(hours=policy.cooldown_h)
    soon, later = (replace(due, past=[attempt(NOW - pause + left)]) for left in (timedelta(seconds=1), timedelta(0)))
    assert "ago, the next may after" in str(triggers.decide(FLIGHTS, policy, soon).blocked)
    assert triggers.decide(FLIGHTS, policy, later).go


@pytest.mark.practice("trigger-policy")
def test_pause_and_schedule_count_from_the_last_of_several_retrainings(policy: Policy, calm: Situation) -> None:
    day, due = timedelta(days=1), replace(calm, new_rows=20_000)
    first = attempt(NOW - 150 * day)
    soon = triggers.decide(FLIGHTS, policy, replace(due, past=[first, attempt(NOW - timedelta(hours=1))]))
    assert "the last one began 1:00:00 ago" in str(soon.blocked)
    assert triggers.decide(FLIGHTS, policy, replace(due, past=[first, attempt(NOW - 2 * day)])).go
    old = replace(calm, trained=NOW - 200 * day)
    assert fired(policy, old) == ["schedule"]
    assert fired(policy, replace(old, past=[first, attempt(NOW - 89 * day)])) == []
    assert fired(policy, replace(old, past=[first, attempt(NOW - 90 * day)])) == ["schedule"]


@pytest.mark.practice("trigger-policy")
def test_the_budget_is_what_is_spent_without_asking(policy: Policy, calm: Situation) -> None:
    spent = [attempt(NOW - timedelta(days=2 * one)) for one in range(policy.budget.retrainings, 0, -1)]
    due = replace(calm, new_rows=20_000)
    assert "what the budget allows" in str(triggers.decide(FLIGHTS, policy, replace(due, past=spent)).blocked)
    assert triggers.decide(FLIGHTS, policy, replace(due, past=spent[1:])).go


@pytest.mark.practice("trigger-policy")
def test_what_began_before_the_days_of_the_budget_is_not_spent(policy: Policy, calm: Situation) -> None:
    due, start = replace(calm, new_rows=20_000), NOW - timedelta(days=policy.budget.days)
    past = [attempt(start + timedelta(days=n)) for n in range(policy.budget.retrainings)]
    assert triggers.decide(FLIGHTS, policy, replace(due, past=past)).go, "the first was as many days ago"
    past[0] = attempt(start + timedelta(minutes=1))
    spent = f"{policy.budget.retrainings} in {policy.budget.days:g} days"
    assert spent in str(triggers.decide(FLIGHTS, policy, replace(due, past=past)).blocked)


@pytest.mark.practice("trigger-policy")
def test_too_few_labels_or_a_version_on_trial_hold_it_back(policy: Policy, calm: Situation) -> None:
    due = replace(calm, reports=daily(*[report()] * 2))
    assert triggers.decide(FLIGHTS, policy, due).go
    assert "or more teach something" in str(triggers.decide(FLIGHTS, policy, replace(due, new_rows=10)).blocked)
    assert "version 2 is on trial" in str(triggers.decide(FLIGHTS, policy, replace(due, on_trial="2")).blocked)


@pytest.mark.practice("trigger-policy")
def test_what_does_not_help_is_not_tried_for_ever(policy: Policy, calm: Situation) -> None:
    due, days = replace(calm, reports=daily(*[report()] * 2)), timedelta(days=1)
    past = [attempt(NOW - 9 * days, "refused"), attempt(NOW - 5 * days, "aborted")]
    assert triggers.decide(FLIGHTS, policy, replace(due, past=past[:1])).go
    verdict = triggers.decide(FLIGHTS, policy, replace(due, past=past))
    assert verdict.gave_up and "a person decides" in str(verdict.blocked)
    assert triggers.decide(
        FLIGHTS, policy, replace(due, past=[*past, attempt(NOW - 3 * days, "refused", "by_hand")])
    ).go
    people_helped = replace(due, version="9", reports=daily(*[report(version="9")] * 2), past=past)
    assert triggers.decide(FLIGHTS, policy, people_helped).go, "what did not help version 1 says nothing of version 9"


@pytest.mark.practice("trigger-policy")
def test_only_what_did_not_help_in_a_row_counts(policy: Policy, calm: Situation) -> None:
    due, days = replace(calm, reports=daily(*[report()] * 2)), timedelta(days=1)

    def decide(now: Situation, *outcomes: str) -> triggers.Verdict:
        past = [attempt(NOW - (20 - 5 * n) * days, outcome) for n, outcome in enumerate(outcomes)]
        return triggers.decide(FLIGHTS, policy, replace(now, past=past))

    assert decide(due, "refused", "promoted", "failed").go, "one helped in between"
    verdict = decide(due, "refused", "aborted", "failed")
    assert verdict.gave_up and "the last 3 did not help" in str(verdict.blocked)
    assert "the last 3 did not help" in str(decide(replace(due, on_trial="2"), "refused", "aborted", "failed").blocked)
    assert not decide(calm, "refused", "aborted", "failed").gave_up, "nothing fired"


@pytest.mark.practice("trigger-policy")
def test_an_alert_fires_and_is_held_back_as_any_trigger_is(policy: Policy, calm: Situation) -> None:
    alert = triggers.Trigger("alert: ModelDecay", "it fired", "ops", "docs/runbook.md#decay")
    assert triggers.decide(FLIGHTS, policy, replace(calm, alerts=[alert])).fired == [alert]
    few = triggers.decide(FLIGHTS, policy, replace(calm, alerts=[alert], new_rows=policy.least_rows - 1))
    assert not few.go and f"{policy.least_rows:,} or more teach something" in str(few.blocked)


@pytest.mark.practice("trigger-policy")
def test_an_issue_names_owner_and_runbook(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_URL", raising=False)
    (tmp_path / "conf").symlink_to(PROJECT / "conf")
    monkeypatch.chdir(tmp_path)
    text = triggers.ask_people(FLIGHTS, policy, "It does not help", ["- tried twice"]).read_text()
    assert policy.owner in text and policy.runbook in text and "tried twice" in text
    triggers.ask_people(FLIGHTS, policy, "Nor does this", ["- at the same moment"])
    assert len([*triggers.ISSUES.glob("*.md")]) == 2


@pytest.mark.practice("trigger-policy", "delayed-labels")
def test_labels_of_what_nobody_asked_about_are_no_new_rows(workdir: Path) -> None:
    from mlops_ladder.loop import prediction_log

    log = prediction_log.open_log(FLIGHTS)
    log.write([{"request_id": "r", "key": "asked", "prediction": 0.5}])
    feedback.add_labels(log, [{"key": key, "label": 1.0} for key in ("asked", "not asked", "nor this")])
    assert triggers.labels(triggers.database(FLIGHTS), datetime(2013, 1, 1), "time")[0] == 1


@pytest.mark.practice("trigger-policy", "delayed-labels")
def test_labels_that_came_before_and_rows_without_one_are_no_news(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlops_ladder.loop import prediction_log

    log, hour = prediction_log.open_log(FLIGHTS), timedelta(hours=1)
    asked = prediction_log.now() - 30 * hour
    log.write({"request_id": key, "key": key, "prediction": 0.5, "at": asked} for key in ("early", "late"))
    log.write([{"request_id": "open", "key": "open", "prediction": 0.5, "at": asked + hour}])
    for key, received in (("early", asked + 2 * hour), ("late", asked + 20 * hour)):
        monkeypatch.setattr(feedback, "now", lambda at=received: at)
        feedback.add_labels(log, [{"key": key, "label": 1.0}])
    engine = triggers.database(FLIGHTS)
    assert triggers.labels(engine, asked, None) == (2, asked)
    assert triggers.labels(engine, asked + 10 * hour, None) == (1, asked)
    assert triggers.labels(engine, asked + 20 * hour, None) == (0, asked)


@pytest.mark.practice("trigger-policy")
def test_what_became_of_a_retraining_is_kept_with_it_alone(workdir: Path) -> None:
    engine, asked = triggers.database(FLIGHTS), triggers.Mark.PEOPLE_WERE_ASKED
    facts = {"began": "2026-06-01", "until": "2026-06-01", "triggers": "[]", "why": "why"}
    first, second = (triggers.begin(engine, **facts, before=version) for version in "12")
    for _ in range(2):
        triggers.mark(engine, first, asked)
    triggers.note(engine, second, outcome="refused", seconds=2.5)
    kept = triggers.past(triggers.database(FLIGHTS))
    assert kept == [first, second]
    assert [(one["before"], one["outcome"], one["marks"]) for one in kept] == [
        ("1", None, [asked]),
        ("2", "refused", []),
    ]


@pytest.mark.practice("trigger-policy", "delayed-labels")
def test_a_mistyped_year_does_not_make_the_rows_new(workdir: Path) -> None:
    from mlops_ladder.loop import prediction_log

    log = prediction_log.open_log(FLIGHTS)
    times = [f"2013-06-{day:02}T12:00:00" for day in range(1, 31)] + ["2999-01-01T00:00:00"]
    log.write([{"request_id": time, "key": time, "prediction": 0.5, "inputs": {"time": time}} for time in times])
    feedback.add_labels(log, [{"key": time, "label": 1.0} for time in times])
    assert triggers.labels(triggers.database(FLIGHTS), datetime(2013, 1, 1), "time")[1] == datetime(2013, 6, 30, 12)


@pytest.mark.practice("trigger-policy")
def test_a_database_that_goes_away_meanwhile_is_said_in_a_line(workdir: Path) -> None:
    engine = triggers.database(FLIGHTS)
    assert triggers.past(engine) == []
    for file in Path("data").glob("predictions.db*"):
        file.write_bytes(b"no database" * 1000)
    with pytest.raises(ProjectError, match="retrainings in the prediction log: .* run this again"):
        triggers.past(engine)


@pytest.mark.practice("trigger-policy")
def test_the_newest_reports_are_read_and_one_that_cannot_be_is_an_error(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    three = policy.model_copy(update={"signals": {"decay": Hysteresis(at_least=2, of=3, then="retrain")}})
    read = lambda: triggers.read_reports(FLIGHTS, three, "1", NOW)
    assert read() == []
    triggers.REPORTS.mkdir(parents=True)
    kinds = ["one", "two", "three", "drift", "decay"]
    contents = [{}, *daily(*(report(kind) for kind in kinds), report(version="2"))]
    files = [triggers.REPORTS / f"{NOW + timedelta(days=day):%Y%m%dT%H%M%S}000Z.json" for day in range(-1, 7)]
    for number, (file, content) in enumerate(zip(files[:-1], contents, strict=True)):
        file.write_text(json.dumps(content))
        (triggers.REPORTS / f"{file.stem}-again.json").write_text(json.dumps(content))  # on the same rows: no other
        assert [one["signals"][0]["kind"] for one in read()] == kinds[:number][-3:]
    ahead = triggers.REPORTS / "29990101T000000000Z.json"
    ahead.write_text(json.dumps(report("of a clock that was ahead")))
    assert [one["signals"][0]["kind"] for one in read()] == kinds[-3:]
    files[1].write_text("{}")
    assert len(read()) == 3, "nobody asks about older ones"
    files[-1].write_text("{}")
    with pytest.raises(ProjectError, match="000Z.json is no monitoring report"):
        read()
