"""Each report looked at in Chromium: on a desk, on a phone and in the dark, without network; what is off fails."""

import json
import math
import random
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import browser
import pytest
from mlops_ladder.core import pages
from mlops_ladder.data import validate
from mlops_ladder.loop import charts, dashboard, monitor, simulate
from mlops_ladder.release import gate
from projects import FLIGHTS

START = datetime(2013, 4, 1)
WHY = "decay: 0.0315, beyond the threshold 0.01 in 2 of 3 reports"
HELD = "it held: brier 0.0042 better row by row (standard error 0.0021; a difference is not proven: evidence 0.697, 20 is proof), 881 labelled rows (300 needed), 1,204 requests"


def signal(name: str, kind: str, value: float, fired: bool = False, **more: Any) -> dict[str, Any]:
    facts = {"name": name, "kind": kind, "source": "inputs" if name == "input_drift" else "labels", "value": value,
             "low": value * 0.9, "high": value * 1.1, "threshold": 0.2 if kind == "drift" else 0.01, "fired": fired,
             "owner": "data-scientist", "runbook": f"docs/runbook.md#{kind}", "action": "retrain"}  # fmt: skip
    return facts | more


def reported() -> list[dict[str, Any]]:
    reports = []
    for n in range(18):
        until, wave = START + timedelta(days=15 * (n + 1)), math.sin(n / 3)
        names = ("temperature", "pressure", "visibility", "departure_hour", "plane_age", "plane_built", "origin")
        measured = [
            signal("input_drift", "drift", 0.25 + 0.2 * wave / (i + 1), wave > 0, column=name)
            for i, name in enumerate(names)
        ]
        measured += [signal("prediction_drift", "drift", 0.1 + 0.05 * wave, source="predictions")]
        measured += [signal("decay", "decay", 0.02 - 0.02 * wave, n % 5 == 4, now=0.7 + 0.03 * wave, metric="roc_auc")]
        measured += [signal("slice_decay", "decay", 0.03, True, slice="carrier WN", now=0.66)]
        reports.append({"at": str(until), "window": {"since": str(until - timedelta(days=30)), "until": str(until)},
                        "version": "1", "signals": measured})  # fmt: skip
    return reports


def the_dashboard() -> str:
    """Return the page about a replayed year in which two versions came into use."""
    draw, days = random.Random(0), [START + timedelta(days=n) for n in range(275)]
    daily = []
    for n, day in enumerate(days):
        version, rows = ("1" if n < 105 else "2" if n < 200 else "4"), draw.randint(70, 110)
        trial = {"2": rows // 2} if 95 <= n < 105 else {}
        loss = 0.17 + 0.04 * math.sin(n / 40) + draw.uniform(-0.02, 0.02)
        daily.append({"day": f"{day:%Y-%m-%d}", "rows": rows, "requests": rows, "failures": int(n == 60), "p50_ms": 7.1 + draw.random(),
                      "p99_ms": 18 + 8 * draw.random(), "busy_seconds": rows * 0.008, "versions": {version: rows} | trial,
                      "arms": {"champion": rows} | ({"challenger": rows // 2} if trial else {}), "loss": loss,
                      "losses": {version: loss}})  # fmt: skip
    states = [("1", "was in use", "passed", []), ("2", "was in use", "passed", []), ("3", "refused", "refused", ["slices", "quality"]),
              ("4", "in use", "passed", [])]  # fmt: skip
    versions = [
        {"version": number, "state": state, "gates": gates, "refused_by": by, "started": str(START + timedelta(days=60 * n))[:16],
         "tags": {"by": "demo@example.org", "data": "retraining@a1b2c3d4e5f6"}, "parameters": {"trained_before": "2013-06-01 00:00:00"},
         "metrics": {"test_roc_auc": 0.71 + n / 100, "test_rmse": 40.0}}
        for n, (number, state, gates, by) in enumerate(states)
    ]  # fmt: skip
    tried = [{"started": str(START + timedelta(days=at)), "ended": str(START + timedelta(days=at + 15)), "mode": "canary", "challenger": number,
              "champion": "1", "result": "promoted", "why": HELD, "reason": f"retraining 1: {WHY}"} for number, at in (("4", 185), ("2", 90))]  # fmt: skip
    trained = [{"began": str(START + timedelta(days=at)), "why": WHY, "version": number, "outcome": outcome, "result": result, "seconds": 61.5}
               for at, number, outcome, result in ((90, "2", "promoted", "it is in use"), (150, "3", "refused", "version 3 is refused by slices; `gate 3` says why"),
                                                   (185, "4", "promoted", "it is in use"))]  # fmt: skip
    line = {"project": "demo", "model": "flights-late", "version": "4", "predictions": sum(day["rows"] for day in daily), "failed": 0.0004,
            "p99_ms": 22.4, "loss": 0.186, "fired": ["slice_decay"], "cost": 0.0123, "at": "2026-11-30T10:00:00+00:00"}  # fmt: skip
    told = {"since": str(START), "until": "2014-01-01 00:00:00", "replayed": True, "models": [line], "daily": daily, "reports": reported(),
            "versions": versions, "experiments": tried, "retrainings": trained, "budget": {"retrainings": 6, "days": 30.0, "begun": 1}, "uptime": [],
            "spent_seconds": {"training": 40.0, "retraining": 184.5, "monitoring": 55.0, "answering": 198.0}, "cpu_hour_price": 0.05, "currency": "USD"}  # fmt: skip
    return dashboard.page(FLIGHTS, told)


def the_summary() -> str:
    months = [
        {"month": f"2013-{4 + n:02}", "rows": 2_400 + 10 * n, "frozen": {"roc_auc": 0.72 - 0.01 * n, "brier": 0.18 + 0.004 * n},
         "loop": {"roc_auc": 0.72 - 0.01 * n + 0.012 * max(0, n - 2), "brier": 0.18 + 0.002 * n}, "versions": {"1": 0.4, "2": 0.6} if n > 3 else {"1": 1.0}}
        for n in range(9)
    ]  # fmt: skip
    overall = {"rows": 22_000, "frozen": {"roc_auc": 0.681, "brier": 0.201}, "loop": {"roc_auc": 0.713, "brier": 0.187}}
    tried = [{"began": f"2013-{month}-15T00:00:00", "outcome": outcome, "version": version, "why": WHY, "result": HELD}
             for month, outcome, version in (("07", "promoted", "2"), ("09", "refused", "3"), ("10", "promoted", "4"))]  # fmt: skip
    told = {"frozen_version": "1", "every_days": 15.0, "looped": True, "overall": overall, "months": months, "retrainings": tried,
            "higher_is_better": {"roc_auc": True, "brier": False}, "counts": {"requests answered 200": 22_000},
            "promotions": [{"at": "2013-07-30 00:00:00", "version": "2"}, {"at": "2013-10-30 00:00:00", "version": "4"}], "turns": []}  # fmt: skip
    return simulate.page(told)


def the_gates() -> str:
    found = [
        ("quality", "metrics", True, "roc_auc 0.7312 (baseline 0.5000), brier 0.1861 (baseline 0.2034)",
         "roc_auc 0.6 or more, better than the baseline by 0.1 or more; brier better than the baseline by 0.005 or more (conf/success.yml)"),
        ("slices", "carrier WN", False, "roc_auc 0.5213 on 412 rows", "roc_auc 0.55 or more"),
        ("slices", "carrier UA", True, "roc_auc 0.7011 on 2,012 rows", "roc_auc 0.55 or more"),
        ("contract", "consumers", True, "no contracts/*.json: `export-contract` writes one, agree on it with who calls the model", "agreed with at least one consumer"),
        ("footprint", "memory of a serving process", True, "262 MB", "700 MB or less"),
    ]  # fmt: skip
    findings = [dict(zip(("gate", "what", "passed", "found", "limit"), one, strict=True)) for one in found]
    names = dict.fromkeys(one["gate"] for one in findings)
    result = {"model": "flights-late", "version": "3", "status": "refused", "at": "2026-11-30T10:00:00Z", "by": "demo@example.org",
              "commit": "a1b2c3d4e5f6", "gates": {name: "refused" if name == "slices" else "passed" for name in names}, "overrides": {},
              "questions": {"slices": "Does it hold up in each slice that data.py names, or only on average?"},
              "fast_path": "onnx", "findings": findings}  # fmt: skip
    return gate.page(result)


def the_monitoring() -> str:
    bins = {"bins": ["lowest", "from 2", "from 3"], "before": [0.3, 0.3, 0.4], "now": [0.2, 0.3, 0.5]}
    measured = [
        signal("input_drift", "drift", 0.3, True, column="temperature", **bins),
        signal("decay", "decay", 0.03, True),
    ]
    cause = {"what": "column temperature", "contribution": 0.2, "why": "input_drift 0.3; 20% of what moves predictions"}
    report = {"model": "flights-late", "version": "1", "signals": measured, "causes": [cause], "curve": [(0.1, 0.12), (0.3, 0.28)],
              "window": {"since": "2013-04-01 00:00:00", "until": "2013-05-01 00:00:00", "rows": 2_400, "labelled": 2_100}}  # fmt: skip
    return monitor.page(FLIGHTS, report)


def the_validation() -> str:
    checks = [validate.Check("length", "be 0 or more", "between", False, "3 rows are below", 3, ["row 17: -3", "row 18: -4"]),
              validate.Check("flight_id", "be unique", "unique", True, "all are")]  # fmt: skip
    return validate.page(validate.Report("data/raw", 60_000, "2013-12-31", checks, "a1b2"))


REPORTS = [the_dashboard, the_summary, the_gates, the_monitoring, the_validation]


@pytest.fixture(scope="module")
def opened() -> Iterator[browser.Browser]:
    with browser.Browser() as one:
        yield one


def wrong(opened: browser.Browser, file: Path, width: int, dark: bool = False) -> list[str]:
    """Return what is wrong with the page in FILE; its picture lies beside it."""
    opened.open(file, width, dark)
    opened.picture(file.with_name(f"{file.stem}-{width}{'-dark' * dark}.png"))
    found = opened.errors()
    if not (opened.value("document.title") or "").strip():
        found.append("has no title")
    if over := opened.overflow():
        found.append(f"is {over} pixels wider than the window")
    return found


@pytest.mark.practice("central-dashboard")
@pytest.mark.parametrize("make", REPORTS)
def test_a_report_is_readable_on_a_desk_on_a_phone_and_in_the_dark(make: Any, opened: Any, tmp_path: Path) -> None:
    file = tmp_path / f"{make.__name__}.html"
    file.write_text(make(), encoding="utf-8")
    assert wrong(opened, file, browser.DESK) == []
    assert wrong(opened, file, browser.PHONE) == []
    light = opened.value("getComputedStyle(document.body).backgroundColor")
    assert wrong(opened, file, browser.DESK, dark=True) == []
    assert opened.value("getComputedStyle(document.body).backgroundColor") != light
    held = (
        "[...document.querySelectorAll('.wide')].every(box => box.scrollWidth <= box.clientWidth || box.tabIndex === 0)"
    )
    assert opened.value(held), "what is wider than the page is moved by keyboard too"
    smallest = (
        "Math.min(...[...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect().height), 99)"
    )
    opened.open(file, browser.PHONE)
    assert opened.value(smallest) >= 11, "letters of a chart on a phone, in pixels"


def test_a_page_that_is_off_is_found_out(opened: Any, tmp_path: Path) -> None:
    file = tmp_path / "off.html"
    head = '<meta name="viewport" content="width=device-width"><title> </title>'
    file.write_text(f'{head}<p style="width: 900px">wide</p><img src="http://127.0.0.1:9/x.png">')
    found = wrong(opened, file, browser.PHONE)
    assert "has no title" in found
    assert any("wider than the window" in one for one in found)
    assert "asks for http://127.0.0.1:9/x.png" in found


def test_reports_say_what_people_would(tmp_path: Path) -> None:
    board, summary, gates = the_dashboard(), the_summary(), the_gates()
    assert board.count('class="tile"') == 8 and "2013-04-01 to 2014-01-01 in the time of the replay" in board
    assert "1 of 6" in board and "0.0123 USD" in board and ">refused: slices, quality</td>" in board
    assert "`" not in re.sub(r"<style>.*?</style>", "", board, flags=re.DOTALL)
    assert (
        "0.0320 better than version 1 alone, which would have come to 0.6810" in summary
        and "2 promoted, 1 refused" in summary
    )
    assert summary.count('class="event"') == 4, "two versions came into use, on two charts"
    assert "roc_auc 0.55 or more" in gates and "It may not be released: slices refuses it." in gates
    assert "<code>export-contract</code>" in gates and "or only on average?" in gates


def test_one_moment_is_no_line(tmp_path: Path) -> None:
    told = charts.lines({"version 1": [(START.replace(hour=12), 24.0)]})
    assert "<svg" not in told and "only 2013-04-01 so far: version 1 24" in told
    assert "<svg" in charts.lines({"version 1": [(START, 24.0), (START + timedelta(days=1), 20.0)]})
    assert pages.tiles({"a": 1.0}).count('class="tile"') == 1
    assert json.dumps(charts.label(START, 86_400 * 400.0)) == '"Apr 2013"'
