"""What fires a signal and what only looks like it: each rule held against numbers on both sides of its limit."""

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.loop import signals
from mlops_ladder.loop.signals import Monitoring, Unmeasurable, Watched

RULE = {"owner": "ops", "runbook": "docs/runbook.md#x", "action": "warn", "kind": "volume"}


def watched(source: str, threshold: float, fires: str = "above") -> Watched:
    return Watched(**RULE | {"source": source, "threshold": threshold, "fires": fires})


def conf(**changes: Any) -> Monitoring:
    facts = {"window_days": 7, "label_delay_days": 1, "rows": 100, "confidence": 0.95, "resamples": 10}
    return Monitoring(**facts | {"cpu_hour_price": 0, "signals": {"s": watched("rows", 1)}} | changes)


def one(of: Watched, **seen: Any) -> dict[str, Any]:
    """Return the one value of a signal on what was SEEN."""
    [found] = signals.evaluate("s", of, SimpleNamespace(**seen), conf())  # type: ignore[arg-type]
    return found


@pytest.mark.practice("monitoring-catalogue")
@pytest.mark.parametrize(
    ("fires", "rows", "fired"), [("above", 10, False), ("above", 11, True), ("below", 10, False), ("below", 9, True)]
)
def test_a_value_fires_beyond_its_threshold_and_not_on_it(fires: str, rows: int, fired: bool) -> None:
    found = one(watched("rows", 10, fires), n_rows=rows)
    assert (found["value"], found["fired"], found["owner"], found["threshold"]) == (rows, fired, "ops", 10)


@pytest.mark.parametrize(
    ("fires", "value", "fired"),
    [("above", 2.5, True), ("above", 1.5, False), ("below", -0.5, True), ("below", 0.5, False)],
)
def test_a_value_with_an_interval_fires_when_all_of_it_is_beyond(
    fires: str, value: float, fired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(signals.MEASURES, "certain", lambda *_: [signals.about(value, 0.5, 1, conf())])
    found = one(watched("certain", 1, fires))
    assert found["fired"] is fired and found["low"] < value < found["high"]


def test_an_interval_is_as_wide_as_confidence_and_comparisons_ask() -> None:
    single, many = (signals.about(1.0, 0.1, n, conf()) for n in (1, 10))
    assert single["low"] == pytest.approx(1 - 1.6449 * 0.1, abs=1e-4) and single["high"] == pytest.approx(
        1.1645, abs=1e-4
    )
    assert many["low"] == pytest.approx(1 - 2.5758 * 0.1, abs=1e-4)
    assert signals.about(1.0, float("nan"), 1, conf())["value"] is None


def test_too_few_rows_say_so_and_fire_nothing() -> None:
    signals.need(100, "rows", conf())
    with pytest.raises(Unmeasurable, match=r"99 rows, 100 are needed \(rows in conf/monitoring.yml\)"):
        signals.need(99, "rows", conf())
    found = one(watched("inputs", 0.1), n_rows=99)
    assert (found["value"], found["fired"]) == (None, False) and "99 rows, 100 are needed" in found["why"]
    with pytest.raises(ProjectError, match="s: source nowhere is none of inputs, "):
        one(watched("nowhere", 1))


def test_what_is_counted_is_counted_as_a_share_of_all_that_was_asked() -> None:
    found = one(watched("failures", 0.2), n_requests=8, n_failed=2)
    assert (found["value"], found["rows"], found["fired"]) == (0.2, 10, False)
    assert one(watched("failures", 0.2), n_requests=7, n_failed=2)["fired"]
    assert one(watched("failures", 0.2), n_requests=0, n_failed=1)["value"] == 1
    assert one(watched("failures", 0.2), n_requests=0, n_failed=0)["why"] == "no requests"
    found = one(watched("labelled share", 0.5, "below"), n_settled=10, n_labelled=4)
    assert (found["value"], found["rows"], found["fired"]) == (0.4, 10, True)
    assert one(watched("labelled share", 0.5, "below"), n_settled=0, n_labelled=0)["fired"] is False


def test_age_is_in_days_from_what_was_learned_to_the_newest_row() -> None:
    learned = SimpleNamespace(trained_before=datetime(2026, 1, 1))
    found = one(watched("age", 1.4), newest=datetime(2026, 1, 2, 12), reference=learned)
    assert (found["value"], found["fired"]) == (1.5, True)
    assert one(watched("age", 1.4), newest=None, reference=learned)["why"] == "no predictions"


def test_the_slowest_of_a_hundred_requests_is_told_apart_from_the_usual_ones() -> None:
    def of(*seconds: float) -> np.ndarray:
        return np.bincount(np.searchsorted(signals.SECONDS, seconds), minlength=len(signals.SECONDS) + 1)

    usual = [0.01] * 99
    assert signals.quantile(of(*usual, 5.0), 0.99) == pytest.approx(0.01, rel=0.06)
    assert signals.quantile(of(*usual[:-1], 5.0, 5.0), 0.99) == pytest.approx(5, rel=0.06)
    assert signals.quantile(of(1e9), 0.99) == signals.SECONDS[-1]
    found = one(watched("seconds", 1.0), seconds=of(*usual[:-1], 5.0, 5.0), n_requests=100)
    assert found["fired"] and found["rows"] == 100
    assert one(watched("seconds", 1.0), seconds=of(), n_requests=0)["why"] == "no requests"
