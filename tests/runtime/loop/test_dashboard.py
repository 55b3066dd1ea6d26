"""The dashboard page joins all stores, and the service's metrics carry what the alert rules read."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from flight_delays import data
from flight_delays.__main__ import main
from mlops_ladder.core import settings
from mlops_ladder.loop import feedback, monitor, prediction_log, signals
from projects import FLIGHTS, ROOT
from prometheus_client.parser import text_string_to_metric_families

UNTIL = datetime(2013, 4, 10)
PROJECT = ROOT


@pytest.mark.practice("central-dashboard", "cost-utilisation-monitoring")
def test_one_page_joins_traffic_quality_versions_and_cost_of_several_projects(workplace: Path, run: Any) -> None:
    run("train", "--json")
    run("promote", "1", "--reason", "the first")
    log = prediction_log.open_log(FLIGHTS)
    moments = [UNTIL - timedelta(hours=i) for i in range(1, 61)]
    log.write(
        [{"request_id": f"r{i}", "at": at, "version": "1", "prediction": 0.25, "seconds": 0.004 if i else 0.5, "inputs": {}}
         for i, at in enumerate(moments)],
        [{"at": moments[0], "version": "1", "status": 500}] * 2,
    )  # fmt: skip
    log.write([{"request_id": f"r{i}", "at": at, "version": "2", "arm": "shadow", "prediction": 0.9, "inputs": {}}
               for i, at in enumerate(moments)])  # fmt: skip
    feedback.add_labels(log, [{"request_id": f"r{i}", "row": 0, "label": i % 2, "at": UNTIL} for i in range(60)])
    report("decay", True, "2013-04-09 12:00:00")
    first = run("dashboard", "--until", "2013-04-10", "--days", "10000", "--json")
    assert [day["day"] for day in first["daily"]] == ["2013-04-07", "2013-04-08", "2013-04-09"]
    assert [day["rows"] for day in first["daily"]] == [12, 24, 24]
    assert first["daily"][-1]["p50_ms"] == pytest.approx(4, rel=0.1) and first["daily"][-1]["p99_ms"] == pytest.approx(
        500, rel=0.1
    )
    loss = (0.25**2 + 0.75**2) / 2 if data.PROBLEM == "classification" else 0.5
    assert first["daily"][-1]["loss"] == pytest.approx(loss), "of what callers got"
    assert set(first["daily"][-1]["losses"]) == {"1", "2"}
    broken = monitor.REPORTS / "broken.json"
    broken.write_text("{")
    assert "broken.json is no monitoring report" in run("dashboard", exit_code=1)
    broken.unlink()
    [line] = first["models"]
    assert (line["predictions"], line["failed"], line["fired"], line["version"]) == (
        60,
        pytest.approx(2 / 62),
        ["decay"],
        "1",
    )
    assert first["spent_seconds"]["training"] > 0 and line["cost"] > 0
    other = Path("elsewhere/reports")
    other.mkdir(parents=True)
    (other / "dashboard.json").write_text(
        json.dumps({"models": [line | {"model": "another-model", "project": "elsewhere"}]})
    )
    both = run("dashboard", "--until", "2013-04-10", "--days", "10000", "--with", "elsewhere", "--json")
    assert [one["model"] for one in both["models"]] == [line["model"], "another-model"]
    page = Path("reports/dashboard.html").read_text()
    for text in (
        "another-model",
        line["model"],
        "Traffic",
        "Latency",
        "Quality",
        "Drift",
        "Versions",
        "Experiments",
        "Retrainings",
        "Cost of compute",
    ):
        assert text in page
    assert not re.search(r"""(src|href)=|url\(|<script|@import""", page)
    assert main(["dashboard", "--with", "nowhere"]) == 1


@pytest.mark.parametrize("days", ["0", "-3", "1e9", "nan"])
def test_a_span_of_no_days_is_refused(days: str, run: Any) -> None:
    assert "--days is" in run("dashboard", "--days", days, exit_code=2)


def report(name: str, fired: bool, until: str) -> None:
    """Write a monitoring report with one signal."""
    folder = monitor.REPORTS
    folder.mkdir(parents=True, exist_ok=True)
    signal = {"name": name, "kind": "decay", "value": 0.1, "now": 0.6, "threshold": 0.01, "fired": fired, "owner": "data-scientist",
              "runbook": "docs/runbook.md#decay", "action": "retrain"}  # fmt: skip
    told = {"version": "1", "window": {"until": until}, "signals": [signal], "cpu_seconds": 1.5, "file": "x.html"}
    (folder / f"{len(list(folder.iterdir()))}.json").write_text(json.dumps(told))


@pytest.mark.practice("deployed-model-metrics", "alerts")
def test_the_service_exports_what_fired_and_every_metric_that_a_rule_reads(
    handed_over: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(handed_over)
    with serve(handed_over) as (client, _):
        before = metrics(client)
        assert "monitoring_report_timestamp_seconds" in before and not before["monitoring_fired"]
        report("decay", False, "2013-04-09")
        assert [value for _, value in metrics(client)["monitoring_fired"]] == [0]
        report("decay", True, "2013-04-10")
        [(labels, value)] = metrics(client)["monitoring_fired"]
        [(_, written)] = metrics(client)["monitoring_report_timestamp_seconds"]
        (monitor.REPORTS / "broken.json").write_text("{")
        assert metrics(client)["monitoring_report_timestamp_seconds"] == [({}, written)], "a broken one is none"
        client.post("/predict", json=client.get("/model").json()["example"]["row"]).raise_for_status()
        known = metrics(client)
    assert value == 1
    assert labels | {"of": ""} == {"signal": "decay", "of": "", "kind": "decay", "owner": "data-scientist",
                                   "runbook": "docs/runbook.md#decay", "action": "retrain", "version": "1"}  # fmt: skip
    rules = yaml.safe_load((PROJECT / "deploy/monitoring/rules.yml").read_text())
    asked = " ".join(rule["expr"] for group in rules["groups"] for rule in group["rules"])
    panels = json.loads((PROJECT / "deploy/monitoring/grafana.json").read_text())["panels"]
    asked += " ".join(target["expr"] for panel in panels for target in panel["targets"])
    names = set(re.findall(r"\b(?:experiment|http|monitoring|model|predicted|prediction|process)_\w+", asked))
    followed = {"model_followed_timestamp_seconds", "model_swaps_total", "model_failures_total"}  # a file never changes
    followed |= {"experiment_failures_total"}  # nor is anything tried on it
    names -= {"model_version"}  # a label
    assert names - followed <= set(known), "a rule reads what the service does not export"


def metrics(client: httpx.Client) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the samples of each metric that the service exports, and the names of those that have none yet."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        found.setdefault(family.name, [])
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_catalogue_refuses_what_it_does_not_know(workplace: Path) -> None:
    file = Path("conf/monitoring.yml")
    file.write_text(file.read_text().replace("fires: below", "fires: sideways", 1))
    with pytest.raises(Exception, match="signals.*fires"):
        settings.read(FLIGHTS, "monitoring", signals.Monitoring)
